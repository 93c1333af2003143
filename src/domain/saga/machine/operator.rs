//! What operators say.

use super::{Deciding, Effect, Told, Unfit, Verb};
use crate::domain::saga::definition::StepIndex;
use crate::domain::saga::instance::State;
use crate::domain::saga::journal::{Decision, Fact, InstanceEnd};

impl Deciding<'_> {
    pub(super) fn operator(&mut self, verb: Verb, reason: String) -> Result<(), Unfit> {
        let (state, is_paused) = (self.instance.state(), self.instance.is_paused);
        let decided = |decision| Fact::Decided { decision, reason: reason.clone() };
        match verb {
            Verb::Retry if matches!(state, State::Running | State::Compensating) => {
                self.record(decided(Decision::Hurry));
                self.outcome.effects.push(Effect::Hurry);
            }
            Verb::Retry if state == State::NeedsOperator => {
                let steps = self.stuck();
                let begins = self.instance.started_at.is_none();
                self.record(decided(Decision::Retry { steps }));
                if begins {
                    self.tell(Told::Started, None, Some(reason));
                }
            }
            Verb::Skip { result } if state == State::NeedsOperator => {
                let steps = self.stuck();
                if steps.is_empty() {
                    return Err(Unfit::NoStep);
                }
                self.record(decided(Decision::Skip { steps, result }));
            }
            Verb::Compensate if matches!(state, State::Running | State::Waiting | State::NeedsOperator) => {
                if self.is_past_pivot(None) || self.instance.is_undoing {
                    return Err(Unfit::NoWayBack);
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
            }
            Verb::Retry | Verb::Skip { .. } | Verb::Compensate | Verb::Pause | Verb::Resume => {
                return Err(Unfit::State);
            }
        }
        Ok(())
    }

    /// The steps that keep it from going on.
    pub(super) fn stuck(&self) -> Vec<StepIndex> {
        self.instance.stuck(self.definition)
    }
}
