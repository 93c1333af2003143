//! A log that a wrong clock has dated for a while.

use std::time::Duration;

use super::{NOON, Store, appends, at, event, idempotency, on_both, run, single};
use crate::domain::event::{Append, AppendOutcome, EventId, NewEvent, Timestamp};
use crate::domain::pattern::Pattern;
use crate::storage::{Claim, EventQuery, Group, NewService, Outcome, RetentionPolicy, Writer};

const DAY: i64 = 24 * 60 * 60;
/// The lead while it is uncertain whether the clock is right again.
const UNSURE: Duration = Duration::from_secs(24 * 60 * 60);
const SURE: Duration = Duration::from_secs(10);

/// Appends one event and returns its date.
fn append(writer: &mut Writer, now: Timestamp, lead: Duration) -> Timestamp {
    let mut group = Group { lead: Some(lead), ..appends([single("a")]).into() };
    writer.commit(&mut group, &Default::default(), now).expect("stored").events[0].created_at
}

/// Two events dated at noon, two dated 400 days later, and two dated right after noon.
fn poisoned(store: &Store) -> Writer {
    let mut writer = store.writer();
    for (now, dated) in [
        (at(0), at(0)),
        (at(1), at(1)),
        (at(400 * DAY), at(400 * DAY)),
        (at(400 * DAY + 1), at(400 * DAY + 1)),
        (at(10), at(10)),
        (at(9), at(10)),
    ] {
        assert_eq!(append(&mut writer, now, UNSURE), dated);
    }
    writer
}

fn found(store: &Store, since: Option<Timestamp>, until: Option<Timestamp>) -> Vec<EventId> {
    let page = run(store.reader().query(EventQuery { since, until, ..EventQuery::default() })).expect("a page");
    page.events.iter().map(|event| event.id).collect()
}

#[test]
fn dates_go_back_only_from_beyond_their_bounds() {
    on_both(|store| {
        let mut writer = store.writer();
        let mut dated = |now: i64, lead| append(&mut writer, at(now), lead);
        assert_eq!(dated(DAY, UNSURE), at(DAY));
        assert_eq!(dated(0, UNSURE), at(DAY), "within a day of the time");
        assert_eq!(dated(-1, UNSURE), at(-1));
        assert_eq!(dated(60, SURE), at(60));
        assert_eq!(dated(51, SURE), at(60), "a slewed clock");
        assert_eq!(dated(49, SURE), at(49));
    });
}

#[test]
fn what_is_dated_around_now_is_found_behind_what_is_not() {
    on_both(|store| {
        poisoned(&store);
        assert_eq!(found(&store, Some(at(1)), Some(at(60))), [2, 5, 6]);
        assert_eq!(found(&store, Some(at(2)), Some(at(60))), [5, 6]);
        assert_eq!(found(&store, Some(at(1)), None), [2, 3, 4, 5, 6]);
        assert_eq!(found(&store, None, Some(at(60))), [1, 2, 5, 6]);
        assert_eq!(found(&store, Some(at(DAY)), None), [3, 4]);
        assert_eq!(found(&store, None, Some(at(0))), [1]);
        assert_eq!(found(&store, Some(at(11)), Some(at(60))), [] as [i64; 0]);
        let ids = |since, until| run(store.reader().ids_between(since, until));
        assert_eq!(ids(Some(at(2)), Some(at(60))), Ok((5, 6)));
        assert_eq!(ids(None, Some(at(60))), Ok((1, 6)));
    });
}

#[test]
fn what_a_wrong_clock_has_dated_is_trimmed_with_what_came_when_it_was_right() {
    on_both(|store| {
        let mut writer = poisoned(&store);
        append(&mut writer, at(100), SURE);
        let policy = RetentionPolicy { max_age: Some(Duration::from_secs(60)), ..RetentionPolicy::default() };
        let mut earliest = |now| writer.trim(&policy, at(now), 100).expect("trimmed").earliest;
        // The first two are removed when they are a minute old; the wrongly dated ones together with those right after
        // them.
        assert_eq!([60, 61, 62, 69, 70].map(&mut earliest), [1, 2, 3, 3, 3]);
        assert_eq!(earliest(71), 7);
        assert_eq!(found(&store, Some(at(0)), Some(at(200))), [7]);
    });
}

