//! The writer: the one connection of a process that changes the store.

use std::sync::Arc;

use diesel::{OptionalExtension as _, RunQueryDsl as _};

use crate::domain::catalogue::Catalogue;
use crate::domain::event::{LogBounds, Timestamp};
use crate::domain::log::{Found, Gap, LogId, Restored, Seen};
use crate::domain::routes::ServiceId;
use crate::domain::secret::Secret;
use crate::protocol::relay::RelayKey;

use super::append::newest;
use super::beside::HighWaterMark;
use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::group::WriteContext;
use super::options::{Access, StoreOptions};
use super::outbox::{self, NewService, Orphan, Pending, Registered};
use super::url::StoreUrl;
use super::{catalogue, identity, migrate, nodes, position, postgres, schedules, sqlite};

/// A writing connection, owned by one thread.
///
/// After a failure the connection is dropped and the next call opens a new one, so the writer recovers by itself when
/// the cause is gone.
pub struct Writer {
    options: StoreOptions,
    connection: Option<Connection>,
    /// The registered services, whose open deliveries keep their events from being trimmed.
    pub(super) services: Vec<ServiceId>,
    /// The identity of the log, as of the last look.
    pub(super) log: Option<LogId>,
    /// What only the nodes on this store know, as of the last connection.
    key: Secret,
    /// The database server of that connection.
    server: String,
    relay_key: Option<Arc<RelayKey>>,
    /// The newest event that this writer knows. New ids are greater than its id.
    seen: Option<Seen>,
    /// The store lacks events that this writer knows: it was restored from an older copy.
    pub(super) is_set_back: bool,
    /// The ids that were left out, each time that the store was set back, as of the last look.
    gaps: Vec<Gap>,
    /// An operator has declared the store restored.
    pub(super) is_declared: bool,
    /// The high-water mark beside a SQLite file.
    mark: Option<HighWaterMark>,
}

