//! The persistence actor: the only writer of the log.
//!
//! Group commit: whatever waits when the mailbox has been drained goes into one transaction. While it blocks in a
//! commit the next group gathers, so there is no delay to tune. It runs on a thread of its own, where blocking is
//! fine.
//!
//! - EV-1 acknowledged ⇒ committed: replies are sent after the commit, never before.
//! - EV-2 commit order: ids are assigned inside the transaction, and batches leave here in that order.

mod group;
pub mod intake;
pub mod messages;
mod outbox;
mod store_watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::{Actor, ActorContext, AsyncContext, Context, Handler, MessageResult};
use actix::{ActorFutureExt, fut};

use self::group::{Replies, Waiting};
use self::intake::Backlog;
use self::messages::{AppendEvents, AppendFailure, EventsCommitted, ReleaseDurable, SettleDeliveries};
use self::outbox::Outbox;
use self::store_watch::StoreWatch;
use super::clock::{self, now};
use super::log_position::LogPosition;
use super::service_slot::ServiceSlots;
use crate::protocol::log_batch::LogBatch;
use crate::runtime::address::{Mailbox, Undelivered};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::storage::{Committed, Group, RetentionPolicy, StoreError, StoreErrorKind, StoreOptions, StoreUrl, Writer};
use crate::telemetry::faults::{self, FaultPoint};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// Messages that may wait; each holds a whole batch of one worker or client, of which there are at most a few.
pub const MAILBOX: usize = 256;

/// A group is committed early once it holds this many events.
const MAX_GROUP: usize = 4096;
/// How often an idle or ailing store is looked after.
const CARE_INTERVAL: Duration = Duration::from_millis(500);
/// How often retention and expired idempotency keys are seen to, at least.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// How often waits are looked for that a wrong clock has made too long.
const BOUNDING_INTERVAL: Duration = Duration::from_secs(60);
/// How exactly schedules are kept.
const SCHEDULE_INTERVAL: Duration = Duration::from_millis(50);
/// Rows removed in one step: a step must not be felt by the publishes that wait behind it.
const HOUSEKEEPING_ROWS: usize = 500;
/// Pages of a SQLite file given back in one step, for the same reason.
const GIVE_BACK_PAGES: u16 = 64;
/// Between two such steps while others wait.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(20);

/// What a persistence actor is made of; kept by the supervisor to make another.
#[derive(Clone)]
pub struct PersistenceParts {
    pub store: StoreOptions,
    /// Who hands committed batches on.
    pub router: Mailbox<EventsCommitted>,
    pub retention: RetentionPolicy,
    pub services: ServiceSlots,
    /// See [`Outbox::new`].
    pub renewed: Arc<tokio::sync::Notify>,
    pub position: Arc<LogPosition>,
    pub backlog: Arc<Backlog>,
    pub health: Arc<StoreHealth>,
    pub metrics: Arc<Metrics>,
    pub log_activity: bool,
}

/// See the module.
pub struct Persistence {
    parts: PersistenceParts,
    watch: StoreWatch,
    outbox: Outbox,
    waiting: Waiting,
    flush_due: bool,
    next_housekeeping: Instant,
    next_bounding: Instant,
    last_group: usize,
    last_commit: Duration,
    life: Life,
}

impl Persistence {
    pub fn new(parts: PersistenceParts, life: Life) -> Self {
        let watch = StoreWatch::new(parts.store.clone(), Arc::clone(&parts.health), Arc::clone(&parts.metrics));
        Self {
            outbox: Outbox::new(Arc::clone(&parts.services), Arc::clone(&parts.renewed)),
            parts,
            watch,
            waiting: Waiting::default(),
            flush_due: false,
            next_housekeeping: Instant::now(),
            next_bounding: Instant::now(),
            last_group: 0,
            last_commit: Duration::ZERO,
            life,
        }
    }

