//! Trimming, against a model, and with ids missing.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};

use super::{Store, at, commit, event, on_both, run, single};
use crate::domain::event::{Append, LogBounds, NewEvent};
use crate::domain::follow::Awaited;
use crate::storage::{EventQuery, RetentionPolicy, StoreUrl, StoredDefinition, Trimmed, Write, Writer, close, compact};

const ALL: RetentionPolicy =
    RetentionPolicy { max_age: None, max_events: None, max_bytes: None, mirror_hold: None, orchestrator_hold: None };

/// Ten events, ten seconds apart, each larger than the one before.
fn fill(store: &Store) -> Vec<i64> {
    let mut writer = store.writer();
    let mut sizes = Vec::new();
    for n in 0..10 {
        let new: NewEvent = event("a", &format!("\"{}\"", "x".repeat(n * 10)));
        sizes.push(new.log_bytes());
        writer.append(vec![Append::single(new)], at(10 * n as i64)).expect("stored");
    }
    sizes
}

#[test]
fn each_limit_keeps_what_it_promises() {
    on_both(|store| {
        let sizes = fill(&store);
        let mut writer = store.writer();
        let mut trim = |policy| writer.trim(&policy, at(95), 100).expect("trimmed");
        let kept = |earliest, removed| Trimmed { removed, earliest, more_due: false, waits_for: None };
        assert_eq!(trim(ALL), kept(1, 0));
        assert_eq!(trim(RetentionPolicy { max_events: Some(10), ..ALL }), kept(1, 0));
        assert_eq!(trim(RetentionPolicy { max_events: Some(9), ..ALL }), kept(2, 1));
        assert_eq!(trim(RetentionPolicy { max_age: Some(Duration::from_secs(76)), ..ALL }), kept(3, 1));
        assert_eq!(trim(RetentionPolicy { max_age: Some(Duration::from_secs(75)), ..ALL }), kept(3, 0));
        let newest = |count: usize| sizes.iter().rev().take(count).sum::<i64>() as u64;
        assert_eq!(trim(RetentionPolicy { max_bytes: Some(newest(8)), ..ALL }), kept(3, 0));
        assert_eq!(trim(RetentionPolicy { max_bytes: Some(newest(6) + 1), ..ALL }), kept(4, 1));
        assert_eq!(trim(RetentionPolicy { max_bytes: Some(newest(6)), ..ALL }), kept(5, 1));
        let several = RetentionPolicy { max_events: Some(5), max_bytes: Some(newest(4)), ..ALL };
        assert_eq!(trim(several), kept(7, 2));
        // The newest event is never removed, and its id is never given again.
        let nothing = RetentionPolicy { max_age: Some(Duration::ZERO), max_events: Some(0), max_bytes: Some(0), ..ALL };
        assert_eq!(trim(nothing), kept(10, 3));
        assert_eq!(writer.append(vec![single("b")], at(100)).map(|c| c.prev), Ok(10));
    });
}

#[test]
fn trimming_goes_in_small_steps() {
    on_both(|store| {
        fill(&store);
        let mut writer = store.writer();
        let policy = RetentionPolicy { max_events: Some(3), ..ALL };
        let mut steps = Vec::new();
        while steps.last().is_none_or(|step: &Trimmed| step.more_due) {
            steps.push(writer.trim(&policy, at(100), 3).expect("trimmed"));
        }
        let seen: Vec<_> = steps.iter().map(|s| (s.removed, s.earliest)).collect();
        assert_eq!(seen, [(3, 4), (3, 7), (1, 8)]);
        assert_eq!(writer.bounds(), Ok(LogBounds { earliest: 8, last: 10 }));
    });
}

/// Trims all but the newest of ten events that were stored ten seconds apart. Returns the oldest that is left, and for
/// whom.
fn trim_at(writer: &mut Writer, second: i64) -> (i64, Option<Awaited>) {
    let hold = Some(Duration::from_secs(50));
    let policy = RetentionPolicy { max_events: Some(1), mirror_hold: hold, orchestrator_hold: hold, ..ALL };
    let trimmed = writer.trim(&policy, at(second), 100).expect("trimmed");
    (trimmed.earliest, trimmed.waits_for)
}

#[test]
fn what_the_orchestrator_and_the_mirror_have_not_read_is_kept_for_a_while() {
    on_both(|store| {
        fill(&store);
        let mut writer = store.writer();
        let declare = |writer: &mut Writer, names: &[&str]| {
            let saga = |name: &&str| StoredDefinition { saga: name.to_string(), version: 1, text: "{}".to_owned() };
            let sagas = names.iter().map(saga).collect();
            commit(writer, Write::DeclareSagas { node: "a".to_owned(), sagas });
        };
        let follow = |writer: &mut Writer, follower: Awaited, position: i64| {
            let (name, position) = (follower.position().to_owned(), position.to_string());
            commit(writer, Write::MovePosition { name, position });
        };
        declare(&mut writer, &["pay"]);
        follow(&mut writer, Awaited::Orchestrator, 4);
        assert_eq!(trim_at(&mut writer, 95), (6, Some(Awaited::Orchestrator)), "the fifth event is too old");
        follow(&mut writer, Awaited::Orchestrator, 7);
        follow(&mut writer, Awaited::Mirror, 9);
        assert_eq!(trim_at(&mut writer, 96), (8, Some(Awaited::Orchestrator)));
        declare(&mut writer, &[]);
        follow(&mut writer, Awaited::Mirror, 8);
        assert_eq!(trim_at(&mut writer, 97), (9, Some(Awaited::Mirror)), "nobody runs sagas");
        declare(&mut writer, &["pay"]);
        follow(&mut writer, Awaited::Orchestrator, 8);
        follow(&mut writer, Awaited::Mirror, 10);
        assert_eq!(trim_at(&mut writer, 98), (9, Some(Awaited::Orchestrator)));
        assert_eq!(trim_at(&mut writer, 200), (10, None), "it was waited for long enough");
    });
}

