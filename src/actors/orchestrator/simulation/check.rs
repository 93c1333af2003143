//! What has to hold of an instance when all is over.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ledger::{Ledger, Seen};
use crate::domain::saga::{
    AT_COMMIT, Decision, Definition, Entry, Fact, Instance, InstanceEnd, Match, OnFailure, State, StepEnd, StepState,
    Told, Work,
};

/// What services know, by owner and step.
#[derive(Default)]
pub struct Truth {
    /// It was done.
    pub done: BTreeSet<(String, String)>,
    /// An attempt was made of which the engine cannot know how it ended.
    pub unclear: BTreeSet<(String, String)>,
}

/// Checks one, with its journal as it is stored.
pub fn instance(definition: &Definition, instance: &Instance, journal: &[Entry], ledger: &Ledger, truth: &Truth) {
    let id = instance.origin.id.as_str();
    let seen = &ledger.instances[id];
    assert_eq!((instance.state(), instance.length), (seen.standing.state, seen.standing.length), "as it is stored");
    assert!(!instance.state().is_live() || instance.state() == State::NeedsOperator, "it ends: {:?}", instance.state());
    let finished = journal.iter().filter(|entry| matches!(entry.fact, Fact::Finished { .. })).count();
    assert_eq!(finished, usize::from(!instance.state().is_live()), "it ends once");
    the_way_back(definition, instance, journal, truth);
    replies(definition, instance, journal, seen);
    told(definition, instance, journal, ledger);
}

fn name_of(definition: &Definition, step: usize) -> String {
    definition.steps[step].name.to_string()
}

/// Compensations: in reverse order, only of what may have happened, all of what has, and none after the pivot.
fn the_way_back(definition: &Definition, instance: &Instance, journal: &[Entry], truth: &Truth) {
    let of = |step: usize| (instance.origin.id.clone(), name_of(definition, step));
    let (mut order, mut undone): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    // What the engine knows of without an attempt: by a reply, from an operator, or because it did it itself.
    let mut known = BTreeSet::new();
    let mut is_past_pivot = false;
    let pivot = definition.pivot();
    for Entry { fact, .. } in journal {
        match fact {
            Fact::Begun { step, .. } => {
                order.retain(|begun| begun != step);
                order.push(*step);
                if !matches!(definition.steps[*step].work, Work::Call(_)) {
                    known.insert(*step);
                }
            }
            Fact::Replied { step, .. } | Fact::Ended { step, event: Some(_), .. } => {
                known.insert(*step);
            }
            Fact::Decided { decision: Decision::Skip { steps, .. }, .. } => {
                known.extend(steps);
                undone.clear();
                is_past_pivot |= pivot.is_some_and(|pivot| steps.contains(&pivot));
            }
            Fact::Decided { decision: Decision::Retry { .. }, .. } => undone.clear(),
            Fact::Undoing { step } => {
                let may_have =
                    known.contains(step) || truth.done.contains(&of(*step)) || truth.unclear.contains(&of(*step));
                assert!(may_have, "SG-1: {:?} has not happened", of(*step));
                let place = |step: &usize| order.iter().position(|begun| begun == step);
                assert!(undone.last().is_none_or(|last| place(step) <= place(last)), "SG-1: {step} after {undone:?}");
                assert!(!is_past_pivot, "SG-3: {step} is undone after the pivot");
                undone.push(*step);
            }
            _ => {}
        }
        if let Fact::Ended { step, end: StepEnd::Succeeded, .. } = fact {
            is_past_pivot |= pivot == Some(*step);
        }
    }
    for (step, record) in instance.steps.iter().enumerate() {
        match instance.state() {
            State::Compensated if definition.steps[step].undo.is_some() && truth.done.contains(&of(step)) => {
                assert_eq!(record.state, StepState::Compensated, "{:?} was done", of(step));
            }
            State::Completed => {
                let is_well = match record.state {
                    StepState::Succeeded | StepState::Skipped => true,
                    StepState::Failed => definition.steps[step].on_failure == OnFailure::Continue,
                    _ => false,
                };
                assert!(is_well, "{:?}: {:?}", of(step), record.state);
            }
            _ => {}
        }
    }
}

