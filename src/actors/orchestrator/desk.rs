//! Where instances of sagas are seen and decided on: by operators at any node, and by who begins one by hand.
//!
//! Of two who decide on one instance at the same time, one wins; the other decides anew.

use std::sync::{Arc, Mutex, PoisonError};

use bytestring::ByteString;

use super::commit::Commit;
use super::definitions::Definitions;
use super::making::{ByHand, Means};
use super::running::begun;
use crate::actors::clock;
use crate::actors::persistence::messages::AppendFailure;
use crate::domain::saga::{AT_COMMIT, Crowd, Definition, Entry, Input, Instance, SagaIds, State, Unfit, Verb, decide};
use crate::storage::{DeclaredSaga, Outcome, Reader, SagaRecord, SagaStanding, StoreError, StoredSaga, Write};

/// How often it is decided anew where others decide at the same time.
const ATTEMPTS: usize = 20;

/// An instance as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    pub record: SagaRecord,
    /// What its journal says; an error if that cannot be read.
    pub told: Result<Told, String>,
}

/// What the journal of an instance says.
#[derive(Debug, Clone)]
pub struct Told {
    pub definition: Arc<Definition>,
    pub instance: Instance,
    pub journal: Vec<Entry>,
}

/// Why nothing was done.
#[derive(Debug)]
pub enum SagaRefusal {
    /// There is no such instance.
    NotFound,
    /// There is no such saga, or no node declares it any more.
    NoSaga,
    /// The verb does not fit, in this state.
    State(State, Unfit),
    /// This instance holds the correlation value, or waits for it.
    Live(String),
    /// The payload has no value where the saga has its correlation.
    NoCorrelation,
    /// Its journal cannot be read, or an effect of the decision cannot be stored.
    Unusable(String),
    /// Others decide on it all the time.
    Busy,
    Store(StoreError),
    Unavailable(AppendFailure),
}

impl From<StoreError> for SagaRefusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// See the module.
#[derive(Clone)]
pub struct Desk {
    pub reader: Reader,
    pub commit: Commit,
    pub means: Means,
    pub definitions: Arc<Definitions>,
    pub ids: Arc<Mutex<SagaIds>>,
    /// Most instances that have begun and not ended.
    pub max_instances: u64,
}

impl Desk {
    /// An instance.
    pub async fn show(&self, id: &str) -> Result<Shown, SagaRefusal> {
        let stored = self.find(id).await?;
        self.shown(stored).await
    }

    /// Does what an operator says; returns what the instance is then.
    pub async fn operate(&self, id: &str, verb: Verb, reason: &str) -> Result<Shown, SagaRefusal> {
        self.reader.learn_catalogue(&self.means.catalogue).await?;
        for _ in 0..ATTEMPTS {
            let stored = self.find(id).await?;
            let state = stored.record.standing.state;
            let is_aborted = verb == Verb::Abort && state.is_live();
            let (definition, instance) = match self.definitions.replay(&stored, &self.reader).await? {
                Ok(replayed) => replayed,
                Err(_) if is_aborted => return self.abort_unreadable(stored).await,
                Err(error) => return Err(SagaRefusal::Unusable(error)),
            };
            let check = |effect: &_| self.means.check(effect);
            let now = clock::now();
            let mut crowd = Crowd::new(now, AT_COMMIT, &check);
            crowd.add(definition, instance, &[], stored.record.standing.due_at);
            let input = Input::Operator { verb: verb.clone(), reason: reason.to_owned() };
            crowd.tell(id, input).map_err(|unfit| SagaRefusal::State(state, unfit))?;
            let begins = stored.record.standing.started_at.is_none();
            let writes = self.means.writes(&mut crowd.changed(), Vec::new(), None, now);
            if writes.is_empty() || self.commit(writes).await? {
                return self.show(id).await;
            }
            if begins && let Some(holder) = self.holder(&stored).await? {
                return Err(SagaRefusal::Live(holder));
            }
        }
        Err(SagaRefusal::Busy)
    }

