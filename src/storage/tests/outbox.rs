//! The outbox: deliveries, claims, delivery outcomes, replay jobs and schedules.

mod replay_jobs;
mod services;

use std::time::Duration;

use super::leases::Node;
use super::{NOON, Store, appends, at, commit, event, on_both, run};
use crate::domain::delivery::{DeadReason, DeliveryState, EventStatus};
use crate::domain::event::{Append, EventId, LogBounds, NewEvent, Priority, Schedule, ScheduleId, Timestamp};
use crate::domain::lease::{Fence, LeaseName};
use crate::domain::pattern::Pattern;
use crate::domain::priority::Lane;
use crate::domain::routes::{Route, Routes, Selector, ServiceId};
use crate::storage::{
    Claim, Claimed, DeliveryFilter, DeliveryOutcome, Group, LeasedService, NewReplayJob, NewService, Outcome, Pending,
    Reader, Registered, Renewed, ReplayJob, ReplayJobKind, ReplayJobState, RetentionPolicy, SchedulePosition,
    Scheduled, ServiceChange, Settled, TakeDue, Write, Writer,
};

const ROWS: usize = 1000;
const BYTES: usize = 1 << 20;

pub(super) fn pattern(text: &str) -> Pattern {
    Pattern::parse(text.to_owned()).expect("a valid pattern")
}

fn service(name: &str, start_from: Option<EventId>) -> NewService {
    NewService { name: name.to_owned().into(), patterns: vec![pattern(">")], start_from }
}

/// A store with two services: `all` gets every event, `orders` those whose names begin with `order`.
pub(super) struct Outbox {
    pub writer: Writer,
    pub reader: Reader,
    routes: Routes,
    pub all: ServiceId,
    pub orders: ServiceId,
    /// Held by the node of the writer.
    pub fence: Fence,
    pub node: Node,
}

