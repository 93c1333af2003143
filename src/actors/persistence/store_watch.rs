//! The writer's connection to the store through its illnesses: opened, failed, proven well again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::messages::AppendFailure;
use crate::actors::log_position::LogPosition;
use crate::domain::event::LogBounds;
use crate::storage::{self, StoreError, StoreErrorKind, StoreOptions, Writer};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// How often a store that seems well is asked.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Holds the writer while the store is well, and the reason while it is not.
pub struct StoreWatch {
    options: StoreOptions,
    health: Arc<StoreHealth>,
    metrics: Arc<Metrics>,
    writer: Option<Writer>,
    last_error: Option<StoreError>,
    next_probe: Instant,
}

impl StoreWatch {
    /// A store that is still to be opened.
    pub fn new(options: StoreOptions, health: Arc<StoreHealth>, metrics: Arc<Metrics>) -> Self {
        Self { options, health, metrics, writer: None, last_error: None, next_probe: Instant::now() }
    }

    /// The writer, or why there is none now. Never blocks: [`Self::check`] does the trying.
    pub fn writer(&mut self) -> Result<&mut Writer, AppendFailure> {
        match (&self.last_error, &mut self.writer) {
            (None, Some(writer)) => Ok(writer),
            (Some(error), _) => Err(AppendFailure::StoreUnavailable(error.kind.meaning())),
            (None, None) => Err(AppendFailure::StoreUnavailable("it has not been opened yet")),
        }
    }

    /// Judges the failure of what somebody has asked for: if the store still commits, it is no last_error.
    pub fn judge(&mut self, error: StoreError) -> AppendFailure {
        let may_be_of_data = matches!(error.kind, StoreErrorKind::Invalid | StoreErrorKind::Internal);
        if may_be_of_data && self.writer.as_mut().is_some_and(|writer| writer.probe().is_ok()) {
            return self.refused(&error);
        }
        self.failed(error)
    }

    /// The store is well, and cannot hold what somebody has asked for.
    pub fn refused(&mut self, error: &StoreError) -> AppendFailure {
        self.metrics.store_errors.with_label_values(&[StoreErrorKind::Invalid.as_str()]).inc();
        log::warn!(error:%; "the store is well, and refuses a request");
        AppendFailure::Unstorable
    }

    /// Takes note of a failure: from now on everything is refused until [`Self::check`] finds the store well.
    pub fn failed(&mut self, error: StoreError) -> AppendFailure {
        self.metrics.store_errors.with_label_values(&[error.kind.as_str()]).inc();
        if error.kind == StoreErrorKind::Unusable {
            // Ends the process, which tells it.
            self.health.set_unusable(&error.message);
        } else if self.last_error.as_ref().map(|a| a.kind) != Some(error.kind) {
            log::error!(reason = error.kind.as_str(), error:% = error; "store unavailable, publishes are refused until it works again");
        }
        let meaning = error.kind.meaning();
        self.health.set_down(error.as_last_error());
        self.last_error = Some(error);
        AppendFailure::StoreUnavailable(meaning)
    }

    /// Opens the store if it is not open, tries an ailing one, and asks a well one now and then.
    /// Returns the log's bounds whenever it has asked for them; `position` has them before the store counts as up.
    pub fn check(&mut self, position: &LogPosition) -> Option<LogBounds> {
        let was_well = self.writer.is_some() && self.last_error.is_none();
        if was_well && Instant::now() < self.next_probe {
            return None;
        }
        self.next_probe = Instant::now() + PROBE_INTERVAL;
        // Also known to a writer that takes over from one that failed.
        self.options.create = position.get().is_none();
        match self.try_store(was_well, position) {
            Ok(bounds) => {
                if let Some(writer) = &self.writer {
                    position.set_seen(writer.seen());
                    writer.log().into_iter().for_each(|log| position.set_log_id(log));
                }
                position.set(bounds);
                if !was_well {
                    self.last_error = None;
                    self.health.set_up();
                    log::info!(earliest_id = bounds.earliest, last_id = bounds.last; "store ready");
                }
                Some(bounds)
            }
            Err(mut error) => {
                if position.get().is_none() && error.stops_start(&self.options.url) {
                    error.kind = StoreErrorKind::Unusable;
                }
                self.failed(error);
                None
            }
        }
    }

    fn try_store(&mut self, was_well: bool, position: &LogPosition) -> Result<LogBounds, StoreError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let applied = storage::migrate(&self.options)?;
                if !applied.is_empty() {
                    log::info!(count = applied.len(); "migrations applied");
                }
                self.writer.insert(Writer::resume(self.options.clone(), position.seen())?)
            }
        };
        if !was_well {
            writer.probe()?;
        }
        writer.bounds()
    }
}
