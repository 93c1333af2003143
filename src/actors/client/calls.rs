//! Calls of the service: rows of the store that are no deliveries, and of which somebody must know whether they were done.
//!
//! They are read when they are due, and sent as [asks](super::asks): in hand they wait as those do, with the same
//! breaker, limits and order. What an attempt means is for [`CallHistory`] to say.
//!
//! - *CL-6* Before an attempt the store knows that one is made, unless it knows already that the call may be done. So what
//!   is known there not to have been sent was not sent, whatever crashes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use percent_encoding::{CONTROLS, utf8_percent_encode};
use serde_json::value::RawValue;
use tokio::sync::oneshot::error::RecvError;

use super::messages::{Answer, Ask, Asker, BodyEnd, Content, NotSent, Request};
use super::writes::ToStore;
use super::{Client, TICK_INTERVAL};
use crate::actors::clock::now;
use crate::domain::call::{Attempted, CallEnd, CallId, Judged};
use crate::domain::event::Timestamp;
use crate::protocol::delivery_request::Headers;
use crate::storage::{CallOutcome, CallRequest, CallSettled, ClaimedCall, StoreError};
use crate::telemetry::faults::{self, FaultPoint};

/// Calls in hand or under way. With half of them, more are read.
const MAX_CALLS: usize = 128;
/// Calls of one read: more than may be known, so that there is always one that is not.
const PAGE: usize = 256;
/// Bytes of an answer that are kept; of a longer one, nothing is.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Longest time in hand; then it is read again.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// The calls that this client has read, and whether there are others.
#[derive(Debug, Default)]
pub(super) struct Calls {
    known: HashMap<CallId, Known>,
    is_reading: bool,
    /// What was settled since the read under way began, and may be in its page as it was before.
    settled_meanwhile: HashSet<CallId>,
    /// The store may have some that have not ended. Without any, it is not read.
    may_have_more: bool,
}

#[derive(Debug)]
struct Known {
    call: ClaimedCall,
    /// Its attempt has ended, and how is on its way to the store.
    is_settling: bool,
}

impl Calls {
    /// Begins anew from the store. What is with the asks comes back from there.
    pub(super) fn reset(&mut self) {
        self.known.retain(|_, known| !known.is_settling);
        self.may_have_more = true;
    }

    /// What became of it is not in the store, and is another's business.
    pub(super) fn voided(&mut self, id: CallId) {
        self.known.remove(&id);
    }
}

impl Client {
    /// There may be calls that were made on another node.
    pub(super) fn look_for_calls_of_others(&mut self, ctx: &mut Context<Self>) {
        self.calls.may_have_more |= self.parts.cluster.view().nodes.len() > 1;
        self.look_for_calls(ctx);
    }

    /// Reads the calls that are due, if there may be some.
    pub(super) fn look_for_calls(&mut self, ctx: &mut Context<Self>) {
        let Some(service) = self.kept.id().filter(|_| self.lease.may_act()) else { return };
        self.calls.may_have_more |= self.parts.slot.take_calls();
        if !self.calls.may_have_more || self.calls.is_reading || self.calls.known.len() > MAX_CALLS / 2 {
            return;
        }
        self.calls.is_reading = true;
        // What is said from now on is of calls that the page may not have.
        self.calls.may_have_more = false;
        self.calls.settled_meanwhile.clear();
        let (reader, at) = (self.parts.reader.clone(), now());
        let page = async move {
            let due = reader.due_calls(service, at, Default::default(), PAGE).await?;
            Ok((due, reader.next_due_call(service, at).await?))
        };
        ctx.spawn(page.into_actor(self).map(|page, this, ctx| this.take_calls(page, ctx)));
    }

    fn take_calls(&mut self, page: Result<(Vec<ClaimedCall>, Option<Timestamp>), StoreError>, ctx: &mut Context<Self>) {
        self.calls.is_reading = false;
        // A read that failed is made again with the next tick.
        let Ok((due, next)) = page else { return self.calls.may_have_more = true };
        let has_missed = std::mem::replace(&mut self.calls.may_have_more, !due.is_empty() || next.is_some());
        for call in due {
            let is_seen = self.calls.known.contains_key(&call.id) || self.calls.settled_meanwhile.contains(&call.id);
            if !is_seen && self.calls.known.len() < MAX_CALLS {
                self.take_call(call, ctx);
            }
        }
        if let Some(next) = next {
            self.look_for_calls_at(next, ctx);
        }
        if has_missed {
            self.calls.may_have_more = true;
            self.look_for_calls(ctx);
        }
        self.pump(ctx);
    }

    /// The tick looks anyway, so only what is due before it needs a timer.
    fn look_for_calls_at(&self, due: Timestamp, ctx: &mut Context<Self>) {
        let wait = due.since(now());
        if wait < TICK_INTERVAL {
            ctx.run_later(wait, Self::look_for_calls);
        }
    }

