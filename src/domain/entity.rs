//! Entities: the newest value of everything that services keep in common, each with one version number.
//!
//! The version of an entity is the id of the event that made it. So state, log, snapshots and digests share one number.

mod digest;
mod precondition;

use std::borrow::Cow;
use std::fmt;

use bytestring::ByteString;

pub use self::digest::{Buckets, MAX_BUCKETS, Mark};
pub use self::precondition::{Precondition, TagError, Tags};
use super::name::{EventName, NameError};

/// The id of the event that made an entity what it is.
pub type Version = i64;

/// Longest type, in bytes.
pub const MAX_TYPE_BYTES: usize = 64;
/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// Keys that stand for something else in a path.
const RESERVED_KEYS: [&str; 3] = [".", "..", "digest"];
/// How the names of changes begin and end; between them is the type.
const CHANGE_NAME: (&str, &str) = ("state.", ".changed");

/// A type of entities: one segment of an event name without `:`, at most 64 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityType(ByteString);

/// The key of an entity among those of its type: 1 to 255 bytes without control characters, no part of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKey(ByteString);

/// Which entity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId {
    pub kind: EntityType,
    pub key: EntityKey,
}

/// Why a text is no type, or no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntityError {
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("must be one segment, without '.' or ':'")]
    Segment,
    #[error("must be 1 to {max} bytes, not {0}", max = MAX_TYPE_BYTES)]
    TypeLength(usize),
    #[error("must be 1 to {max} bytes, not {0}", max = MAX_KEY_BYTES)]
    KeyLength(usize),
    #[error("must not contain control characters")]
    Control,
    #[error("{0:?} is reserved")]
    Reserved(String),
}

impl EntityType {
    /// Checks `text` against the rules above.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, EntityError> {
        let text = text.into();
        if text.is_empty() || text.len() > MAX_TYPE_BYTES {
            return Err(EntityError::TypeLength(text.len()));
        }
        EventName::parse(text.clone())?;
        if text.contains(['.', ':']) { Err(EntityError::Segment) } else { Ok(Self(text)) }
    }

    /// A type read back from the store, where only valid ones are written.
    pub(crate) fn from_store(text: String) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the events that change entities of this type.
    pub fn change_name(&self) -> EventName {
        let (begin, end) = CHANGE_NAME;
        EventName::from_store(format!("{begin}{}{end}", self.0))
    }

    /// The type whose changes have this name, if changes have it.
    pub fn of_change(name: &EventName) -> Option<Self> {
        let (begin, end) = CHANGE_NAME;
        let text = name.as_str().strip_prefix(begin)?.strip_suffix(end)?;
        Self::parse(text.to_owned()).ok()
    }
}

impl EntityKey {
    /// Checks `text` against the rules above.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, EntityError> {
        let text = text.into();
        if text.is_empty() || text.len() > MAX_KEY_BYTES {
            return Err(EntityError::KeyLength(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(EntityError::Control);
        }
        if RESERVED_KEYS.contains(&&*text) {
            return Err(EntityError::Reserved(text.to_string()));
        }
        Ok(Self(text))
    }

    /// A key read back from the store, where only valid ones are written.
    pub(crate) fn from_store(text: String) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )*};
}
as_text!(EntityType, EntityKey);

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Put,
    Delete,
}

impl Op {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// A change of an entity that was asked for. The value is the payload of its [`NewEvent`] until the change is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub entity: EntityId,
    pub op: Op,
    pub precondition: Precondition,
    /// It belongs to the event before it, and is stored if that one is.
    pub follows: bool,
}

