//! One suite for both backends, on real files and a real PostgreSQL server.

mod append;

use std::time::Duration;

use tempfile::TempDir;

use crate::domain::event::{Append, DEFAULT_SOURCE, Idempotency, NewEvent, Priority, Timestamp};
use crate::domain::name::EventName;
use crate::storage::{StoreOptions, StoreUrl, Writer};

#[allow(dead_code, reason = "shared with the black-box tests")]
#[path = "../../../tests/support/postgres.rs"]
mod server;
use server::Postgres;

/// Noon of some day.
const NOON: Timestamp = Timestamp(1_700_000_000_000_000);

/// An empty store on one of the backends.
struct Store {
    options: StoreOptions,
    dir: TempDir,
}

impl Store {
    fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = StoreUrl::Sqlite(dir.path().join("new/events.db"));
        Self { options: options(url), dir }
    }

    fn postgres() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = StoreUrl::parse(&Postgres::shared().url()).expect("a valid URL");
        Self { options: options(url), dir }
    }

    fn writer(&self) -> Writer {
        Writer::open(self.options.clone()).expect("open the store")
    }
}

/// Runs `test` on an empty store of every backend.
fn on_both(test: impl Fn(Store)) {
    eprintln!("--- on SQLite ---");
    test(Store::sqlite());
    eprintln!("--- on PostgreSQL ---");
    test(Store::postgres());
}

fn options(url: StoreUrl) -> StoreOptions {
    StoreOptions { busy_timeout: Duration::from_secs(1), ..StoreOptions::new(url) }
}

fn event(name: &str, payload: &str) -> NewEvent {
    NewEvent {
        name: EventName::parse(name.to_owned()).expect("a valid name"),
        payload: payload.to_owned().into(),
        source: DEFAULT_SOURCE,
        priority: Priority::Normal,
        key: None,
        metadata: None,
        traceparent: None,
        idempotency: None,
    }
}

fn idempotency(key: &str, fingerprint: u8) -> Option<Idempotency> {
    Some(Idempotency { key: key.to_owned().into(), fingerprint: [fingerprint; 16] })
}

fn single(name: &str) -> Append {
    Append::single(event(name, "{}"))
}

/// The time `seconds` after noon.
fn at(seconds: i64) -> Timestamp {
    Timestamp(NOON.0 + seconds * 1_000_000)
}
