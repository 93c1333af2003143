//! Authentication and limits: tokens, JWTs, revocations, rate limits.
//!
//! This module finds out who a caller is; [`crate::domain::access`] decides what the caller may do.

pub mod admin_token;
mod crypto;
mod jwt;
mod keys;
pub mod limits;
pub mod node_request;
mod tokens;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::jwt::JwtVerifier;
use self::tokens::TokenTable;
pub use self::tokens::new_token;
use crate::config::AccessConfig;
use crate::domain::access::{Caller, Grants, Identity, Principal};
use crate::domain::event::Timestamp;
use crate::domain::secret::Secret;
use crate::protocol::error::{ApiError, ErrorCode};

/// The longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// Revoked identities, as far as is known.
#[derive(Default)]
struct Revoked {
    identities: HashSet<Identity>,
    /// How often this process has revoked or restored one.
    changes: u64,
}

/// The configured tokens and keys.
struct Known {
    tokens: TokenTable,
    jwt: Option<Arc<JwtVerifier>>,
    admin_token: Secret,
    /// The principal of the admin token.
    operator: Arc<Principal>,
}

/// Authenticates callers. All threads share it.
pub struct AccessControl {
    is_required: AtomicBool,
    known: RwLock<Known>,
    revoked: RwLock<Revoked>,
    /// False until the store has told who is revoked.
    knows_revoked: AtomicBool,
}

impl AccessControl {
    /// Reads the configuration. The error says what is wrong with the file of keys.
    pub fn new(config: &AccessConfig, admin_token: Secret) -> Result<Self, String> {
        let jwt = &config.jwt;
        let known = Known {
            tokens: TokenTable::new(&config.tokens),
            jwt: if jwt.jwks_file.is_empty() { None } else { Some(Arc::new(JwtVerifier::new(jwt.clone())?)) },
            admin_token,
            operator: operator(),
        };
        Ok(Self {
            is_required: AtomicBool::new(config.is_required()),
            known: RwLock::new(known),
            revoked: RwLock::default(),
            knows_revoked: AtomicBool::new(false),
        })
    }

    /// Whether callers need a token.
    pub fn is_required(&self) -> bool {
        self.is_required.load(Ordering::Acquire)
    }

    /// Replaces the tokens and keys by those of `fresh`; revocations stay. A caller whose token was removed or changed
    /// is no longer [admitted](Self::admits).
    pub fn replace(&self, fresh: Self) {
        let is_required = fresh.is_required();
        let fresh = fresh.known.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut known = write(&self.known);
        let is_same_operator = known.admin_token.matches(fresh.admin_token.expose());
        let operator = if is_same_operator { Arc::clone(&known.operator) } else { fresh.operator };
        *known = Known { tokens: fresh.tokens.keeping(&known.tokens), operator, ..fresh };
        self.is_required.store(is_required, Ordering::Release);
    }

    /// Whether a connection that `caller` has opened may stay open.
    pub fn admits(&self, caller: &Caller) -> bool {
        let Caller::Known(principal) = caller else { return !self.is_required() };
        let known = read(&self.known);
        let is_known = match &principal.identity {
            Identity::Token(_) => known.tokens.holds(principal) || Arc::ptr_eq(principal, &known.operator),
            Identity::Subject(_) | Identity::TokenId(_) => known.jwt.is_some(),
        };
        is_known && !self.is_revoked(principal)
    }

    /// Whether any token opens `/admin`. With JWTs this is assumed, because their scopes are unknown.
    pub fn can_administer(&self) -> bool {
        let known = read(&self.known);
        !known.admin_token.is_empty() || known.jwt.is_some() || known.tokens.any_admin()
    }

    /// Sets the admin token, which opens `/admin` and everything else.
    pub fn set_admin_token(&self, token: Secret) {
        let mut known = write(&self.known);
        if !known.admin_token.matches(token.expose()) {
            known.operator = operator();
        }
        known.admin_token = token;
    }

    /// The caller who sent `token`. Where no token is required, everybody is admitted without a look at it.
    pub fn caller(&self, token: Option<&str>, now: Timestamp) -> Result<Caller, ApiError> {
        if self.is_required() { self.authenticate(token, now).map(Caller::Known) } else { Ok(Caller::Anybody) }
    }

