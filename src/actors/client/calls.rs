//! Calls of the service: rows of the store that are no deliveries, and of which somebody must know whether they were done.
//!
//! They are handed over when they are made on this node, or read when they are due, and sent as [asks](super::asks): in
//! hand they wait as those do, with the same breaker, limits and order. What an attempt means is for [`CallHistory`] to say.
//!
//! - *CL-6* Before an attempt the store knows that one is made, unless it knows already that the call may be done. So what
//!   is known there not to have been sent was not sent, whatever crashes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use percent_encoding::{CONTROLS, utf8_percent_encode};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::messages::{Answer, Ask, AskedCall, Asker, BodyEnd, Content, NotSent, Request};
use super::writes::ToStore;
use super::{Client, TICK_INTERVAL};
use crate::actors::clock::now;
use crate::domain::call::{Attempted, CallEnd, CallId, Judged};
use crate::domain::event::Timestamp;
use crate::protocol::delivery_request::Headers;
use crate::storage::{
    CallOutcome, CallRequest, CallSettled, ClaimedCall, EndedCall, NewCall, Outcome, StoreError, Write,
};
use crate::telemetry::faults::{self, FaultPoint};

/// Calls with the asks, in hand or under way.
const MAX_ASKED: usize = 128;
/// Calls that wait for that.
const MAX_WAITING: usize = 1024;
/// Calls that one read finds besides those that are known. It is made when no more than so many wait or are asked.
const PAGE: usize = 128;
/// Bytes of an answer that are kept; of a longer one, nothing is.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Longest time in hand; then it is read again.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// The calls that this client knows, and whether there are others.
#[derive(Debug, Default)]
pub(super) struct Calls {
    known: HashMap<CallId, Known>,
    /// Those that are not with the asks yet, in their order.
    waiting: VecDeque<CallId>,
    /// How many are with the asks.
    asked: usize,
    /// Those of which the store is to be told before they are sent, and who waits for that.
    pub(super) to_mark: Vec<(CallId, oneshot::Sender<()>)>,
    is_reading: bool,
    /// What was settled since the read under way began, and may be in its page as it was before.
    settled_meanwhile: HashSet<CallId>,
    /// The store may have some that are due, and not known. Else it is not read.
    is_behind: bool,
    /// When it may have the next one.
    next_due: Option<Timestamp>,
}

#[derive(Debug)]
struct Known {
    call: ClaimedCall,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// It is with the asks.
    Asked,
    /// Its attempt has ended, and how is on its way to the store.
    Settling,
}

impl Calls {
    /// Begins anew from the store. What is with the asks comes back from there.
    pub(super) fn reset(&mut self) {
        self.waiting.clear();
        self.known.retain(|_, known| known.stage == Stage::Asked);
        // Another node may have begun them since, and the store is right.
        self.known.values_mut().for_each(|known| known.call.call.is_begun = false);
        self.is_behind = true;
    }

    /// What became of it is not in the store, and is another's business.
    pub(super) fn voided(&mut self, id: CallId) {
        self.known.remove(&id);
    }

    /// How many more could be sent at once, if `free` could and nothing waits.
    pub(super) fn room(&self, free: usize) -> usize {
        if self.is_behind || !self.waiting.is_empty() { 0 } else { free }
    }

    /// How one has ended, for who follows it.
    pub(super) fn ended(
        &self,
        CallOutcome { id, history, finished_at, http_status, error, settled }: &CallOutcome,
    ) -> Option<EndedCall> {
        let CallSettled::Ended { end, answer } = settled else { return None };
        let NewCall { owner, tag, .. } = &self.known.get(id)?.call.call;
        Some(EndedCall {
            place: 0,
            id: *id,
            owner: owner.clone(),
            tag: tag.clone(),
            end: *end,
            attempts: history.attempts,
            http_status: *http_status,
            answer: answer.clone(),
            error: error.clone(),
            ended_at: *finished_at,
        })
    }

    /// How many of those that are due are to be read now, if any. Those that are known, or being settled, may be the first: a
    /// read that found them alone would be made again at once, and keep the store from settling them.
    fn next_read(&self) -> Option<usize> {
        let is_wanted = self.is_behind && !self.is_reading && self.waiting.len() + self.asked <= PAGE;
        is_wanted.then(|| self.known.len() + PAGE)
    }

