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
            if !record.was_told(is_success) && event_id > record.after && record.started_at.is_some() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::CallEnd;
    use crate::domain::event::Timestamp;
    use crate::domain::saga::instance::Origin;
    use crate::domain::saga::journal::CallReport;
    use crate::domain::saga::machine::{Effect, Input, decide};

    const SAGA: &str = r#"{"name":"pay","version":1,"trigger":{"event":"order.made"},"correlation":"/order","steps":[
        {"name":"charge","call":{"service":"bank","path":"/charges"},
         "await":{"event":"charge.*","correlation":"/order","success":{"ok":[true]},"timeout":"1m"},
         "compensate":{"call":{"service":"bank","path":"/refunds"}}},
        {"name":"ship","call":{"service":"store","path":"/parcels"}}]}"#;

    struct Case {
        definition: Definition,
        instance: Instance,
        now: i64,
    }

    impl Case {
        /// One whose first step has been called and awaits its reply.
        fn awaiting() -> Self {
            let definition = Definition::parse(SAGA, |_| true).expect("a saga");
            let origin = Origin {
                id: "1".to_owned(),
                saga: "pay".to_owned(),
                version: 1,
                correlation: Correlation::of("1").expect("a number"),
                trigger: r#"{"payload":{"order":1}}"#.into(),
            };
            let instance = Instance::new(origin, &definition, Timestamp(0));
            let mut case = Self { definition, instance, now: 0 };
            case.take(Input::Start { after: 1 });
            case.called(0, Operation::Action, CallEnd::Done);
            case
        }

        /// What is told of late replies, with the reason.
        fn take(&mut self, input: Input) -> Vec<Option<String>> {
            let outcome =
                decide(&self.definition, &mut self.instance, input, (Timestamp(self.now), 1)).expect("it fits");
            let late = |effect| match effect {
                Effect::Tell { what: Told::LateReply, reason, .. } => Some(reason),
                _ => None,
            };
            outcome.effects.into_iter().filter_map(late).collect()
        }

        fn called(&mut self, step: StepIndex, operation: Operation, outcome: CallEnd) {
            let report = CallReport { step, operation, outcome, attempts: 1, response: None, error: None };
            self.take(Input::CallEnded(report));
        }

        fn reply(&mut self, event_id: EventId, is_success: bool) -> Vec<Option<String>> {
            let event = Json::parse("{}").expect("JSON");
            self.take(Input::Reply { step: 0, event_id, event, is_success })
        }
    }

    #[test]
    fn a_duplicate_says_nothing_whatever_became_of_its_step() {
        let mut undone = Case::awaiting();
        assert_eq!(undone.reply(5, true), []);
        assert_eq!(undone.reply(6, true), [], "while the next step runs");
        undone.called(1, Operation::Action, CallEnd::Refused);
        undone.called(0, Operation::Compensation, CallEnd::Done);
        assert_eq!(undone.instance.steps[0].state, StepState::Compensated);
        assert_eq!(undone.reply(7, true), [], "it came in time and was undone");

        let mut failed = Case::awaiting();
        assert_eq!(failed.reply(5, false), []);
        assert_eq!(failed.reply(6, false), []);
    }

    #[test]
    fn a_late_success_is_an_alarm_though_a_late_failure_came_before() {
        let mut case = Case::awaiting();
        case.now = 3_600_000_000;
        case.take(Input::Due(Timestamp(3_600_000_000)));
        case.called(0, Operation::Compensation, CallEnd::Done);
        assert_eq!(case.instance.steps[0].state, StepState::Compensated);
        assert_eq!(case.reply(5, false), [None]);
        assert_eq!(case.reply(6, true), [Some("success after its compensation".to_owned())]);
        let length = case.instance.length;
        assert_eq!((case.reply(7, false), case.reply(8, true)), (vec![], vec![]));
        assert_eq!(case.instance.length, length, "each is journalled once");
    }
}
