//! Lists of writes: applied in order, with an outcome for each.

use std::time::Duration;

use super::append::{replayed, stored, with_key};
use super::outbox::{Outbox, end, pattern};
use super::{NOON, Store, appends, at, commit, event, on_both, run, single};
use crate::domain::consumer::ConsumerPolicy;
use crate::domain::event::{Append, AppendOutcome, LogBounds, NewEvent, Schedule, ScheduleId};
use crate::storage::{
    Alteration, ConsumerChange, Group, NewConsumer, NewReplayJob, Outcome, ReplayJobKind, Settled, StoreErrorKind,
    Write, Writer,
};

fn append(name: &str) -> Write {
    Write::Append(single(name))
}

fn later(id: u128) -> Write {
    let schedule = Some(Schedule { id: ScheduleId(id), due_at: at(10) });
    Write::Append(Append { schedule, ..single("later") })
}

fn scheduled(id: u128) -> Outcome {
    Outcome::Appended(AppendOutcome::Scheduled { id: ScheduleId(id), replayed: false })
}

/// Opens a consumer and returns a change of it with an event.
fn durable(writer: &mut Writer) -> ConsumerChange {
    let policy = ConsumerPolicy { ack_wait: Duration::from_secs(30), max_in_flight: 10, max_deliver: 3 };
    let new = NewConsumer { name: "d".to_owned(), pattern: ">".to_owned(), filter: None, ack_floor: 0, policy };
    let Outcome::Opened(Some(record)) = commit(writer, Write::OpenConsumer { new, max: 1 }) else { panic!("no room") };
    ConsumerChange {
        service: record.service,
        fencing_epoch: record.fencing_epoch,
        ack_floor: 1,
        marks: Vec::new(),
        passed_marks: Vec::new(),
        dead: Vec::new(),
        renewed: Vec::new(),
        events: vec![event("told", "{}")],
    }
}

fn seek(ack_floor: i64) -> Write {
    Write::AlterConsumer { name: "d".to_owned(), alteration: Alteration::Seek(ack_floor) }
}

#[test]
fn a_job_makes_anew_what_was_appended_before_it() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let patterns = vec![pattern("order.>")];
        let job =
            NewReplayJob { kind: ReplayJobKind::Replay, service: outbox.all, patterns, from: 1, through: i64::MAX };
        let list = vec![append("order.one"), Write::StartReplayJob(job), append("order.two")];
        // Without routes, all deliveries come from the replay job.
        let done = outbox.writer.commit(&mut list.into(), &Default::default(), NOON).expect("committed");
        assert_eq!(done.outcomes, [stored(1, 1), Outcome::Started(1), stored(2, 2)]);
        assert_eq!(done.events.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2]);
        while !outbox.writer.step_replay_jobs(&outbox.fence, &Default::default(), NOON).expect("stepped").is_empty() {}
        let traced = [1, 2].map(|id| run(outbox.reader.trace(id)).expect("a trace").0.len());
        assert_eq!(traced, [1, 0]);
    });
}

#[test]
fn a_schedule_is_cancelled_after_it_is_made_and_not_before() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let cancel = |id| Write::CancelSchedule(ScheduleId(id));
        let list = vec![cancel(1), later(1), append("a"), later(2), cancel(2), append("b")];
        let mut group = Group { due: outbox.take_due(9), ..list.into() };
        let done = outbox.writer.commit(&mut group, &Default::default(), at(10)).expect("committed");
        let changed = Outcome::Changed;
        let expected = [changed(false), scheduled(1), stored(1, 1), scheduled(2), changed(true), stored(2, 2)];
        assert_eq!(done.outcomes, expected);
        let names: Vec<&str> = done.events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!((names, outbox.writer.next_schedule()), (vec!["a", "b", "later"], Ok(None)));
    });
}

#[test]
fn a_durable_subscription_that_is_moved_in_the_list_voids_what_comes_after() {
    on_both(|store| {
        let mut writer = store.writer();
        let change = durable(&mut writer);
        let save = || Write::ChangeConsumer(change.clone());
        let mut group = vec![append("a"), save(), append("b"), seek(0), append("c"), save(), append("d")].into();
        let done = writer.commit(&mut group, &Default::default(), NOON).expect("committed");
        let expected = [
            stored(1, 1),
            Outcome::Saved,
            stored(3, 3),
            Outcome::Changed(true),
            stored(4, 4),
            Outcome::Void,
            stored(5, 5),
        ];
        assert_eq!(done.outcomes, expected);
        let names: Vec<&str> = done.events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["a", "told", "b", "c", "d"]);
        assert_eq!(run(store.reader().consumers()).expect("list")[0].ack_floor, 0);
    });
}

#[test]
fn outcomes_stand_where_their_writes_do() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.commit(vec![later(1), append("a"), append("a")], NOON);
        let all = outbox.all;
        let keyed = || Write::Append(Append::single(with_key("order.keyed", "k", 1)));
        let bad = NewEvent { source: "a\0b".into(), ..event("bad", "{}") };
        let settle = |id| Write::Settle(vec![end(all, id, 1, Settled::Delivered)]);
        let twice = Write::Settle([1, 2].map(|id| end(all, id, 1, Settled::Delivered)).into());
        let list = vec![
            keyed(),
            settle(1),
            twice,
            Write::Append(Append::single(bad)),
            keyed(),
            Write::CancelReplayJob(7),
            Write::Settle(Vec::new()),
            append("b"),
            keyed(),
        ];
        let due = outbox.take_due(9);
        let done = outbox.commit(Group { due, ..list.into() }, at(10));
        let settled = |were_all_open| Outcome::Settled { were_all_open };
        let expected = [
            stored(3, 3),
            settled(true),
            settled(false),
            Outcome::Appended(AppendOutcome::Unstorable),
            replayed(3, 3),
            Outcome::Changed(false),
            settled(true),
            stored(4, 4),
            replayed(3, 3),
        ];
        assert_eq!((done.prev, done.outcomes), (2, expected.into()));
        let names: Vec<_> = done.events.iter().map(|event| (event.id, event.name.as_str())).collect();
        assert_eq!(names, [(3, "order.keyed"), (4, "b"), (5, "later")]);
        let mut enqueued = done.enqueued;
        enqueued.sort_unstable();
        assert_eq!(enqueued, [(all, [0, 3, 0, 0]), (outbox.orders, [0, 1, 0, 0])]);
        assert_eq!(outbox.writer.pending(all).expect("counted").waiting, [0, 3, 0, 0]);
    });
}

#[test]
fn a_write_that_the_store_cannot_hold_leaves_nothing_of_its_list() {
    let store = Store::postgres();
    let mut outbox = Outbox::new(&store);
    outbox.commit(appends([single("a")]), NOON);
    let reason = Some("a\0b".to_owned());
    let bad = crate::storage::DeliveryOutcome { reason, ..end(outbox.all, 1, 1, Settled::Retry(NOON)) };
    let mut group = vec![append("b"), Write::CancelReplayJob(1), Write::Settle(vec![bad])].into();
    let failed = outbox.writer.commit(&mut group, &Default::default(), NOON).map_err(|error| error.kind);
    assert_eq!(failed, Err(StoreErrorKind::Invalid));
    assert_eq!(group.writes[0], append("b"), "it can be tried in parts");
    assert_eq!(outbox.writer.bounds(), Ok(LogBounds { earliest: 1, last: 1 }));
}
