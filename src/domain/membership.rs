//! This node among those that share a store.
//!
//! A node is a member for as long as it renews its membership, which ends by the clock of the store. Whoever finds it
//! ended says so in the store by raising the generation of that node; from then on what the node held is free.
//!
//! - *MB-1* A node acts as a member only until its membership may have ended: for less than the time to live after it
//!   *asked* for the renewal, by a clock that goes on while the process or the machine is frozen.
//! - *MB-2* What a member holds is free only after its generation was raised, which is done only when its time is over.
//! - *MB-3* A node whose name another process uses does not become a member.

use std::sync::Arc;
use std::time::Duration;

use super::event::{EventId, Timestamp};

/// A node as the store knows it. Times are those of the store's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub name: Arc<str>,
    pub generation: i64,
    /// When its membership ends unless it is renewed. Zero: it was found lost.
    pub expires_at: Timestamp,
    pub started_at: Timestamp,
    pub seen_at: Timestamp,
    pub version: String,
    /// Where other nodes reach it.
    pub url: String,
    /// The newest event that it knows.
    pub last_id: EventId,
    pub is_draining: bool,
}

impl NodeRecord {
    /// Whether it is a member, as far as the store knows.
    pub fn is_member(&self) -> bool {
        self.expires_at != Timestamp(0)
    }
}

/// What a node does next in the store about its membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Becomes a member, unless a member has its name.
    Join,
    /// Goes on being the member of this generation. With `judges`, it says of others that their time is over. A node
    /// whose own renewals were held up does not judge: what held it up may have held up all of them.
    Renew { generation: i64, judges: bool },
}

/// What came of a [`Beat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatOutcome {
    Joined {
        generation: i64,
    },
    Renewed,
    /// A member of this generation, whose time is not over, has the name.
    NameHeld {
        generation: i64,
        expires_at: Timestamp,
    },
    /// The generation is over: another node has found this one lost.
    Lost,
}

/// What is new for a node after a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// It is a member from now on, and holds nothing yet.
    Joined,
    /// It is no member any more, and holds nothing.
    Lost,
    /// Another process is a member under its name, and alive.
    NameTaken,
}

/// The membership of this node, as it knows it.
#[derive(Debug)]
pub struct Membership {
    /// None where no other process can have the store.
    ttl: Option<Duration>,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    Outside {
        /// The member that had this node's name at the last look, and when its time was to be over.
        other: Option<(i64, Timestamp)>,
    },
    Member {
        generation: i64,
        /// By the steady clock.
        valid_until: Timestamp,
        since: Timestamp,
    },
}

impl Membership {
    /// Not a member yet.
    pub fn new(ttl: Option<Duration>) -> Self {
        Self { ttl, standing: Standing::Outside { other: None } }
    }

    /// A member for as long as `term` says, if it is one.
    pub fn resume(ttl: Option<Duration>, term: Option<Term>) -> Self {
        match term {
            Some(Term { generation, valid_until, since }) => {
                Self { ttl, standing: Standing::Member { generation, valid_until, since } }
            }
            None => Self::new(ttl),
        }
    }

    /// What to do next; nothing if a membership never ends.
    pub fn next(&self, now: Timestamp) -> Option<Beat> {
        match (&self.standing, self.ttl) {
            (Standing::Outside { .. }, _) => Some(Beat::Join),
            (Standing::Member { .. }, None) => None,
            (Standing::Member { generation, valid_until, .. }, Some(_)) => {
                Some(Beat::Renew { generation: *generation, judges: now < *valid_until })
            }
        }
    }

