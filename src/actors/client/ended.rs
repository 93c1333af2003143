//! What follows from the end of an attempt, for the delivery and for the service.

use std::time::Duration;

use actix::prelude::Context;
use serde_json::json;

use super::post::{Attempt, FailureKind, Outcome};
use super::report::LastError;
use super::{AttemptEnd, Client};
use crate::actors::clock;
use crate::domain::breaker::{BreakerState, Transition};
use crate::domain::delivery::{DeadReason, Verdict, classify, is_refusal_of_all};
use crate::domain::dispatch::BlockedBy;
use crate::domain::event::{EventId, NewEvent, Timestamp};
use crate::domain::retry::RetryVerdict;
use crate::domain::work::WorkId;
use crate::storage::{Claimed, Registered, Settled, Settlement};

/// What made the breaker change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// To deliver an event of a publisher.
    Attempt,
    /// To deliver an event that the Event Handler itself has published.
    OwnEvent,
    Time,
    Operator,
}

/// For which nothing is sent when this machine has no room for a connection.
const RESOURCES_PAUSE: Duration = Duration::from_secs(1);
/// A pause of this length is worth a line in the log.
const LONG_PAUSE: Duration = Duration::from_secs(10);
/// So many refusals in a row, each of a kind that says more of the service than of the event, are told.
const REFUSALS_TOLD: u32 = 20;

/// An attempt, judged.
struct Judged {
    verdict: Verdict,
    took: Duration,
    http_status: Option<u16>,
    reason: Option<String>,
    answer: Option<String>,
}

impl Judged {
    /// `retry_after` as far as it is obeyed.
    fn of(end: AttemptEnd, obeyed: impl Fn(Option<Duration>) -> Option<Duration>, spares_404: bool) -> Self {
        match end {
            AttemptEnd::Posted(Attempt { outcome: Outcome::Answered { status, retry_after, excerpt }, took }) => {
                let verdict = classify(status, obeyed(retry_after), spares_404);
                let failed = verdict != Verdict::Delivered;
                Self {
                    verdict,
                    took,
                    http_status: Some(status),
                    reason: failed.then(|| format!("answered {status}")),
                    answer: Some(excerpt).filter(|excerpt| failed && !excerpt.is_empty()),
                }
            }
            AttemptEnd::Posted(Attempt { outcome: Outcome::Failed { kind, message }, took }) => Self {
                verdict: match kind {
                    FailureKind::Resources => Verdict::PutOff(RESOURCES_PAUSE),
                    _ => Verdict::Retry { retry_after: None },
                },
                took,
                http_status: None,
                reason: Some(format!("{}: {message}", kind.as_str())),
                answer: None,
            },
            AttemptEnd::TooLarge(bytes) => Self {
                verdict: Verdict::Dead(DeadReason::TooLarge),
                took: Duration::ZERO,
                http_status: None,
                reason: Some(format!("the request would have {bytes} bytes, more than max_body")),
                answer: None,
            },
            AttemptEnd::Unable(reason) => Self {
                verdict: Verdict::Retry { retry_after: None },
                took: Duration::ZERO,
                http_status: None,
                reason: Some(format!("configuration: {reason}")),
                answer: None,
            },
        }
    }
}

