//! Configured tokens: random texts of which only the SHA-256 is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{TokenConfig, TokenHash};
use crate::domain::access::{Identity, Principal};
use crate::domain::event::Timestamp;
use crate::domain::pattern::Pattern;

/// The prefix of every token, by which people and scanners recognize one.
const TOKEN_PREFIX: &str = "eh_";
/// Random bytes of a token. So many cannot be guessed, although the hash is fast.
const TOKEN_BYTES: usize = 32;
/// The precision of the last use, in microseconds. It keeps most requests from writing to memory that all threads read.
const USE_GRAIN: i64 = 1_000_000;

/// A new token and its hash.
pub fn new_token() -> (String, TokenHash) {
    let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>()));
    let hash = TokenHash(Sha256::digest(&token).into());
    (token, hash)
}

/// The configured tokens.
pub struct TokenTable {
    /// In the order of the configuration.
    entries: Vec<Entry>,
    /// Entries by the first bytes of their hash.
    by_prefix: HashMap<u64, Vec<usize>>,
}

struct Entry {
    hash: [u8; 32],
    principal: Arc<Principal>,
    /// In microseconds; 0 means never.
    last_used: AtomicI64,
}

impl TokenTable {
    pub fn new(tokens: &[TokenConfig]) -> Self {
        let entries: Vec<_> = tokens.iter().map(Entry::new).collect();
        let mut by_prefix: HashMap<u64, Vec<usize>> = HashMap::new();
        for (place, entry) in entries.iter().enumerate() {
            by_prefix.entry(prefix(&entry.hash)).or_default().push(place);
        }
        Self { entries, by_prefix }
    }

    /// Takes over the principals of `old` for tokens that are unchanged, so that they stay the same objects.
    pub fn keeping(mut self, old: &Self) -> Self {
        for entry in &mut self.entries {
            let same = old.entries.iter().find(|old| old.hash == entry.hash && old.principal == entry.principal);
            if let Some(same) = same {
                entry.principal = Arc::clone(&same.principal);
                entry.last_used = AtomicI64::new(same.last_used.load(Ordering::Relaxed));
            }
        }
        self
    }

    /// Whether `principal` belongs to one of these tokens.
    pub fn holds(&self, principal: &Arc<Principal>) -> bool {
        self.entries.iter().any(|entry| Arc::ptr_eq(&entry.principal, principal))
    }

    /// The principal of the token with this SHA-256. The comparison takes constant time, so its duration tells nothing
    /// about a stored hash beyond its first bytes.
    pub fn find(&self, digest: &[u8; 32], now: Timestamp) -> Option<Arc<Principal>> {
        let places = self.by_prefix.get(&prefix(digest))?;
        let entry = places.iter().map(|place| &self.entries[*place]).find(|e| bool::from(e.hash.ct_eq(digest)))?;
        if now.0 - entry.last_used.load(Ordering::Relaxed) >= USE_GRAIN {
            entry.last_used.store(now.0, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.principal))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.principal.name() == name)
    }

    /// Whether any of them opens `/admin`.
    pub fn any_admin(&self) -> bool {
        self.entries.iter().any(|entry| entry.principal.grants.admin)
    }

    /// Names, scopes and last use of all tokens, for operators.
    pub fn describe(&self, now: Timestamp, is_revoked: impl Fn(&Principal) -> bool) -> Vec<Value> {
        let describe = |Entry { hash: _, principal, last_used }: &Entry| {
            let Principal { identity, token_id: _, grants, expires_at } = &**principal;
            let shown = |patterns: &[Pattern]| patterns.iter().map(Pattern::to_string).collect::<Vec<_>>();
            let used = last_used.load(Ordering::Relaxed);
            json!({
                "name": identity.value(),
                "scopes": {
                    "publish": shown(&grants.publish),
                    "subscribe": shown(&grants.subscribe),
                    "read": shown(&grants.read),
                    "admin": grants.admin,
                },
                "expires_at": expires_at.map(|at| at.to_string()),
                "expired": principal.is_expired(now),
                "revoked": is_revoked(principal),
                "last_used_at": (used > 0).then(|| Timestamp(used).to_string()),
            })
        };
        self.entries.iter().map(describe).collect()
    }
}

impl Entry {
    fn new(TokenConfig { name, hash, scopes, expires_at }: &TokenConfig) -> Self {
        let principal = Principal {
            identity: Identity::Token(name.clone()),
            token_id: None,
            grants: scopes.clone().into(),
            expires_at: *expires_at,
        };
        Self { hash: hash.0, principal: Arc::new(principal), last_used: AtomicI64::new(0) }
    }
}

fn prefix(hash: &[u8; 32]) -> u64 {
    hash[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScopesConfig;

    #[test]
    fn a_token_is_found_by_its_hash_and_by_nothing_else() {
        let (token, hash) = new_token();
        assert!(token.starts_with(TOKEN_PREFIX) && token.len() == 46, "{token}");
        let config = |name: &str, hash| TokenConfig {
            name: name.into(),
            hash,
            scopes: ScopesConfig::default(),
            expires_at: None,
        };
        // Another token whose hash begins with the same bytes.
        let mut near = hash;
        near.0[31] ^= 1;
        let table = TokenTable::new(&[config("near", near), config("right", hash)]);
        let found = |digest: &[u8; 32]| table.find(digest, Timestamp(5_000_000)).map(|p| p.name().to_owned());
        assert_eq!(found(&Sha256::digest(&token).into()).as_deref(), Some("right"));
        let mut other = hash.0;
        other[31] ^= 2;
        assert_eq!(found(&other), None);
        let listed = table.describe(Timestamp(0), |_| false);
        assert_eq!(listed[0]["last_used_at"], Value::Null);
        assert!(listed[1]["last_used_at"].is_string());
    }
}
