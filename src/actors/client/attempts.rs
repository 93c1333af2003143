//! Attempts to deliver: what they need, and which errors are remembered.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::{AsyncContext as _, Context, Handler, Message};
use actix_web::http::header::HeaderValue;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Client;
use super::messages::{Method, ReadTls};
use super::policy;
use super::post::{Attempt, Poster};
use super::spans::DeliverySpan;
use crate::actors::clock;
use crate::config::ServiceConfig;
use crate::domain::delivery::{Verdict, is_refusal_of_all};
use crate::domain::dispatch::PendingWork;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::retry::RetrySchedule;
use crate::domain::span::TraceContext;
use crate::domain::work::WorkId;
use crate::protocol::webhook::{Attempted, IDEMPOTENCY_KEY, Recipient as To, SigningKey, delivery_request, sign};
use crate::telemetry::faults::{self, FaultPoint};

/// How many errors are remembered.
const MAX_ERRORS: usize = 8;
/// A series of so many refusals is published. Each of them concerns the service rather than the event.
pub(super) const REFUSALS_TOLD: u32 = 20;

/// See the module.
pub(super) struct Attempts {
    poster: Result<Rc<Poster>, String>,
    keys: Vec<SigningKey>,
    schedule: RetrySchedule,
    /// Refusals in a row that concern the service rather than the events.
    refusals: u32,
    last_errors: VecDeque<LastError>,
}

/// The error of an attempt, shown to operators.
struct LastError {
    at: Timestamp,
    /// None, if it was no delivery.
    event_id: Option<EventId>,
    error: String,
}

impl Attempts {
    pub(super) fn new(service: &ServiceConfig) -> Self {
        Self {
            poster: Poster::new(service).map(Rc::new),
            keys: service.secrets.iter().filter_map(|secret| SigningKey::parse(secret.expose()).ok()).collect(),
            schedule: policy::retry_schedule(&service.options),
            refusals: 0,
            last_errors: VecDeque::new(),
        }
    }

    /// Why the service cannot be called at all, if so.
    pub(super) fn unable(&self) -> Option<&str> {
        self.poster.as_ref().err().map(String::as_str)
    }

    /// When failed attempts are repeated.
    pub(super) fn schedule(&self) -> &RetrySchedule {
        &self.schedule
    }

    pub(super) fn remember_error(&mut self, at: Timestamp, event_id: Option<EventId>, error: String) {
        if self.last_errors.len() >= MAX_ERRORS {
            self.last_errors.pop_front();
        }
        self.last_errors.push_back(LastError { at, event_id, error });
    }

    /// The remembered errors, the latest first.
    pub(super) fn last_errors(&self) -> Vec<Value> {
        let errors = self.last_errors.iter().rev();
        errors
            .map(|last| json!({ "at": last.at.to_string(), "event_id": last.event_id, "error": last.error }))
            .collect()
    }

    /// Counts a refusal that concerns the service rather than the event. Any other final answer ends the series.
    /// Returns true once for each series, when it is long enough to be published.
    pub(super) fn count_refusal(&mut self, status: u16, verdict: Verdict) -> bool {
        if is_refusal_of_all(status) {
            self.refusals = self.refusals.saturating_add(1);
            return self.refusals == REFUSALS_TOLD;
        }
        if matches!(verdict, Verdict::Delivered | Verdict::Dead(_) | Verdict::Gone) {
            self.refusals = 0;
        }
        false
    }
}

/// An attempt ended. `attempt` is `None` if its task panicked.
#[derive(Message)]
#[rtype(result = "()")]
struct AttemptEnded {
    id: WorkId,
    attempt: Option<AttemptEnd>,
}

/// How an attempt ended.
pub(super) enum AttemptEnd {
    Posted(Attempt),
    /// The request was not sent, as it would have this many bytes.
    TooLarge(usize),
    /// The request was not sent, as the store was not told of it.
    Unmarked,
    /// The request was not sent, as the configuration of the service cannot be used.
    Unable(String),
}

/// Reports the end of an attempt, however its task ends.
struct Attempting {
    id: WorkId,
    client: actix::Addr<Client>,
    attempt: Option<AttemptEnd>,
}

impl Attempting {
    fn end(mut self, end: AttemptEnd) {
        self.attempt = Some(end);
    }
}

impl Drop for Attempting {
    fn drop(&mut self) {
        // There are at most as many attempts as the concurrency allows, which bounds these messages.
        self.client.do_send(AttemptEnded { id: self.id, attempt: self.attempt.take() });
    }
}

/// Of an attempt that no span is recorded of.
fn new_context() -> TraceContext {
    TraceContext { trace: rand::random(), span: rand::random(), is_sampled: true }
}

