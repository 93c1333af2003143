//! What becomes of reads that fail: counted, logged, and tried again until the store can be read.

use std::sync::{Arc, Mutex, PoisonError};

use super::connection::Connection;
use super::error::{StoreError, StoreErrorKind};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// The read that failed, to be done again; what it finds is dropped.
type FailedRead = Box<dyn FnMut(&mut Connection) -> Result<(), StoreError> + Send>;

/// Told by readers of what fails; clones share it.
///
/// *RD-1* From the first read that fails because of the store until that same read has succeeded, the store does not
/// count as well: one damaged page fails some reads, and no others.
#[derive(Clone)]
pub struct ReadWatch {
    health: Arc<StoreHealth>,
    metrics: Arc<Metrics>,
    failed: Arc<Mutex<Option<FailedRead>>>,
}

impl ReadWatch {
    pub fn new(health: Arc<StoreHealth>, metrics: Arc<Metrics>) -> Self {
        Self { health, metrics, failed: Arc::default() }
    }

    /// A read has failed; `again` does the same once more.
    pub(super) fn failed(
        &self,
        error: &StoreError,
        again: impl FnMut(&mut Connection) -> Result<(), StoreError> + Send + 'static,
    ) {
        self.metrics.store_read_errors.with_label_values(&[error.kind.as_str()]).inc();
        let is_of_the_store = match error.kind {
            StoreErrorKind::Full
            | StoreErrorKind::ReadOnly
            | StoreErrorKind::Locked
            | StoreErrorKind::Corrupt
            | StoreErrorKind::Unavailable
            | StoreErrorKind::Unusable => true,
            // What one caller has asked for may be the cause: it says nothing of what others read.
            StoreErrorKind::Busy | StoreErrorKind::Invalid | StoreErrorKind::Internal => false,
        };
        if !is_of_the_store {
            log::warn!(reason = error.kind.as_str(), error:%; "a read of the store failed");
            return;
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.health.is_readable() {
            log::error!(reason = error.kind.as_str(), error:%; "the store cannot be read");
        } else {
            log::debug!(reason = error.kind.as_str(), error:%; "the store cannot be read");
        }
        self.health.set_unreadable(error.as_last_error());
        failed.get_or_insert_with(|| Box::new(again));
    }

    /// The read that is to be tried again; to be followed by [`Self::retried`].
    pub(super) fn take_failed(&self) -> Option<FailedRead> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How the failed has done. Another one may have failed meanwhile: its turn comes.
    pub(super) fn retried(&self, again: FailedRead, outcome: Result<(), StoreError>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) if failed.is_none() => {
                self.health.set_readable();
                log::info!("the store can be read again");
            }
            Ok(()) => {}
            Err(error) => {
                if error.kind != StoreErrorKind::Busy {
                    self.metrics.store_read_errors.with_label_values(&[error.kind.as_str()]).inc();
                    self.health.set_unreadable(error.as_last_error());
                }
                failed.get_or_insert(again);
            }
        }
    }
}
