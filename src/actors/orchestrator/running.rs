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
use super::making::Means;
use super::recent::Recent;
use crate::actors::call_ends::CallEnds;
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
    AT_COMMIT, Address, Concerns, Crowd, Happened, Input, Member, Origin, Phase, Replied, SagaIds, State, Triggered,
};
use crate::protocol::event_json::write_event;
use crate::protocol::event_type::TYPE_CHANGED;
use crate::runtime::address::Address as ActorAddress;
use crate::storage::{DeclaredSaga, FollowPage, Outcome, Reader, StoreError, StoredSaga, Write};
use crate::telemetry::faults::{self, FaultPoint};
use crate::telemetry::metrics::Metrics;

/// Most instances that are decided on together, apart from those of one page.
pub(super) const AT_ONCE: usize = 256;
/// How often it is looked for instances that are no longer kept.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is looked for ends of calls that another node has made.
const POLL: Duration = Duration::from_millis(100);
/// The shortest time between two such looks, so that many ends of calls, or many events, are taken together.
const PAUSE: Duration = Duration::from_millis(2);
/// How soon it is looked for what is due after something has happened to an instance.
const SOON: Duration = Duration::from_millis(20);
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
    pub call_ends: Arc<CallEnds>,
    pub metrics: Arc<Metrics>,
}

/// See the module.
pub struct Running {
    pub(super) parts: RunningParts,
    concerns: Concerns,
    /// What the concerns were made of.
    declared: Option<Vec<DeclaredSaga>>,
    pub(super) recent: Recent,
    /// This and the next two by the steady clock.
    upkeep_at: Timestamp,
    /// When it was last looked for what there is to do besides.
    looked_at: Option<Timestamp>,
    /// When it is looked for what is due, and for what others have stored.
    look_at: Timestamp,
    /// Some instances may wait for their turn.
    has_queued: bool,
}

/// What keeps it from going on is doubtful, and begins anew.
pub type Never = std::convert::Infallible;

impl Running {
    pub fn new(parts: RunningParts) -> Self {
        Self {
            parts,
            concerns: Concerns::default(),
            declared: None,
            recent: Recent::default(),
            upkeep_at: clock::steady(),
            looked_at: None,
            look_at: clock::steady(),
            has_queued: true,
        }
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
        if page.events.iter().any(|event| event.name.as_str() == TYPE_CHANGED) {
            self.parts.reader.learn_catalogue(&self.parts.means.catalogue).await?;
        }
        for event in &page.events {
            // Perhaps an operator has decided.
            if event.name.as_str().starts_with("$sys.saga.") {
                self.look_in(SOON);
            }
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
        let live = if begins_any { begun(&reader.saga_counts().await?) } else { 0 };
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
        let mut members = crowd.changed();
        join(&mut writes, self.parts.means.writes(&mut members, Vec::new(), None, now));
        // If it is not stored, all begins anew.
        self.note(members, now);
        Ok(writes)
    }

    /// Adds instances to a crowd; those that cannot be replayed are set aside.
    pub(super) async fn admit(
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
                    let keys: Vec<_> = begun.filter_map(|step| instance.await_key(&definition, step).ok()?).collect();
                    crowd.add(definition, instance, &keys, stored.record.standing.due_at);
                }
                Err(reason) => {
                    let Origin { id, saga, correlation, .. } = stored.record.saga.origin.clone();
                    if stored.record.standing.holds {
                        crowd.occupy(&saga, correlation);
                    }
                    if let Some(aside) = aside::set_aside(stored, &reason, now) {
                        log::error!(saga_id = id.as_str(), reason = reason.as_str(); "an instance cannot be replayed, an operator is needed");
                        join(&mut writes, aside);
                    }
                }
            }
        }
        Ok(writes)
    }

    /// Tells those of which a timer is due, and begins those that may begin. As above. A reply that was committed before
    /// a timer fell due comes before it, so only those count that were due `as_of` what has been followed.
    async fn take_due(&mut self, fence: &Fence, as_of: Timestamp) -> Result<Option<usize>, StoreError> {
        let RunningParts { reader, means, max_instances, .. } = self.parts.clone();
        let now = clock::now();
        // What a timer leads to cannot be undone: a clock that may be wrong decides nothing.
        let are_sure = !clock::certainty().is_held;
        let mut stored = if are_sure { reader.due_sagas(now.min(as_of), AT_ONCE).await? } else { Vec::new() };
        let due: Vec<String> = stored.iter().map(|stored| stored.record.saga.origin.id.clone()).collect();
        let startable = reader.startable_sagas(AT_ONCE).await?;
        if !startable.is_empty() {
            let room = max_instances.saturating_sub(begun(&reader.saga_counts().await?));
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
            let _ = crowd.tell(id, Input::Due(as_of));
        }
        beginning.iter().for_each(|id| crowd.begin(id));
        let mut members = crowd.changed();
        join(&mut writes, means.writes(&mut members, Vec::new(), None, now));
        if writes.is_empty() {
            return Ok(Some(0));
        }
        if self.written([fence.clone()], writes).await.is_none() {
            return Ok(None);
        }
        self.note(members, now);
        Ok(Some(due.len() + beginning.len()))
    }

    /// Ends the calls that nobody makes, and removes a few instances that are no longer kept. As above.
    async fn keep_up(&mut self, fence: &Fence) -> Result<Option<()>, StoreError> {
        if clock::steady() < self.upkeep_at || clock::certainty().is_held {
            return Ok(Some(()));
        }
        if self.end_strays(fence).await?.is_none() {
            return Ok(None);
        }
        let keep = i64::try_from(self.parts.keep.as_micros()).unwrap_or(i64::MAX);
        let ended_before = Timestamp(clock::now().0.saturating_sub(keep));
        let forget = Write::ForgetSagas { ended_before, limit: AT_ONCE };
        let Some(outcomes) = self.written([fence.clone()], vec![forget]).await else { return Ok(None) };
        if outcomes == [Outcome::Changed(false)] {
            self.upkeep_at = clock::steady().plus(UPKEEP_INTERVAL);
        }
        Ok(Some(()))
    }

    /// The outcomes; none if nothing is known to be stored.
    pub(super) async fn written(
        &self,
        fences: impl IntoIterator<Item = Fence>,
        writes: Vec<Write>,
    ) -> Option<Vec<Outcome>> {
        faults::kill_at(FaultPoint::SagaKilledBefore);
        let fences = fences.into_iter().collect();
        let outcomes = (self.parts.commit)(fences, writes)?.await.ok()?.ok()?;
        faults::kill_at(FaultPoint::SagaKilledAfter);
        (!outcomes.contains(&Outcome::Void)).then_some(outcomes)
    }

    fn new_id(&self, now: Timestamp) -> String {
        self.parts.ids.lock().unwrap_or_else(PoisonError::into_inner).next(now, rand::random())
    }

    /// What there is to do besides, until the next time.
    async fn step_beside(&mut self, fence: &Fence, as_of: Timestamp) -> Result<Option<Duration>, StoreError> {
        if !self.parts.means.is_ready() {
            return Ok(Some(POLL));
        }
        if let Some(left) = self.looked_at.and_then(|at| PAUSE.checked_sub(clock::steady().since(at))) {
            return Ok(Some(left));
        }
        self.looked_at = Some(clock::steady());
        let Some(ended) = self.take_ends(fence).await? else { return Ok(None) };
        let mut due = 0;
        // An end that waits may have come before a deadline.
        if ended < AT_ONCE && self.is_time_to_look() {
            let Some(found) = self.take_due(fence, as_of).await? else { return Ok(None) };
            due = found;
            let wait = if due > 0 { Duration::ZERO } else { self.until_next_look().await? };
            self.look_at = clock::steady().plus(wait);
        }
        if self.keep_up(fence).await?.is_none() {
            return Ok(None);
        }
        if ended + due > 0 {
            self.looked_at = None;
            return Ok(Some(Duration::ZERO));
        }
        Ok(Some(self.look_at.since(clock::steady())))
    }

    pub(super) fn is_time_to_look(&self) -> bool {
        clock::steady() >= self.look_at
    }

    /// In what time something may be due, or found that others have stored.
    async fn until_next_look(&mut self) -> Result<Duration, StoreError> {
        let RunningParts { reader, cluster, .. } = &self.parts;
        self.has_queued =
            reader.saga_counts().await?.iter().any(|(_, state, count)| *state == State::Queued && *count > 0);
        let poll = if cluster.has_others() { POLL } else { SLOW_POLL };
        let next = reader.next_saga_due().await?;
        Ok(next.map_or(poll, |due| due.since(clock::now()).clamp(PAUSE, poll)))
    }

    /// Looks no later than in this time for what is due.
    fn look_in(&mut self, wait: Duration) {
        self.look_at = self.look_at.min(clock::steady().plus(wait));
    }

    /// These instances are as they are stored.
    pub(super) fn note(&mut self, members: Vec<Member>, now: Timestamp) {
        for member in members {
            self.has_queued |= member.instance.phase == Phase::Queued;
            if let Some(due) = member.due_at() {
                self.look_in(due.since(now));
            }
            if self.has_queued && !member.instance.holds() {
                self.look_in(Duration::ZERO);
            }
            self.recent.keep(member);
        }
    }
}

