use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::delivery::DeadReason;

const SECOND: Duration = Duration::from_secs(1);

fn policy(max_deliver: u32) -> ConsumerPolicy {
    ConsumerPolicy { ack_wait: SECOND, max_in_flight: 4, max_deliver }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp(0).plus(SECOND * u32::try_from(seconds).expect("small"))
}

fn free(_: MemberId) -> bool {
    true
}

fn taken(events: impl IntoIterator<Item = EventId>, max_deliver: u32) -> ConsumerState<()> {
    let mut durable = ConsumerState::new(policy(max_deliver), 1024, 0, []);
    events.into_iter().for_each(|id| durable.take(id, (), 1));
    durable
}

fn sent(durable: &mut ConsumerState<()>, now: Timestamp) -> Vec<(MemberId, EventId, u32)> {
    let deliveries = std::iter::from_fn(|| durable.next(now, free));
    deliveries.map(|d| (d.member, d.id, d.delivery)).collect()
}

#[test]
fn members_share_the_work_and_what_one_leaves_goes_to_another() {
    let mut durable = taken(1..=6, 0);
    let (a, b) = (1, 2);
    durable.join(a);
    durable.join(b);
    assert_eq!(sent(&mut durable, at(0)), [(a, 1, 1), (b, 2, 1), (a, 3, 1), (b, 4, 1)]);
    assert_eq!(durable.ack(2), Acked::Now);
    durable.leave(a);
    assert_eq!(sent(&mut durable, at(0)), [(b, 1, 2), (b, 3, 2), (b, 5, 1)]);
    assert_eq!(durable.ack_floor(), 0);
    durable.nack(b, 3, None);
    assert_eq!(sent(&mut durable, at(0)), [(b, 3, 3)]);
    // What was given to it after that, 1 and 3 once more, may be on its way.
    assert_eq!((durable.ack_through(b, 4), durable.ack_floor()), (Ok(1), 0));
    assert_eq!((durable.ack_through(b, 5), durable.ack_floor()), (Ok(2), 2));
    assert_eq!((durable.ack_through(b, 5), durable.ack_through(b, 6)), (Err(Acked::Before), Err(Acked::Unknown)));
    assert_eq!((durable.ack(3), durable.ack_floor()), (Acked::Now, 5));
}

#[test]
fn what_is_not_acknowledged_in_time_comes_again_until_it_is_dead() {
    let mut durable = taken([7], 2);
    let member = 1;
    durable.join(member);
    assert_eq!(sent(&mut durable, at(0)), [(member, 7, 1)]);
    assert_eq!(durable.next_due(), Some(at(1)));
    assert!(durable.extend(member, 7, at(1)));
    durable.expire(at(1));
    assert_eq!(sent(&mut durable, at(1)), []);
    durable.expire(at(2));
    assert_eq!(sent(&mut durable, at(2)), [(member, 7, 2)]);
    durable.expire(at(3));
    let Changes { ack_floor, dead, .. } = durable.take_changes();
    assert_eq!((ack_floor, dead), (7, vec![Dead { id: 7, item: (), deliveries: 2, reason: DeadReason::Exhausted }]));
    assert_eq!(durable.ack(7), Acked::Before);
}

#[test]
fn a_refused_event_waits_as_long_as_asked_for() {
    let mut durable = taken([1, 2], 0);
    let member = 1;
    durable.join(member);
    sent(&mut durable, at(0));
    assert!(durable.nack(member, 1, Some(at(5))) && !durable.nack(member, 1, None));
    assert!(durable.reject(member, 2));
    durable.expire(at(4));
    assert_eq!(sent(&mut durable, at(4)), []);
    durable.expire(at(5));
    assert_eq!(sent(&mut durable, at(5)), [(member, 1, 2)]);
}

#[test]
fn what_was_handed_back_was_not_delivered() {
    let mut durable = taken([1], 1);
    durable.join(1);
    assert_eq!(sent(&mut durable, at(0)), [(1, 1, 1)]);
    durable.requeue(1, 1);
    assert_eq!((durable.ack(1), durable.in_flight()), (Acked::Unknown, 0));
    assert_eq!(sent(&mut durable, at(0)), [(1, 1, 1)]);
}

#[test]
fn acknowledgements_of_what_nobody_was_given_are_refused() {
    let mut durable = taken([3, 4], 0);
    assert_eq!([1, 3, 4, 9].map(|id| durable.ack(id)), [Acked::Before, Acked::Unknown, Acked::Unknown, Acked::Unknown]);
}

#[test]
fn what_is_made_anew_does_not_move_the_floor() {
    let mut durable = taken([1, 2], 1);
    let member = 1;
    durable.join(member);
    sent(&mut durable, at(0));
    assert!(durable.reject(member, 1));
    assert_eq!(durable.ack(2), Acked::Now);
    durable.take_changes();
    durable.renew(1, (), 1, 1);
    assert_eq!((durable.ack_floor(), sent(&mut durable, at(0))), (2, vec![(member, 1, 2)]));
    assert_eq!(durable.ack(1), Acked::Now);
    let Changes { ack_floor, marks, renewed, .. } = durable.take_changes();
    assert_eq!((ack_floor, marks, renewed), (2, vec![], vec![(1, 2)]));
}

