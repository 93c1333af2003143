//! What an instance does next: one transition function, from an input to entries of the journal and effects.
//!
//! The entries, their effects and the input that caused them are stored in one transaction. So an effect is asked for
//! exactly once, whatever crashes when; and what it asks of a service carries the same key however often it is sent.
//!
//! - *SG-1* What may have happened is undone in the reverse order of its beginning, and nothing else is.
//! - *SG-2* A call of which nobody knows is never taken for one that failed.
//! - *SG-3* After the pivot nothing is undone.
//! - *SG-4* What has ended does not change.

use super::definition::{Call, Definition, Match, OnFailure, OnTrouble, Reply, StepIndex, Work};
use super::instance::{Instance, Phase, State, StepState};
use super::journal::{Decision, Entry, Fact, InstanceEnd, Operation, Request, StepEnd, WaitsFor};
use super::json::Json;
use super::template::{Absent, Template};
use crate::domain::call::CallEnd;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::name::EventName;

/// Longest journal. What would be longer is set aside for an operator.
pub const MAX_ENTRIES: u32 = 10_000;

/// What an instance is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// It is its turn. `after`: its first steps take replies after this event.
    Start { after: EventId },
    /// It is not to begin by itself.
    SetAside { reason: String },
    /// A call has ended, after all its attempts.
    CallEnded {
        step: StepIndex,
        operation: Operation,
        outcome: CallEnd,
        attempts: u32,
        response: Option<Json>,
        error: Option<String>,
    },
    /// A service has answered a probe.
    Probed { step: StepIndex, answer: ProbeAnswer },
    /// An event that is [a reply](verdict_of).
    Reply { step: StepIndex, event_id: EventId, event: Json, is_success: bool },
    /// Something is due by now.
    Due,
    /// An operator's word, with its reason.
    Operator { verb: Verb, reason: String },
}

/// What a service knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// It was done, with this response.
    Done(Option<Json>),
    NotDone,
    /// It says neither.
    Unclear,
}

/// What an operator may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Retry,
    Skip { result: Option<Json> },
    Compensate,
    Abort,
    Pause,
    Resume,
}

/// What is to be done, in the transaction of the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Call {
        step: StepIndex,
        operation: Operation,
        request: Request,
    },
    /// Ask what has become of a call, no sooner than this.
    Probe {
        step: StepIndex,
        service: String,
        path: String,
        at: Timestamp,
    },
    Publish {
        step: StepIndex,
        event: EventName,
        payload: String,
        key: Option<String>,
    },
    /// Its calls are not sent any more, as far as they were not.
    Silence,
    /// Its calls that wait for another attempt are sent at once.
    Hurry,
    Tell {
        what: Told,
        step: Option<StepIndex>,
        reason: Option<String>,
    },
}

/// What is told of an instance, as the last part of `$sys.saga.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Started,
    Completed,
    Compensating,
    Compensated,
    Aborted,
    NeedsOperator,
    Paused,
    Resumed,
    LateReply,
}

impl Told {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Compensating => "compensating",
            Self::Compensated => "compensated",
            Self::Aborted => "aborted",
            Self::NeedsOperator => "needs_operator",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::LateReply => "late_reply",
        }
    }
}

/// What an input leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub entries: Vec<Entry>,
    pub effects: Vec<Effect>,
}

/// The word of an operator does not fit the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit;

/// Takes an input. The instance has the entries applied then. `log_end`: replies to what begins now come after it.
pub fn decide(
    definition: &Definition,
    instance: &mut Instance,
    input: Input,
    (now, log_end): (Timestamp, EventId),
) -> Result<Outcome, Unfit> {
    let mut deciding = Deciding { definition, instance, now, after: log_end, outcome: Outcome::default() };
    deciding.take(input)?;
    Ok(deciding.outcome)
}