impl Fold for Running {
    type Error = Never;

    /// It begins where the first saga does.
    async fn begin(&mut self, stored: Option<EventId>, reader: &Reader) -> Result<Option<EventId>, Never> {
        self.declared = None;
        self.recent = Recent::default();
        (self.look_at, self.has_queued) = (clock::steady(), true);
        let (bounds, declared) = (reader.bounds().await, reader.declared_sagas().await);
        let (Ok(bounds), Ok(declared)) = (bounds, declared) else { return Ok(None) };
        // What has changed from here on is followed.
        if reader.learn_catalogue(&self.parts.means.catalogue).await.is_err() {
            return Ok(None);
        }
        self.parts.call_ends.open();
        self.parts.call_ends.set_stored();
        let first = declared.iter().map(|saga| saga.since).min();
        Ok(Some(begin(stored.or(first), bounds.last)))
    }

    async fn fold(&mut self, page: &FollowPage, _: &Fence) -> Result<Option<Vec<Write>>, Never> {
        if !self.parts.means.is_ready() || self.learn().await.is_err() {
            return Ok(None);
        }
        Ok(self.take(page).await.ok())
    }

    async fn beside(&mut self, fence: &Fence, as_of: Timestamp) -> Result<Option<Duration>, Never> {
        Ok(self.step_beside(fence, as_of).await.unwrap_or_default())
    }

    fn end(&mut self) {
        self.parts.call_ends.close();
    }

    fn calm(&self) {}
}

/// Adds writes of others; all steps of instances stay one write, the first.
pub(super) fn join(writes: &mut Vec<Write>, more: Vec<Write>) {
    let mut more = more.into_iter();
    match (writes.first_mut(), more.next()) {
        (Some(Write::SaveSagas { steps, ended }), Some(Write::SaveSagas { steps: more_steps, ended: more_ended })) => {
            steps.extend(more_steps);
            ended.extend(more_ended);
        }
        (_, first) => writes.extend(first),
    }
    writes.extend(more);
}

/// How many instances have begun and not ended.
pub(super) fn begun(counts: &[(String, State, u64)]) -> u64 {
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