impl Writer {
    /// Connects. Creates the store if the options allow it, and applies missing migrations.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        Self::resume(options, None)
    }

    /// Like [`Self::open`], for a process that knows events up to `seen` already.
    pub fn resume(options: StoreOptions, seen: Option<Seen>) -> Result<Self, StoreError> {
        let mut writer = Self {
            options,
            connection: None,
            services: Vec::new(),
            log: None,
            key: Secret::default(),
            server: String::new(),
            relay_key: None,
            seen,
            is_set_back: false,
            gaps: Vec::new(),
            is_declared: false,
            mark: None,
        };
        writer.bounds()?;
        writer.options.create = false;
        Ok(writer)
    }

    /// The identity of the log; `None` before the store was opened.
    pub fn log(&self) -> Option<LogId> {
        self.log
    }

    /// What only the nodes on this store know: they sign with it what they say to each other past the store.
    pub fn key(&self) -> &Secret {
        &self.key
    }

    /// By what the nodes on this store know each other's batches, as of the last connection; none before the first.
    pub fn relay_key(&mut self) -> Option<Arc<RelayKey>> {
        let log = self.log?;
        if self.relay_key.as_ref().is_none_or(|key| key.log() != log) {
            self.relay_key = Some(Arc::new(RelayKey::new(&self.key, log, &self.server)));
        }
        self.relay_key.clone()
    }

    /// Another node has committed this event, and it was shown here. A store that is known to be set back stays so.
    pub fn learn(&mut self, seen: Seen) {
        if !self.is_set_back && self.log == Some(seen.log) && self.seen.is_some_and(|known| known.last < seen.last) {
            self.see(seen);
        }
    }

    /// Somebody remembers this event of an earlier time: looks whether the log still has it.
    pub fn recall(&mut self, seen: Seen) -> Result<(), StoreError> {
        let found = self.with(|connection| identity::found(connection, Some(seen.last)))?;
        if seen.log == found.log && Restored::decide(&seen, &found, found.log).is_some() {
            // What this writer knows may be newer, and ids are given above all of it.
            self.seen = self.seen.filter(|known| known.last > seen.last.max(found.last)).or(Some(seen));
            self.is_set_back = true;
        }
        Ok(())
    }

    /// The newest event that is known.
    pub fn seen(&self) -> Option<Seen> {
        self.seen
    }

    /// Whether the store lacks events that are known. Then the next commit, whatever it contains, begins with
    /// `$sys.log.restored` and gives ids greater than all that are known.
    pub fn is_set_back(&self) -> bool {
        self.is_set_back
    }

    /// The ids that were left out, each time that the store was set back.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Does `work` in a transaction that holds the writer's lock.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|connection| {
            connection.begin()?;
            let done = work(connection)?;
            connection.commit()?;
            Ok(done)
        })
    }

    /// Finds services by their names and adds the missing ones. Returns them in the order of `services`. A service that
    /// is added gets the stored events that its configuration asks for, and only then.
    pub fn register(&mut self, services: &[NewService], now: Timestamp) -> Result<Vec<Registered>, StoreError> {
        let known: Vec<Registered> = self.transact(|connection| {
            let log = position::bounds(connection)?;
            services.iter().map(|service| outbox::register(connection, service, log, now)).collect()
        })?;
        self.services = known.iter().map(|service| service.id).collect();
        Ok(known)
    }

    /// How many deliveries of a service are open or dead.
    pub fn pending(&mut self, service: ServiceId) -> Result<Pending, StoreError> {
        self.with(|connection| outbox::pending(connection, service))
    }

    /// Services with deliveries that are not among `configured`.
    pub fn orphans(&mut self, configured: &[String]) -> Result<Vec<Orphan>, StoreError> {
        self.with(|connection| outbox::orphans(connection, configured))
    }

    /// When the first schedule is due.
    pub fn next_schedule(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.with(schedules::next_due)
    }

    /// The oldest and the newest retained id. Also checks whether the log still has the events that are known.
    pub fn bounds(&mut self) -> Result<LogBounds, StoreError> {
        let mut connection = self.connected()?;
        let found = self.look(&mut connection)?;
        let LogBounds { earliest, last } = position::bounds(&mut connection)?;
        self.connection = Some(connection);
        // Another node may have committed between the two. What is shown here has been seen, so that its ids are not
        // given again whatever becomes of the store.
        Ok(LogBounds { earliest, last: last.min(found.last) })
    }

    /// The date of the newest event.
    pub fn newest_at(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let newest: Option<(i64, i64, i64)> =
            self.with(|connection| Ok(on_backend!(connection, c => newest().get_result(c).optional())?))?;
        Ok(newest.map(|(_, created_at, _)| Timestamp(created_at)))
    }

    /// The time by the clock of the database, which all nodes share; `None` on SQLite.
    pub fn time_of_day(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(_) => Ok(None),
            Connection::Postgres(_) => nodes::time(connection).map(Some),
        })
    }

    /// Commits a transaction without lasting effect, to prove that commits work.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(file) => sqlite::probe(&mut file.connection),
            Connection::Postgres(session) => postgres::probe(session),
        })
    }

    /// Idempotency keys from before this instant count as absent.
    pub(super) fn keys_since(&self, now: Timestamp) -> Timestamp {
        let window = i64::try_from(self.options.idempotency_window.as_micros()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_sub(window))
    }

    /// Does `work` on the connection. The connection is closed if that fails, and also if the database file was
    /// replaced during it.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = self.connected()?;
        self.keep(connection, work)
    }

    /// Does `work` on `connection` and keeps the connection for later use, unless it may be broken. An error that a
    /// request has caused does not close it, because that would release the leases of the session.
    pub(super) fn keep<T>(
        &mut self,
        mut connection: Connection,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let result = work(&mut connection).and_then(|done| connection.verify_written().map(|()| done));
        let goes_on = match &result {
            Ok(_) => true,
            Err(error) => error.kind.may_be_of_data() && connection.roll_back(),
        };
        if goes_on {
            self.connection = Some(connection);
        }
        result
    }

    pub(super) fn context(&self, now: Timestamp) -> WriteContext {
        let Self { seen, is_set_back, is_declared, .. } = *self;
        let (keys_since, max_types) = (self.keys_since(now), self.options.max_types);
        let maintenance_refuses = Arc::clone(&self.options.maintenance_refuses);
        let catalogue = self.options.catalogue.get();
        WriteContext { seen, is_set_back, is_declared, now, keys_since, max_types, maintenance_refuses, catalogue }
    }

    /// The catalogue is as it was read in a transaction that is committed.
    pub(super) fn learn_catalogue(&self, catalogue: Option<Arc<Catalogue>>) {
        if let Some(catalogue) = catalogue.filter(|read| read.generation() != self.options.catalogue.get().generation())
        {
            self.options.catalogue.set(catalogue);
        }
    }

    /// Takes the connection out of the writer, connecting first if necessary. It must be put back unless something
    /// fails on it.
    pub(super) fn connected(&mut self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.connection.take() {
            connection.verify()?;
            return Ok(connection);
        }
        let mut connection = Connection::open(&self.options, Access::Write)?;
        let is_first = self.log.is_none() && self.seen.is_none();
        let usage = if is_first { migrate::Use::First } else { migrate::Use::Further };
        let applied = migrate::run(&mut connection, usage)?;
        if !applied.is_empty() {
            log::info!(count = applied.len(); "migrations applied");
        }
        self.key = identity::key(&mut connection)?;
        self.server = identity::server(&mut connection)?;
        self.relay_key = None;
        let known = self.seen;
        if let StoreUrl::Sqlite(path) = &self.options.url {
            let mark = self.mark.insert(HighWaterMark::of(path));
            self.seen = known.or_else(|| mark.read());
        }
        let shared = &self.options.catalogue;
        // All of it: the store may have been set back, and changed again since.
        shared.set(catalogue::current(&mut connection, Arc::new(shared.get().emptied()))?);
        let found = self.look(&mut connection)?;
        // An empty store in the place of another one is a new log, unless this process has seen events of the old one.
        if known.is_none() && found.last == 0 && self.seen.is_some_and(|seen| seen.log != found.log) {
            self.is_set_back = false;
            self.see(found.seen());
        }
        Ok(connection)
    }

    /// Compares the store with the events that are known, and notes the result.
    fn look(&mut self, connection: &mut Connection) -> Result<Found, StoreError> {
        let found = identity::found(connection, self.seen.map(|seen| seen.last))?;
        self.log = Some(found.log);
        let restored = self.seen.and_then(|seen| Restored::decide(&seen, &found, found.log));
        self.is_set_back = restored.is_some();
        // The next commit leaves these out.
        let next = restored.map(|Restored { last, after, .. }| Gap { last, end: after });
        self.gaps = identity::gaps(connection)?.into_iter().chain(next).collect();
        if !self.is_set_back {
            self.see(found.seen());
        }
        Ok(found)
    }

    pub(super) fn see(&mut self, seen: Seen) {
        if self.seen.replace(seen) != Some(seen)
            && let Some(mark) = &mut self.mark
        {
            mark.write(&seen);
        }
    }
}
