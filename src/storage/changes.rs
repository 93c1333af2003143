//! Decides on the changes of entities in a batch: each sees the effects of those before it.
//!
//! - *CS-1* Changes of an entity are linearizable: each is decided at one moment between its request and its answer, in
//!   the order of the log, and whoever reads or is refused sees what was there at such a moment.

use std::collections::HashMap;

use bytestring::ByteString;

use crate::domain::entity::{Change, EntityId, EntityType, Op, Unmet, judge};
use crate::domain::event::{EventId, NewEvent};

/// What the store has of the entities that a batch changes, and of their types.
#[derive(Debug, Default)]
pub(super) struct KnownEntities {
    /// The version of each that is there.
    pub versions: HashMap<EntityId, EventId>,
    /// How many entities of the types in question there are.
    pub counts: HashMap<EntityType, i64>,
    /// How many types there are in all.
    pub types: usize,
}

/// An entity after the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntityRow {
    pub version: EventId,
    /// None if it was deleted.
    pub value: Option<ByteString>,
}

/// The state of the entities while the requests of a batch are decided.
#[derive(Debug, Default)]
pub(super) struct Changes {
    known: KnownEntities,
    max_types: usize,
    /// What the batch has written so far.
    rows: HashMap<EntityId, EntityRow>,
    /// What the present request has replaced: it is put back if the request is refused.
    replaced: Vec<(EntityId, Option<EntityRow>)>,
    /// The events of the changes, in order.
    events: Vec<NewEvent>,
}

/// What a batch changes.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// The events of the changes, in order, as they are stored.
    pub events: Vec<NewEvent>,
    pub rows: HashMap<EntityId, EntityRow>,
    /// How many entities each type has then, where that number changes.
    pub counts: Vec<(EntityType, i64)>,
}

impl Changes {
    pub fn new(known: KnownEntities, max_types: usize) -> Self {
        Self { known, max_types, ..Self::default() }
    }

    /// Makes the change of `event`, which gets the id `id`. Returns the version before it.
    pub fn make(&mut self, event: &NewEvent, change: &Change, id: EventId) -> Result<Option<EventId>, Unmet> {
        let Change { entity, op, precondition, .. } = change;
        let current = self.current(entity);
        judge(*op, precondition, current).map_err(|unmet| match unmet {
            // What this request would have made of it is undone with it.
            Unmet::Version(_) => Unmet::Version(self.before_request(entity)),
            other => other,
        })?;
        let value = (*op == Op::Put).then(|| event.payload.clone());
        if value.is_some() && current.is_none() {
            let is_new = self.known.counts.get(&entity.kind).is_none_or(|count| *count == 0);
            if is_new && self.known.types >= self.max_types {
                return Err(Unmet::TooManyTypes);
            }
        }
        let payload = change.payload(current, &event.payload);
        self.events.push(NewEvent { payload, change: None, ..event.clone() });
        let replaced = self.set(entity, Some(EntityRow { version: id, value }));
        self.replaced.push((entity.clone(), replaced));
        Ok(current)
    }

    /// The request is stored.
    pub fn keep(&mut self) {
        self.replaced.clear();
    }

    /// The request is refused: nothing of it was done.
    pub fn undo(&mut self) {
        self.events.truncate(self.events.len() - self.replaced.len());
        while let Some((entity, row)) = self.replaced.pop() {
            self.set(&entity, row);
        }
    }

    /// All that was changed.
    pub fn finish(self) -> Changed {
        let Self { known, rows, events, .. } = self;
        let mut counts: Vec<_> = known.counts.into_iter().collect();
        counts.retain(|(kind, _)| rows.keys().any(|entity| entity.kind == *kind));
        Changed { events, rows, counts }
    }

    fn current(&self, entity: &EntityId) -> Option<EventId> {
        match self.rows.get(entity) {
            Some(EntityRow { version, value }) => value.is_some().then_some(*version),
            None => self.known.versions.get(entity).copied(),
        }
    }

    /// The version before the present request.
    fn before_request(&self, entity: &EntityId) -> Option<EventId> {
        match self.replaced.iter().find(|(replaced, _)| replaced == entity) {
            Some((_, Some(EntityRow { version, value }))) => value.is_some().then_some(*version),
            Some((_, None)) => self.known.versions.get(entity).copied(),
            None => self.current(entity),
        }
    }

    /// Replaces what the batch has written of an entity, and counts.
    fn set(&mut self, entity: &EntityId, row: Option<EntityRow>) -> Option<EntityRow> {
        let was_there = self.current(entity).is_some();
        let replaced = match row {
            Some(row) => self.rows.insert(entity.clone(), row),
            None => self.rows.remove(entity),
        };
        let delta = i64::from(self.current(entity).is_some()) - i64::from(was_there);
        let count = self.known.counts.entry(entity.kind.clone()).or_default();
        let before = std::mem::replace(count, *count + delta);
        match (before, *count) {
            (0, 1) => self.known.types += 1,
            (1, 0) => self.known.types = self.known.types.saturating_sub(1),
            _ => {}
        }
        replaced
    }
}
