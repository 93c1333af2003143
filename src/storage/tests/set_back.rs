//! Stores that lack the newest events: restored from a backup or a copy, or after a failover that lost transactions.

use std::fs;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};

use super::server::Postgres;
use super::{NOON, Store, at, on_both, options, run, single};
use crate::domain::event::{EventId, LogBounds};
use crate::domain::log::MARGIN;
use crate::storage::{EventQuery, NewReplayJob, Outcome, ReplayJobKind, RetentionPolicy, StoreUrl, Write, Writer};

fn path(store: &Store) -> &Path {
    match &store.options.url {
        StoreUrl::Sqlite(path) => path,
        StoreUrl::Postgres(_) => unreachable!("a SQLite store"),
    }
}

/// Copies the database.
fn copy(store: &Store, name: &str) -> PathBuf {
    let copy = path(store).with_file_name(name);
    let mut connection = SqliteConnection::establish(path(store).to_str().expect("UTF-8")).expect("a database");
    connection.batch_execute(&format!("VACUUM INTO '{}'", copy.display())).expect("a copy");
    copy
}

/// Replaces the database by a copy. Of the files beside it, only hidden ones stay.
fn put_back(store: &Store, copy: &Path) {
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path(store).display()));
    }
    fs::copy(copy, path(store)).expect("copied");
}

fn append(writer: &mut Writer, count: usize, second: i64) -> Vec<EventId> {
    let stored = writer.append((0..count).map(|_| single("a")).collect(), at(second)).expect("stored");
    stored.events.iter().map(|event| event.id).collect()
}

/// The ids, names and payloads of all events stored after `after`.
fn stored(store: &Store, after: EventId) -> Vec<(EventId, String, String)> {
    let patterns = ["a", "$sys.>"].map(|text| crate::domain::pattern::Pattern::parse(text.to_owned()).expect("valid"));
    let query = EventQuery { after: Some(after), limit: 100, patterns: patterns.to_vec(), ..EventQuery::default() };
    let page = run(store.reader().query(query)).expect("a page");
    page.events.into_iter().map(|e| (e.id, e.name.as_str().to_owned(), e.payload.to_string())).collect()
}

#[test]
fn a_file_that_was_put_back_at_rest_goes_on_above_what_was_shown_and_says_so_once() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    append(&mut writer, 10, 0);
    let backup = copy(&store, "backup");
    append(&mut writer, 10, 1);
    let log = writer.log().expect("an identity");
    drop(writer);
    put_back(&store, &backup);
    let mut writer = store.writer();
    assert!(writer.is_set_back());
    assert_eq!(append(&mut writer, 2, 2), [20 + MARGIN + 1, 20 + MARGIN + 2, 20 + MARGIN + 3]);
    assert!(!writer.is_set_back());
    let told = &stored(&store, 10)[0];
    assert_eq!((told.0, told.1.as_str()), (20 + MARGIN + 1, "$sys.log.restored"));
    let payload: serde_json::Value = serde_json::from_str(&told.2).expect("JSON");
    let log = log.to_string();
    let expected = serde_json::json!({
        "log_id": log, "previous_log_id": null, "last_id": 10, "known_last_id": 20, "first_id": 20 + MARGIN + 1,
    });
    assert_eq!(payload, expected);
    // From then on ids are dense again.
    drop(writer);
    let mut writer = store.writer();
    assert!(!writer.is_set_back());
    assert_eq!(append(&mut writer, 1, 3), [20 + MARGIN + 4]);
    assert_eq!(writer.log().map(|log| log.to_string()), Some(log));
}

#[test]
fn what_tells_of_it_comes_before_all_other_writes() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    append(&mut writer, 1, 0);
    let backup = copy(&store, "backup");
    append(&mut writer, 1, 1);
    drop(writer);
    put_back(&store, &backup);
    let mut writer = store.writer();
    let job =
        NewReplayJob { kind: ReplayJobKind::Replay, service: 1, patterns: Vec::new(), from: 1, through: EventId::MAX };
    let list = vec![Write::StartReplayJob(job), Write::Append(single("a"))];
    let done = writer.commit(&mut list.into(), &Default::default(), at(2)).expect("committed");
    let told = 2 + MARGIN + 1;
    assert_eq!(done.outcomes[0], Outcome::Started(1));
    assert_eq!(done.events.iter().map(|event| event.id).collect::<Vec<_>>(), [told, told + 1]);
    assert_eq!(done.events[0].name.as_str(), "$sys.log.restored");
    assert_eq!(run(store.reader().replay_jobs(1)).expect("jobs")[0].job.through, told);
}

