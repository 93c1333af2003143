//! The only way into the log.

use bytestring::ByteString;
use diesel::dsl::auto_type;
use diesel::{ExpressionMethods as _, QueryDsl as _};

use crate::domain::event::{Append, AppendOutcome, Event, EventId, LogBounds, NewEvent, Timestamp};

use super::connection::{Access, Connection};
use super::error::{StoreError, StoreErrorKind};
use super::options::StoreOptions;
use super::retention::{self, RetentionPolicy, Trimmed};
use super::schema::events;
use super::{idempotency, migrate, position, postgres, sqlite};

/// A connection that appends, owned by one thread.
///
/// After any failure the connection is dropped, and the next call opens a new one: the writer
/// works again by itself as soon as the cause is gone.
pub struct Writer {
    options: StoreOptions,
    connection: Option<Connection>,
    /// The last id this writer has given or seen. If the log is lost under us, ids still never repeat.
    floor: EventId,
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
}

/// The end of the log, read inside the transaction that appends to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tail {
    pub id: EventId,
    pub created_at: Timestamp,
    pub log_offset: i64,
}

impl Writer {
    /// Connects, creating the store and bringing its schema up to date.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let mut writer = Self { options, connection: None, floor: 0 };
        writer.floor = writer.bounds()?.last;
        writer.options.create = false;
        Ok(writer)
    }

    /// Stores `batch` in one transaction; a request whose idempotency key was used before stores nothing.
    ///
    /// Events get dense rising ids and a `created_at` that never goes back. When this returns, they are
    /// durable. When it fails, nothing is acknowledged; with [`StoreErrorKind::Unavailable`] it may be stored.
    pub fn append(&mut self, batch: Vec<Append>, now: Timestamp) -> Result<Committed, StoreError> {
        refuse_zero_bytes(&batch)?;
        let job = AppendJob { batch: &batch, floor: self.floor, now, keys_since: self.keys_since(now) };
        let (tail, plan) = self.with(|connection| {
            let done = match connection {
                Connection::Sqlite(file) => sqlite::append(&mut file.connection, &job)?,
                Connection::Postgres(connection) => postgres::append(connection, &job)?,
            };
            connection.verify()?;
            Ok(done)
        })?;
        let new = plan.select(batch.into_iter().flat_map(|append| append.events));
        let events: Vec<_> = new.zip(tail.id + 1..).map(|(new, id)| Event::stored(new, id, tail.created_at)).collect();
        self.floor = tail.id + events.len() as EventId;
        Ok(Committed { prev: tail.id, events, outcomes: plan.outcomes })
    }

    /// The retained part of the log; what was lost under us is not part of it.
    pub fn bounds(&mut self) -> Result<LogBounds, StoreError> {
        let LogBounds { earliest, last } = self.with(|connection| {
            connection.verify()?;
            position::bounds(connection)
        })?;
        let lost = last < self.floor;
        Ok(if lost { LogBounds { earliest: self.floor + 1, last: self.floor } } else { LogBounds { earliest, last } })
    }

    /// Commits a transaction that changes nothing, to prove that commits work.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        self.with(|connection| {
            match connection {
                Connection::Sqlite(file) => sqlite::probe(&mut file.connection)?,
                Connection::Postgres(connection) => postgres::probe(connection)?,
            }
            connection.verify()
        })
    }

    /// Removes up to `max_rows` of the oldest events that `policy` does not keep; never the newest event.
    pub fn trim(&mut self, policy: &RetentionPolicy, now: Timestamp, max_rows: usize) -> Result<Trimmed, StoreError> {
        self.with(|connection| retention::trim(connection, policy, now, max_rows))
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

    /// Does `work` on the connection, which ends if it fails.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = Connection::open(&self.options, Access::Write)?;
                migrate::run(&mut connection)?;
                connection
            }
        };
        let result = work(&mut connection)?;
        self.connection = Some(connection);
        Ok(result)
    }
}

/// What a backend needs to know to append.
pub(super) struct AppendJob<'a> {
    pub batch: &'a [Append],
    /// Ids are given above this.
    pub floor: EventId,
    pub now: Timestamp,
    /// Idempotency keys from before this instant count as absent.
    pub keys_since: Timestamp,
}

impl AppendJob<'_> {
    /// Whether any request has an idempotency key.
    pub fn has_keys(&self) -> bool {
        idempotency::keys(self.batch).next().is_some()
    }

    /// The tail from which the batch continues, `last` being the newest row.
    pub fn tail(&self, last: Option<(EventId, i64, i64)>) -> Tail {
        let (id, created_at, log_offset) = last.unwrap_or_default();
        Tail { id: id.max(self.floor), created_at: Timestamp(created_at).max(self.now), log_offset }
    }
}

/// The newest row: id, time, offset.
#[auto_type]
pub(super) fn newest() -> _ {
    events::table.order(events::id.desc()).select((events::id, events::created_at, events::log_offset)).limit(1_i64)
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
