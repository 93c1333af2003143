//! JWTs as an issuer makes them.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, KeyPair as _};
use ring::{hmac, rand::SystemRandom};
use serde_json::{Value, json};

/// A key of an issuer, for one algorithm.
pub struct SigningKey {
    pub id: String,
    kind: Kind,
}

enum Kind {
    Hs256(Vec<u8>),
    Rs256(Box<signature::RsaKeyPair>),
    Es256(signature::EcdsaKeyPair),
    EdDsa(signature::Ed25519KeyPair),
}

impl SigningKey {
    /// A new key for `algorithm`; for RS256 always the same one, because making one takes long.
    pub fn new(id: &str, algorithm: &str) -> Self {
        let random = SystemRandom::new();
        let kind = match algorithm {
            "HS256" => Kind::Hs256(ring::rand::generate::<[u8; 32]>(&random).expect("randomness").expose().to_vec()),
            "RS256" => {
                let key = signature::RsaKeyPair::from_pkcs8(include_bytes!("rsa-2048.pk8"));
                Kind::Rs256(Box::new(key.expect("a key")))
            }
            "ES256" => {
                let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                let bytes = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
                Kind::Es256(signature::EcdsaKeyPair::from_pkcs8(algorithm, bytes.as_ref(), &random).expect("a key"))
            }
            "EdDSA" => {
                let bytes = signature::Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
                Kind::EdDsa(signature::Ed25519KeyPair::from_pkcs8(bytes.as_ref()).expect("a key"))
            }
            other => panic!("no algorithm {other}"),
        };
        Self { id: id.to_owned(), kind }
    }

    pub fn algorithm(&self) -> &'static str {
        match self.kind {
            Kind::Hs256(_) => "HS256",
            Kind::Rs256(_) => "RS256",
            Kind::Es256(_) => "ES256",
            Kind::EdDsa(_) => "EdDSA",
        }
    }

    /// What verifiers are given: the public part, if there is one.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.kind {
            Kind::Hs256(secret) => json!({ "kty": "oct", "k": encode(secret) }),
            Kind::Rs256(key) => {
                let parts = signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "n": encode(parts.n), "e": encode(parts.e) })
            }
            Kind::Es256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) })
            }
            Kind::EdDsa(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key()) }),
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token of these claims, with the header that belongs to this key.
    pub fn token(&self, claims: &Value) -> String {
        self.token_as(&json!({ "alg": self.algorithm(), "kid": self.id, "typ": "JWT" }), claims)
    }

    /// A token with any header.
    pub fn token_as(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.sign(message.as_bytes())))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.kind {
            Kind::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec(),
            Kind::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature).expect("signed");
                signature
            }
            Kind::Es256(key) => key.sign(&random, message).expect("signed").as_ref().to_vec(),
            Kind::EdDsa(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A secret that verifies HS256, made of the public part: what an attacker has who mixes up algorithms.
    pub fn public_as_secret(&self) -> Self {
        let bytes = match &self.kind {
            Kind::Es256(key) => key.public_key().as_ref().to_vec(),
            Kind::EdDsa(key) => key.public_key().as_ref().to_vec(),
            Kind::Rs256(key) => key.public().as_ref().to_vec(),
            Kind::Hs256(secret) => secret.clone(),
        };
        Self { id: self.id.clone(), kind: Kind::Hs256(bytes) }
    }
}

/// A set of keys, as a file has it.
pub fn jwks(keys: &[&SigningKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Seconds since 1970, `offset` from now.
pub fn seconds(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_secs()).expect("a time before the end of time") + offset
}

/// Base64 as JWTs have it.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
