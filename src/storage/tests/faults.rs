//! Failures of the store: how they are reported, and that the store recovers by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};

use super::server::Postgres;
use super::{NOON, Store, event, options, run, single};
use crate::domain::event::Append;
use crate::domain::log::MARGIN;
use crate::storage::connection::on_backend;
use crate::storage::{EventQuery, Reader, Scan, StoreErrorKind, StoreOptions, StoreUrl, Writer};

fn sqlite_path(store: &Store) -> &Path {
    match &store.options.url {
        StoreUrl::Sqlite(path) => path,
        StoreUrl::Postgres(_) => unreachable!("a SQLite store"),
    }
}

fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("open the file")
}

/// Runs `sql` on the connection that the writer has.
fn execute(writer: &mut Writer, sql: &str) {
    writer.with(|connection| Ok(on_backend!(connection, c => c.batch_execute(sql))?)).expect(sql);
}

/// Appends one event and returns its id.
fn append(writer: &mut Writer) -> Result<i64, StoreErrorKind> {
    writer.append(vec![single("a")], NOON).map(|c| c.events[0].id).map_err(|error| error.kind)
}

fn probe(writer: &mut Writer) -> Result<(), StoreErrorKind> {
    writer.probe().map_err(|error| error.kind)
}

fn last(reader: &Reader) -> Result<i64, StoreErrorKind> {
    run(reader.bounds()).map(|bounds| bounds.last).map_err(|error| error.kind)
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    let large = || vec![Append::single(event("a", &format!("\"{}\"", "x".repeat(100_000))))];
    execute(&mut writer, "PRAGMA max_page_count = 10");
    let refused = writer.append(large(), NOON).map(|c| c.events.len()).map_err(|e| e.kind);
    assert_eq!(refused, Err(StoreErrorKind::Full));
    assert_eq!(writer.append(large(), NOON).map(|c| c.events[0].id), Ok(1), "space is there again");
    assert_eq!(last(&store.reader()), Ok(1));
}

#[test]
fn a_locked_file_is_said_to_be_locked() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    let mut other = raw(sqlite_path(&store));
    other.batch_execute("BEGIN IMMEDIATE").expect("the lock");
    assert_eq!(append(&mut writer), Err(StoreErrorKind::Locked));
    assert_eq!(probe(&mut writer), Err(StoreErrorKind::Locked));
    assert_eq!(last(&store.reader()), Ok(0), "reads go on");
    other.batch_execute("ROLLBACK").expect("unlocked");
    assert_eq!((probe(&mut writer), append(&mut writer)), (Ok(()), Ok(1)));
}

#[test]
fn a_read_only_database_is_said_to_be_read_only() {
    let store = Store::sqlite();
    let mut writer = store.writer();
    assert_eq!(append(&mut writer), Ok(1));
    execute(&mut writer, "PRAGMA query_only = ON");
    assert_eq!(append(&mut writer), Err(StoreErrorKind::ReadOnly));
    assert_eq!(append(&mut writer), Ok(2));

    let store = Store::postgres();
    let mut writer = store.writer();
    assert_eq!(append(&mut writer), Ok(1));
    execute(&mut writer, "SET default_transaction_read_only = on");
    assert_eq!(probe(&mut writer), Err(StoreErrorKind::ReadOnly));
    writer.probe().expect("well again");
    execute(&mut writer, "SET default_transaction_read_only = on");
    assert_eq!(append(&mut writer), Err(StoreErrorKind::ReadOnly));
    assert_eq!(append(&mut writer), Ok(2));
}

#[test]
fn what_can_never_be_a_database_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("file"), "no database").expect("a file");
    for (path, why) in [
        ("missing/events.db", "there is no directory"),
        ("file/events.db", "there is no directory"),
        ("file", "is not a SQLite database"),
        ("", "is a directory"),
    ] {
        let url = StoreUrl::Sqlite(dir.path().join(path));
        let error = Writer::open(options(url.clone())).map(drop).expect_err(path);
        assert_eq!(error.kind, StoreErrorKind::Unusable, "{error}");
        assert!(error.stops_start(&url) && error.message.contains(why), "{error}");
    }
    assert!(!dir.path().join("missing").exists());
}

