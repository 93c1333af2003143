//! How the parts of the bus are: told once per change, and when each is tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bus::BusError;
use crate::domain::retry::{RetryDelays, RetrySchedule, RetryVerdict};
use crate::runtime::stop::Stop;
use crate::telemetry::bus_health::{BusHealth, BusState};
use crate::telemetry::last_error::LastError;
use crate::telemetry::metrics::Metrics;

/// A part that has worked for this long is tried again at once when it fails.
const CALM: Duration = Duration::from_secs(10);

/// What all parts share.
#[derive(Clone)]
pub struct Standing {
    pub health: Arc<BusHealth>,
    pub metrics: Arc<Metrics>,
}

impl Standing {
    /// The part works.
    pub fn up(&self, part: &'static str) {
        self.set(part, None);
    }

    /// The part does not work.
    pub fn down(&self, part: &'static str, error: &BusError) {
        let BusError { reason, message } = error;
        self.set(part, Some(LastError { kind: reason.as_str(), meaning: reason.meaning(), message: message.clone() }));
    }

    fn set(&self, part: &'static str, trouble: Option<LastError>) {
        let changed = self.health.set(part, trouble);
        self.metrics.bus_up.set(self.health.is_up().into());
        match changed {
            None => {}
            Some(BusState::Up) => log::info!("redis is up"),
            Some(BusState::Down(part, LastError { kind, message, .. })) => {
                log::warn!(part, reason = kind, error = message.as_str(); "redis is down");
            }
        }
    }
}

/// Has a part run until it is to stop. After a failure it begins anew, later each time.
pub async fn keep<E>(part: &'static str, standing: &Standing, stop: &Stop, mut run: E)
where
    E: AsyncFnMut() -> Result<(), BusError>,
{
    let schedule = RetrySchedule {
        delays: RetryDelays::Exponential { base: Duration::from_millis(200), cap: Duration::from_secs(3) },
        max_attempts: u32::MAX,
        retry_after_cap: Duration::ZERO,
    };
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let Err(error) = run().await else { return };
        standing.down(part, &error);
        failures = if begun.elapsed() >= CALM { 1 } else { failures + 1 };
        let delay = match schedule.next(failures, None, rand::random()) {
            RetryVerdict::After(delay) => delay,
            RetryVerdict::Exhausted => Duration::ZERO,
        };
        if stop.or(tokio::time::sleep(delay)).await.is_none() {
            return;
        }
    }
}
