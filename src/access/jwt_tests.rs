use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use self::issuer::{SigningKey, encode, jwks, seconds};
use super::*;
use crate::actors::clock::now;
use crate::config::{AccessConfig, Config};
use crate::domain::access::{Caller, Scope};
use crate::domain::name::EventName;

#[path = "../../tests/support/jwt.rs"]
mod issuer;

const ALGORITHMS: [&str; 4] = ["HS256", "RS256", "ES256", "EdDSA"];

fn config(dir: &TempDir, keys: &str) -> JwtConfig {
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, keys).expect("a writable folder");
    let AccessConfig { jwt, .. } = Config::default().access;
    JwtConfig { jwks_file: path.display().to_string(), ..jwt }
}

fn verifier(keys: &[&SigningKey]) -> (TempDir, JwtVerifier) {
    let dir = TempDir::new().expect("a folder");
    let verifier = JwtVerifier::new(config(&dir, &jwks(keys))).expect("good keys");
    (dir, verifier)
}

fn verify(verifier: &JwtVerifier, token: &str) -> Result<Arc<Principal>, &'static str> {
    verifier.verify(token, Sha256::digest(token).into(), now())
}

fn claims() -> Value {
    json!({ "sub": "alice", "exp": seconds(60), "scopes": { "publish": ["order.>"] } })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn each_algorithm_is_verified_by_a_key_of_its_own() {
    let keys = ALGORITHMS.map(|algorithm| SigningKey::new(algorithm, algorithm));
    let (_dir, verifier) = verifier(&keys.each_ref());
    for key in &keys {
        let token = key.token(&claims());
        let principal = verify(&verifier, &token).expect(&key.id);
        assert_eq!(principal.name(), "alice");
        let caller = Caller::Known(principal);
        assert!(caller.allows(Scope::Publish, &EventName::parse("order.made").expect("valid")));
        assert!(!caller.has(Scope::Read));
        // The claims or the signature differ in one bit.
        let (message, signature) = token.rsplit_once('.').expect("three parts");
        let forged = with("sub", json!("mallory"));
        let header = message.split('.').next().expect("a header");
        assert_eq!(
            verify(&verifier, &format!("{header}.{}.{signature}", encode(forged.to_string()))),
            Err("its signature is wrong")
        );
        assert!(verify(&verifier, &format!("{message}.AAAA")).is_err());
        assert!(verify(&verifier, &format!("{message}.")).is_err());
    }
}

#[test]
fn a_token_of_another_algorithm_than_the_keys_is_refused() {
    let keys = ALGORITHMS.map(|algorithm| SigningKey::new(algorithm, algorithm));
    let (_dir, verifier) = verifier(&keys.each_ref());
    for key in &keys[1..] {
        let header = |algorithm: &str| json!({ "alg": algorithm, "kid": key.id });
        let mixed_up = key.public_as_secret().token_as(&header("HS256"), &claims());
        assert_eq!(verify(&verifier, &mixed_up), Err("no key fits it"), "{}", key.id);
        for other in ["RS512", "PS256", "ES384", "HS384"] {
            assert!(verify(&verifier, &key.token_as(&header(other), &claims())).is_err(), "{other}");
        }
    }
    for none in ["none", "None", "NONE", ""] {
        let message = format!("{}.{}.", encode(json!({ "alg": none }).to_string()), encode(claims().to_string()));
        assert!(verify(&verifier, &message).is_err(), "{none}");
    }
    let critical = json!({ "alg": "HS256", "kid": "HS256", "crit": ["exp"] });
    assert!(verify(&verifier, &keys[0].token_as(&critical, &claims())).is_err());
}

#[test]
fn the_claims_are_checked() {
    let key = SigningKey::new("a", "HS256");
    let dir = TempDir::new().expect("a folder");
    let mut rules = config(&dir, &jwks(&[&key]));
    (rules.issuer, rules.audience) = ("https://issuer".into(), vec!["events".into(), "other".into()]);
    let verifier = JwtVerifier::new(rules).expect("good keys");
    let good = json!({
        "sub": "a", "exp": seconds(60), "iss": "https://issuer", "aud": ["events", "x"],
        "nbf": seconds(-5), "iat": 1, "jti": "j", "name": "more",
    });
    let principal = verify(&verifier, &key.token(&good)).expect("good");
    assert_eq!(principal.token_id, Some(Identity::TokenId("j".into())));
    // Clocks may differ by 30 s.
    let end = principal.expires_at.expect("an end").0 / 1_000_000;
    assert!((seconds(85)..=seconds(95)).contains(&end), "{end}");
    for (name, value) in [
        ("exp", json!(seconds(-31))),
        ("exp", json!("soon")),
        ("exp", Value::Null),
        ("exp", json!(-1)),
        ("nbf", json!(seconds(40))),
        ("nbf", json!("x")),
        ("iss", json!("https://other")),
        ("iss", json!({})),
        ("iss", Value::Null),
        ("aud", json!("x")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
        ("sub", json!("x".repeat(256))),
        ("jti", json!("")),
        ("scopes", json!({ "publish": ["a..b"] })),
        ("scopes", json!({ "publsh": ["a"] })),
        ("scopes", json!("publish")),
    ] {
        let mut bad = good.clone();
        bad[name] = value.clone();
        assert!(verify(&verifier, &key.token(&bad)).is_err(), "{name}: {value}");
    }
    for name in ["exp", "iss", "aud", "sub"] {
        let mut bad = good.clone();
        bad.as_object_mut().expect("an object").remove(name);
        assert!(verify(&verifier, &key.token(&bad)).is_err(), "without {name}");
    }
}

#[test]
fn an_audience_that_nobody_expects_is_refused() {
    let key = SigningKey::new("a", "EdDSA");
    let (_dir, verifier) = verifier(&[&key]);
    assert!(verify(&verifier, &key.token(&with("aud", json!("somebody else")))).is_err());
}

#[test]
fn what_was_verified_is_remembered_until_it_expires_or_the_keys_change() {
    let (old, new) = (SigningKey::new("old", "EdDSA"), SigningKey::new("new", "EdDSA"));
    let (dir, verifier) = verifier(&[&old]);
    let token = old.token(&claims());
    let first = verify(&verifier, &token).expect("good");
    assert!(Arc::ptr_eq(&first, &verify(&verifier, &token).expect("good")));
    let later = now().plus(Duration::from_secs(3600));
    assert_eq!(verifier.verify(&token, Sha256::digest(&token).into(), later), Err("it has expired"));

    assert_eq!(verify(&verifier, &new.token(&claims())), Err("no key fits it"));
    config(&dir, &jwks(&[&old, &new]));
    verifier.refresh();
    assert!(
        verify(&verifier, &new.token(&claims())).is_ok() && verify(&verifier, &token).is_ok(),
        "both, while rotating"
    );
    for broken in
        ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}"#, r#"{"keys":[{"kty":"EC"}]}"#]
    {
        config(&dir, broken);
        verifier.refresh();
        assert_eq!(verifier.describe(), (vec![Some("old".into()), Some("new".into())], false), "{broken}");
        assert!(verify(&verifier, &token).is_ok(), "the old keys stay");
    }
    std::fs::remove_file(dir.path().join("jwks.json")).expect("removed");
    verifier.refresh();
    assert!(verify(&verifier, &token).is_ok());
    config(&dir, &jwks(&[&new]));
    verifier.refresh();
    assert_eq!(verify(&verifier, &token), Err("no key fits it"), "remembered or not");
    assert_eq!(verifier.describe(), (vec![Some("new".into())], true));
}

#[test]
fn what_is_remembered_is_bounded() {
    let key = SigningKey::new("a", "HS256");
    let (_dir, verifier) = verifier(&[&key]);
    let keys = verifier.keys();
    let principal = verify(&verifier, &key.token(&claims())).expect("good");
    for n in 0..3 * MAX_REMEMBERED {
        let digest = Sha256::digest(n.to_string()).into();
        verifier.remember(digest, Principal::clone(&principal), &keys, now());
    }
    let remembered = verifier.verified.read().expect("not poisoned").len();
    assert!((1..=MAX_REMEMBERED).contains(&remembered), "{remembered}");
}
