//! The writes of one transaction of the [writer](super::writer).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::catalogue::Catalogue;
use crate::domain::event::{Admission, Append, Event, EventId, Idempotency, NewEvent, Timestamp};
use crate::domain::lease::{Fence, LeaseName};
use crate::domain::log::{Restored, Seen};
use crate::domain::routes::Routes;

use super::append::{AppendBatch, Refusals, Tail};
use super::catalogue::{self, TypeChange};
use super::connection::Connection;
use super::consumers::{self, Alteration};
use super::error::StoreError;
use super::outbox::{self, Enqueued};
use super::write::{Outcome, Write};
use super::{
    calls, followers, idempotency, identity, leases, position, postgres, revocations, sagas, schedules, sqlite, syncs,
    system,
};
use crate::domain::pattern::Pattern;
use crate::domain::system::{Input, Step, SystemState};
use crate::protocol;

/// What somebody has asked for as one: it is void as a whole, with all its appends, if another node has one of the leases,
/// or if it begins with steps of sagas that are void.
#[derive(Debug)]
pub struct Part {
    /// The leases of which the holders ask.
    pub fences: Vec<Fence>,
    pub range: Range<usize>,
}

/// The writes that go into one transaction.
#[derive(Debug, Default)]
pub struct Group {
    pub writes: Vec<Write>,
    /// Parts of `writes`, in order. What is in none of them stands for itself.
    pub parts: Vec<Part>,
    /// What is due is appended after all of `writes`, by who has the lease.
    pub due: Option<TakeDue>,
    /// By how much dates may be ahead of the time, so that they need not go back; a day unless it is said.
    pub lead: Option<Duration>,
    /// The generation of this node, if there are others: they are notified of what is appended.
    pub notifies: Option<i64>,
}

impl Group {
    /// Adds what somebody has asked for, as the holder of the leases of `fences`.
    pub fn extend(&mut self, fences: impl IntoIterator<Item = Fence>, writes: impl IntoIterator<Item = Write>) {
        let begin = self.writes.len();
        self.writes.extend(writes);
        self.parts.push(Part { fences: fences.into_iter().collect(), range: begin..self.writes.len() });
    }

    /// Whether a holder of a lease asks for something.
    pub fn is_fenced(&self) -> bool {
        self.parts.iter().any(|part| !part.fences.is_empty())
    }

    /// Whether somebody waits for more than appends.
    pub fn has_saves(&self) -> bool {
        self.writes.iter().any(|write| write.as_append().is_none())
    }
}

/// What one has asked for.
impl From<Vec<Write>> for Group {
    fn from(writes: Vec<Write>) -> Self {
        let part = Part { fences: Vec::new(), range: 0..writes.len() };
        Self { writes, parts: vec![part], ..Self::default() }
    }
}

/// Schedules to be appended if they are due.
#[derive(Debug, Clone)]
pub struct TakeDue {
    pub fence: Fence,
    /// At most so many.
    pub limit: usize,
}

/// See [`Group::lead`].
const MAX_LEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// What the writer knows when it begins a transaction.
#[derive(Debug, Clone)]
pub(super) struct WriteContext {
    pub seen: Option<Seen>,
    pub is_set_back: bool,
    pub is_declared: bool,
    pub now: Timestamp,
    pub keys_since: Timestamp,
    pub max_types: usize,
    pub maintenance_refuses: Arc<[Pattern]>,
    /// As it was known before the transaction.
    pub catalogue: Arc<Catalogue>,
}

/// What a transaction has written.
#[derive(Default)]
pub(super) struct Written {
    /// One outcome for each write, in order.
    pub outcomes: Vec<Outcome>,
    pub enqueued: Enqueued,
    pub restored: Option<Restored>,
    /// As it is stored afterwards, if that was looked at.
    pub catalogue: Option<Arc<Catalogue>>,
    runs: Vec<Run>,
}

/// Appends that were stored by one statement.
struct Run {
    /// Appends of the Event Handler itself, which come before those of the group.
    own: Vec<Append>,
    /// The places of the appends in the list of writes.
    writes: Range<usize>,
    tail: Tail,
    plan: idempotency::Plan,
}

impl Written {
    /// Whether it appended anything.
    pub fn appends(&self) -> bool {
        !self.runs.is_empty()
    }

    /// The last id before the transaction; 0 if it appended nothing.
    pub fn prev(&self) -> EventId {
        self.runs.first().map_or(0, |run| run.tail.id)
    }

