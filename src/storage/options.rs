//! How to use the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::{StoreError, StoreErrorKind};
use super::url::{StoreUrl, has_many_hosts, parameter};

/// What a committed event survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Loss of power: every commit waits until the disk has it.
    #[default]
    Full,
    /// The end of the process; a loss of power may take the last moments.
    Normal,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Creates what is missing, if the options say so.
    Write,
    /// Changes nothing.
    Read,
}

/// Which schema the tables are in. Clones share what was found.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(super) name: Arc<str>,
    found: Arc<Mutex<Option<Arc<str>>>>,
}

impl Schema {
    /// The schema that is made where there is none.
    pub const DEFAULT: &str = "event_handler";
    /// Where the tables of installations from before are.
    pub(super) const EARLIER: &str = "public";

    /// The schema of this name; of the default one, or of an earlier installation.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), found: Arc::default() }
    }

    /// The tables were found, or made, in this one.
    pub(super) fn set_found(&self, schema: &Arc<str>) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(schema));
    }

    /// Where the tables are.
    pub(super) fn found(&self) -> Result<Arc<str>, StoreError> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        found.ok_or_else(|| StoreError::new(StoreErrorKind::Unavailable, "the writer has not opened the store yet"))
    }
}

/// Everything the writer and the reader need to know.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub url: StoreUrl,
    /// On PostgreSQL.
    pub schema: Schema,
    pub durability: Durability,
    /// Reads that run at the same time; at least 1.
    pub readers: u32,
    /// Longest wait for a lock that someone else holds.
    pub busy_timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// Whether a SQLite file that is missing is created. A writer that had one never makes another: its events would
    /// be lost without a word.
    pub create: bool,
}

impl StoreOptions {
    /// The defaults for the store at `url`.
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            schema: Schema::new(Schema::DEFAULT),
            durability: Durability::Full,
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            idempotency_window: Duration::from_secs(24 * 60 * 60),
            create: true,
        }
    }

    /// `url` with everything libpq needs to notice a dead peer within seconds, and to find the one of several hosts that
    /// takes writes, save what `url` itself sets.
    pub(super) fn postgres_conninfo(&self, url: &str) -> String {
        let connect_seconds = self.connect_timeout.as_secs().clamp(2, 60).to_string();
        let defaults = [
            ("application_name", "event-handler"),
            ("connect_timeout", connect_seconds.as_str()),
            ("keepalives_idle", "5"),
            ("keepalives_interval", "2"),
            ("keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
        ];
        let mut conninfo = url.to_owned();
        let writable = has_many_hosts(url).then_some(("target_session_attrs", "read-write"));
        for (name, value) in defaults.into_iter().chain(writable) {
            if parameter(url, name).is_none() {
                let separator = if conninfo.contains('?') { '&' } else { '?' };
                conninfo += &format!("{separator}{name}={value}");
            }
        }
        conninfo
    }
}
