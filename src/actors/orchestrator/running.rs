//! Runs the instances of sagas: a follower of the log. What an event, the end of a call or the time means for them is
//! committed with the position, or with the removal of what said it.
//!
//! - *SR-1* Every event after the declaration of a saga begins the instance that it is to begin, once, and every reply
//!   is taken by the instance that awaits it, once, whatever crashes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::aside;
use super::commit::Commit;
use super::definitions::Definitions;
use super::making::{self, Means};
use crate::actors::clock;
use crate::actors::cluster::Cluster;
use crate::actors::follower::Fold;
use crate::actors::log_position::LogPosition;
use crate::actors::persistence::Persistence;
use crate::domain::delivery::EventStatus;
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::follow::begin;
use crate::domain::lease::Fence;
use crate::domain::saga::{
    AT_COMMIT, Address, Concerns, Crowd, Happened, Input, Phase, Replied, SagaIds, State, Triggered,
};
use crate::protocol::event_json::write_event;
use crate::runtime::address::Address as ActorAddress;
use crate::storage::{DeclaredSaga, FollowPage, Outcome, Reader, StoreError, StoredSaga, Write};
use crate::telemetry::faults::{self, FaultPoint};
use crate::telemetry::metrics::Metrics;

/// Most instances that are decided on together, apart from those of one page.
const AT_ONCE: usize = 256;
/// How often it is looked for instances that are no longer kept.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is looked for ends of calls that another node has made.
const POLL: Duration = Duration::from_millis(100);
/// The shortest time between two such looks, so that many ends of calls, or many events, are taken together.
const PAUSE: Duration = Duration::from_millis(2);
/// How often it is looked where this node makes all calls, and says so.
const SLOW_POLL: Duration = Duration::from_millis(500);

/// What it takes to run sagas.
#[derive(Clone)]
pub struct RunningParts {
    pub reader: Reader,
    pub persistence: ActorAddress<Persistence>,
    pub commit: Commit,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    pub means: Means,
    pub definitions: Arc<Definitions>,
    pub ids: Arc<Mutex<SagaIds>>,
    /// Most instances that have begun and not ended.
    pub max_instances: u64,
    /// How long those that have ended are kept.
    pub keep: Duration,
    pub metrics: Arc<Metrics>,
}

/// See the module.
pub struct Running {
    parts: RunningParts,
    concerns: Concerns,
    /// What the concerns were made of.
    declared: Option<Vec<DeclaredSaga>>,
    /// By the steady clock.
    upkeep_at: Timestamp,
    /// When it was last looked for what there is to do besides, by the steady clock.
    looked_at: Option<Timestamp>,
}

/// What keeps it from going on is doubtful, and begins anew.
pub type Never = std::convert::Infallible;

impl Running {
    pub fn new(parts: RunningParts) -> Self {
        Self { parts, concerns: Concerns::default(), declared: None, upkeep_at: clock::steady(), looked_at: None }
    }

    /// Takes what is declared by now. It is read after the page that it is for, so that what was declared before an event
    /// is known.
    async fn learn(&mut self) -> Result<(), StoreError> {
        let Self { parts: RunningParts { reader, definitions, .. }, declared: known, .. } = self;
        let declared = reader.declared_sagas().await?;
        if known.as_ref() == Some(&declared) {
            return Ok(());
        }
        definitions.load(reader).await?;
        let mut concerns = Concerns::default();
        definitions.all().iter().for_each(|definition| concerns.add_replies(definition));
        for saga in &declared {
            match definitions.get(&saga.saga, saga.version, reader).await? {
                Ok(definition) => concerns.add_trigger(definition, saga.since),
                Err(error) => {
                    log::error!(saga = saga.saga.as_str(), version = saga.version, error:%; "no instances begin")
                }
            }
        }
        (self.concerns, self.declared) = (concerns, Some(declared));
        Ok(())
    }

    /// What is to be written for a page.
    async fn take(&mut self, page: &FollowPage) -> Result<Vec<Write>, StoreError> {
        let (mut values, mut keys) = (BTreeSet::new(), BTreeSet::new());
        let mut concerning = Vec::new();
        let mut begins_any = false;
        for event in &page.events {
            let begins = self.concerns.begins(event.id, &event.name, &event.payload);
            let replies = self.concerns.replies(&event.name, &event.payload);
            if begins.is_empty() && replies.is_empty() {
                continue;
            }
            begins_any |= !begins.is_empty();
            let triggered = begins.into_iter().filter_map(|(saga, value)| Some((saga.name.clone(), value?)));
            values.extend(triggered);
            for (_, _, address) in replies {
                match address {
                    Address::Value(saga, value) => drop(values.insert((saga, value))),
                    Address::Key(key) => drop(keys.insert(key)),
                }
            }
            concerning.push(event);
        }
        if concerning.is_empty() {
            return Ok(Vec::new());
        }
        let reader = &self.parts.reader;
        let stored = reader.concerned_sagas(values.into_iter().collect(), keys.into_iter().collect()).await?;
        let live = if begins_any { live(&reader.saga_counts().await?) } else { 0 };
        let room = self.parts.max_instances.saturating_sub(live);
        let check = |effect: &_| self.parts.means.check(effect);
        let now = clock::now();
        let mut crowd = Crowd::new(now, AT_COMMIT, &check);
        let mut writes = self.admit(stored, &mut crowd, now).await?;
        let mut room = room;
        for event in concerning {
            let shown = shown(event);
            let happened = Happened { id: event.id, name: &event.name, payload: &event.payload, shown: &shown };
            if let Some(replied) = crowd.reply(&self.concerns, &happened) {
                let what = if replied == Replied::Taken { "taken" } else { "ignored" };
                self.parts.metrics.saga_replies.with_label_values(&[what]).inc();
            }
            let has_room = || {
                let has_room = room > 0;
                room = room.saturating_sub(1);
                has_room
            };
            for (saga, what) in crowd.trigger(&self.concerns, &happened, has_room, || self.new_id(now)) {
                self.parts.metrics.saga_triggers.with_label_values(&[&saga, triggered(what)]).inc();
            }
        }
        let decided = self.parts.means.writes(crowd.changed(), None, now);
        join(&mut writes, decided);
        Ok(writes)
    }

