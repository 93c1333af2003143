//! The keys of JWTs: a JWKS file, which is read again when it changes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// The longest file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// The shortest secret for HS256, in bytes (RFC 7518, section 3.2).
const MIN_SECRET: usize = 32;

/// A key, and the only algorithm for which it may be used.
#[derive(Debug)]
pub struct Key {
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// The JWKS file, and its stamp when it was last read.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    seen: Option<FileStamp>,
}

/// The time of the last change, the length and the inode. If they are the same, so is the content.
type FileStamp = (SystemTime, u64, u64);

impl KeyFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keys if the file has changed since the last read. An error is returned once for each change.
    pub fn read_if_changed(&mut self) -> Option<Result<Vec<Key>, String>> {
        let stamp = self.stamp();
        if stamp.is_some() && stamp == self.seen {
            return None;
        }
        let was_gone = self.seen.is_none();
        self.seen = stamp;
        match stamp {
            // A missing file is reported when it disappears, and not again.
            None if was_gone => None,
            _ => Some(self.read()),
        }
    }

    /// Reads the keys whether or not the file has changed.
    pub fn read(&mut self) -> Result<Vec<Key>, String> {
        // The stamp is taken before the read, so that a change during the read causes another one.
        self.seen = self.stamp();
        let too_long = std::fs::metadata(&self.path).is_ok_and(|file| file.len() > MAX_FILE);
        if too_long {
            return Err(format!("is longer than {MAX_FILE} bytes"));
        }
        let bytes = std::fs::read(&self.path).map_err(|error| format!("cannot be read: {error}"))?;
        parse(&bytes)
    }

    fn stamp(&self) -> Option<FileStamp> {
        let file = std::fs::metadata(&self.path).ok()?;
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(&file);
        #[cfg(not(unix))]
        let number = 0;
        Some((file.modified().ok()?, file.len(), number))
    }
}

/// The usable keys of a JWKS. Keys for other purposes are skipped, but at least one must be usable.
fn parse(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|error| format!("is not JSON: {error}"))?;
    let keys = set["keys"].as_array().ok_or("must be an object with a list \"keys\"")?;
    let mut usable = Vec::new();
    let mut reasons = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        match read_key(key) {
            Ok(key) => usable.push(key),
            Err(reason) => reasons.push(format!("keys[{index}] {reason}")),
        }
    }
    if usable.is_empty() {
        return Err(format!(
            "has no usable key: {}",
            if reasons.is_empty() { "it is empty".into() } else { reasons.join("; ") }
        ));
    }
    Ok(usable)
}

/// Reads one key. The error never contains a value, because it may be a secret.
fn read_key(key: &Value) -> Result<Key, &'static str> {
    let jwk: Jwk = serde_json::from_value(key.clone()).map_err(|_| "is not a JWK")?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
        // 2048 bits in base64.
        AlgorithmParameters::RSA(rsa) if rsa.n.len() < 342 => return Err("is an RSA key of less than 2048 bits"),
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return Err("is of a kind that is not supported"),
    };
    let named = jwk.common.key_algorithm.is_none_or(|named| {
        let fitting = match algorithm {
            Algorithm::HS256 => KeyAlgorithm::HS256,
            Algorithm::RS256 => KeyAlgorithm::RS256,
            Algorithm::ES256 => KeyAlgorithm::ES256,
            _ => KeyAlgorithm::EdDSA,
        };
        named == fitting
    });
    if !named {
        return Err("is for an algorithm that is not supported");
    }
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return Err("is not for signatures");
    }
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| "has values that cannot be read")?;
    let is_short = || decoding.try_get_as_bytes().is_ok_and(|secret| secret.len() < MIN_SECRET);
    if algorithm == Algorithm::HS256 && is_short() {
        return Err("is a secret of less than 32 bytes");
    }
    Ok(Key { id: jwk.common.key_id, algorithm, key: decoding })
}
