//! The filters that are found at one field, by what they ask for there.

use std::collections::{BTreeMap, HashMap};

use super::scan::Scalar;

/// Stable handle of a filter in a [`FilterSet`](super::FilterSet) while it is in use.
pub type FilterId = usize;

/// By what a filter is found at a field.
#[derive(Debug)]
pub(super) enum Key {
    Equals(Scalar<'static>),
    Prefix(Box<str>),
    Present,
}

/// The filters that are found at one field.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    equals: HashMap<Scalar<'static>, Vec<FilterId>>,
    prefixes: HashMap<Box<str>, Vec<FilterId>>,
    /// How many prefixes of each length there are, in bytes.
    lengths: BTreeMap<usize, usize>,
    pub present: Vec<FilterId>,
}

impl Anchors {
    pub fn add(&mut self, keys: &[Key], id: FilterId) {
        for key in keys {
            match key {
                Key::Equals(value) => self.equals.entry(value.clone()).or_default().push(id),
                Key::Prefix(prefix) => {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                    self.prefixes.entry(prefix.clone()).or_default().push(id);
                }
                Key::Present => self.present.push(id),
            }
        }
    }

    pub fn remove(&mut self, keys: &[Key], id: FilterId) {
        for key in keys {
            match key {
                Key::Equals(value) => {
                    if let Some(ids) = self.equals.get_mut(value) {
                        forget(ids, id);
                        if ids.is_empty() {
                            self.equals.remove(value);
                        }
                    }
                }
                Key::Prefix(prefix) => {
                    if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                        *count -= 1;
                        if *count == 0 {
                            self.lengths.remove(&prefix.len());
                        }
                    }
                    if let Some(ids) = self.prefixes.get_mut(prefix) {
                        forget(ids, id);
                        if ids.is_empty() {
                            self.prefixes.remove(prefix);
                        }
                    }
                }
                Key::Present => forget(&mut self.present, id),
            }
        }
    }

    /// Whether it has to be tried with every event that has the field, and next to how many others at most.
    pub fn load(&self, keys: &[Key]) -> (bool, usize) {
        let beside = |key: &Key| match key {
            Key::Equals(value) => (false, self.equals.get(value).map_or(0, Vec::len)),
            Key::Prefix(prefix) => (false, self.prefixes.get(prefix).map_or(0, Vec::len)),
            Key::Present => (true, self.present.len()),
        };
        keys.iter().map(beside).max().unwrap_or_default()
    }

    pub fn probe(&self, scalar: &Scalar<'_>, candidates: &mut Vec<FilterId>) {
        let equals: &HashMap<Scalar<'_>, _> = &self.equals;
        candidates.extend(equals.get(scalar).into_iter().flatten());
        let Scalar::Text(text) = scalar else { return };
        for length in self.lengths.keys().take_while(|length| **length <= text.len()) {
            let ids = text.get(..*length).and_then(|prefix| self.prefixes.get(prefix));
            candidates.extend(ids.into_iter().flatten());
        }
    }
}

pub(super) fn forget(ids: &mut Vec<FilterId>, id: FilterId) {
    if let Some(place) = ids.iter().rposition(|other| *other == id) {
        ids.swap_remove(place);
    }
}