impl Outbox {
    pub fn new(store: &Store) -> Self {
        let mut writer = store.writer();
        let known = writer.register(&[service("all", None), service("orders", None)], NOON).expect("registered");
        let [all, orders] = [known[0].id, known[1].id];
        let route = |service, name: &'static str, text: &str, echo| Route {
            service,
            selectors: vec![Selector::all_of(pattern(text))],
            own_sources: if echo { Vec::new() } else { vec![name.into()] },
        };
        let routes = Routes::new(vec![route(all, "all", ">", false), route(orders, "orders", "order.>", true)]);
        let mut node = Node::joined("a", &mut writer);
        let fence = node.take(&mut writer, &LeaseName::jobs());
        Self { writer, reader: store.reader(), routes, all, orders, fence, node }
    }

    pub fn commit(&mut self, group: impl Into<Group>, now: Timestamp) -> crate::storage::Committed {
        self.writer.commit(&mut group.into(), &self.routes, now).expect("committed")
    }

    /// Stores events called `order.made` with these priorities and keys.
    fn publish(&mut self, events: &[(Priority, Option<&'static str>)]) {
        let new = |(priority, key): &(Priority, Option<&'static str>)| NewEvent {
            priority: *priority,
            key: key.map(Into::into),
            ..event("order.made", "{}")
        };
        self.commit(appends(events.iter().map(|event| Append::single(new(event)))), NOON);
    }

    pub fn publish_plain(&mut self, count: usize) {
        self.publish(&vec![(Priority::Normal, None); count]);
    }

    pub fn settle(&mut self, delivery_outcomes: Vec<DeliveryOutcome>) {
        self.commit(vec![Write::Settle(delivery_outcomes)], NOON);
    }

    /// Makes deliveries of `all` dead.
    pub fn kill(&mut self, ids: impl IntoIterator<Item = EventId>) {
        let dead = Settled::Dead(DeadReason::Exhausted);
        let delivery_outcomes = ids.into_iter().map(|id| end(self.all, id, 1, dead)).collect();
        self.settle(delivery_outcomes);
    }

    fn claim_of(&self, service: ServiceId, claim: Claim, rows: usize) -> Vec<Claimed> {
        run(self.reader.claim(service, claim, rows, BYTES)).expect("claimed")
    }

    /// The events that `all` may claim.
    fn claim(&self, claim: Claim) -> Vec<EventId> {
        self.claim_of(self.all, claim, ROWS).iter().map(|row| row.event.id).collect()
    }

    fn waiting(&self, lane: Lane) -> Vec<EventId> {
        self.claim(Claim::Waiting { lane, after: 0 })
    }

    fn due(&self, now: Timestamp) -> Vec<EventId> {
        self.claim(Claim::Due { now, after: Default::default() })
    }

    fn pending(&mut self) -> Pending {
        self.writer.pending(self.all).expect("counted")
    }

    fn job(&mut self, kind: ReplayJobKind, patterns: &[&str], from: EventId, through: EventId) -> i64 {
        let patterns = patterns.iter().map(|text| pattern(text)).collect();
        let job = NewReplayJob { kind, service: self.all, patterns, from, through };
        match commit(&mut self.writer, Write::StartReplayJob(job)) {
            Outcome::Started(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, now: Timestamp) -> Vec<Renewed> {
        let steps = self.writer.step_replay_jobs(&self.fence, &self.routes, now).expect("stepped");
        steps.into_iter().map(|(_, renewed)| renewed).collect()
    }

    /// So many of what is due.
    pub fn take_due(&self, limit: usize) -> Option<TakeDue> {
        Some(TakeDue { fence: self.fence.clone(), limit })
    }

    fn last_job(&self) -> ReplayJob {
        run(self.reader.replay_jobs(1)).expect("jobs").remove(0)
    }
}

pub(super) fn end(service: ServiceId, event_id: EventId, attempts: u32, settled: Settled) -> DeliveryOutcome {
    let failed = settled != Settled::Delivered;
    DeliveryOutcome {
        service,
        event_id,
        lane: Lane::Normal,
        attempts,
        finished_at: at(i64::from(attempts)),
        took: Duration::from_millis(7),
        http_status: Some(if failed { 503 } else { 200 }),
        reason: failed.then(|| "answered 503".to_owned()),
        answer: failed.then(|| "busy".to_owned()),
        settled,
    }
}

fn renewed(open: i64, dead: i64) -> Renewed {
    Renewed { open, dead }
}

#[test]
fn events_come_with_the_deliveries_their_routes_say() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let (all, orders) = (outbox.all, outbox.orders);
        let from =
            |name: &str, source: &'static str| Append::single(NewEvent { source: source.into(), ..event(name, "{}") });
        // A service does not get its own events unless it asks for them, and no service gets system events.
        let names =
            [("order.made", "api"), ("other", "api"), ("order.made", "all"), ("order.made", "orders"), ("$sys.a", "x")];
        let requests: Vec<_> = names
            .iter()
            .map(|(name, source)| {
                Append::single(NewEvent {
                    name: crate::domain::name::EventName::from_store((*name).to_owned()),
                    ..from("a", source).events[0].clone()
                })
            })
            .collect();
        let committed = outbox.commit(appends(requests), NOON);
        let mut enqueued = committed.enqueued;
        enqueued.sort_unstable();
        assert_eq!(enqueued, [(all, [0, 3, 0, 0]), (orders, [0, 3, 0, 0])]);
        let ids = |service| -> Vec<EventId> {
            let claim = Claim::Waiting { lane: Lane::Normal, after: 0 };
            outbox.claim_of(service, claim, ROWS).iter().map(|row| row.event.id).collect()
        };
        assert_eq!((ids(all), ids(orders)), (vec![1, 2, 4], vec![1, 3, 4]));
    });
}

