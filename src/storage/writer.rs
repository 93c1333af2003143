//! The only way into the log.

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::time::Duration;

use bytestring::ByteString;
use diesel::{OptionalExtension as _, RunQueryDsl as _};

use crate::domain::access::Identity;
use crate::domain::durable::DurablePolicy;
use crate::domain::event::{
    Append, AppendOutcome, DEFAULT_SOURCE, Event, EventId, LogBounds, NewEvent, Priority, ScheduleId, Timestamp,
};
use crate::domain::lease::Grant;
use crate::domain::log::{Found, LogId, Restored, Seen};
use crate::domain::name::EventName;
use crate::domain::routes::{Routes, ServiceId};

use super::beside::Mark;
use super::connection::{Access, Connection, on_backend};
use super::durables::{self, DurableRecord, HeldDurable, NewDurable};
use super::error::{StoreError, StoreErrorKind};
use super::group::{self, Ground, Group, Written, newest};
use super::options::StoreOptions;
use super::outbox::{self, Held, NewJob, NewService, Orphan, Pending, Registered, Renewed, Settling, Shifted};
use super::retention::{self, RetentionPolicy, Trimmed};
use super::revocations;
use super::schedules;
use super::url::StoreUrl;
use super::{compact, identity, migrate, position, postgres, sqlite};
use crate::telemetry::faults::{self, FaultPoint};

/// A connection that appends, owned by one thread.
///
/// After any failure the connection is dropped, and the next call opens a new one: the writer
/// works again by itself as soon as the cause is gone.
pub struct Writer {
    options: StoreOptions,
    connection: Option<Connection>,
    /// The registered ones.
    services: Vec<ServiceId>,
    /// Which log it is, as of the last look.
    log: Option<LogId>,
    /// The newest event that this writer has given or seen; ids are given above it.
    seen: Option<Seen>,
    /// The store lacks some of what was seen.
    is_set_back: bool,
    /// An operator says that it was restored.
    is_declared: bool,
    /// Beside a SQLite file.
    mark: Option<Mark>,
}

/// A batch that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The last id before this batch, read inside its transaction.
    pub prev: EventId,
    /// What was stored, ids rising without a gap from `prev + 1`.
    pub events: Vec<Event>,
    /// One for each request, in order.
    pub outcomes: Vec<AppendOutcome>,
    /// Deliveries added, by service and lane.
    pub enqueued: outbox::Enqueued,
    /// How the log goes on, if it was found to be set back; its first event tells of that.
    pub restored: Option<Restored>,
    /// Durable subscriptions whose changes were void: they were moved, or another process holds them now.
    pub void: Vec<ServiceId>,
    /// Whether all that was to be settled was still open.
    pub has_settled_all: bool,
    /// Why requests are [`AppendOutcome::Unstorable`].
    pub refused: Vec<StoreError>,
}