impl Client {
    pub(super) fn send(&mut self, work: &PendingWork, ctx: &mut Context<Self>) {
        let attempting = Attempting { id: work.id, client: ctx.address(), attempt: None };
        // While the log is unknown nothing is claimed, so there is always one.
        let Some((claimed, log)) = self.claims.get(work.id).zip(self.parts.position.log_id()) else { return };
        let options = &self.parts.service.options;
        let span = DeliverySpan::begin(&claimed.event, &self.parts.service);
        let context = span.as_ref().map_or_else(new_context, DeliverySpan::context);
        let to = To { service: self.name(), format: options.format, sources: &self.parts.service.sources };
        let request = delivery_request(log, &claimed.event, to, &self.attempts.keys, clock::now(), context);
        if request.body.len() > options.max_body.as_usize() {
            return attempting.end(AttemptEnd::TooLarge(request.body.len()));
        }
        let poster = match &self.attempts.poster {
            Ok(poster) => Rc::clone(poster),
            Err(reason) => return attempting.end(AttemptEnd::Unable(reason.clone())),
        };
        let service = Arc::clone(&self.parts.service);
        actix_rt::spawn(async move {
            let attempt = poster.post(&service.path, &request.headers, request.body).await;
            if let Some(span) = span {
                span.end(&attempt);
            }
            attempting.end(AttemptEnd::Posted(attempt));
        });
    }
}

impl Client {
    pub(super) fn send_ask(&mut self, number: u64, ctx: &mut Context<Self>) {
        let attempting = Attempting { id: WorkId::Ask(number), client: ctx.address(), attempt: None };
        let Some(request) = self.asks.get(number) else { return };
        let options = &self.parts.service.options;
        if request.body.len() > options.max_body.as_usize() {
            return attempting.end(AttemptEnd::TooLarge(request.body.len()));
        }
        let poster = match &self.attempts.poster {
            Ok(poster) => Rc::clone(poster),
            Err(reason) => return attempting.end(AttemptEnd::Unable(reason.clone())),
        };
        let (mut headers, body, max_answer_bytes) =
            (request.headers.clone(), request.body.clone(), request.max_answer_bytes);
        let path = request.path.clone().unwrap_or_else(|| self.parts.service.path.clone());
        let context = new_context();
        let traceparent = request.traceparent.as_deref();
        sign(
            &mut headers,
            &body,
            &self.attempts.keys,
            Attempted { id: &request.id, traceparent, now: clock::now(), context },
        );
        let method = match request.method {
            Method::Get => awc::http::Method::GET,
            Method::Post => {
                let id = HeaderValue::from_str(&request.id).expect("invariant: it was put into a header before");
                headers.push((IDEMPOTENCY_KEY, id));
                awc::http::Method::POST
            }
        };
        let call = self.asks.is_sent(number);
        let mark = call.filter(|call| !call.is_marked).map(|call| {
            let (marked, is_marked) = oneshot::channel();
            self.calls.to_mark.push((call.id, marked));
            is_marked
        });
        actix_rt::spawn(async move {
            if let Some(mark) = mark
                && mark.await.is_err()
            {
                return attempting.end(AttemptEnd::Unmarked);
            }
            if call.is_some() {
                faults::kill_at(FaultPoint::CallKilledBefore);
            }
            let attempt = poster.ask(method, &path, &headers, body, max_answer_bytes).await;
            attempting.end(AttemptEnd::Posted(attempt));
        });
    }
}

impl Handler<AttemptEnded> for Client {
    type Result = ();

    fn handle(&mut self, AttemptEnded { id, attempt }: AttemptEnded, ctx: &mut Self::Context) {
        match attempt {
            Some(end) => match id {
                WorkId::Delivery(event_id) => self.attempt_ended(event_id, end),
                WorkId::Ask(number) => self.ask_ended(number, end),
            },
            None => {
                self.dispatcher.cancelled(id);
                if let WorkId::Ask(number) = id {
                    self.asks.put_off(number, None);
                }
            }
        }
        self.pump(ctx);
    }
}

impl Handler<ReadTls> for Client {
    type Result = ();

    /// The next request uses the new files. Requests under way end with the old ones.
    fn handle(&mut self, ReadTls: ReadTls, _: &mut Context<Self>) {
        if self.parts.service.url.expose().scheme() != "https" {
            return;
        }
        match Poster::new(&self.parts.service) {
            Ok(poster) => self.attempts.poster = Ok(Rc::new(poster)),
            Err(reason) => {
                log::error!(service = self.parts.service.name.as_str(), reason = reason.as_str(); "tls files unusable, the old ones stay");
            }
        }
    }
}