impl Client {
    /// Judges, and notes what is to be written down.
    pub(super) fn attempt_ended(&mut self, id: WorkId, end: AttemptEnd) {
        let WorkId::Delivery(event_id) = id;
        let made = self.claims.get(id).map_or(0, |claimed| (claimed.attempts + 1).saturating_sub(claimed.spent));
        let spares_404 = made <= self.parts.service.options.retry_404;
        let judged = Judged::of(end, |asked| self.schedule.obeyed(asked), spares_404);
        self.count_refusal(&judged, event_id);
        if let Verdict::PutOff(pause) = judged.verdict {
            return self.put_off(id, &judged, pause);
        }
        let finished = self.dispatcher.finished(id, judged.verdict, judged.took, self.clock.now(), rand::random());
        let now = clock::now();
        let (Some(finished), Some(claimed), Some(service)) = (finished, self.claims.get(id), self.id) else { return };
        let attempts = claimed.attempts + 1;
        let is_own_event = claimed.event.name.is_system();
        let (settled, outcome) = match judged.verdict {
            Verdict::Delivered => (Settled::Delivered, "delivered"),
            Verdict::Dead(reason) => (Settled::Dead(reason), "dead"),
            Verdict::Gone => (Settled::Retry(now), "gone"),
            Verdict::Retry { .. } | Verdict::NotYet | Verdict::PutOff(_) => {
                match self.schedule.next(made, judged.verdict.retry_after(), rand::random()) {
                    RetryVerdict::After(delay) => (Settled::Retry(now.plus(delay)), "retry"),
                    RetryVerdict::Exhausted => (Settled::Dead(DeadReason::Exhausted), "dead"),
                }
            }
        };
        self.metrics.attempted(outcome, judged.took);
        if settled == Settled::Delivered {
            self.metrics.latency(now.since(claimed.event.created_at));
        }
        if self.parts.log_activity {
            log::info!(target: "event_handler::activity", id = event_id, service = self.name(), attempt = attempts, outcome, reason = judged.reason.as_deref().unwrap_or("-"); "attempted");
        }
        if let Settled::Dead(reason) = settled {
            if let (Settled::Dead(DeadReason::Exhausted), Some(key)) = (settled, &finished.work.key) {
                // The dispatcher saw a failure, and would wait for this one to come again.
                self.dispatcher.forget(key);
            }
            self.announce_dead(claimed.clone(), reason, attempts, judged.reason.as_deref());
        }
        if let Some(error) = &judged.reason {
            self.remember_error(LastError { at: now, event_id, error: error.clone() });
        }
        for follower in finished.given_back {
            self.claims.give_back(follower.id);
        }
        if let Some(transition) = finished.transition {
            self.turned(transition, if is_own_event { Cause::OwnEvent } else { Cause::Attempt });
        }
        if judged.verdict == Verdict::Gone {
            self.pause_for("the service answered 410 Gone");
        }
        self.ended.push(Settlement {
            service,
            event_id,
            lane: finished.work.lane,
            attempts,
            finished_at: now,
            took: judged.took,
            http_status: judged.http_status,
            reason: judged.reason,
            answer: judged.answer,
            settled,
        });
    }

    /// Nothing became of the attempt, and nothing is sent for `pause`; it counts for nothing else.
    fn put_off(&mut self, id: WorkId, judged: &Judged, pause: Duration) {
        let WorkId::Delivery(event_id) = id;
        let now = self.clock.now();
        let why = if judged.http_status.is_some() { BlockedBy::RetryAfter } else { BlockedBy::Resources };
        let rested = self.dispatcher.rests(now).map(|(_, why)| why);
        if !self.dispatcher.put_off(id, now.plus(pause), why) {
            return;
        }
        let reason = judged.reason.as_deref().unwrap_or_default();
        let pause_ms = pause.as_millis();
        if why == BlockedBy::Resources && rested != Some(why) {
            log::warn!(service = self.name(), reason, pause_ms; "no room for a connection to the service");
        } else if rested.is_none() {
            let level = if pause >= LONG_PAUSE { log::Level::Info } else { log::Level::Debug };
            log::log!(level, service = self.name(), reason, pause_ms; "the service asks for time");
        }
        self.metrics.attempted("put_off", judged.took);
        let error = match why {
            BlockedBy::RetryAfter => format!("{reason}, and asked for {pause:?}"),
            _ => reason.to_owned(),
        };
        self.remember_error(LastError { at: clock::now(), event_id, error });
    }

    /// Tells once of each series of refusals that say more of the service than of the events. Whatever else it answers
    /// of its own accord ends the series.
    fn count_refusal(&mut self, judged: &Judged, id: EventId) {
        match judged.http_status {
            Some(status) if is_refusal_of_all(status) => {
                self.refusals = self.refusals.saturating_add(1);
                if self.refusals == REFUSALS_TOLD {
                    log::warn!(service = self.name(), status, refusals = self.refusals; "the service refuses everything");
                    let last = json!({ "http_status": status, "refusals": self.refusals, "event_id": id });
                    self.announce("refusing", last);
                }
            }
            Some(_) if matches!(judged.verdict, Verdict::Delivered | Verdict::Dead(_) | Verdict::Gone) => {
                self.refusals = 0;
            }
            Some(_) | None => {}
        }
    }

