//! Checks a definition as a whole: what its steps refer to, and what could never end well.

use super::{Call, Definition, DefinitionError, Match, Step, StepIndex, Work};

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
    for at in 0..saga.steps.len() {
        checking.services(at, &is_service)?;
        checking.templates(at)?;
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
                ["steps", name, "response" | "event", ..] => self.runs_before(at, field, name)?,
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