impl Change {
    /// The payload of the event, when the entity had the version `previous`. The value goes in as it was written.
    pub fn payload(&self, previous: Option<Version>, value: &str) -> ByteString {
        let previous = previous.map_or_else(|| "null".to_owned(), |version| version.to_string());
        self.payload_with(&format!(r#","previous_version":{previous}"#), value)
    }

    /// The same while it is not known which version the entity has: without `previous_version`.
    pub fn undecided_payload(&self, value: &str) -> ByteString {
        self.payload_with("", value)
    }

    fn payload_with(&self, previous: &str, value: &str) -> ByteString {
        let Self { entity: EntityId { kind, key }, op, .. } = self;
        // A type needs no escaping; a key may have a quotation mark.
        let key = serde_json::Value::from(key.as_str());
        let head = format!(r#"{{"type":"{kind}","key":{key},"op":"{op}"{previous}"#, op = op.as_str());
        match op {
            Op::Put => format!(r#"{head},"value":{value}}}"#),
            Op::Delete => head + "}",
        }
        .into()
    }
}

impl EntityId {
    /// An entity read back from the store, where only valid ones are written.
    pub(crate) fn from_store(kind: String, key: String) -> Self {
        Self { kind: EntityType::from_store(kind), key: EntityKey::from_store(key) }
    }

    /// The ordering key of its changes; up to 320 bytes.
    pub fn ordering_key(&self) -> ByteString {
        format!("{}:{}", self.kind, self.key).into()
    }
}

/// Characters of the payload of a change within which it says what was before, however long its key is.
pub const CHANGE_HEAD: usize = 2048;

/// The previous version that the payload of a change names. No key can look like this member, whose quotation marks
/// would be escaped there.
pub fn previous_version(head: &str) -> Option<Option<Version>> {
    let (_, rest) = head.split_once(r#""previous_version":"#)?;
    let end = rest.find([',', '}'])?;
    match &rest[..end] {
        "null" => Some(None),
        version => version.parse().ok().map(Some),
    }
}

/// The payload of a stored event as it is judged: that of a change without the previous version that it names.
pub fn as_judged<'p>(name: &EventName, payload: &'p str) -> Cow<'p, str> {
    match EntityType::of_change(name) {
        Some(_) => without_previous(payload).into(),
        None => payload.into(),
    }
}

fn without_previous(payload: &str) -> String {
    const MEMBER: &str = r#","previous_version":"#;
    let Some((head, rest)) = payload.split_once(MEMBER) else { return payload.to_owned() };
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    head.to_owned() + &rest[end..]
}

/// Why a change is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// The entity has another version, or is not there (none).
    Version(Option<Version>),
    /// There is nothing to delete.
    Absent,
    /// There are as many types as may be.
    TooManyTypes,
}

/// Decides on a change of an entity that has the version `current`, or is not there.
pub fn judge(op: Op, precondition: &Precondition, current: Option<Version>) -> Result<(), Unmet> {
    if !precondition.is_met(current) {
        return Err(Unmet::Version(current));
    }
    match (op, current) {
        (Op::Delete, None) => Err(Unmet::Absent),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(op: Op) -> Change {
        let entity = EntityId {
            kind: EntityType::parse("auction").expect("a type"),
            key: EntityKey::parse("a\"1").expect("a key"),
        };
        Change { entity, op, precondition: Precondition::default(), follows: false }
    }

    #[test]
    fn a_change_is_judged_without_the_version_before_it() {
        for (op, value) in [(Op::Put, "[1e400]"), (Op::Delete, "")] {
            let change = change(op);
            for previous in [None, Some(7)] {
                assert_eq!(without_previous(&change.payload(previous, value)), *change.undecided_payload(value));
            }
        }
    }

    #[test]
    fn types_are_one_segment() {
        for good in ["auction", "große", &"x".repeat(64), "$t", "a b"] {
            assert!(EntityType::parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a:b", "*", ">", " a", "a\"b", &"x".repeat(65)] {
            assert!(EntityType::parse(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_texts_that_a_path_can_hold() {
        for good in ["1", "a/b", "a:b", "größe", "...", &"x".repeat(255), " ", "digests", "*"] {
            assert!(EntityKey::parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "digest", "a\nb", "a\u{7f}b", &"x".repeat(256)] {
            assert!(EntityKey::parse(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_are_found_by_their_name() {
        let name = |text: &str| EventName::parse(text.to_owned()).expect("a name");
        let kind = EntityType::of_change(&name("state.auction.changed"));
        assert_eq!(kind.as_ref().map(EntityType::as_str), Some("auction"));
        assert_eq!(kind.map(|kind| kind.change_name()), Some(name("state.auction.changed")));
        for other in ["state.changed", "state.a.b.changed", "state.auction.deleted", "states.auction.changed"] {
            assert_eq!(EntityType::of_change(&name(other)), None, "{other}");
        }
    }

    #[test]
    fn the_payload_of_a_change_says_what_was_before() {
        assert_eq!(
            &*change(Op::Put).payload(None, r#"{"a": 1e400}"#),
            r#"{"type":"auction","key":"a\"1","op":"put","previous_version":null,"value":{"a": 1e400}}"#
        );
        assert_eq!(
            &*change(Op::Delete).payload(Some(57), ""),
            r#"{"type":"auction","key":"a\"1","op":"delete","previous_version":57}"#
        );
    }

    #[test]
    fn only_what_is_there_is_deleted() {
        let any = Precondition::default();
        assert_eq!(judge(Op::Put, &any, None), Ok(()));
        assert_eq!(judge(Op::Delete, &any, Some(1)), Ok(()));
        assert_eq!(judge(Op::Delete, &any, None), Err(Unmet::Absent));
        let version = Precondition::version(7);
        assert_eq!(judge(Op::Delete, &version, None), Err(Unmet::Version(None)));
        assert_eq!(judge(Op::Put, &version, Some(8)), Err(Unmet::Version(Some(8))));
    }

    #[test]
    fn the_previous_version_is_read_from_the_beginning_of_a_change() {
        let key = r#""previous_version":7,"\"#.repeat(8);
        let of_key = |op| {
            let mut change = change(op);
            change.entity.key = EntityKey::parse(key.clone()).expect("a key");
            change
        };
        let head = |text: &str| text.chars().take(CHANGE_HEAD).collect::<String>();
        let put = of_key(Op::Put).payload(Some(57), &format!("\"{}\"", "x".repeat(5000)));
        assert_eq!(previous_version(&head(&put)), Some(Some(57)));
        assert_eq!(previous_version(&of_key(Op::Delete).payload(Some(58), "")), Some(Some(58)));
        assert_eq!(previous_version(&of_key(Op::Put).payload(None, "1")), Some(None));
    }
}
