//! An instance of a saga: what its journal has made of it.

use std::fmt::Write as _;

use bytestring::ByteString;

use super::correlation::Correlation;
use super::definition::{Definition, OnFailure, StepIndex};
use super::journal::{CallReport, Decision, Entry, Fact, InstanceEnd, Operation, Request, StepEnd, WaitsFor};
use super::json::Json;
use crate::domain::call::CallEnd;
use crate::domain::event::{EventId, Timestamp};

/// What an instance is from the beginning, and stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// A UUIDv7, as text.
    pub id: String,
    pub saga: String,
    pub version: u32,
    pub correlation: Correlation,
    /// The event that began it, as `/events` shows it, or what it was begun with by hand.
    pub trigger: ByteString,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub origin: Origin,
    pub phase: Phase,
    pub is_paused: bool,
    pub steps: Vec<StepRecord>,
    /// The steps that were begun, in order.
    pub order: Vec<StepIndex>,
    /// Whether there is no way forward any more.
    pub is_undoing: bool,
    pub started_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    /// When it is to be over; none once it has passed.
    pub deadline_at: Option<Timestamp>,
    /// How many entries the journal has. Of two who decide at the same length, one wins.
    pub length: u32,
}

/// What an instance is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its turn.
    Queued,
    Forward,
    Compensating,
    NeedsOperator,
    Ended(InstanceEnd),
}

/// The state of an instance, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Waiting,
    Compensating,
    Completed,
    Compensated,
    Aborted,
    NeedsOperator,
}

/// A step of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepRecord {
    pub state: StepState,
    pub attempts: u32,
    pub started_at: Option<Timestamp>,
    /// Only later events can be its reply.
    pub after: EventId,
    /// What is under way.
    pub calling: Option<Operation>,
    /// What it waits for, and until when.
    pub waits: Option<(WaitsFor, Timestamp)>,
    pub response: Option<Json>,
    pub event: Option<Json>,
    /// A reply came before its call had ended, and what it says.
    pub early: Option<bool>,
    pub undo: Option<Request>,
    /// Whether it may have had an effect.
    pub may_have_happened: bool,
    /// An operator wants it tried again.
    pub is_retried: bool,
    /// What replies have said since it began, in time or late: success, failure. A duplicate says nothing new.
    pub has_been_told: [bool; 2],
    pub error: Option<String>,
}

/// The state of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StepState {
    #[default]
    Pending,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Unknown,
    Skipped,
    Compensating,
    Compensated,
    CompensationFailed,
}

impl StepState {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
            Self::Compensating => "compensating",
            Self::Compensated => "compensated",
            Self::CompensationFailed => "compensation_failed",
        }
    }

    /// Whether its action is over.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Pending | Self::Running | Self::Waiting)
    }
}

impl State {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Compensating,
        Self::Completed,
        Self::Compensated,
        Self::Aborted,
        Self::NeedsOperator,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Aborted => "aborted",
            Self::NeedsOperator => "needs_operator",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether something may still happen. Terminal is terminal.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Completed | Self::Compensated | Self::Aborted)
    }
}

impl StepRecord {
    /// Whether a reply has said so before.
    pub fn was_told(&self, is_success: bool) -> bool {
        self.has_been_told[usize::from(!is_success)]
    }

    fn note_reply(&mut self, is_success: bool) {
        self.has_been_told[usize::from(!is_success)] = true;
    }
}

impl Instance {
    /// One that has not begun.
    pub fn new(origin: Origin, definition: &Definition, now: Timestamp) -> Self {
        Self {
            origin,
            phase: Phase::Queued,
            is_paused: false,
            steps: vec![StepRecord::default(); definition.steps.len()],
            order: Vec::new(),
            is_undoing: false,
            started_at: None,
            updated_at: now,
            deadline_at: None,
            length: 0,
        }
    }

    /// What the journal says of an instance.
    pub fn replay(origin: Origin, definition: &Definition, made_at: Timestamp, journal: &[Entry]) -> Self {
        let mut instance = Self::new(origin, definition, made_at);
        journal.iter().for_each(|entry| instance.apply(definition, entry));
        instance
    }

