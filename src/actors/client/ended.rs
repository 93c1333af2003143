//! What follows from the end of an attempt, for the delivery or ask and for the service.

use std::time::Duration;

use actix::prelude::Context;
use serde_json::json;

use super::Client;
use super::attempts::{AttemptEnd, REFUSALS_TOLD};
use super::messages::{Answer, Method, NotSent};
use super::post::{Attempt, FailureKind, Outcome};
use super::telling::Cause;
use super::writes::ToStore;
use crate::actors::clock;
use crate::domain::breaker::BreakerState;
use crate::domain::delivery::{DeadReason, Verdict, classify};
use crate::domain::dispatch::{BlockedBy, PendingWork};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::retry::RetryVerdict;
use crate::domain::work::WorkId;
use crate::protocol::event_json::delivery_dead;
use crate::storage::{DeliveryOutcome, Settled};

/// How long nothing is sent after this machine had no room for a connection.
const RESOURCES_PAUSE: Duration = Duration::from_secs(1);
/// A pause of at least this length is logged at the level "info".
const LONG_PAUSE: Duration = Duration::from_secs(10);

/// What the end of an attempt means.
struct Judged {
    verdict: Verdict,
    took: Duration,
    http_status: Option<u16>,
    reason: Option<String>,
    answer: Option<String>,
}

impl Judged {
    /// `applied` bounds the time that the service has asked for.
    fn of(end: AttemptEnd, applied: impl Fn(Option<Duration>) -> Option<Duration>, spares_404: bool) -> Self {
        match end {
            AttemptEnd::Posted(Attempt {
                outcome: Outcome::Answered { status, retry_after, excerpt }, took, ..
            }) => {
                let verdict = classify(status, applied(retry_after), spares_404);
                let failed = verdict != Verdict::Delivered;
                Self {
                    verdict,
                    took,
                    http_status: Some(status),
                    reason: failed.then(|| format!("answered {status}")),
                    answer: Some(excerpt).filter(|excerpt| failed && !excerpt.is_empty()),
                }
            }
            AttemptEnd::Posted(Attempt { outcome: Outcome::Failed { kind, message }, took, .. }) => {
                let verdict = match kind {
                    FailureKind::Resources => Verdict::PutOff(RESOURCES_PAUSE),
                    _ => Verdict::Retry { retry_after: None },
                };
                Self::unanswered(verdict, took, format!("{}: {message}", kind.as_str()))
            }
            AttemptEnd::TooLarge(bytes) => {
                let reason = format!("the request would have {bytes} bytes, more than max_body");
                Self::unanswered(Verdict::Dead(DeadReason::TooLarge), Duration::ZERO, reason)
            }
            AttemptEnd::Unmarked => {
                let verdict = Verdict::Dead(DeadReason::Cancelled);
                Self::unanswered(verdict, Duration::ZERO, "the store was not told of it".to_owned())
            }
            AttemptEnd::Unable(reason) => {
                let verdict = Verdict::Retry { retry_after: None };
                Self::unanswered(verdict, Duration::ZERO, format!("configuration: {reason}"))
            }
        }
    }

    /// There was no answer, for this `reason`.
    fn unanswered(verdict: Verdict, took: Duration, reason: String) -> Self {
        Self { verdict, took, http_status: None, reason: Some(reason), answer: None }
    }
}

