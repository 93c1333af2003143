//! Which node is to hold a lease: spread over the members, and moved one at a time when members come and go.
//!
//! Each lease has one member that is to hold it, found by rendezvous hashing (Thaler and Ravishankar, 1998): so a
//! member that comes or goes moves only the leases that it gets or had.

use std::collections::HashMap;
use std::time::Duration;

use super::event::Timestamp;
use super::lease::LeaseName;
use super::membership::{NodeRecord, Term};

/// For how long a free lease is left to the member that is to hold it.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// For how long a node is a member before it asks others to hand their leases over: one that keeps failing takes none.
pub const SETTLING: Duration = Duration::from_secs(5);

/// A lease as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    pub node: String,
    pub node_generation: i64,
    pub generation: i64,
    pub wanted_by: Option<String>,
}

impl LeaseRecord {
    fn is_of(&self, node: &str, generation: i64) -> bool {
        self.node == node && self.node_generation == generation
    }
}

/// What a member does about a lease that it is ready to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It holds it. `is_wanted`: another member is to hold it, and waits for it.
    Keep {
        is_wanted: bool,
    },
    Take,
    /// Asks the holder to hand it over.
    Want,
    Wait,
}

/// How this node places leases.
#[derive(Debug, Default)]
pub struct Placement {
    /// Since when leases are seen to be free, by the steady clock.
    free_since: HashMap<LeaseName, Timestamp>,
}

impl Placement {
    /// What the member `node` does about `lease` at `now`, by the steady clock. `record`: none if nobody ever held it.
    pub fn step(
        &mut self,
        lease: &LeaseName,
        record: Option<&LeaseRecord>,
        (node, term): (&str, Term),
        nodes: &[NodeRecord],
        now: Timestamp,
    ) -> Step {
        let is_mine = record.is_some_and(|record| record.is_of(node, term.generation));
        let others = || nodes.iter().filter(|other| other.is_member() && *other.name != *node);
        let is_held =
            is_mine || record.is_some_and(|record| others().any(|other| record.is_of(&other.name, other.generation)));
        if is_held {
            self.free_since.remove(lease);
        }
        if is_mine {
            let wanted_by = record.and_then(|record| record.wanted_by.as_deref());
            let is_wanted = wanted_by.is_some_and(|by| others().any(|other| *other.name == *by && !other.is_draining));
            return Step::Keep { is_wanted };
        }
        let takers = nodes.iter().filter(|other| other.is_member() && !other.is_draining).map(|other| &*other.name);
        let is_leaving =
            nodes.iter().any(|own| *own.name == *node && own.is_draining) && takers.clone().next().is_some();
        let is_to_hold = !lease.is_spread() || preferred(lease.as_str(), takers.clone()) == Some(node);
        if is_held {
            let is_asked = record.is_some_and(|record| record.wanted_by.as_deref() == Some(node));
            let wants = lease.is_spread() && is_to_hold && !is_asked && now >= term.since.plus(SETTLING);
            return if wants { Step::Want } else { Step::Wait };
        }
        if is_leaving {
            return Step::Wait;
        }
        let free_since = *self.free_since.entry(lease.clone()).or_insert(now);
        if is_to_hold || now >= free_since.plus(PATIENCE) {
            self.free_since.remove(lease);
            return Step::Take;
        }
        Step::Wait
    }
}

/// Which of `nodes` is to hold `lease`: the same for whoever asks, in whatever order they are.
pub fn preferred<'a>(lease: &str, nodes: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    nodes.max_by_key(|node| (weight(lease, node), *node))
}

