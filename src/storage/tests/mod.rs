//! Tests of the store on both backends, with real files and a real PostgreSQL server.

mod append;
mod calls;
mod clock;
mod consumers;
mod entities;
mod faults;
mod followers;
mod leases;
mod outbox;
mod outbox_plans;
mod plans;
mod read;
mod retention;
mod saga_plans;
mod sagas;
mod sagas_model;
mod set_back;
mod status;
mod syncs;
mod system;
mod writes;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use tempfile::TempDir;

use crate::domain::event::{Append, Idempotency, NewEvent, Timestamp};
use crate::domain::routes::Routes;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::options::Access;
use crate::storage::{Committed, Outcome, ReadWatch, Reader, StoreError, StoreOptions, StoreUrl, Write, Writer};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

#[allow(dead_code, reason = "shared with the black-box tests")]
#[path = "../../../tests/support/postgres.rs"]
mod server;
use server::Postgres;

/// Noon of some day.
const NOON: Timestamp = Timestamp(1_700_000_000_000_000);

/// An empty store on one of the backends.
struct Store {
    options: StoreOptions,
    /// Keeps the directory of the SQLite file.
    _dir: Option<TempDir>,
}

impl Store {
    fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = StoreUrl::Sqlite(dir.path().join("events.db"));
        Self { options: options(url), _dir: Some(dir) }
    }

    fn postgres() -> Self {
        let url = StoreUrl::parse(&Postgres::shared().url()).expect("a valid URL");
        Self { options: options(url), _dir: None }
    }

    fn writer(&self) -> Writer {
        Writer::open(self.options.clone()).expect("open the store")
    }

    fn reader(&self) -> Reader {
        Reader::unwatched(self.options.clone())
    }

    /// Executes `sql` on a connection of its own, unnoticed by the writer and the reader.
    fn execute(&self, sql: &str) {
        let mut connection = Connection::open(&self.options, Access::Write).expect("connect");
        on_backend!(&mut connection, c => c.batch_execute(sql)).expect(sql);
    }

    /// From now on PostgreSQL gathers statistics of these tables only when a test says so.
    fn without_autovacuum(&self) {
        self.execute(
            "DO $$ DECLARE name text; BEGIN \
             FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema() LOOP \
             EXECUTE 'ALTER TABLE ' || name || ' SET (autovacuum_enabled = off)'; END LOOP; END $$",
        );
    }
}

/// Runs `test` on an empty store of each backend.
fn on_both(test: impl Fn(Store)) {
    eprintln!("--- on SQLite ---");
    test(Store::sqlite());
    eprintln!("--- on PostgreSQL ---");
    test(Store::postgres());
}

impl Reader {
    /// A reader with health and metrics of its own.
    pub(crate) fn unwatched(options: StoreOptions) -> Self {
        let metrics = Arc::new(Metrics::new().expect("unique names"));
        Self::new(options, ReadWatch::new(Arc::new(StoreHealth::new(Duration::MAX)), metrics)).expect("a pool")
    }
}

impl Writer {
    /// Commits `batch` in one transaction, for no service.
    fn append(&mut self, batch: Vec<Append>, now: Timestamp) -> Result<Committed, StoreError> {
        self.commit(&mut appends(batch).into(), &Routes::default(), now)
    }
}

fn options(url: StoreUrl) -> StoreOptions {
    StoreOptions { busy_timeout: Duration::from_secs(1), ..StoreOptions::new(url) }
}

fn event(name: &str, payload: &str) -> NewEvent {
    NewEvent::plain(name, payload)
}

fn idempotency(key: &str, fingerprint: u8) -> Option<Idempotency> {
    Some(Idempotency { key: key.to_owned().into(), fingerprint: [fingerprint; 16] })
}

fn single(name: &str) -> Append {
    Append::single(event(name, "{}"))
}

/// Turns requests into writes.
fn appends(requests: impl IntoIterator<Item = Append>) -> Vec<Write> {
    requests.into_iter().map(Write::Append).collect()
}

/// Commits one write, without services.
fn commit(writer: &mut Writer, write: Write) -> Outcome {
    let committed = writer.commit(&mut vec![write].into(), &Routes::default(), NOON);
    committed.expect("committed").outcomes.remove(0)
}

/// The time `seconds` after noon.
fn at(seconds: i64) -> Timestamp {
    Timestamp(NOON.0 + seconds * 1_000_000)
}

/// Runs a future on a runtime of one thread, like those of the web workers.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}