/// What the one who has asked learns of this try.
fn answer(end: &AttemptEnd) -> Answer {
    let failed =
        |kind, message: &String, is_perhaps_sent| Answer::Failed { kind, message: message.clone(), is_perhaps_sent };
    match end {
        AttemptEnd::Posted(Attempt {
            outcome: Outcome::Answered { status, .. },
            content: Some(content),
            is_repeat,
            ..
        }) => Answer::Answered { status: *status, content: content.clone(), is_repeat: *is_repeat },
        AttemptEnd::Posted(Attempt { outcome: Outcome::Answered { status, excerpt, .. }, .. }) => {
            failed("broken", &format!("answered {status}: {excerpt}"), true)
        }
        AttemptEnd::Posted(Attempt { outcome: Outcome::Failed { kind, message }, is_repeat, .. }) => {
            failed(kind.as_str(), message, *is_repeat || kind.is_perhaps_sent())
        }
        AttemptEnd::TooLarge(_) => Answer::NotSent(NotSent::TooLarge),
        AttemptEnd::Unmarked => Answer::NotSent(NotSent::NotHere),
        AttemptEnd::Unable(reason) => failed("configuration", reason, false),
    }
}

impl Client {
    /// Judges an ended attempt, and collects what is to be stored about it.
    pub(super) fn attempt_ended(&mut self, event_id: EventId, end: AttemptEnd) {
        let id = WorkId::Delivery(event_id);
        if !self.lease.may_act() {
            // It is another's: that one makes the attempt anew.
            self.dispatcher.abandoned(id);
            return self.claims.settled(id, true);
        }
        let made = self.claims.get(id).map_or(0, |claimed| (claimed.attempts + 1).saturating_sub(claimed.spent));
        let spares_404 = made <= self.parts.service.options.retry_404;
        let judged = Judged::of(end, |asked| self.attempts.schedule().applied(asked), spares_404);
        self.count_refusal(&judged, Some(event_id));
        if let Verdict::PutOff(pause) = judged.verdict {
            self.put_off(id, &judged, pause);
            return;
        }
        let finished = self.dispatcher.finished(id, judged.verdict, judged.took, self.clock.now(), rand::random());
        let now = clock::now();
        let (Some(finished), Some(claimed), Some(service)) = (finished, self.claims.get(id), self.kept.id()) else {
            return;
        };
        let attempts = claimed.attempts + 1;
        let is_own_event = claimed.event.name.is_system();
        let (settled, outcome) = match judged.verdict {
            Verdict::Delivered => (Settled::Delivered, "delivered"),
            Verdict::Dead(reason) => (Settled::Dead(reason), "dead"),
            Verdict::Gone => (Settled::Retry(now), "gone"),
            Verdict::Retry { .. } | Verdict::NotYet | Verdict::PutOff(_) => {
                match self.attempts.schedule().next(made, judged.verdict.retry_after(), rand::random()) {
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
                // The dispatcher saw a failure, and would make the key wait for a retry that will not come.
                self.dispatcher.unblock(key);
            }
            let dead = delivery_dead(self.name(), None, &claimed.event, reason, attempts, judged.reason.as_deref());
            dead.into_iter().for_each(|event| self.writes.push(ToStore::Event(event)));
        }
        if let Some(error) = &judged.reason {
            self.attempts.remember_error(now, Some(event_id), error.clone());
        }
        self.give_back(finished.released);
        if let Some(transition) = finished.transition {
            self.turned(transition, if is_own_event { Cause::OwnEvent } else { Cause::Attempt });
        }
        if judged.verdict == Verdict::Gone {
            self.pause_for("the service answered 410 Gone");
        }
        self.writes.push(ToStore::Ended(DeliveryOutcome {
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
        }));
    }

    /// Judges an ended try of an ask, and answers it unless it is tried again.
    pub(super) fn ask_ended(&mut self, number: u64, end: AttemptEnd) {
        let id = WorkId::Ask(number);
        let answer = answer(&end);
        let Some(request) = self.asks.get(number).filter(|_| self.lease.may_act()) else {
            self.dispatcher.abandoned(id);
            return self.asks.answer(number, answer);
        };
        let (is_post, made) = (request.method == Method::Post, self.asks.made(number));
        let path = request.path.as_deref().unwrap_or(&self.parts.service.path);
        let what = format!("{} {path}", request.method.as_str());
        let spares_404 = is_post && made <= self.parts.service.options.retry_404;
        let mut judged = Judged::of(end, |asked| self.attempts.schedule().applied(asked), spares_404);
        judged.reason = judged.reason.map(|reason| format!("{what}: {reason}"));
        // A path that a service does not have says nothing of its deliveries.
        if is_post {
            self.count_refusal(&judged, None);
        }
        if let Verdict::PutOff(pause) = judged.verdict {
            self.put_off(id, &judged, pause);
            return self.asks.put_off(number, Some(answer));
        }
        let now = self.clock.now();
        let finished = self.dispatcher.finished(id, judged.verdict, judged.took, now, rand::random());
        if let Some(error) = judged.reason {
            self.attempts.remember_error(clock::now(), None, error);
        }
        if let Some(transition) = finished.and_then(|finished| finished.transition) {
            self.turned(transition, Cause::Attempt);
        }
        if matches!(judged.verdict, Verdict::Retry { .. } | Verdict::NotYet)
            && let RetryVerdict::After(delay) =
                self.attempts.schedule().next(made, judged.verdict.retry_after(), rand::random())
            && self.asks.may_wait_until(number, now.plus(delay))
        {
            return self.asks.try_again(number, now.plus(delay), answer);
        }
        self.asks.answer(number, answer);
    }

    /// What the dispatcher has given back untried is to be offered again.
    pub(super) fn give_back(&mut self, released: Vec<PendingWork>) {
        for work in released {
            match work.id {
                WorkId::Delivery(_) => self.claims.release(work.id),
                WorkId::Ask(number) => self.asks.released(number),
            }
        }
    }

    /// The attempt does not count, and nothing is sent for `pause`.
    fn put_off(&mut self, id: WorkId, judged: &Judged, pause: Duration) {
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
        let event_id = match id {
            WorkId::Delivery(event_id) => {
                self.metrics.attempted("put_off", judged.took);
                Some(event_id)
            }
            WorkId::Ask(_) => None,
        };
        let error = match why {
            BlockedBy::RetryAfter => format!("{reason}, and asked for {pause:?}"),
            _ => reason.to_owned(),
        };
        self.attempts.remember_error(clock::now(), event_id, error);
    }

    /// Publishes an event once for each series of refusals that concern the service rather than the events.
    fn count_refusal(&mut self, judged: &Judged, id: Option<EventId>) {
        let Some(status) = judged.http_status else { return };
        if self.attempts.count_refusal(status, judged.verdict) {
            log::warn!(service = self.name(), status, refusals = REFUSALS_TOLD; "the service refuses everything");
            let last = json!({ "http_status": status, "refusals": REFUSALS_TOLD, "event_id": id });
            self.announce("refusing", last);
        }
    }

    /// These outcomes are in the store.
    pub(super) fn settled(&mut self, delivery_outcomes: Vec<DeliveryOutcome>, ctx: &mut Context<Self>) {
        let mut next_due: Option<Timestamp> = None;
        for delivery_outcome in delivery_outcomes {
            if let Settled::Dead(reason) = delivery_outcome.settled {
                let DeliveryOutcome { event_id: id, attempts, reason: error, .. } = &delivery_outcome;
                let error = error.as_deref().unwrap_or("-");
                log::warn!(service = self.name(), id, attempts, reason = reason.as_str(), error; "delivery is dead");
            }
            let due = match delivery_outcome.settled {
                Settled::Retry(due) => Some(due),
                Settled::Delivered | Settled::Dead(_) => None,
            };
            self.claims.settled(WorkId::Delivery(delivery_outcome.event_id), due.is_some());
            next_due = next_due.into_iter().chain(due).min();
        }
        if let Some(due) = next_due {
            self.rounds.expect_due(due);
            self.begin_round_at(due, ctx);
        }
        let is_well = self.dispatcher.breaker().state() == BreakerState::Closed;
        if is_well && self.parts.slot.pending_total() == 0 && self.told.recovered() {
            self.announce("recovered", json!({}));
        }
    }
}
