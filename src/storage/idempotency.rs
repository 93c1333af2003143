//! Decides which requests of a batch are new, and which repeat an earlier request.

use std::collections::HashMap;

use bytestring::ByteString;

use crate::domain::event::{Append, AppendOutcome, EventId, Idempotency, NewEvent, Schedule, ScheduleId};

/// What an idempotency key was first used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyUse {
    pub key: ByteString,
    pub fingerprint: [u8; 16],
    pub first_id: EventId,
    pub last_id: EventId,
}

impl KeyUse {
    pub fn from_store(key: ByteString, fingerprint: &[u8], first_id: EventId, last_id: EventId) -> Self {
        // A fingerprint of another length becomes zeros, which equal no fingerprint.
        let fingerprint = fingerprint.try_into().unwrap_or_default();
        Self { key, fingerprint, first_id, last_id }
    }
}

/// Which events of a batch are new, and the outcome of each request.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One outcome for each request, in order.
    pub outcomes: Vec<AppendOutcome>,
    /// The idempotency keys to store.
    pub keys: Vec<KeyUse>,
    /// Whether each event of the batch is new, in order. Empty if all are.
    fresh: Vec<bool>,
}

/// All idempotency keys of a batch, possibly repeated. A key with a scope also yields its form without one, which older
/// versions stored.
pub(super) fn keys<'a>(batch: &'a [&Append]) -> impl Iterator<Item = &'a str> {
    let has_keys = |a: &&&Append| a.idempotency.is_some() || a.events.iter().any(|e| e.idempotency.is_some());
    batch.iter().filter(has_keys).flat_map(|append| {
        let own = append.events.iter().filter_map(|e| e.idempotency.as_ref());
        append.idempotency.iter().chain(own).flat_map(|i| std::iter::once(&*i.key).chain(Idempotency::bare_key(&i.key)))
    })
}

impl Plan {
    /// Decides on `batch`, whose new events get the ids after `prev`. `known` are the uses of its keys that have not
    /// expired.
    pub fn new(batch: &[&Append], known: Vec<KeyUse>, prev: EventId) -> Self {
        let mut planner = Planner {
            known: known.into_iter().map(|k| (k.key.clone(), k)).collect(),
            staged: Vec::new(),
            last: prev,
            plan: Self::default(),
        };
        planner.plan.outcomes.reserve(batch.len());
        for append in batch {
            planner.decide(append);
        }
        let mut plan = planner.plan;
        if plan.fresh.iter().all(|fresh| *fresh) {
            plan.fresh = Vec::new();
        }
        plan
    }

    /// The events of `batch` that are stored as schedules.
    pub fn schedules<'a>(&'a self, batch: &'a [&Append]) -> impl Iterator<Item = (Schedule, &'a NewEvent)> + 'a {
        batch.iter().zip(&self.outcomes).filter_map(|(append, outcome)| match outcome {
            AppendOutcome::Scheduled { replayed: false, .. } => Some((append.schedule?, append.events.first()?)),
            _ => None,
        })
    }

    /// The new events of `batch`, in order.
    pub fn select<'a, T>(&'a self, batch: impl Iterator<Item = T> + 'a) -> impl Iterator<Item = T> + 'a {
        batch.enumerate().filter(|(at, _)| self.fresh.get(*at).is_none_or(|fresh| *fresh)).map(|(_, event)| event)
    }
}

/// The ids that a key has if its event was scheduled, and so had no id.
const SCHEDULED: (EventId, EventId) = (0, 0);

struct Planner {
    known: HashMap<ByteString, KeyUse>,
    /// The keys of the present request. Its later events know them; they are discarded if the request is refused.
    staged: Vec<KeyUse>,
    last: EventId,
    plan: Plan,
}

impl Planner {
    fn decide(&mut self, append: &Append) {
        let (last, decided) = (self.last, self.plan.fresh.len());
        let outcome = match append.schedule {
            Some(schedule) => self.schedule(append, schedule.id),
            None => self.whole(append).unwrap_or_else(|| self.each(append)),
        };
        if let AppendOutcome::KeyReused { .. } = outcome {
            for used in self.staged.drain(..) {
                self.known.remove(&used.key);
            }
            self.last = last;
            self.plan.fresh.truncate(decided);
        }
        if !matches!(outcome, AppendOutcome::Stored { .. }) {
            self.plan.fresh.resize(decided + append.events.len(), false);
        }
        self.plan.keys.append(&mut self.staged);
        self.plan.outcomes.push(outcome);
    }

