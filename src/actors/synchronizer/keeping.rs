//! The task of one service: does what each of its types needs, one thing at a time, while this node holds the lease.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::orders::Orders;
use super::{SyncedService, SynchronizerParts};
use crate::actors::clock;
use crate::actors::service_slot::Holding;
use crate::domain::event::{Append, NewEvent, Timestamp};
use crate::domain::sync::{Ended, Happened, Need, Now, Standing, SyncPolicy, TypeSync};
use crate::protocol::sync::{counts_json, happened};
use crate::runtime::stop::Stop;
use crate::storage::{Outcome, SyncRecord, SyncWith, Write};
use crate::telemetry::sync_metrics::{CheckResult, SyncMetrics};

/// How often it is looked whether the lease is held.
const LOOK: Duration = Duration::from_millis(250);
/// Pause after a failure of the store, or when a client restarts.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// What is not held any more, or cannot be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// Another node has the lease, perhaps.
    Lost,
    /// The store, or the client, is away for now.
    Later,
}

/// How far the types of a service are, for operators.
#[derive(Default)]
pub(super) struct Progress(RefCell<Value>);

impl Progress {
    pub(super) fn describe(&self) -> Value {
        self.0.borrow().clone()
    }
}

/// One type, and how it is compared.
struct Kept {
    with: SyncWith,
    sync: TypeSync,
    metrics: SyncMetrics,
}

impl Kept {
    /// Counts what has ended, and exports how it stands.
    fn measure(&mut self) {
        if let Some((ended, found)) = self.sync.take_ended() {
            let result = match ended {
                Ended::Synced => CheckResult::Synced,
                Ended::Diverged => CheckResult::Diverged,
                Ended::Failed => CheckResult::Failed,
                Ended::Cancelled => CheckResult::Cancelled,
            };
            self.metrics.checked(result, found);
        }
        self.metrics.state(Some(self.sync.standing().state));
    }
}

/// Another node exports how it stands.
impl Drop for Kept {
    fn drop(&mut self) {
        self.metrics.state(None);
    }
}

/// See the module.
pub(super) struct Keeping {
    pub(super) parts: SynchronizerParts,
    pub(super) service: SyncedService,
    stop: Stop,
    orders: Rc<Orders>,
}

impl Keeping {
    pub(super) fn new(parts: &SynchronizerParts, service: SyncedService, stop: Stop, orders: Rc<Orders>) -> Self {
        Self { parts: parts.clone(), service, stop, orders }
    }

    /// Works until it is to stop.
    pub(super) async fn run(&self, progress: &Progress) {
        while !self.stop.is_told() {
            match self.service.slot.holding().filter(|holding| self.may_act(holding)) {
                Some(holding) => {
                    if let Some(kept) = self.stop.or(self.begin()).await.flatten() {
                        let _ = self.stop.or(self.keep(kept, &holding, progress)).await;
                        progress.0.take();
                    }
                }
                // What was asked for is another's business.
                None => drop(self.orders.take()),
            }
            let _ = self.stop.or(sleep(LOOK)).await;
        }
    }

    /// Whether nobody else can have taken the lease.
    pub(super) fn may_act(&self, holding: &Holding) -> bool {
        self.service.slot.holding().as_ref() == Some(holding) && self.parts.cluster.may_act_in(holding.term)
    }

    /// The types, each as its state is stored. None: the store is away.
    async fn begin(&self) -> Option<Vec<Kept>> {
        let config = &self.service.config;
        let (service, sync) = (self.service.slot.id()?, config.sync.as_ref()?);
        let mut stored = self.parts.reader.syncs().await.ok()?;
        let policy = SyncPolicy {
            every: sync.every.get(),
            settle: self.parts.settle,
            repairs: sync.repair == crate::config::SyncRepair::PushLatest,
            rate: sync.repair_rate,
        };
        let kept = sync.types.iter().map(|kind| {
            let at = stored.iter().position(|record| record.service == service && record.kind == *kind);
            let standing = at.map(|at| stored.swap_remove(at).standing);
            let with = SyncWith { service, own_sources: config.own_sources(), kind: kind.clone() };
            let sync = TypeSync::new(policy, standing, rand::random(), now());
            Kept { with, sync, metrics: self.parts.metrics.sync(&config.name, kind.as_str()) }
        });
        Some(kept.collect())
    }