    /// The principal who sent `token`, whether or not one is required.
    pub fn authenticate(&self, token: Option<&str>, now: Timestamp) -> Result<Arc<Principal>, ApiError> {
        let token = token.ok_or_else(|| unauthorized("send a token as Authorization: Bearer"))?;
        if token.len() > MAX_TOKEN {
            return Err(unauthorized("the token is too long to be one"));
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = read(&self.known);
        if known.admin_token.matches(token) {
            return Ok(Arc::clone(&known.operator));
        }
        let principal = match (known.tokens.find(&digest, now), &known.jwt) {
            (Some(principal), _) => principal,
            (None, Some(jwt)) => jwt
                .verify(token, digest, now)
                .map_err(|reason| unauthorized(&format!("the token is refused: {reason}")))?,
            (None, None) => return Err(unauthorized("this token is not known")),
        };
        if principal.is_expired(now) {
            return Err(unauthorized("the token is refused: it has expired"));
        }
        if !self.knows_revoked.load(Ordering::Acquire) {
            let message = "the store has not said yet which tokens are revoked";
            return Err(ApiError::transient(ErrorCode::StoreUnavailable, message));
        }
        if self.is_revoked(&principal) {
            return Err(unauthorized("the token is refused: it was revoked"));
        }
        Ok(principal)
    }

    /// Whether an operator has revoked one of the principal's identities.
    pub fn is_revoked(&self, principal: &Principal) -> bool {
        let revoked = &read(&self.revoked).identities;
        !revoked.is_empty() && principal.identities().any(|identity| revoked.contains(identity))
    }

    /// How often this process has changed who is revoked.
    pub fn revocation_changes(&self) -> u64 {
        read(&self.revoked).changes
    }

    /// Takes over who is revoked according to the store, and returns whether that has changed. `as_of` is the number of
    /// changes when the store was asked: its answer is outdated if there was another change since.
    pub fn set_revoked(&self, identities: HashSet<Identity>, as_of: u64) -> bool {
        let mut revoked = write(&self.revoked);
        if revoked.changes != as_of {
            return false;
        }
        let changed = revoked.identities != identities;
        revoked.identities = identities;
        self.knows_revoked.store(true, Ordering::Release);
        changed
    }

    /// Revokes or restores an identity in this process, before the store has it.
    pub fn revoke(&self, identity: Identity, is_revoked: bool) {
        let mut revoked = write(&self.revoked);
        revoked.changes += 1;
        if is_revoked {
            revoked.identities.insert(identity)
        } else {
            revoked.identities.remove(&identity)
        };
    }

    /// Whether a token of this name is configured.
    pub fn knows_token(&self, name: &str) -> bool {
        read(&self.known).tokens.contains(name)
    }

    /// Reads the file of keys if it has changed.
    pub fn refresh_keys(&self) {
        let jwt = read(&self.known).jwt.clone();
        if let Some(jwt) = jwt {
            jwt.refresh();
        }
    }

    /// How many keys JWTs are verified with, and whether their file is usable; `None` without such a file.
    pub fn keys(&self) -> Option<(usize, bool)> {
        read(&self.known).jwt.as_ref().map(|jwt| {
            let (keys, is_good) = jwt.describe();
            (keys.len(), is_good)
        })
    }

    /// The tokens, keys and revocations for operators. It contains no secret.
    pub fn describe(&self, now: Timestamp) -> Value {
        let revoked = &read(&self.revoked).identities;
        let mut listed: Vec<_> = revoked.iter().collect();
        listed.sort();
        let listed: Vec<_> = listed.iter().map(|who| json!({ "kind": who.kind(), "value": who.value() })).collect();
        let known = read(&self.known);
        let jwt = known.jwt.as_ref().map(|jwt| {
            let (ids, is_good) = jwt.describe();
            json!({ "keys": ids, "file_usable": is_good })
        });
        let is_revoked = |principal: &Principal| principal.identities().any(|identity| revoked.contains(identity));
        json!({ "required": self.is_required(), "tokens": known.tokens.describe(now, is_revoked), "jwt": jwt, "revoked": listed })
    }
}

fn operator() -> Arc<Principal> {
    Arc::new(Principal {
        // No configured token can have this name.
        identity: Identity::Token("admin.token".into()),
        token_id: None,
        grants: Grants::everything(),
        expires_at: None,
    })
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message)
}

/// A poisoned lock is used all the same: a panic cannot leave one of these values half changed.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ScopesConfig, TokenConfig};

    const NOW: Timestamp = Timestamp(1_000_000);

    fn control() -> (String, AccessControl) {
        let (token, hash) = new_token();
        let mut config = Config::default().access;
        config.tokens = vec![TokenConfig { name: "a".into(), hash, scopes: ScopesConfig::default(), expires_at: None }];
        (token, AccessControl::new(&config, Secret::new("operator")).expect("no file"))
    }

    fn refusal(control: &AccessControl, token: &str) -> Option<ErrorCode> {
        control.caller(Some(token), NOW).err().map(|error| error.code())
    }

    #[test]
    fn nobody_is_let_in_until_it_is_known_who_is_revoked() {
        let (token, control) = control();
        assert_eq!(refusal(&control, &token), Some(ErrorCode::StoreUnavailable));
        assert_eq!(refusal(&control, "operator"), None, "who cannot be revoked");
        assert!(!control.set_revoked(HashSet::new(), control.revocation_changes()));
        assert_eq!(refusal(&control, &token), None);
        assert_eq!(refusal(&control, "eh_made-up"), Some(ErrorCode::Unauthorized));
        assert!(control.caller(None, NOW).is_err());
    }

    #[test]
    fn what_the_store_said_before_a_revocation_does_not_undo_it() {
        let (token, control) = control();
        let asked = control.revocation_changes();
        control.set_revoked(HashSet::new(), asked);
        let who = Identity::Token("a".into());
        control.revoke(who.clone(), true);
        assert!(!control.set_revoked(HashSet::new(), asked), "asked before");
        assert_eq!(refusal(&control, &token), Some(ErrorCode::Unauthorized));
        assert!(!control.set_revoked(HashSet::from([who]), control.revocation_changes()));
        assert!(control.set_revoked(HashSet::new(), control.revocation_changes()), "another node took it back");
        assert_eq!(refusal(&control, &token), None);
    }

    #[test]
    fn without_tokens_everybody_is_anybody() {
        let control = AccessControl::new(&Config::default().access, Secret::default()).expect("no file");
        assert!(!control.is_required() && !control.can_administer());
        assert!(matches!(control.caller(None, NOW), Ok(Caller::Anybody)));
        assert!(control.authenticate(Some(""), NOW).is_err(), "no empty secret opens anything");
    }
}