#[test]
fn what_is_settled_below_the_floor_is_not_stored_before_it_is_confirmed() {
    let mut durable = taken([1], 0);
    durable.join(1);
    sent(&mut durable, at(0));
    assert_eq!((durable.ack(1), durable.ack_floor()), (Acked::Now, 1));
    let changes = durable.take_changes();
    assert_eq!(changes.marks, [], "the floor says it all");
    durable.restore(changes);
    assert!(durable.has_changes() && durable.stored() < durable.revision(), "it has still to be stored");
    let changes = durable.take_changes();
    durable.confirm(changes.revision);
    assert_eq!((durable.has_changes(), durable.stored()), (false, durable.revision()));
}

#[test]
fn says_what_holds_it_up() {
    let mut durable = ConsumerState::new(policy(0), 100, 0, []);
    durable.join(1);
    (1..=5).for_each(|id| durable.take(id, (), 10));
    assert_eq!((sent(&mut durable, at(0)).len(), durable.held_by(false)), (4, Some(HeldBy::MaxInFlight)));
    assert_eq!((durable.ack(1), durable.held_by(true)), (Acked::Now, None));
    assert_eq!((sent(&mut durable, at(0)).len(), durable.held_by(true)), (1, None));
    durable.take(6, (), 80);
    assert!(!durable.has_room() && durable.ack(2) == Acked::Now && durable.ack(3) == Acked::Now);
    assert_eq!((sent(&mut durable, at(0)).len(), durable.held_by(false)), (1, None));
    assert_eq!(durable.held_by(true), Some(HeldBy::MaxUnackedBytes));
    assert_eq!(durable.busy_members().collect::<Vec<_>>(), [1]);
}

#[derive(Debug, Clone)]
enum Step {
    /// An event is published; of this durable, or of others.
    Publish(bool),
    Join,
    Leave(u8),
    Send(u8),
    /// One of those given out is acknowledged.
    Ack(u8),
    AckThrough(u8),
    Nack(u8),
    /// So many tenths of a second pass.
    Pass(u8),
    Store(Ending),
    /// All that is not stored is lost.
    Crash,
}

/// How a store ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Confirmed,
    Failed,
    /// Stored, and nobody was told.
    Unconfirmed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(Step::Publish),
        2 => Just(Step::Join),
        1 => any::<u8>().prop_map(Step::Leave),
        5 => (1..6u8).prop_map(Step::Send),
        5 => any::<u8>().prop_map(Step::Ack),
        1 => any::<u8>().prop_map(Step::AckThrough),
        2 => any::<u8>().prop_map(Step::Nack),
        2 => (1..15u8).prop_map(Step::Pass),
        3 => Just(Step::Store(Ending::Confirmed)),
        1 => Just(Step::Store(Ending::Failed)),
        1 => Just(Step::Store(Ending::Unconfirmed)),
        1 => Just(Step::Crash),
    ]
}

/// What a store keeps.
#[derive(Debug, Default)]
struct Stored {
    ack_floor: EventId,
    marks: BTreeMap<EventId, Mark>,
}

impl Stored {
    fn has(&self, id: EventId) -> bool {
        id <= self.ack_floor || self.marks.get(&id) == Some(&Mark::Settled)
    }