    /// The store has answered a beat that was asked for at `asked`, by the steady clock.
    pub fn answered(&mut self, asked: Timestamp, outcome: BeatOutcome) -> Change {
        let valid_until = self.ttl.map_or(Timestamp(i64::MAX), |ttl| asked.plus(ttl));
        match (&mut self.standing, outcome) {
            (standing, BeatOutcome::Joined { generation }) => {
                *standing = Standing::Member { generation, valid_until, since: asked };
                Change::Joined
            }
            (Standing::Member { valid_until: until, .. }, BeatOutcome::Renewed) => {
                *until = valid_until;
                Change::Nothing
            }
            (Standing::Outside { .. }, BeatOutcome::Renewed) => Change::Nothing,
            (Standing::Outside { other }, BeatOutcome::NameHeld { generation, expires_at }) => {
                let is_renewed = other.is_some_and(|(known, until)| known == generation && until < expires_at);
                *other = Some((generation, expires_at));
                if is_renewed { Change::NameTaken } else { Change::Nothing }
            }
            (standing, BeatOutcome::Lost | BeatOutcome::NameHeld { .. }) => {
                *standing = Standing::Outside { other: None };
                Change::Lost
            }
        }
    }

    /// Its generation, and until when it may act, by the steady clock; none if it is no member.
    pub fn term(&self) -> Option<Term> {
        match self.standing {
            Standing::Outside { .. } => None,
            Standing::Member { generation, valid_until, since } => Some(Term { generation, valid_until, since }),
        }
    }
}

/// The time for which a node is a member. Times are those of the steady clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    pub generation: i64,
    /// See *MB-1*.
    pub valid_until: Timestamp,
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    fn second(n: i64) -> Timestamp {
        Timestamp(n * 1_000_000)
    }

    fn member(at: Timestamp) -> Membership {
        let mut node = Membership::new(Some(TTL));
        assert_eq!(node.next(at), Some(Beat::Join));
        assert_eq!(node.answered(at, BeatOutcome::Joined { generation: 7 }), Change::Joined);
        node
    }

    #[test]
    fn a_membership_counts_from_when_its_renewal_was_asked_for() {
        let mut node = member(second(10));
        assert_eq!(node.term().expect("a member").valid_until, second(13));
        assert_eq!(node.answered(second(11), BeatOutcome::Renewed), Change::Nothing);
        let term = node.term().expect("a member");
        assert_eq!((term.generation, term.valid_until, term.since), (7, second(14), second(10)));
    }

    #[test]
    fn who_was_held_up_does_not_judge_others() {
        let node = member(second(10));
        assert_eq!(node.next(second(12)), Some(Beat::Renew { generation: 7, judges: true }));
        assert_eq!(node.next(second(13)), Some(Beat::Renew { generation: 7, judges: false }));
    }

    #[test]
    fn who_was_found_lost_holds_nothing_and_joins_anew() {
        let mut node = member(second(10));
        assert_eq!(node.answered(second(30), BeatOutcome::Lost), Change::Lost);
        assert_eq!((node.term(), node.next(second(30))), (None, Some(Beat::Join)));
        assert_eq!(node.answered(second(31), BeatOutcome::Joined { generation: 9 }), Change::Joined);
    }

    #[test]
    fn a_name_is_taken_if_its_membership_is_renewed_while_one_waits_for_its_end() {
        let held = |generation, until| BeatOutcome::NameHeld { generation, expires_at: second(until) };
        let mut node = Membership::new(Some(TTL));
        assert_eq!(node.answered(second(1), held(5, 100)), Change::Nothing);
        assert_eq!(node.answered(second(2), held(5, 100)), Change::Nothing, "of one that was killed");
        assert_eq!(
            node.answered(second(3), held(6, 103)),
            Change::Nothing,
            "another one, which may have been killed too"
        );
        assert_eq!(node.answered(second(4), held(6, 104)), Change::NameTaken);
        assert_eq!(node.term(), None);
    }

    #[test]
    fn where_nobody_else_can_be_a_membership_never_ends() {
        let mut node = Membership::new(None);
        assert_eq!(node.answered(second(1), BeatOutcome::Joined { generation: 1 }), Change::Joined);
        assert_eq!(node.next(second(1_000_000)), None);
        assert_eq!(node.term().expect("a member").valid_until, Timestamp(i64::MAX));
    }
}
