//! Instances of sagas, as they are shown.

use std::fmt::Write as _;

use serde::Serialize;

use crate::domain::event::Timestamp;
use crate::domain::saga::{
    CallReport, Decision, Definition, Entry, Fact, Instance, Json, Operation, Origin, Phase, State, StepIndex,
    StepRecord, WaitsFor, Work,
};

/// What a list shows of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    pub origin: &'a Origin,
    pub state: State,
    pub is_paused: bool,
    pub started_at: Option<Timestamp>,
    pub updated_at: Timestamp,
}

/// A JSON object that is being written.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self(String::new())
    }

    /// Adds a member.
    fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.raw(name, &serde_json::to_string(value).expect("invariant: it has a JSON form"));
    }

    /// Adds a member if there is a value.
    fn some<T: Serialize>(&mut self, name: &str, value: Option<T>) {
        if let Some(value) = value {
            self.set(name, &value);
        }
    }

    /// Adds a member, whose value is JSON text.
    fn raw(&mut self, name: &str, json: &str) {
        let begin = if self.0.is_empty() { '{' } else { ',' };
        // Writing to a string cannot fail.
        let _ = write!(self.0, r#"{begin}"{name}":{json}"#);
    }

    fn end(mut self) -> String {
        self.0.push_str(if self.0.is_empty() { "{}" } else { "}" });
        self.0
    }
}

/// A row of the list.
pub fn listed_json(listed: &Listed<'_>) -> String {
    listed.object().end()
}

/// An instance with what its journal says.
///
/// `is_open` tells whether the breaker of a service keeps its calls back.
pub fn shown_json(
    listed: &Listed<'_>,
    (definition, instance, journal): (&Definition, &Instance, &[Entry]),
    is_open: impl Fn(&str) -> bool,
) -> String {
    let mut object = listed.object();
    object.set("deadline_at", &instance.deadline_at.map(|at| at.to_string()));
    object.raw("trigger", &listed.origin.trigger);
    let steps = definition.steps.iter().zip(&instance.steps).map(|(step, record)| step_json(&step.name, record));
    object.raw("steps", &list(steps));
    object.raw("waiting_for", &list(waiting_for(definition, instance, is_open).into_iter()));
    let lines = journal.iter().enumerate().map(|(at, entry)| line_json(definition, at + 1, entry));
    object.raw("journal", &list(lines));
    object.end()
}

/// An instance whose journal cannot be read.
pub fn unreadable_json(listed: &Listed<'_>, error: &str) -> String {
    let mut object = listed.object();
    object.raw("deadline_at", "null");
    object.raw("trigger", &listed.origin.trigger);
    for name in ["steps", "waiting_for", "journal"] {
        object.raw(name, "[]");
    }
    object.set("error", error);
    object.end()
}