    /// Builds the new events from the `writes` of the group, whose texts are moved and not copied.
    pub fn take_events(&mut self, writes: &mut [Write]) -> Vec<Event> {
        let mut events = Vec::new();
        for Run { own, writes: range, tail, mut plan } in self.runs.drain(..) {
            let mut changes = std::mem::take(&mut plan.changed.events).into();
            let of_writes = writes[range].iter_mut().filter_map(|write| match write {
                Write::Append(append) => Some(std::mem::take(&mut append.events)),
                _ => None,
            });
            let all = own.into_iter().map(|append| append.events).chain(of_writes).flatten();
            let new = plan.take_events(&mut changes, all).zip(tail.id + 1..);
            events.extend(new.map(|(new, id)| Event::stored(new, id, tail.created_at)));
        }
        events
    }
}

/// Applies all of `group` within a transaction, in its order. The event that announces a restore comes before
/// everything, and due schedules come last.
pub(super) fn write(
    connection: &mut Connection,
    group: &Group,
    routes: &Routes,
    context: WriteContext,
) -> Result<Written, StoreError> {
    let Group { writes, parts, due, lead, notifies: _ } = group;
    let now = context.now;
    let fences = parts.iter().flat_map(|part| &part.fences);
    let void = leases::void(connection, fences.chain(due.iter().map(|due| &due.fence)))?;
    let mut is_void = vec![false; writes.len()];
    for Part { fences, range } in parts {
        is_void[range.clone()].fill(fences.iter().any(|fence| void.contains(&fence)));
    }
    let refusals = refusals(connection, writes, &context.maintenance_refuses)?;
    let looks_up = writes.iter().any(Write::is_of_catalogue);
    let catalogue =
        if looks_up { catalogue::current(connection, context.catalogue.clone())? } else { context.catalogue.clone() };
    for Part { range, .. } in parts {
        if writes[range.clone()].first().is_some_and(Write::is_of_sagas) {
            let is_refused = |append: &Append| append.judgement.is_some() && catalogue.judge(append).refuses();
            if has_moved(&writes[range.clone()], &catalogue)
                && writes[range.clone()].iter().filter_map(Write::as_append).any(is_refused)
            {
                is_void[range.clone()].fill(true);
            }
        }
    }
    let (restored, ids_above) = restore(connection, &context)?;
    let mut appender = Appender {
        routes,
        now,
        keys_since: context.keys_since,
        max_types: context.max_types,
        ids_above,
        lead: lead.unwrap_or(MAX_LEAD),
        own: restored.iter().map(|restored| Append::single(restored.event())).collect(),
        schedules: 0,
        maintenance_refuses: &context.maintenance_refuses,
        refusals,
        catalogue,
        written: Written { outcomes: Vec::with_capacity(writes.len()), restored, ..Written::default() },
    };
    let mut next = 0;
    while let Some(first) = writes.get(next) {
        if is_void[next] || appender.refusals.has_stopped && is_behind_stop(group, next) {
            appender.written.outcomes.push(Outcome::Void);
            next += 1;
            continue;
        }
        let shares = |at: &usize| first.shares_statement(&writes[*at]) && !is_void[*at];
        let chunk = &writes[next..(next + 1..writes.len()).find(|at| !shares(at)).unwrap_or(writes.len())];
        let place = next;
        next += chunk.len();
        let is_append = chunk[0].as_append().is_some();
        appender.append(connection, if is_append { chunk } else { &[] })?;
        let outcome = match &chunk[0] {
            Write::Append(_) => continue,
            Write::Settle(_) => {
                let parts: Vec<_> = chunk.iter().filter_map(Write::as_delivery_outcomes).collect();
                let settled = outbox::settle(connection, &parts)?.into_iter().zip(parts);
                let outcomes = settled.map(|(count, part)| Outcome::Settled { were_all_open: count == part.len() });
                appender.written.outcomes.extend(outcomes);
                continue;
            }
            Write::ChangeService(change) => {
                outbox::change_service(connection, change)?;
                Outcome::Saved
            }
            Write::ChangeConsumer(change) => {
                if consumers::change(connection, change)? {
                    appender.own.extend(change.events.iter().cloned().map(Append::single));
                    Outcome::Saved
                } else {
                    Outcome::Void
                }
            }
            Write::OpenConsumer { new, max } => {
                Outcome::Opened(consumers::open(connection, new, *max, now)?.map(Box::new))
            }
            Write::AlterConsumer { name, alteration } => {
                if *alteration == Alteration::Delete {
                    leases::forget(connection, &LeaseName::consumer(name))?;
                }
                Outcome::Changed(consumers::alter(connection, name, alteration)?)
            }
            Write::ChangeSystem(input) => appender.change_system(connection, input)?,
            Write::ChangeEventType(change) => Outcome::Changed(appender.change_type(connection, change)?),
            Write::MovePosition { name, position } => {
                followers::set_position(connection, name, position)?;
                Outcome::Saved
            }
            Write::MarkSent(sent) => {
                followers::mark_sent(connection, sent)?;
                Outcome::Saved
            }
            Write::SaveSync(record) => {
                syncs::save(connection, record)?;
                Outcome::Saved
            }
            Write::MakeCalls(new) => Outcome::Made(calls::make(connection, new)?),
            Write::BeginCalls(ids) => Outcome::Begun(calls::begin(connection, ids)?),
            Write::SettleCalls(ended) => {
                calls::settle(connection, ended)?;
                Outcome::Saved
            }
            Write::CancelCalls { owner, tag } => {
                calls::cancel(connection, owner, tag.as_deref())?;
                Outcome::Saved
            }
            Write::HurryCalls { owner } => {
                calls::hurry(connection, owner, now)?;
                Outcome::Saved
            }
            Write::ForgetCalls { through } => {
                calls::forget(connection, *through)?;
                Outcome::Saved
            }
            Write::SaveSagas { steps, ended } => {
                if sagas::save(connection, steps, ended, now)? {
                    Outcome::Saved
                } else {
                    let part = parts.iter().map(|part| part.range.clone()).find(|range| range.contains(&place));
                    debug_assert!(part.as_ref().is_none_or(|range| range.start == place), "steps of sagas come first");
                    part.into_iter().for_each(|range| is_void[range].fill(true));
                    Outcome::Void
                }
            }
            Write::DeclareSagas { node, sagas } => Outcome::Declared(sagas::declare(connection, node, sagas, now)?),
            Write::ForgetSagas { ended_before, limit } => {
                Outcome::Changed(sagas::forget(connection, *ended_before, *limit)?)
            }
            Write::StartReplayJob(job) => Outcome::Started(outbox::start_replay_job(connection, job, now)?),
            Write::CancelReplayJob(id) => Outcome::Changed(outbox::cancel_replay_job(connection, *id, now)?),
            Write::SettleOrphans { from, action } => {
                Outcome::OrphansSettled(outbox::settle_orphans(connection, *from, *action, now)?)
            }
            Write::CancelSchedule(id) => Outcome::Changed(schedules::cancel(connection, *id)?),
            Write::Revoke { who, is_revoked } => Outcome::Changed(revocations::set(connection, who, *is_revoked, now)?),
        };
        appender.written.outcomes.push(outcome);
    }
    if let Some(TakeDue { limit, .. }) = due.as_ref().filter(|due| !void.contains(&&due.fence)) {
        appender.own.extend(schedules::take_due(connection, now, *limit)?.into_iter().map(Append::single));
    }
    appender.append(connection, &[])?;
    appender.written.catalogue = looks_up.then_some(appender.catalogue);
    Ok(appender.written)
}

