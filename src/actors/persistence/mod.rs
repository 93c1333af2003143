//! Persistence: the only writer of the log.
//!
//! It commits in groups: all requests that wait when the mailbox has been drained go into one transaction. While a
//! commit blocks, the next group gathers, so there is no delay to tune. The actor has its own thread, where blocking is
//! allowed.
//!
//! - EV-1 acknowledged ⇒ committed: replies are sent after the commit, never before.
//! - EV-2 commit order: ids are assigned inside the transaction, and batches are sent on in that order.

#[cfg(test)]
pub mod fixture;
mod group;
pub mod intake;
mod leases;
mod maintenance;
pub mod messages;
mod registry;
mod spans;
mod store_watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::{Actor, ActorContext, AsyncContext, Context, Handler, MessageResult};
use actix::{ActorFutureExt, fut};
use tokio::sync::oneshot;

use self::group::{Replies, Waiting};
use self::intake::Backlog;
use self::leases::Duties;
use self::messages::{
    AppendEvents, AppendFailure, CommitReply, CommitWrites, EventsCommitted, LookAtLog, NoteRelayed, RecallNewest,
    RelayBatch, ReleaseLease,
};
use self::registry::ServiceRegistry;
use self::store_watch::StoreWatch;
use super::call_ends::CallEnds;
use super::clock::{self, now};
use super::cluster::Cluster;
use super::log_position::LogPosition;
use super::remembered::Remembered;
use super::service_slot::ServiceSlots;
use crate::domain::event::AppendOutcome;
use crate::domain::judgement::Finding;
use crate::domain::lease::Fence;
use crate::domain::log::Seen;
use crate::domain::placement::Placement;
use crate::protocol::log_batch::LogBatch;
use crate::runtime::address::{Address, Mailbox, Undelivered};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::storage::{Committed, Group, Outcome, RetentionPolicy, StoreErrorKind, StoreOptions, TakeDue, Write};
use crate::telemetry::faults::{self, FaultPoint};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// Messages that may wait. Each has a whole batch of a worker or client, of which there are few at a time.
pub const MAILBOX: usize = 256;

/// A group of at least this many rows is committed at once.
const MAX_GROUP: usize = 4096;
/// How often the store is checked.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is checked whether a schedule is due.
const SCHEDULE_INTERVAL: Duration = Duration::from_millis(50);
/// Pause between two steps that release pages of a SQLite file while requests may come.
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// What the actor is made of. It is kept, to make the next generation.
#[derive(Clone)]
pub struct PersistenceParts {
    pub store: StoreOptions,
    /// Who passes committed batches on.
    pub router: Mailbox<EventsCommitted>,
    /// Who tells the other nodes of committed batches, if there is a Redis.
    pub relay: Option<Mailbox<RelayBatch>>,
    /// What Redis remembers of the log, if there is one.
    pub remembered: Option<Arc<Remembered>>,
    pub retention: RetentionPolicy,
    /// How long it is known that an entity was deleted.
    pub tombstone_ttl: Duration,
    pub services: ServiceSlots,
    /// Notified when dead letters of consumers were reopened.
    pub renewed: Arc<tokio::sync::Notify>,
    pub call_ends: Arc<CallEnds>,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    pub backlog: Arc<Backlog>,
    pub health: Arc<StoreHealth>,
    pub metrics: Arc<Metrics>,
    pub log_activity: bool,
}

/// See the module.
pub struct Persistence {
    parts: PersistenceParts,
    watch: StoreWatch,
    registry: ServiceRegistry,
    placement: Placement,
    duties: Duties,
    waiting: Waiting,
    flush_due: bool,
    next_housekeeping: Instant,
    next_bounding: Instant,
    last_group: usize,
    last_commit: Duration,
    /// What Redis remembers, until it was looked for.
    recalled: Option<Seen>,
    life: Life,
}

impl Persistence {
    pub fn new(parts: PersistenceParts, life: Life) -> Self {
        let watch = StoreWatch::new(
            parts.store.clone(),
            parts.remembered.clone(),
            Arc::clone(&parts.health),
            Arc::clone(&parts.metrics),
        );
        Self {
            registry: ServiceRegistry::new(
                Arc::clone(&parts.services),
                Arc::clone(&parts.renewed),
                Arc::clone(&parts.call_ends),
            ),
            parts,
            watch,
            placement: Placement::default(),
            duties: Duties::default(),
            waiting: Waiting::default(),
            flush_due: false,
            next_housekeeping: Instant::now(),
            next_bounding: Instant::now(),
            last_group: 0,
            last_commit: Duration::ZERO,
            recalled: None,
            life,
        }
    }

