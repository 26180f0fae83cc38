//! Tokens that count, and those that do not.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// An issuer: its algorithm, private key and public key in PEM.
fn issuer(algorithm: &'static rcgen::SignatureAlgorithm) -> (rcgen::KeyPair, Keys) {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let keys = Keys::parse(pair.public_key_pem().as_bytes()).unwrap();
    (pair, keys)
}

fn expected() -> Expected {
    Expected { audience: "store".to_owned(), issuer: Some("us".to_owned()) }
}

fn claims() -> Value {
    json!({"sub": "alice", "aud": "store", "iss": "us", "exp": now() + 60, "scope": "read openid"})
}

fn signed(pair: &rcgen::KeyPair, claims: &Value) -> String {
    let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    encode(&Header::new(Algorithm::ES256), claims, &key).unwrap()
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn a_good_token_counts_with_its_scopes_and_devices() {
    let (pair, keys) = issuer(&rcgen::PKCS_ECDSA_P256_SHA256);
    let alice = keys.verify(&signed(&pair, &claims()), &expected()).unwrap();
    assert_eq!((alice.name.as_str(), alice.devices), ("alice", None));
    assert_eq!(alice.scopes, [super::super::Scope::Read]);
    let limited = with("devices", json!(["fern-"]));
    let alice = keys.verify(&signed(&pair, &limited), &expected()).unwrap();
    assert_eq!(alice.devices, Some(vec!["fern-".to_owned()]));
    // Our clocks may differ a little.
    assert!(keys.verify(&signed(&pair, &with("exp", json!(now() - 30))), &expected()).is_ok());
    let audiences = with("aud", json!(["other", "store"]));
    assert!(keys.verify(&signed(&pair, &audiences), &expected()).is_ok());
}

#[test]
fn what_is_wrong_with_a_token_makes_it_worth_nothing() {
    let (pair, keys) = issuer(&rcgen::PKCS_ECDSA_P256_SHA256);
    for (name, value, why) in [
        ("exp", json!(now() - 120), "expired JWT"),
        ("exp", Value::Null, "malformed JWT"),
        ("aud", json!("other"), "JWT for another audience"),
        ("aud", Value::Null, "JWT without exp, aud, sub or iss"),
        ("iss", json!("them"), "JWT of another issuer"),
        ("iss", Value::Null, "JWT without exp, aud, sub or iss"),
        ("sub", json!(""), "JWT with an unusable sub"),
        ("sub", json!("a\nb"), "JWT with an unusable sub"),
        ("nbf", json!(now() + 600), "JWT from the future"),
    ] {
        let mut claims = with(name, value.clone());
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
        let refused = keys.verify(&signed(&pair, &claims), &expected()).unwrap_err();
        assert_eq!(refused, why, "{claims}");
    }
    let (stranger, _) = issuer(&rcgen::PKCS_ECDSA_P256_SHA256);
    let forged = signed(&stranger, &claims());
    assert_eq!(keys.verify(&forged, &expected()).unwrap_err(), "JWT with a wrong signature");
    for garbage in ["", ".", "..", "a.b.c", "ey.ey.ey"] {
        assert!(keys.verify(garbage, &expected()).is_err());
    }
}

/// The two classics: a token that says that it is not signed, and one that is signed with what
/// everyone knows.
#[test]
fn the_algorithm_is_the_keys_and_not_the_tokens() {
    let (pair, keys) = issuer(&rcgen::PKCS_ECDSA_P256_SHA256);
    let good = signed(&pair, &claims());
    let (_, payload) = good.split_once('.').unwrap();
    let (payload, _) = payload.split_once('.').unwrap();
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    assert!(keys.verify(&none, &expected()).is_err());
    let public = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
    let confused = encode(&Header::new(Algorithm::HS256), &claims(), &public).unwrap();
    assert_eq!(keys.verify(&confused, &expected()).unwrap_err(), "no key for this JWT");
}

#[test]
fn a_key_set_may_hold_several_keys_but_no_secret() {
    let (pair, _) = issuer(&rcgen::PKCS_ECDSA_P256_SHA256);
    let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("new".to_owned());
    let (other, _) = issuer(&rcgen::PKCS_ECDSA_P256_SHA256);
    let other = EncodingKey::from_ec_pem(other.serialize_pem().as_bytes()).unwrap();
    let mut old = Jwk::from_encoding_key(&other, Algorithm::ES256).unwrap();
    old.common.key_id = Some("old".to_owned());
    let set = serde_json::to_vec(&JwkSet { keys: vec![old, jwk] }).unwrap();
    let keys = Keys::parse(&set).unwrap();
    for (kid, counts) in
        [(None, true), (Some("new"), true), (Some("old"), false), (Some("x"), false)]
    {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = kid.map(str::to_owned);
        let token = encode(&header, &claims(), &key).unwrap();
        assert_eq!(keys.verify(&token, &expected()).is_ok(), counts, "{kid:?}");
    }
    for bad in [
        r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#,
        r#"{"keys":[]}"#,
        "{}",
        "nothing",
        &pair.serialize_pem(),
    ] {
        assert!(Keys::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn ed25519_keys_are_used_too() {
    let (pair, keys) = issuer(&rcgen::PKCS_ED25519);
    let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
    let token = encode(&Header::new(Algorithm::EdDSA), &claims(), &key).unwrap();
    assert!(keys.verify(&token, &expected()).is_ok());
}
