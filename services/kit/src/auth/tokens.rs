//! The tokens file: who may do what, by the hash of a token or the name in a certificate.
//!
//! One identity a line: `NAME SCOPES [DEVICE_PREFIXES] sha256:HEX`, or `cert:NAME` in place of the
//! hash. Lists are separated by commas. Several lines may have one name, so that a new token works
//! before the old one is taken out. The hash need not be a slow one: tokens are made by
//! [`mint`], and nobody can guess 256 bits.

use std::{collections::HashMap, fmt, sync::Arc};

use anyhow::{Context, ensure};
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};

use super::identity::{Identity, Scope, Source};

/// What every token begins with, so that one that leaks can be recognised.
const MARK: &str = "tlmt_";
/// The longest name of an identity.
const MAX_NAME_BYTES: usize = 128;

/// What a caller shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The hash of a token.
    Token([u8; 32]),
    /// A name in a certificate.
    Certificate(String),
}

impl Key {
    pub(super) fn of_token(token: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token).as_ref());
        Self::Token(hash)
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("cert:") {
            return (!name.is_empty()).then(|| Self::Certificate(name.to_owned()));
        }
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.is_ascii())?;
        let mut hash = [0; 32];
        for (n, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()?;
        }
        Some(Self::Token(hash))
    }
}

/// A hash is no secret, but need not be in a log either.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::Certificate(name) => f.debug_tuple("Certificate").field(name).finish(),
        }
    }
}

/// All identities of a file.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    identities: HashMap<Key, Arc<Identity>>,
}

impl Tokens {
    pub(super) fn parse(content: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(content).context("it is not UTF-8")?;
        let mut identities = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
            if line.is_empty() {
                continue;
            }
            let within = || format!("line {}", index + 1);
            let (key, identity) = parse_line(line).with_context(within)?;
            let before = identities.insert(key, Arc::new(identity));
            ensure!(before.is_none(), "line {}: the same token or certificate again", index + 1);
        }
        Ok(Self { identities })
    }

    /// A table need not be constant in time: what is looked up is a hash, and nobody can choose that.
    pub(super) fn find(&self, key: &Key) -> Option<&Arc<Identity>> {
        self.identities.get(key)
    }
}

/// Says what is wrong without repeating what may be a secret.
fn parse_line(line: &str) -> anyhow::Result<(Key, Identity)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (name, scopes, devices, key) = match *words.as_slice() {
        [name, scopes, key] => (name, scopes, None, key),
        [name, scopes, devices, key] => (name, scopes, Some(devices), key),
        _ => anyhow::bail!("must be NAME SCOPES [DEVICE_PREFIXES] sha256:HEX (or cert:NAME)"),
    };
    let is_name = name.len() <= MAX_NAME_BYTES && name.bytes().all(|b| b.is_ascii_graphic());
    ensure!(is_name, "a name is at most {MAX_NAME_BYTES} visible ASCII characters");
    let scopes: Result<Vec<Scope>, String> = scopes.split(',').map(str::parse).collect();
    let key = Key::parse(key)
        .context("must end with sha256: and 64 hexadecimal digits, or with cert: and a name")?;
    let devices = devices.map(|devices| devices.split(',').map(str::to_owned).collect::<Vec<_>>());
    ensure!(
        devices.iter().flatten().all(|prefix| !prefix.is_empty()),
        "a prefix of devices must not be empty: leave them out for all devices"
    );
    let identity = Identity {
        name: name.to_owned(),
        scopes: scopes.map_err(anyhow::Error::msg)?,
        devices,
        expires: None,
        source: Source::File(key.clone()),
    };
    Ok((key, identity))
}

/// A new token, and its line for the tokens file.
#[derive(Clone)]
pub struct Minted {
    /// The token, which is nowhere else.
    pub token: String,
    /// The line, from which the token cannot be found out.
    pub line: String,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted").field("line", &self.line).finish_non_exhaustive()
    }
}

/// Makes a token for `name`.
pub fn mint(name: &str, scopes: &[Scope], devices: &[String]) -> anyhow::Result<Minted> {
    let mut random = [0; 32];
    rand::fill(&mut random).map_err(|_| anyhow::anyhow!("the system has no randomness"))?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let token = format!("{MARK}{}", hex(&random));
    let scopes: Vec<_> = scopes.iter().map(ToString::to_string).collect();
    let hash = hex(digest(&SHA256, token.as_bytes()).as_ref());
    let devices = if devices.is_empty() { String::new() } else { devices.join(",") + " " };
    let line = format!("{name} {} {devices}sha256:{hash}", scopes.join(","));
    parse_line(&line)?;
    Ok(Minted { token, line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_is_known_by_its_line() {
        let devices = ["plant-".to_owned(), "fern-".to_owned()];
        let minted = mint("alice", &[Scope::Read, Scope::Admin], &devices).unwrap();
        assert!(!minted.line.contains(&minted.token));
        assert!(!format!("{minted:?}").contains(&minted.token));
        let file =
            format!("# who may\n\n{} # since June\nbridge ingest cert:bridge.local\n", minted.line);
        let tokens = Tokens::parse(file.as_bytes()).unwrap();
        let alice = tokens.find(&Key::of_token(minted.token.as_bytes())).unwrap();
        assert_eq!((alice.name(), alice.devices()), ("alice", Some(&devices[..])));
        assert!(alice.has(Scope::Read) && alice.has(Scope::Admin));
        let bridge = tokens.find(&Key::Certificate("bridge.local".to_owned())).unwrap();
        assert!(
            bridge.has(Scope::Ingest) && !bridge.has(Scope::Read) && bridge.devices().is_none()
        );
        assert!(tokens.find(&Key::of_token(b"other")).is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_the_secret() {
        let hash = "0".repeat(64);
        for (line, said) in [
            ("alice read", "must be NAME"),
            (&format!("alice write sha256:{hash}"), "ingest, read or admin"),
            ("alice read tlmt_secret", "must end with sha256:"),
            ("alice read sha256:zz", "must end with sha256:"),
            ("alice read cert:", "must end with sha256:"),
            (&format!("alice read , sha256:{hash}"), "must not be empty"),
            (&format!("älice read sha256:{hash}"), "visible ASCII"),
            (&format!("a read sha256:{hash}\nb read sha256:{hash}"), "again"),
        ] {
            let error =
                format!("{:#}", Tokens::parse(format!("#\n{line}").as_bytes()).unwrap_err());
            assert!(error.starts_with("line ") && error.contains(said), "{line}: {error}");
            assert!(!error.contains("tlmt_"), "{error}");
        }
    }
}
