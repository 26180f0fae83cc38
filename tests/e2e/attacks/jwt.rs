//! JSON web tokens: good ones, bad ones, and ones that end while a stream runs.

use std::fs;

use anyhow::{Context, ensure};
use e2e::Secured;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode, get_current_timestamp,
    jwk::{Jwk, JwkSet},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use super::{devices::send, list, refused};

struct Issuer {
    key: EncodingKey,
    public: String,
    set: String,
}

impl Issuer {
    fn new() -> anyhow::Result<Self> {
        let pair = rcgen::KeyPair::generate()?;
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())?;
        let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        let set = serde_json::to_string(&JwkSet { keys: vec![jwk] })?;
        Ok(Self { key, public: pair.public_key_pem(), set })
    }

    fn sign(&self, changes: &Value) -> anyhow::Result<String> {
        let mut claims = json!({
            "sub": "alice", "aud": "telemetry", "iss": "https://issuer.example",
            "exp": get_current_timestamp() + 600, "scope": "read ingest", "devices": ["fern-"],
        });
        for (name, value) in changes.as_object().context("no claims")? {
            claims[name] = value.clone();
        }
        Ok(encode(&Header::new(Algorithm::ES256), &claims, &self.key)?)
    }
}

#[tokio::test]
async fn only_a_whole_and_current_token_of_the_issuer_counts() -> anyhow::Result<()> {
    let (issuer, folder) = (Issuer::new()?, TempDir::new()?);
    let keys = folder.path().join("jwks.json");
    fs::write(&keys, &issuer.set)?;
    let store = Secured::start(&[
        ("AUTH_JWKS_FILE", keys.display().to_string()),
        ("AUTH_JWT_AUDIENCE", "telemetry".to_owned()),
        ("AUTH_JWT_ISSUER", "https://issuer.example".to_owned()),
    ])
    .await?;
    let client = store.client(&issuer.sign(&json!({}))?).await?;
    list(&client).await?;
    ensure!(send(&client, &["fern-1", "moss-1"]).await?.len() == 1);

    let past = get_current_timestamp() - 3600;
    let good = issuer.sign(&json!({}))?;
    let (_, payload) = good.split_once('.').context("no token")?;
    let (payload, _) = payload.split_once('.').context("no token")?;
    let claims = json!({"sub": "alice", "aud": "telemetry", "iss": "https://issuer.example",
        "exp": get_current_timestamp() + 600, "scope": "read"});
    let public = EncodingKey::from_secret(issuer.public.as_bytes());
    for (token, code) in [
        (issuer.sign(&json!({"exp": past}))?, Code::Unauthenticated),
        (issuer.sign(&json!({"aud": "other"}))?, Code::Unauthenticated),
        (issuer.sign(&json!({"iss": "https://other.example"}))?, Code::Unauthenticated),
        (issuer.sign(&json!({"exp": null}))?, Code::Unauthenticated),
        (Issuer::new()?.sign(&json!({}))?, Code::Unauthenticated),
        (format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}."), Code::Unauthenticated),
        (encode(&Header::new(Algorithm::HS256), &claims, &public)?, Code::Unauthenticated),
        (issuer.sign(&json!({"scope": "openid"}))?, Code::PermissionDenied),
    ] {
        let client = store.client(&token).await?;
        refused(list(&client).await, code).with_context(|| token.clone())?;
        ensure!(!store.process.log().iter().any(|line| line.contains(&token)));
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() -> anyhow::Result<()> {
    let (issuer, folder) = (Issuer::new()?, TempDir::new()?);
    let keys = folder.path().join("key.pem");
    fs::write(&keys, &issuer.public)?;
    let store = Secured::start(&[
        ("AUTH_TOKENS_FILE", String::new()),
        ("STORE_CLIENT_CA", String::new()),
        ("AUTH_JWKS_FILE", keys.display().to_string()),
        ("AUTH_JWT_AUDIENCE", "telemetry".to_owned()),
    ])
    .await?;
    // It expired a while ago, but clocks may differ by a minute.
    let nearly = issuer.sign(&json!({"exp": get_current_timestamp() - 55}))?;
    let client = store.client(&nearly).await?;
    let (_, mut watch) = client.watch("fern-1", "").await?;
    let status = watch.message().await.err().context("it goes on")?;
    ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    refused(list(&client).await, Code::Unauthenticated)
}