    /// The outcome of a request whose own key was used before.
    fn whole(&self, append: &Append) -> Option<AppendOutcome> {
        let used = self.find(append.idempotency.as_ref()?)?;
        Some(match used {
            Ok((first_id, last_id)) => AppendOutcome::Replayed { first_id, last_id },
            Err(KeyConflict) => AppendOutcome::KeyReused { index: 0 },
        })
    }

    /// The outcome of a schedule, whose event gets no id yet.
    fn schedule(&mut self, append: &Append, id: ScheduleId) -> AppendOutcome {
        let Some(idempotency) = append.events.first().and_then(|event| event.idempotency.as_ref()) else {
            return AppendOutcome::Scheduled { id, replayed: false };
        };
        // Only the key with its scope counts: a schedule that an older version stored under the bare key has another
        // id.
        match self.find_own(idempotency) {
            Some(Ok(SCHEDULED)) => AppendOutcome::Scheduled { id, replayed: true },
            Some(_) => AppendOutcome::KeyReused { index: 0 },
            None => {
                self.learn(idempotency, SCHEDULED.0, SCHEDULED.1);
                AppendOutcome::Scheduled { id, replayed: false }
            }
        }
    }

    fn each(&mut self, append: &Append) -> AppendOutcome {
        let prev = self.last;
        let mut old: Option<(EventId, EventId)> = None;
        let mut replayed = 0;
        for (index, event) in append.events.iter().enumerate() {
            match self.stage(event) {
                Ok(None) => {}
                Ok(Some((first, last))) => {
                    replayed += 1;
                    old = Some(old.map_or((first, last), |(f, l)| (f.min(first), l.max(last))));
                }
                Err(KeyConflict) => return AppendOutcome::KeyReused { index },
            }
        }
        let outcome = match old {
            Some((first_id, last_id)) if self.last == prev => AppendOutcome::Replayed { first_id, last_id },
            _ => AppendOutcome::Stored { first_id: prev + 1, last_id: self.last, replayed },
        };
        if let Some(idempotency) = &append.idempotency {
            match outcome {
                AppendOutcome::Stored { first_id, last_id, .. } | AppendOutcome::Replayed { first_id, last_id } => {
                    self.learn(idempotency, first_id, last_id);
                }
                AppendOutcome::KeyReused { .. } | AppendOutcome::Scheduled { .. } | AppendOutcome::Unstorable => {}
            }
        }
        outcome
    }

    /// Gives the event the next id. If its key was used before, returns the ids of that use instead.
    fn stage(&mut self, event: &NewEvent) -> Result<Option<(EventId, EventId)>, KeyConflict> {
        let old = event.idempotency.as_ref().and_then(|i| self.find(i)).transpose()?;
        self.plan.fresh.push(old.is_none());
        if old.is_none() {
            self.last += 1;
            if let Some(idempotency) = &event.idempotency {
                self.learn(idempotency, self.last, self.last);
            }
        }
        Ok(old)
    }

    fn find(&self, wanted: &Idempotency) -> Option<Result<(EventId, EventId), KeyConflict>> {
        if let Some(own) = self.find_own(wanted) {
            return Some(own);
        }
        // The key was stored without a scope by an older version. The same request is a repetition; with another
        // fingerprint, the key may be another publisher's and counts as unused.
        let old = self.known.get(Idempotency::bare_key(&wanted.key)?)?;
        (old.fingerprint == wanted.fingerprint).then_some(Ok((old.first_id, old.last_id)))
    }

    fn find_own(&self, wanted: &Idempotency) -> Option<Result<(EventId, EventId), KeyConflict>> {
        let used = self.known.get(&wanted.key)?;
        let same = used.fingerprint == wanted.fingerprint;
        Some(if same { Ok((used.first_id, used.last_id)) } else { Err(KeyConflict) })
    }

    fn learn(&mut self, idempotency: &Idempotency, first_id: EventId, last_id: EventId) {
        let Idempotency { key, fingerprint } = idempotency;
        let used = KeyUse { key: key.clone(), fingerprint: *fingerprint, first_id, last_id };
        self.known.insert(key.clone(), used.clone());
        self.staged.push(used);
    }
}

/// The key was used for a different request.
struct KeyConflict;
