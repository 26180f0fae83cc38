//! JSON web tokens: signed by an issuer whose public keys we have.
//!
//! Each key is good for one algorithm, its own, whatever a token says in its header.

use std::{collections::HashSet, fmt};

use anyhow::{Context, bail, ensure};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;

use super::identity::{Identity, Source};

/// By how much our clock and the issuer's may differ.
const LEEWAY_S: u64 = 60;
/// The longest name of an identity.
const MAX_NAME_BYTES: usize = 128;

/// What a token must say of itself.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) audience: String,
    pub(super) issuer: Option<String>,
}

/// The issuer's keys.
pub(super) struct Keys {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    public: DecodingKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| (&key.id, key.algorithm));
        f.debug_list().entries(ids).finish()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    scope: String,
    devices: Option<Vec<String>>,
}

impl Keys {
    /// A JSON web key set, or one public key in PEM.
    pub(super) fn parse(content: &[u8]) -> anyhow::Result<Self> {
        let keys = if content.trim_ascii_start().starts_with(b"{") {
            let set: JwkSet = serde_json::from_slice(content).context("no JSON web key set")?;
            let signing =
                |jwk: &&Jwk| !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
            set.keys.iter().filter(signing).map(Key::of_jwk).collect::<Result<Vec<_>, _>>()?
        } else {
            vec![Key::of_pem(content)?]
        };
        ensure!(!keys.is_empty(), "no key is in it");
        Ok(Self { keys })
    }

    /// Who a token stands for; or why it does not count, for our log.
    pub(super) fn verify(
        &self,
        token: &str,
        expected: &Expected,
    ) -> Result<Identity, &'static str> {
        let header = decode_header(token).map_err(|_| "malformed JWT, or an unknown algorithm")?;
        let mut candidates = self.keys.iter().filter(|key| {
            key.algorithm == header.alg
                && (header.kid.is_none() || key.id.is_none() || key.id == header.kid)
        });
        let mut why = "no key for this JWT";
        let claims = candidates.find_map(|key| {
            let validation = validation(key.algorithm, expected);
            match decode::<Claims>(token, &key.public, &validation) {
                Ok(data) => Some(data.claims),
                Err(error) => {
                    why = reason(error.kind());
                    None
                }
            }
        });
        claims.ok_or(why)?.try_into()
    }
}

impl TryFrom<Claims> for Identity {
    type Error = &'static str;

    fn try_from(claims: Claims) -> Result<Self, &'static str> {
        let Claims { sub, exp, scope, devices } = claims;
        let is_name =
            (1..=MAX_NAME_BYTES).contains(&sub.len()) && !sub.chars().any(char::is_control);
        if !is_name {
            return Err("JWT with an unusable sub");
        }
        // What else the issuer grants is not for us.
        let scopes = scope.split(' ').filter_map(|scope| scope.parse().ok()).collect();
        let expires = Some(exp.saturating_add(LEEWAY_S));
        Ok(Self { name: sub, scopes, devices, expires, source: Source::Jwt })
    }
}

impl Key {
    fn of_jwk(jwk: &Jwk) -> anyhow::Result<Self> {
        let id = jwk.common.key_id.clone();
        let within = || format!("key {}", id.as_deref().unwrap_or("without kid"));
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            AlgorithmParameters::OctetKey(_) => {
                bail!("{}: it is symmetric, and whoever could verify could sign", within())
            }
            _ => bail!("{}: only RSA, P-256 and Ed25519 keys are used", within()),
        };
        let stated = jwk.common.key_algorithm.map(|stated| stated.to_string());
        let own = format!("{algorithm:?}");
        ensure!(stated.is_none_or(|stated| stated == own), "{}: is used for {own} only", within());
        let key = DecodingKey::from_jwk(jwk).with_context(within)?;
        Ok(Self { id, algorithm, public: key })
    }

    fn of_pem(content: &[u8]) -> anyhow::Result<Self> {
        let is_private = content.windows(11).any(|window| window == b"PRIVATE KEY");
        ensure!(!is_private, "it is a private key: only the public one is needed here");
        let keys = [
            (Algorithm::RS256, DecodingKey::from_rsa_pem(content)),
            (Algorithm::ES256, DecodingKey::from_ec_pem(content)),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(content)),
        ];
        let usable = keys.into_iter().find_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
        let (algorithm, key) =
            usable.context("neither a JSON web key set nor an RSA, P-256 or Ed25519 public key")?;
        Ok(Self { id: None, algorithm, public: key })
    }
}

fn validation(algorithm: Algorithm, expected: &Expected) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_audience(&[&expected.audience]);
    let mut required = vec!["exp", "aud", "sub"];
    if let Some(issuer) = &expected.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.required_spec_claims =
        required.into_iter().map(str::to_owned).collect::<HashSet<_>>();
    validation
}

/// In our own words: an error could repeat what the caller wrote.
fn reason(error: &jsonwebtoken::errors::ErrorKind) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error {
        ErrorKind::InvalidSignature => "JWT with a wrong signature",
        ErrorKind::ExpiredSignature => "expired JWT",
        ErrorKind::ImmatureSignature => "JWT from the future",
        ErrorKind::InvalidAudience => "JWT for another audience",
        ErrorKind::InvalidIssuer => "JWT of another issuer",
        ErrorKind::MissingRequiredClaim(_) => "JWT without exp, aud, sub or iss",
        _ => "malformed JWT",
    }
}

#[cfg(test)]
mod tests;
