//! Commits a group of writes in one transaction.

use std::collections::BTreeMap;

use bytestring::ByteString;

use crate::domain::event::{Append, AppendOutcome, Event, EventId, NewEvent, Timestamp};
use crate::domain::log::{Restored, Seen};
use crate::domain::routes::Routes;

use super::error::{StoreError, StoreErrorKind};
use super::group::{self, Group, Part, Written};
use super::outbox;
use super::write::{Outcome, Write};
use super::writer::Writer;
use crate::telemetry::faults::{self, FaultPoint};

/// What one transaction has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The last id before the first new event, read inside the transaction; 0 if nothing was appended.
    pub prev: EventId,
    /// The new events. Their ids rise from `prev + 1` without gaps.
    pub events: Vec<Event>,
    /// One outcome for each write, in order.
    pub outcomes: Vec<Outcome>,
    /// How many deliveries were added, by service and lane.
    pub enqueued: outbox::Enqueued,
    /// How the log goes on after a restore; the first event, `$sys.log.restored`, announces it.
    pub restored: Option<Restored>,
    /// Why each request that is [`AppendOutcome::Unstorable`] could not be stored.
    pub refused: Vec<StoreError>,
}

impl Writer {
    /// Gives the log a new identity at the word of an operator, and appends `$sys.log.restored`. New ids are greater
    /// than all that are known.
    pub fn declare_restored(&mut self, now: Timestamp) -> Result<Restored, StoreError> {
        self.is_declared = true;
        let committed = self.commit(&mut Group::default(), &Routes::default(), now)?;
        committed.restored.ok_or_else(|| StoreError::new(StoreErrorKind::Internal, "the restore was not committed"))
    }

    /// Applies the writes of `group` in order, in one transaction. Each new event gets a delivery for every service to
    /// which `routes` sends it. A request whose idempotency key was used before stores nothing.
    ///
    /// Ids are dense and rising. `created_at` goes back only after events that a wrong clock had dated ahead. When this
    /// method returns `Ok`, everything is durable. When it fails, nothing may be acknowledged; after
    /// [`StoreErrorKind::Unavailable`] the transaction may have been committed all the same.
    ///
    /// A request with a text that the store cannot hold does not fail the others: it is left out and its outcome says
    /// so. [`StoreErrorKind::Invalid`] means that a write other than an append cannot be stored, while the store itself
    /// works.
    ///
    /// On success the events are moved out of `group`; after a failure `group` is unchanged.
    pub fn commit(&mut self, group: &mut Group, routes: &Routes, now: Timestamp) -> Result<Committed, StoreError> {
        match self.commit_whole(group, routes, now) {
            Err(error) if error.kind.may_be_of_data() => self.commit_storable(group, routes, now),
            done => done,
        }
    }

    fn commit_whole(&mut self, group: &mut Group, routes: &Routes, now: Timestamp) -> Result<Committed, StoreError> {
        let (aborts, is_unconfirmed) = if !group.has_saves() {
            (false, false)
        } else if faults::strikes(FaultPoint::StoreLocked) {
            return Err(StoreError::new(StoreErrorKind::Locked, "injected: the store is locked"));
        } else {
            (faults::strikes(FaultPoint::TransactionAborted), faults::strikes(FaultPoint::CommitUnconfirmed))
        };
        refuse_zero_bytes(&group.writes)?;
        if group.is_fenced() {
            faults::stop_at(FaultPoint::StopsBefore);
        }
        let connection = self.connected()?;
        let context = self.context(now);
        let mut written = self.keep(connection, |connection| {
            connection.begin()?;
            let written = group::write(connection, group, routes, context)?;
            faults::stop_at(FaultPoint::StopsWithin);
            injected(aborts)?;
            match group.notifies.filter(|_| written.appends()) {
                Some(generation) => connection.commit_and_notify(generation)?,
                None => connection.commit()?,
            }
            injected(is_unconfirmed)?;
            Ok(written)
        })?;
        let (prev, events) = (written.prev(), written.take_events(&mut group.writes));
        let Written { outcomes, enqueued, restored, catalogue, .. } = written;
        self.learn_catalogue(catalogue);
        if let Some(restored) = &restored {
            log::error!(log_id:% = restored.log, last_id = restored.last, known_last_id = restored.known, first_id = restored.after + 1; "the log was set back: ids that were given out are not given out again");
            self.log = Some(restored.log);
            self.is_declared = false;
        }
        if let Some((log, newest)) = self.log.zip(events.last()) {
            self.see(Seen { log, last: newest.id, at: newest.created_at });
            self.is_set_back = false;
        }
        Ok(Committed { prev, events, outcomes, enqueued, restored, refused: Vec::new() })
    }

