//! Which of several nodes does what one node does for all: acts for a service or a consumer, appends what is due, trims.

use std::fmt;
use std::sync::Arc;

/// What is held by one node: its name in the store, and for operators.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseName(Arc<str>);

impl LeaseName {
    /// To deliver to the service `name`.
    pub fn service(name: &str) -> Self {
        Self(format!("service:{name}").into())
    }

    /// To deliver to the members of the consumer `name`.
    pub fn consumer(name: &str) -> Self {
        Self(format!("{CONSUMER}{name}").into())
    }

    /// To append the events that are due.
    pub fn schedules() -> Self {
        Self("schedules".into())
    }

    /// To go on with replays and redrives.
    pub fn jobs() -> Self {
        Self("jobs".into())
    }

    /// To remove what is no longer kept.
    pub fn retention() -> Self {
        Self("retention".into())
    }

    /// To read the stream of Redis that is a way in.
    pub fn ingest() -> Self {
        Self("ingest".into())
    }

    /// To keep the mirror of all entities in Redis.
    pub fn mirror() -> Self {
        Self("mirror".into())
    }

    /// To run the instances of sagas.
    pub fn sagas() -> Self {
        Self("sagas".into())
    }

    /// To decide on the state of the whole system.
    pub fn system() -> Self {
        Self("system".into())
    }

    /// To publish events on the channels of Redis.
    pub fn pubsub_out() -> Self {
        Self("pubsub:out".into())
    }

    /// To hear events from the channels of Redis.
    pub fn pubsub_in() -> Self {
        Self("pubsub:in".into())
    }

    /// Whether any node may hold it, so that they are to be spread. A consumer is held where it has members.
    pub fn is_spread(&self) -> bool {
        !self.0.starts_with(CONSUMER)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const CONSUMER: &str = "consumer:";

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What each write of a holder carries. The write is void once another has taken the lease, which raises its generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    pub lease: LeaseName,
    pub generation: i64,
}

/// What the store says to a node that asks for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The node had the lease and has it still. `is_wanted`: another one asks for it, and is to have it once nothing is
    /// under way.
    Kept { generation: i64, is_wanted: bool },
    /// The node has the lease from now on. Another may have had it meanwhile.
    Taken { generation: i64 },
    /// Another node has it, or is to take it, or this node is no member.
    Elsewhere,
}

impl Grant {
    /// The generation of the lease, if the node has it.
    pub fn generation(self) -> Option<i64> {
        match self {
            Self::Kept { generation, .. } | Self::Taken { generation } => Some(generation),
            Self::Elsewhere => None,
        }
    }
}

/// A lease as a node knows it. `H` is what only a holder has.
#[derive(Debug, Default)]
pub enum Lease<H> {
    /// Another node acts, or none that is known.
    #[default]
    Follower,
    /// This node acts, and no other.
    Holder { generation: i64, state: H },
}

/// What a [`Grant`] means to a node that knows how its lease was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It holds the lease as before, and nobody has held it meanwhile.
    Kept,
    /// It has held the lease and holds it again. Another may have held it meanwhile.
    Regained,
    Gained,
    Lost,
    /// It follows as before.
    Elsewhere,
}

/// Whether a holder may change what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    Certain,
    /// A write has failed since the store was asked: whether it is stored is unknown.
    InDoubt,
    /// A write was void: another node has the lease, and the store is asked for what is so.
    Lost,
}

impl<H> Lease<H> {
    /// What `grant` means. The lease is to be set accordingly.
    pub fn turn(&self, grant: Grant) -> Turn {
        match (self.generation(), grant.generation()) {
            (Some(held), Some(granted)) if held == granted => Turn::Kept,
            (Some(_), Some(_)) => Turn::Regained,
            (Some(_), None) => Turn::Lost,
            (None, Some(_)) => Turn::Gained,
            (None, None) => Turn::Elsewhere,
        }
    }

    pub fn is_held(&self) -> bool {
        matches!(self, Self::Holder { .. })
    }

    /// Its generation, while it is held.
    pub fn generation(&self) -> Option<i64> {
        if let Self::Holder { generation, .. } = self { Some(*generation) } else { None }
    }

    /// What it has as the holder.
    pub fn holder(&self) -> Option<&H> {
        if let Self::Holder { state, .. } = self { Some(state) } else { None }
    }

    pub fn holder_mut(&mut self) -> Option<&mut H> {
        if let Self::Holder { state, .. } = self { Some(state) } else { None }
    }
}

impl Lease<Confidence> {
    /// After the store has answered `grant`, which ends all doubt.
    pub fn of(grant: Grant) -> Self {
        match grant.generation() {
            Some(generation) => Self::Holder { generation, state: Confidence::Certain },
            None => Self::Follower,
        }
    }

    /// A write has failed.
    pub fn doubt(&mut self) {
        let confidence = self.holder_mut().filter(|confidence| **confidence == Confidence::Certain);
        confidence.into_iter().for_each(|confidence| *confidence = Confidence::InDoubt);
    }

    /// A write was void.
    pub fn lose(&mut self) {
        self.holder_mut().into_iter().for_each(|confidence| *confidence = Confidence::Lost);
    }

    /// Whether this node acts, as far as it knows.
    pub fn may_act(&self) -> bool {
        self.holder().is_some_and(|confidence| *confidence != Confidence::Lost)
    }

    /// Whether the state that is stored is this node's to change.
    pub fn is_certain(&self) -> bool {
        self.holder() == Some(&Confidence::Certain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(generation: i64) -> Grant {
        Grant::Kept { generation, is_wanted: false }
    }

    #[test]
    fn only_a_lease_of_the_same_generation_tells_that_nobody_else_has_acted() {
        let held = Lease::of(Grant::Taken { generation: 4 });
        let turns = |lease: &Lease<Confidence>| {
            [kept(4), kept(6), Grant::Taken { generation: 6 }, Grant::Elsewhere].map(|grant| lease.turn(grant))
        };
        assert_eq!(turns(&held), [Turn::Kept, Turn::Regained, Turn::Regained, Turn::Lost]);
        assert_eq!(turns(&Lease::Follower), [Turn::Gained, Turn::Gained, Turn::Gained, Turn::Elsewhere]);
    }

    #[test]
    fn a_failed_write_raises_doubts_until_the_store_has_answered() {
        let mut lease = Lease::of(Grant::Taken { generation: 4 });
        assert!(lease.is_held() && lease.is_certain());
        lease.doubt();
        assert!(lease.is_held() && !lease.is_certain());
        lease = Lease::of(kept(4));
        assert!(lease.is_certain());
        lease = Lease::of(Grant::Elsewhere);
        lease.doubt();
        assert!(!lease.is_held() && !lease.is_certain());
    }

    #[test]
    fn who_has_lost_its_lease_does_not_act_until_the_store_has_answered() {
        let mut lease = Lease::of(kept(4));
        lease.lose();
        lease.doubt();
        assert!(lease.is_held() && !lease.may_act() && !lease.is_certain());
        assert_eq!(lease.turn(Grant::Elsewhere), Turn::Lost);
        assert!(Lease::of(Grant::Taken { generation: 6 }).may_act());
    }
}