#[test]
fn a_damaged_file_is_said_to_be_corrupt() {
    let store = Store::sqlite();
    let path = sqlite_path(&store);
    fs::write(path, "this is no database, ".repeat(1000)).expect("damage");
    let in_use = StoreOptions { create: false, ..store.options.clone() };
    let error = Writer::open(in_use).map(drop).expect_err("no database");
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert_eq!(last(&store.reader()), Err(StoreErrorKind::Corrupt));

    // The file is damaged below an open connection.
    let store = Store::sqlite();
    let path = sqlite_path(&store);
    let batch = (0..500).map(|_| Append::single(event("a", &format!("\"{}\"", "x".repeat(1000)))));
    store.writer().append(batch.collect(), NOON).expect("stored");
    let mut bytes = fs::read(path).expect("the file");
    bytes[8192..].fill(0xa5);
    fs::write(path, bytes).expect("damage");
    let query = EventQuery { limit: 1000, ..EventQuery::default() };
    let error = run(store.reader().query(query)).expect_err("damaged");
    assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error}");
}

#[test]
fn a_deleted_file_is_noticed_before_anything_is_acknowledged() {
    let store = Store::sqlite();
    let path = sqlite_path(&store);
    let mut writer = store.writer();
    let reader = store.reader();
    assert_eq!((append(&mut writer), last(&reader)), (Ok(1), Ok(1)));
    for file in fs::read_dir(path.parent().expect("a directory")).expect("files").flatten() {
        fs::remove_file(file.path()).expect("deleted");
    }
    assert_eq!(last(&reader), Err(StoreErrorKind::Unavailable));
    assert_eq!(append(&mut writer), Err(StoreErrorKind::Unavailable));
    let refused = writer.probe().expect_err("no other file is made");
    assert!(refused.message.contains("is gone"), "{refused}");
    assert_eq!((append(&mut writer), path.exists()), (Err(StoreErrorKind::Unavailable), false));
    // A new writer begins a new log.
    assert_eq!(append(&mut store.writer()), Ok(1));
}

#[test]
fn a_backup_may_be_put_back_under_way() {
    let store = Store::sqlite();
    let path = sqlite_path(&store);
    let mut writer = store.writer();
    let reader = store.reader();
    assert_eq!(append(&mut writer), Ok(1));
    let backup = path.with_extension("backup");
    raw(path).batch_execute(&format!("VACUUM INTO '{}'", backup.display())).expect("a backup");
    assert_eq!(append(&mut writer), Ok(2));
    drop(raw(path).batch_execute("PRAGMA wal_checkpoint(TRUNCATE)"));
    fs::rename(&backup, path).expect("replaced");
    assert_eq!(probe(&mut writer), Err(StoreErrorKind::Unavailable));
    // No id is given a second time.
    assert_eq!((append(&mut writer), last(&reader)), (Ok(2 + MARGIN + 1), Ok(2 + MARGIN + 2)));
}

#[test]
fn readers_wait_for_the_store_to_be_created() {
    let store = Store::sqlite();
    let reader = store.reader();
    assert_eq!(last(&reader), Err(StoreErrorKind::Unavailable));
    let mut writer = store.writer();
    assert_eq!((append(&mut writer), last(&reader)), (Ok(1), Ok(1)));

    let store = Store::postgres();
    let reader = store.reader();
    assert_eq!(last(&reader), Err(StoreErrorKind::Unavailable), "no tables yet");
    let mut writer = store.writer();
    assert_eq!((append(&mut writer), last(&reader)), (Ok(1), Ok(1)));
}