    fn flush(&mut self) {
        self.flush_due = false;
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            self.commit(waiting);
        }
        // A flooded actor never reaches its timers, so the clock is looked at here too.
        if Instant::now() >= self.next_housekeeping {
            self.housekeeping(GIVE_BACK_PAUSE);
        }
    }

    /// One transaction for all that waits; or several, if the store cannot hold a part of it.
    fn commit(&mut self, waiting: Waiting) {
        let (group, replies) = waiting.into_group();
        self.commit_group(group, replies);
    }

    fn commit_group(&mut self, mut group: Group, replies: Replies) {
        let certainty = clock::certainty();
        group.take_due = if certainty.is_held { 0 } else { self.outbox.due_schedules(now()) };
        group.lead = Some(certainty.lead);
        self.outbox.note(&group);
        let (settled, took_due) = (self.outbox.settled(&group), group.take_due > 0);
        let has_saves = !group.settlements.is_empty() || !group.durables.is_empty();
        die_if(has_saves && faults::strikes(FaultPoint::WriterDiesBefore));
        match self.write(&mut group) {
            Ok(committed) => {
                die_if(has_saves && faults::strikes(FaultPoint::WriterDiesAfter));
                if self.outbox.committed(&committed, &settled) {
                    self.next_housekeeping = Instant::now();
                }
                replies.committed(committed.outcomes, &committed.void);
                if took_due {
                    self.at_writer(|outbox, writer| outbox.took_schedules(writer));
                }
            }
            Err(AppendFailure::Unstorable) if replies.are_many() => {
                for (group, replies) in replies.apart(group) {
                    self.commit_group(group, replies);
                }
            }
            Err(failure) => {
                self.outbox.doubt();
                replies.failed(&failure);
            }
        }
    }

    /// Commits `group` and tells everybody but those who wait for it.
    fn write(&mut self, group: &mut Group) -> Result<Committed, AppendFailure> {
        let writer = self.watch.writer()?;
        let unregistered = AppendFailure::StoreUnavailable("the services are not registered yet");
        let routes = self.outbox.routes().ok_or(unregistered)?;
        let begin = Instant::now();
        let operation = self.parts.health.begin();
        let written = writer.commit(group, routes, now());
        let log = writer.log();
        drop(operation);
        match written {
            Ok(mut committed) => {
                self.last_commit = begin.elapsed();
                self.last_group = committed.events.len();
                self.parts.metrics.commit(self.last_group, self.last_commit);
                // Another name before anything is told that is known by it.
                log.into_iter().for_each(|log| self.parts.position.set_log_id(log));
                if self.parts.log_activity {
                    for event in &committed.events {
                        log::info!(target: "event_handler::activity", id = event.id, event_name = event.name.as_str(); "committed");
                    }
                }
                for error in &committed.refused {
                    self.watch.refused(error);
                }
                if !committed.events.is_empty() {
                    let batch = LogBatch::new(committed.prev, std::mem::take(&mut committed.events));
                    self.parts.position.advance(batch.last());
                    self.tell_router(batch);
                }
                Ok(committed)
            }
            Err(error) if error.kind == StoreErrorKind::Invalid => Err(self.watch.refused(&error)),
            Err(error) => Err(self.watch.failed(error)),
        }
    }

    /// Joins the group that is committed when the mailbox has been drained, or at once if it is large.
    fn join(&mut self, ctx: &mut Context<Self>) {
        if self.waiting.len() >= MAX_GROUP {
            self.flush();
        } else if !self.flush_due {
            self.flush_due = true;
            // Runs when the mailbox has been drained: everything that waited is in the group by then.
            ctx.spawn(fut::ready(()).map(|(), this: &mut Self, _| this.flush()));
        }
    }

    /// A hint: shards that miss it find the gap and read the store.
    fn tell_router(&self, batch: Arc<LogBatch>) {
        if self.parts.router.tell(EventsCommitted(batch)) == Err(Undelivered::Full) {
            self.parts.metrics.mailbox_full.with_label_values(&["router"]).inc();
        }
    }

    /// Reads the clock of the store, if it has one that several nodes share, else this machine's.
    fn look_at_clock(&mut self) {
        /// An answer that takes longer says too little of the time.
        const PATIENCE: Duration = Duration::from_secs(1);
        let is_set = match self.parts.store.url {
            StoreUrl::Sqlite(_) => clock::look(),
            StoreUrl::Postgres(_) => {
                let asked = clock::steady();
                let mut time = None;
                self.at_writer(|_, writer| {
                    time = writer.time_of_day()?;
                    Ok(())
                });
                let took = clock::steady().since(asked);
                time.filter(|_| took < PATIENCE).is_some_and(|time| clock::told(time, asked.plus(took / 2)))
            }
        };
        if is_set {
            self.next_bounding = Instant::now();
        }
        self.parts.metrics.clock_departure.set(clock::certainty().departure);
    }

    /// Opens the store or proves that it works again, and tells everybody of events that others have committed.
    fn care(&mut self) {
        if matches!(self.parts.store.url, StoreUrl::Sqlite(_)) {
            self.look_at_clock();
        }
        let health = Arc::clone(&self.parts.health);
        let _operation = health.begin();
        let known = self.parts.position.get();
        let Some(bounds) = self.watch.care(&self.parts.position) else { return };
        if matches!(self.parts.store.url, StoreUrl::Postgres(_)) {
            self.look_at_clock();
        }
        if known.is_none() {
            self.at_writer(|_, writer| {
                writer.newest_at()?.into_iter().for_each(clock::compare);
                Ok(())
            });
        }
        if known.is_none_or(|known| bounds.last > known.last) {
            self.tell_router(LogBatch::new(bounds.last, Vec::new()));
            self.outbox.wake_all();
        }
        self.at_writer(|outbox, writer| match outbox.routes() {
            None => outbox.register(writer, now()),
            Some(_) => outbox.resolve_doubt(writer),
        });
        if self.watch.writer().is_ok_and(|writer| writer.is_set_back()) {
            self.go_on_after_set_back();
        }
    }

    /// Before anything is published: a commit that tells of it. If that fails, the next look does it.
    fn go_on_after_set_back(&mut self) {
        // What is to be delivered is what the store says, whatever was known.
        self.outbox.doubt();
        let _ = self.write(&mut Group::default());
        self.at_writer(|outbox, writer| outbox.resolve_doubt(writer));
    }

    /// Has the outbox do something if the store is well.
    fn at_writer(&mut self, work: impl FnOnce(&mut Outbox, &mut Writer) -> Result<(), StoreError>) {
        if let Ok(writer) = self.watch.writer()
            && let Err(error) = work(&mut self.outbox, writer)
        {
            self.watch.failed(error);
        }
    }

    /// One step of it, with a pause after pages were given back.
    fn housekeeping(&mut self, pause: Duration) {
        self.next_housekeeping = Instant::now() + HOUSEKEEPING_INTERVAL;
        match self.housekeeping_step(pause) {
            Ok(Some(pause)) => self.next_housekeeping = Instant::now() + pause,
            Ok(None) => {}
            Err(error) if error.kind == StoreErrorKind::Busy => {}
            Err(error) => drop(self.watch.failed(error)),
        }
    }

    /// One small step; when more is due, if it is.
    fn housekeeping_step(&mut self, pause: Duration) -> Result<Option<Duration>, StoreError> {
        let _operation = self.parts.health.begin();
        let Ok(writer) = self.watch.writer() else {
            return Ok(None);
        };
        let is_held = clock::certainty().is_held;
        if !is_held && Instant::now() >= self.next_bounding {
            self.next_bounding = Instant::now() + BOUNDING_INTERVAL;
            writer.bound_waits(&self.outbox.longest_waits(), now(), HOUSEKEEPING_ROWS)?;
        }
        let pruned = if is_held { 0 } else { writer.prune_idempotency(now(), HOUSEKEEPING_ROWS)? };
        let mut more = pruned >= HOUSEKEEPING_ROWS;
        if self.parts.retention != RetentionPolicy::default() && !is_held {
            let trimmed = writer.trim(&self.parts.retention, now(), HOUSEKEEPING_ROWS)?;
            if trimmed.removed > 0 {
                self.parts.metrics.trimmed.inc_by(trimmed.removed as u64);
                let bounds = writer.bounds()?;
                self.parts.position.set(bounds);
            }
            more |= trimmed.more_due;
        }
        more |= self.outbox.housekeeping(writer, now())?;
        if more {
            return Ok(Some(Duration::ZERO));
        }
        Ok(writer.give_back(GIVE_BACK_PAGES)?.then_some(pause))
    }
}

