//! The catalogue of this process, behind an atomic pointer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::domain::catalogue::{Catalogue, Unknown};
use crate::domain::event::Timestamp;
use crate::domain::judgement::Finding;
use crate::domain::pattern::Pattern;

/// An hour in microseconds, and how many make a day.
const HOUR: i64 = 3_600_000_000;
const DAY_HOURS: i64 = 24;

/// The catalogue by which this process judges events, replaced whole.
///
/// Whoever judges may be late: the writer compares the generation with the stored one in the transaction that stores the
/// events. It is the writer that replaces the catalogue, when it finds another generation.
#[derive(Debug)]
pub struct SharedCatalogue {
    present: ArcSwap<Catalogue>,
    /// What was found of each type, by the hour.
    found: Mutex<HashMap<Pattern, VecDeque<(i64, u64)>>>,
}

impl SharedCatalogue {
    /// One without types, which is replaced when the store is opened.
    pub fn new(unknown: Unknown) -> Arc<Self> {
        Arc::new(Self { present: ArcSwap::from_pointee(Catalogue::new(unknown)), found: Mutex::default() })
    }

    pub fn get(&self) -> Arc<Catalogue> {
        self.present.load_full()
    }

    /// Does `work` with the present one, without a lock or a count.
    pub fn with<T>(&self, work: impl FnOnce(&Catalogue) -> T) -> T {
        work(&self.present.load())
    }

    pub(super) fn set(&self, catalogue: Arc<Catalogue>) {
        self.present.store(catalogue);
    }

    /// Takes what was read after `known`, unless there is another one by now.
    pub(super) fn learn(&self, known: &Arc<Catalogue>, read: Arc<Catalogue>) {
        if !Arc::ptr_eq(known, &read) {
            self.present.compare_and_swap(known, read);
        }
    }

    /// Notes violations of a type.
    pub fn note(&self, finding: &Finding, now: Timestamp) {
        let Some((name, _)) = &finding.of else { return };
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let hours = found.entry(name.clone()).or_default();
        let hour = now.0.div_euclid(HOUR);
        match hours.back_mut() {
            Some((last, count)) if *last >= hour => *count += u64::from(finding.count()),
            _ => hours.push_back((hour, finding.count().into())),
        }
        while hours.front().is_some_and(|(first, _)| *first <= hour - DAY_HOURS) {
            hours.pop_front();
        }
    }

    /// How many violations of a type this node has found in the last day.
    pub fn violations(&self, name: &Pattern, now: Timestamp) -> u64 {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.0.div_euclid(HOUR) - DAY_HOURS;
        let hours = found.get(name).into_iter().flatten();
        hours.filter(|(hour, _)| *hour > since).map(|(_, count)| count).sum()
    }
}