impl Writer {
    /// Connects, creating the store and bringing its schema up to date.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        Self::resume(options, None)
    }

    /// The same for a process that has `seen` something of the log already.
    pub fn resume(options: StoreOptions, seen: Option<Seen>) -> Result<Self, StoreError> {
        let (connection, log, mark) = (None, None, None);
        let mut writer =
            Self { options, connection, services: Vec::new(), log, seen, is_set_back: false, is_declared: false, mark };
        writer.bounds()?;
        writer.options.create = false;
        Ok(writer)
    }

    /// Which log it is; none before the store was opened.
    pub fn log(&self) -> Option<LogId> {
        self.log
    }

    /// The newest event of it that is known.
    pub fn seen(&self) -> Option<Seen> {
        self.seen
    }

    /// Whether the store was found to lack some of what was seen. The next commit, of whatever, goes on above that and
    /// begins with `$sys.log.restored`.
    pub fn is_set_back(&self) -> bool {
        self.is_set_back
    }

    /// Makes it another log, which goes on above all that is known, and says so with `$sys.log.restored`.
    pub fn declare_restored(&mut self, now: Timestamp) -> Result<Restored, StoreError> {
        self.is_declared = true;
        let committed = self.commit(Group::default(), &Routes::default(), now)?;
        committed.restored.ok_or_else(|| StoreError::new(StoreErrorKind::Internal, "nothing was declared"))
    }

    /// Stores `batch` in one transaction, for no service; see [`Self::commit`].
    pub fn append(&mut self, batch: Vec<Append>, now: Timestamp) -> Result<Committed, StoreError> {
        self.commit(Group { appends: batch, ..Group::default() }, &Routes::default(), now)
    }

    /// Stores `group` in one transaction, with a delivery of each new event for every service that `routes` finds for
    /// it; a request whose idempotency key was used before stores nothing.
    ///
    /// Events get dense rising ids, and a `created_at` that goes back only where the newest event is dated by a clock that
    /// was wrong. When this returns, they are durable. When it fails, nothing is acknowledged; with
    /// [`StoreErrorKind::Unavailable`] it may be stored.
    ///
    /// A request that the store cannot hold holds up no other one: it is left out, and told so. With
    /// [`StoreErrorKind::Invalid`] the store is well, and cannot hold another part of `group`.
    ///
    /// `group` loses what was stored of it, and is as it was after a failure.
    pub fn commit(
        &mut self,
        mut group: impl BorrowMut<Group>,
        routes: &Routes,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let group = group.borrow_mut();
        match self.commit_whole(group, routes, now) {
            Err(error) if error.kind.may_be_of_data() => self.commit_storable(group, routes, now),
            done => done,
        }
    }

    fn commit_whole(&mut self, group: &mut Group, routes: &Routes, now: Timestamp) -> Result<Committed, StoreError> {
        let (aborts, is_unconfirmed) = if group.settlements.is_empty() && group.durables.is_empty() {
            (false, false)
        } else if faults::strikes(FaultPoint::StoreLocked) {
            return Err(StoreError::new(StoreErrorKind::Locked, "injected: the store is locked"));
        } else {
            (faults::strikes(FaultPoint::TransactionAborted), faults::strikes(FaultPoint::CommitUnconfirmed))
        };
        refuse_zero_bytes(&group.appends)?;
        let connection = self.connected()?;
        let (ground, requests) = (self.ground(now), group.appends.len());
        let mut own = 0;
        let written = self.keep(connection, |connection| {
            connection.begin()?;
            let written = group::write(connection, group, routes, ground, &mut own)?;
            injected(aborts)?;
            connection.commit()?;
            injected(is_unconfirmed)?;
            Ok(written)
        });
        let written = written.inspect_err(|_| {
            group.appends.drain(..own);
            group.appends.truncate(requests);
        });
        let Written { tail, mut plan, enqueued, void, restored, has_settled_all } = written?;
        let new = plan.select(std::mem::take(&mut group.appends).into_iter().flat_map(|append| append.events));
        let events: Vec<_> = new.zip(tail.id + 1..).map(|(new, id)| Event::stored(new, id, tail.created_at)).collect();
        if let Some(restored) = &restored {
            log::error!(log_id:% = restored.log, last_id = restored.last, known_last_id = restored.known, first_id = restored.after + 1; "the log was set back: ids that were given out are not given out again");
            self.log = Some(restored.log);
            self.is_declared = false;
            plan.outcomes.remove(0);
        }
        if let Some((log, newest)) = self.log.zip(events.last()) {
            self.see(Seen { log, last: newest.id, at: newest.created_at });
            self.is_set_back = false;
        }
        plan.outcomes.truncate(requests);
        Ok(Committed {
            prev: tail.id,
            events,
            outcomes: plan.outcomes,
            enqueued,
            restored,
            void,
            has_settled_all,
            refused: Vec::new(),
        })
    }

    /// The same without the requests that the store cannot hold: they are found by halves, in transactions that are
    /// not committed.
    fn commit_storable(&mut self, group: &mut Group, routes: &Routes, now: Timestamp) -> Result<Committed, StoreError> {
        // A store that does not take this either is ailing.
        self.rehearse(vec![harmless()], routes, now)?;
        let mut refused: BTreeMap<usize, StoreError> = BTreeMap::new();
        let mut doubtful: Vec<_> = (!group.appends.is_empty()).then_some(0..group.appends.len()).into_iter().collect();
        while let Some(range) = doubtful.pop() {
            match self.rehearse(group.appends[range.clone()].to_vec(), routes, now) {
                Ok(()) => {}
                Err(error) if !error.kind.may_be_of_data() => return Err(error),
                Err(error) if range.len() == 1 => drop(refused.insert(range.start, error)),
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    doubtful.extend([range.start..middle, middle..range.end]);
                }
            }
        }
        let storable = group.appends.iter().enumerate().filter(|(index, _)| !refused.contains_key(index));
        let storable = storable.map(|(_, append)| append.clone()).collect();
        let whole = std::mem::replace(&mut group.appends, storable);
        let mut committed = self.commit_whole(group, routes, now).map_err(|error| {
            group.appends = whole;
            let kind = if error.kind.may_be_of_data() { StoreErrorKind::Invalid } else { error.kind };
            StoreError { kind, ..error }
        })?;
        for (index, error) in refused {
            committed.outcomes.insert(index, AppendOutcome::Unstorable);
            committed.refused.push(error);
        }
        Ok(committed)
    }

    /// Stores `appends` in a transaction that is not committed.
    fn rehearse(&mut self, appends: Vec<Append>, routes: &Routes, now: Timestamp) -> Result<(), StoreError> {
        refuse_zero_bytes(&appends)?;
        let connection = self.connected()?;
        let (ground, mut group) = (self.ground(now), Group { appends, ..Group::default() });
        self.keep(connection, |connection| {
            connection.begin()?;
            let written = group::write(connection, &mut group, routes, ground, &mut 0).map(drop);
            connection.roll_back();
            written
        })
    }

    /// Does `work` in a transaction that holds the writer's lock.
    fn transact<T>(&mut self, work: impl FnOnce(&mut Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.with(|connection| {
            connection.begin()?;
            let done = work(connection)?;
            connection.commit()?;
            Ok(done)
        })
    }

    /// Finds services by their names, adding those that the store has not seen; in the order of `services`. One that
    /// is added gets the stored events that it wants: that is decided with it, once.
    pub fn register(&mut self, services: &[NewService], now: Timestamp) -> Result<Vec<Registered>, StoreError> {
        let known: Vec<Registered> = self.transact(|connection| {
            let log = position::bounds(connection)?;
            services.iter().map(|service| outbox::register(connection, service, log, now)).collect()
        })?;
        self.services = known.iter().map(|service| service.id).collect();
        Ok(known)
    }

    /// Makes this process the only one that delivers to a service, for as long as the writer's connection lives;
    /// whether it is, and with what state. On SQLite there is no other.
    pub fn hold(&mut self, service: ServiceId) -> Result<Held, StoreError> {
        self.with(|connection| {
            let hold = match connection {
                Connection::Sqlite(_) => Grant::Kept,
                Connection::Postgres(session) => postgres::hold(session, service)?,
            };
            outbox::held(connection, service, hold)
        })
    }

    /// Finds a durable subscription, or makes it; none if there are `max` already.
    pub fn open_durable(
        &mut self,
        new: &NewDurable,
        max: usize,
        now: Timestamp,
    ) -> Result<Option<DurableRecord>, StoreError> {
        self.transact(|connection| durables::open(connection, new, max, now))
    }

    /// Makes this process the only one that delivers the events of a durable subscription, for as long as the writer's
    /// connection lives or until it is [released](Self::release); none if it was deleted.
    pub fn hold_durable(&mut self, service: ServiceId) -> Result<Option<HeldDurable>, StoreError> {
        Ok(self.hold_durables(&[(service, None)])?.pop())
    }

    /// The same for many, each with the epoch in which this process holds it, if it does: then its marks are not read
    /// again. Those that were deleted are left out.
    ///
    /// Whoever takes one begins a new epoch of it: what another process, which held it before and does not know that yet,
    /// has still to store is void.
    pub fn hold_durables(&mut self, known: &[(ServiceId, Option<i64>)]) -> Result<Vec<HeldDurable>, StoreError> {
        self.with(|connection| {
            let services: Vec<ServiceId> = known.iter().map(|(service, _)| *service).collect();
            let holds = match connection {
                Connection::Sqlite(_) => vec![Grant::Kept; services.len()],
                Connection::Postgres(session) => postgres::hold_all(session, &services)?,
            };
            let holds =
                if faults::strikes(FaultPoint::LeaseRefused) { vec![Grant::Elsewhere; holds.len()] } else { holds };
            let taken: Vec<ServiceId> =
                services.iter().zip(&holds).filter(|(_, hold)| **hold == Grant::Taken).map(|(id, _)| *id).collect();
            durables::begin_epochs(connection, &taken)?;
            durables::held(connection, known, &holds)
        })
    }

    /// Lets another process hold it.
    pub fn release(&mut self, service: ServiceId) -> Result<(), StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(session) => postgres::release(session, service),
        })
    }

    /// How a durable subscription delivers from now on.
    pub fn set_durable_policy(&mut self, name: &str, policy: &DurablePolicy) -> Result<bool, StoreError> {
        self.transact(|connection| durables::set_policy(connection, name, policy))
    }

    /// Has a durable subscription go on after `floor`; false if there is none of this name.
    pub fn seek_durable(&mut self, name: &str, floor: EventId) -> Result<bool, StoreError> {
        self.transact(|connection| durables::seek(connection, name, floor))
    }

    /// Forgets a durable subscription; false if there is none of this name.
    pub fn delete_durable(&mut self, name: &str) -> Result<bool, StoreError> {
        self.transact(|connection| durables::delete(connection, name))
    }

    /// What is not delivered to a service, counted.
    pub fn pending(&mut self, service: ServiceId) -> Result<Pending, StoreError> {
        self.with(|connection| outbox::pending(connection, service))
    }

    /// What is left for services that are none of `configured`.
    pub fn orphans(&mut self, configured: &[String]) -> Result<Vec<Orphan>, StoreError> {
        self.with(|connection| outbox::orphans(connection, configured))
    }

    /// Settles a bounded number of the deliveries of a service that is not configured.
    pub fn settle_orphans(
        &mut self,
        from: ServiceId,
        settling: Settling,
        now: Timestamp,
    ) -> Result<Shifted, StoreError> {
        self.transact(|connection| outbox::settle_orphans(connection, from, settling, now))
    }

    /// Writes a job down; returns its number.
    pub fn create_job(&mut self, job: &NewJob, now: Timestamp) -> Result<i64, StoreError> {
        self.transact(|connection| outbox::create_job(connection, job, now))
    }

    /// Stops a running job; whether it was running.
    pub fn cancel_job(&mut self, id: i64, now: Timestamp) -> Result<bool, StoreError> {
        self.transact(|connection| outbox::cancel_job(connection, id, now))
    }

    /// One step of each running job; the services for which deliveries were made anew, with how many.
    pub fn step_jobs(&mut self, routes: &Routes, now: Timestamp) -> Result<Vec<(ServiceId, Renewed)>, StoreError> {
        const MAX_RUNNING: usize = 64;
        let running = self.with(|connection| outbox::jobs(connection, true, MAX_RUNNING))?;
        let mut stepped = Vec::new();
        for job in running {
            if let Some(renewed) = self.transact(|connection| outbox::job_step(connection, &job, routes, now))? {
                stepped.push((job.job.service, renewed));
            }
        }
        Ok(stepped)
    }

    /// Cancels a schedule; whether it was still waiting.
    pub fn cancel_schedule(&mut self, id: ScheduleId) -> Result<bool, StoreError> {
        self.transact(|connection| schedules::cancel(connection, id))
    }

    /// Has somebody revoked, or not any more; whether that changes anything.
    pub fn revoke(&mut self, who: &Identity, is_revoked: bool, at: Timestamp) -> Result<bool, StoreError> {
        self.transact(|connection| revocations::set(connection, who, is_revoked, at))
    }

    /// When the next schedule is due.
    pub fn next_schedule(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.with(schedules::next_due)
    }

    /// The retained part of the log. Looks whether it is still the log that was seen.
    pub fn bounds(&mut self) -> Result<LogBounds, StoreError> {
        let mut connection = self.connected()?;
        self.look(&mut connection)?;
        let bounds = position::bounds(&mut connection)?;
        self.connection = Some(connection);
        Ok(bounds)
    }

    /// When the newest event is dated.
    pub fn newest_at(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let newest: Option<(i64, i64, i64)> =
            self.with(|connection| Ok(on_backend!(connection, c => newest().first(c).optional())?))?;
        Ok(newest.map(|(_, created_at, _)| Timestamp(created_at)))
    }

    /// What time it is, if the store knows: one for all nodes. Files do not.
    pub fn time_of_day(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(_) => Ok(None),
            Connection::Postgres(session) => postgres::time_of_day(&mut session.connection).map(Some),
        })
    }

    /// Brings what waits for longer than it can, because the clock was wrong when it was stored, back to `now`: at most
    /// `max_rows` of each kind. `longest` is how long deliveries to each service may wait.
    pub fn bound_waits(
        &mut self,
        longest: &[(ServiceId, Duration)],
        now: Timestamp,
        max_rows: usize,
    ) -> Result<(), StoreError> {
        self.with(|connection| {
            retention::bound_keys(connection, now, max_rows)?;
            outbox::bound_waits(connection, longest, now, max_rows)
        })
    }

    /// Commits a transaction that changes nothing, to prove that commits work.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(file) => sqlite::probe(&mut file.connection),
            Connection::Postgres(session) => postgres::probe(session),
        })
    }

    /// Removes up to `max_rows` of the oldest events that `policy` does not keep; never the newest event.
    /// Nor an event that is still to be delivered to a registered service.
    pub fn trim(&mut self, policy: &RetentionPolicy, now: Timestamp, max_rows: usize) -> Result<Trimmed, StoreError> {
        let services = std::mem::take(&mut self.services);
        let trimmed = self.with(|connection| retention::trim(connection, policy, &services, now, max_rows));
        self.services = services;
        trimmed
    }

    /// Gives up to `max_pages` pages that nothing is stored in back to the file system; whether more are to go.
    pub fn give_back(&mut self, max_pages: u16) -> Result<bool, StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(file) => compact::give_back(file, max_pages),
            Connection::Postgres(_) => Ok(false),
        })
    }

    /// Forgets up to `max_rows` idempotency keys that are older than the window; returns how many.
    pub fn prune_idempotency(&mut self, now: Timestamp, max_rows: usize) -> Result<usize, StoreError> {
        let before = self.keys_since(now);
        self.with(|connection| retention::prune_keys(connection, before, max_rows))
    }

    /// Idempotency keys from before this instant count as absent.
    fn keys_since(&self, now: Timestamp) -> Timestamp {
        let window = i64::try_from(self.options.idempotency_window.as_micros()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_sub(window))
    }

    /// Does `work` on the connection, which ends if it fails. Nothing is written beside a file that has been
    /// replaced: what went into the write-ahead log of the old one would be taken for that of the new one.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = self.connected()?;
        self.keep(connection, work)
    }

    /// Does `work` on `connection`, and keeps that for the next time if nothing fails on it. What one request caused is
    /// no reason to give up the locks of a session.
    fn keep<T>(
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

    fn ground(&self, now: Timestamp) -> Ground {
        let Self { seen, is_set_back, is_declared, .. } = *self;
        Ground { seen, is_set_back, is_declared, now, keys_since: self.keys_since(now) }
    }

    /// The connection; to be given back if nothing fails on it.
    fn connected(&mut self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.connection.take() {
            connection.verify()?;
            return Ok(connection);
        }
        let mut connection = Connection::open(&self.options, Access::Write)?;
        migrate::run(&mut connection)?;
        let known = self.seen;
        if let StoreUrl::Sqlite(path) = &self.options.url {
            let mark = self.mark.insert(Mark::of(path));
            self.seen = known.or_else(|| mark.read());
        }
        let found = self.look(&mut connection)?;
        // An empty store in the place of another one begins anew, for a process that has seen nothing itself.
        if known.is_none() && found.last == 0 && self.seen.is_some_and(|seen| seen.log != found.log) {
            self.is_set_back = false;
            self.see(found.seen());
        }
        Ok(connection)
    }

    /// Compares the store with what was seen of it.
    fn look(&mut self, connection: &mut Connection) -> Result<Found, StoreError> {
        let found = identity::found(connection, self.seen.map(|seen| seen.last))?;
        self.log = Some(found.log);
        self.is_set_back = self.seen.is_some_and(|seen| Restored::decide(&seen, &found, found.log).is_some());
        if !self.is_set_back {
            self.see(found.seen());
        }
        Ok(found)
    }

    fn see(&mut self, seen: Seen) {
        if self.seen.replace(seen) != Some(seen)
            && let Some(mark) = &mut self.mark
        {
            mark.write(&seen);
        }
    }
}