    fn flush(&mut self) {
        self.flush_due = false;
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            self.commit(waiting.into_group());
        }
        // An actor whose mailbox never empties does not reach its timers, so housekeeping is called here too.
        if Instant::now() >= self.next_housekeeping {
            self.housekeeping(RELEASE_PAUSE);
        }
    }

    /// Commits what waits in one transaction, or in several if the store cannot hold a part of it.
    fn commit(&mut self, (mut group, replies): (Group, Replies)) {
        if replies.are_many() && group.writes.iter().any(Write::changes_catalogue) {
            // Whatever was judged before is then judged in a transaction of its own.
            return replies.apart(group).into_iter().for_each(|apart| self.commit(apart));
        }
        let certainty = clock::certainty();
        group.due = self.take_due();
        group.lead = Some(certainty.lead);
        group.notifies = self.parts.cluster.has_others().then(|| self.parts.cluster.generation());
        self.registry.note(&group.writes);
        let (took_due, has_saves) = (group.due.is_some(), group.has_saves());
        die_if(has_saves && faults::strikes(FaultPoint::WriterDiesBefore));
        match self.write(&mut group) {
            Ok(committed) => {
                die_if(has_saves && faults::strikes(FaultPoint::WriterDiesAfter));
                if self.registry.committed(&group.writes, &committed) {
                    self.next_housekeeping = Instant::now();
                }
                replies.committed(committed.outcomes);
                if took_due {
                    self.at_writer(|registry, writer| registry.look_at_schedules(writer));
                }
            }
            Err(AppendFailure::Unstorable) if replies.are_many() => {
                replies.apart(group).into_iter().for_each(|apart| self.commit(apart));
            }
            Err(failure) => {
                self.registry.doubt();
                replies.failed(&failure);
            }
        }
    }

    /// What is due, if this node appends it and knows what time it is.
    fn take_due(&self) -> Option<TakeDue> {
        let limit = self.registry.due_schedules(now());
        if limit == 0 || clock::certainty().is_held {
            return None;
        }
        let fence = self.duties.schedules.fence(&self.parts.cluster)?.clone();
        Some(TakeDue { fence, limit })
    }

    /// Commits `group` and tells everybody but those who wait for it.
    fn write(&mut self, group: &mut Group) -> Result<Committed, AppendFailure> {
        let writer = self.watch.writer()?;
        let unregistered = AppendFailure::StoreUnavailable("the services are not registered yet");
        let routes = self.registry.routes().ok_or(unregistered)?;
        self.parts.position.seen().into_iter().for_each(|seen| writer.learn(seen));
        let begin = Instant::now();
        let operation = self.parts.health.begin();
        let written = writer.commit(group, routes, now());
        // The log may have got another identity. It is set before anything is announced under it.
        self.parts.position.learn_of(writer);
        drop(operation);
        match written {
            Ok(mut committed) => {
                self.last_commit = begin.elapsed();
                self.last_group = committed.events.len();
                self.parts.metrics.commit(self.last_group, self.last_commit);
                spans::committed(&committed.events, self.last_commit);
                if self.parts.log_activity {
                    for event in &committed.events {
                        log::info!(target: "event_handler::activity", id = event.id, event_name = event.name.as_str(); "committed");
                    }
                }
                self.count(&group.writes, &committed.outcomes);
                for error in &committed.refused {
                    self.watch.refused(error);
                }
                if !committed.events.is_empty() {
                    let batch = LogBatch::new(committed.prev, std::mem::take(&mut committed.events));
                    if batch.prev > self.parts.position.last() {
                        self.registry.others_have_committed();
                    }
                    self.parts.position.advance(batch.last());
                    self.tell_router(Arc::clone(&batch));
                    if group.notifies.is_some() {
                        self.tell_nodes(batch);
                    }
                }
                Ok(committed)
            }
            Err(error) if error.kind == StoreErrorKind::Invalid => Err(self.watch.refused(&error)),
            Err(error) => Err(self.watch.failed(error)),
        }
    }

    /// Has the group committed when the mailbox has been drained, or at once if it is large.
    fn join(&mut self, ctx: &mut Context<Self>) {
        if self.waiting.len() >= MAX_GROUP {
            self.flush();
        } else if !self.flush_due {
            self.flush_due = true;
            // This runs when the mailbox has been drained, so the group has all requests that waited.
            ctx.spawn(fut::ready(()).map(|(), this: &mut Self, _| this.flush()));
        }
    }

    fn count(&self, writes: &[Write], outcomes: &[Outcome]) {
        let metrics = &self.parts.metrics;
        let found = |finding: &Finding| {
            metrics.found(finding);
            self.parts.store.catalogue.note(finding, now());
        };
        for (write, outcome) in writes.iter().zip(outcomes) {
            let outcome = match outcome {
                Outcome::Appended(AppendOutcome::Observed { outcome, findings }) => {
                    findings.iter().for_each(found);
                    outcome
                }
                Outcome::Appended(outcome) => outcome,
                _ => continue,
            };
            match outcome {
                AppendOutcome::Changed(changed) => {
                    metrics.state_changes.inc_by(changed.changes.into());
                }
                AppendOutcome::Unmet(unmet) => metrics.state_conflicts.inc_by(unmet.len() as u64),
                AppendOutcome::Refused(refused) => refused.iter().for_each(|(_, finding)| found(finding)),
                // What is refused of a stream comes again.
                AppendOutcome::Maintenance if !write.is_in_order() => {
                    metrics.maintenance_refused.inc();
                }
                _ => {}
            }
        }
    }

    /// A hint. Shards that miss it find the gap, and read the store.
    fn tell_router(&self, batch: Arc<LogBatch>) {
        if self.parts.router.tell(EventsCommitted(batch)) == Err(Undelivered::Full) {
            self.parts.metrics.mailbox_full.with_label_values(&["router"]).inc();
        }
    }

    /// A hint too. Nodes that miss it find the gap, or are notified by the database.
    fn tell_nodes(&self, batch: Arc<LogBatch>) {
        let Some((relay, key)) = self.parts.relay.as_ref().zip(self.parts.position.relay_key()) else { return };
        if relay.tell(RelayBatch { batch, key }) == Err(Undelivered::Full) {
            self.parts.metrics.mailbox_full.with_label_values(&["bus"]).inc();
        }
    }
}

