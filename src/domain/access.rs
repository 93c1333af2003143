//! Who may do what: callers, and the names of events that they may publish, subscribe to and read.

use std::fmt;
use std::sync::Arc;

use super::event::Timestamp;
use super::name::EventName;
use super::pattern::Pattern;

/// What a caller wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    Publish,
    Subscribe,
    Read,
    Admin,
}

impl Scope {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller may do: patterns for each scope; the scope `admin` has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    pub publish: Vec<Pattern>,
    pub subscribe: Vec<Pattern>,
    pub read: Vec<Pattern>,
    pub admin: bool,
}

impl Grants {
    /// Everything, the Event Handler's own events included.
    pub fn everything() -> Self {
        let all: Vec<_> = [">", "$sys.>"].into_iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        Self { publish: all.clone(), subscribe: all.clone(), read: all, admin: true }
    }

    fn of(&self, scope: Scope) -> &[Pattern] {
        match scope {
            Scope::Publish => &self.publish,
            Scope::Subscribe => &self.subscribe,
            Scope::Read => &self.read,
            Scope::Admin => &[],
        }
    }
}

/// What identifies a caller, and can be revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// The name of a configured token.
    Token(String),
    /// `sub` of a JWT.
    Subject(String),
    /// `jti` of a JWT.
    TokenId(String),
}

impl Identity {
    /// What is identified: `token`, `sub` or `jti`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Subject(_) => "sub",
            Self::TokenId(_) => "jti",
        }
    }

    /// The name itself.
    pub fn value(&self) -> &str {
        match self {
            Self::Token(value) | Self::Subject(value) | Self::TokenId(value) => value,
        }
    }

    /// The inverse of [`Self::kind`] and [`Self::value`].
    pub fn new(kind: &str, value: impl Into<String>) -> Option<Self> {
        let value = value.into();
        match kind {
            "token" => Some(Self::Token(value)),
            "sub" => Some(Self::Subject(value)),
            "jti" => Some(Self::TokenId(value)),
            _ => None,
        }
    }
}

/// A caller with a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub identity: Identity,
    /// `jti`, of a JWT that has one.
    pub token_id: Option<Identity>,
    pub grants: Grants,
    /// The first instant at which the token is not valid any more.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// The name, for logs and operators; never a secret.
    pub fn name(&self) -> &str {
        self.identity.value()
    }

    /// Everything by which it may be revoked.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        std::iter::once(&self.identity).chain(&self.token_id)
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether a session of this principal may go on as `next`: the same one, which may subscribe to no less, so that
    /// every subscription that stands is still allowed.
    pub fn may_go_on_as(&self, next: &Self) -> bool {
        let covered = |pattern: &Pattern| next.grants.subscribe.iter().any(|wide| wide.covers(pattern));
        self.identity == next.identity && self.grants.subscribe.iter().all(covered)
    }
}

/// Whoever makes a request. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Caller {
    /// No tokens are configured: everybody may do everything but administer.
    #[default]
    Anybody,
    Known(Arc<Principal>),
}

/// What a caller sees of a list it asked for without naming events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restriction {
    /// Every event but the Event Handler's own.
    None,
    /// Events that match any of these; at least one, and none of them the Event Handler's own.
    Only(Vec<Pattern>),
    /// No event.
    Total,
}

impl Caller {
    /// The principal, if tokens are configured.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        match self {
            Self::Anybody => None,
            Self::Known(principal) => Some(principal),
        }
    }

    /// Whether it may do this to events of this name.
    pub fn allows(&self, scope: Scope, name: &EventName) -> bool {
        self.principal().is_none_or(|principal| principal.grants.of(scope).iter().any(|p| p.matches(name)))
    }

    /// Whether it may do this to every event that `pattern` matches; one pattern it was granted must cover it alone.
    pub fn covers(&self, scope: Scope, pattern: &Pattern) -> bool {
        self.principal().is_none_or(|principal| principal.grants.of(scope).iter().any(|p| p.covers(pattern)))
    }

    /// Whether it may do this to any events at all.
    pub fn has(&self, scope: Scope) -> bool {
        self.principal().is_none_or(|principal| !principal.grants.of(scope).is_empty())
    }

    /// What is left for it of a list of all events.
    pub fn restriction(&self, scope: Scope) -> Restriction {
        let Self::Known(principal) = self else { return Restriction::None };
        let everything = Pattern::everything();
        let granted: Vec<_> = principal.grants.of(scope).iter().filter(|p| !p.is_system()).cloned().collect();
        if granted.contains(&everything) {
            Restriction::None
        } else if granted.is_empty() {
            Restriction::Total
        } else {
            Restriction::Only(granted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&'static str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(*text).expect("valid")).collect()
    }

    fn caller(read: &[&'static str]) -> Caller {
        Caller::Known(Arc::new(principal("a", read)))
    }

    fn principal(name: &str, subscribe: &[&'static str]) -> Principal {
        let granted = patterns(subscribe);
        Principal {
            identity: Identity::Token(name.into()),
            token_id: None,
            grants: Grants { subscribe: granted.clone(), read: granted, ..Grants::default() },
            expires_at: Some(Timestamp(10)),
        }
    }

    #[test]
    fn each_scope_has_patterns_of_its_own() {
        let caller = caller(&["order.*", "user.>"]);
        let name = |text: &'static str| EventName::parse(text).expect("valid");
        assert!(caller.allows(Scope::Read, &name("order.made")));
        assert!(!caller.allows(Scope::Read, &name("order.made.twice")));
        assert!(!caller.allows(Scope::Publish, &name("order.made")));
        assert!(!caller.has(Scope::Publish) && caller.has(Scope::Read));
        assert!(caller.covers(Scope::Subscribe, &patterns(&["user.*.made"])[0]));
        assert!(!caller.covers(Scope::Subscribe, &Pattern::everything()));
        assert!(!caller.covers(Scope::Publish, &patterns(&["order.*"])[0]));
        assert!(Caller::Anybody.covers(Scope::Subscribe, &patterns(&["$sys.>"])[0]));
    }

    #[test]
    fn a_list_shows_what_may_be_read_and_never_the_systems_own_events() {
        assert_eq!(Caller::Anybody.restriction(Scope::Read), Restriction::None);
        assert_eq!(caller(&["$sys.>", ">"]).restriction(Scope::Read), Restriction::None);
        assert_eq!(caller(&["$sys.>", "a.*"]).restriction(Scope::Read), Restriction::Only(patterns(&["a.*"])));
        assert_eq!(caller(&["$sys.>"]).restriction(Scope::Read), Restriction::Total);
        assert_eq!(caller(&["a.*"]).restriction(Scope::Publish), Restriction::Total);
    }

    #[test]
    fn a_session_goes_on_only_as_the_same_that_may_no_less() {
        let now = principal("a", &["x.*"]);
        assert!(now.may_go_on_as(&principal("a", &["x.>"])));
        assert!(!now.may_go_on_as(&principal("b", &["x.>"])));
        assert!(!now.may_go_on_as(&principal("a", &["x.y"])));
        assert!(now.is_expired(Timestamp(10)) && !now.is_expired(Timestamp(9)));
    }

    #[test]
    fn everything_includes_the_systems_own_events() {
        let everything = Grants::everything();
        assert_eq!(everything.read, patterns(&[">", "$sys.>"]));
    }
}
