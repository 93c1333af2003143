//! What a client reports to operators.

use actix::prelude::{Context, Handler, MessageResult};
use serde_json::{Value, json};

use super::Client;
use super::messages::ListInFlight;
use crate::domain::event::Timestamp;
use crate::domain::priority::Lane;

/// Deliveries per second since the last tick.
#[derive(Debug, Default)]
pub struct Rate {
    per_second: f64,
    last: Option<(u64, Timestamp)>,
}

impl Rate {
    /// `delivered`: deliveries so far.
    pub fn sample(&mut self, delivered: u64, now: Timestamp) {
        if let Some((before, at)) = self.last {
            let seconds = now.since(at).as_secs_f64().max(0.001);
            self.per_second = (delivered.saturating_sub(before) as f64 / seconds).round();
        }
        self.last = Some((delivered, now));
    }
}

impl Client {
    pub(super) fn report(&self) -> Value {
        let now = self.clock.now();
        let figures = self.dispatcher.figures(now);
        let breaker = figures.breaker;
        let by_lane = |counts: [i64; Lane::COUNT]| -> Value {
            Lane::ALL.into_iter().map(|lane| (lane.as_str().to_owned(), json!(counts[lane.index()]))).collect()
        };
        let pending = self.parts.slot.pending();
        let (in_hand, in_hand_bytes) = self.claims.figures();
        let state = match (self.kept.id().is_some(), self.lease.is_held()) {
            (false, _) => "starting",
            (true, false) => "standby",
            (true, true) if self.dispatcher.is_paused() => "paused",
            (true, true) => "active",
        };
        let (waits_for, next_attempt_at) = self.waiting(now);
        let url = self.parts.service.url.expose();
        json!({
            "service": self.parts.service.name,
            "url": format!("{}{}", url.origin().ascii_serialization(), url.path()),
            "state": state,
            "paused": self.kept.pause(),
            "breaker": {
                "state": breaker.state.as_str(),
                "calls": breaker.window.calls,
                "failures": breaker.window.failures,
                "failure_rate": breaker.window.failure_rate(),
                "slow": breaker.window.slow,
                "slow_rate": breaker.window.slow_rate(),
                "consecutive_failures": breaker.consecutive,
                "openings": breaker.openings,
                "open_until": breaker.open_until.map(|until| self.clock.time_of_day(until).to_string()),
                "probes_in_flight": breaker.probes_in_flight,
            },
            "in_flight": figures.in_flight + self.writes.unsettled(),
            "concurrency": figures.concurrency,
            "pending": pending.iter().sum::<i64>(),
            "pending_by_priority": by_lane(pending),
            "dead": self.parts.slot.dead(),
            "in_hand": in_hand,
            "in_hand_bytes": in_hand_bytes,
            "asks": self.asks.len(),
            "keys_in_hand": figures.keys,
            "keys_parked": self.claims.parked(),
            "waits_for": waits_for,
            "next_attempt_at": next_attempt_at.map(|at| at.to_string()),
            "rate": self.rate.per_second,
            "last_errors": self.attempts.last_errors(),
        })
    }

    /// The state of a service is exported by who delivers to it, so that it is exported once.
    pub(super) fn observe_state(&self) {
        self.metrics.state(self.lease.is_held().then(|| self.dispatcher.breaker().state()));
    }

    pub(super) fn observe_figures(&self) {
        let in_flight = self.dispatcher.in_flight().count() + self.writes.unsettled();
        self.metrics.figures(in_flight, self.parts.slot.pending(), self.parts.slot.dead());
    }
}

impl Handler<ListInFlight> for Client {
    type Result = MessageResult<ListInFlight>;

    fn handle(&mut self, ListInFlight: ListInFlight, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.under_way().filter_map(|id| self.claims.get(id).cloned()).collect())
    }
}