    /// Takes one to be sent, unless it is known.
    fn wait(&mut self, call: ClaimedCall) {
        let id = call.id;
        if !self.known.contains_key(&id) && !self.settled_meanwhile.contains(&id) {
            self.waiting.push_back(id);
            self.known.insert(id, Known { call, stage: Stage::Waiting });
        }
    }
}

impl Client {
    /// There may be calls that were made on another node.
    pub(super) fn look_for_calls_of_others(&mut self, ctx: &mut Context<Self>) {
        self.calls.is_behind |= self.parts.cluster.view().nodes.len() > 1;
        self.look_for_calls(ctx);
    }

    /// Takes the calls that were handed over, and reads those that are due, if the store may have some.
    pub(super) fn look_for_calls(&mut self, ctx: &mut Context<Self>) {
        let handed = self.parts.slot.take_handed();
        let Some(service) = self.kept.id().filter(|_| self.lease.may_act()) else {
            self.calls.is_behind |= !handed.is_empty();
            return;
        };
        let at = now();
        self.calls.is_behind |= self.parts.slot.take_calls() || self.calls.next_due.is_some_and(|due| due <= at);
        for call in handed {
            // What the store has waits longer. But of those of which it knows that they are sent, nobody else may take it
            // that they were not.
            if call.is_marked || !self.calls.is_behind && self.calls.waiting.len() < MAX_WAITING {
                self.calls.wait(call);
            } else {
                self.calls.is_behind = true;
            }
        }
        self.ask_calls();
        let Some(limit) = self.calls.next_read() else { return };
        self.calls.is_reading = true;
        // What is said from now on is of calls that the page may not have.
        (self.calls.is_behind, self.calls.next_due) = (false, None);
        self.calls.settled_meanwhile.clear();
        let reader = self.parts.reader.clone();
        let page = async move {
            let due = reader.due_calls(service, at, Default::default(), limit).await?;
            let is_whole = due.len() < limit;
            Ok((due, is_whole, reader.next_due_call(service, at).await?))
        };
        ctx.spawn(page.into_actor(self).map(|page, this, ctx| this.take_calls(page, ctx)));
    }

    /// `page`: the calls that are due, whether these are all, and when the next one is.
    fn take_calls(
        &mut self,
        page: Result<(Vec<ClaimedCall>, bool, Option<Timestamp>), StoreError>,
        ctx: &mut Context<Self>,
    ) {
        self.calls.is_reading = false;
        // A read that failed is made again with the next tick.
        let Ok((due, is_whole, next)) = page else { return self.calls.is_behind = true };
        self.calls.is_behind |= !is_whole;
        due.into_iter().for_each(|call| self.calls.wait(call));
        self.calls.settled_meanwhile.clear();
        if let Some(next) = next {
            self.look_for_calls_at(next, ctx);
        }
        self.look_for_calls(ctx);
        self.pump(ctx);
    }

    /// The tick looks anyway, so only what is due before it needs a timer.
    fn look_for_calls_at(&mut self, due: Timestamp, ctx: &mut Context<Self>) {
        self.calls.next_due = self.calls.next_due.into_iter().chain([due]).min();
        let wait = due.since(now());
        if wait < TICK_INTERVAL {
            ctx.run_later(wait, Self::look_for_calls);
        }
    }

    /// Has those sent that have waited longest.
    fn ask_calls(&mut self) {
        while self.calls.asked < MAX_ASKED
            && let Some(id) = self.calls.waiting.pop_front()
        {
            self.ask_call(id);
        }
    }

    /// Tells the store of the attempts that are about to be made (CL-6).
    pub(super) fn mark_calls(&mut self) {
        let (ids, marked): (Vec<_>, Vec<_>) = self.calls.to_mark.drain(..).unzip();
        if ids.is_empty() {
            return;
        }
        let answer = self.parts.persistence.commit_all(self.fence(), vec![Write::BeginCalls(ids.clone())]);
        actix_rt::spawn(async move {
            let outcomes = answer?.await.ok()?.ok()?;
            let [Outcome::Begun(open)] = &outcomes[..] else { return None };
            let open: HashSet<&CallId> = open.iter().collect();
            // The others were cancelled, and are dropped.
            for (_, marked) in ids.iter().zip(marked).filter(|(id, _)| open.contains(id)) {
                let _ = marked.send(());
            }
            Some(())
        });
    }

