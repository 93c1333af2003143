//! The way forward: steps begin, their calls and probes end, and what follows from that.

use std::time::Duration;

use super::{Deciding, Deed, Effect, ProbeAnswer, Told, request};
use crate::domain::call::CallEnd;
use crate::domain::event::Timestamp;
use crate::domain::saga::definition::{Call, OnFailure, OnTrouble, Probe, SELF, StepIndex, Work, instant};
use crate::domain::saga::instance::{Phase, StepState};
use crate::domain::saga::journal::{CallReport, Fact, InstanceEnd, Operation, StepEnd, WaitsFor};
use crate::domain::saga::json::Json;
use crate::domain::saga::template::Unfilled;

impl Deciding<'_> {
    /// Begins the next step of each branch of the stage. Whether anything has changed.
    pub(super) fn advance_forward(&mut self) -> bool {
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

    pub(super) fn begin(&mut self, step: StepIndex) {
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
                    Some(Effect::Call { step, operation: Operation::Action, request, until: self.turns_back_at(step) })
                }
                Work::Publish { event, payload, key } => {
                    let key = key.as_ref().map(|key| key.fill_key(&scope)).transpose()?;
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
        let found_by = self.instance.await_key(definition, step);
        let (after, failed) = (self.after, |Unfilled(reason)| format!("template_error: {reason}"));
        let (filled, until) = match (filled, until, found_by) {
            (Ok(filled), Ok(until), Ok(_)) => (filled, until),
            (Err(absent), _, _) | (_, Err(absent), _) | (_, _, Err(absent)) => {
                return self.never_begun(step, failed(absent));
            }
        };
        if matches!(does.work, Work::Wait(_)) && until.is_none() {
            return self.never_begun(step, "template_error: wait is neither a duration nor an instant".to_owned());
        }
        let deeds = [Deed::Action(step), Deed::Compensation(step)];
        if let Some(reason) = deeds.into_iter().find_map(|deed| self.is_barred(deed)) {
            self.fails_uncalled(step, reason.clone());
            return self.needs_operator(Some(step), &reason);
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

    /// When the saga turns back, whatever has become of a step by then.
    fn turns_back_at(&self, step: StepIndex) -> Option<Timestamp> {
        let is_past = self.definition.steps[step].is_pivot || self.is_past_pivot(None);
        let turns_back = self.definition.on_deadline == OnTrouble::Compensate && !is_past;
        self.instance.deadline_at.filter(|_| turns_back)
    }

    /// A step of which a template cannot be filled fails without a call.
    fn never_begun(&mut self, step: StepIndex, error: String) {
        let end = self.fails_uncalled(step, error.clone());
        self.follow_up(step, end, Some(error));
    }

    /// What was unknown of it before stays so.
    fn fails_uncalled(&mut self, step: StepIndex, error: String) -> StepEnd {
        let perhaps = self.instance.steps[step].may_have_happened;
        let end = if perhaps { StepEnd::Unknown } else { StepEnd::Failed };
        self.record(Fact::Begun { step, after: self.after, undo: None });
        let called = CallReport {
            step,
            operation: Operation::Action,
            outcome: CallEnd::NotSent,
            attempts: 0,
            response: None,
            error: Some(error.clone()),
        };
        self.record(Fact::Called(called));
        self.record(Fact::Ended { step, end, event: None, response: None, error: Some(error) });
        end
    }

    /// What the step does is done; it waits for its reply, if it awaits one.
    pub(super) fn done(&mut self, step: StepIndex, response: Option<Json>) {
        match &self.definition.steps[step].reply {
            Some(reply) => {
                let until = self.now.plus(reply.timeout);
                self.record(Fact::Waiting { step, on: WaitsFor::Event, until });
            }
            None => self.end(step, StepEnd::Succeeded, response, None),
        }
    }

    pub(super) fn called(&mut self, step: StepIndex, outcome: CallEnd, error: Option<String>) {
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
                let does = &self.definition.steps[step];
                if goes_on && outcome == CallEnd::Accepted && does.reply.is_none() && does.probe.is_some() {
                    if !self.ask(step, self.now.plus(self.probe_interval(step))) {
                        let error = "its service cannot be asked whether it was done".to_owned();
                        self.end(step, StepEnd::Unknown, None, Some(error));
                    }
                    return;
                }
                if goes_on { self.done(step, None) } else { self.end(step, StepEnd::Succeeded, None, None) }
            }
            CallEnd::Refused | CallEnd::NotSent if !perhaps => self.end(step, StepEnd::Failed, None, error),
            CallEnd::Refused | CallEnd::NotSent | CallEnd::Unknown => self.unknown(step, error),
        }
    }

    /// Nobody knows what has become of the step: its service is asked, if there is a way.
    pub(super) fn unknown(&mut self, step: StepIndex, error: Option<String>) {
        if !self.goes_on() || !self.ask(step, self.now) {
            self.end(step, StepEnd::Unknown, None, error);
        }
    }

    pub(super) fn probe_interval(&self, step: StepIndex) -> Duration {
        self.definition.steps[step].probe.as_ref().map(|probe| probe.every).unwrap_or_default()
    }

    /// Asks what has become of the step, no sooner than `at`. Whether there is a way to ask.
    pub(super) fn ask(&mut self, step: StepIndex, at: Timestamp) -> bool {
        let Some(Probe { service, path, every, timeout }) = &self.definition.steps[step].probe else { return false };
        let Ok(path) = path.fill_path(&self.instance.scope(self.definition, None)) else { return false };
        if self.is_barred(Deed::Probe(step)).is_some() {
            return false;
        }
        let (service, every, until) = (service.clone(), *every, self.now.plus(*timeout));
        self.outcome.effects.push(Effect::Probe { step, service, path, at, every, until });
        self.record(Fact::Waiting { step, on: WaitsFor::Probe, until });
        true
    }

    pub(super) fn probed(&mut self, step: StepIndex, answer: ProbeAnswer) {
        let Some((WaitsFor::Probe, _)) = self.instance.steps[step].waits else { return };
        match answer {
            ProbeAnswer::Done(response) => self.end(step, StepEnd::Succeeded, response, None),
            ProbeAnswer::NotDone if self.instance.steps[step].is_retried => self.record(Fact::NotDone { step }),
            ProbeAnswer::NotDone => {
                let error = "the service says that it was not done".to_owned();
                self.end(step, StepEnd::Failed, None, Some(error));
            }
            ProbeAnswer::Unclear => {
                let error = "the service does not say whether it was done".to_owned();
                self.end(step, StepEnd::Unknown, None, Some(error));
            }
        }
    }

    pub(super) fn end(&mut self, step: StepIndex, end: StepEnd, response: Option<Json>, error: Option<String>) {
        self.record(Fact::Ended { step, end, event: None, response, error: error.clone() });
        self.follow_up(step, end, error);
    }

    /// What follows from the end of a step, on the way forward.
    pub(super) fn follow_up(&mut self, step: StepIndex, end: StepEnd, error: Option<String>) {
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
}

fn names_itself(call: &Call) -> bool {
    let mut found = false;
    let mut look = |path: &[String]| found |= path.get(1).is_some_and(|name| name == SELF);
    call.path.paths().for_each(&mut look);
    call.body.iter().for_each(|body| body.for_each_path(&mut look));
    found
}
