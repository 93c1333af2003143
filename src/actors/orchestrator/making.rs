//! What has been decided on instances, as writes of one transaction.

use std::sync::Arc;

use bytestring::ByteString;
use serde_json::json;

use crate::actors::service_slot::ServiceSlot;
use crate::config::ServiceConfig;
use crate::domain::call::{CallEnd, CallId, CallKind, CallPolicy, Method};
use crate::domain::event::{Append, NewEvent, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::domain::saga::{
    CallReport, Definition, Effect, Entry, Fact, Input, Json, Member, Operation, Origin, ProbeAnswer, Request, State,
    StepIndex, Told,
};
use crate::protocol::finding::refusal;
use crate::protocol::publish::MAX_TEXT_BYTES;
use crate::storage::{CallRequest, EndedCall, NewCall, NewSaga, SagaStanding, SagaTransition, SharedCatalogue, Write};
use crate::telemetry::metrics::Metrics;

/// How long a call of an instance is: its request, besides the body.
const MAX_PATH: usize = 8 * 1024;
/// The tag of a probe, in the place of an operation.
const PROBE: &str = "probe";

/// How an instance was begun that no event has begun: alone of its value, and once under its key.
#[derive(Debug, Clone, Copy)]
pub struct ByHand<'a> {
    pub key: Option<&'a str>,
}

/// What effects are made of.
#[derive(Clone)]
pub struct Means {
    /// The services that may be called.
    pub services: Arc<[(Arc<ServiceConfig>, Arc<ServiceSlot>)]>,
    /// Longest payload of an event, and longest body of a call, in bytes.
    pub max_event_bytes: usize,
    /// Attempts at a compensation in all.
    pub compensation_attempts: u32,
    pub catalogue: Arc<SharedCatalogue>,
    pub metrics: Arc<Metrics>,
}

impl Means {
    fn service(&self, name: &str) -> Result<(&ServiceConfig, &ServiceSlot, ServiceId), String> {
        let found = self.services.iter().find(|(config, _)| config.name == name);
        let (config, slot) = found.ok_or_else(|| format!("there is no service {name:?}"))?;
        let id = slot.id().ok_or_else(|| format!("the service {name:?} is not registered yet"))?;
        Ok((config, slot, id))
    }

    /// Whether all services have their numbers.
    pub fn is_ready(&self) -> bool {
        self.services.iter().all(|(_, slot)| slot.id().is_some())
    }

    /// Whether an effect can be had; else why not.
    pub fn check(&self, effect: &Effect) -> Result<(), String> {
        let bounded = |what: &str, length: usize, most: usize| {
            let is_too_long = length > most;
            if is_too_long { Err(format!("{what} has {length} bytes, more than {most}")) } else { Ok(()) }
        };
        match effect {
            Effect::Call { request: Request { service, path, body }, .. } => {
                self.service(service)?;
                bounded("the path of a call", path.len(), MAX_PATH)?;
                bounded("the body of a call", body.as_ref().map_or(0, |body| body.as_str().len()), self.max_event_bytes)
            }
            Effect::Probe { service, path, .. } => {
                self.service(service)?;
                bounded("the path of a probe", path.len(), MAX_PATH)
            }
            Effect::Publish { event, payload, key, .. } => {
                let event = NewEvent::own(event.as_str(), payload.clone());
                let finding = self.catalogue.with(|catalogue| catalogue.judge_event(&event));
                if let Some(finding) = finding.filter(|finding| finding.refuses) {
                    let error = refusal(&finding);
                    return Err(format!("{}: {}", error.code(), error.message()));
                }
                bounded("the payload of an event", payload.len(), self.max_event_bytes)?;
                bounded("the key of an event", key.as_ref().map_or(0, String::len), MAX_TEXT_BYTES)
            }
            Effect::Silence | Effect::Withdraw { .. } | Effect::Hurry | Effect::Tell { .. } => Ok(()),
        }
    }