    /// Adds instances to a crowd; those that cannot be replayed are set aside.
    async fn admit(
        &self,
        stored: Vec<StoredSaga>,
        crowd: &mut Crowd<'_>,
        now: Timestamp,
    ) -> Result<Vec<Write>, StoreError> {
        let mut writes = Vec::new();
        for stored in stored {
            match self.parts.definitions.replay(&stored, &self.parts.reader).await? {
                Ok((definition, instance)) => {
                    let begun = (0..instance.steps.len()).filter(|step| instance.steps[*step].started_at.is_some());
                    let keys: Vec<_> = begun.filter_map(|step| instance.await_key(&definition, step)).collect();
                    let is_queued = instance.phase == Phase::Queued;
                    crowd.add(definition, instance, &keys);
                    if is_queued {
                        crowd.may_begin(&stored.record.saga.origin.id, stored.record.standing.due_at);
                    }
                }
                Err(reason) => {
                    let id = stored.record.saga.origin.id.clone();
                    if let Some(aside) = aside::set_aside(stored, &reason, now) {
                        log::error!(saga_id = id.as_str(), reason = reason.as_str(); "an instance cannot be replayed, an operator is needed");
                        join(&mut writes, aside);
                    }
                }
            }
        }
        Ok(writes)
    }

    /// Takes the ends of calls. Returns how many there were; none if nothing is known to be stored.
    async fn take_ends(&self, fence: &Fence) -> Result<Option<usize>, StoreError> {
        let Self { parts: RunningParts { reader, means, .. }, .. } = self;
        let ended = reader.ended_calls(0, AT_ONCE).await?;
        let Some(through) = ended.last().map(|call| call.place) else { return Ok(Some(0)) };
        let owners: BTreeSet<String> = ended.iter().map(|call| call.owner.clone()).collect();
        let stored = reader.sagas(owners.into_iter().collect()).await?;
        let check = |effect: &_| means.check(effect);
        let now = clock::now();
        let mut crowd = Crowd::new(now, AT_COMMIT, &check);
        let mut writes = self.admit(stored, &mut crowd, now).await?;
        for call in &ended {
            let Some(member) = crowd.member(&call.owner) else { continue };
            if let Some(input) = making::ended(&member.definition.clone(), call) {
                let _ = crowd.tell(&call.owner, input);
            }
        }
        join(&mut writes, means.writes(crowd.changed(), None, now));
        writes.push(Write::ForgetCalls { through });
        Ok(self.commit(fence, writes).await.then_some(ended.len()))
    }

    /// Tells those of which a timer is due, and begins those that may begin. As above.
    async fn take_due(&self, fence: &Fence) -> Result<Option<usize>, StoreError> {
        let Self { parts: RunningParts { reader, means, max_instances, .. }, .. } = self;
        let now = clock::now();
        let mut stored = reader.due_sagas(now, AT_ONCE).await?;
        let due: Vec<String> = stored.iter().map(|stored| stored.record.saga.origin.id.clone()).collect();
        let startable = reader.startable_sagas(AT_ONCE).await?;
        if !startable.is_empty() {
            let room = max_instances.saturating_sub(live(&reader.saga_counts().await?));
            stored.extend(startable.into_iter().take(usize::try_from(room).unwrap_or(AT_ONCE)));
        }
        if stored.is_empty() {
            return Ok(Some(0));
        }
        let check = |effect: &_| means.check(effect);
        let mut crowd = Crowd::new(now, AT_COMMIT, &check);
        let beginning: Vec<String> =
            stored[due.len()..].iter().map(|stored| stored.record.saga.origin.id.clone()).collect();
        let mut writes = self.admit(stored, &mut crowd, now).await?;
        for id in &due {
            let _ = crowd.tell(id, Input::Due);
        }
        beginning.iter().for_each(|id| crowd.begin(id));
        let decided = means.writes(crowd.changed(), None, now);
        join(&mut writes, decided);
        if writes.is_empty() {
            return Ok(Some(0));
        }
        Ok(self.commit(fence, writes).await.then_some(due.len() + beginning.len()))
    }