    fn ask_call(&mut self, id: CallId) {
        let Some(Known { call: claimed, stage }) = self.calls.known.get_mut(&id) else { return };
        let at = now();
        let left = claimed.call.expires_at.map(|expires| expires.since(at));
        let is_over = left.is_some_and(|left| left.is_zero());
        let request = request(claimed, left.unwrap_or(PATIENCE).min(PATIENCE));
        let call = Some(AskedCall { id, is_marked: claimed.is_marked });
        let expired = CallSettled::Ended { end: claimed.history.expired(), answer: None };
        *stage = Stage::Asked;
        self.calls.asked += 1;
        if is_over {
            self.calls.asked -= 1;
            return self.settle_call(id, None, Some("it has expired".to_owned()), expired);
        }
        self.asks.take(Ask { request, asker: Asker::nobody(), call }, self.clock.now());
    }

    /// Takes what became of calls that were with the asks, and has others sent in their place.
    pub(super) fn take_answers(&mut self, ctx: &mut Context<Self>) {
        let answered = self.asks.take_answered();
        if answered.is_empty() {
            return;
        }
        let has_ended = answered.iter().any(|(_, answer)| !matches!(answer, Answer::NotSent(_)));
        for (id, answer) in answered {
            self.call_answered(id, answer);
        }
        // What was not sent is found with the next tick at the latest.
        if has_ended {
            self.look_for_calls(ctx);
        }
    }

    fn call_answered(&mut self, id: CallId, answer: Answer) {
        self.calls.asked -= 1;
        if matches!(answer, Answer::Answered { .. }) {
            faults::kill_at(FaultPoint::CallKilledAfter);
        }
        let is_repeat = matches!(answer, Answer::Answered { is_repeat: true, .. });
        let (status, error, attempted, content) = match answer {
            Answer::Answered { status, content, .. } => {
                let is_whole = content.end != BodyEnd::BrokenOff;
                let attempted = Attempted::Answered { status, retry_after: None, is_whole };
                (Some(status), format!("answered {status}"), attempted, Some(content))
            }
            Answer::Failed { kind, message, is_perhaps_sent } => {
                (None, format!("{kind}: {message}"), Attempted::Failed { is_perhaps_sent }, None)
            }
            Answer::NotSent(NotSent::TooLarge) => {
                let end = self.calls.known.get(&id).map_or(CallEnd::Unknown, |known| known.call.history.expired());
                let error = "it is longer than the service accepts".to_owned();
                return self.settle_call(id, None, Some(error), CallSettled::Ended { end, answer: None });
            }
            Answer::NotSent(_) => return self.call_not_sent(id),
        };
        let Some(Known { call: ClaimedCall { call, history, .. }, .. }) = self.calls.known.get_mut(&id) else { return };
        history.may_be_done |= is_repeat;
        let settled = match history.attempted(&call.policy, attempted, rand::random()) {
            Judged::Again(wait) | Judged::PutOff(wait) => CallSettled::Again(now().plus(wait)),
            Judged::Ended(end) => {
                let is_done = matches!(end, CallEnd::Done | CallEnd::Accepted);
                CallSettled::Ended { end, answer: content.filter(|_| is_done).and_then(|content| json(&content)) }
            }
        };
        let is_done = matches!(settled, CallSettled::Ended { end: CallEnd::Done | CallEnd::Accepted, .. });
        self.settle_call(id, status, Some(error).filter(|_| !is_done), settled);
    }

    /// The store has it as it was.
    fn call_not_sent(&mut self, id: CallId) {
        let Some(Known { call, .. }) = self.calls.known.get(&id) else { return };
        // Unless it was made as one that may have been sent.
        let is_wrong = call.call.is_begun && !call.history.may_be_done;
        if is_wrong && self.lease.may_act() {
            return self.settle_call(id, None, None, CallSettled::Again(now()));
        }
        self.calls.known.remove(&id);
        self.calls.is_behind = true;
    }

    fn settle_call(&mut self, id: CallId, http_status: Option<u16>, error: Option<String>, settled: CallSettled) {
        let Some(known) = self.calls.known.get_mut(&id) else { return };
        known.stage = Stage::Settling;
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
