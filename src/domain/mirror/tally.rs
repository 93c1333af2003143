//! The digest of what Redis has, made while the log is being followed, and which buckets may differ from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::domain::entity::{Buckets, EntityId, EntityType, MAX_BUCKETS, Mark, Version};

/// About how many entities are in a bucket.
const PER_BUCKET: u64 = 64;
/// Fewest and most buckets of a type.
const BUCKETS: (u32, u32) = (16, 4096);
/// Types beyond those that the store has. What there is of further ones is found by the next comparison.
const MAX_UNKNOWN: usize = 10_000;

/// What was found in Redis so far.
#[derive(Debug)]
pub struct Tally {
    types: BTreeMap<EntityType, OfType>,
    max_types: usize,
    /// The last one that was compared, in their order. What changes of it and of those before it afterwards is written as
    /// it is in the store, and changes nothing in what was found.
    compared: Option<EntityType>,
}

#[derive(Debug)]
struct OfType {
    found: Buckets,
    /// Buckets of entities that were changed meanwhile: whether they were found before that, nobody knows.
    changed: BTreeSet<u32>,
}

impl OfType {
    fn new(count: u64) -> Self {
        let buckets = u32::try_from(count / PER_BUCKET).unwrap_or(MAX_BUCKETS).clamp(BUCKETS.0, BUCKETS.1);
        Self { found: Buckets::new(buckets.next_power_of_two()), changed: BTreeSet::new() }
    }

    fn bucket(&self, id: &EntityId) -> u32 {
        Mark::slot(id.key.as_str()) & (self.buckets() - 1)
    }

    fn buckets(&self) -> u32 {
        self.found.sums.len() as u32
    }
}

/// Buckets that are to be compared entity by entity.
#[derive(Debug, Default)]
pub struct Suspects {
    /// How many buckets each type has, and which it is about.
    types: BTreeMap<EntityType, (u32, BTreeSet<u32>)>,
}

impl Tally {
    /// Nothing yet. The store has these types, each of about so many entities.
    pub fn new(types: Vec<(EntityType, i64)>) -> Self {
        let types: BTreeMap<_, _> =
            types.into_iter().map(|(kind, count)| (kind, OfType::new(u64::try_from(count).unwrap_or(0)))).collect();
        let max_types = types.len() + MAX_UNKNOWN;
        Self { types, max_types, compared: None }
    }

    /// Redis has this version of the entity.
    pub fn found(&mut self, id: &EntityId, version: Version) {
        if let Some(of) = self.of(&id.kind) {
            of.found.insert(Mark::of(id.key.as_str(), version));
        }
    }

    /// The entity was changed, or cannot be compared by its version.
    pub fn changed(&mut self, id: &EntityId) {
        if let Some(of) = self.of(&id.kind) {
            of.changed.insert(of.bucket(id));
        }
    }

    fn of(&mut self, kind: &EntityType) -> Option<&mut OfType> {
        if !self.types.contains_key(kind) {
            if self.types.len() >= self.max_types {
                return None;
            }
            self.types.insert(kind.clone(), OfType::new(0));
        }
        self.types.get_mut(kind)
    }

    /// A type that is to be compared yet, with its number of buckets.
    pub fn next(&self) -> Option<(EntityType, u32)> {
        let after = self.compared.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        self.types.range((after, Bound::Unbounded)).next().map(|(kind, of)| (kind.clone(), of.buckets()))
    }

    /// Compares a type with the store.
    pub fn compare(&mut self, kind: &EntityType, stored: &Buckets, suspects: &mut Suspects) {
        let Some(of) = self.types.get(kind) else { return };
        self.compared = Some(kind.clone());
        let differs = |bucket: &u32| {
            let at = *bucket as usize;
            of.found.sums[at] != stored.sums[at] || of.changed.contains(bucket)
        };
        let found: BTreeSet<u32> = (0..of.buckets()).filter(differs).collect();
        if !found.is_empty() {
            suspects.types.insert(kind.clone(), (of.buckets(), found));
        }
    }
}

impl Suspects {
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Whether the entity is in one of them.
    pub fn has(&self, id: &EntityId) -> bool {
        let of = self.types.get(&id.kind);
        of.is_some_and(|(buckets, of)| of.contains(&(Mark::slot(id.key.as_str()) & (buckets - 1))))
    }

