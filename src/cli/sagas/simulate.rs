//! Sagas in virtual time: the same machine as in the service, with a file in the place of the world.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::{Failure, output};
use crate::domain::call::CallEnd;
use crate::domain::event::Timestamp;
use crate::domain::name::EventName;
use crate::domain::saga::{
    CallReport, Correlation, Decision, Definition, Effect, Entry, Fact, Input, Instance, Json, OnDuplicate, Operation,
    Origin, ProbeAnswer, StepIndex, WaitsFor, Work, decide, verdict_of,
};

/// Most transitions of a simulation: sagas that begin each other would go on for ever.
const MAX_TRANSITIONS: usize = 100_000;

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    after: Option<String>,
    event_name: Option<String>,
    payload: Option<Box<RawValue>>,
    step: Option<String>,
    operation: Option<Asked>,
    status: Option<u16>,
    body: Option<Json>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum Asked {
    #[default]
    Action,
    Compensation,
    Probe,
}

/// How a request ends. Without a status nobody knows.
#[derive(Clone)]
struct Answer {
    status: Option<u16>,
    body: Option<Json>,
}

struct Running {
    definition: usize,
    instance: Instance,
}

struct Simulation {
    definitions: Vec<Definition>,
    running: Vec<Running>,
    answers: HashMap<(String, Asked), VecDeque<Answer>>,
    /// What is due, the earliest first; of equal times in the order in which it was asked for.
    pending: VecDeque<(Timestamp, Pending)>,
    now: Timestamp,
    log_end: i64,
    transitions: usize,
}

enum Pending {
    Input { of: usize, input: Input },
    Event { name: EventName, payload: String },
}

/// Runs the events of `path`.
pub fn run(definitions: Vec<Definition>, path: &Path) -> Result<(), Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    let mut simulation = Simulation {
        definitions,
        running: Vec::new(),
        answers: HashMap::new(),
        pending: VecDeque::new(),
        now: Timestamp(0),
        log_end: 0,
        transitions: 0,
    };
    // What is to come is known from the beginning: a line may say how a call ends that an earlier one leads to.
    let mut lines = Vec::new();
    for (at, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let wrong = |reason: &dyn Display| Failure::Usage(format!("line {} of {}: {reason}", at + 1, path.display()));
        let line: Line = serde_json::from_str(text).map_err(|error| wrong(&error))?;
        let after = line.after.as_deref().map_or(Ok(Duration::ZERO), humantime::parse_duration);
        let after = after.map_err(|error| wrong(&format_args!("after: {error}")))?;
        if let Some(step) = line.step {
            if !simulation.definitions.iter().any(|saga| saga.step(&step).is_some()) {
                return Err(wrong(&format_args!("there is no step {step:?}")));
            }
            if line.status.is_some_and(|status| !(100..600).contains(&status)) {
                return Err(wrong(&"status: must be a status of HTTP, 100 to 599"));
            }
            let answer = Answer { status: line.status, body: line.body };
            simulation.answers.entry((step, line.operation.unwrap_or_default())).or_default().push_back(answer);
        } else {
            let name = line.event_name.map(EventName::parse).transpose().map_err(|error| wrong(&error))?;
            let payload = line.payload.map_or_else(|| "{}".to_owned(), |payload| payload.get().to_owned());
            lines.push((after, name.map(|name| Pending::Event { name, payload })));
        }
    }
    for (after, event) in lines {
        simulation.pass(simulation.now.plus(after))?;
        if let Some(event) = event {
            simulation.pending.push_back((simulation.now, event));
            simulation.pass(simulation.now)?;
        }
    }
    simulation.pass(Timestamp(i64::MAX))?;
    simulation.summary()
}

