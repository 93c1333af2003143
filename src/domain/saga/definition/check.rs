//! Checks a definition as a whole: what its steps refer to, and what could never end well.

use std::time::Duration;

use serde_json::Value;

use super::{Call, Definition, DefinitionError, Match, Step, StepIndex, Work, instant};
use crate::domain::entity::EntityType;
use crate::domain::event::Timestamp;
use crate::domain::saga::template::{Text, Unfilled};

/// Most `${…}` of one path, body or payload: each is looked up in all that the instance knows.
const MAX_HOLES: usize = 500;
/// What templates know of an instance.
const OF_SAGA: [&str; 4] = ["id", "name", "correlation", "started_at"];
/// The step that a compensation is of.
pub(in crate::domain::saga) const SELF: &str = "SELF";

type Checked = Result<(), DefinitionError>;

/// A definition, and for each step where it is written and which steps have ended when it begins.
struct Checking<'a> {
    saga: &'a Definition,
    places: Vec<String>,
    before: Vec<Vec<StepIndex>>,
}

pub(super) fn check(saga: &Definition, is_service: impl Fn(&str) -> bool) -> Checked {
    let checking = Checking::of(saga);
    checking.is_more_than_0("deadline".to_owned(), saga.deadline)?;
    for at in 0..saga.steps.len() {
        checking.texts(at)?;
        checking.services(at, &is_service)?;
        checking.templates(at)?;
        checking.condition(at)?;
        checking.own_trigger(at)?;
        checking.pivot(at)?;
    }
    Ok(())
}

impl<'a> Checking<'a> {
    fn of(saga: &'a Definition) -> Self {
        let count = saga.steps.len();
        let (mut places, mut before, mut ended) = (vec![String::new(); count], vec![Vec::new(); count], Vec::new());
        for (s, stage) in saga.stages.iter().enumerate() {
            for (b, branch) in stage.iter().enumerate() {
                for (n, &step) in branch.iter().enumerate() {
                    places[step] = match stage.len() {
                        1 if branch.len() == 1 => format!("steps[{s}]"),
                        _ => format!("steps[{s}].parallel[{b}][{n}]"),
                    };
                    before[step] = [&ended[..], &branch[..n]].concat();
                }
            }
            ended.extend(stage.iter().flatten().copied());
        }
        Self { saga, places, before }
    }

    fn wrong(&self, step: StepIndex, field: &str, reason: impl Into<String>) -> Checked {
        Err(DefinitionError { field: format!("{}.{field}", self.places[step]), reason: reason.into() })
    }

    fn is_more_than_0(&self, field: String, span: Option<Duration>) -> Checked {
        let reason = || "must be more than 0".to_owned();
        if span == Some(Duration::ZERO) { Err(DefinitionError { field, reason: reason() }) } else { Ok(()) }
    }

    /// What is said without templates can be done.
    fn texts(&self, at: StepIndex) -> Checked {
        let Step { work, reply, probe, undo, .. } = &self.saga.steps[at];
        let place = |field: &str| format!("{}.{field}", self.places[at]);
        self.is_more_than_0(place("await.timeout"), reply.as_ref().map(|reply| reply.timeout))?;
        self.is_more_than_0(place("probe.timeout"), probe.as_ref().map(|probe| probe.timeout))?;
        self.is_more_than_0(place("probe.every"), probe.as_ref().map(|probe| probe.every))?;
        match work {
            Work::Call(call) => self.path(at, "call.path", &call.path)?,
            Work::Publish { event, key, .. } => {
                if let Some(Err(Unfilled(reason))) =
                    key.as_ref().filter(|key| key.is_plain()).map(|key| key.fill_key("{}"))
                {
                    return self.wrong(at, "publish.key", reason);
                }
                if EntityType::of_change(event).is_some() {
                    return self.wrong(at, "publish.event", "is the name of changes of entities");
                }
                if event.as_str().contains("${") {
                    return self.wrong(at, "publish.event", "is no template: the name of an event is always the same");
                }
            }
            Work::Wait(text) if text.is_plain() => {
                let is_said = text.fill("{}").is_ok_and(|text| instant(&text, Timestamp(0)).is_some());
                if !is_said {
                    return self.wrong(at, "wait", "must be a duration such as \"5m\", or an RFC 3339 time");
                }
            }
            Work::Wait(_) => {}
        }
        let is_status = |status: &u16| (100..=599).contains(status);
        if let Some(no) = undo.iter().flat_map(|undo| &undo.done).find(|status| !is_status(status)) {
            return self.wrong(at, "compensate.done", format!("must be HTTP statuses, 100 to 599, not {no}"));
        }
        probe.as_ref().map_or(Ok(()), |probe| self.path(at, "probe.path", &probe.path))?;
        undo.as_ref().map_or(Ok(()), |undo| self.path(at, "compensate.call.path", &undo.call.path))
    }

