//! What a saga does: read once, checked as a whole, and never changed afterwards.

mod check;
mod read;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

pub(super) use self::check::SELF;
use super::json::Pointer;
use super::template::{Template, Text};
use crate::domain::event::Timestamp;
use crate::domain::filter::Filter;
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;

/// Most steps of a saga.
pub const MAX_STEPS: usize = 64;
/// Longest text of a definition, in bytes.
pub const MAX_TEXT: usize = 256 * 1024;

/// A saga of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub name: String,
    pub version: u32,
    pub trigger: Trigger,
    /// Where the trigger's payload has the value that is the instance's own.
    pub correlation: Pointer,
    /// For the whole.
    pub deadline: Option<Duration>,
    pub on_deadline: OnTrouble,
    pub on_duplicate: OnDuplicate,
    /// All steps, in the order in which they are written.
    pub steps: Vec<Step>,
    /// One after the other; of each, the branches side by side, which are steps one after the other.
    pub stages: Vec<Vec<Vec<StepIndex>>>,
}

/// The place of a step in [`Definition::steps`].
pub type StepIndex = usize;

/// Which events begin an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    pub event: Pattern,
    pub filter: Option<Filter>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub work: Work,
    pub reply: Option<Reply>,
    pub probe: Option<Probe>,
    pub retry: Option<Retry>,
    pub on_failure: OnFailure,
    pub on_unknown: OnTrouble,
    pub undo: Option<Undo>,
    /// From here on there is no way back.
    pub is_pivot: bool,
    /// It is skipped unless this passes.
    pub when: Option<Filter>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    Call(Call),
    Publish {
        event: EventName,
        payload: Template,
        key: Option<Text>,
    },
    /// For so long, or until then: a text that becomes a duration or an instant.
    Wait(Text),
}

/// A request to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub service: String,
    pub path: Text,
    pub body: Option<Template>,
}

/// Which event a step awaits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub event: Pattern,
    pub match_by: Match,
    pub success: Option<Filter>,
    pub failure: Option<Filter>,
    pub timeout: Duration,
}

/// How an event is known to be for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It has the instance's value here.
    Correlation(Pointer),
    /// It has all these values.
    Values(Vec<(Pointer, Template)>),
}

/// How a service is asked what has become of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub service: String,
    pub path: Text,
    pub every: Duration,
    pub timeout: Duration,
}

/// How a call is repeated, in place of what the service says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub max_attempts: Option<u32>,
    pub base: Option<Duration>,
    pub cap: Option<Duration>,
}

/// How a step is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    pub call: Call,
    /// Answers that mean that it is done, besides 2xx and 410.
    pub done: BTreeSet<u16>,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    #[default]
    Compensate,
    Continue,
    NeedsOperator,
}

/// What follows when nobody knows, or time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTrouble {
    #[default]
    Compensate,
    NeedsOperator,
}

/// What follows a trigger for a value that a live instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    #[default]
    Ignore,
    Queue,
    NeedsOperator,
}

/// The instant that the text of a wait says: so long from `now` on, or itself.
pub(in crate::domain::saga) fn instant(text: &str, now: Timestamp) -> Option<Timestamp> {
    humantime::parse_duration(text).ok().map(|span| now.plus(span)).or_else(|| Timestamp::parse(text))
}

/// Why a definition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct DefinitionError {
    /// Where in it, such as `steps[2].await.timeout`.
    pub field: String,
    pub reason: String,
}

impl Definition {
    /// Reads and checks the JSON text of a definition. `is_service` tells which services there are.
    pub fn parse(json: &str, is_service: impl Fn(&str) -> bool) -> Result<Self, DefinitionError> {
        let definition = read::read(json)?;
        check::check(&definition, is_service)?;
        Ok(definition)
    }

    /// Reads the JSON text of a definition that was checked when it was stored. A check that has come later does not
    /// take it from the instances that run with it.
    pub fn from_store(json: &str) -> Result<Self, DefinitionError> {
        read::read(json)
    }