/// Whether an event is a reply to a step, and if so whether it says success. None if it is for another, or only tells
/// of progress.
pub fn verdict_of(
    definition: &Definition,
    instance: &Instance,
    step: StepIndex,
    (name, payload): (&EventName, &str),
) -> Option<bool> {
    let Reply { event, match_by, success, failure, .. } = definition.steps[step].reply.as_ref()?;
    if !event.matches(name) {
        return None;
    }
    let is_for_it = match match_by {
        Match::Correlation(pointer) => {
            let value = pointer.find(payload).and_then(super::correlation::Correlation::of);
            value.as_ref() == Some(&instance.origin.correlation)
        }
        Match::Values(values) => {
            let scope = instance.scope(definition, None);
            values.iter().all(|(pointer, value)| {
                let wanted = value.fill(&scope).ok().and_then(|json| super::correlation::Correlation::of(&json));
                wanted.is_some() && pointer.find(payload).and_then(super::correlation::Correlation::of) == wanted
            })
        }
    };
    if !is_for_it {
        return None;
    }
    match (success, failure) {
        (Some(success), _) if success.matches(payload) => Some(true),
        (_, Some(failure)) if failure.matches(payload) => Some(false),
        (None, _) => Some(true),
        (Some(_), Some(_)) => None,
        (Some(_), None) => Some(false),
    }
}

struct Deciding<'a> {
    definition: &'a Definition,
    instance: &'a mut Instance,
    now: Timestamp,
    after: EventId,
    outcome: Outcome,
}