#[test]
fn lanes_are_claimed_in_the_order_of_ids_from_any_place() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let (high, normal, low) = (Priority::High, Priority::Normal, Priority::Low);
        outbox.publish(&[(low, None), (high, None), (normal, None), (high, None), (low, None), (high, None)]);
        assert_eq!(Lane::LIVE.map(|lane| outbox.waiting(lane)), [vec![2, 4, 6], vec![3], vec![1, 5]]);
        let after = |after, rows| {
            let rows = outbox.claim_of(outbox.all, Claim::Waiting { lane: Lane::High, after }, rows);
            rows.iter().map(|row| row.event.id).collect::<Vec<_>>()
        };
        assert_eq!((after(2, ROWS), after(0, 2), after(6, ROWS)), (vec![4, 6], vec![2, 4], vec![]));
        // Bytes are a bound as well, but one event is always returned.
        let claim = Claim::Waiting { lane: Lane::High, after: 0 };
        assert_eq!(run(outbox.reader.claim(outbox.all, claim, ROWS, 1)).map(|rows| rows.len()), Ok(1));
        assert_eq!(outbox.pending(), Pending { waiting: [3, 1, 2, 0], ..Pending::default() });
    });
}

#[test]
fn of_a_key_each_knows_the_open_one_before_it() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let (high, normal) = (Priority::High, Priority::Normal);
        let keyed = [(normal, Some("a")), (normal, Some("b")), (high, Some("a")), (normal, None), (normal, Some("a"))];
        outbox.publish(&keyed);
        let behind = |outbox: &Outbox, claim| -> Vec<(EventId, Option<EventId>)> {
            let rows = outbox.claim_of(outbox.all, claim, ROWS);
            rows.iter().map(|row| (row.event.id, row.behind)).collect()
        };
        let lane = |lane| Claim::Waiting { lane, after: 0 };
        assert_eq!(behind(&outbox, lane(Lane::High)), [(3, Some(1))]);
        assert_eq!(behind(&outbox, lane(Lane::Normal)), [(1, None), (2, None), (4, None), (5, Some(3))]);
        let key = || Claim::Key { key: "a".into() };
        assert_eq!(behind(&outbox, key()), [(1, None), (3, Some(1)), (5, Some(3))]);
        // A delivery to be retried is open; a delivered or dead one is not. Other services do not matter.
        let delivery_outcomes = vec![
            end(outbox.all, 1, 1, Settled::Retry(at(9))),
            end(outbox.all, 3, 1, Settled::Delivered),
            end(outbox.orders, 1, 1, Settled::Delivered),
        ];
        outbox.settle(delivery_outcomes);
        assert_eq!(behind(&outbox, key()), [(1, None), (5, Some(1))]);
        outbox.kill([1]);
        assert_eq!(behind(&outbox, key()), [(5, None)]);
        assert_eq!(behind(&outbox, Claim::Key { key: "c".into() }), []);
    });
}

#[test]
fn delivery_outcomes_are_written_once_with_every_failed_attempt() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(3);
        let all = outbox.all;
        let dead = Settled::Dead(DeadReason::Rejected);
        outbox.settle(vec![
            end(all, 1, 1, Settled::Delivered),
            end(all, 2, 1, Settled::Retry(at(50))),
            end(all, 3, 1, dead),
        ]);
        // DL-1: a delivery that has ended stays as it is, whatever outcome is stored again.
        outbox.settle(vec![
            end(all, 1, 2, dead),
            end(all, 2, 1, Settled::Retry(at(50))),
            end(all, 3, 2, Settled::Delivered),
        ]);
        let (first, _) = run(outbox.reader.trace(1)).expect("a trace");
        let delivered = first.iter().find(|record| record.service == all).expect("a delivery");
        assert_eq!(
            (delivered.state, delivered.attempts, delivered.http_status),
            (DeliveryState::Delivered, 1, Some(200))
        );
        assert_eq!(
            (delivered.took_us, delivered.finished_at, delivered.reason.as_deref()),
            (Some(7_000), Some(at(1)), None)
        );
        let (second, attempts) = run(outbox.reader.trace(2)).expect("a trace");
        assert_eq!((second[0].state, second[0].due_at), (DeliveryState::Retrying, Some(at(50))));
        let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
        assert_eq!(
            (attempt.attempt, attempt.reason.as_str(), attempt.answer.as_deref()),
            (1, "answered 503", Some("busy"))
        );
        let (third, _) = run(outbox.reader.trace(3)).expect("a trace");
        assert_eq!((third[0].state, third[0].reason.as_deref()), (DeliveryState::Dead, Some("rejected")));
        assert_eq!(outbox.pending(), Pending { retrying: [0, 1, 0, 0], dead: 1, ..Pending::default() });
        outbox.settle(vec![end(all, 2, 2, Settled::Delivered)]);
        assert_eq!(run(outbox.reader.trace(2)).map(|(records, _)| records[0].attempts), Ok(2));
        assert_eq!(outbox.pending(), Pending { dead: 1, ..Pending::default() });
    });
}

