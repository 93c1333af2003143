//! Decides which requests of a batch are new, which repeat an earlier request, and which may change what they change.

use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;

use super::append::{AppendBatch, Refusals, Tail};
use super::changes::{Changed, Changes, KnownEntities};
use crate::domain::catalogue::Catalogue;
use crate::domain::entity::Unmet;
use crate::domain::event::{
    Append, AppendOutcome, Changed as ChangedOutcome, EventId, Idempotency, NewEvent, Schedule, ScheduleId, Timestamp,
};

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
    /// What becomes of the entities.
    pub changed: Changed,
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

/// Whether a batch has any.
pub(super) fn has_keys(batch: &[&Append]) -> bool {
    keys(batch).next().is_some()
}

impl Plan {
    /// Decides on a batch, whose new events come after `tail`. `known` are the uses of its keys that have not expired,
    /// `entities` is what the store has of the entities that it changes.
    pub fn new(append: &AppendBatch<'_>, known: Vec<KeyUse>, entities: KnownEntities, tail: Tail) -> Self {
        let mut planner = Planner {
            known: known.into_iter().map(|k| (k.key.clone(), k)).collect(),
            staged: Vec::new(),
            last: tail.id,
            at: tail.created_at,
            changes: Changes::new(entities, append.max_types),
            catalogue: append.catalogue,
            refusals: Refusals { names: append.refusals.names.clone(), has_stopped: append.refusals.has_stopped },
            plan: Self::default(),
        };
        planner.plan.outcomes.reserve(append.batch.len());
        for append in append.batch {
            planner.decide(append);
        }
        let Planner { mut plan, changes, .. } = planner;
        plan.changed = changes.finish();
        if plan.fresh.iter().all(|fresh| *fresh) {
            plan.fresh = Vec::new();
        }
        plan
    }

    /// The events of `batch` that are stored as schedules.
    pub fn schedules<'a>(&'a self, batch: &'a [&Append]) -> impl Iterator<Item = (Schedule, &'a NewEvent)> + 'a {
        batch.iter().zip(&self.outcomes).filter_map(|(append, outcome)| match outcome {
            outcome if outcome.schedules() => Some((append.schedule?, append.events.first()?)),
            _ => None,
        })
    }

    /// The new events of `batch` as they are stored, in order.
    pub fn events<'a>(&'a self, batch: &'a [&Append]) -> impl Iterator<Item = &'a NewEvent> + 'a {
        let mut changes = self.changed.events.iter();
        let of_change =
            move |event: &'a NewEvent| if event.change.is_some() { changes.next().unwrap_or(event) } else { event };
        self.select(batch.iter().flat_map(|append| &append.events)).map(of_change)
    }

    /// The same, moved out of the requests.
    pub fn take_events<'a>(
        &'a self,
        changes: &'a mut VecDeque<NewEvent>,
        batch: impl Iterator<Item = NewEvent> + 'a,
    ) -> impl Iterator<Item = NewEvent> + 'a {
        let of_change =
            |event: NewEvent| if event.change.is_some() { changes.pop_front().unwrap_or(event) } else { event };
        self.select(batch).map(of_change)
    }

    /// Those of `batch` that are new, in order.
    fn select<'a, T>(&'a self, batch: impl Iterator<Item = T> + 'a) -> impl Iterator<Item = T> + 'a {
        batch.enumerate().filter(|(at, _)| self.fresh.get(*at).is_none_or(|fresh| *fresh)).map(|(_, event)| event)
    }
}

/// The ids that a key has if its event was scheduled, and so had no id.
const SCHEDULED: (EventId, EventId) = (0, 0);

struct Planner<'a> {
    known: HashMap<ByteString, KeyUse>,
    /// The keys of the present request. Its later events know them; they are discarded if the request is refused.
    staged: Vec<KeyUse>,
    last: EventId,
    /// The date of new events.
    at: Timestamp,
    changes: Changes,
    refusals: Refusals,
    catalogue: &'a Catalogue,
    plan: Plan,
}

