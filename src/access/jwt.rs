//! JWTs: verifies the signature and the claims of a token, and remembers the result.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;

use super::crypto;
use super::keys::{Key, KeyFile};
use crate::config::{JwtConfig, ScopesConfig};
use crate::domain::access::{Identity, Principal};
use crate::domain::event::Timestamp;

/// The most verified tokens to remember. Beyond it, expired ones are removed, or all if none has expired.
const MAX_REMEMBERED: usize = 10_000;
/// The shortest time between two reads of the file that are due to an unknown key.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The longest `sub` or `jti`, in bytes.
const MAX_IDENTITY: usize = 255;

/// Verifies JWTs and remembers the valid ones.
pub struct JwtVerifier {
    rules: JwtConfig,
    file: Mutex<(KeyFile, Instant)>,
    keys: RwLock<Arc<Vec<Key>>>,
    /// Valid tokens by their SHA-256. Cleared when the keys change.
    verified: RwLock<HashMap<[u8; 32], Arc<Principal>>>,
    is_file_good: AtomicBool,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    jti: Option<String>,
    exp: f64,
    #[serde(default)]
    scopes: ScopesConfig,
}

impl JwtVerifier {
    /// Reads the keys. The error says what is wrong with the file.
    pub fn new(rules: JwtConfig) -> Result<Self, String> {
        crypto::install();
        let mut file = KeyFile::new(&rules.jwks_file);
        let keys = file.read()?;
        Ok(Self {
            rules,
            file: Mutex::new((file, Instant::now())),
            keys: RwLock::new(Arc::new(keys)),
            verified: RwLock::default(),
            is_file_good: AtomicBool::new(true),
        })
    }

    /// The ids of the keys, and whether the file was usable when it changed last.
    pub fn describe(&self) -> (Vec<Option<String>>, bool) {
        (self.keys().iter().map(|key| key.id.clone()).collect(), self.is_file_good.load(Ordering::Relaxed))
    }

    /// Reads the file if it has changed. If the new content is unusable, the old keys stay in force.
    pub fn refresh(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let path = file.0.path().display().to_string();
        match file.0.read_if_changed() {
            None => {}
            Some(Ok(keys)) => {
                log::info!(file = path.as_str(), keys = keys.len(); "keys of jwts read again");
                // Both locks are held, so that no token verified by old keys is remembered afterwards.
                let mut current = self.keys.write().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(keys);
                self.verified.write().unwrap_or_else(PoisonError::into_inner).clear();
                self.is_file_good.store(true, Ordering::Relaxed);
            }
            Some(Err(reason)) => {
                log::error!(file = path.as_str(), error = reason.as_str(); "keys of jwts unusable, the old ones stay");
                self.is_file_good.store(false, Ordering::Relaxed);
            }
        }
    }

    /// The principal of this token, whose SHA-256 is `digest`. The error says what is wrong and contains no part of the
    /// token.
    pub fn verify(&self, token: &str, digest: [u8; 32], now: Timestamp) -> Result<Arc<Principal>, &'static str> {
        let remembered = self.verified.read().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        if let Some(principal) = remembered {
            return if principal.is_expired(now) { Err("it has expired") } else { Ok(principal) };
        }
        let header = decode_header(token).map_err(|_| "it is neither a known token nor a JWT")?;
        if header.crit.is_some() {
            return Err("it has critical extensions, and none is known");
        }
        let mut keys = self.keys();
        if !keys.iter().any(|key| fits(key, header.kid.as_deref(), header.alg)) {
            self.look_for_new_keys();
            keys = self.keys();
        }
        let mut refusal = "no key fits it";
        for key in keys.iter().filter(|key| fits(key, header.kid.as_deref(), header.alg)) {
            match self.verify_by(token, key) {
                Ok(principal) => return Ok(self.remember(digest, principal, &keys, now)),
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }

    fn verify_by(&self, token: &str, key: &Key) -> Result<Principal, &'static str> {
        let leeway = self.rules.leeway.get().as_secs();
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = leeway;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if !self.rules.issuer.is_empty() {
            validation.set_issuer(&[&self.rules.issuer]);
            required.push("iss");
        }
        if !self.rules.audience.is_empty() {
            validation.set_audience(&self.rules.audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let claims: Claims = decode(token, &key.key, &validation).map_err(|error| reason(&error))?.claims;
        let is_name = |text: &String| (1..=MAX_IDENTITY).contains(&text.len()) && !text.chars().any(char::is_control);
        if !is_name(&claims.sub) || !claims.jti.as_ref().is_none_or(is_name) {
            return Err("its sub or jti is empty, longer than 255 bytes, or has control characters");
        }
        let end = Duration::try_from_secs_f64(claims.exp.round()).unwrap_or(Duration::MAX);
        Ok(Principal {
            identity: Identity::Subject(claims.sub),
            token_id: claims.jti.map(Identity::TokenId),
            grants: claims.scopes.into(),
            expires_at: Some(Timestamp(0).plus(end.saturating_add(Duration::from_secs(leeway)))),
        })
    }

    fn remember(&self, digest: [u8; 32], principal: Principal, by: &Arc<Vec<Key>>, now: Timestamp) -> Arc<Principal> {
        let principal = Arc::new(principal);
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&keys, by) {
            let mut verified = self.verified.write().unwrap_or_else(PoisonError::into_inner);
            if verified.len() >= MAX_REMEMBERED {
                verified.retain(|_, principal| !principal.is_expired(now));
            }
            if verified.len() >= MAX_REMEMBERED {
                verified.clear();
            }
            verified.insert(digest, Arc::clone(&principal));
        }
        principal
    }

    fn keys(&self) -> Arc<Vec<Key>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file, because the key may have been added just now. It does so only once in [`LOOK_INTERVAL`], so that
    /// made-up tokens do not cause reads.
    fn look_for_new_keys(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.1.elapsed() >= LOOK_INTERVAL {
            file.1 = Instant::now();
            drop(file);
            self.refresh();
        }
    }
}

/// Whether a token with this header may be signed by `key`: the algorithm must be that of the key, and the id as well
/// if the token has one.
fn fits(key: &Key, id: Option<&str>, algorithm: Algorithm) -> bool {
    let same_id = match (id, key.id.as_deref()) {
        (Some(wanted), Some(id)) => wanted == id,
        (Some(_), None) => false,
        (None, _) => true,
    };
    same_id && key.algorithm == algorithm
}

fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "its issuer is not the configured one",
        ErrorKind::InvalidAudience => "its audience is not the configured one",
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::MissingRequiredClaim(_) => "a required claim is missing: exp, sub, and iss or aud where configured",
        _ => "its claims cannot be read",
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
