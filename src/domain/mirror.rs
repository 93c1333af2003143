//! The mirror of all entities in Redis: where it goes on, and what of it is to be mended.
//!
//! - *MI-1* What is written is what the store has after the event that is followed. So nothing comes back that was
//!   replaced or deleted before that event.
//! - *MI-2* What is written continues what is there: position and log stand beside the data and move with them. Whatever
//!   does not continue them is refused.

mod tally;

use std::fmt;

pub use self::tally::{Suspects, Tally};
use super::entity::{EntityId, EntityKey, EntityType, Version};
use super::event::{EventId, LogBounds};
use super::log::LogId;

/// The name of the follower and of its position.
pub const FOLLOWER: &str = "mirror";

/// What stands in Redis beside the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stand {
    /// Of which log the data are.
    pub log: Option<LogId>,
    /// Everything up to this event is in them.
    pub position: Option<EventId>,
    pub todo: Todo,
}

/// What is left to do beside following the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Todo {
    #[default]
    Nothing,
    /// The entities after this one, in the order of types and keys, are to be written; none: all.
    Fill(Option<EntityId>),
    /// All are written, and what the store does not have is to be removed.
    Compare,
}

const COMPARE: &str = "compare";
const FILL: &str = "fill";

impl Todo {
    /// Reads what `Display` has written. Of anything else everything is to be done.
    pub fn parse(text: &str) -> Self {
        let cursor = text.strip_prefix(FILL).and_then(|rest| rest.strip_prefix(' ')?.split_once(':'));
        match (text, cursor) {
            ("", _) => Self::Nothing,
            (COMPARE, _) => Self::Compare,
            (_, Some((kind, key))) => Self::Fill(entity(kind, key)),
            _ => Self::Fill(None),
        }
    }
}

impl fmt::Display for Todo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Compare => f.write_str(COMPARE),
            Self::Fill(None) => f.write_str(FILL),
            Self::Fill(Some(after)) => write!(f, "{FILL} {}", after.ordering_key()),
        }
    }
}

/// The entity of this type and key, if they can be those of one.
pub fn entity(kind: &str, key: &str) -> Option<EntityId> {
    let (kind, key) = (EntityType::parse(kind.to_owned()).ok()?, EntityKey::parse(key.to_owned()).ok()?);
    Some(EntityId { kind, key })
}

/// Why the mirror is built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuild {
    /// There is none.
    Empty,
    /// It is that of another log.
    AnotherLog,
    /// The log was set back.
    SetBack,
    /// Retention has removed what it lacks.
    Trimmed,
}

impl Rebuild {
    /// Its name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::AnotherLog => "another_log",
            Self::SetBack => "set_back",
            Self::Trimmed => "trimmed",
        }
    }
}

/// After which event the mirror goes on, or why it is built anew. `bounds` are those of the log after `stand` was read.
pub fn resume(stand: &Stand, log: LogId, bounds: LogBounds) -> Result<EventId, Rebuild> {
    match (stand.log, stand.position) {
        (None, _) | (_, None) => Err(Rebuild::Empty),
        (Some(of), _) if of != log => Err(Rebuild::AnotherLog),
        (_, Some(position)) if position > bounds.last => Err(Rebuild::SetBack),
        (_, Some(position)) if position < bounds.earliest - 1 => Err(Rebuild::Trimmed),
        (_, Some(position)) => Ok(position),
    }
}

/// How the text of an entity begins, up to its version, and what follows that.
const HEAD: (&str, &str) = ("{\"version\":", ",\"value\":");
/// So many bytes of a text have its version in them.
pub const HEAD_BYTES: usize = HEAD.0.len() + 19 + HEAD.1.len();

/// The version in the beginning of a text, if it is one of the mirror.
pub fn version(head: &[u8]) -> Option<Version> {
    let rest = head.strip_prefix(HEAD.0.as_bytes())?;
    let (digits, rest) = rest.split_at(rest.iter().position(|byte| !byte.is_ascii_digit())?);
    let digits = std::str::from_utf8(digits).ok().filter(|_| rest.starts_with(HEAD.1.as_bytes()))?;
    digits.parse().ok().filter(|version: &Version| version.to_string() == digits)
}

/// What Redis has under the key of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Nothing,
    Version(Version),
    /// A text that is none of the mirror.
    Strange,
    /// No text: the key is in use for something else.
    Foreign,
}

/// What is wrong with an entity of the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    Missing,
    /// It has another version, or another text.
    Altered,
    /// The store does not have it.
    Extra,
    /// Its key is in use for something else, and is left alone.
    Blocked,
}

impl Flaw {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Extra => "extra",
            Self::Blocked => "blocked",
        }
    }
}