    /// A path is sent as it is written.
    fn path(&self, at: StepIndex, field: &str, path: &Text) -> Checked {
        let mut has_controls = false;
        path.for_each_plain(|plain| has_controls |= plain.chars().any(char::is_control));
        if has_controls {
            return self.wrong(at, field, "has control characters");
        }
        match path.is_plain().then(|| path.fill_path("{}")) {
            Some(Err(Unfilled(reason))) => self.wrong(at, field, reason),
            _ => Ok(()),
        }
    }

    fn services(&self, at: StepIndex, is_service: &impl Fn(&str) -> bool) -> Checked {
        let Step { work, probe, undo, .. } = &self.saga.steps[at];
        let called = if let Work::Call(call) = work { Some(("call.service", &call.service)) } else { None };
        let probed = probe.as_ref().map(|probe| ("probe.service", &probe.service));
        let undone = undo.as_ref().map(|undo| ("compensate.call.service", &undo.call.service));
        match called.into_iter().chain(probed).chain(undone).find(|(_, service)| !is_service(service)) {
            Some((field, service)) => self.wrong(at, field, format!("there is no service {service:?}")),
            None => Ok(()),
        }
    }

    /// Whatever a template names is there when it is filled, as far as that can be known.
    fn templates(&self, at: StepIndex) -> Checked {
        let Step { work, reply, probe, undo, .. } = &self.saga.steps[at];
        match work {
            Work::Call(call) => self.call(at, call, "call", false)?,
            Work::Publish { payload, key, .. } => {
                let mut found = Vec::new();
                payload.for_each_path(&mut |path| found.push(path.to_vec()));
                self.paths(at, "publish.payload", false, found.iter().map(|path| &path[..]))?;
                self.paths(at, "publish.key", false, key.iter().flat_map(|key| key.paths()))?;
            }
            Work::Wait(text) => self.paths(at, "wait", false, text.paths())?,
        }
        if let Some(Match::Values(values)) = reply.as_ref().map(|reply| &reply.match_by) {
            let mut found = Vec::new();
            values.iter().for_each(|(_, value)| value.for_each_path(&mut |path| found.push(path.to_vec())));
            self.paths(at, "await.match", false, found.iter().map(|path| &path[..]))?;
        }
        self.paths(at, "probe.path", false, probe.iter().flat_map(|probe| probe.path.paths()))?;
        undo.as_ref().map_or(Ok(()), |undo| self.call(at, &undo.call, "compensate.call", true))
    }

    /// A condition asks for what there is: a step that is not there would never be as it asks.
    fn condition(&self, at: StepIndex) -> Checked {
        let Some(when) = &self.saga.steps[at].when else { return Ok(()) };
        let mut fields = Vec::new();
        let asked = serde_json::from_str(&when.to_string()).expect("invariant: a filter is JSON");
        fields_of(&asked, &mut fields);
        for (name, value) in fields {
            if !["trigger", "steps", "saga"].contains(&name) {
                return self.wrong(at, "when", format!("{name:?} is none of trigger, steps, saga"));
            }
            let mut steps = Vec::new();
            if name == "steps" {
                fields_of(value, &mut steps);
            }
            if let Some((name, _)) = steps.into_iter().find(|(name, _)| self.saga.step(name).is_none()) {
                return self.wrong(at, "when", format!("there is no step {name:?}"));
            }
        }
        Ok(())
    }