/// A failure by order of a test.
fn die_if(is_due: bool) {
    assert!(!is_due, "injected fault in persistence");
}

impl Actor for Persistence {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.care();
        ctx.run_interval(CARE_INTERVAL, |this, _| {
            this.care();
            // Half of the time is for who is not counted there, such as those who observe.
            let end = Instant::now() + CARE_INTERVAL / 2;
            while (this.next_housekeeping..end).contains(&Instant::now()) && this.waiting.is_empty() {
                this.housekeeping(Duration::ZERO);
                if this.life.depth() > 0 {
                    break;
                }
            }
        });
        ctx.run_interval(SCHEDULE_INTERVAL, |this, _| {
            if this.waiting.is_empty() && this.outbox.due_schedules(now()) > 0 && !clock::certainty().is_held {
                this.commit(Waiting::default());
            }
        });
    }
}

impl Handler<AppendEvents> for Persistence {
    type Result = ();

    fn handle(&mut self, message: AppendEvents, ctx: &mut Self::Context) {
        self.waiting.append(message);
        self.join(ctx);
    }
}

impl Handler<Observe> for Persistence {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        let (bounds, certainty) = (self.parts.position.get(), clock::certainty());
        MessageResult(Details::of(serde_json::json!({
            "store": self.parts.health.describe_in_full(),
            "backlog_events": self.parts.backlog.events(),
            "backlog_capacity": self.parts.backlog.capacity(),
            "batch_size": self.last_group,
            "commit_ms": self.last_commit.as_secs_f64() * 1e3,
            "log_id": self.parts.position.log_id().map(|log| log.to_string()),
            "earliest_id": bounds.map(|b| b.earliest),
            "last_id": bounds.map(|b| b.last),
            "clock": { "is_held": certainty.is_held, "departure_seconds": certainty.departure },
        })))
    }
}

impl Handler<Finish> for Persistence {
    type Result = ();

    fn handle(&mut self, Finish: Finish, ctx: &mut Self::Context) {
        self.flush();
        self.life.finish();
        ctx.stop();
    }
}

crate::supervised!(Persistence, AppendEvents, SettleDeliveries, ReleaseDurable);