    /// All that is written for `members`, whose entries and keys are moved. The first write is void if somebody has decided
    /// before on one of them, and so are all others. `ended`: the calls that were decided on, as far as no one has stored
    /// that they have ended. `by_hand`: they are begun by hand.
    pub fn writes(
        &self,
        members: &mut [Member],
        ended: Vec<CallId>,
        by_hand: Option<ByHand<'_>>,
        now: Timestamp,
    ) -> Vec<Write> {
        let (mut steps, mut calls, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for member in members {
            self.count(member);
            let id = &member.instance.origin.id;
            for effect in &member.effects {
                match effect {
                    Effect::Call { step, operation, request, until } => {
                        calls.extend(self.call(member, (*step, *operation), request, (now, *until)));
                    }
                    Effect::Probe { .. } => calls.extend(self.probe(member, effect)),
                    Effect::Publish { event, payload, key, .. } => {
                        let event = NewEvent {
                            source: format!("saga:{}", member.definition.name).into(),
                            key: key.clone().map(ByteString::from),
                            ..NewEvent::own(event.as_str(), payload.clone())
                        };
                        let append = Append::single(event);
                        let judgement = Some(self.catalogue.with(|catalogue| catalogue.judge(&append)));
                        others.push(Write::Append(Append { judgement, ..append }));
                    }
                    Effect::Silence => others.insert(0, Write::CancelCalls { owner: id.clone(), tag: None }),
                    Effect::Withdraw { step } => {
                        let tag = Some(tag(&member.definition.steps[*step].name, PROBE));
                        others.insert(0, Write::CancelCalls { owner: id.clone(), tag });
                    }
                    Effect::Hurry => others.push(Write::HurryCalls { owner: id.clone() }),
                    Effect::Tell { what, step, reason } => {
                        others.push(Write::Append(Append::single(told(member, *what, *step, reason.as_deref()))));
                    }
                }
            }
            steps.push(transition(member, by_hand, now));
        }
        if steps.is_empty() && ended.is_empty() {
            return Vec::new();
        }
        let calls = (!calls.is_empty()).then_some(Write::MakeCalls(calls));
        std::iter::once(Write::SaveSagas { steps, ended }).chain(calls).chain(others).collect()
    }

    /// Counts what was decided, though it may be decided again after a failure.
    fn count(&self, Member { definition, instance, entries, effects, .. }: &Member) {
        let saga = definition.name.as_str();
        for effect in effects {
            if let Effect::Tell { what, .. } = effect {
                self.metrics.saga_changes.with_label_values(&[saga, what.as_str()]).inc();
            }
        }
        for Entry { at, fact } in entries {
            let since = |began: Option<Timestamp>| at.since(began.unwrap_or(*at)).as_secs_f64();
            match fact {
                Fact::Ended { step, end, .. } => {
                    let labels = [saga, &*definition.steps[*step].name, end.as_str()];
                    let took = since(instance.steps[*step].started_at);
                    self.metrics.saga_step_duration.with_label_values(&labels).observe(took);
                }
                Fact::Finished { end } => {
                    let took = since(instance.started_at);
                    self.metrics.saga_duration.with_label_values(&[saga, end.as_str()]).observe(took);
                }
                _ => {}
            }
        }
    }

    fn call(
        &self,
        member: &Member,
        (step, operation): (StepIndex, Operation),
        request: &Request,
        (due_at, expires_at): (Timestamp, Option<Timestamp>),
    ) -> Option<NewCall> {
        let (service, slot, id) = self.service(&request.service).ok()?;
        let does = &member.definition.steps[step];
        let retry = does.retry.as_ref();
        let options = &service.options;
        let (kind, most) = match operation {
            Operation::Action => (CallKind::Action, retry.and_then(|retry| retry.max_attempts)),
            Operation::Compensation => {
                let done = does.undo.iter().flat_map(|undo| undo.done.iter().copied()).collect();
                (CallKind::Compensation { done }, Some(self.compensation_attempts))
            }
        };
        let policy = CallPolicy {
            kind,
            max_attempts: most.unwrap_or(options.max_attempts),
            retry_base: retry.and_then(|retry| retry.base).unwrap_or(options.retry_base.get()),
            retry_cap: retry.and_then(|retry| retry.cap).unwrap_or(options.retry_cap.get()),
        };
        let mut headers = headers(member, step);
        headers.push(("saga-operation".to_owned(), operation.as_str().to_owned()));
        let request = CallRequest {
            method: Method::Post,
            path: request.path.clone(),
            headers,
            body: request.body.as_ref().map(|body| body.as_str().to_owned()),
            idempotency_key: idempotency_key(member, step, operation),
        };
        let mut call = NewCall {
            service: id,
            owner: member.instance.origin.id.clone(),
            tag: tag(&does.name, operation.as_str()),
            lane: Lane::Normal,
            key: None,
            request,
            policy,
            due_at,
            expires_at,
            is_begun: false,
        };
        call.is_begun = slot.has_room_for(&call);
        Some(call)
    }

    fn probe(&self, member: &Member, effect: &Effect) -> Option<NewCall> {
        let Effect::Probe { step, service, path, at, every, until } = effect else { return None };
        let (_, _, id) = self.service(service).ok()?;
        let request = CallRequest {
            method: Method::Get,
            path: path.clone(),
            headers: headers(member, *step),
            body: None,
            idempotency_key: idempotency_key(member, *step, Operation::Action),
        };
        let policy = CallPolicy { kind: CallKind::Probe, max_attempts: 1, retry_base: *every, retry_cap: *every };
        Some(NewCall {
            service: id,
            owner: member.instance.origin.id.clone(),
            tag: tag(&member.definition.steps[*step].name, PROBE),
            lane: Lane::Normal,
            key: None,
            request,
            policy,
            due_at: *at,
            expires_at: Some(*until),
            is_begun: false,
        })
    }
}

fn headers(member: &Member, step: StepIndex) -> Vec<(String, String)> {
    let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![named("saga-id", &member.instance.origin.id), named("saga-step", &member.definition.steps[step].name)]
}

/// The same for every attempt, and after every crash.
fn idempotency_key(member: &Member, step: StepIndex, operation: Operation) -> String {
    let (id, step) = (&member.instance.origin.id, &member.definition.steps[step].name);
    match operation {
        Operation::Action => format!("saga/{id}/{step}"),
        Operation::Compensation => format!("saga/{id}/{step}/compensation"),
    }
}

fn tag(step: &str, what: &str) -> String {
    format!("{step}/{what}")
}

/// What the end of a call is for the instance that has made it. None if it is no call of a saga.
pub fn ended(definition: &Definition, call: &EndedCall) -> Option<Input> {
    let (step, what) = call.tag.rsplit_once('/')?;
    let step = definition.step(step)?;
    // What is done has a response; it is null if it is empty, or too long to be kept.
    let is_done = matches!(call.end, CallEnd::Done | CallEnd::Accepted);
    let answer = || call.answer.as_deref().or(is_done.then_some("null")).and_then(Json::parse);
    if what == PROBE {
        let answer = match call.end {
            CallEnd::Done | CallEnd::Accepted => ProbeAnswer::Done(answer()),
            CallEnd::Refused => ProbeAnswer::NotDone,
            CallEnd::Unknown | CallEnd::NotSent => ProbeAnswer::Unclear,
        };
        return Some(Input::Probed { step, answer });
    }
    let operation = [Operation::Action, Operation::Compensation].into_iter().find(|known| known.as_str() == what)?;
    Some(Input::CallEnded(CallReport {
        step,
        operation,
        outcome: call.end,
        attempts: call.attempts,
        response: answer(),
        error: call.error.clone(),
    }))
}

/// `$sys.saga.*`.
fn told(member: &Member, what: Told, step: Option<StepIndex>, reason: Option<&str>) -> NewEvent {
    let step = step.map(|step| &*member.definition.steps[step].name);
    event(&member.instance.origin, what.as_str(), member.instance.state(), step, reason)
}

/// `$sys.saga.{what}`.
pub fn event(origin: &Origin, what: &str, state: State, step: Option<&str>, reason: Option<&str>) -> NewEvent {
    let Origin { id, saga, version, correlation, .. } = origin;
    let (state, step, reason) = (state.as_str(), json!(step), json!(reason));
    // Of a correlation value the text is kept: a number may be of any length.
    let payload = format!(
        r#"{{"saga_id":"{id}","name":"{saga}","version":{version},"correlation":{correlation},"state":"{state}","step":{step},"reason":{reason}}}"#
    );
    NewEvent::own(&format!("$sys.saga.{what}"), payload)
}

fn transition(member: &mut Member, by_hand: Option<ByHand<'_>>, now: Timestamp) -> SagaTransition {
    let due_at = member.due_at();
    let Member { instance, from, entries, awaits, .. } = member;
    let (entries, awaits) = (std::mem::take(entries), std::mem::take(awaits));
    let standing = SagaStanding {
        state: instance.state(),
        holds: instance.holds(),
        is_paused: instance.is_paused,
        started_at: instance.started_at,
        updated_at: instance.updated_at,
        due_at,
        length: instance.length,
    };
    let id = instance.origin.id.clone();
    let start_key = by_hand.and_then(|by_hand| by_hand.key).map(str::to_owned);
    let new = from.is_none().then(|| NewSaga { origin: instance.origin.clone(), made_at: now, start_key });
    SagaTransition { id, new, is_alone: by_hand.is_some(), from: from.unwrap_or(0), standing, entries, awaits }
}