    /// Removes a few of those that are no longer kept. As above.
    async fn keep_up(&mut self, fence: &Fence) -> Result<Option<()>, StoreError> {
        if clock::steady() < self.upkeep_at {
            return Ok(Some(()));
        }
        let keep = i64::try_from(self.parts.keep.as_micros()).unwrap_or(i64::MAX);
        let ended_before = Timestamp(clock::now().0.saturating_sub(keep));
        let forget = Write::ForgetSagas { ended_before, limit: AT_ONCE };
        let Some(outcomes) = self.written(fence, vec![forget]).await else { return Ok(None) };
        if outcomes == [Outcome::Changed(false)] {
            self.upkeep_at = clock::steady().plus(UPKEEP_INTERVAL);
        }
        Ok(Some(()))
    }

    async fn commit(&self, fence: &Fence, writes: Vec<Write>) -> bool {
        self.written(fence, writes).await.is_some()
    }

    /// The outcomes; none if nothing is known to be stored.
    async fn written(&self, fence: &Fence, writes: Vec<Write>) -> Option<Vec<Outcome>> {
        faults::kill_at(FaultPoint::SagaKilledBefore);
        let outcomes = (self.parts.commit)(Some(fence.clone()), writes)?.await.ok()?.ok()?;
        faults::kill_at(FaultPoint::SagaKilledAfter);
        (!outcomes.contains(&Outcome::Void)).then_some(outcomes)
    }

    fn new_id(&self, now: Timestamp) -> String {
        self.parts.ids.lock().unwrap_or_else(PoisonError::into_inner).next(now, rand::random())
    }

    /// What there is to do besides, until the next time.
    async fn step_beside(&mut self, fence: &Fence) -> Result<Option<Duration>, StoreError> {
        if !self.parts.means.is_ready() {
            return Ok(Some(POLL));
        }
        if let Some(left) = self.looked_at.and_then(|at| PAUSE.checked_sub(clock::steady().since(at))) {
            return Ok(Some(left));
        }
        self.looked_at = Some(clock::steady());
        let (Some(ended), Some(due)) = (self.take_ends(fence).await?, self.take_due(fence).await?) else {
            return Ok(None);
        };
        if self.keep_up(fence).await?.is_none() {
            return Ok(None);
        }
        if ended + due > 0 {
            self.looked_at = None;
            return Ok(Some(Duration::ZERO));
        }
        let poll = if self.parts.cluster.has_others() { POLL } else { SLOW_POLL };
        let next = self.parts.reader.next_saga_due().await?;
        Ok(Some(next.map_or(poll, |due| due.since(clock::now()).clamp(PAUSE, poll))))
    }
}

impl Fold for Running {
    type Error = Never;

    /// It begins where the first saga does.
    async fn begin(&mut self, stored: Option<EventId>, reader: &Reader) -> Result<Option<EventId>, Never> {
        self.declared = None;
        let (bounds, declared) = (reader.bounds().await, reader.declared_sagas().await);
        let (Ok(bounds), Ok(declared)) = (bounds, declared) else { return Ok(None) };
        let first = declared.iter().map(|saga| saga.since).min();
        Ok(Some(begin(stored.or(first), bounds.last)))
    }

    async fn fold(&mut self, page: &FollowPage, _: &Fence) -> Result<Option<Vec<Write>>, Never> {
        if !self.parts.means.is_ready() || self.learn().await.is_err() {
            return Ok(None);
        }
        Ok(self.take(page).await.ok())
    }

    async fn beside(&mut self, fence: &Fence) -> Result<Option<Duration>, Never> {
        Ok(self.step_beside(fence).await.unwrap_or_default())
    }

    fn calm(&self) {}
}

/// Adds writes of others; all steps of instances stay one write, the first.
fn join(writes: &mut Vec<Write>, more: Vec<Write>) {
    let mut more = more.into_iter();
    match (writes.first_mut(), more.next()) {
        (Some(Write::SaveSagas(steps)), Some(Write::SaveSagas(others))) => steps.extend(others),
        (_, first) => writes.extend(first),
    }
    writes.extend(more);
}

fn live(counts: &[(String, State, u64)]) -> u64 {
    let has_begun = |state: &State| state.is_live() && *state != State::Queued;
    counts.iter().filter(|(_, state, _)| has_begun(state)).map(|(_, _, count)| count).sum()
}

/// As `/events` shows it, before anything is delivered.
fn shown(event: &Event) -> String {
    let mut shown = Vec::with_capacity(event.payload.len() + 256);
    write_event(&mut shown, event, EventStatus::Processed);
    String::from_utf8(shown).expect("invariant: it is made of texts")
}

fn triggered(what: Triggered) -> &'static str {
    match what {
        Triggered::Started => "started",
        Triggered::Queued => "queued",
        Triggered::Ignored => "ignored",
        Triggered::SetAside => "needs_operator",
        Triggered::WithoutValue => "without_value",
    }
}
