//! Several nodes on one store: memberships, leases, and writes of those who have lost theirs.

use std::time::Duration;

use super::outbox::{Outbox, end};
use super::{NOON, Store, event, on_both, single};
use crate::domain::event::{Append, AppendOutcome, NewEvent, Schedule, ScheduleId, Timestamp};
use crate::domain::lease::{Fence, Grant, LeaseName};
use crate::domain::membership::{Beat, BeatOutcome, Term};
use crate::domain::placement::Placement;
use crate::storage::{
    BeatAnswer, Group, LeasedFollower, NodeStatus, Outcome, Seeker, ServiceChange, Settled, TakeDue, Write, Writer,
};

/// A node, which acts through whatever writer is given.
pub(super) struct Node {
    name: &'static str,
    ttl: Option<Duration>,
    term: Option<Term>,
    placement: Placement,
}

impl Node {
    fn new(name: &'static str, ttl: Duration) -> Self {
        Self { name, ttl: Some(ttl), term: None, placement: Placement::default() }
    }

    /// One that is a member for long.
    pub fn joined(name: &'static str, writer: &mut Writer) -> Self {
        Self::joined_for(LONG, name, writer)
    }

    /// The same, whether or not an earlier one of its name is.
    pub fn joined_anew(name: &'static str, writer: &mut Writer) -> Self {
        let mut node = Self { ttl: None, ..Self::new(name, LONG) };
        assert!(matches!(node.beat(writer, Beat::Join).outcome, BeatOutcome::Joined { .. }));
        node
    }

    fn joined_for(ttl: Duration, name: &'static str, writer: &mut Writer) -> Self {
        let mut node = Self::new(name, ttl);
        assert!(matches!(node.beat(writer, Beat::Join).outcome, BeatOutcome::Joined { .. }));
        node
    }

    fn generation(&self) -> i64 {
        self.term.expect("a member").generation
    }

    fn beat(&mut self, writer: &mut Writer, beat: Beat) -> BeatAnswer {
        let status = NodeStatus {
            name: self.name.into(),
            ttl: self.ttl,
            version: "0".to_owned(),
            url: String::new(),
            last_id: 7,
            is_draining: false,
        };
        let answer = writer.beat(&status, beat).expect("the store answers");
        if let BeatOutcome::Joined { generation } = answer.outcome {
            self.term = Some(Term { generation, valid_until: Timestamp(i64::MAX), since: Timestamp(0) });
        }
        answer
    }

    fn renew(&mut self, writer: &mut Writer, judges: bool) -> BeatAnswer {
        let generation = self.generation();
        self.beat(writer, Beat::Renew { generation, judges })
    }

    /// As who asks for leases, after it has settled.
    pub fn seeker(&mut self) -> Seeker<'_> {
        let Self { name: node, term, placement, .. } = self;
        Seeker { node, term: *term, placement, now: Timestamp(10_000_000) }
    }

    pub fn lease(&mut self, writer: &mut Writer, name: &LeaseName) -> Grant {
        writer.lease(std::slice::from_ref(name), self.seeker()).expect("the store answers")[0]
    }

    /// Takes a lease that is free, and not another's to take.
    pub fn take(&mut self, writer: &mut Writer, lease: &LeaseName) -> Fence {
        let Grant::Taken { generation } = self.lease(writer, lease) else { panic!("{lease} is not free") };
        Fence { lease: lease.clone(), generation }
    }
}

const LONG: Duration = Duration::from_secs(3600);
/// Over as soon as it was given.
const NONE: Duration = Duration::ZERO;

fn billing() -> LeaseName {
    LeaseName::consumer("billing")
}

#[test]
fn members_know_each_other_until_one_is_found_lost() {
    on_both(|store| {
        let writer = &mut store.writer();
        let (mut a, mut b) = (Node::joined("a", writer), Node::joined_for(NONE, "b", writer));
        let known = |answer: BeatAnswer| -> Vec<_> {
            answer.nodes.iter().map(|node| (node.name.to_string(), node.is_member(), node.last_id)).collect()
        };
        let both = vec![("a".to_owned(), true, 7), ("b".to_owned(), true, 7)];
        assert_eq!(known(a.renew(writer, false)), both, "nobody has judged");
        assert_eq!(known(a.renew(writer, true)), [("a".to_owned(), true, 7), ("b".to_owned(), false, 7)]);
        assert_eq!(b.renew(writer, true).outcome, BeatOutcome::Lost);
        assert_eq!(known(a.renew(writer, true))[0], both[0], "who is lost does not judge");
    });
}

#[test]
fn a_name_is_held_until_its_membership_ends() {
    on_both(|store| {
        let writer = &mut store.writer();
        let (mut first, mut second) = (Node::joined("a", writer), Node::new("a", LONG));
        let generation = first.generation();
        let BeatOutcome::NameHeld { generation: held, .. } = second.beat(writer, Beat::Join).outcome else {
            panic!("joined")
        };
        assert_eq!(held, generation);
        writer.leave("a", generation).expect("left");
        let BeatOutcome::Joined { generation: next } = second.beat(writer, Beat::Join).outcome else { panic!("held") };
        assert!(next > generation);
        assert_eq!(first.renew(writer, true).outcome, BeatOutcome::Lost);
    });
}