#[test]
fn retries_are_claimed_when_they_are_due_the_longest_due_first() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(4);
        let all = outbox.all;
        let due = [30, 10, 20, 10];
        outbox.settle((1..).zip(due).map(|(id, due)| end(all, id, 1, Settled::Retry(at(due)))).collect());
        assert_eq!(
            [9, 10, 20, 99].map(|now| outbox.due(at(now))),
            [vec![], vec![2, 4], vec![2, 4, 3], vec![2, 4, 3, 1]]
        );
        assert_eq!(outbox.claim(Claim::Due { now: at(99), after: (at(10), 2) }), [4, 3, 1]);
        assert!(outbox.waiting(Lane::Normal).is_empty());
        let next = |after| run(outbox.reader.next_due(all, at(after))).expect("a time");
        assert_eq!([0, 10, 20, 30].map(next), [Some(at(10)), Some(at(20)), Some(at(30)), None]);
        let first = &outbox.claim_of(all, Claim::Due { now: at(10), after: Default::default() }, 1)[0];
        assert_eq!((first.attempts, first.spent, first.due_at), (1, 0, Some(at(10))));
    });
}

#[test]
fn the_oldest_open_and_the_status_of_events_are_found() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(5);
        let (all, orders) = (outbox.all, outbox.orders);
        let oldest = |outbox: &Outbox| run(outbox.reader.oldest_open(all)).expect("an event").map(|event| event.id);
        assert_eq!(oldest(&outbox), Some(1));
        outbox.settle((1..=5).map(|id| end(orders, id, 1, Settled::Delivered)).collect());
        outbox.kill([1]);
        outbox.settle(vec![end(all, 2, 1, Settled::Delivered), end(all, 3, 1, Settled::Retry(at(1)))]);
        assert_eq!(oldest(&outbox), Some(3));
        let status = |id| run(outbox.reader.event(id)).expect("read").expect("an event").1;
        use EventStatus::{Failed, Pending, Processed};
        assert_eq!([1, 2, 3, 4].map(status), [Failed, Processed, Pending, Pending]);
        outbox.settle((3..=5).map(|id| end(all, id, 2, Settled::Delivered)).collect());
        assert_eq!(oldest(&outbox), None);
    });
}

#[test]
fn deliveries_are_listed_newest_first_by_state() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let mixed = [Priority::High, Priority::Low, Priority::Normal, Priority::High, Priority::Low, Priority::Normal];
        outbox.publish(&mixed.map(|priority| (priority, Some("k"))));
        let all = outbox.all;
        outbox.kill([1, 4]);
        outbox.settle(vec![end(all, 2, 1, Settled::Delivered), end(all, 5, 1, Settled::Retry(at(1)))]);
        let list = |states: &[DeliveryState], before, limit| -> Vec<EventId> {
            let filter = DeliveryFilter { services: vec![all], states: states.to_vec(), before, limit };
            let page = run(outbox.reader.deliveries(filter)).expect("deliveries");
            let found: Vec<_> = page.deliveries.into_iter().map(|listed| listed.delivery).collect();
            assert!(found.iter().all(|record| record.key.as_deref() == Some("k") && record.service == all));
            found.iter().map(|record| record.event_id).collect()
        };
        use DeliveryState::{Dead, Delivered, Retrying, Waiting};
        assert_eq!(
            [Waiting, Retrying, Delivered, Dead].map(|s| list(&[s], None, 9)),
            [vec![6, 3], vec![5], vec![2], vec![4, 1]]
        );
        assert_eq!(list(&DeliveryState::ALL, None, 9), [6, 5, 4, 3, 2, 1]);
        assert_eq!(
            (list(&DeliveryState::ALL, None, 2), list(&DeliveryState::ALL, Some(5), 2)),
            (vec![6, 5], vec![4, 3])
        );
    });
}