    /// Begins an instance by hand, or queues it where there is no room; returns its id. None: `key` has begun one already.
    pub async fn start(
        &self,
        saga: &str,
        payload: ByteString,
        key: Option<String>,
    ) -> Result<Option<String>, SagaRefusal> {
        let declared = self.declared().await?;
        let (_, definition) =
            declared.into_iter().find(|(declared, _)| declared.saga == saga).ok_or(SagaRefusal::NoSaga)?;
        let correlation = definition.value_of(&payload).ok_or(SagaRefusal::NoCorrelation)?;
        self.reader.learn_catalogue(&self.means.catalogue).await?;
        for _ in 0..ATTEMPTS {
            if let Some(key) = &key
                && self.reader.saga_of_start_key(saga.to_owned(), key.clone()).await?.is_some()
            {
                return Ok(None);
            }
            let check = |effect: &_| self.means.check(effect);
            let now = clock::now();
            let mut crowd = Crowd::new(now, AT_COMMIT, &check);
            let id = self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(now, rand::random());
            let trigger = ByteString::from(format!(r#"{{"payload":{payload}}}"#));
            let has_room = begun(&self.reader.saga_counts().await?) < self.max_instances;
            crowd.make(&definition, (id.clone(), correlation.clone(), trigger), !has_room);
            if has_room {
                crowd.begin(&id);
            }
            let by_hand = ByHand { key: key.as_deref() };
            let writes = self.means.writes(&mut crowd.changed(), Vec::new(), Some(by_hand), now);
            if self.commit(writes).await? {
                return Ok(Some(id));
            }
            let values = vec![(saga.to_owned(), correlation.clone())];
            let found = self.reader.concerned_sagas(values, Vec::new()).await?;
            let is_live = |SagaStanding { holds, state, .. }: &SagaStanding| *holds || *state == State::Queued;
            if let Some(live) = found.into_iter().find(|stored| is_live(&stored.record.standing)) {
                // Perhaps the same request was faster.
                if key.is_some() && live.record.saga.start_key == key {
                    return Ok(None);
                }
                return Err(SagaRefusal::Live(live.record.saga.origin.id));
            }
        }
        Err(SagaRefusal::Busy)
    }

    /// The sagas that begin new instances, with what they are.
    pub async fn declared(&self) -> Result<Vec<(DeclaredSaga, Arc<Definition>)>, SagaRefusal> {
        let mut declared = Vec::new();
        for saga in self.reader.declared_sagas().await? {
            let definition = self.definitions.get(&saga.saga, saga.version, &self.reader).await?;
            declared.push((saga, definition.map_err(SagaRefusal::Unusable)?));
        }
        Ok(declared)
    }

    async fn find(&self, id: &str) -> Result<StoredSaga, SagaRefusal> {
        self.reader.sagas(vec![id.to_owned()]).await?.pop().ok_or(SagaRefusal::NotFound)
    }

    async fn shown(&self, stored: StoredSaga) -> Result<Shown, SagaRefusal> {
        let replayed = self.definitions.replay(&stored, &self.reader).await?;
        let StoredSaga { record, journal } = stored;
        let told = replayed.and_then(|(definition, instance)| Ok(Told { definition, instance, journal: journal? }));
        Ok(Shown { record, told })
    }

    /// Whether an instance would take what an operator says.
    pub async fn would_operate(&self, id: &str, verb: &Verb) -> Result<bool, SagaRefusal> {
        let stored = self.find(id).await?;
        let has_begun = stored.record.standing.started_at.is_some();
        let Ok((definition, mut instance)) = self.definitions.replay(&stored, &self.reader).await? else {
            return Ok(*verb == Verb::Abort && stored.record.standing.state.is_live());
        };
        let input = Input::Operator { verb: verb.clone(), reason: String::new() };
        if decide(&definition, &mut instance, input, (clock::now(), AT_COMMIT)).is_err() {
            return Ok(false);
        }
        // One that begins only now needs its value.
        Ok(has_begun || !instance.holds() || self.holder(&stored).await?.is_none())
    }

    /// Which other instance holds its value.
    async fn holder(&self, stored: &StoredSaga) -> Result<Option<String>, SagaRefusal> {
        let origin = &stored.record.saga.origin;
        let values = vec![(origin.saga.clone(), origin.correlation.clone())];
        let found = self.reader.concerned_sagas(values, Vec::new()).await?;
        let holder = found.into_iter().find(|found| found.record.standing.holds);
        Ok(holder.map(|holder| holder.record.saga.origin.id).filter(|id| *id != origin.id))
    }

    async fn abort_unreadable(&self, stored: StoredSaga) -> Result<Shown, SagaRefusal> {
        let id = stored.record.saga.origin.id.clone();
        let writes = super::aside::abort(stored, clock::now());
        if self.commit(writes).await? { self.show(&id).await } else { Err(SagaRefusal::Busy) }
    }

    /// Whether it was stored; if not, somebody has decided before.
    async fn commit(&self, writes: Vec<Write>) -> Result<bool, SagaRefusal> {
        if !self.means.is_ready() {
            return Err(SagaRefusal::Unavailable(AppendFailure::StoreUnavailable(
                "the services are not registered yet",
            )));
        }
        let answer = (self.commit)(Vec::new(), writes);
        let answer = answer.ok_or(SagaRefusal::Unavailable(AppendFailure::RESTARTING))?;
        let outcomes = answer.await.map_err(|_| SagaRefusal::Unavailable(AppendFailure::RESTARTING))?;
        let outcomes = outcomes.map_err(SagaRefusal::Unavailable)?;
        Ok(!outcomes.contains(&Outcome::Void))
    }
}
