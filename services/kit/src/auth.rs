//! Who may call a server, and what each caller may do.
//!
//! A caller shows a token or the certificate of its connection (`identity`); a token is one of a
//! file (`tokens`) or signed by an issuer (`jwt`). [`Door`] asks every call for it. What a call
//! was refused for is in our log, and not in the answer.

mod identity;
mod jwt;
mod layer;
mod settings;
pub(crate) mod status;
mod tokens;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use self::{
    identity::Source,
    jwt::{Expected, Keys},
    tokens::{Key, Tokens},
};
pub use self::{
    identity::{Identity, Scope},
    layer::{Behind, Door, Guarded, Rule},
    settings::{AuthSettings, Opened},
    tokens::{Minted, mint},
};
use crate::incoming::Certificate;

/// How often a refusal is logged at most.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// How often the wall clock is asked whether an identity has ended: it may have been set meanwhile.
const ASK_EVERY: Duration = Duration::from_mins(1);

/// Knows whom to let in.
#[derive(Debug)]
pub struct Auth {
    tokens: Option<watch::Receiver<Arc<Tokens>>>,
    issuer: Option<(watch::Receiver<Arc<Keys>>, Expected)>,
    refused: Mutex<Refused>,
}

/// What a caller shows.
enum Credentials<'a> {
    /// The authorization that it sent.
    Header(&'a [u8]),
    /// The certificate of its connection, if there is one.
    Certificate(Option<&'a Certificate>),
}

/// For the log.
#[derive(Debug, Default)]
struct Refused {
    logged: Option<Instant>,
    suppressed: u64,
}

impl Auth {
    /// Whether callers need not say who they are.
    pub fn lets_anyone_in(&self) -> bool {
        self.tokens.is_none() && self.issuer.is_none()
    }

    /// Who a caller is; or why nobody we know, for the log.
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Arc<Identity>, &'static str> {
        if self.lets_anyone_in() {
            return Ok(Arc::new(Identity::anyone()));
        }
        match credentials {
            Credentials::Header(header) => {
                let token = bearer(header).ok_or("no single bearer token")?;
                match &self.issuer {
                    Some((keys, expected)) if token.matches('.').count() == 2 => {
                        let keys = Arc::clone(&keys.borrow());
                        keys.verify(token, expected).map(Arc::new)
                    }
                    _ => self.find(&Key::of_token(token.as_bytes())).ok_or("unknown token"),
                }
            }
            Credentials::Certificate(Some(certificate)) => {
                let names = certificate.names.iter();
                let mut known = names.filter_map(|name| self.find(&Key::Certificate(name.clone())));
                let identity = known.next().ok_or("unknown certificate")?;
                let identity =
                    Identity { expires: Some(certificate.expires), ..(*identity).clone() };
                if has_ended(identity.expires) {
                    return Err("expired certificate");
                }
                Ok(Arc::new(identity))
            }
            Credentials::Certificate(None) => Err("neither token nor certificate"),
        }
    }

    fn find(&self, key: &Key) -> Option<Arc<Identity>> {
        self.tokens.as_ref()?.borrow().find(key).cloned()
    }

    /// Waits until an identity has ended: it expired, or is no longer in the file as it was.
    fn ended(&self, identity: Arc<Identity>) -> BoxFuture<'static, ()> {
        let tokens = match identity.source {
            Source::File(_) => self.tokens.clone(),
            Source::Anyone => return std::future::pending().boxed(),
            Source::Jwt => None,
        };
        let end = identity.expires;
        let expiry = async move {
            loop {
                match end.map(left) {
                    None => std::future::pending().await,
                    Some(Duration::ZERO) => return,
                    Some(left) => sleep(left.min(ASK_EVERY)).await,
                }
            }
        };
        async move {
            tokio::select! {
                () = expiry => {}
                () = taken_out(tokens, &identity) => {}
            }
        }
        .boxed()
    }

    /// Says for whom there was no entry, in the log, which nobody can flood with it.
    fn refused(&self, reason: &'static str, address: Option<SocketAddr>, method: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.logged.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            refused.suppressed += 1;
            return;
        }
        refused.logged = Some(Instant::now());
        let suppressed = std::mem::take(&mut refused.suppressed);
        drop(refused);
        let from = address.map(|address| address.to_string());
        tracing::warn!(reason, from, ?method, suppressed, "refused a call");
    }
}

/// Waits until the file no longer has an identity as it was.
async fn taken_out(tokens: Option<watch::Receiver<Arc<Tokens>>>, identity: &Identity) {
    if let (Some(mut tokens), Source::File(key)) = (tokens, &identity.source) {
        let stays = |tokens: &Arc<Tokens>| {
            tokens.find(key).is_some_and(|now| {
                (now.scopes == identity.scopes) && (now.devices == identity.devices)
            })
        };
        if tokens.wait_for(|tokens| !stays(tokens)).await.is_ok() {
            return;
        }
    }
    // Nobody looks at the file any more, as we are stopping; or it is in none.
    std::future::pending::<()>().await;
}

fn has_ended(expires: Option<u64>) -> bool {
    expires.is_some_and(|expires| left(expires).is_zero())
}

/// How long it is until a time in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "an expiry is wall time, said by somebody else")]
fn left(expires: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(expires).saturating_sub(now)
}

/// The token in an authorization header.
fn bearer(header: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