#[test]
fn a_crash_is_no_set_back_and_leaves_no_gap() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    append(&mut writer, 3, 0);
    // As after a kill between the commit and the write of the mark: the mark is behind.
    let mark = path(&store).with_file_name(".events.db.mark");
    let before = fs::read(&mark).expect("a mark");
    append(&mut writer, 2, 0);
    fs::write(&mark, before).expect("written");
    std::mem::forget(writer);
    let mut writer = store.writer();
    assert!(!writer.is_set_back());
    assert_eq!(append(&mut writer, 1, 1), [6]);
    fs::remove_file(&mark).expect("removed");
    drop(writer);
    assert_eq!(append(&mut store.writer(), 1, 1), [7], "without a mark it goes on");
}

#[test]
fn the_file_of_another_log_goes_on_above_what_was_shown_here() {
    let (store, other) = (Store::sqlite(), Store::sqlite());
    append(&mut store.writer(), 20, 0);
    append(&mut other.writer(), 10, 0);
    let foreign = copy(&other, "foreign");
    put_back(&store, &foreign);
    let mut writer = store.writer();
    assert_eq!(writer.log(), other.writer().log());
    assert_eq!(append(&mut writer, 1, 1)[0], 20 + MARGIN + 1);
    assert!(stored(&store, 10)[0].2.contains(r#""previous_log_id":""#));
}

#[test]
fn a_file_that_is_swapped_under_a_running_writer_is_not_mixed_with_what_lies_beside_it() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    let reader = store.reader();
    append(&mut writer, 10, 0);
    let backup = copy(&store, "backup");
    append(&mut writer, 10, 1);
    assert_eq!(run(reader.bounds()).expect("bounds").last, 20);
    assert!(path(&store).with_file_name("events.db-wal").exists());
    fs::rename(&backup, path(&store)).expect("swapped");
    assert!(run(reader.bounds()).is_ok_and(|bounds| bounds.last == 10), "of the file that is there now");
    writer.probe().expect_err("it was replaced");
    assert_eq!(writer.bounds(), Ok(LogBounds { earliest: 1, last: 10 }));
    assert!(writer.is_set_back());
    assert_eq!(append(&mut writer, 1, 2)[1], 20 + MARGIN + 2);
    assert_eq!(run(reader.bounds()).expect("bounds").last, 20 + MARGIN + 2);
    assert_eq!(stored(&store, 0).len(), 12);
    let mut raw = SqliteConnection::establish(path(&store).to_str().expect("UTF-8")).expect("a database");
    raw.batch_execute("PRAGMA integrity_check").expect("whole");
}

/// After the promotion of a replica or the restore of a dump, no node gives out an id that another node has seen.
#[test]
fn a_database_that_lacks_what_a_running_node_has_seen_is_noticed_by_that_node() {
    let store = Store::postgres();
    let (mut knows, mut knows_less) = (store.writer(), store.writer());
    append(&mut knows, 10, 0);
    knows_less.bounds().expect("bounds");
    append(&mut knows, 10, 1);
    let log = knows.log();
    store.execute("DELETE FROM events WHERE id > 10");
    knows_less.bounds().expect("bounds");
    knows.bounds().expect("bounds");
    assert_eq!((knows.is_set_back(), knows_less.is_set_back()), (true, false));
    assert_eq!(append(&mut knows, 1, 2), [20 + MARGIN + 1, 20 + MARGIN + 2]);
    assert_eq!(append(&mut knows_less, 1, 2), [20 + MARGIN + 3]);
    assert_eq!((knows.log(), knows_less.log()), (log, log), "no id was given twice");
}

#[test]
fn where_ids_were_given_twice_it_is_another_log_from_then_on() {
    for noticed_late in [false, true] {
        let store = Store::postgres();
        let mut knows = store.writer();
        append(&mut knows, 20, 1);
        let log = knows.log();
        store.execute("DELETE FROM events WHERE id > 10");
        // A node that was just started does not know of it.
        let mut fresh = store.writer();
        append(&mut fresh, if noticed_late { 15 } else { 5 }, 2);
        let last = fresh.seen().expect("seen").last;
        knows.bounds().expect("bounds");
        assert!(knows.is_set_back());
        assert_eq!(append(&mut knows, 1, 3)[0], last.max(20) + MARGIN + 1);
        assert_ne!(knows.log(), log);
        assert!(stored(&store, last)[0].2.contains(&format!(r#""previous_log_id":"{}""#, log.expect("one"))));
        fresh.bounds().expect("bounds");
        assert_eq!(fresh.log(), knows.log(), "the other node learns of it");
    }
}

#[test]
fn two_nodes_that_notice_at_once_do_not_both_leave_ids_out() {
    let store = Store::postgres();
    let (mut first, mut second) = (store.writer(), store.writer());
    append(&mut first, 20, 0);
    second.bounds().expect("bounds");
    store.execute("DELETE FROM events WHERE id > 10");
    first.bounds().expect("bounds");
    second.bounds().expect("bounds");
    assert!(first.is_set_back() && second.is_set_back());
    append(&mut first, 1, 1);
    assert_eq!(append(&mut second, 1, 1), [20 + MARGIN + 3]);
    assert_eq!(stored(&store, 10).iter().filter(|(_, name, _)| name == "$sys.log.restored").count(), 1);
}

/// Restored from a template database: another server has the data of a minute ago.
#[test]
fn a_database_that_was_made_anew_from_a_copy_under_a_running_node() {
    let server = Postgres::start();
    let url = server.url();
    let name = url.rsplit('/').next().expect("a name").split('?').next().expect("a name").to_owned();
    let mut writer = Writer::open(options(StoreUrl::parse(&url).expect("a URL"))).expect("open");
    append(&mut writer, 10, 0);
    let end_sessions = format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'");
    server.execute(&end_sessions);
    server.execute(&format!("CREATE DATABASE backup TEMPLATE {name}"));
    writer.bounds().expect_err("its session ended");
    append(&mut writer, 10, 1);
    server.execute(&end_sessions);
    server.execute(&format!("DROP DATABASE {name}"));
    server.execute(&format!("CREATE DATABASE {name} TEMPLATE backup"));
    writer.bounds().expect_err("its session ended");
    assert_eq!(append(&mut writer, 1, 2), [20 + MARGIN + 1, 20 + MARGIN + 2]);
}

#[test]
fn retention_by_number_counts_events_not_ids_that_were_left_out() {
    on_both(|store| {
        let mut writer = store.writer();
        append(&mut writer, 20, 0);
        store.execute("DELETE FROM events WHERE id > 10");
        writer.bounds().expect("bounds");
        append(&mut writer, 1, 1);
        let keep = |max_events| RetentionPolicy { max_events: Some(max_events), ..RetentionPolicy::default() };
        let trimmed = |writer: &mut Writer, max| writer.trim(&keep(max), NOON, 1000).expect("trimmed").earliest;
        assert_eq!(trimmed(&mut writer, 12), 1);
        assert_eq!(trimmed(&mut writer, 5), 8, "three of before, and two since");
        assert_eq!(trimmed(&mut writer, 2), 20 + MARGIN + 1);
        assert_eq!(trimmed(&mut writer, 1), 20 + MARGIN + 2);
    });
}

/// What others remember may be old: a Redis that was set back too, or one that repeats what it was once told.
#[test]
fn an_older_memory_does_not_replace_a_newer_one() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    append(&mut writer, 10, 0);
    let backup = copy(&store, "backup");
    append(&mut writer, 10, 1);
    let old = writer.seen().expect("an event");
    for second in 2..7 {
        append(&mut writer, 50_000, second);
    }
    let shown = writer.seen().expect("an event").last;
    assert!(shown > old.last + MARGIN);
    drop(writer);
    put_back(&store, &backup);
    let mut writer = store.writer();
    assert!(writer.is_set_back());
    writer.recall(old).expect("a look");
    assert_eq!(append(&mut writer, 1, 8)[0], shown + MARGIN + 1, "no id is given out again");
}

/// Who has seen what is gone is told so, however often the store was set back since.
#[test]
fn every_gap_is_known() {
    let store = Store::sqlite();
    let mut lost = Vec::new();
    for round in 0..2 {
        let mut writer = store.writer();
        append(&mut writer, 10, 4 * round);
        let backup = copy(&store, &format!("backup{round}"));
        lost.extend(append(&mut writer, 10, 4 * round + 1));
        drop(writer);
        put_back(&store, &backup);
        let mut writer = store.writer();
        assert!(writer.is_set_back());
        let is_gone = |writer: &Writer, id: EventId| writer.gaps().iter().any(|gap| gap.has(id));
        assert!(lost.iter().all(|id| is_gone(&writer, *id)), "before it goes on");
        let kept = append(&mut writer, 1, 4 * round + 2);
        writer.bounds().expect("a look");
        assert!(lost.iter().all(|id| is_gone(&writer, *id)) && !is_gone(&writer, kept[0]), "{:?}", writer.gaps());
    }
}