    fn call(&self, at: StepIndex, call: &Call, field: &str, knows_itself: bool) -> Checked {
        self.paths(at, &format!("{field}.path"), knows_itself, call.path.paths())?;
        let mut found = Vec::new();
        call.body.iter().for_each(|body| body.for_each_path(&mut |path| found.push(path.to_vec())));
        self.paths(at, &format!("{field}.body"), knows_itself, found.iter().map(|path| &path[..]))
    }

    fn paths<'p>(
        &self,
        at: StepIndex,
        field: &str,
        knows_itself: bool,
        paths: impl Iterator<Item = &'p [String]>,
    ) -> Checked {
        let paths: Vec<_> = paths.collect();
        if paths.len() > MAX_HOLES {
            return self.wrong(at, field, format!("has {} templates, more than {MAX_HOLES}", paths.len()));
        }
        for path in paths {
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            let shown = names.join(".");
            match &names[..] {
                ["trigger", ..] => {}
                ["saga", name] if OF_SAGA.contains(name) => {}
                ["steps", SELF, "response" | "event", ..] => {
                    if !knows_itself {
                        return self.wrong(at, field, "steps.SELF is known only to compensate");
                    }
                }
                ["steps", name, what @ ("response" | "event"), ..] => {
                    self.runs_before(at, field, name)?;
                    self.brings(at, field, (name, what))?;
                }
                _ => {
                    let known = "trigger, steps.NAME.response, steps.NAME.event, saga.id|name|correlation|started_at";
                    return self.wrong(at, field, format!("${{{shown}}} is none of {known}"));
                }
            }
        }
        Ok(())
    }

    fn runs_before(&self, at: StepIndex, field: &str, name: &str) -> Checked {
        let Some(named) = self.saga.step(name) else {
            return self.wrong(at, field, format!("there is no step {name:?}"));
        };
        if self.before[at].contains(&named) {
            return Ok(());
        }
        let is_beside = self.saga.stages.iter().any(|stage| {
            let branch_of = |step| stage.iter().position(|branch| branch.contains(&step));
            branch_of(at).zip(branch_of(named)).is_some_and(|(own, other)| own != other)
        });
        let why = if is_beside { "is of another branch" } else { "has not run by then" };
        self.wrong(at, field, format!("step {name:?} {why}"))
    }

    /// The step has what is named of it.
    fn brings(&self, at: StepIndex, field: &str, (name, what): (&str, &str)) -> Checked {
        let Some(step) = self.saga.step(name).map(|step| &self.saga.steps[step]) else { return Ok(()) };
        match what {
            "event" if step.reply.is_none() => self.wrong(at, field, format!("step {name:?} awaits no event")),
            "response" if !matches!(step.work, Work::Call(_)) => {
                self.wrong(at, field, format!("step {name:?} calls nobody, and has no response"))
            }
            _ => Ok(()),
        }
    }

    fn own_trigger(&self, at: StepIndex) -> Checked {
        match &self.saga.steps[at].work {
            Work::Publish { event, .. } if self.saga.trigger.event.matches(event) => {
                let trigger = self.saga.trigger.event.as_str();
                self.wrong(at, "publish.event", format!("the saga would begin itself, by its trigger {trigger:?}"))
            }
            _ => Ok(()),
        }
    }

    fn pivot(&self, at: StepIndex) -> Checked {
        let Some(pivot) = self.saga.pivot() else { return Ok(()) };
        let step = &self.saga.steps[at];
        if step.is_pivot && at != pivot {
            return self.wrong(at, "pivot", "there is one already");
        }
        if at > pivot && step.undo.is_some() {
            return self.wrong(at, "compensate", "comes after the pivot, from which there is no way back");
        }
        Ok(())
    }
}

/// The fields that a filter names on its first floor, in alternatives too.
fn fields_of<'a>(filter: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    for (name, value) in filter.as_object().into_iter().flatten() {
        match value.as_array() {
            Some(alternatives) if name == "$or" => alternatives.iter().for_each(|other| fields_of(other, found)),
            _ => found.push((name, value)),
        }
    }
}
