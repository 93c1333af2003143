//! Counts and logs failed reads, and retries one until the store can be read.

use std::sync::{Arc, Mutex, PoisonError};

use super::connection::Connection;
use super::error::{StoreError, StoreErrorKind};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// The failed read as a closure that repeats it and drops its result.
type FailedRead = Box<dyn FnMut(&mut Connection) -> Result<(), StoreError> + Send>;

/// Readers report failed reads to it. Clones share its state.
///
/// *RD-1* When a read fails because of the store, the store counts as unreadable until that same read has succeeded.
/// Another read would prove nothing: a damaged page fails only the reads that touch it.
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

    /// The metrics of the process.
    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The health of the store.
    pub(super) fn health(&self) -> Arc<StoreHealth> {
        Arc::clone(&self.health)
    }

    /// Reports a failed read. `again` repeats it.
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
            // The content of one request may be the cause, so the store itself may be readable.
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

    /// Takes the failed read to repeat it. The caller must report the outcome to [`Self::retried`].
    pub(super) fn take_failed(&self) -> Option<FailedRead> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reports the outcome of a repeated read. If another read has failed in between, that one is repeated next.
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
