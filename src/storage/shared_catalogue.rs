//! The catalogue of this process, behind an atomic pointer.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::catalogue::{Catalogue, Unknown};

/// The catalogue by which this process judges events, replaced whole.
///
/// Whoever judges may be late: the writer compares the generation with the stored one in the transaction that stores the
/// events. It is the writer that replaces the catalogue, when it finds another generation.
#[derive(Debug)]
pub struct SharedCatalogue(ArcSwap<Catalogue>);

impl SharedCatalogue {
    /// One without types, which is replaced when the store is opened.
    pub fn new(unknown: Unknown) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Catalogue::new(unknown))))
    }

    pub fn get(&self) -> Arc<Catalogue> {
        self.0.load_full()
    }

    /// Does `work` with the present one, without a lock or a count.
    pub fn with<T>(&self, work: impl FnOnce(&Catalogue) -> T) -> T {
        work(&self.0.load())
    }

    pub(super) fn set(&self, catalogue: Arc<Catalogue>) {
        self.0.store(catalogue);
    }
}