impl Deciding<'_> {
    fn take(&mut self, input: Input) -> Result<(), Unfit> {
        if matches!(self.instance.phase, Phase::Ended(_)) && !matches!(input, Input::Reply { .. }) {
            // SG-4.
            return if let Input::Operator { .. } = input { Err(Unfit) } else { Ok(()) };
        }
        match input {
            Input::Start { after } => {
                if self.instance.phase != Phase::Queued {
                    return Ok(());
                }
                self.after = after;
                self.record(Fact::Started);
                self.tell(Told::Started, None, None);
            }
            Input::SetAside { reason } => {
                if self.instance.phase == Phase::Queued {
                    self.needs_operator(None, &reason);
                }
            }
            Input::CallEnded { step, operation, outcome, attempts, response, error } => {
                if self.instance.steps[step].calling != Some(operation) {
                    return Ok(());
                }
                let told = error.clone();
                self.record(Fact::Called { step, operation, outcome, attempts, response, error });
                match operation {
                    Operation::Action => self.called(step, outcome, told),
                    Operation::Compensation => self.undone(step, outcome, told),
                }
            }
            Input::Probed { step, answer } => self.probed(step, answer),
            Input::Reply { step, event_id, event, is_success } => self.replied(step, event_id, event, is_success),
            Input::Due => self.due(),
            Input::Operator { verb, reason } => self.operator(verb, reason)?,
        }
        self.advance();
        Ok(())
    }

    fn record(&mut self, fact: Fact) {
        let entry = Entry { at: self.now, fact };
        self.instance.apply(self.definition, &entry);
        self.outcome.entries.push(entry);
    }

    fn tell(&mut self, what: Told, step: Option<StepIndex>, reason: Option<String>) {
        self.outcome.effects.push(Effect::Tell { what, step, reason });
    }

    /// Begins whatever can begin, until nothing more can.
    fn advance(&mut self) {
        while !self.instance.is_paused {
            let goes_on = match self.instance.phase {
                Phase::Forward if self.instance.length > MAX_ENTRIES => {
                    self.needs_operator(None, "its journal is full");
                    false
                }
                Phase::Forward => self.advance_forward(),
                Phase::Compensating => self.advance_back(),
                Phase::Queued | Phase::NeedsOperator | Phase::Ended(_) => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Begins the next step of each branch of the stage. Whether anything has changed.
    fn advance_forward(&mut self) -> bool {
        let has_ended = |step: &StepIndex| self.instance.steps[*step].state.has_ended();
        let Some(stage) = self.definition.stages.iter().find(|stage| !stage.iter().flatten().all(has_ended)) else {
            self.finish(InstanceEnd::Completed, Told::Completed);
            return false;
        };
        let next = stage.iter().filter_map(|branch| branch.iter().copied().find(|step| !has_ended(step)));
        let pending: Vec<_> = next.filter(|step| self.instance.steps[*step].state == StepState::Pending).collect();
        for step in &pending {
            if self.instance.phase == Phase::Forward {
                self.begin(*step);
            }
        }
        !pending.is_empty()
    }

    /// Begins the next compensation, once nothing is under way. Whether anything has changed.
    fn advance_back(&mut self) -> bool {
        if self.instance.steps.iter().any(|step| step.calling.is_some()) {
            return false;
        }
        let is_to_be_undone = |step: &StepIndex| {
            let record = &self.instance.steps[*step];
            let is_settled = matches!(record.state, StepState::Compensated | StepState::CompensationFailed);
            record.may_have_happened && !is_settled && self.definition.steps[*step].undo.is_some()
        };
        match self.instance.order.iter().rev().copied().find(is_to_be_undone) {
            Some(step) => self.undo(step),
            None if self.instance.steps.iter().any(|step| step.state == StepState::CompensationFailed) => {
                self.needs_operator(None, "a compensation has failed");
                return false;
            }
            None => {
                self.finish(InstanceEnd::Compensated, Told::Compensated);
                return false;
            }
        }
        true
    }

    fn begin(&mut self, step: StepIndex) {
        let definition = self.definition;
        let does = &definition.steps[step];
        if self.instance.steps[step].may_have_happened && self.ask(step, self.now) {
            return;
        }
        let scope = self.instance.scope(definition, None);
        if does.when.as_ref().is_some_and(|when| !when.matches(&scope)) {
            return self.record(Fact::Skipped { step });
        }
        let undo = does.undo.as_ref().filter(|undo| !names_itself(&undo.call));
        let filled = undo.map(|undo| request(&undo.call, &scope)).transpose().and_then(|undo| {
            let effect = match &does.work {
                Work::Call(call) => {
                    let request = request(call, &scope)?;
                    Some(Effect::Call { step, operation: Operation::Action, request })
                }
                Work::Publish { event, payload, key } => {
                    let key = key.as_ref().map(|key| key.fill(&scope)).transpose()?;
                    Some(Effect::Publish { step, event: event.clone(), payload: payload.fill(&scope)?, key })
                }
                Work::Wait(_) => None,
            };
            Ok((undo, effect))
        });
        let until = match &does.work {
            Work::Wait(text) => text.fill(&scope).map(|text| instant(&text, self.now)),
            _ => Ok(None),
        };
        let (after, failed) = (self.after, |Absent(path)| format!("template_error: ${{{path}}} is not there"));
        let (filled, until) = match (filled, until) {
            (Ok(filled), Ok(until)) => (filled, until),
            (Err(absent), _) | (_, Err(absent)) => return self.never_begun(step, failed(absent)),
        };
        if matches!(does.work, Work::Wait(_)) && until.is_none() {
            return self.never_begun(step, "template_error: wait is neither a duration nor an instant".to_owned());
        }
        let (undo, effect) = filled;
        self.record(Fact::Begun { step, after, undo });
        self.outcome.effects.extend(effect);
        match (&does.work, until) {
            (Work::Call(_), _) => {}
            (_, Some(until)) => self.record(Fact::Waiting { step, on: WaitsFor::Time, until }),
            (_, None) => self.done(step, None),
        }
    }

    /// A step of which a template cannot be filled fails without a call.
    fn never_begun(&mut self, step: StepIndex, error: String) {
        self.record(Fact::Begun { step, after: self.after, undo: None });
        let called = Fact::Called {
            step,
            operation: Operation::Action,
            outcome: CallEnd::NotSent,
            attempts: 0,
            response: None,
            error: Some(error.clone()),
        };
        self.record(called);
        self.end(step, StepEnd::Failed, None, Some(error));
    }

    /// What the step does is done; it waits for its reply, if it awaits one.
    fn done(&mut self, step: StepIndex, response: Option<Json>) {
        match &self.definition.steps[step].reply {
            Some(reply) => {
                let until = self.now.plus(reply.timeout);
                self.record(Fact::Waiting { step, on: WaitsFor::Event, until });
            }
            None => self.end(step, StepEnd::Succeeded, response, None),
        }
    }

    fn called(&mut self, step: StepIndex, outcome: CallEnd, error: Option<String>) {
        let record = &self.instance.steps[step];
        // SG-2: one attempt of which nobody knows is enough.
        let perhaps = record.may_have_happened;
        if let Some(is_success) = record.early {
            let end = if is_success { StepEnd::Succeeded } else { StepEnd::FailedPerhaps };
            return self.end(step, end, None, error.filter(|_| !is_success));
        }
        match outcome {
            CallEnd::Done | CallEnd::Accepted => {
                let goes_on = self.goes_on();
                let is_awaited = self.definition.steps[step].reply.is_some();
                if goes_on
                    && outcome == CallEnd::Accepted
                    && !is_awaited
                    && self.ask(step, self.now.plus(self.probe_interval(step)))
                {
                    return;
                }
                if goes_on { self.done(step, None) } else { self.end(step, StepEnd::Succeeded, None, None) }
            }
            CallEnd::Refused | CallEnd::NotSent if !perhaps => self.end(step, StepEnd::Failed, None, error),
            CallEnd::Refused | CallEnd::NotSent | CallEnd::Unknown => self.unknown(step, error),
        }
    }

    /// Nobody knows what has become of the step: its service is asked, if there is a way.
    fn unknown(&mut self, step: StepIndex, error: Option<String>) {
        if !self.goes_on() || !self.ask(step, self.now) {
            self.end(step, StepEnd::Unknown, None, error);
        }
    }

    /// Whether what was begun goes on as it would, though perhaps nothing else begins.
    fn goes_on(&self) -> bool {
        matches!(self.instance.phase, Phase::Forward | Phase::NeedsOperator) && !self.instance.is_undoing
    }

    fn probe_interval(&self, step: StepIndex) -> std::time::Duration {
        self.definition.steps[step].probe.as_ref().map(|probe| probe.every).unwrap_or_default()
    }

    /// Asks what has become of the step, no sooner than `at`. Whether there is a way to ask.
    fn ask(&mut self, step: StepIndex, at: Timestamp) -> bool {
        let Some(timeout) = self.definition.steps[step].probe.as_ref().map(|probe| probe.timeout) else { return false };
        if !self.probe(step, at) {
            return false;
        }
        let until = self.now.plus(timeout);
        self.record(Fact::Waiting { step, on: WaitsFor::Probe, until });
        true
    }

    fn probe(&mut self, step: StepIndex, at: Timestamp) -> bool {
        let Some(probe) = &self.definition.steps[step].probe else { return false };
        let Ok(path) = probe.path.fill_path(&self.instance.scope(self.definition, None)) else { return false };
        self.outcome.effects.push(Effect::Probe { step, service: probe.service.clone(), path, at });
        true
    }

    fn probed(&mut self, step: StepIndex, answer: ProbeAnswer) {
        let Some((WaitsFor::Probe, until)) = self.instance.steps[step].waits else { return };
        match answer {
            ProbeAnswer::Done(response) => self.end(step, StepEnd::Succeeded, response, None),
            ProbeAnswer::NotDone if self.instance.steps[step].is_retried => self.record(Fact::NotDone { step }),
            ProbeAnswer::NotDone => {
                let error = "the service says that it was not done".to_owned();
                self.end(step, StepEnd::Failed, None, Some(error));
            }
            ProbeAnswer::Unclear if self.now < until => {
                let at = self.now.plus(self.probe_interval(step));
                if !self.probe(step, at) {
                    self.end(step, StepEnd::Unknown, None, None);
                }
            }
            ProbeAnswer::Unclear => {
                let error = "the service does not say whether it was done".to_owned();
                self.end(step, StepEnd::Unknown, None, Some(error));
            }
        }
    }

    fn replied(&mut self, step: StepIndex, event_id: EventId, event: Json, is_success: bool) {
        let record = &self.instance.steps[step];
        let is_live = matches!(self.instance.phase, Phase::Forward | Phase::Compensating | Phase::NeedsOperator);
        if !is_live || record.state.has_ended() {
            let is_repeated = record.state == StepState::Succeeded && is_success;
            if !is_repeated && event_id > record.after && record.started_at.is_some() && !record.has_late_reply {
                let was_undone = record.state == StepState::Compensated;
                self.record(Fact::LateReply { step, event_id, is_success });
                let reason = (is_success && was_undone).then(|| "success after its compensation".to_owned());
                self.tell(Told::LateReply, Some(step), reason);
            }
            return;
        }
        if record.state == StepState::Pending || event_id <= record.after {
            return;
        }
        if record.calling == Some(Operation::Action) {
            // The first one counts.
            if record.early.is_none() {
                self.record(Fact::Replied { step, event, is_success });
            }
            return;
        }
        let end = if is_success { StepEnd::Succeeded } else { StepEnd::FailedPerhaps };
        let error = (!is_success).then(|| "the awaited event says so".to_owned());
        self.record(Fact::Ended { step, end, event: Some(event), response: None, error: error.clone() });
        self.follow_up(step, end, error);
    }

    fn due(&mut self) {
        if self.instance.is_paused || self.instance.phase != Phase::Forward {
            return;
        }
        for step in 0..self.instance.steps.len() {
            let Some((on, until)) = self.instance.steps[step].waits else { continue };
            if until > self.now || self.instance.phase != Phase::Forward {
                continue;
            }
            match on {
                WaitsFor::Time => self.done(step, None),
                WaitsFor::Event => self.unknown(step, Some("no reply in time".to_owned())),
                // It ends with the answer that is under way.
                WaitsFor::Probe => {}
            }
        }
        if self.instance.phase == Phase::Forward && self.instance.deadline_at.is_some_and(|at| at <= self.now) {
            match self.definition.on_deadline {
                OnTrouble::Compensate if !self.is_past_pivot(None) => self.compensate("the deadline has passed"),
                _ => self.needs_operator(None, "the deadline has passed"),
            }
        }
    }

    fn end(&mut self, step: StepIndex, end: StepEnd, response: Option<Json>, error: Option<String>) {
        self.record(Fact::Ended { step, end, event: None, response, error: error.clone() });
        self.follow_up(step, end, error);
    }

    /// What follows from the end of a step, on the way forward.
    fn follow_up(&mut self, step: StepIndex, end: StepEnd, error: Option<String>) {
        if self.instance.phase != Phase::Forward || end == StepEnd::Succeeded {
            return;
        }
        let does = &self.definition.steps[step];
        let why = format!("step {:?}: {}", does.name, error.as_deref().unwrap_or("unknown"));
        let goes_back = match end {
            StepEnd::Succeeded => return,
            StepEnd::Failed | StepEnd::FailedPerhaps => match does.on_failure {
                OnFailure::Continue => return,
                OnFailure::Compensate => true,
                OnFailure::NeedsOperator => false,
            },
            StepEnd::Unknown => does.on_unknown == OnTrouble::Compensate,
        };
        // SG-3: a pivot that may have happened can go back only by a compensation of its own.
        let is_past = self.is_past_pivot(Some(step)) || does.is_pivot && end != StepEnd::Failed && does.undo.is_none();
        if goes_back && !is_past { self.compensate(&why) } else { self.needs_operator(Some(step), &why) }
    }

    /// Whether the pivot may have happened; that it is `but` does not count.
    fn is_past_pivot(&self, but: Option<StepIndex>) -> bool {
        let pivot = self.definition.pivot().filter(|pivot| Some(*pivot) != but);
        pivot.is_some_and(|pivot| {
            let record = &self.instance.steps[pivot];
            record.may_have_happened || record.calling.is_some()
        })
    }

    /// Begins no step any more, and undoes what may have happened once nothing is under way.
    fn compensate(&mut self, reason: &str) {
        self.record(Fact::Compensating { reason: reason.to_owned() });
        self.tell(Told::Compensating, None, Some(reason.to_owned()));
        for step in 0..self.instance.steps.len() {
            let record = &self.instance.steps[step];
            if record.state == StepState::Waiting {
                let end = match record.waits {
                    Some((WaitsFor::Time, _)) => StepEnd::Failed,
                    _ => StepEnd::Unknown,
                };
                let error = Some("the saga has turned back".to_owned());
                self.record(Fact::Ended { step, end, event: None, response: None, error });
            }
        }
    }

    fn undo(&mut self, step: StepIndex) {
        let undo = self.definition.steps[step].undo.as_ref().expect("invariant: it has a compensation");
        let known = self.instance.steps[step].undo.clone();
        let request = known.map_or_else(|| request(&undo.call, &self.instance.scope(self.definition, Some(step))), Ok);
        match request {
            Ok(request) => {
                self.record(Fact::Undoing { step });
                self.outcome.effects.push(Effect::Call { step, operation: Operation::Compensation, request });
            }
            Err(Absent(path)) => {
                let error = Some(format!("template_error: ${{{path}}} is not there"));
                self.record(Fact::Undone { step, error });
            }
        }
    }

    fn undone(&mut self, step: StepIndex, outcome: CallEnd, error: Option<String>) {
        let error = match outcome {
            CallEnd::Done | CallEnd::Accepted => None,
            _ => Some(error.unwrap_or_else(|| "no answer".to_owned())),
        };
        self.record(Fact::Undone { step, error });
    }

    fn needs_operator(&mut self, step: Option<StepIndex>, reason: &str) {
        self.record(Fact::NeedsOperator { reason: reason.to_owned() });
        self.tell(Told::NeedsOperator, step, Some(reason.to_owned()));
    }

    fn finish(&mut self, end: InstanceEnd, told: Told) {
        self.record(Fact::Finished { end });
        self.tell(told, None, None);
    }

    fn operator(&mut self, verb: Verb, reason: String) -> Result<(), Unfit> {
        let (state, is_paused) = (self.instance.state(), self.instance.is_paused);
        let decided = |decision| Fact::Decided { decision, reason: reason.clone() };
        match verb {
            Verb::Retry if matches!(state, State::Running | State::Compensating) => {
                self.outcome.effects.push(Effect::Hurry);
            }
            Verb::Retry if state == State::NeedsOperator => {
                let steps = self.stuck();
                self.record(decided(Decision::Retry { steps }));
            }
            Verb::Skip { result } if state == State::NeedsOperator => {
                let steps = self.stuck();
                if steps.is_empty() {
                    return Err(Unfit);
                }
                self.record(decided(Decision::Skip { steps, result }));
            }
            Verb::Compensate if matches!(state, State::Running | State::Waiting | State::NeedsOperator) => {
                if self.is_past_pivot(None) || self.instance.is_undoing {
                    return Err(Unfit);
                }
                self.compensate(&reason);
            }
            Verb::Abort => {
                self.outcome.effects.push(Effect::Silence);
                self.record(Fact::Finished { end: InstanceEnd::Aborted });
                self.tell(Told::Aborted, None, Some(reason));
            }
            Verb::Pause if !is_paused => {
                self.record(decided(Decision::Pause));
                self.tell(Told::Paused, None, Some(reason));
            }
            Verb::Resume if is_paused => {
                self.record(decided(Decision::Resume));
                self.tell(Told::Resumed, None, Some(reason));
                self.due();
            }
            Verb::Retry | Verb::Skip { .. } | Verb::Compensate | Verb::Pause | Verb::Resume => return Err(Unfit),
        }
        Ok(())
    }

    /// The steps that keep it from going on.
    fn stuck(&self) -> Vec<StepIndex> {
        let is_stuck = |step: &StepIndex| match self.instance.steps[*step].state {
            StepState::CompensationFailed => true,
            StepState::Failed => {
                !self.instance.is_undoing && self.definition.steps[*step].on_failure != OnFailure::Continue
            }
            StepState::Unknown => !self.instance.is_undoing,
            _ => false,
        };
        (0..self.instance.steps.len()).filter(is_stuck).collect()
    }
}

fn names_itself(call: &Call) -> bool {
    let mut found = false;
    let mut look = |path: &[String]| found |= path.get(1).is_some_and(|name| name == super::definition::SELF);
    call.path.paths().for_each(&mut look);
    call.body.iter().for_each(|body| body.for_each_path(&mut look));
    found
}

fn request(call: &Call, scope: &str) -> Result<Request, Absent> {
    let body = call.body.as_ref().map(|body: &Template| body.fill(scope)).transpose()?;
    let body = body.map(|text| Json::parse(&text).expect("invariant: a filled template is JSON"));
    Ok(Request { service: call.service.clone(), path: call.path.fill_path(scope)?, body })
}

/// The instant that `text` says: so long from `now` on, or itself.
fn instant(text: &str, now: Timestamp) -> Option<Timestamp> {
    humantime::parse_duration(text).ok().map(|span| now.plus(span)).or_else(|| Timestamp::parse(text))
}