#[test]
fn a_server_that_goes_and_comes_back() {
    let server = Postgres::start();
    let options = options(StoreUrl::parse(&server.url()).expect("a valid URL"));
    let mut writer = Writer::open(options.clone()).expect("open the store");
    let reader = Reader::unwatched(options.clone());
    assert_eq!((append(&mut writer), last(&reader)), (Ok(1), Ok(1)));
    server.stop();
    assert_eq!(append(&mut writer), Err(StoreErrorKind::Unavailable));
    assert_eq!(probe(&mut writer), Err(StoreErrorKind::Unavailable));
    assert_eq!(last(&reader), Err(StoreErrorKind::Unavailable));
    assert_eq!(Writer::open(options.clone()).map(drop).map_err(|e| e.kind), Err(StoreErrorKind::Unavailable));
    let early = Reader::unwatched(options);
    server.start_again();
    assert_eq!((append(&mut writer), last(&reader), last(&early)), (Ok(2), Ok(2), Ok(2)));
    // A restart between two reads goes unnoticed.
    server.stop();
    server.start_again();
    assert_eq!((last(&reader), last(&early)), (Ok(2), Ok(2)));
}

#[test]
fn a_killed_session_is_replaced() {
    let store = Store::postgres();
    let mut writer = store.writer();
    let reader = store.reader();
    assert_eq!((append(&mut writer), last(&reader)), (Ok(1), Ok(1)));
    let kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    store.execute(kill);
    assert_eq!(append(&mut writer), Err(StoreErrorKind::Unavailable));
    assert_eq!((append(&mut writer), last(&reader)), (Ok(2), Ok(2)));
}

#[test]
fn a_lock_on_the_server_is_said_to_be_locked() {
    let store = Store::postgres();
    let mut writer = store.writer();
    assert_eq!(append(&mut writer), Ok(1));
    let StoreUrl::Postgres(url) = &store.options.url else { unreachable!() };
    let mut other = diesel::PgConnection::establish(url).expect("connect");
    other.batch_execute("BEGIN; LOCK TABLE event_handler.events IN EXCLUSIVE MODE").expect("the lock");
    assert_eq!(append(&mut writer), Err(StoreErrorKind::Locked));
    other.batch_execute("ROLLBACK").expect("unlocked");
    assert_eq!(append(&mut writer), Ok(2));
}

/// RT-1 for a cluster: whoever has seen an id never sees a lower one appear later.
#[test]
fn ids_of_two_writers_rise_in_commit_order() {
    const BATCHES: usize = 60;
    let store = Store::postgres();
    let reader = store.reader();
    let total = 3 * (2 * BATCHES) as i64;
    store.writer();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut writer = store.writer();
                for _ in 0..BATCHES {
                    let done = writer.append(vec![single("a"), single("b"), single("a")], NOON).expect("stored");
                    assert!(done.events.iter().map(|e| e.id).eq(done.prev + 1..=done.prev + 3));
                }
            });
        }
        let mut position = 0;
        while position < total {
            let wanted =
                Scan { after: position, through: None, patterns: Vec::new(), max_events: 500, max_bytes: 1 << 20 };
            let page = run(reader.scan(wanted)).expect("a page");
            assert!(page.events.iter().map(|e| e.id).eq(position + 1..=page.scanned_through), "no event came late");
            position = page.scanned_through;
        }
    });
    assert_eq!(last(&reader), Ok(total));
}

#[test]
fn reads_beyond_the_bound_are_refused_at_once() {
    let store = Store::sqlite();
    store.writer();
    let reader = Reader::unwatched(StoreOptions { readers: 1, ..store.options.clone() });
    let outcomes = run(async {
        let reads: Vec<_> = (0..100).map(|_| reader.bounds()).collect();
        futures_util::future::join_all(reads).await
    });
    let busy = outcomes.iter().filter(|o| o.as_ref().is_err_and(|e| e.kind == StoreErrorKind::Busy)).count();
    assert_eq!((busy, outcomes.iter().filter(|o| o.is_ok()).count()), (35, 65));
}

#[test]
fn a_file_without_permissions_is_named() {
    let store = Store::sqlite();
    store.writer();
    let path = sqlite_path(&store);
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).expect("permissions");
    let opened = Writer::open(store.options.clone()).and_then(|mut writer| writer.probe());
    // Root may write whatever the permissions say.
    let may_write = fs::OpenOptions::new().append(true).open(path).is_ok();
    let expected = if may_write { Ok(()) } else { Err(StoreErrorKind::ReadOnly) };
    assert_eq!(opened.map_err(|e| e.kind), expected);
}
