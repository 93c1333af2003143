//! The metrics of one service, looked up once so that counting needs no look-up.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::metrics::Metrics;
use crate::domain::breaker::BreakerState;
use crate::domain::priority::Lane;

const OUTCOMES: [&str; 5] = ["delivered", "retry", "dead", "gone", "put_off"];
const STATES: [BreakerState; 5] = [
    BreakerState::Closed,
    BreakerState::Open,
    BreakerState::HalfOpen,
    BreakerState::ForcedOpen,
    BreakerState::ForcedClosed,
];

/// The metrics of one service.
#[derive(Debug)]
pub struct ServiceMetrics {
    attempts: [IntCounter; OUTCOMES.len()],
    attempt_duration: Histogram,
    latency: Histogram,
    states: [IntGauge; STATES.len()],
    transitions: [IntCounter; STATES.len()],
    not_permitted: IntCounter,
    in_flight: IntGauge,
    pending: [IntGauge; Lane::COUNT],
    dead: IntGauge,
    oldest: prometheus::Gauge,
}

impl Metrics {
    /// The metrics of `service`, which are exported from now on.
    pub fn service(&self, service: &str) -> ServiceMetrics {
        ServiceMetrics {
            attempts: OUTCOMES.map(|outcome| self.delivery_attempts.with_label_values(&[service, outcome])),
            attempt_duration: self.delivery_attempt_duration.with_label_values(&[service]),
            latency: self.delivery_latency.with_label_values(&[service]),
            states: STATES.map(|state| self.breaker_state.with_label_values(&[service, state.as_str()])),
            transitions: STATES.map(|state| self.breaker_transitions.with_label_values(&[service, state.as_str()])),
            not_permitted: self.deliveries_not_permitted.with_label_values(&[service]),
            in_flight: self.deliveries_in_flight.with_label_values(&[service]),
            pending: Lane::ALL.map(|lane| self.deliveries_pending.with_label_values(&[service, lane.as_str()])),
            dead: self.deliveries_dead.with_label_values(&[service]),
            oldest: self.deliveries_oldest.with_label_values(&[service]),
        }
    }
}

impl ServiceMetrics {
    /// Counts an attempt by its outcome and duration.
    pub fn attempted(&self, outcome: &str, took: Duration) {
        if let Some(at) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.attempts[at].inc();
        }
        self.attempt_duration.observe(took.as_secs_f64());
    }

    /// Records the time from the commit of an event to its delivery.
    pub fn latency(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    /// Exports `state` as the present state of the breaker; `None` if another node exports it.
    pub fn state(&self, state: Option<BreakerState>) {
        for (at, known) in STATES.into_iter().enumerate() {
            self.states[at].set(i64::from(Some(known) == state));
        }
    }

    /// Counts a transition of the breaker to `state`.
    pub fn turned(&self, state: BreakerState) {
        self.state(Some(state));
        if let Some(at) = STATES.iter().position(|known| *known == state) {
            self.transitions[at].inc();
        }
    }

    /// Counts that the breaker has held back a waiting delivery.
    pub fn not_permitted(&self) {
        self.not_permitted.inc();
    }

    /// Deliveries made since the start.
    pub fn delivered(&self) -> u64 {
        self.attempts[0].get()
    }

    pub fn figures(&self, in_flight: usize, pending: [i64; Lane::COUNT], dead: i64) {
        self.in_flight.set(in_flight as i64);
        for lane in Lane::ALL {
            self.pending[lane.index()].set(pending[lane.index()]);
        }
        self.dead.set(dead);
    }

    /// Sets the age of the oldest event that waits for its delivery.
    pub fn oldest(&self, age: Duration) {
        self.oldest.set(age.as_secs_f64());
    }
}