    /// Commits `group` without the requests that the store cannot hold. It finds them by bisection, in transactions
    /// that are rolled back.
    fn commit_storable(&mut self, group: &mut Group, routes: &Routes, now: Timestamp) -> Result<Committed, StoreError> {
        // If even this event is refused, the cause is the store and not a request.
        self.rehearse(vec![Write::Append(harmless())], routes, now)?;
        let appends: Vec<usize> =
            (0..).zip(&group.writes).filter(|(_, w)| w.as_append().is_some()).map(|(at, _)| at).collect();
        let mut refused: BTreeMap<usize, StoreError> = BTreeMap::new();
        let mut doubtful: Vec<&[usize]> = appends.chunks(appends.len().max(1)).collect();
        while let Some(places) = doubtful.pop() {
            let writes = places.iter().map(|at| group.writes[*at].clone()).collect();
            match (self.rehearse(writes, routes, now), places) {
                (Ok(()), _) => {}
                (Err(error), _) if !error.kind.may_be_of_data() => return Err(error),
                (Err(error), [place]) => drop(refused.insert(*place, error)),
                (Err(_), _) => doubtful.extend(<[_; 2]>::from(places.split_at(places.len() / 2))),
            }
        }
        let storable = group.writes.iter().enumerate().filter(|(at, _)| !refused.contains_key(at));
        let storable = storable.map(|(_, write)| write.clone()).collect();
        let before = |at: usize| at - refused.range(..at).count();
        let parts = group.parts.iter().map(|Part { fences, range }| {
            let range = before(range.start)..before(range.end);
            Part { fences: fences.clone(), range }
        });
        let mut rest = Group { writes: storable, parts: parts.collect(), due: group.due.clone(), ..*group };
        let committed = self.commit_whole(&mut rest, routes, now);
        let mut committed = committed.map_err(|error| {
            let kind = if error.kind.may_be_of_data() { StoreErrorKind::Invalid } else { error.kind };
            StoreError { kind, ..error }
        })?;
        for (place, error) in refused {
            committed.outcomes.insert(place, Outcome::Appended(AppendOutcome::Unstorable));
            committed.refused.push(error);
        }
        Ok(committed)
    }

    /// Applies `writes` in a transaction and rolls it back.
    fn rehearse(&mut self, writes: Vec<Write>, routes: &Routes, now: Timestamp) -> Result<(), StoreError> {
        refuse_zero_bytes(&writes)?;
        let connection = self.connected()?;
        let context = self.context(now);
        self.keep(connection, |connection| {
            connection.begin()?;
            let written = group::write(connection, &writes.into(), routes, context).map(drop);
            connection.roll_back();
            written
        })
    }
}

/// An event that every store can hold.
fn harmless() -> Append {
    Append::single(NewEvent::own("$sys.rehearsal", "{}".to_owned()))
}

/// The failure that a test has armed, if it is due.
fn injected(is_due: bool) -> Result<(), StoreError> {
    let error = || StoreError::new(StoreErrorKind::Unavailable, "injected: the connection is lost");
    if is_due { Err(error()) } else { Ok(()) }
}

/// Refuses texts with a zero byte. PostgreSQL cannot hold one, so SQLite does not take it either.
fn refuse_zero_bytes(writes: &[Write]) -> Result<(), StoreError> {
    let has_zero = |text: &ByteString| memchr::memchr(0, text.as_bytes()).is_some();
    let bad = |event: &NewEvent| {
        let NewEvent { name, payload, source, priority: _, key, metadata, traceparent, idempotency, change: _ } = event;
        let required = [name.as_shared(), payload, source];
        let optional = [key.as_ref(), metadata.as_ref(), traceparent.as_ref(), idempotency.as_ref().map(|i| &i.key)];
        required.into_iter().chain(optional.into_iter().flatten()).any(has_zero)
    };
    let key_is_bad = |append: &Append| append.idempotency.as_ref().is_some_and(|i| has_zero(&i.key));
    if writes.iter().filter_map(Write::as_append).any(|append| key_is_bad(append) || append.events.iter().any(bad)) {
        return Err(StoreError::new(StoreErrorKind::Invalid, "a text of an event contains a zero byte"));
    }
    Ok(())
}