    /// The step of this name.
    pub fn step(&self, name: &str) -> Option<StepIndex> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// The step from which on there is no way back.
    pub fn pivot(&self) -> Option<StepIndex> {
        self.steps.iter().position(|step| step.is_pivot)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settle() -> Value {
        json!({
            "name": "settle-auction", "version": 3,
            "trigger": { "event": "auction.ended", "filter": { "winner": [{ "exists": true }] } },
            "correlation": "/auction_id", "deadline": "1h",
            "steps": [
                { "name": "reserve", "call": { "service": "bank", "path": "/reservations", "body": { "auction": "${trigger.payload.auction_id}" } },
                  "compensate": { "call": { "service": "bank", "path": "/reservations/${steps.SELF.response.id}/cancel" }, "done": [404] } },
                { "parallel": [
                    [{ "name": "announce", "publish": { "event": "auction.settling", "payload": { "of": "${saga.id}" }, "key": "${saga.correlation}" } }],
                    [{ "name": "pause", "wait": "5m" }, { "name": "look", "when": { "steps": { "reserve": { "response": { "ok": [true] } } } },
                       "call": { "service": "stream", "path": "/looks" }, "retry": { "max_attempts": 8, "retry_base": "1s" } }],
                ] },
                { "name": "transfer", "pivot": true,
                  "call": { "service": "chain", "path": "/transfers", "body": { "to": "${steps.reserve.response.wallet}" } },
                  "await": { "event": "transfer.*", "correlation": "/auction_id", "success": { "status": ["done"] }, "timeout": "10m" },
                  "probe": { "path": "/transfers/${saga.id}", "every": "5s", "timeout": "2m" } },
                { "name": "picture", "call": { "service": "stream", "path": "/pictures", "body": "${steps.transfer.event.payload.url}" } },
            ],
        })
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut saga = settle();
        change(&mut saga);
        let parsed = Definition::parse(&saga.to_string(), |name| ["bank", "chain", "stream"].contains(&name));
        parsed.expect_err("refused").to_string()
    }

    #[test]
    fn a_saga_is_read_as_it_is_written() {
        let saga = Definition::parse(&settle().to_string(), |_| true).expect("a saga");
        assert_eq!(saga.stages, [vec![vec![0]], vec![vec![1], vec![2, 3]], vec![vec![4]], vec![vec![5]]]);
        assert_eq!(
            (saga.pivot(), saga.step("look"), saga.steps[4].on_unknown),
            (Some(4), Some(3), OnTrouble::Compensate)
        );
        assert_eq!(saga.steps[4].probe.as_ref().map(|probe| &*probe.service), Some("chain"));
        assert_eq!(saga.deadline, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_place() {
        let step =
            |n: usize, field: &'static str, value: Value| move |saga: &mut Value| saga["steps"][n][field] = value;
        for (said, change) in [
            (
                "version: must be 1 or more",
                Box::new(|saga: &mut Value| saga["version"] = json!(0)) as Box<dyn FnOnce(&mut Value)>,
            ),
            ("name: must be 1 to 63 of a-z", Box::new(|saga| saga["name"] = json!("Settle"))),
            ("name: must not be \"definitions\"", Box::new(|saga| saga["name"] = json!("definitions"))),
            ("unknown field `trigerr`", Box::new(|saga| saga["trigerr"] = json!(1))),
            ("steps[0]: unknown field `cal`", Box::new(step(0, "cal", json!(1)))),
            (
                "steps[1].parallel[0][0]: unknown field `pay`",
                Box::new(|saga| saga["steps"][1]["parallel"][0][0]["pay"] = json!(1)),
            ),
            (
                "steps[0].compensate.done: must be HTTP",
                Box::new(|saga| saga["steps"][0]["compensate"]["done"] = json!([404, 4040])),
            ),
            (
                "steps[3].when: there is no step \"reserv\"",
                Box::new(step(
                    3,
                    "when",
                    json!({"$or": [{"steps": {"reserv": {"response": [1]}}}, {"saga": {"id": [""]}}]}),
                )),
            ),
            ("steps[3].when: \"payload\" is none of", Box::new(step(3, "when", json!({"payload": {"a": [1]}})))),
            (
                "steps[1].parallel[0][0].publish.key: a key must not be empty",
                Box::new(|saga| saga["steps"][1]["parallel"][0][0]["publish"]["key"] = json!("")),
            ),
            ("trigger.filter: ", Box::new(|saga| saga["trigger"]["filter"] = json!(7))),
            ("correlation: must be a JSON Pointer", Box::new(|saga| saga["correlation"] = json!("auction_id"))),
            ("deadline: must be a duration", Box::new(|saga| saga["deadline"] = json!("soon"))),
            ("steps: must not be empty", Box::new(|saga| saga["steps"] = json!([]))),
            (
                "steps[0].call.service: there is no service \"banc\"",
                Box::new(|saga| saga["steps"][0]["call"]["service"] = json!("banc")),
            ),
            ("steps[0]: must do one of call, publish, wait", Box::new(step(0, "wait", json!("1s")))),
            ("steps[3].name: is taken", Box::new(step(3, "name", json!("transfer")))),
            (
                "steps[2].await.timeout: is missing",
                Box::new(|saga| drop(saga["steps"][2]["await"].as_object_mut().unwrap().remove("timeout"))),
            ),
            (
                "steps[2].await: must have one of correlation, match",
                Box::new(|saga| saga["steps"][2]["await"]["match"] = json!({"/a": 1})),
            ),
            (
                "steps[3].compensate: comes after the pivot",
                Box::new(step(3, "compensate", json!({"call": {"service": "bank", "path": "/x"}}))),
            ),
            (
                "steps[0].call.body: step \"transfer\" has not run",
                Box::new(|saga| saga["steps"][0]["call"]["body"] = json!("${steps.transfer.response}")),
            ),
            (
                "steps[1].parallel[1][0].wait: step \"announce\" is of another branch",
                Box::new(|saga| saga["steps"][1]["parallel"][1][0]["wait"] = json!("${steps.announce.response}")),
            ),
            (
                "steps[0].call.path: there is no step \"nothing\"",
                Box::new(|saga| saga["steps"][0]["call"]["path"] = json!("/${steps.nothing.response}")),
            ),
            (
                "steps[0].call.body: steps.SELF is known only to compensate",
                Box::new(|saga| saga["steps"][0]["call"]["body"] = json!("${steps.SELF.response}")),
            ),
            (
                "steps[0].call.body: ${saga.age}",
                Box::new(|saga| saga["steps"][0]["call"]["body"] = json!("${saga.age}")),
            ),
            ("steps[0].call.body: ${event}", Box::new(|saga| saga["steps"][0]["call"]["body"] = json!("${event}"))),
            (
                "steps[1].parallel[0][0].publish.event: the saga would begin itself",
                Box::new(|saga| saga["trigger"]["event"] = json!("auction.*")),
            ),
            (
                "steps[1].parallel[0][0].publish.event: ",
                Box::new(|saga| saga["steps"][1]["parallel"][0][0]["publish"]["event"] = json!("$sys.x")),
            ),
            (
                "steps[1].parallel[0][0].pivot: ",
                Box::new(|saga| saga["steps"][1]["parallel"][0][0]["pivot"] = json!(true)),
            ),
            ("steps[0].call.path: must begin with /", Box::new(|saga| saga["steps"][0]["call"]["path"] = json!("x"))),
            ("steps[3].pivot: there is one already", Box::new(step(3, "pivot", json!(true)))),
            ("steps[1].parallel: does nothing else", Box::new(step(1, "wait", json!("1s")))),
            ("steps[1].pivot: is not for branches", Box::new(step(1, "pivot", json!(true)))),
            ("deadline: must be more than 0", Box::new(|saga| saga["deadline"] = json!("0s"))),
            (
                "steps[2].await.timeout: must be more than 0",
                Box::new(|saga| saga["steps"][2]["await"]["timeout"] = json!("0s")),
            ),
            (
                "steps[1].parallel[1][0].wait: must be a duration",
                Box::new(|saga| saga["steps"][1]["parallel"][1][0]["wait"] = json!("5 bananas")),
            ),
            (
                "steps[1].parallel[0][0].publish.event: is the name of changes of entities",
                Box::new(|saga| saga["steps"][1]["parallel"][0][0]["publish"]["event"] = json!("state.a.changed")),
            ),
            (
                "steps[1].parallel[0][0].publish.event: is no template",
                Box::new(|saga| saga["steps"][1]["parallel"][0][0]["publish"]["event"] = json!("told.${saga.id}")),
            ),
            (
                "steps[0].call.path: has control",
                Box::new(|saga| saga["steps"][0]["call"]["path"] = json!("/a\r\nb: c")),
            ),
            (
                "steps[0].call.path: \"..\" cannot be",
                Box::new(|saga| saga["steps"][0]["call"]["path"] = json!("/a/../b")),
            ),
            (
                "steps[3].call.body: step \"announce\" calls nobody",
                Box::new(|saga| saga["steps"][3]["call"]["body"] = json!("${steps.announce.response}")),
            ),
            (
                "steps[3].call.body: step \"announce\" awaits no event",
                Box::new(|saga| saga["steps"][3]["call"]["body"] = json!("${steps.announce.event}")),
            ),
        ] {
            let found = refused(change);
            assert!(found.contains(said), "{found:?} and not {said:?}");
        }
    }
}