#[test]
fn a_clock_that_goes_back_makes_no_membership_longer() {
    on_both(|store| {
        let writer = &mut store.writer();
        let (mut a, mut b) = (Node::joined("a", writer), Node::joined("b", writer));
        store.execute("UPDATE nodes SET expires_at = expires_at + 3600000000");
        let mut second = Node::new("b", LONG);
        let BeatOutcome::NameHeld { expires_at, .. } = second.beat(writer, Beat::Join).outcome else {
            panic!("joined")
        };
        let BeatAnswer { outcome, nodes } = a.renew(writer, true);
        assert_eq!(outcome, BeatOutcome::Renewed);
        assert!(expires_at.since(nodes[0].seen_at) <= Duration::from_secs(10), "{nodes:?}");
        assert_eq!(b.renew(writer, true).outcome, BeatOutcome::Renewed, "its time is not over");
    });
}

#[test]
fn where_no_other_process_can_be_an_earlier_member_of_any_name_is_gone() {
    let store = Store::sqlite();
    let writer = &mut store.writer();
    let mut earlier = Node { ttl: None, ..Node::new("a:1", LONG) };
    earlier.beat(writer, Beat::Join);
    let fence = earlier.take(writer, &billing());
    let mut later = Node { ttl: None, ..Node::new("a:2", LONG) };
    later.beat(writer, Beat::Join);
    assert!(later.take(writer, &billing()).generation > fence.generation);
}

#[test]
fn one_member_has_a_lease_until_it_leaves_or_releases_it() {
    on_both(|store| {
        let writer = &mut store.writer();
        let (mut a, mut b) = (Node::joined("a", writer), Node::joined("b", writer));
        assert_eq!(Node::new("c", LONG).lease(writer, &billing()), Grant::Elsewhere, "no member");
        let kept = |fence: &Fence| Grant::Kept { generation: fence.generation, is_wanted: false };
        let first = a.take(writer, &billing());
        assert_eq!(a.lease(writer, &billing()), kept(&first));
        assert_eq!(b.lease(writer, &billing()), Grant::Elsewhere);

        writer.release(&first).expect("released");
        let second = b.take(writer, &billing());
        writer.release(&first).expect("too late");
        assert_eq!(b.lease(writer, &billing()), kept(&second));

        writer.leave("b", b.generation()).expect("left");
        assert_eq!(b.lease(writer, &billing()), Grant::Elsewhere);
        let third = a.take(writer, &billing());
        assert!(first.generation < second.generation && second.generation < third.generation);
    });
}

#[test]
fn of_many_who_ask_at_once_one_has_the_lease() {
    let store = Store::postgres();
    let asked = ["a", "b", "c", "d"].map(|name| {
        let mut writer = store.writer();
        let mut node = Node::joined(name, &mut writer);
        let mut has =
            move |n: &usize| node.lease(&mut writer, &LeaseName::consumer(&n.to_string())) != Grant::Elsewhere;
        std::thread::spawn(move || (0..20).filter(|n| has(n)).count())
    });
    let held: usize = asked.into_iter().map(|node| node.join().expect("no panic")).sum();
    assert_eq!(held, 20);
}

#[test]
fn a_member_that_is_to_have_a_lease_asks_for_it_and_gets_it() {
    on_both(|store| {
        let writer = &mut store.writer();
        let mut a = Node::joined("a", writer);
        let leases: Vec<LeaseName> = (0..8).map(|n| LeaseName::service(&n.to_string())).collect();
        let fences: Vec<Fence> = leases.iter().map(|lease| a.take(writer, lease)).collect();
        let mut b = Node::joined("b", writer);
        for lease in &leases {
            assert_eq!(b.lease(writer, lease), Grant::Elsewhere, "it is held");
        }
        let mut is_wanted =
            |fence: &&Fence| matches!(a.lease(writer, &fence.lease), Grant::Kept { is_wanted: true, .. });
        let wanted: Vec<&Fence> = fences.iter().filter(|fence| is_wanted(fence)).collect();
        assert!((1..8).contains(&wanted.len()), "some: {wanted:?}");
        writer.release(wanted[0]).expect("released");
        assert_eq!(a.lease(writer, &wanted[0].lease), Grant::Elsewhere, "it is b's turn");
        b.take(writer, &wanted[0].lease);
    });
}