/// No reply is taken that came before the step began; and what is awaited by its id is for this instance.
fn replies(definition: &Definition, instance: &Instance, journal: &[Entry], seen: &Seen) {
    let trigger: Value = serde_json::from_str(&instance.origin.trigger).expect("JSON");
    let trigger = trigger["id"].as_i64();
    let mut begun = BTreeMap::new();
    for (Entry { fact, .. }, log_end) in journal.iter().zip(&seen.log_ends) {
        match fact {
            Fact::Begun { step, after, .. } => {
                let is_by_trigger = Some(*after) == trigger;
                assert!(
                    *after != AT_COMMIT && (is_by_trigger || after >= log_end),
                    "{step} takes replies after {after}, at {log_end}"
                );
                begun.insert(*step, *after);
            }
            Fact::Replied { step, event, .. } | Fact::Ended { step, event: Some(event), .. } => {
                let event: Value = serde_json::from_str(event.as_str()).expect("JSON");
                let is_later = event["id"].as_i64() > Some(begun[step]);
                assert!(is_later, "{step} began after {}, and has taken {event}", begun[step]);
                let reply = definition.steps[*step].reply.as_ref().expect("it awaits one");
                let of = event["payload"]["of"].as_str();
                if matches!(reply.match_by, Match::Values(_)) {
                    assert_eq!(of, Some(&*instance.origin.id), "another's reply");
                }
            }
            _ => {}
        }
    }
}

/// What is told is what the journal says, each once.
fn told(definition: &Definition, instance: &Instance, journal: &[Entry], ledger: &Ledger) {
    let id = instance.origin.id.as_str();
    let count = |name: &str, member: &str| {
        let is_its = |(told, payload): &&(String, String)| {
            told == name && serde_json::from_str::<Value>(payload).expect("JSON")[member] == id
        };
        ledger.told.iter().filter(is_its).count()
    };
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    let mut published: BTreeMap<usize, usize> = BTreeMap::new();
    let mut has_started = false;
    for Entry { fact, .. } in journal {
        let what = match fact {
            Fact::Started => Told::Started,
            Fact::Decided { decision: Decision::Retry { .. }, .. } if !has_started => Told::Started,
            Fact::Decided { decision: Decision::Pause, .. } => Told::Paused,
            Fact::Decided { decision: Decision::Resume, .. } => Told::Resumed,
            Fact::Compensating { .. } => Told::Compensating,
            Fact::NeedsOperator { .. } => Told::NeedsOperator,
            Fact::LateReply { .. } => Told::LateReply,
            Fact::Finished { end: InstanceEnd::Completed } => Told::Completed,
            Fact::Finished { end: InstanceEnd::Compensated } => Told::Compensated,
            Fact::Finished { end: InstanceEnd::Aborted } => Told::Aborted,
            Fact::Begun { step, .. } if matches!(definition.steps[*step].work, Work::Publish { .. }) => {
                *published.entry(*step).or_default() += 1;
                continue;
            }
            _ => continue,
        };
        has_started |= what == Told::Started;
        *expected.entry(what.as_str()).or_default() += 1;
    }
    for what in Told::ALL.map(Told::as_str) {
        let (told, expected) = (count(&format!("$sys.saga.{what}"), "saga_id"), expected.get(what).copied());
        assert_eq!(told, expected.unwrap_or_default(), "$sys.saga.{what} of {id}");
    }
    for (step, times) in published {
        let name = format!("told.{}.{}", definition.name, definition.steps[step].name);
        assert_eq!(count(&name, "of"), times, "{name} of {id}");
    }
}