/// An event that any store can hold.
fn harmless() -> Append {
    Append::single(NewEvent {
        name: EventName::from_store("$sys.rehearsal".to_owned()),
        payload: ByteString::from_static("{}"),
        source: DEFAULT_SOURCE,
        priority: Priority::Normal,
        key: None,
        metadata: None,
        traceparent: None,
        idempotency: None,
    })
}

/// A failure by order of a test.
fn injected(is_due: bool) -> Result<(), StoreError> {
    let error = || StoreError::new(StoreErrorKind::Unavailable, "injected: the connection is lost");
    if is_due { Err(error()) } else { Ok(()) }
}

/// PostgreSQL cannot hold a zero byte in a text, so neither backend takes one.
fn refuse_zero_bytes(batch: &[Append]) -> Result<(), StoreError> {
    let has_zero = |text: &ByteString| memchr::memchr(0, text.as_bytes()).is_some();
    let bad = |event: &NewEvent| {
        let NewEvent { name, payload, source, priority: _, key, metadata, traceparent, idempotency } = event;
        let required = [name.as_shared(), payload, source];
        let optional = [key.as_ref(), metadata.as_ref(), traceparent.as_ref(), idempotency.as_ref().map(|i| &i.key)];
        required.into_iter().chain(optional.into_iter().flatten()).any(has_zero)
    };
    let key_is_bad = |append: &Append| append.idempotency.as_ref().is_some_and(|i| has_zero(&i.key));
    if batch.iter().any(|append| key_is_bad(append) || append.events.iter().any(bad)) {
        return Err(StoreError::new(StoreErrorKind::Invalid, "a text of an event contains a zero byte"));
    }
    Ok(())
}
