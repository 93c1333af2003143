//! Reads a definition: its shape, names, durations, patterns, filters and templates.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Call, Definition, DefinitionError, MAX_STEPS, MAX_TEXT, Match, OnDuplicate, OnFailure, OnTrouble, Probe, Reply,
    Retry, Step, StepIndex, Trigger, Undo, Work,
};
use crate::domain::filter::Filter;
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;
use crate::domain::saga::json::Pointer;
use crate::domain::saga::template::{Template, Text};

type Read<T> = Result<T, DefinitionError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SagaKeys {
    name: String,
    version: u32,
    trigger: TriggerKeys,
    correlation: String,
    deadline: Option<String>,
    #[serde(default)]
    on_deadline: OnTrouble,
    #[serde(default)]
    on_duplicate: OnDuplicate,
    steps: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TriggerKeys {
    event: String,
    filter: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepKeys {
    name: Option<String>,
    call: Option<CallKeys>,
    publish: Option<PublishKeys>,
    wait: Option<String>,
    #[serde(rename = "await")]
    reply: Option<ReplyKeys>,
    probe: Option<ProbeKeys>,
    retry: Option<RetryKeys>,
    on_failure: Option<OnFailure>,
    on_unknown: Option<OnTrouble>,
    compensate: Option<UndoKeys>,
    pivot: Option<bool>,
    when: Option<Value>,
    parallel: Option<Vec<Vec<Value>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallKeys {
    service: String,
    path: String,
    body: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishKeys {
    event: String,
    payload: Value,
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyKeys {
    event: String,
    correlation: Option<String>,
    #[serde(rename = "match")]
    values: Option<BTreeMap<String, Value>>,
    success: Option<Value>,
    failure: Option<Value>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeKeys {
    service: Option<String>,
    path: String,
    every: Option<String>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryKeys {
    max_attempts: Option<u32>,
    retry_base: Option<String>,
    retry_cap: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UndoKeys {
    call: CallKeys,
    #[serde(default)]
    done: BTreeSet<u16>,
}

/// How often a service is asked if it is not said.
const PROBE_EVERY: Duration = Duration::from_secs(5);

fn wrong<T>(field: impl Into<String>, reason: impl Into<String>) -> Read<T> {
    Err(DefinitionError { field: field.into(), reason: reason.into() })
}

pub(super) fn read(json: &str) -> Read<Definition> {
    if json.len() > MAX_TEXT {
        return wrong("saga", format!("has {} bytes, more than {MAX_TEXT}", json.len()));
    }
    let keys: SagaKeys = match serde_json::from_str(json) {
        Ok(keys) => keys,
        Err(error) => return wrong("saga", error.to_string()),
    };
    if keys.version == 0 {
        return wrong("version", "must be 1 or more");
    }
    if keys.name == "definitions" {
        return wrong("name", "must not be \"definitions\"");
    }
    let (mut steps, mut stages) = (Vec::new(), Vec::new());
    for (at, keys) in keys.steps.into_iter().enumerate() {
        let at = format!("steps[{at}]");
        stages.push(stage(step_keys(keys, &at)?, &at, &mut steps)?);
    }
    if steps.is_empty() || steps.len() > MAX_STEPS {
        return wrong("steps", format!("must not be empty, nor more than {MAX_STEPS}"));
    }
    Ok(Definition {
        name: name(keys.name, "name")?,
        version: keys.version,
        trigger: Trigger {
            event: pattern(&keys.trigger.event, "trigger.event")?,
            filter: filter(keys.trigger.filter, "trigger.filter")?,
        },
        correlation: pointer(&keys.correlation, "correlation")?,
        deadline: keys.deadline.map(|text| duration(&text, "deadline")).transpose()?,
        on_deadline: keys.on_deadline,
        on_duplicate: keys.on_duplicate,
        steps,
        stages,
    })
}

/// What is written of the step at `at`.
fn step_keys(value: Value, at: &str) -> Read<StepKeys> {
    serde_json::from_value(value).or_else(|error| wrong(at, error.to_string()))
}

/// The branches of a stage; its steps are added to `steps`.
fn stage(keys: StepKeys, at: &str, steps: &mut Vec<Step>) -> Read<Vec<Vec<StepIndex>>> {
    let StepKeys { parallel: Some(branches), .. } = keys else {
        return Ok(vec![vec![add(keys, at, steps)?]]);
    };
    let alone = StepKeys { parallel: None, name: keys.name, ..keys };
    let StepKeys { name: None, call: None, publish: None, wait: None, reply: None, probe: None, retry: None, .. } =
        alone
    else {
        return wrong(format!("{at}.parallel"), "does nothing else: the branches have all that is done");
    };
    if alone.pivot.is_some() {
        return wrong(format!("{at}.pivot"), "is not for branches: give it to a step before or after them");
    }
    if alone.on_failure.is_some() || alone.on_unknown.is_some() || alone.compensate.is_some() || alone.when.is_some() {
        return wrong(format!("{at}.parallel"), "does nothing else: say this of the steps in the branches");
    }
    if branches.iter().any(Vec::is_empty) || branches.is_empty() {
        return wrong(format!("{at}.parallel"), "must have branches, and each of them steps");
    }
    let mut stage = Vec::new();
    for (b, branch) in branches.into_iter().enumerate() {
        let mut indices = Vec::new();
        for (s, keys) in branch.into_iter().enumerate() {
            let at = format!("{at}.parallel[{b}][{s}]");
            let keys = step_keys(keys, &at)?;
            if keys.parallel.is_some() {
                return wrong(at, "is in a branch, and has no branches of its own");
            }
            if keys.pivot == Some(true) {
                return wrong(
                    format!("{at}.pivot"),
                    "is in a branch: what runs beside it could not be undone any more",
                );
            }
            indices.push(add(keys, &at, steps)?);
        }
        stage.push(indices);
    }
    Ok(stage)
}

fn add(keys: StepKeys, at: &str, steps: &mut Vec<Step>) -> Read<StepIndex> {
    let step = step(keys, at)?;
    if steps.iter().any(|other| other.name == step.name) {
        return wrong(format!("{at}.name"), "is taken by another step");
    }
    steps.push(step);
    Ok(steps.len() - 1)
}

fn step(keys: StepKeys, at: &str) -> Read<Step> {
    let field = |name: &str| format!("{at}.{name}");
    let Some(own) = keys.name else { return wrong(field("name"), "is missing") };
    let work = match (keys.call, keys.publish, keys.wait) {
        (Some(keys), None, None) => Work::Call(call(keys, &field("call"))?),
        (None, Some(keys), None) => publish(keys, &field("publish"))?,
        (None, None, Some(wait)) => Work::Wait(text(&wait, &field("wait"))?),
        _ => return wrong(at, "must do one of call, publish, wait"),
    };
    let called = if let Work::Call(call) = &work { Some(&*call.service) } else { None };
    let probe = keys.probe.map(|keys| probe(keys, called, &field("probe"))).transpose()?;
    if called.is_none() && (probe.is_some() || keys.retry.is_some()) {
        return wrong(at, "has a probe or retry, and calls nobody");
    }
    Ok(Step {
        name: name(own, &field("name"))?,
        reply: keys.reply.map(|keys| reply(keys, &field("await"))).transpose()?,
        probe,
        retry: keys.retry.map(|keys| retry(&keys, &field("retry"))).transpose()?,
        on_failure: keys.on_failure.unwrap_or_default(),
        on_unknown: keys.on_unknown.unwrap_or_default(),
        undo: keys.compensate.map(|keys| undo(keys, &field("compensate"))).transpose()?,
        is_pivot: keys.pivot.unwrap_or(false),
        when: filter(keys.when, &field("when"))?,
        work,
    })
}

fn call(keys: CallKeys, at: &str) -> Read<Call> {
    let (path, body) = (format!("{at}.path"), format!("{at}.body"));
    if !keys.path.starts_with('/') {
        return wrong(path, "must begin with /");
    }
    Ok(Call {
        service: keys.service,
        path: text(&keys.path, &path)?,
        body: keys.body.map(|value| template(&value, &body)).transpose()?,
    })
}

fn publish(keys: PublishKeys, at: &str) -> Read<Work> {
    let event = match EventName::parse(keys.event) {
        Ok(name) if name.is_system() => return wrong(format!("{at}.event"), "is the Event Handler's own to publish"),
        Ok(name) => name,
        Err(error) => return wrong(format!("{at}.event"), error.to_string()),
    };
    Ok(Work::Publish {
        event,
        payload: template(&keys.payload, &format!("{at}.payload"))?,
        key: keys.key.map(|key| text(&key, &format!("{at}.key"))).transpose()?,
    })
}

fn reply(keys: ReplyKeys, at: &str) -> Read<Reply> {
    let field = |name: &str| format!("{at}.{name}");
    let match_by = match (keys.correlation, keys.values) {
        (Some(text), None) => Match::Correlation(pointer(&text, &field("correlation"))?),
        (None, Some(values)) if !values.is_empty() => {
            let at = field("match");
            let value = |(text, value): (String, Value)| Ok((pointer(&text, &at)?, template(&value, &at)?));
            Match::Values(values.into_iter().map(value).collect::<Read<_>>()?)
        }
        _ => return wrong(at, "must have one of correlation, match"),
    };
    Ok(Reply {
        event: pattern(&keys.event, &field("event"))?,
        match_by,
        success: filter(keys.success, &field("success"))?,
        failure: filter(keys.failure, &field("failure"))?,
        timeout: needed(keys.timeout, &field("timeout"))?,
    })
}

fn probe(keys: ProbeKeys, called: Option<&str>, at: &str) -> Read<Probe> {
    let field = |name: &str| format!("{at}.{name}");
    if !keys.path.starts_with('/') {
        return wrong(field("path"), "must begin with /");
    }
    let every = keys.every.map(|text| duration(&text, &field("every"))).transpose()?;
    Ok(Probe {
        service: keys.service.unwrap_or_else(|| called.unwrap_or_default().to_owned()),
        path: text(&keys.path, &field("path"))?,
        every: every.unwrap_or(PROBE_EVERY),
        timeout: needed(keys.timeout, &field("timeout"))?,
    })
}

fn retry(keys: &RetryKeys, at: &str) -> Read<Retry> {
    if keys.max_attempts == Some(0) {
        return wrong(format!("{at}.max_attempts"), "must be 1 or more");
    }
    let span = |text: &Option<String>, name: &str| {
        text.as_ref().map(|text| duration(text, &format!("{at}.{name}"))).transpose()
    };
    let (base, cap) = (span(&keys.retry_base, "retry_base")?, span(&keys.retry_cap, "retry_cap")?);
    Ok(Retry { max_attempts: keys.max_attempts, base, cap })
}

fn undo(keys: UndoKeys, at: &str) -> Read<Undo> {
    Ok(Undo { call: call(keys.call, &format!("{at}.call"))?, done: keys.done })
}

fn name(name: String, field: &str) -> Read<String> {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > 63 || !name.bytes().all(is_known) {
        return wrong(field, "must be 1 to 63 of a-z, 0-9, - and _");
    }
    Ok(name)
}

fn pattern(text: &str, field: &str) -> Read<Pattern> {
    Pattern::parse(text.to_owned()).or_else(|error| wrong(field, error.to_string()))
}

fn filter(value: Option<Value>, field: &str) -> Read<Option<Filter>> {
    let Some(value) = value else { return Ok(None) };
    Filter::parse(&value.to_string()).map(Some).or_else(|error| wrong(field, error.to_string()))
}

fn pointer(text: &str, field: &str) -> Read<Pointer> {
    match Pointer::parse(text) {
        Some(pointer) => Ok(pointer),
        None => wrong(field, format!("must be a JSON Pointer such as \"/auction_id\", not {text:?}")),
    }
}

fn text(text: &str, field: &str) -> Read<Text> {
    Text::parse(text).or_else(|reason| wrong(field, reason))
}

fn template(value: &Value, field: &str) -> Read<Template> {
    Template::parse(value).or_else(|reason| wrong(field, reason))
}

fn needed(text: Option<String>, field: &str) -> Read<Duration> {
    match text {
        Some(text) => duration(&text, field),
        None => wrong(field, "is missing: without it nobody would ever be told"),
    }
}

fn duration(text: &str, field: &str) -> Read<Duration> {
    let reason = |_| wrong(field, format!("must be a duration such as \"250ms\", \"30s\" or \"7d\", not {text:?}"));
    humantime::parse_duration(text).or_else(reason)
}
