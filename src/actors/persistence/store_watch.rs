//! The writer's connection to the store: opened, checked, and given up after a failure until the store works again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::messages::AppendFailure;
use crate::actors::log_position::LogPosition;
use crate::actors::remembered::Remembered;
use crate::domain::event::LogBounds;
use crate::storage::{StoreError, StoreErrorKind, StoreOptions, Writer};
use crate::telemetry::health::{StoreHealth, Unusable};
use crate::telemetry::metrics::Metrics;

/// How often a working store is checked.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the start waits for what Redis remembers of the log.
const REDIS_PATIENCE: Duration = Duration::from_secs(1);

/// The writer while the store works, and the last error while it does not.
pub struct StoreWatch {
    options: StoreOptions,
    /// What is waited for when the store is opened for the first time.
    remembered: Option<Arc<Remembered>>,
    health: Arc<StoreHealth>,
    metrics: Arc<Metrics>,
    writer: Option<Writer>,
    last_error: Option<StoreError>,
    next_probe: Instant,
}

impl StoreWatch {
    /// A watch over a store that is still to be opened.
    pub fn new(
        options: StoreOptions,
        remembered: Option<Arc<Remembered>>,
        health: Arc<StoreHealth>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { options, remembered, health, metrics, writer: None, last_error: None, next_probe: Instant::now() }
    }

    /// The writer, or why there is none now. Never blocks: [`Self::check`] tries the store.
    pub fn writer(&mut self) -> Result<&mut Writer, AppendFailure> {
        match (&self.last_error, &mut self.writer) {
            (None, Some(writer)) => Ok(writer),
            (Some(error), _) => Err(AppendFailure::StoreUnavailable(error.kind.meaning())),
            (None, None) => Err(AppendFailure::StoreUnavailable("it has not been opened yet")),
        }
    }

    /// Judges the failure of a request. If the store still works, the request was at fault.
    pub fn judge(&mut self, error: StoreError) -> AppendFailure {
        let may_be_of_data = matches!(error.kind, StoreErrorKind::Invalid | StoreErrorKind::Internal);
        if may_be_of_data && self.writer.as_mut().is_some_and(|writer| writer.probe().is_ok()) {
            return self.refused(&error);
        }
        self.failed(error)
    }

    /// The store works, but cannot hold what the request asks for.
    pub fn refused(&mut self, error: &StoreError) -> AppendFailure {
        self.metrics.store_errors.with_label_values(&[StoreErrorKind::Invalid.as_str()]).inc();
        log::warn!(error:%; "the store is well, and refuses a request");
        AppendFailure::Unstorable
    }

    /// Notes a failure of the store. Every request is refused from now on until [`Self::check`] finds that the store
    /// works.
    pub fn failed(&mut self, error: StoreError) -> AppendFailure {
        self.metrics.store_errors.with_label_values(&[error.kind.as_str()]).inc();
        if error.kind == StoreErrorKind::Unusable {
            // This ends the process, which logs the reason.
            self.health.set_unusable(Unusable::Store(error.message.clone()));
        } else if self.last_error.as_ref().map(|a| a.kind) != Some(error.kind) {
            log::error!(reason = error.kind.as_str(), error:% = error; "store unavailable, publishes are refused until it works again");
        }
        let meaning = error.kind.meaning();
        self.health.set_down(error.as_last_error());
        self.last_error = Some(error);
        AppendFailure::StoreUnavailable(meaning)
    }

    /// Opens the store if it is not open, tries a failing one, and checks a working one from time to time. Returns the
    /// bounds of the log whenever they were read; `position` has them before the store counts as up.
    pub fn check(&mut self, position: &LogPosition) -> Option<LogBounds> {
        let was_well = self.writer.is_some() && self.last_error.is_none();
        if was_well && Instant::now() < self.next_probe {
            return None;
        }
        self.next_probe = Instant::now() + PROBE_INTERVAL;
        // The position also outlives a writer that failed.
        self.options.create = position.get().is_none();
        match self.try_store(was_well, position) {
            Ok(bounds) => {
                if let Some(writer) = &mut self.writer {
                    position.learn_of(writer);
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
                let writer = self.writer.insert(Writer::resume(self.options.clone(), position.seen())?);
                if let Some(remembered) = self.remembered.take() {
                    // By these Redis is asked.
                    position.learn_of(writer);
                    match remembered.wait(REDIS_PATIENCE) {
                        Some(seen) => seen.map_or(Ok(()), |seen| writer.recall(seen))?,
                        None => log::warn!(
                            "redis does not say how far the log was shown: if the store was set back while nobody ran, that is noticed once it answers"
                        ),
                    }
                }
                writer
            }
        };
        position.seen().into_iter().for_each(|seen| writer.learn(seen));
        if !was_well {
            writer.probe()?;
        }
        writer.bounds()
    }
}
