//! Events that steps await.

use super::{Deciding, Told};
use crate::domain::event::EventId;
use crate::domain::name::EventName;
use crate::domain::saga::correlation::Correlation;
use crate::domain::saga::definition::{Definition, Match, Reply, StepIndex};
use crate::domain::saga::instance::{Instance, Phase, StepState};
use crate::domain::saga::journal::{Fact, Operation, StepEnd};
use crate::domain::saga::json::Json;

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
            let value = pointer.find(payload).and_then(Correlation::of);
            value.as_ref() == Some(&instance.origin.correlation)
        }
        Match::Values(values) => {
            let scope = instance.scope(definition, None);
            values.iter().all(|(pointer, value)| {
                let wanted = value.fill(&scope).ok().and_then(|json| Correlation::of(&json));
                wanted.is_some() && pointer.find(payload).and_then(Correlation::of) == wanted
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

impl Deciding<'_> {
    pub(super) fn replied(&mut self, step: StepIndex, event_id: EventId, event: Json, is_success: bool) {
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
        self.withdraw(step);
        self.record(Fact::Ended { step, end, event: Some(event), response: None, error: error.clone() });
        self.follow_up(step, end, error);
    }
}