/// Panics where a test has asked for it.
fn die_if(is_due: bool) {
    assert!(!is_due, "injected fault in persistence");
}

impl Actor for Persistence {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.tick();
        ctx.run_interval(TICK_INTERVAL, |this, _| {
            this.tick();
            // Half of the interval is left to messages that the depth does not count, such as `Observe`.
            let end = Instant::now() + TICK_INTERVAL / 2;
            while (this.next_housekeeping..end).contains(&Instant::now()) && this.waiting.is_empty() {
                this.housekeeping(Duration::ZERO);
                if this.life.depth() > 0 {
                    break;
                }
            }
        });
        ctx.run_interval(SCHEDULE_INTERVAL, |this, _| {
            if this.waiting.is_empty() && this.take_due().is_some() {
                this.commit(Waiting::default().into_group());
            }
        });
    }
}

impl Handler<AppendEvents> for Persistence {
    type Result = ();

    fn handle(&mut self, message: AppendEvents, ctx: &mut Self::Context) {
        self.waiting.publish(message);
        self.join(ctx);
    }
}

impl Handler<CommitWrites> for Persistence {
    type Result = ();

    fn handle(&mut self, message: CommitWrites, ctx: &mut Self::Context) {
        self.waiting.write(message);
        self.join(ctx);
    }
}

impl Handler<LookAtLog> for Persistence {
    type Result = ();

    fn handle(&mut self, LookAtLog(due): LookAtLog, _: &mut Self::Context) {
        drop(due);
        self.look_at_log();
    }
}

impl Handler<NoteRelayed> for Persistence {
    type Result = ();

    fn handle(&mut self, NoteRelayed(due): NoteRelayed, _: &mut Self::Context) {
        drop(due);
        self.note_relayed();
    }
}

impl Handler<RecallNewest> for Persistence {
    type Result = ();

    fn handle(&mut self, RecallNewest(seen): RecallNewest, _: &mut Self::Context) {
        self.recalled = Some(seen);
        self.recall();
        self.go_on_if_set_back();
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

impl Address<Persistence> {
    /// Has persistence apply `write`. The outcome comes after the commit.
    pub fn commit(&self, write: Write) -> impl Future<Output = Result<Outcome, AppendFailure>> + Send + use<> {
        let (reply, answer) = oneshot::channel::<CommitReply>();
        // A message that was not delivered is dropped: the outcome says so.
        let _ = self.tell(CommitWrites { fences: Vec::new(), writes: vec![write], reply });
        async {
            let outcomes = answer.await.map_err(|_| AppendFailure::RESTARTING)??;
            Ok(outcomes.into_iter().next().expect("invariant: one outcome for each write"))
        }
    }

    /// Has whoever is persistence apply `writes` in one transaction, on behalf of the holders of the leases of `fences`;
    /// `None` if nobody took them, so that none of them will be applied. Their owner writes them again after a failure.
    pub fn commit_all(
        &self,
        fences: impl IntoIterator<Item = Fence>,
        writes: Vec<Write>,
    ) -> Option<oneshot::Receiver<CommitReply>> {
        let (reply, answer) = oneshot::channel();
        let message = CommitWrites { fences: fences.into_iter().collect(), writes, reply };
        let is_sent = !faults::strikes(FaultPoint::MailboxFull) && self.tell(message).is_ok();
        is_sent.then_some(answer)
    }
}

crate::supervised!(Persistence, AppendEvents, CommitWrites, LookAtLog, NoteRelayed, RecallNewest, ReleaseLease);
