//! What a client says of itself.

use actix::prelude::{Context, Handler, MessageResult};
use serde_json::{Value, json};

use super::messages::ListInFlight;
use super::{Client, MAILBOX};
use crate::actors::observe::{ActorKind, ActorReport, ActorState, MailboxReport, uptime_seconds};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;

/// Errors that are remembered.
const MAX_ERRORS: usize = 8;

/// A failed attempt, for operators.
pub struct LastError {
    pub at: Timestamp,
    pub event_id: EventId,
    pub error: String,
}

/// Deliveries per second, lately.
#[derive(Debug, Default)]
pub struct Rate {
    per_second: f64,
    last: Option<(u64, Timestamp)>,
}

impl Rate {
    /// So many were delivered by now.
    pub fn sample(&mut self, delivered: u64, now: Timestamp) {
        if let Some((before, at)) = self.last {
            let seconds = now.since(at).as_secs_f64().max(0.001);
            self.per_second = (delivered.saturating_sub(before) as f64 / seconds).round();
        }
        self.last = Some((delivered, now));
    }
}

impl Client {
    pub(super) fn remember_error(&mut self, error: LastError) {
        if self.last_errors.len() >= MAX_ERRORS {
            self.last_errors.pop_front();
        }
        self.last_errors.push_back(error);
    }

    pub(super) fn report(&self) -> ActorReport {
        let now = self.clock.now();
        let figures = self.dispatcher.figures(now);
        let breaker = figures.breaker;
        let by_lane = |counts: [i64; Lane::COUNT]| -> Value {
            Lane::ALL.into_iter().map(|lane| (lane.as_str().to_owned(), json!(counts[lane.index()]))).collect()
        };
        let pending = self.parts.slot.pending();
        let (in_hand, in_hand_bytes) = self.claims.figures();
        let errors: Vec<Value> = self
            .last_errors
            .iter()
            .rev()
            .map(|last| json!({ "at": last.at.to_string(), "event_id": last.event_id, "error": last.error }))
            .collect();
        let state = match (self.id.is_some(), self.is_held) {
            (false, _) => "starting",
            (true, false) => "standby",
            (true, true) if self.dispatcher.is_paused() => "paused",
            (true, true) => "active",
        };
        let url = self.parts.service.url.expose();
        ActorReport {
            name: format!("client/{}", self.parts.service.name),
            kind: ActorKind::Client,
            state: ActorState::Running,
            restarts: 0,
            mailbox: MailboxReport { depth: 0, capacity: MAILBOX },
            uptime_seconds: uptime_seconds(self.started),
            details: json!({
                "service": self.parts.service.name,
                "url": format!("{}{}", url.origin().ascii_serialization(), url.path()),
                "state": state,
                "paused": self.pause,
                "breaker": {
                    "state": breaker.state.as_str(),
                    "calls": breaker.window.calls,
                    "failures": breaker.window.failures,
                    "failure_rate": breaker.window.failure_rate(),
                    "slow": breaker.window.slow,
                    "slow_rate": breaker.window.slow_rate(),
                    "consecutive_failures": breaker.consecutive,
                    "openings": breaker.openings,
                    "open_until": breaker.open_until.map(|until| until.to_string()),
                    "probes_in_flight": breaker.probes_in_flight,
                },
                "in_flight": figures.in_flight + self.unsettled(),
                "concurrency": figures.concurrency,
                "pending": pending.iter().sum::<i64>(),
                "pending_by_priority": by_lane(pending),
                "dead": self.parts.slot.dead(),
                "in_hand": in_hand,
                "in_hand_bytes": in_hand_bytes,
                "keys_in_hand": figures.keys,
                "keys_parked": self.claims.parked(),
                "waits_for": if self.can_read { self.waits_for.as_str() } else { "store" },
                "rate": self.rate.per_second,
                "last_errors": errors,
            }),
            children: Vec::new(),
        }
    }

    pub(super) fn observe_figures(&self) {
        let in_flight = self.dispatcher.in_flight().count() + self.unsettled();
        self.metrics.figures(in_flight, self.parts.slot.pending(), self.parts.slot.dead());
    }
}

impl Handler<ListInFlight> for Client {
    type Result = MessageResult<ListInFlight>;

    fn handle(&mut self, ListInFlight: ListInFlight, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.under_way().filter_map(|id| self.claims.get(id).cloned()).collect())
    }
}
