//! The journal of an instance: what has happened and what was decided, in order. It is the only state; replayed, it
//! gives the instance.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::definition::StepIndex;
use super::json::Json;
use crate::domain::call::CallEnd;
use crate::domain::event::{EventId, Timestamp};

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: Timestamp,
    pub fact: Fact,
}

/// In the place of the id of an event: the newest one when the entry is stored, which only the store knows.
pub const AT_COMMIT: EventId = EventId::MAX;

impl Fact {
    /// The entry as it is stored after the event `last`.
    pub fn stored_after(&self, last: EventId) -> Cow<'_, Self> {
        match self {
            Self::Begun { step, after: AT_COMMIT, undo } => {
                Cow::Owned(Self::Begun { step: *step, after: last, undo: undo.clone() })
            }
            _ => Cow::Borrowed(self),
        }
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// The instance begins, after it was made or had waited for its turn.
    Started,
    /// A step begins. `after`: only later events can be its reply. `undo`: how it is undone, if at all, before its first
    /// call; none in it where that can be said only later.
    Begun { step: StepIndex, after: EventId, undo: Option<Request> },
    /// Its condition does not hold.
    Skipped { step: StepIndex },
    /// A call has ended, with its last attempt.
    Called(CallReport),
    /// The step waits for its reply, for time, or for what the service answers to a probe.
    Waiting { step: StepIndex, on: WaitsFor, until: Timestamp },
    /// A reply has come while the call of the step is under way.
    Replied { step: StepIndex, event: Json, is_success: bool },
    /// The service has said that a step was not done; it begins again, as an operator has decided.
    NotDone { step: StepIndex },
    /// A step has ended.
    Ended { step: StepIndex, end: StepEnd, event: Option<Json>, response: Option<Json>, error: Option<String> },
    /// There is no way forward: what may have happened is undone.
    Compensating { reason: String },
    /// A compensation begins.
    Undoing { step: StepIndex },
    /// A compensation has ended; with an error it has failed.
    Undone { step: StepIndex, error: Option<String> },
    /// A reply has come for a step that has ended otherwise.
    LateReply { step: StepIndex, event_id: EventId, is_success: bool },
    /// Nobody but an operator can go on.
    NeedsOperator { reason: String },
    /// An operator has decided.
    Decided { decision: Decision, reason: String },
    /// The instance has ended.
    Finished { end: InstanceEnd },
}

impl Fact {
    /// The steps that it is about.
    pub fn steps(&self) -> impl Iterator<Item = StepIndex> {
        let (one, many): (Option<StepIndex>, &[StepIndex]) = match self {
            Self::Begun { step, .. }
            | Self::Skipped { step }
            | Self::Called(CallReport { step, .. })
            | Self::Waiting { step, .. }
            | Self::Replied { step, .. }
            | Self::NotDone { step }
            | Self::Ended { step, .. }
            | Self::Undoing { step }
            | Self::Undone { step, .. }
            | Self::LateReply { step, .. } => (Some(*step), &[]),
            Self::Decided { decision: Decision::Retry { steps } | Decision::Skip { steps, .. }, .. } => (None, steps),
            Self::Decided { decision: Decision::Hurry | Decision::Pause | Decision::Resume, .. }
            | Self::Started
            | Self::Compensating { .. }
            | Self::NeedsOperator { .. }
            | Self::Finished { .. } => (None, &[]),
        };
        one.into_iter().chain(many.iter().copied())
    }
}

/// What is known of a call of a step that has ended, after all its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallReport {
    pub step: StepIndex,
    pub operation: Operation,
    pub outcome: CallEnd,
    pub attempts: u32,
    pub response: Option<Json>,
    pub error: Option<String>,
}

/// A request to a service, all filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub service: String,
    pub path: String,
    pub body: Option<Json>,
}

/// Which call of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Action,
    Compensation,
}

impl Operation {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Compensation => "compensation",
        }
    }
}

/// What a step waits for, its call done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    Event,
    Time,
    /// What a probe finds out; a reply ends it too.
    Probe,
}

/// How a step has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepEnd {
    Succeeded,
    /// Nothing was done.
    Failed,
    /// It was told to have failed, and something may have been done.
    FailedPerhaps,
    Unknown,
}

impl StepEnd {
    /// The state of a step that has ended so. Of a failure it does not say whether something may have been done.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed | Self::FailedPerhaps => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// What an operator has decided. The steps are those that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// They are tried again.
    Retry {
        steps: Vec<StepIndex>,
    },
    /// They count as done.
    Skip {
        steps: Vec<StepIndex>,
        result: Option<Json>,
    },
    /// Its calls that wait for another attempt are sent at once.
    Hurry,
    Pause,
    Resume,
}

/// How an instance has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceEnd {
    Completed,
    Compensated,
    Aborted,
}

impl InstanceEnd {
    /// The state of an instance that has ended so.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Aborted => "aborted",
        }
    }
}