impl Simulation {
    /// Lets time pass until `until`, or until nothing more is due.
    fn pass(&mut self, until: Timestamp) -> Result<(), Failure> {
        loop {
            let first = (0..self.pending.len()).min_by_key(|at| self.pending[*at].0);
            let request = first.map(|at| self.pending[at].0);
            let timer = self.running.iter().filter_map(|running| running.instance.due()).min();
            let Some(next) = request.into_iter().chain(timer).min().filter(|next| *next <= until) else { break };
            self.now = next.max(self.now);
            if request == Some(next)
                && let Some((_, pending)) = first.and_then(|at| self.pending.remove(at))
            {
                match pending {
                    Pending::Input { of, input } => self.tell(of, input)?,
                    Pending::Event { name, payload } => self.publish(&name, &payload)?,
                }
                continue;
            }
            for of in 0..self.running.len() {
                if self.running[of].instance.due().is_some_and(|due| due <= self.now) {
                    self.tell(of, Input::Due(self.now))?;
                }
            }
        }
        if until != Timestamp(i64::MAX) {
            self.now = until;
        }
        Ok(())
    }

    fn print(&self, who: impl Display, what: impl Display) -> Result<(), Failure> {
        let passed = humantime::format_duration(self.now.since(Timestamp(0))).to_string();
        output::print(format_args!("{passed:>8}  {who}  {what}"))
    }