    /// Keeps the service in step for as long as this node holds the lease.
    async fn keep(&self, mut kept: Vec<Kept>, holding: &Holding, progress: &Progress) {
        let mut turn = 0;
        while self.may_act(holding) {
            for demand in self.orders.take() {
                kept.iter_mut().for_each(|kept| kept.sync.demand(demand));
            }
            kept.iter_mut().for_each(Kept::measure);
            progress.0.replace(kept.iter().map(describe).collect());
            let (at, need) = next(&mut kept, turn, now());
            turn = at;
            let Kept { with, sync, metrics } = &mut kept[at];
            let done = match need {
                Need::Wait(until) => {
                    // The lease may be lost, or another one be due.
                    let wait = until.since(clock::steady()).min(LOOK);
                    let _ = tokio::time::timeout(wait, self.orders.pushed()).await;
                    continue;
                }
                Need::Save { standing, happened } => self.save(with, sync, standing, happened, holding).await,
                Need::Backlog => self.backlog(with, sync).await,
                Need::Check(need) => self.orders.or_cancelled(self.compare(with, sync, need)).await.unwrap_or(Ok(())),
                Need::Repair { difference, run } => {
                    let repair = self.repair(with, (sync, metrics), (difference, run), holding);
                    self.orders.or_cancelled(repair).await.unwrap_or(Ok(()))
                }
            };
            match done {
                Ok(()) => {}
                Err(Hindrance::Later) => sleep(RETRY).await,
                Err(Hindrance::Lost) => return,
            }
        }
    }

    async fn save(
        &self,
        with: &SyncWith,
        sync: &mut TypeSync,
        standing: Standing,
        told: Option<Happened>,
        holding: &Holding,
    ) -> Result<(), Hindrance> {
        let name = self.service.config.name.as_str();
        let SyncWith { service, kind, .. } = with;
        let record = SyncRecord { service: *service, kind: kind.clone(), standing: standing.clone() };
        let mut writes = vec![Write::SaveSync(record)];
        writes.extend(told.as_ref().map(|told| {
            let (name, payload) = happened(name, &with.kind, told);
            Write::Append(Append::single(NewEvent::own(name, payload.to_string())))
        }));
        self.commit(writes, holding).await?;
        if standing.error != sync.standing().error || told.is_some() {
            let Standing { state, error, .. } = &standing;
            log::info!(service = name, kind:% = with.kind, state = state.as_str(), error = error.as_deref(); "state of a service");
        }
        sync.saved(&standing, now());
        Ok(())
    }

    /// Commits as the holder of the lease.
    pub(super) async fn commit(&self, writes: Vec<Write>, holding: &Holding) -> Result<Vec<Outcome>, Hindrance> {
        let answer = self.parts.persistence.commit_all(Some(holding.fence.clone()), writes).ok_or(Hindrance::Later)?;
        let outcomes = answer.await.ok().and_then(Result::ok).ok_or(Hindrance::Later)?;
        if outcomes.contains(&Outcome::Void) { Err(Hindrance::Lost) } else { Ok(outcomes) }
    }

    async fn backlog(&self, with: &SyncWith, sync: &mut TypeSync) -> Result<(), Hindrance> {
        let backlog = self.parts.reader.sync_backlog(with.clone()).await.map_err(|_| Hindrance::Later)?;
        sync.backlog(backlog.last, backlog.oldest, backlog.count, now());
        Ok(())
    }
}

/// What is to be done next, and for which of them: what is under way comes to its end first, then they take turns.
fn next(kept: &mut [Kept], turn: usize, now: Now) -> (usize, Need) {
    if let Some(at) = kept.iter().position(|kept| kept.sync.is_busy()) {
        return (at, kept[at].sync.need(now));
    }
    let mut first = (turn, Need::Wait(Timestamp(i64::MAX)));
    let count = kept.len();
    for at in (1..=count).map(|step| (turn + step) % count) {
        match (kept[at].sync.need(now), &first.1) {
            (Need::Wait(until), Need::Wait(earliest)) if until < *earliest => first = (turn, Need::Wait(until)),
            (Need::Wait(_), _) => {}
            (need, _) => return (at, need),
        }
    }
    first
}

pub(super) fn now() -> Now {
    Now { day: clock::now(), steady: clock::steady() }
}

fn describe(Kept { with, sync, .. }: &Kept) -> Value {
    let Standing { state, as_of, lag, checked_at, next_check_at, error, differences } = sync.standing();
    let at = |at: &Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "type": with.kind.as_str(),
        "state": state.as_str(),
        "is_busy": sync.is_busy(),
        "as_of": as_of,
        "lag": lag,
        "checked_at": at(checked_at),
        "next_check_at": at(next_check_at),
        "differences": counts_json(*differences),
        "error": error,
    })
}
