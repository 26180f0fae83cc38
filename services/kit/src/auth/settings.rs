//! Where it is written who may call a server.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, ensure};
use clap::{ArgAction, Args};

use super::{
    Auth,
    jwt::{Expected, Keys},
    tokens::Tokens,
};
use crate::{lifecycle::Lifecycle, reload::Reloaded};

/// Who may call.
#[derive(Args, Clone, Debug, Default)]
pub struct AuthSettings {
    /// File of the tokens and certificates that may call, one a line, as `telemetry token` prints
    /// them. Read again when it changes.
    #[arg(long, global = true, env = "AUTH_TOKENS_FILE")]
    pub auth_tokens_file: Option<PathBuf>,
    /// File of the public keys whose JSON web tokens may call: a JSON web key set, or one key in PEM.
    /// Read again when it changes.
    #[arg(long, global = true, env = "AUTH_JWKS_FILE")]
    pub auth_jwks_file: Option<PathBuf>,
    /// Audience that JSON web tokens must be for.
    #[arg(long, global = true, env = "AUTH_JWT_AUDIENCE")]
    pub auth_jwt_audience: Option<String>,
    /// Issuer that JSON web tokens must be of [default: whoever has the key].
    #[arg(long, global = true, env = "AUTH_JWT_ISSUER")]
    pub auth_jwt_issuer: Option<String>,
    /// Let anyone call, from other hosts too: true or false.
    #[arg(
        long,
        global = true,
        env = "ALLOW_ANONYMOUS",
        default_value_t = false,
        action = ArgAction::Set
    )]
    pub allow_anonymous: bool,
}

/// What the settings come to.
#[derive(Debug)]
pub struct Opened {
    auth: Auth,
    tokens: Option<Reloaded<Tokens>>,
    keys: Option<Reloaded<Keys>>,
}

impl AuthSettings {
    /// Reads the files, and refuses what would not protect a server on `listen`.
    pub fn open(&self, listen: SocketAddr) -> anyhow::Result<Opened> {
        let audience = self.auth_jwt_audience.clone().filter(|audience| !audience.is_empty());
        let expected = match (&self.auth_jwks_file, audience) {
            (Some(_), Some(audience)) => {
                let issuer = self.auth_jwt_issuer.clone().filter(|issuer| !issuer.is_empty());
                Some(Expected { audience, issuer })
            }
            (Some(_), None) => anyhow::bail!(
                "AUTH_JWKS_FILE needs AUTH_JWT_AUDIENCE, or tokens for other services would count"
            ),
            (None, _) => None,
        };
        let is_closed = self.auth_tokens_file.is_some() || expected.is_some();
        ensure!(
            !(is_closed && self.allow_anonymous),
            "ALLOW_ANONYMOUS=true would leave nothing of AUTH_TOKENS_FILE and AUTH_JWKS_FILE: keep \
             one of them"
        );
        ensure!(
            is_closed || self.allow_anonymous || listen.ip().is_loopback(),
            "{listen} (STORE_LISTEN) can be reached from other hosts, and nobody would be asked who \
             he is: set AUTH_TOKENS_FILE (see `telemetry token`) or AUTH_JWKS_FILE, or \
             ALLOW_ANONYMOUS=true to let anyone in"
        );
        let tokens = self.auth_tokens_file.clone().map(|file| {
            Reloaded::new("tokens", vec![file], |contents| {
                Tokens::parse(contents.first().map(Vec::as_slice).unwrap_or_default())
            })
            .context("AUTH_TOKENS_FILE")
        });
        let tokens = tokens.transpose()?;
        let keys = self.auth_jwks_file.clone().map(|file| {
            Reloaded::new("keys of JSON web tokens", vec![file], |contents| {
                Keys::parse(contents.first().map(Vec::as_slice).unwrap_or_default())
            })
            .context("AUTH_JWKS_FILE")
        });
        let keys = keys.transpose()?;
        let auth = Auth {
            tokens: tokens.as_ref().map(Reloaded::subscribe),
            issuer: keys.as_ref().map(Reloaded::subscribe).zip(expected),
            refused: std::sync::Mutex::default(),
        };
        Ok(Opened { auth, tokens, keys })
    }
}

impl Opened {
    /// Whether callers need not say who they are.
    pub fn lets_anyone_in(&self) -> bool {
        self.auth.lets_anyone_in()
    }

    /// Whether certificates can be known.
    pub fn knows_certificates(&self) -> bool {
        self.tokens.is_some()
    }

    /// What knows whom to let in, while `background` looks after the files.
    pub fn start(self, background: &Lifecycle) -> Arc<Auth> {
        let Self { auth, tokens, keys } = self;
        if let Some(tokens) = tokens {
            background.spawn("tokens", tokens.run(background.token()));
        }
        if let Some(keys) = keys {
            background.spawn("keys", keys.run(background.token()));
        }
        Arc::new(auth)
    }
}