impl Listed<'_> {
    fn object(&self) -> Object {
        let Self { origin, state, is_paused, started_at, updated_at } = self;
        let Origin { id, saga, version, correlation, trigger: _ } = origin;
        let mut object = Object::new();
        object.set("id", id);
        object.set("name", saga);
        object.set("version", version);
        object.raw("correlation", correlation.as_str());
        object.set("state", state.as_str());
        object.set("paused", is_paused);
        object.set("started_at", &started_at.map(|at| at.to_string()));
        object.set("updated_at", &updated_at.to_string());
        object
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn step_json(name: &str, record: &StepRecord) -> String {
    let mut object = Object::new();
    object.set("name", name);
    object.set("state", record.state.as_str());
    object.set("attempts", &record.attempts);
    object.set("started_at", &record.started_at.map(|at| at.to_string()));
    object.set("error", &record.error);
    object.end()
}

/// What has to happen before the instance goes on.
fn waiting_for(definition: &Definition, instance: &Instance, is_open: impl Fn(&str) -> bool) -> Vec<String> {
    let wait = |step: Option<StepIndex>, on: &str, event: Option<&str>, until: Option<Timestamp>| {
        let mut object = Object::new();
        object.set("step", &step.map(|step| &definition.steps[step].name));
        object.set("for", on);
        object.set("event", &event);
        object.set("until", &until.map(|at| at.to_string()));
        object.end()
    };
    let of_call = |service: Option<&str>| if service.is_some_and(&is_open) { "breaker" } else { "call" };
    if matches!(instance.phase, Phase::Ended(_)) {
        return Vec::new();
    }
    let mut waits = Vec::new();
    if instance.phase == Phase::NeedsOperator {
        let stuck = instance.stuck(definition);
        // It may have been set aside as a whole.
        let steps = if stuck.is_empty() { vec![None] } else { stuck.into_iter().map(Some).collect() };
        waits.extend(steps.into_iter().map(|step| wait(step, "operator", None, None)));
    } else if instance.is_paused {
        waits.push(wait(None, "operator", None, None));
    }
    for (at, record) in instance.steps.iter().enumerate() {
        let step = &definition.steps[at];
        if let Some(operation) = record.calling {
            let action = if let Work::Call(call) = &step.work { Some(&*call.service) } else { None };
            let undo = step.undo.as_ref().map(|undo| &*undo.call.service);
            let service = if operation == Operation::Action { action } else { undo };
            waits.push(wait(Some(at), of_call(service), None, None));
        } else if let Some((on, until)) = record.waits {
            let event = step.reply.as_ref().map(|reply| reply.event.as_str());
            let on = match on {
                WaitsFor::Event => "event",
                WaitsFor::Time => "time",
                WaitsFor::Probe => of_call(step.probe.as_ref().map(|probe| &*probe.service)),
            };
            let event = event.filter(|_| on != "time");
            waits.push(wait(Some(at), on, event, Some(until)));
        }
    }
    waits
}

/// An entry of the journal. All attempts at a call are one entry.
fn line_json(definition: &Definition, n: usize, Entry { at, fact }: &Entry) -> String {
    let name = |step: &StepIndex| definition.steps.get(*step).map(|step| &*step.name);
    let mut line = Object::new();
    line.set("n", &n);
    line.set("at", &at.to_string());
    line.set("kind", kind(fact));
    match fact {
        Fact::Started => {}
        Fact::Begun { step, after, undo } => {
            line.some("step", name(step));
            line.set("after", after);
            line.some("compensation", undo.as_ref());
        }
        Fact::Skipped { step } | Fact::NotDone { step } | Fact::Undoing { step } => line.some("step", name(step)),
        Fact::Called(CallReport { step, operation, outcome, attempts, response, error }) => {
            line.some("step", name(step));
            line.set("operation", operation.as_str());
            line.set("outcome", outcome);
            line.set("attempts", attempts);
            line.some("response", response.as_ref());
            line.some("error", error.as_ref());
        }
        Fact::Waiting { step, on, until } => {
            line.some("step", name(step));
            line.set("for", on);
            line.set("until", &until.to_string());
        }
        Fact::Replied { step, event, is_success } => {
            line.some("step", name(step));
            line.set("success", is_success);
            line.set("event", event);
        }
        Fact::Ended { step, end, event, response, error } => {
            line.some("step", name(step));
            line.set("state", end.as_str());
            line.some("event", event.as_ref());
            line.some("response", response.as_ref());
            line.some("error", error.as_ref());
        }
        Fact::Compensating { reason } | Fact::NeedsOperator { reason } => line.set("reason", reason),
        Fact::Undone { step, error } => {
            line.some("step", name(step));
            line.some("error", error.as_ref());
        }
        Fact::LateReply { step, event_id, is_success } => {
            line.some("step", name(step));
            line.set("success", is_success);
            line.set("event_id", event_id);
        }
        Fact::Decided { decision, reason } => {
            let (verb, steps, result): (_, &[StepIndex], Option<&Json>) = match decision {
                Decision::Retry { steps } => ("retry", steps, None),
                Decision::Skip { steps, result } => ("skip", steps, result.as_ref()),
                Decision::Hurry => ("retry", &[], None),
                Decision::Pause => ("pause", &[], None),
                Decision::Resume => ("resume", &[], None),
            };
            line.set("verb", verb);
            line.set("reason", reason);
            line.some("steps", (!steps.is_empty()).then(|| steps.iter().filter_map(name).collect::<Vec<_>>()));
            line.some("result", result);
        }
        Fact::Finished { end } => line.set("state", end.as_str()),
    }
    line.end()
}

fn kind(fact: &Fact) -> &'static str {
    match fact {
        Fact::Started => "started",
        Fact::Begun { .. } => "begun",
        Fact::Skipped { .. } => "skipped",
        Fact::Called(_) => "called",
        Fact::Waiting { .. } => "waiting",
        Fact::Replied { .. } => "replied",
        Fact::NotDone { .. } => "not_done",
        Fact::Ended { .. } => "ended",
        Fact::Compensating { .. } => "compensating",
        Fact::Undoing { .. } => "undoing",
        Fact::Undone { .. } => "undone",
        Fact::LateReply { .. } => "late_reply",
        Fact::NeedsOperator { .. } => "needs_operator",
        Fact::Decided { .. } => "decided",
        Fact::Finished { .. } => "finished",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::call::CallEnd;
    use crate::domain::saga::{Correlation, Input, Verb, decide};

    const TRIGGER: &str = r#"{"payload":{"id":7,"amount":12345678901234567890123}}"#;

    fn definition() -> Definition {
        let text = json!({
            "name": "pay", "version": 2, "trigger": { "event": "order.made" }, "correlation": "/id", "deadline": "1h",
            "steps": [
                { "name": "reserve", "call": { "service": "bank", "path": "/r" },
                  "await": { "event": "reserved.*", "correlation": "/id", "timeout": "10m" },
                  "compensate": { "call": { "service": "vault", "path": "/undo" } } },
                { "name": "rest", "wait": "5m" },
            ],
        });
        Definition::parse(&text.to_string(), |_| true).expect("a saga")
    }

    /// An instance, and how it is shown.
    struct Told(Definition, Instance, Vec<Entry>);

    impl Told {
        fn new() -> Self {
            let correlation = Correlation::of("7").expect("a value");
            let (id, saga) = ("01".to_owned(), "pay".to_owned());
            let origin = Origin { id, saga, version: 2, correlation, trigger: TRIGGER.into() };
            let definition = definition();
            let instance = Instance::new(origin, &definition, Timestamp(0));
            Self(definition, instance, Vec::new())
        }

        fn tell(&mut self, input: Input) {
            let now = Timestamp(1_000_000);
            self.2.extend(decide(&self.0, &mut self.1, input, (now, 5)).expect("it fits").entries);
        }

        fn text(&self, open: &str) -> String {
            let Self(definition, instance, journal) = self;
            let (origin, state) = (&instance.origin, instance.state());
            let Instance { is_paused, started_at, updated_at, .. } = *instance;
            let listed = Listed { origin, state, is_paused, started_at, updated_at };
            shown_json(&listed, (definition, instance, journal), |service| service == open)
        }

        fn shown(&self) -> Value {
            serde_json::from_str(&self.text("").replace("1e400", "1")).expect("JSON")
        }
    }

    fn called(outcome: CallEnd) -> Input {
        let (operation, response) = (Operation::Action, Json::parse("1e400"));
        Input::CallEnded(CallReport { step: 0, operation, outcome, attempts: 3, response, error: None })
    }

    #[test]
    fn an_instance_is_shown_with_what_it_waits_for() {
        let mut told = Told::new();
        assert_eq!((told.shown()["state"].clone(), told.shown()["waiting_for"].clone()), (json!("queued"), json!([])));
        told.tell(Input::Start { after: 5 });
        let wait = |on: &str, event: Value, until: Value| json!([{ "step": "reserve", "for": on, "event": event, "until": until }]);
        assert_eq!(told.shown()["waiting_for"], wait("call", Value::Null, Value::Null));
        assert!(told.text("bank").contains(r#""for":"breaker""#) && !told.text("vault").contains("breaker"));
        told.tell(called(CallEnd::Done));
        let shown = told.shown();
        assert_eq!(shown["waiting_for"], wait("event", json!("reserved.*"), json!("1970-01-01T00:10:01.000000Z")));
        assert_eq!(shown["deadline_at"], "1970-01-01T01:00:01.000000Z");
        assert_eq!(
            shown["steps"][0],
            json!({ "name": "reserve", "state": "waiting", "attempts": 3, "started_at": "1970-01-01T00:00:01.000000Z", "error": null })
        );
        let kinds: Vec<_> = shown["journal"].as_array().expect("a list").iter().map(|line| &line["kind"]).collect();
        assert_eq!(kinds, ["started", "begun", "called", "waiting"]);
        assert_eq!((&shown["journal"][2]["n"], &shown["journal"][2]["outcome"]), (&json!(3), &json!("done")));
        let text = told.text("");
        assert!(text.contains("12345678901234567890123") && text.contains("\"response\":1e400"), "{text}");
        told.tell(Input::Operator { verb: Verb::Pause, reason: "lunch".to_owned() });
        let waits = told.shown()["waiting_for"].clone();
        assert_eq!(
            [&waits[0]["for"], &waits[0]["step"], &waits[1]["for"]],
            [&json!("operator"), &Value::Null, &json!("event")]
        );
        told.tell(Input::Operator { verb: Verb::Abort, reason: "enough".to_owned() });
        assert_eq!((&told.shown()["state"], &told.shown()["waiting_for"]), (&json!("aborted"), &json!([])));
    }

    #[test]
    fn who_needs_an_operator_says_for_which_step() {
        let mut told = Told::new();
        told.tell(Input::SetAside { reason: "there is another".to_owned() });
        assert_eq!(
            told.shown()["waiting_for"],
            json!([{ "step": null, "for": "operator", "event": null, "until": null }])
        );
        let listed = Listed {
            origin: &told.1.origin,
            state: State::NeedsOperator,
            is_paused: false,
            started_at: None,
            updated_at: Timestamp(0),
        };
        let unreadable: Value = serde_json::from_str(&unreadable_json(&listed, "no JSON")).expect("JSON");
        assert_eq!((&unreadable["error"], &unreadable["steps"]), (&json!("no JSON"), &json!([])));
    }
}