    fn take_call(&mut self, claimed: ClaimedCall, ctx: &mut Context<Self>) {
        let (id, at) = (claimed.id, now());
        let left = claimed.call.expires_at.map(|expires| expires.since(at));
        let is_over = left.is_some_and(|left| left.is_zero());
        let request = request(&claimed, left.unwrap_or(PATIENCE).min(PATIENCE));
        let mark = (!claimed.history.may_be_done).then_some(id);
        let expired = CallSettled::Ended { end: claimed.history.expired(), answer: None };
        self.calls.known.insert(id, Known { call: claimed, is_settling: false });
        if is_over {
            return self.settle_call(id, None, Some("it has expired".to_owned()), expired);
        }
        let (asker, answer) = Asker::new();
        self.asks.take(Ask { request, asker, mark }, self.clock.now());
        ctx.spawn(answer.into_actor(self).map(move |answer, this, ctx| this.call_answered(id, answer, ctx)));
    }

    fn call_answered(&mut self, id: CallId, answer: Result<Answer, RecvError>, ctx: &mut Context<Self>) {
        if matches!(answer, Ok(Answer::Answered { .. })) {
            faults::kill_at(FaultPoint::CallKilledAfter);
        }
        let (status, error, attempted, content) = match answer {
            Ok(Answer::Answered { status, content }) => {
                let is_whole = content.end != BodyEnd::BrokenOff;
                let attempted = Attempted::Answered { status, retry_after: None, is_whole };
                (Some(status), format!("answered {status}"), attempted, Some(content))
            }
            Ok(Answer::Failed { kind, message, is_perhaps_sent }) => {
                (None, format!("{kind}: {message}"), Attempted::Failed { is_perhaps_sent }, None)
            }
            Ok(Answer::NotSent(NotSent::TooLarge)) => {
                let end = self.calls.known.get(&id).map_or(CallEnd::Unknown, |known| known.call.history.expired());
                let error = "it is longer than the service accepts".to_owned();
                return self.settle_call(id, None, Some(error), CallSettled::Ended { end, answer: None });
            }
            // The store has it as it was.
            Ok(Answer::NotSent(_)) | Err(_) => {
                self.calls.known.remove(&id);
                self.calls.may_have_more = true;
                return;
            }
        };
        let Some(Known { call: ClaimedCall { call, history, .. }, .. }) = self.calls.known.get_mut(&id) else { return };
        let settled = match history.attempted(&call.policy, attempted, rand::random()) {
            Judged::Again(wait) | Judged::PutOff(wait) => CallSettled::Again(now().plus(wait)),
            Judged::Ended(end) => {
                let is_done = matches!(end, CallEnd::Done | CallEnd::Accepted);
                CallSettled::Ended { end, answer: content.filter(|_| is_done).and_then(|content| json(&content)) }
            }
        };
        let is_done = matches!(settled, CallSettled::Ended { end: CallEnd::Done | CallEnd::Accepted, .. });
        self.settle_call(id, status, Some(error).filter(|_| !is_done), settled);
        self.look_for_calls(ctx);
        self.pump(ctx);
    }

    fn settle_call(&mut self, id: CallId, http_status: Option<u16>, error: Option<String>, settled: CallSettled) {
        let Some(known) = self.calls.known.get_mut(&id) else { return };
        known.is_settling = true;
        let history = known.call.history;
        self.writes.push(ToStore::CallEnded(CallOutcome {
            id,
            history,
            finished_at: now(),
            http_status,
            error,
            settled,
        }));
    }

    /// It is in the store how an attempt ended.
    pub(super) fn call_settled(&mut self, CallOutcome { id, settled, .. }: CallOutcome, ctx: &mut Context<Self>) {
        self.calls.known.remove(&id);
        if self.calls.is_reading {
            self.calls.settled_meanwhile.insert(id);
        }
        if let CallSettled::Again(due) = settled {
            self.calls.may_have_more = true;
            self.look_for_calls_at(due, ctx);
        }
    }
}

fn request(claimed: &ClaimedCall, patience: Duration) -> Request {
    let CallRequest { method, path, headers, body, idempotency_key } = &claimed.call.request;
    let valid =
        |(name, value): &(String, String)| Some((HeaderName::try_from(name).ok()?, HeaderValue::from_str(value).ok()?));
    let json = body.as_ref().map(|_| (CONTENT_TYPE, HeaderValue::from_static("application/json")));
    Request {
        method: *method,
        path: Some(path.clone()),
        headers: json.into_iter().chain(headers.iter().filter_map(valid)).collect::<Headers>(),
        body: body.clone().unwrap_or_default().into(),
        id: utf8_percent_encode(idempotency_key, CONTROLS).to_string(),
        traceparent: None,
        key: claimed.call.key.clone().map(Into::into),
        lane: claimed.call.lane,
        patience,
        max_answer_bytes: MAX_ANSWER_BYTES,
        is_retried: false,
    }
}

/// The answer as JSON: what is none is a text, and what is not whole is nothing.
fn json(content: &Content) -> Option<String> {
    if content.end != BodyEnd::Whole || content.body.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(&content.body);
    match serde_json::from_str::<&RawValue>(&text) {
        Ok(json) => Some(json.get().to_owned()),
        Err(_) => Some(serde_json::Value::from(text).to_string()),
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
