//! What an instance does next: one transition function, from an input to entries of the journal and effects.
//!
//! The entries, their effects and the input that caused them are stored in one transaction. So an effect is asked for
//! exactly once, whatever crashes when; and what it asks of a service carries the same key however often it is sent.
//!
//! - *SG-1* What may have happened is undone in the reverse order of its beginning, and nothing else is.
//! - *SG-2* A call of which nobody knows is never taken for one that failed.
//! - *SG-3* After the pivot nothing is undone.
//! - *SG-4* What has ended does not change.

mod back;
mod forward;
mod operator;
mod reply;

use std::time::Duration;

pub use self::reply::verdict_of;
use super::definition::{Call, Definition, OnTrouble, StepIndex};
use super::instance::{Instance, Phase};
use super::journal::{CallReport, Entry, Fact, InstanceEnd, Operation, Request, WaitsFor};
use super::json::Json;
use super::template::{Template, Unfilled};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::name::EventName;

/// Longest journal. What would be longer is set aside for an operator.
pub const MAX_ENTRIES: u32 = 10_000;

/// What an instance is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// It is its turn. `after`: its first steps take replies after this event.
    Start { after: EventId },
    /// It is not to begin, or to go on, by itself.
    SetAside { reason: String },
    /// A call has ended, after all its attempts.
    CallEnded(CallReport),
    /// A service has answered a probe.
    Probed { step: StepIndex, answer: ProbeAnswer },
    /// An event that is [a reply](verdict_of).
    Reply { step: StepIndex, event_id: EventId, event: Json, is_success: bool },
    /// Something was due by then, and all that was committed until then is known.
    Due(Timestamp),
    /// An operator's word, with its reason.
    Operator { verb: Verb, reason: String },
}

/// What a service knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// It was done, with this response.
    Done(Option<Json>),
    NotDone,
    /// It has said neither in all that time.
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
        /// It is not sent after this: the saga turns back then.
        until: Option<Timestamp>,
    },
    /// Ask what has become of a call, from `at` on and every so often, until the service says so or time is over.
    Probe {
        step: StepIndex,
        service: String,
        path: String,
        at: Timestamp,
        every: Duration,
        until: Timestamp,
    },
    Publish {
        step: StepIndex,
        event: EventName,
        payload: String,
        key: Option<String>,
    },
    /// Its calls are not sent any more, as far as they were not.
    Silence,
    /// The probe of a step is not sent any more.
    Withdraw {
        step: StepIndex,
    },
    /// Its calls that wait for another attempt are sent at once.
    Hurry,
    Tell {
        what: Told,
        step: Option<StepIndex>,
        reason: Option<String>,
    },
}

/// An effect that may be impossible: a service is gone, or what was filled in is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// The call or the event of a step.
    Action(StepIndex),
    Compensation(StepIndex),
    Probe(StepIndex),
}

impl Effect {
    /// What may be impossible of it.
    pub fn deed(&self) -> Option<Deed> {
        match self {
            Self::Call { step, operation: Operation::Action, .. } | Self::Publish { step, .. } => {
                Some(Deed::Action(*step))
            }
            Self::Call { step, operation: Operation::Compensation, .. } => Some(Deed::Compensation(*step)),
            Self::Probe { step, .. } => Some(Deed::Probe(*step)),
            Self::Silence | Self::Withdraw { .. } | Self::Hurry | Self::Tell { .. } => None,
        }
    }
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
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Started,
        Self::Completed,
        Self::Compensating,
        Self::Compensated,
        Self::Aborted,
        Self::NeedsOperator,
        Self::Paused,
        Self::Resumed,
        Self::LateReply,
    ];

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

/// Why the word of an operator does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is for other states.
    State,
    /// No step keeps it from going on, so there is none to be skipped.
    NoStep,
    /// It is past its pivot, or turned back before.
    NoWayBack,
}

/// Takes an input. The instance has the entries applied then. `log_end`: replies to what begins now come after it;
/// [`AT_COMMIT`](super::journal::AT_COMMIT) where the store says which event that is.
pub fn decide(
    definition: &Definition,
    instance: &mut Instance,
    input: Input,
    at: (Timestamp, EventId),
) -> Result<Outcome, Unfit> {
    decide_without(definition, instance, input, at, &[])
}

/// As [`decide`], where some deeds are impossible, for these reasons: their steps and compensations fail.
pub fn decide_without(
    definition: &Definition,
    instance: &mut Instance,
    input: Input,
    (now, log_end): (Timestamp, EventId),
    barred: &[(Deed, String)],
) -> Result<Outcome, Unfit> {
    let mut deciding = Deciding { definition, instance, now, after: log_end, barred, outcome: Outcome::default() };
    deciding.take(input)?;
    Ok(deciding.outcome)
}