    fn apply(&mut self, changes: &Changes<()>) {
        assert!(changes.ack_floor >= self.ack_floor, "the floor falls");
        self.ack_floor = changes.ack_floor;
        self.marks.retain(|id, _| !changes.passed_marks.contains(id));
        self.marks.extend(changes.marks.iter().copied());
        assert!(self.marks.keys().all(|id| *id > self.ack_floor), "marks below the floor");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// DS-1 to DS-5, whatever members do, the store fails, and the process crashes.
    #[test]
    fn nothing_is_lost_and_nothing_settled_comes_again(steps in prop::collection::vec(step(), 0..150)) {
        let mut log: Vec<bool> = Vec::new();
        let mut stored = Stored::default();
        let mut durable: ConsumerState<()> = ConsumerState::new(policy(0), 1024, 0, []);
        let (mut members, mut joined): (Vec<MemberId>, MemberId) = Default::default();
        let mut with: BTreeMap<EventId, MemberId> = BTreeMap::new();
        let (mut given, mut gifts): (BTreeMap<EventId, u32>, u32) = Default::default();
        let (mut acked, mut safe): (BTreeSet<EventId>, BTreeSet<EventId>) = Default::default();
        // Acknowledgements, and what has to be stored before they are told.
        let mut to_tell: Vec<(Revision, EventId)> = Vec::new();
        let mut now = Timestamp(0);
        let pick = |n: u8, with: &BTreeMap<EventId, MemberId>| {
            (!with.is_empty()).then(|| with.iter().nth(usize::from(n) % with.len()).map(|(id, m)| (*id, *m)).expect("one"))
        };
        let all = steps.into_iter().chain([Step::Join, Step::Crash, Step::Join]);
        for step in all {
            match step {
                Step::Publish(own) => log.push(own),
                Step::Join if members.len() < 4 => {
                    joined += 1;
                    durable.join(joined);
                    members.push(joined);
                }
                Step::Join => {}
                Step::Leave(n) if !members.is_empty() => {
                    let member = members.swap_remove(usize::from(n) % members.len());
                    durable.leave(member);
                    with.retain(|_, m| *m != member);
                }
                Step::Send(count) => {
                    for id in durable.cursor() + 1..=log.len() as EventId {
                        if log[id as usize - 1] { durable.take(id, (), 1) } else { durable.advance(id) }
                    }
                    for _ in 0..count {
                        let Some(delivery) = durable.next(now, free) else { break };
                        prop_assert!(!safe.contains(&delivery.id), "DS-2");
                        prop_assert!(with.insert(delivery.id, delivery.member).is_none(), "DS-3");
                        gifts += 1;
                        given.insert(delivery.id, gifts);
                        prop_assert!(members.contains(&delivery.member) && delivery.delivery > 0);
                    }
                    prop_assert!(with.len() <= 4 && with.len() == durable.in_flight());
                }
                Step::Ack(n) => if let Some((id, _)) = pick(n, &with) {
                    prop_assert_eq!(durable.ack(id), Acked::Now);
                    with.remove(&id);
                    acked.insert(id);
                    to_tell.push((durable.revision(), id));
                },
                Step::AckThrough(n) => if let Some((id, member)) = pick(n, &with) {
                    let last = given[&id];
                    let done: Vec<EventId> = with
                        .iter()
                        .filter(|(i, m)| **i <= id && **m == member && given[*i] <= last)
                        .map(|(i, _)| *i)
                        .collect();
                    prop_assert_eq!(durable.ack_through(member, id), Ok(done.len()));
                    for id in done {
                        with.remove(&id);
                        acked.insert(id);
                        to_tell.push((durable.revision(), id));
                    }
                },
                Step::Nack(n) => if let Some((id, member)) = pick(n, &with) {
                    let delay = (n % 2 == 0).then(|| now.plus(SECOND / 2));
                    prop_assert!(durable.nack(member, id, delay));
                    with.remove(&id);
                },
                Step::Pass(tenths) => {
                    now = now.plus(SECOND / 10 * u32::from(tenths));
                    durable.expire(now);
                    prop_assert!(durable.next_due().is_none_or(|due| due > now));
                    with.retain(|id, member| durable.is_with(*member, *id));
                }
                Step::Store(ending) => {
                    let changes = durable.take_changes();
                    if !matches!(ending, Ending::Failed) {
                        stored.apply(&changes);
                        safe = acked.clone();
                    }
                    if matches!(ending, Ending::Confirmed) {
                        durable.confirm(changes.revision);
                        prop_assert!(!durable.is_dirty() && durable.stored() == durable.revision());
                    } else {
                        durable.restore(changes);
                    }
                }
                Step::Crash => {
                    durable = ConsumerState::new(policy(0), 1024, stored.ack_floor, stored.marks.clone());
                    acked = safe.clone();
                    members.clear();
                    with.clear();
                    to_tell.clear();
                }
                Step::Leave(_) => {}
            }
            for (_, told) in to_tell.extract_if(.., |(revision, _)| *revision <= durable.stored()) {
                prop_assert!(stored.has(told), "DS-5: {told}");
            }
            prop_assert!(to_tell.is_empty() || durable.is_dirty(), "nobody is left waiting");
            let open = (1..=stored.ack_floor).find(|id| log[*id as usize - 1] && !acked.contains(id));
            prop_assert_eq!(open, None, "DS-4");
        }
        // In the end everything is delivered and acknowledged.
        loop {
            for id in durable.cursor() + 1..=log.len() as EventId {
                if log[id as usize - 1] { durable.take(id, (), 1) } else { durable.advance(id) }
            }
            let Some(delivery) = durable.next(now, free) else { break };
            prop_assert!(!safe.contains(&delivery.id), "DS-2");
            durable.ack(delivery.id);
            acked.insert(delivery.id);
        }
        now = now.plus(SECOND * 10);
        durable.expire(now);
        while let Some(delivery) = durable.next(now, free) {
            durable.ack(delivery.id);
            acked.insert(delivery.id);
        }
        let own: BTreeSet<EventId> = (1..=log.len() as EventId).filter(|id| log[*id as usize - 1]).collect();
        prop_assert_eq!(acked, own, "DS-1");
        prop_assert_eq!(durable.ack_floor(), log.len() as EventId);
        stored.apply(&durable.take_changes());
        prop_assert_eq!(stored.marks.len(), 0);
    }
}