    /// The first one after `after`: its type, how many buckets that has, and which it is.
    pub fn next(&self, after: Option<&(EntityType, u32, u32)>) -> Option<(EntityType, u32, u32)> {
        let (from, of_it) = match after {
            None => (self.types.range::<EntityType, _>(..), None),
            Some((kind, _, bucket)) => (self.types.range(kind..), Some((kind, *bucket))),
        };
        from.flat_map(|(kind, (buckets, of))| of.iter().map(move |bucket| (kind, *buckets, *bucket)))
            .find(|(kind, _, bucket)| of_it.is_none_or(|(last, done)| *kind != last || *bucket > done))
            .map(|(kind, buckets, bucket)| (kind.clone(), buckets, bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::super::entity;
    use super::*;

    fn id(key: &str) -> EntityId {
        entity("t", key).expect("an entity")
    }

    fn walk(suspects: &Suspects) -> Vec<u32> {
        let mut found: Vec<(EntityType, u32, u32)> = Vec::new();
        while let Some(next) = suspects.next(found.last()) {
            found.push(next);
        }
        found.into_iter().map(|(_, _, bucket)| bucket).collect()
    }

    /// Entities k0, k1, …, all of the version 1, but for what `alter` does to Redis.
    fn compared(alter: impl Fn(&mut Tally)) -> Suspects {
        let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
        let mut tally = Tally::new(vec![(id("k").kind, 200)]);
        let mut stored = Buckets::new(16);
        for key in &keys {
            stored.insert(Mark::of(key, 1));
            tally.found(&id(key), 1);
        }
        alter(&mut tally);
        let mut suspects = Suspects::default();
        while let Some((kind, buckets)) = tally.next() {
            let stored = if kind.as_str() == "t" { stored.clone() } else { Buckets::new(buckets) };
            tally.compare(&kind, &stored, &mut suspects);
        }
        suspects
    }

    #[test]
    fn equal_ones_are_found_equal() {
        assert!(compared(|_| {}).is_empty());
    }

    #[test]
    fn the_bucket_of_what_differs_or_was_changed_is_suspect() {
        let of = |key| vec![Mark::slot(key) & 15];
        // Once more is once less: exclusive or.
        assert_eq!(walk(&compared(|tally| tally.found(&id("k7"), 1))), of("k7"), "missing");
        assert_eq!(walk(&compared(|tally| tally.found(&id("x"), 1))), of("x"), "extra");
        let altered = compared(|tally| [1, 2].into_iter().for_each(|version| tally.found(&id("k9"), version)));
        assert_eq!(walk(&altered), of("k9"));
        let changed = compared(|tally| tally.changed(&id("k3")));
        assert_eq!(walk(&changed), of("k3"));
        assert!(changed.has(&id("k3")) && !changed.has(&entity("u", "k3").expect("an entity")));
        let unknown = compared(|tally| tally.found(&entity("u", "k").expect("an entity"), 1));
        assert!(unknown.has(&entity("u", "k").expect("an entity")));
        let several = compared(|tally| ["k1", "k2", "k3"].iter().for_each(|key| tally.changed(&id(key))));
        let expected: BTreeSet<u32> = ["k1", "k2", "k3"].iter().flat_map(|key| of(key)).collect();
        assert_eq!(walk(&several), Vec::from_iter(expected));
    }

    #[test]
    fn a_change_after_its_type_was_compared_leaves_what_was_found() {
        let mut tally = Tally::new(vec![(id("k").kind, 2)]);
        ["k1", "k2"].iter().for_each(|key| tally.found(&id(key), 1));
        let mut suspects = Suspects::default();
        for turn in 0..3 {
            let Some((kind, buckets)) = tally.next() else { break };
            assert_eq!(turn, 0, "it is compared once");
            tally.compare(&kind, &Buckets::new(buckets), &mut suspects);
            tally.changed(&id("k3"));
        }
        let expected: BTreeSet<u32> = ["k1", "k2"].iter().map(|key| Mark::slot(key) & 15).collect();
        assert_eq!(walk(&suspects), Vec::from_iter(expected));
    }

    #[test]
    fn large_types_have_more_buckets() {
        let buckets = |count| OfType::new(count).buckets();
        assert_eq!([0, 1023, 1025, 3000, 1 << 20, u64::MAX].map(buckets), [16, 16, 16, 64, 4096, 4096]);
    }
}