/// Decides how the log goes on after a restore, if there was one. Returns that with the id above which new ids are
/// given.
fn restore(connection: &mut Connection, context: &WriteContext) -> Result<(Option<Restored>, EventId), StoreError> {
    let WriteContext { seen, is_set_back, is_declared, .. } = *context;
    let restored = match seen {
        _ if is_declared => Some(identity::declare_restored(connection, seen.as_ref())?),
        None if is_set_back => Some(identity::declare_restored(connection, None)?),
        Some(seen) if is_set_back => identity::restore(connection, &seen)?,
        _ => None,
    };
    let ids_above = match &restored {
        Some(restored) => restored.after,
        None => seen.filter(|_| !is_set_back).map_or(0, |seen| seen.last),
    };
    Ok((restored, ids_above))
}

/// What the state of the system refuses of `writes`. It is read only if they have something that may be refused.
fn refusals(connection: &mut Connection, writes: &[Write], names: &[Pattern]) -> Result<Refusals, StoreError> {
    let may_be_refused = |append: &Append| {
        let matches = |event: &NewEvent| names.iter().any(|pattern| pattern.matches(&event.name));
        append.admission != Admission::Always && append.events.iter().any(matches)
    };
    let refuses = !names.is_empty()
        && writes.iter().filter_map(Write::as_append).any(may_be_refused)
        && system::is_in_maintenance(connection)?;
    Ok(Refusals { names: if refuses { names.to_vec() } else { Vec::new() }, has_stopped: false })
}

/// Whether one of `writes` was judged by another catalogue.
fn has_moved(writes: &[Write], catalogue: &Catalogue) -> bool {
    let judgements = writes.iter().filter_map(Write::as_append).filter_map(|append| append.judgement.as_ref());
    judgements.into_iter().any(|judgement| judgement.generation != catalogue.generation())
}