struct Deciding<'a> {
    definition: &'a Definition,
    instance: &'a mut Instance,
    now: Timestamp,
    after: EventId,
    barred: &'a [(Deed, String)],
    outcome: Outcome,
}

impl Deciding<'_> {
    fn take(&mut self, input: Input) -> Result<(), Unfit> {
        if matches!(self.instance.phase, Phase::Ended(_)) && !matches!(input, Input::Reply { .. }) {
            // SG-4.
            return if let Input::Operator { .. } = input { Err(Unfit::State) } else { Ok(()) };
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
                if self.instance.phase != Phase::NeedsOperator {
                    self.needs_operator(None, &reason);
                }
                return Ok(());
            }
            Input::CallEnded(report) => {
                let CallReport { step, operation, outcome, .. } = report;
                if self.instance.steps[step].calling != Some(operation) {
                    return Ok(());
                }
                let error = report.error.clone();
                self.record(Fact::Called(report));
                match operation {
                    Operation::Action => self.called(step, outcome, error),
                    Operation::Compensation => self.undone(step, outcome, error),
                }
            }
            Input::Probed { step, answer } => self.probed(step, answer),
            Input::Reply { step, event_id, event, is_success } => self.replied(step, event_id, event, is_success),
            Input::Due(as_of) => self.due(as_of),
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

    /// Why a deed is impossible, if it is.
    fn is_barred(&self, deed: Deed) -> Option<String> {
        self.barred.iter().find(|(barred, _)| *barred == deed).map(|(_, reason)| reason.clone())
    }

    /// A step that waits for what its service says of it is not going to need that.
    fn withdraw(&mut self, step: StepIndex) {
        if let Some((WaitsFor::Probe, _)) = self.instance.steps[step].waits {
            self.outcome.effects.push(Effect::Withdraw { step });
        }
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

    /// Whether what was begun goes on as it would, though perhaps nothing else begins.
    fn goes_on(&self) -> bool {
        matches!(self.instance.phase, Phase::Forward | Phase::NeedsOperator) && !self.instance.is_undoing
    }

    fn due(&mut self, as_of: Timestamp) {
        if self.instance.is_paused || self.instance.phase != Phase::Forward {
            return;
        }
        // What was due before the deadline comes before it, however late both are noticed.
        let as_of = as_of.min(self.now);
        let deadline = self.instance.deadline_at.filter(|at| *at <= as_of);
        let by = deadline.unwrap_or(as_of);
        for step in 0..self.instance.steps.len() {
            let Some((on, until)) = self.instance.steps[step].waits else { continue };
            if until > by || self.instance.phase != Phase::Forward {
                continue;
            }
            match on {
                WaitsFor::Time => self.done(step, None),
                WaitsFor::Event => self.unknown(step, Some("no reply in time".to_owned())),
                // It ends with the answer that is under way.
                WaitsFor::Probe => {}
            }
        }
        let is_over = self.instance.steps.iter().all(|step| step.state.has_ended());
        if self.instance.phase == Phase::Forward && deadline.is_some() && !is_over {
            match self.definition.on_deadline {
                OnTrouble::Compensate if !self.is_past_pivot(None) => self.compensate("the deadline has passed"),
                _ => self.needs_operator(None, "the deadline has passed"),
            }
        }
    }

    /// Whether the pivot may have happened; that it is `but` does not count.
    fn is_past_pivot(&self, but: Option<StepIndex>) -> bool {
        let pivot = self.definition.pivot().filter(|pivot| Some(*pivot) != but);
        pivot.is_some_and(|pivot| {
            let record = &self.instance.steps[pivot];
            record.may_have_happened || record.calling.is_some()
        })
    }

    fn needs_operator(&mut self, step: Option<StepIndex>, reason: &str) {
        self.record(Fact::NeedsOperator { reason: reason.to_owned() });
        self.tell(Told::NeedsOperator, step, Some(reason.to_owned()));
    }

    fn finish(&mut self, end: InstanceEnd, told: Told) {
        self.record(Fact::Finished { end });
        self.tell(told, None, None);
    }
}

/// The request that a call makes, filled with what is in `scope`.
fn request(call: &Call, scope: &str) -> Result<Request, Unfilled> {
    let body = call.body.as_ref().map(|body: &Template| body.fill(scope)).transpose()?;
    let body = body.map(|text| Json::parse(&text).expect("invariant: a filled template is JSON"));
    Ok(Request { service: call.service.clone(), path: call.path.fill_path(scope)?, body })
}
