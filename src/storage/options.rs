//! The options of the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::{StoreError, StoreErrorKind};
use super::url::{StoreUrl, has_many_hosts, parameter};

/// What a committed event survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It survives a loss of power: every commit waits for the disk.
    #[default]
    Full,
    /// It survives the end of the process, but a loss of power may lose the last moments.
    Normal,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// To write. Creates what is missing, if the options allow that.
    Write,
    /// To read only.
    Read,
}

/// The PostgreSQL schema with the tables. Clones share which one was found.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(super) name: Arc<str>,
    found: Arc<Mutex<Option<Arc<str>>>>,
}

impl Schema {
    /// The schema that is created by default.
    pub const DEFAULT: &str = "event_handler";
    /// The schema in which the first versions created their tables.
    pub(super) const EARLIER: &str = "public";

    /// The schema called `name`. If that is the default one and does not exist, tables of an earlier version in
    /// `public` are used.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), found: Arc::default() }
    }

    /// Notes where the tables were found or created.
    pub(super) fn set_found(&self, schema: &Arc<str>) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(schema));
    }

    /// Where the tables are. Fails until the writer has found out.
    pub(super) fn found(&self) -> Result<Arc<str>, StoreError> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        found.ok_or_else(|| StoreError::new(StoreErrorKind::Unavailable, "the writer has not opened the store yet"))
    }
}

/// The options that the writer and the readers share.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub url: StoreUrl,
    /// Used on PostgreSQL only.
    pub schema: Schema,
    pub durability: Durability,
    /// How many reads run at the same time; at least 1.
    pub readers: u32,
    /// The longest wait for a lock of another process or connection.
    pub busy_timeout: Duration,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// Whether a missing SQLite file is created. A writer that has opened the file once does not create another one,
    /// because that would hide the loss of its events.
    pub create: bool,
}

impl StoreOptions {
    /// The default options for the store at `url`.
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

    /// Adds parameters to `url` so that libpq notices a dead peer within seconds and, of several hosts, chooses one
    /// that takes writes. Parameters in `url` take precedence.
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