#[test]
fn what_an_earlier_holder_writes_is_void_as_a_whole() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(2);
        let service = outbox.all;
        let writer = &mut outbox.writer;
        let (mut a, mut b) = (Node::joined_for(NONE, "x", writer), Node::joined("y", writer));
        let fence = a.take(writer, &billing());
        let settle = |id| Write::Settle(vec![end(service, id, 1, Settled::Delivered)]);
        let asked = Write::ChangeService(ServiceChange::Asked { service, command: "pause".to_owned() });
        let commit = |writer: &mut Writer, fence: &Fence, writes: Vec<Write>| {
            let mut group = Group::from(vec![Write::Append(single("by.anybody"))]);
            group.extend(Some(fence.clone()), writes);
            group.extend(None, [Write::Append(single("by.anybody"))]);
            writer.commit(&mut group, &Default::default(), NOON).expect("committed").outcomes
        };
        let stored = |outcome: &Outcome| matches!(outcome, Outcome::Appended(AppendOutcome::Stored { .. }));
        let outcomes = commit(writer, &fence, vec![settle(1), Write::Append(single("by.holder"))]);
        assert!(stored(&outcomes[0]) && stored(&outcomes[2]) && stored(&outcomes[3]), "{outcomes:?}");
        assert_eq!(outcomes[1], Outcome::Settled { were_all_open: true });

        b.renew(writer, true);
        let taken = b.take(writer, &billing());
        let outcomes = commit(writer, &fence, vec![settle(2), Write::Append(single("by.holder")), asked]);
        assert!(stored(&outcomes[0]) && stored(&outcomes[4]), "what others have asked for: {outcomes:?}");
        assert_eq!(outcomes[1..4], [Outcome::Void, Outcome::Void, Outcome::Void]);
        let outcomes = commit(writer, &taken, vec![settle(2)]);
        assert_eq!(outcomes[1], Outcome::Settled { were_all_open: true }, "it was still open");
    });
}

#[test]
fn the_part_of_an_earlier_holder_is_void_beside_what_the_store_cannot_hold() {
    on_both(|store| {
        let writer = &mut store.writer();
        let (mut a, mut b) = (Node::joined_for(NONE, "a", writer), Node::joined("b", writer));
        let stale = a.take(writer, &billing());
        b.renew(writer, true);
        b.take(writer, &billing());
        let bad = NewEvent { source: "a\0b".into(), ..event("bad", "{}") };
        let mut group = Group::from(vec![Write::Append(Append::single(bad))]);
        group.extend(Some(stale), [Write::Append(single("by.holder"))]);
        group.extend(None, [Write::Append(single("by.anybody"))]);
        let committed = writer.commit(&mut group, &Default::default(), NOON).expect("committed");
        assert_eq!(committed.outcomes[0], Outcome::Appended(AppendOutcome::Unstorable));
        assert_eq!(committed.outcomes[1], Outcome::Void);
        assert_eq!(committed.events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["by.anybody"]);
    });
}

#[test]
fn what_is_due_is_appended_by_who_has_the_lease() {
    on_both(|store| {
        let writer = &mut store.writer();
        let schedule = Some(Schedule { id: ScheduleId(1), due_at: NOON });
        writer.append(vec![Append { schedule, ..single("later") }], NOON).expect("scheduled");
        let (mut a, mut b) = (Node::joined_for(NONE, "a", writer), Node::joined("b", writer));
        let stale = a.take(writer, &billing());
        b.renew(writer, true);
        let current = b.take(writer, &billing());
        let mut take = |fence: &Fence| {
            let due = Some(TakeDue { fence: fence.clone(), limit: 9 });
            let committed = writer.commit(&mut Group { due, ..Group::default() }, &Default::default(), NOON);
            committed.expect("committed").events.len()
        };
        assert_eq!([take(&stale), take(&current)], [0, 1]);
    });
}

#[test]
fn the_position_of_a_follower_moves_with_what_it_writes() {
    on_both(|store| {
        let writer = &mut store.writer();
        let (mut a, mut b) = (Node::joined_for(NONE, "x", writer), Node::joined("y", writer));
        let known = |node: &mut Node, writer: &mut Writer, name: &str| {
            writer.lease_follower(&billing(), name, node.seeker()).expect("the store answers")
        };
        let stale = a.take(writer, &billing());
        assert_eq!(known(&mut a, writer, "in").position, None);
        let commit = |writer: &mut Writer, fence: &Fence, position: &str| {
            let position = Write::MovePosition { name: "in".to_owned(), position: position.to_owned() };
            let mut group = Group::default();
            group.extend(Some(fence.clone()), [Write::Append(single("a")), position]);
            writer.commit(&mut group, &Default::default(), NOON).expect("committed").events.len()
        };
        assert_eq!([commit(writer, &stale, "9-1"), commit(writer, &stale, "7-1")], [1, 1]);
        b.renew(writer, true);
        let current = b.take(writer, &billing());
        assert_eq!(commit(writer, &stale, "8-1"), 0);
        let LeasedFollower { grant, position } = known(&mut b, writer, "in");
        assert_eq!((grant.generation(), position.as_deref()), (Some(current.generation), Some("7-1")));
        assert_eq!(known(&mut b, writer, "other").position, None);
    });
}