    /// The state that is shown.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Queued => State::Queued,
            Phase::Forward => {
                let mut active =
                    self.steps.iter().filter(|step| !step.state.has_ended() && step.state != StepState::Pending);
                let waits = |step: &StepRecord| step.calling.is_none() && step.waits.is_some();
                if active.clone().next().is_some() && active.all(waits) { State::Waiting } else { State::Running }
            }
            Phase::Compensating => State::Compensating,
            Phase::NeedsOperator => State::NeedsOperator,
            Phase::Ended(InstanceEnd::Completed) => State::Completed,
            Phase::Ended(InstanceEnd::Compensated) => State::Compensated,
            Phase::Ended(InstanceEnd::Aborted) => State::Aborted,
        }
    }

    /// Whether it has its correlation value for itself.
    pub fn holds(&self) -> bool {
        self.started_at.is_some() && !matches!(self.phase, Phase::Ended(_))
    }

    /// When something is due that nobody else brings.
    pub fn due(&self) -> Option<Timestamp> {
        if self.is_paused || !matches!(self.phase, Phase::Forward) {
            return None;
        }
        let waits = self.steps.iter().filter_map(|step| step.waits);
        let timed = waits.filter(|(on, _)| *on != WaitsFor::Probe).map(|(_, until)| until);
        timed.chain(self.deadline_at).min()
    }

    /// The steps that keep it from going on, if an operator is needed.
    pub fn stuck(&self, definition: &Definition) -> Vec<StepIndex> {
        let is_stuck = |step: &StepIndex| match self.steps[*step].state {
            StepState::CompensationFailed => true,
            StepState::Failed => !self.is_undoing && definition.steps[*step].on_failure != OnFailure::Continue,
            StepState::Unknown => !self.is_undoing,
            _ => false,
        };
        (0..self.steps.len()).filter(is_stuck).collect()
    }

    /// What templates and conditions see: a JSON object. `of` is the step that `steps.SELF` stands for.
    pub fn scope(&self, definition: &Definition, of: Option<StepIndex>) -> String {
        let Origin { id, saga, correlation, trigger, .. } = &self.origin;
        let started_at = self.started_at.map(|at| at.to_string()).unwrap_or_default();
        let mut scope = format!(
            r#"{{"trigger":{trigger},"saga":{{"id":"{id}","name":"{saga}","correlation":{correlation},"started_at":"{started_at}"}},"steps":{{"#
        );
        let named = definition.steps.iter().zip(&self.steps).map(|(step, record)| (&*step.name, record));
        let own = of.map(|step| (super::definition::SELF, &self.steps[step]));
        for (at, (name, record)) in named.chain(own).enumerate() {
            let _ = write!(scope, r#"{}"{name}":{{"state":"{}""#, if at > 0 { "," } else { "" }, record.state.as_str());
            for (member, value) in [("response", &record.response), ("event", &record.event)] {
                if let Some(value) = value {
                    let _ = write!(scope, r#","{member}":{}"#, value.as_str());
                }
            }
            scope.push('}');
        }
        scope.push_str("}}");
        scope
    }

    /// Takes an entry of the journal, the next one.
    pub fn apply(&mut self, definition: &Definition, Entry { at, fact }: &Entry) {
        self.length += 1;
        self.updated_at = *at;
        match fact {
            Fact::Started => self.start(definition, *at),
            Fact::Begun { step, after, undo } => {
                let does_call = matches!(definition.steps[*step].work, super::definition::Work::Call(_));
                self.order.retain(|begun| begun != step);
                self.order.push(*step);
                let record = &mut self.steps[*step];
                record.state = StepState::Running;
                record.started_at.get_or_insert(*at);
                record.calling = does_call.then_some(Operation::Action);
                record.may_have_happened |=
                    matches!(definition.steps[*step].work, super::definition::Work::Publish { .. });
                (record.after, record.error, record.early) = (*after, None, None);
                (record.is_retried, record.has_been_told) = (false, [false; 2]);
                record.undo.clone_from(undo);
            }
            Fact::Skipped { step } => self.steps[*step].state = StepState::Skipped,
            Fact::Called(CallReport { step, operation, outcome, attempts, response, error }) => {
                let record = &mut self.steps[*step];
                record.calling = None;
                record.attempts += attempts;
                record.error.clone_from(error);
                if *operation == Operation::Action {
                    record.may_have_happened |= matches!(outcome, CallEnd::Done | CallEnd::Accepted | CallEnd::Unknown);
                    if response.is_some() {
                        record.response.clone_from(response);
                    }
                }
            }
            Fact::Waiting { step, on, until } => {
                let record = &mut self.steps[*step];
                (record.state, record.waits) = (StepState::Waiting, Some((*on, *until)));
            }
            Fact::Replied { step, event, is_success } => {
                let record = &mut self.steps[*step];
                (record.event, record.early) = (Some(event.clone()), Some(*is_success));
                record.note_reply(*is_success);
            }
            Fact::Ended { step, end, event, response, error } => {
                let record = &mut self.steps[*step];
                record.waits = None;
                (record.state, record.may_have_happened) = match end {
                    StepEnd::Succeeded => (StepState::Succeeded, true),
                    StepEnd::Failed => (StepState::Failed, false),
                    StepEnd::FailedPerhaps => (StepState::Failed, true),
                    StepEnd::Unknown => (StepState::Unknown, true),
                };
                record.error.clone_from(error);
                if event.is_some() {
                    record.note_reply(*end == StepEnd::Succeeded);
                }
                for (kept, new) in [(&mut record.event, event), (&mut record.response, response)] {
                    if new.is_some() {
                        kept.clone_from(new);
                    }
                }
            }
            Fact::Compensating { .. } => (self.phase, self.is_undoing) = (Phase::Compensating, true),
            Fact::Undoing { step } => {
                let record = &mut self.steps[*step];
                (record.state, record.calling) = (StepState::Compensating, Some(Operation::Compensation));
            }
            Fact::Undone { step, error } => {
                let record = &mut self.steps[*step];
                let state = if error.is_none() { StepState::Compensated } else { StepState::CompensationFailed };
                (record.state, record.error) = (state, error.clone());
            }
            Fact::NotDone { step } => {
                let record = &mut self.steps[*step];
                (record.state, record.waits, record.may_have_happened) = (StepState::Pending, None, false);
            }
            Fact::LateReply { step, is_success, .. } => self.steps[*step].note_reply(*is_success),
            Fact::NeedsOperator { .. } => self.phase = Phase::NeedsOperator,
            Fact::Decided { decision, .. } => self.decided(definition, decision, *at),
            Fact::Finished { end } => self.phase = Phase::Ended(*end),
        }
    }

    fn decided(&mut self, definition: &Definition, decision: &Decision, at: Timestamp) {
        match decision {
            Decision::Hurry => {}
            Decision::Pause => self.is_paused = true,
            Decision::Resume => self.is_paused = false,
            Decision::Retry { steps } => {
                for step in steps {
                    let record = &mut self.steps[*step];
                    record.state = if self.is_undoing { StepState::Unknown } else { StepState::Pending };
                    record.is_retried = true;
                }
                self.go_on(definition, at);
            }
            Decision::Skip { steps, result } => {
                for step in steps {
                    let record = &mut self.steps[*step];
                    if self.is_undoing {
                        (record.state, record.error) = (StepState::Compensated, None);
                        continue;
                    }
                    (record.state, record.may_have_happened, record.error) = (StepState::Succeeded, true, None);
                    if result.is_some() {
                        record.response.clone_from(result);
                    }
                }
                self.go_on(definition, at);
            }
        }
    }

    fn start(&mut self, definition: &Definition, at: Timestamp) {
        self.phase = Phase::Forward;
        self.started_at = Some(at);
        self.deadline_at = definition.deadline.map(|deadline| at.plus(deadline));
    }

    fn go_on(&mut self, definition: &Definition, at: Timestamp) {
        if self.started_at.is_none() {
            return self.start(definition, at);
        }
        self.phase = if self.is_undoing { Phase::Compensating } else { Phase::Forward };
        self.deadline_at = self.deadline_at.filter(|deadline| *deadline > at);
    }
}
