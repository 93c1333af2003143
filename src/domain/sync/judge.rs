//! Whether a key of a service differs, and when that can be said at all.

use std::time::Duration;

use super::Kind;
use crate::domain::entity::{EntityKey, Version};
use crate::domain::event::{EventId, Timestamp};

/// When a question was sent to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The time of day.
    pub at: Timestamp,
    /// The end of the log.
    pub last: EventId,
}

/// What there is of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// It has this version.
    Present(Version),
    /// It was deleted by this event.
    Deleted(Version),
    /// It was never here, or its deletion is forgotten.
    Absent,
}

impl Current {
    /// The event of the newest change.
    pub fn newest(self) -> Option<Version> {
        match self {
            Self::Present(version) | Self::Deleted(version) => Some(version),
            Self::Absent => None,
        }
    }

    fn version(self) -> Option<Version> {
        if let Self::Present(version) = self { Some(version) } else { None }
    }
}

/// What the store knows of an entity and of its deliveries to a service, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub current: Current,
    /// When the newest change was made, if the service itself has made it, as far as is known, and does not get it
    /// delivered.
    pub own_change_at: Option<Timestamp>,
    /// A delivery of its ordering key to the service is open.
    pub is_on_its_way: bool,
    /// When the last attempt to deliver the newest change ended.
    pub answered_at: Option<Timestamp>,
}

/// A key for which the service and the store have said different things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    pub key: EntityKey,
    /// The version that the service has; none if it has no such entity.
    pub theirs: Option<Version>,
    pub facts: Facts,
}

/// What can be said of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Equal,
    Differs(Kind),
    /// Something of it was on its way when the service was asked.
    NotYet,
    /// It differs unless its deletion, of which nothing is known any more, was delivered only since the question.
    Suspect,
}

impl Compared {
    /// Judges the answer to a question, at the time of day `now`. `was_suspect`: so was the answer to an earlier one,
    /// and nothing of the key was on its way when that was judged.
    pub fn judge(&self, asked: Asked, now: Timestamp, settle: Duration, was_suspect: bool) -> Judgement {
        let Self { theirs, facts, .. } = self;
        let Facts { current, own_change_at, is_on_its_way, answered_at } = *facts;
        if *theirs == current.version() {
            return Judgement::Equal;
        }
        let is_changed = current.newest().is_some_and(|version| version > asked.last);
        let is_delivered = answered_at.is_some_and(|at| at >= asked.at);
        let is_settling = own_change_at.is_some_and(|at| now < at.plus(settle));
        if is_on_its_way || is_changed || is_delivered || is_settling {
            return Judgement::NotYet;
        }
        Judgement::Differs(match (*theirs, current) {
            (None, _) => Kind::Missing,
            (Some(theirs), Current::Present(ours)) if theirs < ours => Kind::Stale,
            (Some(theirs), Current::Deleted(ours)) if theirs < ours => Kind::Extra,
            (Some(_), Current::Absent) if !was_suspect => return Judgement::Suspect,
            (Some(theirs), Current::Absent) if theirs <= asked.last => Kind::Extra,
            (Some(_), _) => Kind::Ahead,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { at: Timestamp(1_000), last: 100 };
    const SETTLE: Duration = Duration::from_micros(500);

    fn judged(theirs: Option<Version>, current: Current, change: impl FnOnce(&mut Facts)) -> Judgement {
        let mut facts = Facts { current, own_change_at: None, is_on_its_way: false, answered_at: None };
        change(&mut facts);
        let key = EntityKey::parse("a").expect("a key");
        Compared { key, theirs, facts }.judge(ASKED, Timestamp(2_000), SETTLE, true)
    }

    #[test]
    fn each_kind_of_difference_is_told_apart() {
        use Current::{Absent, Deleted, Present};
        use Judgement::{Differs, Equal};
        let cases = [
            (Some(7), Present(7), Equal),
            (None, Deleted(7), Equal),
            (None, Absent, Equal),
            (None, Present(7), Differs(Kind::Missing)),
            (Some(6), Present(7), Differs(Kind::Stale)),
            (Some(6), Deleted(7), Differs(Kind::Extra)),
            (Some(6), Absent, Differs(Kind::Extra)),
            (Some(8), Present(7), Differs(Kind::Ahead)),
            (Some(8), Deleted(7), Differs(Kind::Ahead)),
            (Some(101), Absent, Differs(Kind::Ahead)),
        ];
        for (theirs, current, expected) in cases {
            assert_eq!(judged(theirs, current, |_| ()), expected, "{theirs:?} {current:?}");
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_judged() {
        let not_yet = |change: fn(&mut Facts)| judged(Some(6), Current::Present(7), change);
        assert_eq!(not_yet(|facts| facts.is_on_its_way = true), Judgement::NotYet);
        assert_eq!(not_yet(|facts| facts.answered_at = Some(Timestamp(1_000))), Judgement::NotYet);
        assert_eq!(not_yet(|facts| facts.own_change_at = Some(Timestamp(1_501))), Judgement::NotYet);
        assert_eq!(not_yet(|facts| facts.current = Current::Present(101)), Judgement::NotYet);
        let stale = Judgement::Differs(Kind::Stale);
        assert_eq!(not_yet(|facts| facts.answered_at = Some(Timestamp(999))), stale);
        assert_eq!(not_yet(|facts| facts.own_change_at = Some(Timestamp(1_500))), stale);
        assert_eq!(not_yet(|facts| facts.current = Current::Present(100)), stale);
    }

    #[test]
    fn what_nothing_is_known_of_is_asked_for_twice() {
        let facts = Facts { current: Current::Absent, own_change_at: None, is_on_its_way: false, answered_at: None };
        let compared = Compared { key: EntityKey::parse("a").expect("a key"), theirs: Some(6), facts };
        assert_eq!(compared.judge(ASKED, Timestamp(2_000), SETTLE, false), Judgement::Suspect);
    }
}
