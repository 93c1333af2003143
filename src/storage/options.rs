//! The options of the store.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::{StoreError, StoreErrorKind};
use super::shared_catalogue::SharedCatalogue;
use super::url::{StoreUrl, has_many_hosts, parameter, single_hosts};
use crate::domain::catalogue::Unknown;
use crate::domain::pattern::Pattern;

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
    /// To read only, from a replica.
    Replica,
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

/// Where the connections of this process lead. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reached(Arc<(AtomicUsize, AtomicU64)>);

impl Reached {
    /// Of several hosts, the place of the one that was reached last. It is tried first.
    pub(super) fn host(&self) -> usize {
        self.0.0.load(Ordering::Relaxed)
    }

    pub(super) fn set_host(&self, place: usize) {
        self.0.0.store(place, Ordering::Relaxed);
    }

    /// How often a writer has connected.
    pub(super) fn connections(&self) -> u64 {
        self.0.1.load(Ordering::Acquire)
    }

    /// A writer has connected. Where other connections lead, there may be no primary any more.
    pub(super) fn connected(&self) {
        self.0.1.fetch_add(1, Ordering::AcqRel);
    }
}

/// The options that the writer and the readers share.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub url: StoreUrl,
    /// Replicas of a PostgreSQL server, from which events are read.
    pub read_url: Option<StoreUrl>,
    /// Shared by all who use this store.
    pub reached: Reached,
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
    /// Most types of entities.
    pub max_types: usize,
    /// Publishes of these are refused in maintenance.
    pub maintenance_refuses: Arc<[Pattern]>,
    /// The catalogue of this process, which the writer keeps as it is stored.
    pub catalogue: Arc<SharedCatalogue>,
    /// Whether a missing SQLite file is created. A writer that has opened the file once does not create another one,
    /// because that would hide the loss of its events.
    pub create: bool,
}

impl StoreOptions {
    /// The default options for the store at `url`.
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            read_url: None,
            reached: Reached::default(),
            schema: Schema::new(Schema::DEFAULT),
            durability: Durability::Full,
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            idempotency_window: Duration::from_secs(24 * 60 * 60),
            max_types: 10_000,
            maintenance_refuses: Arc::default(),
            catalogue: SharedCatalogue::new(Unknown::Allow),
            create: true,
        }
    }

    /// The options for the replica, if there is one.
    pub(super) fn replica(&self) -> Option<Self> {
        let url = self.read_url.clone()?;
        Some(Self { url, read_url: None, reached: Reached::default(), ..self.clone() })
    }

    /// How to connect to each host that `url` names, with parameters by which libpq notices a dead peer within seconds
    /// and tells a primary from a standby. Those in `url` take precedence.
    ///
    /// Only where a standby is preferred, libpq has to choose among the hosts itself.
    pub(super) fn conninfos(&self, url: &str, access: Access) -> Vec<String> {
        let has_many = has_many_hosts(url);
        let wanted = if access == Access::Replica { "prefer-standby" } else { "read-write" };
        let target = parameter(url, "target_session_attrs").or(has_many.then_some(wanted));
        // A host that does not answer must cost little when there are others.
        let connect_seconds = if has_many { MANY_HOSTS_SECONDS } else { self.connect_timeout.as_secs().clamp(2, 60) };
        let connect_seconds = connect_seconds.to_string();
        let defaults = [
            ("application_name", "event-handler"),
            ("connect_timeout", connect_seconds.as_str()),
            ("keepalives_idle", "2"),
            ("keepalives_interval", "1"),
            ("keepalives_count", "3"),
            ("tcp_user_timeout", "5000"),
        ];
        let target_parameter = target.map(|target| ("target_session_attrs", target));
        let complete = |mut conninfo: String| {
            for (name, value) in defaults.into_iter().chain(target_parameter) {
                if parameter(url, name).is_none() {
                    let separator = if conninfo.contains('?') { '&' } else { '?' };
                    conninfo += &format!("{separator}{name}={value}");
                }
            }
            conninfo
        };
        let hosts = if target == Some("prefer-standby") { vec![url.to_owned()] } else { single_hosts(url) };
        hosts.into_iter().map(complete).collect()
    }
}

/// Seconds in which each of several hosts must answer; libpq waits no shorter time.
const MANY_HOSTS_SECONDS: u64 = 2;