/// Whether the write at this place, which is no append, is of a list of which nothing is written after what was refused.
fn is_behind_stop(Group { writes, parts, .. }: &Group, at: usize) -> bool {
    let is_stopped = |part: &Range<usize>| part.contains(&at) && writes[part.clone()].iter().any(Write::is_in_order);
    writes[at].as_append().is_none() && parts.iter().any(|part| is_stopped(&part.range))
}

/// Appends events within a transaction.
struct Appender<'a> {
    routes: &'a Routes,
    now: Timestamp,
    keys_since: Timestamp,
    max_types: usize,
    ids_above: EventId,
    lead: Duration,
    /// Appends of the Event Handler itself, which go into the next statement.
    own: Vec<Append>,
    /// How many schedules this transaction has stored; the number keeps them in order.
    schedules: i64,
    maintenance_refuses: &'a [Pattern],
    refusals: Refusals,
    catalogue: Arc<Catalogue>,
    written: Written,
}

impl Appender<'_> {
    /// Appends `own` and then the appends among `writes`, by one statement.
    fn append(&mut self, connection: &mut Connection, writes: &[Write]) -> Result<(), StoreError> {
        let own = std::mem::take(&mut self.own);
        let batch: Vec<&Append> = own.iter().chain(writes.iter().filter_map(Write::as_append)).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let Self { ids_above, now, lead, keys_since, max_types, ref refusals, ref catalogue, .. } = *self;
        let append = AppendBatch { batch: &batch, ids_above, now, lead, keys_since, max_types, refusals, catalogue };
        let (tail, mut plan) = match connection {
            Connection::Sqlite(file) => sqlite::append(&mut file.connection, &append)?,
            Connection::Postgres(session) => postgres::append(&mut session.connection, &append)?,
        };
        let mut new = plan.events(&batch).peekable();
        if tail.turns_back && new.peek().is_some() {
            position::turn_back(connection, tail.id + 1, tail.created_at)?;
        }
        outbox::enqueue(connection, self.routes, new.zip(tail.id + 1..), &mut self.written.enqueued)?;
        let heard: Vec<_> = plan.keys.iter().filter(|used| Idempotency::is_heard(&used.key)).collect();
        followers::mark_heard(connection, &heard.iter().map(|used| used.first_id).collect::<Vec<_>>())?;
        for (schedule, event) in plan.schedules(&batch) {
            schedules::insert(connection, schedule, event, now, self.schedules)?;
            self.schedules += 1;
        }
        batch.iter().zip(&plan.outcomes).for_each(|(append, outcome)| self.refusals.note(append, outcome));
        let first = self.written.outcomes.len();
        self.written.outcomes.extend(plan.outcomes.drain(..).skip(own.len()).map(Outcome::Appended));
        self.written.runs.push(Run { own, writes: first..self.written.outcomes.len(), tail, plan });
        Ok(())
    }

    /// Changes the type of events, after the event that tells of it; false if somebody has changed it since that was
    /// decided.
    fn change_type(&mut self, connection: &mut Connection, change: &TypeChange) -> Result<bool, StoreError> {
        if !catalogue::is_due(connection, change)? {
            return Ok(false);
        }
        if let Some(event) = &change.event {
            self.own.push(Append::single(event.clone()));
            self.append(connection, &[])?;
            let id = self.written.runs.last().map_or(0, |run| run.tail.id + 1);
            catalogue::save(connection, change, id, self.now)?;
            self.catalogue = catalogue::current(connection, Arc::clone(&self.catalogue))?;
        }
        catalogue::note_file(connection, change)?;
        Ok(true)
    }

    /// Applies what has happened to the system, and appends what is told of it.
    fn change_system(&mut self, connection: &mut Connection, input: &Input) -> Result<Outcome, StoreError> {
        let mut system = system::read(connection)?;
        let told = match system.apply(input.clone(), self.now) {
            Ok(told) => told,
            Err(refusal) => return Ok(Outcome::System(Err(refusal))),
        };
        for told in &told {
            self.own.push(Append::single(protocol::system::event(told)));
            self.append(connection, &[])?;
            let id = self.written.runs.last().map_or(0, |run| run.tail.id + 1);
            if matches!(told.what, Step::Changing { .. }) {
                system.announced(id);
            }
            outbox::enqueue_to(connection, id, &told.barrier, &mut self.written.enqueued)?;
        }
        system::save(connection, &system)?;
        let refuses = system.state == SystemState::Maintenance;
        self.refusals.names = if refuses { self.maintenance_refuses.to_vec() } else { Vec::new() };
        Ok(Outcome::System(Ok(Box::new(system))))
    }
}