    fn publish(&mut self, name: &EventName, payload: &str) -> Result<(), Failure> {
        self.log_end += 1;
        let (id, at) = (self.log_end, self.now);
        self.print(format_args!("event {id}"), format_args!("{} {payload}", name.as_str()))?;
        let event =
            format!(r#"{{"id":{id},"event_name":"{}","payload":{payload},"created_at":"{at}"}}"#, name.as_str());
        let event = Json::parse(&event).ok_or_else(|| Failure::failed("an event is no JSON"))?;
        for of in 0..self.running.len() {
            for step in 0..self.running[of].instance.steps.len() {
                let Running { definition, instance } = &self.running[of];
                let verdict = verdict_of(&self.definitions[*definition], instance, step, (name, payload));
                if let Some(is_success) = verdict {
                    self.tell(of, Input::Reply { step, event_id: id, event: event.clone(), is_success })?;
                }
            }
        }
        for definition in 0..self.definitions.len() {
            self.trigger(definition, name, payload, &event)?;
        }
        Ok(())
    }

    /// Begins an instance, if the event asks for one.
    fn trigger(&mut self, of: usize, name: &EventName, payload: &str, event: &Json) -> Result<(), Failure> {
        let definition = &self.definitions[of];
        let is_wanted = definition.trigger.filter.as_ref().is_none_or(|filter| filter.matches(payload));
        if !definition.trigger.event.matches(name) || !is_wanted {
            return Ok(());
        }
        let Some(correlation) = definition.correlation.find(payload).and_then(Correlation::of) else {
            return self.print(&definition.name, "does not begin: the event has no value to tell its instance by");
        };
        let is_taken = self.running.iter().any(|running| {
            let Origin { saga, correlation: taken, .. } = &running.instance.origin;
            *saga == definition.name && *taken == correlation && running.instance.state().is_live()
        });
        if is_taken && definition.on_duplicate == OnDuplicate::Ignore {
            return self.print(&definition.name, format_args!("does not begin: {correlation} has a live instance"));
        }
        let origin = Origin {
            id: format!("00000000-0000-7000-8000-{:012}", self.running.len() + 1),
            saga: definition.name.clone(),
            version: definition.version,
            correlation,
            trigger: event.as_str().to_owned().into(),
        };
        let instance = Instance::new(origin, definition, self.now);
        let on_duplicate = definition.on_duplicate;
        self.running.push(Running { definition: of, instance });
        let new = self.running.len() - 1;
        match on_duplicate {
            OnDuplicate::Queue if is_taken => self.print(self.who(new), "is queued"),
            OnDuplicate::NeedsOperator if is_taken => {
                self.tell(new, Input::SetAside { reason: "the value has a live instance".to_owned() })
            }
            _ => self.tell(new, Input::Start { after: self.log_end }),
        }
    }

    fn who(&self, of: usize) -> String {
        let Origin { saga, correlation, .. } = &self.running[of].instance.origin;
        format!("{saga} {correlation}")
    }

    fn tell(&mut self, of: usize, input: Input) -> Result<(), Failure> {
        self.transitions += 1;
        if self.transitions > MAX_TRANSITIONS {
            return Err(Failure::Failed(format!(
                "stopped after {MAX_TRANSITIONS} transitions: do the sagas begin each other?"
            )));
        }
        let who = self.who(of);
        let Running { definition, instance } = &mut self.running[of];
        let definition = &self.definitions[*definition];
        let was_live = instance.state().is_live();
        let decided = decide(definition, instance, input, (self.now, self.log_end));
        let Ok(outcome) = decided else { return Ok(()) };
        let has_ended = was_live && !instance.state().is_live();
        let lines: Vec<String> = outcome.entries.iter().map(|entry| describe(definition, entry)).collect();
        for line in lines {
            self.print(&who, line)?;
        }
        for effect in outcome.effects {
            self.carry_out(of, &who, effect)?;
        }
        if has_ended { self.begin_queued(of) } else { Ok(()) }
    }

    /// The value is free: the next instance that waits for it begins.
    fn begin_queued(&mut self, ended: usize) -> Result<(), Failure> {
        use crate::domain::saga::State;
        let Origin { saga, correlation, .. } = &self.running[ended].instance.origin;
        let next = self.running.iter().position(|running| {
            let Origin { saga: of, correlation: value, .. } = &running.instance.origin;
            running.instance.state() == State::Queued && (of, value) == (saga, correlation)
        });
        next.map_or(Ok(()), |next| self.tell(next, Input::Start { after: self.log_end }))
    }

    fn carry_out(&mut self, of: usize, who: &str, effect: Effect) -> Result<(), Failure> {
        match effect {
            Effect::Call { step, operation, request, .. } => {
                let body = request.body.as_ref().map_or("", Json::as_str);
                self.print(who, format_args!("  -> POST {}{} {body}", request.service, request.path))?;
                let asked = if operation == Operation::Action { Asked::Action } else { Asked::Compensation };
                let answer = self.answer(of, step, asked);
                let input = self.call_ended(of, step, operation, answer);
                self.pending.push_back((self.now, Pending::Input { of, input }));
            }
            Effect::Probe { step, service, path, mut at, every, until } => {
                let answer = loop {
                    self.print(who, format_args!("  -> GET {service}{path}"))?;
                    match self.answer(of, step, Asked::Probe) {
                        Answer { status: Some(200), body } => break ProbeAnswer::Done(body),
                        Answer { status: Some(404), .. } => break ProbeAnswer::NotDone,
                        _ if at.plus(every) >= until => {
                            at = until;
                            break ProbeAnswer::Unclear;
                        }
                        _ => at = at.plus(every),
                    }
                };
                self.pending.push_back((at, Pending::Input { of, input: Input::Probed { step, answer } }));
            }
            Effect::Publish { event, payload, .. } => {
                self.pending.push_back((self.now, Pending::Event { name: event, payload }));
            }
            Effect::Withdraw { step: withdrawn } => {
                let is_answer = |pending: &Pending| {
                    matches!(pending, Pending::Input { of: whose, input: Input::Probed { step, .. } }
                        if (*whose, *step) == (of, withdrawn))
                };
                self.pending.retain(|(_, pending)| !is_answer(pending));
            }
            Effect::Tell { .. } | Effect::Silence | Effect::Hurry => {}
        }
        Ok(())
    }

    fn answer(&mut self, of: usize, step: StepIndex, asked: Asked) -> Answer {
        let name = self.definitions[self.running[of].definition].steps[step].name.clone();
        let said = self.answers.get_mut(&(name, asked)).and_then(VecDeque::pop_front);
        said.unwrap_or_else(|| Answer { status: Some(200), body: Json::parse("{}") })
    }

    fn call_ended(&self, of: usize, step: StepIndex, operation: Operation, answer: Answer) -> Input {
        let undo = self.definitions[self.running[of].definition].steps[step].undo.as_ref();
        let is_done = |status| status == 410 || undo.is_some_and(|undo| undo.done.contains(&status));
        let outcome = match answer.status {
            Some(status @ 200..300) => {
                if status == 202 {
                    CallEnd::Accepted
                } else {
                    CallEnd::Done
                }
            }
            Some(status) if operation == Operation::Compensation && is_done(status) => CallEnd::Done,
            None | Some(408 | 425 | 429 | 500..) => CallEnd::Unknown,
            Some(_) => CallEnd::Refused,
        };
        let error = match (outcome, answer.status) {
            (CallEnd::Done | CallEnd::Accepted, _) => None,
            (_, Some(status)) => Some(format!("answered {status}")),
            (_, None) => Some("no answer".to_owned()),
        };
        Input::CallEnded(CallReport { step, operation, outcome, attempts: 1, response: answer.body, error })
    }

    fn summary(&self) -> Result<(), Failure> {
        for (of, running) in self.running.iter().enumerate() {
            let state = running.instance.state();
            let paused = if running.instance.is_paused { ", paused" } else { "" };
            self.print(self.who(of), format_args!("is {}{paused}", state.as_str()))?;
        }
        Ok(())
    }
}

/// An entry of the journal, in words.
fn describe(definition: &Definition, entry: &Entry) -> String {
    let name = |step: &StepIndex| &*definition.steps[*step].name;
    let because = |error: &Option<String>| error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    match &entry.fact {
        Fact::Started => "begins".to_owned(),
        Fact::Begun { step, .. } => match definition.steps[*step].work {
            Work::Call(_) => format!("{} begins", name(step)),
            Work::Publish { .. } => format!("{} publishes", name(step)),
            Work::Wait(_) => format!("{} begins to wait", name(step)),
        },
        Fact::Skipped { step } => format!("{} is skipped", name(step)),
        Fact::Called(CallReport { step, operation, outcome, error, .. }) => {
            let outcome = match outcome {
                CallEnd::Accepted => "was accepted",
                CallEnd::Done => "was done",
                CallEnd::Refused => "was refused",
                CallEnd::Unknown => "has an unknown outcome",
                CallEnd::NotSent => "was not sent",
            };
            format!("{} of {} {outcome}{}", operation.as_str(), name(step), because(error))
        }
        Fact::Waiting { step, on, until } => {
            let on = match on {
                WaitsFor::Event => "its reply",
                WaitsFor::Time => "time to pass",
                WaitsFor::Probe => "what the service knows",
            };
            let until = humantime::format_duration(until.since(Timestamp(0)));
            format!("{} waits for {on}, until {until}", name(step))
        }
        Fact::Replied { step, is_success, .. } => format!("{} has an early reply: {}", name(step), said(*is_success)),
        Fact::NotDone { step } => format!("{} was not done, and begins again", name(step)),
        Fact::Ended { step, end, error, .. } => {
            let end = match end {
                crate::domain::saga::StepEnd::Succeeded => "has succeeded",
                crate::domain::saga::StepEnd::Failed => "has failed",
                crate::domain::saga::StepEnd::FailedPerhaps => "has failed, and may be done in part",
                crate::domain::saga::StepEnd::Unknown => "is unknown",
            };
            format!("{} {end}{}", name(step), because(error))
        }
        Fact::Compensating { reason } => format!("turns back: {reason}"),
        Fact::Undoing { step } => format!("{} is undone", name(step)),
        Fact::Undone { step, error: None } => format!("{} is compensated", name(step)),
        Fact::Undone { step, error } => format!("{} could not be undone{}", name(step), because(error)),
        Fact::LateReply { step, event_id, is_success } => {
            format!("{} has a late reply, event {event_id}: {}", name(step), said(*is_success))
        }
        Fact::NeedsOperator { reason } => format!("needs an operator: {reason}"),
        Fact::Decided { decision, reason } => {
            let verb = match decision {
                Decision::Retry { .. } | Decision::Hurry => "retry",
                Decision::Skip { .. } => "skip",
                Decision::Pause => "pause",
                Decision::Resume => "resume",
            };
            format!("an operator says {verb}: {reason}")
        }
        Fact::Finished { end } => format!("ends: {end:?}").to_lowercase(),
    }
}

fn said(is_success: bool) -> &'static str {
    if is_success { "success" } else { "failure" }
}
