//! The way back: what may have happened is undone, the last first.

use super::{Deciding, Deed, Effect, Told, request};
use crate::domain::call::CallEnd;
use crate::domain::saga::definition::StepIndex;
use crate::domain::saga::instance::StepState;
use crate::domain::saga::journal::{Fact, InstanceEnd, Operation, StepEnd, WaitsFor};
use crate::domain::saga::template::Unfilled;

impl Deciding<'_> {
    /// Begins the next compensation, once nothing is under way. Whether anything has changed.
    pub(super) fn advance_back(&mut self) -> bool {
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

    /// Begins no step any more, and undoes what may have happened once nothing is under way.
    pub(super) fn compensate(&mut self, reason: &str) {
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
                self.withdraw(step);
                self.record(Fact::Ended { step, end, event: None, response: None, error });
            }
        }
    }

    pub(super) fn undo(&mut self, step: StepIndex) {
        let undo = self.definition.steps[step].undo.as_ref().expect("invariant: it has a compensation");
        let known = self.instance.steps[step].undo.clone();
        let request = known.map_or_else(|| request(&undo.call, &self.instance.scope(self.definition, Some(step))), Ok);
        match request {
            Ok(_) if let Some(reason) = self.is_barred(Deed::Compensation(step)) => {
                self.record(Fact::Undone { step, error: Some(reason) });
            }
            Ok(request) => {
                self.record(Fact::Undoing { step });
                self.outcome.effects.push(Effect::Call {
                    step,
                    operation: Operation::Compensation,
                    request,
                    until: None,
                });
            }
            Err(Unfilled(reason)) => {
                let error = Some(format!("template_error: {reason}"));
                self.record(Fact::Undone { step, error });
            }
        }
    }

    pub(super) fn undone(&mut self, step: StepIndex, outcome: CallEnd, error: Option<String>) {
        let error = match outcome {
            CallEnd::Done | CallEnd::Accepted => None,
            _ => Some(error.unwrap_or_else(|| "no answer".to_owned())),
        };
        self.record(Fact::Undone { step, error });
    }
}