/// FNV-1a, with the finalizer of MurmurHash3, since FNV alone hardly spreads the last bytes. It is the same in every
/// version.
fn weight(lease: &str, node: &str) -> u64 {
    let bytes = lease.bytes().chain([0]).chain(node.bytes());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp(n * 1_000_000)
    }

    fn member(name: &str) -> NodeRecord {
        let at = second(1);
        NodeRecord {
            name: name.into(),
            generation: 1,
            expires_at: at,
            started_at: at,
            seen_at: at,
            version: String::new(),
            url: String::new(),
            last_id: 0,
            is_draining: false,
        }
    }

    fn held_by(node: &str, generation: i64) -> LeaseRecord {
        LeaseRecord { node: node.to_owned(), node_generation: generation, generation: 1, wanted_by: None }
    }

    const TERM: Term = Term { generation: 1, valid_until: Timestamp(i64::MAX), since: Timestamp(0) };

    /// A lease of a service that `node` is to hold, of those that are members.
    fn lease_of(node: &str, nodes: &[NodeRecord]) -> LeaseName {
        let names = || nodes.iter().map(|node| &*node.name);
        let mut leases = (0..).map(|n| LeaseName::service(&format!("service-{n}")));
        leases.find(|lease| preferred(lease.as_str(), names()) == Some(node)).expect("each gets some")
    }

    #[test]
    fn a_free_lease_is_taken_by_who_is_to_hold_it_and_after_a_while_by_anybody() {
        let nodes = [member("a"), member("b")];
        let (mine, other) = (lease_of("a", &nodes), lease_of("b", &nodes));
        let mut a = Placement::default();
        assert_eq!(a.step(&mine, None, ("a", TERM), &nodes, second(1)), Step::Take);
        assert_eq!(a.step(&other, None, ("a", TERM), &nodes, second(1)), Step::Wait);
        assert_eq!(
            a.step(&other, Some(&held_by("b", 0)), ("a", TERM), &nodes, second(2)),
            Step::Wait,
            "an earlier generation"
        );
        assert_eq!(a.step(&other, None, ("a", TERM), &nodes, second(3)), Step::Take);
        let gone = NodeRecord { expires_at: Timestamp(0), ..member("b") };
        let alone = [member("a"), gone];
        assert_eq!(
            a.step(&other, Some(&held_by("b", 1)), ("a", TERM), &alone, second(4)),
            Step::Take,
            "nobody else is there"
        );
    }

    #[test]
    fn a_node_that_drains_takes_nothing_that_another_can_take() {
        let draining = NodeRecord { is_draining: true, ..member("a") };
        let lease = LeaseName::schedules();
        let mut a = Placement::default();
        let mut step = |nodes: &[NodeRecord], at| a.step(&lease, None, ("a", TERM), nodes, second(at));
        assert_eq!(step(&[draining.clone(), member("b")], 1), Step::Wait);
        assert_eq!(step(&[draining.clone(), member("b")], 99), Step::Wait, "however long it is free");
        let alone = [draining];
        assert_eq!([step(&alone, 99), step(&alone, 101)], [Step::Wait, Step::Take], "nobody else is there");
    }

    #[test]
    fn a_lease_is_asked_for_by_who_is_to_hold_it_once_it_has_settled() {
        let nodes = [member("a"), member("b")];
        let mine = lease_of("a", &nodes);
        let mut a = Placement::default();
        let term = Term { since: second(10), ..TERM };
        let mut step = |record: &LeaseRecord, at| a.step(&mine, Some(record), ("a", term), &nodes, second(at));
        assert_eq!(step(&held_by("b", 1), 14), Step::Wait);
        assert_eq!(step(&held_by("b", 1), 15), Step::Want);
        let asked = LeaseRecord { wanted_by: Some("a".into()), ..held_by("b", 1) };
        assert_eq!(step(&asked, 16), Step::Wait, "it was asked for");
        let mut b = Placement::default();
        assert_eq!(b.step(&mine, Some(&asked), ("b", TERM), &nodes, second(16)), Step::Keep { is_wanted: true });
        let draining = [NodeRecord { is_draining: true, ..member("a") }, member("b")];
        assert_eq!(b.step(&mine, Some(&asked), ("b", TERM), &draining, second(17)), Step::Keep { is_wanted: false });
        let consumer = LeaseName::consumer("billing");
        assert_eq!(
            b.step(&consumer, Some(&held_by("a", 1)), ("b", TERM), &nodes, second(99)),
            Step::Wait,
            "it has members there"
        );
    }

    proptest! {
        #[test]
        fn of_those_ready_to_hold_a_lease_one_is_to_hold_it(count in 1..6_usize, gone in 0..6_usize, service in "[a-z]{1,8}") {
            let names: Vec<String> = (0..count).map(|n| format!("node-{n}:4300")).collect();
            let lease = format!("service:{service}");
            let all = preferred(&lease, names.iter().map(String::as_str)).expect("there is one");
            let reversed = preferred(&lease, names.iter().rev().map(String::as_str));
            prop_assert_eq!(reversed, Some(all), "whatever their order");
            let left = names.iter().enumerate().filter(|(n, _)| *n != gone).map(|(_, name)| name.as_str());
            if names.get(gone).is_none_or(|name| name != all) {
                prop_assert_eq!(preferred(&lease, left), Some(all), "who goes moves nothing but its own");
            }
        }
    }

    #[test]
    fn leases_are_spread_evenly() {
        let names: Vec<String> = (0..3).map(|n| format!("host-{n}:4300")).collect();
        let mut counts = [0_usize; 3];
        for n in 0..300 {
            let holder = preferred(&format!("service:s{n}"), names.iter().map(String::as_str)).expect("there is one");
            counts[names.iter().position(|name| name == holder).expect("one of them")] += 1;
        }
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
    }
}