impl Planner<'_> {
    fn decide(&mut self, append: &Append) {
        let (last, decided) = (self.last, self.plan.fresh.len());
        let outcome = match append.schedule {
            Some(schedule) => self.schedule(append, schedule.id),
            None => self.whole(append).unwrap_or_else(|| self.each(append)),
        };
        let outcome = self.admitted(append, outcome, decided);
        let outcome = self.judged(append, outcome, decided);
        use AppendOutcome::{KeyReused, Maintenance, Refused, Unmet};
        if let KeyReused { .. } | Unmet(_) | Maintenance | Refused(_) = outcome {
            self.changes.undo();
            for used in self.staged.drain(..) {
                self.known.remove(&used.key);
            }
            self.last = last;
            self.plan.fresh.truncate(decided);
        }
        self.changes.keep();
        if !outcome.appends() {
            self.plan.fresh.resize(decided + append.events.len(), false);
        }
        self.plan.keys.append(&mut self.staged);
        self.plan.outcomes.push(outcome);
    }

    /// The outcome of a request, unless the state of the system refuses it. A repetition is answered as before.
    fn admitted(&mut self, append: &Append, outcome: AppendOutcome, decided: usize) -> AppendOutcome {
        use AppendOutcome::{Changed, Maintenance, Scheduled, Stored, Unmet};
        let Self { refusals, plan, .. } = self;
        let is_judged = matches!(outcome, Stored { .. } | Changed(_) | Unmet(_) | Scheduled { replayed: false, .. });
        let is_new = |at: usize| plan.fresh.get(decided + at).is_none_or(|fresh| *fresh);
        if !is_judged || refusals.is_empty() || !refusals.has(append, is_new) {
            return outcome;
        }
        refusals.note(append, &Maintenance);
        Maintenance
    }

    /// The outcome of a request, unless the catalogue refuses it. What an older one has judged is judged again (CT-2). A
    /// repetition is answered as before (CT-3).
    fn judged(&mut self, append: &Append, outcome: AppendOutcome, decided: usize) -> AppendOutcome {
        use AppendOutcome::{Observed, Refused, Unmet};
        let Some(judgement) = &append.judgement else { return outcome };
        if !(outcome.appends() || outcome.schedules() || matches!(outcome, Unmet(_))) {
            return outcome;
        }
        let again;
        let judgement = if judgement.generation == self.catalogue.generation() {
            judgement
        } else {
            again = self.catalogue.judge(append);
            &again
        };
        let is_new = |at: usize| self.plan.fresh.get(decided + at).is_none_or(|fresh| *fresh);
        let findings: Vec<_> = judgement.findings.iter().filter(|(at, _)| is_new(*at)).collect();
        if findings.iter().any(|(_, finding)| finding.refuses) {
            let item = |at: usize| append.events[..=at].iter().filter(|event| !event.follows()).count() - 1;
            let refused = findings.iter().filter(|(_, finding)| finding.refuses);
            return Refused(refused.map(|(at, finding)| (item(*at), finding.clone())).collect());
        }
        if findings.is_empty() || matches!(outcome, Unmet(_)) {
            return outcome;
        }
        let findings = findings.into_iter().map(|(_, finding)| finding.clone()).collect();
        Observed { outcome: Box::new(outcome), findings }
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
        let mut changes = RequestChanges::default();
        let mut events = append.events.iter().peekable();
        let mut next_index = 0..;
        while let Some((event, index)) = events.next().zip(next_index.next()) {
            let change = events.next_if(|next| next.change.as_ref().is_some_and(|change| change.follows));
            match self.stage(event, change.is_some()) {
                Ok(None) => {
                    let first = self.last - EventId::from(change.is_some());
                    changes.make(self, index, event, first);
                    if let Some(change) = change {
                        changes.make(self, index, change, first + 1);
                    }
                }
                Ok(Some((first, last))) => {
                    replayed += 1;
                    old = Some(old.map_or((first, last), |(f, l)| (f.min(first), l.max(last))));
                    changes.ids.push(first);
                    changes.ids.extend(change.map(|_| last));
                }
                Err(KeyConflict) => return AppendOutcome::KeyReused { index },
            }
        }
        if !changes.unmet.is_empty() {
            return AppendOutcome::Unmet(changes.unmet.into());
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
                _ => {}
            }
        }
        if changes.made == 0 {
            return outcome;
        }
        let RequestChanges { ids, made, previous, .. } = changes;
        AppendOutcome::Changed(Box::new(ChangedOutcome { ids, changes: made, previous, at: self.at, replayed }))
    }

    /// Gives the event the next id, and the change that follows it the one after it. If its key was used before,
    /// returns the ids of that use instead.
    fn stage(&mut self, event: &NewEvent, is_followed: bool) -> Result<Option<(EventId, EventId)>, KeyConflict> {
        let old = event.idempotency.as_ref().and_then(|i| self.find(i)).transpose()?;
        self.plan.fresh.extend(std::iter::repeat_n(old.is_none(), 1 + usize::from(is_followed)));
        if old.is_none() {
            let first = self.last + 1;
            self.last = first + EventId::from(is_followed);
            if let Some(idempotency) = &event.idempotency {
                self.learn(idempotency, first, self.last);
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

/// What one request changes.
#[derive(Default)]
struct RequestChanges {
    /// How many were made.
    made: u32,
    /// The ids of its events.
    ids: Vec<EventId>,
    /// The version before the last change.
    previous: Option<EventId>,
    unmet: Vec<(usize, Unmet)>,
}

impl RequestChanges {
    /// The event at `index` gets an id, and makes its change, if it is one.
    fn make(&mut self, planner: &mut Planner<'_>, index: usize, event: &NewEvent, id: EventId) {
        self.ids.push(id);
        let Some(change) = &event.change else { return };
        match planner.changes.make(event, change, id) {
            Ok(previous) => {
                self.made += 1;
                self.previous = previous;
            }
            Err(unmet) => self.unmet.push((index, unmet)),
        }
    }
}

/// The key was used for a different request.
struct KeyConflict;
