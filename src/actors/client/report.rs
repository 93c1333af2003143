//! What a client says of itself.

use actix::prelude::{Context, Handler, MessageResult};
use serde_json::{Value, json};

use super::messages::ListInFlight;
use super::{Client, MAILBOX, MAX_UNSETTLED};
use crate::actors::clock;
use crate::actors::observe::{ActorKind, ActorReport, ActorState, MailboxReport, uptime_seconds};
use crate::domain::dispatch::BlockedBy;
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
        let (waits_for, next_attempt_at) = self.waiting(now);
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
                    "open_until": breaker.open_until.map(|until| self.clock.time_of_day(until).to_string()),
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
                "waits_for": waits_for,
                "next_attempt_at": next_attempt_at.map(|at| at.to_string()),
                "rate": self.rate.per_second,
                "last_errors": errors,
            }),
            children: Vec::new(),
        }
    }

    /// Why nothing is sent just now, and at what time of day the next attempt is to be expected, if that is a matter of time alone.
    fn waiting(&self, now: Timestamp) -> (&'static str, Option<Timestamp>) {
        let is_open = self.parts.slot.pending_total() > 0;
        if self.id.is_none() {
            return ("starting", None);
        }
        if !self.is_held {
            return ("another_node", None);
        }
        if !self.can_read || self.unsettled() >= MAX_UNSETTLED {
            return ("store", None);
        }
        let until = self.waits_until.map(|until| self.clock.time_of_day(until.max(now)));
        match self.waits_for {
            BlockedBy::Empty if !is_open => (BlockedBy::Empty.as_str(), None),
            // Nothing is in hand: what is open is under way, or is to be tried again later.
            BlockedBy::Empty => match self.next_due {
                Some(due) => {
                    let breaker =
                        self.dispatcher.breaker().figures(now).open_until.map(|until| (until, BlockedBy::Breaker));
                    let held = breaker.into_iter().chain(self.dispatcher.rests(now)).max_by_key(|(until, _)| *until);
                    let held = held.map(|(until, why)| (self.clock.time_of_day(until), why));
                    match held.filter(|(until, _)| *until > due) {
                        Some((until, why)) => (why.as_str(), Some(until.max(clock::now()))),
                        None => ("retry", Some(due.max(clock::now()))),
                    }
                }
                None if self.under_way().next().is_some() => ("answer", None),
                None => ("store", None),
            },
            why => (why.as_str(), until),
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