    /// These are in the store.
    pub(super) fn settled(&mut self, settlements: Vec<Settlement>, ctx: &mut Context<Self>) {
        let mut next_due: Option<Timestamp> = None;
        for settlement in settlements {
            if let Settled::Dead(reason) = settlement.settled {
                let Settlement { event_id: id, attempts, reason: error, .. } = &settlement;
                let error = error.as_deref().unwrap_or("-");
                log::warn!(service = self.name(), id, attempts, reason = reason.as_str(), error; "delivery is dead");
            }
            let due = match settlement.settled {
                Settled::Retry(due) => Some(due),
                Settled::Delivered | Settled::Dead(_) => None,
            };
            self.claims.settled(WorkId::Delivery(settlement.event_id), due.is_some());
            next_due = next_due.into_iter().chain(due).min();
        }
        if let Some(due) = next_due {
            self.next_due = self.next_due.into_iter().chain(next_due).min();
            self.begin_round_at(due, ctx);
        }
        if self.recovering
            && self.parts.slot.pending_total() == 0
            && self.dispatcher.breaker().state() == BreakerState::Closed
        {
            self.recovering = false;
            self.announce("recovered", json!({}));
        }
    }

    /// Sends nothing more; what comes is kept.
    pub(super) fn pause_for(&mut self, reason: &str) {
        if self.is_held && !self.dispatcher.is_paused() {
            self.dispatcher.pause();
            self.pause = Some(reason.to_owned());
            self.is_changed = true;
            self.announce("paused", json!({ "reason": reason }));
        }
    }

    pub(super) fn resume(&mut self) {
        if self.dispatcher.is_paused() {
            self.dispatcher.resume();
            self.pause = None;
            self.is_changed = true;
            self.recovering = true;
            self.announce("resumed", json!({}));
        }
    }

    /// What is to outlive a restart.
    pub(super) fn kept(&self) -> Option<Registered> {
        let breaker =
            serde_json::to_string(&self.dispatcher.breaker().snapshot().on_clock_ahead(-self.clock.lead())).ok();
        self.parts.slot.keep(self.pause.clone(), breaker.clone());
        Some(Registered { id: self.id?, paused: self.pause.clone(), breaker })
    }

    /// Tells of a change of the breaker. Events that tell of it may themselves be delivered to services that fail; so
    /// what they cause is not told by further events, nor what only time has caused beyond the first time: for each
    /// attempt of a publisher's event, there is a bounded number of them.
    pub(super) fn announce_transition(&mut self, transition: Transition, cause: Cause) {
        let Transition { from, to } = transition;
        self.metrics.turned(to);
        let figures = self.dispatcher.breaker().figures(self.clock.now());
        let (happened, is_told) = match to {
            BreakerState::Open | BreakerState::ForcedOpen => ("opened", cause != Cause::OwnEvent),
            BreakerState::HalfOpen => ("half_open", self.told == BreakerState::Open),
            BreakerState::Closed | BreakerState::ForcedClosed => {
                ("closed", cause == Cause::Operator || self.told != BreakerState::Closed)
            }
        };
        let is_open = happened == "opened";
        let level = if is_open { log::Level::Warn } else { log::Level::Info };
        log::log!(level, service = self.name(), from = from.as_str(), to = to.as_str(); "circuit breaker");
        if !is_told {
            return;
        }
        self.recovering |= is_open;
        self.told = match to {
            BreakerState::Open | BreakerState::ForcedOpen => BreakerState::Open,
            BreakerState::HalfOpen => BreakerState::HalfOpen,
            BreakerState::Closed | BreakerState::ForcedClosed => BreakerState::Closed,
        };
        let until = figures.open_until.map(|until| self.clock.time_of_day(until).to_string());
        self.announce(
            happened,
            json!({ "from": from.as_str(), "to": to.as_str(), "open_until": until, "openings": figures.openings }),
        );
    }

    /// `$sys.service.<happened>`.
    fn announce(&mut self, happened: &str, mut payload: serde_json::Value) {
        payload["service"] = self.name().into();
        payload["pending"] = self.parts.slot.pending_total().into();
        self.own_events.push(NewEvent::own(&format!("$sys.service.{happened}"), payload.to_string()));
    }

    /// `$sys.delivery.dead`; not for the Event Handler's own events, whose deliveries could die for ever.
    fn announce_dead(&mut self, claimed: Claimed, reason: DeadReason, attempts: u32, error: Option<&str>) {
        let Claimed { event, .. } = claimed;
        if event.name.is_system() {
            return;
        }
        let payload = json!({
            "service": self.name(),
            "event_id": event.id,
            "event_name": event.name.as_str(),
            "key": event.key.as_deref(),
            "reason": reason.as_str(),
            "attempts": attempts,
            "error": error,
        });
        self.own_events.push(NewEvent::own("$sys.delivery.dead", payload.to_string()));
    }
}