#[test]
fn a_clock_that_was_set_back_for_a_while_makes_nothing_old() {
    on_both(|store| {
        let mut writer = store.writer();
        append(&mut writer, at(0), SURE);
        append(&mut writer, at(-400 * DAY), SURE);
        append(&mut writer, at(10), SURE);
        let policy = RetentionPolicy { max_age: Some(Duration::from_secs(60)), ..RetentionPolicy::default() };
        assert_eq!(writer.trim(&policy, at(20), 100).expect("trimmed").removed, 0);
        assert_eq!(found(&store, Some(at(-1)), None), [1, 3]);
    });
}

#[test]
fn idempotency_windows_end_though_they_began_in_the_future() {
    on_both(|store| {
        let mut writer = store.writer();
        let keyed = || NewEvent { idempotency: idempotency("k", 1), ..event("a", "{}") };
        let publish = |writer: &mut Writer, now| {
            let mut group = Group { lead: Some(SURE), ..appends([Append::single(keyed())]).into() };
            writer.commit(&mut group, &Default::default(), now).expect("stored").outcomes.remove(0)
        };
        let replayed = Outcome::Appended(AppendOutcome::Replayed { first_id: 1, last_id: 1 });
        assert!(matches!(publish(&mut writer, at(400 * DAY)), Outcome::Appended(AppendOutcome::Stored { .. })));
        assert_eq!(publish(&mut writer, at(0)), replayed);
        writer.bound_waits(&[], at(0), 100).expect("bounded");
        assert_eq!(publish(&mut writer, at(DAY - 1)), replayed);
        assert!(matches!(publish(&mut writer, at(DAY + 1)), Outcome::Appended(AppendOutcome::Stored { .. })));
        // The window of a key begins with the time of the request, even if the newest event is dated ahead.
        writer.append(vec![single("a")], at(2 * DAY)).expect("stored");
        assert_eq!(writer.prune_idempotency(at(2 * DAY + 2), 100), Ok(1));
    });
}

#[test]
fn a_retry_waits_no_longer_than_retries_do() {
    on_both(|store| {
        let mut writer = store.writer();
        let pattern = Pattern::parse(">".to_owned()).expect("a pattern");
        let service = NewService { name: "s".into(), patterns: vec![pattern], start_from: None };
        let service = writer.register(&[service], NOON).expect("registered")[0].id;
        for id in 1..=3 {
            writer.append(vec![single("a")], NOON).expect("stored");
            let due = [at(400 * DAY), at(3_000), at(3_700)][id - 1].0;
            store.execute(&format!(
                "INSERT INTO deliveries (event_id, service, state, lane, due_at) VALUES ({id}, {service}, 1, 1, {due})"
            ));
        }
        let due = |now| {
            let claim = Claim::Due { now, after: Default::default() };
            let rows = run(store.reader().claim(service, claim, 100, 1 << 20)).expect("claimed");
            rows.iter().map(|row| row.event.id).collect::<Vec<_>>()
        };
        assert_eq!(due(NOON), [] as [i64; 0]);
        writer.bound_waits(&[(service, Duration::from_secs(3_600))], NOON, 100).expect("bounded");
        assert_eq!(due(NOON), [1, 3]);
        assert_eq!(due(at(3_000)), [1, 3, 2]);
        // Deliveries of consumers may not wait.
        store.execute(&format!(
            "INSERT INTO durables (service, name, pattern, epoch, floor, ack_wait_us, max_in_flight, max_deliver, \
             created_at) VALUES ({service}, 'd', '>', 1, 0, 1, 1, 0, 0)"
        ));
        writer.bound_waits(&[], NOON, 100).expect("bounded");
        assert_eq!(due(NOON), [1, 2, 3]);
    });
}

#[test]
fn the_database_that_nodes_share_tells_the_time() {
    let file = Store::sqlite().writer().time_of_day();
    assert_eq!(file, Ok(None));
    let before = std::time::SystemTime::now();
    let told = Store::postgres().writer().time_of_day().expect("asked").expect("told");
    let told = std::time::SystemTime::from(told);
    assert!(told >= before - Duration::from_millis(1) && told <= std::time::SystemTime::now(), "{told:?}");
}