#[test]
fn searches_are_right_where_ids_are_missing() {
    on_both(|store| {
        fill(&store);
        store.execute("DELETE FROM events WHERE id IN (2, 3, 4, 7, 9)");
        let reader = store.reader();
        for second in -1..100 {
            let find = |since, until| {
                let page = run(reader.query(EventQuery { since, until, ..EventQuery::default() })).expect("a page");
                page.events.iter().map(|e| e.id).collect::<Vec<_>>()
            };
            let (older, newer): (Vec<i64>, Vec<i64>) =
                [1, 5, 6, 8, 10].into_iter().partition(|id| 10 * (id - 1) < second);
            assert_eq!(find(Some(at(second)), None), newer, "since {second}");
            assert_eq!(find(None, Some(at(second - 1))), older, "until {}", second - 1);
        }
        let mut writer = store.writer();
        let policy = RetentionPolicy { max_age: Some(Duration::from_secs(60)), ..ALL };
        assert_eq!(
            writer.trim(&policy, at(85), 1),
            Ok(Trimmed { removed: 1, earliest: 5, more_due: false, waits_for: None })
        );
        let policy = RetentionPolicy { max_events: Some(4), ..ALL };
        assert_eq!(
            writer.trim(&policy, at(85), 100),
            Ok(Trimmed { removed: 2, earliest: 8, more_due: false, waits_for: None })
        );
    });
}

#[test]
fn trimmed_space_is_used_again() {
    let store = Store::sqlite();
    let StoreUrl::Sqlite(path) = &store.options.url else { unreachable!() };
    let mut writer = store.writer();
    let policy = RetentionPolicy { max_events: Some(100), ..ALL };
    for _ in 0..30 {
        let batch = (0..200).map(|_| Append::single(event("a", &format!("\"{}\"", "x".repeat(500))))).collect();
        writer.append(batch, at(0)).expect("stored");
        while writer.trim(&policy, at(0), 64).expect("trimmed").more_due {}
    }
    // Of six thousand rows, at most three hundred were stored at a time.
    let size = std::fs::metadata(path).expect("the file").len();
    assert!(size < 512 * 1024, "{size} bytes");
}

/// Stores ten megabytes and trims all but the end. Returns the length of the file.
fn fill_and_trim(store: &Store, writer: &mut Writer) -> u64 {
    let StoreUrl::Sqlite(path) = &store.options.url else { unreachable!() };
    let payload = format!("\"{}\"", "x".repeat(2000));
    writer.append((0..5000).map(|_| Append::single(event("a", &payload))).collect(), at(0)).expect("stored");
    let policy = RetentionPolicy { max_events: Some(10), ..ALL };
    while writer.trim(&policy, at(0), 500).expect("trimmed").more_due {}
    close(&store.options).expect("all in the file");
    std::fs::metadata(path).expect("the file").len()
}

fn length(store: &Store) -> u64 {
    let StoreUrl::Sqlite(path) = &store.options.url else { unreachable!() };
    std::fs::metadata(path).expect("the file").len()
}

#[test]
fn free_space_is_given_back_in_small_steps() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    let before = fill_and_trim(&store, &mut writer);
    assert!(before > 10_000_000, "{before}");
    let mut steps = 1;
    while writer.release_pages(64).expect("released") {
        steps += 1;
        writer.append(vec![single("b")], at(1)).expect("others go on meanwhile");
    }
    assert!(steps > 30, "{steps}");
    assert!(length(&store) < 2_000_000, "{}", length(&store));
    assert!(!writer.release_pages(64).expect("nothing to do"), "what is kept for the next events is not moved again");
    assert_eq!(writer.append(vec![single("c")], at(2)).map(|c| c.events[0].id), Ok(5000 + steps));
}

#[test]
fn an_old_file_shrinks_once_it_was_compacted() {
    let store = Store::sqlite();
    let StoreUrl::Sqlite(path) = &store.options.url else { unreachable!() };
    let mut old = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a file");
    old.batch_execute("CREATE TABLE early (a); DROP TABLE early").expect("a database of its own kind");
    drop(old);
    let mut writer = store.writer();
    let before = fill_and_trim(&store, &mut writer);
    assert!(!writer.release_pages(64).expect("nothing to do"));
    assert_eq!(length(&store), before);
    drop(writer);
    let compacted = compact(&store.options).expect("compacted").expect("a file");
    assert_eq!((compacted.before, compacted.after), (before, length(&store)));
    assert!(compacted.after < 1_000_000, "{compacted:?}");
    let mut writer = store.writer();
    assert_eq!(writer.bounds(), Ok(LogBounds { earliest: 4991, last: 5000 }));
    fill_and_trim(&store, &mut writer);
    while writer.release_pages(64).expect("released") {}
    assert!(length(&store) < 2_000_000, "from then on by itself");
}