/// What the store has of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub version: Version,
    /// Whether it is there, and not deleted.
    pub is_there: bool,
}

/// Judges an entity of a mirror that has followed the log up to `position`. `stored` was read after `held`.
pub fn flaw(held: Held, stored: Option<Stored>, position: EventId) -> Option<Flaw> {
    let stored = match stored {
        // It is on its way.
        Some(stored) if stored.version > position => return None,
        stored => stored.filter(|stored| stored.is_there),
    };
    match (stored, held) {
        (Some(stored), Held::Version(version)) if version == stored.version => None,
        (Some(_), Held::Version(_) | Held::Strange) => Some(Flaw::Altered),
        (Some(_), Held::Nothing) => Some(Flaw::Missing),
        (Some(_), Held::Foreign) => Some(Flaw::Blocked),
        (None, Held::Version(_)) => Some(Flaw::Extra),
        // What others keep under a key that no entity has is theirs.
        (None, Held::Nothing | Held::Strange | Held::Foreign) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stand(log: u128, position: EventId) -> Stand {
        Stand { log: Some(LogId::new(log)), position: Some(position), todo: Todo::Nothing }
    }

    #[test]
    fn it_goes_on_where_redis_says_or_is_built_anew() {
        let bounds = LogBounds { earliest: 11, last: 20 };
        let resume = |stand| resume(&stand, LogId::new(1), bounds);
        assert_eq!(resume(Stand::default()), Err(Rebuild::Empty));
        assert_eq!(resume(stand(2, 15)), Err(Rebuild::AnotherLog));
        assert_eq!([9, 21].map(|at| resume(stand(1, at))), [Err(Rebuild::Trimmed), Err(Rebuild::SetBack)]);
        assert_eq!([10, 15, 20].map(|at| resume(stand(1, at))), [Ok(10), Ok(15), Ok(20)]);
        let empty = LogBounds { earliest: 1, last: 0 };
        assert_eq!(super::resume(&stand(1, 0), LogId::new(1), empty), Ok(0));
    }

    #[test]
    fn what_is_left_to_do_is_read_as_it_was_written() {
        let after = entity("auction", "a: b:").expect("an entity");
        for todo in [Todo::Nothing, Todo::Compare, Todo::Fill(None), Todo::Fill(Some(after))] {
            assert_eq!(Todo::parse(&todo.to_string()), todo);
        }
        for other in ["?", "fill ", "fill :", "fill a", "filla:b", "compare "] {
            assert_eq!(Todo::parse(other), Todo::Fill(None), "{other}");
        }
    }

    #[test]
    fn the_version_of_a_text_is_read_from_its_beginning() {
        let cut = |text: &str| text.as_bytes()[..text.len().min(HEAD_BYTES)].to_vec();
        for good in [r#"{"version":7,"value":{},"updated_at":"x"}"#, r#"{"version":7,"value":"ääääääääääääääää"}"#]
        {
            assert_eq!(version(&cut(good)), Some(7), "{good}");
        }
        let long = format!(r#"{{"version":{},"value":null}}"#, i64::MAX);
        assert_eq!(version(&cut(&long)), Some(i64::MAX));
        for bad in
            ["", "{}", r#"{"version":07,"value":1}"#, r#"{"version":7}"#, r#"{ "version":7,"value":1}"#, "\u{e4}"]
        {
            assert_eq!(version(&cut(bad)), None, "{bad}");
        }
    }

    #[test]
    fn only_what_is_not_on_its_way_has_a_flaw() {
        let there = |version| Some(Stored { version, is_there: true });
        let gone = |version| Some(Stored { version, is_there: false });
        let judge = |held, stored| flaw(held, stored, 10);
        assert_eq!(judge(Held::Version(7), there(7)), None);
        assert_eq!(judge(Held::Version(6), there(7)), Some(Flaw::Altered));
        assert_eq!(judge(Held::Version(900), there(7)), Some(Flaw::Altered), "a version that nobody has given");
        assert_eq!(judge(Held::Strange, there(7)), Some(Flaw::Altered));
        assert_eq!(judge(Held::Nothing, there(7)), Some(Flaw::Missing));
        assert_eq!(judge(Held::Foreign, there(7)), Some(Flaw::Blocked));
        for stored in [None, gone(7)] {
            assert_eq!(judge(Held::Version(6), stored), Some(Flaw::Extra));
            assert_eq!([Held::Nothing, Held::Strange, Held::Foreign].map(|held| judge(held, stored)), [None; 3]);
        }
        for on_its_way in [there(11), gone(11)] {
            assert_eq!(judge(Held::Version(6), on_its_way), None);
            assert_eq!(judge(Held::Nothing, on_its_way), None);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_taken_for_a_version_amiss(head in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = version(&head);
        }
    }
}