#[test]
fn schedules_become_events_when_due_with_their_deliveries() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let later = |id: u128, due: i64, name: &str| Append {
            schedule: Some(Schedule { id: ScheduleId(id), due_at: at(due) }),
            ..Append::single(event(name, "{}"))
        };
        let requests = [later(1, 30, "c"), later(2, 10, "a"), later(4, 20, "x"), later(3, 20, "b")];
        assert_eq!(outbox.commit(appends(requests), NOON).events, []);
        assert_eq!(outbox.writer.next_schedule(), Ok(Some(at(10))));
        let list = |outbox: &Outbox, after: Option<SchedulePosition>, limit| -> Vec<Scheduled> {
            run(outbox.reader.schedules(after, limit)).expect("schedules")
        };
        let mut paged: Vec<Scheduled> = Vec::new();
        while let Some(next) = list(&outbox, paged.last().map(|last| last.position), 1).pop() {
            paged.push(next);
        }
        assert_eq!(paged, list(&outbox, None, 9));
        // Those due at the same time come in the order of their requests.
        assert_eq!(paged.iter().map(|found| found.schedule.id.0).collect::<Vec<_>>(), [2, 4, 3, 1]);
        let mut cancel = |id| commit(&mut outbox.writer, Write::CancelSchedule(ScheduleId(id)));
        assert_eq!([4, 4, 9].map(&mut cancel), [true, false, false].map(Outcome::Changed));
        let mut take = |now, limit| -> Vec<String> {
            let due = outbox.take_due(limit);
            let committed = outbox.commit(Group { due, ..Group::default() }, at(now));
            let deliveries: u32 = committed.enqueued.iter().map(|(_, lanes)| lanes.iter().sum::<u32>()).sum();
            assert_eq!(deliveries as usize, committed.events.len());
            committed.events.iter().map(|event| event.name.as_str().to_owned()).collect()
        };
        assert_eq!([take(9, 9), take(25, 1), take(25, 9), take(25, 9), take(31, 9)].concat(), ["a", "b", "c"]);
        assert_eq!(outbox.writer.next_schedule(), Ok(None));
    });
}

#[test]
fn trimming_keeps_what_is_to_be_delivered_and_forgets_the_rest_with_its_history() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(6);
        let (all, orders) = (outbox.all, outbox.orders);
        outbox.settle((1..=6).map(|id| end(orders, id, 1, Settled::Delivered)).collect());
        outbox.kill([1]);
        outbox.settle(vec![end(all, 2, 1, Settled::Delivered), end(all, 3, 1, Settled::Retry(at(9)))]);
        let policy = RetentionPolicy { max_events: Some(1), ..RetentionPolicy::default() };
        let trim = |outbox: &mut Outbox| outbox.writer.trim(&policy, NOON, 100).expect("trimmed").earliest;
        assert_eq!((trim(&mut outbox), trim(&mut outbox)), (3, 3), "3 is to be tried again");
        assert_eq!(run(outbox.reader.trace(1)), Ok((vec![], vec![])), "its deliveries and attempts go with it");
        assert_eq!(run(outbox.reader.trace(3)).map(|(records, attempts)| (records.len(), attempts.len())), Ok((2, 1)));
        outbox.settle((3..=5).map(|id| end(all, id, 2, Settled::Delivered)).collect());
        assert_eq!(trim(&mut outbox), 6);
        assert_eq!(outbox.writer.bounds(), Ok(LogBounds { earliest: 6, last: 6 }));
        assert_eq!(outbox.pending(), Pending { waiting: [0, 1, 0, 0], ..Pending::default() });
    });
}
