//! The state of the whole system: what a client asks for, and what everybody is told.

use std::time::Duration;

use bytestring::ByteString;
use serde_json::{Map, Value, json};

use super::error::{ApiError, ErrorCode};
use super::raw_object::RawObject;
use crate::domain::event::{NewEvent, Priority};
use crate::domain::system::{
    Cause, DEFAULT_TIMEOUT, MAX_TIMEOUT, OnTimeout, Put, Refusal, Step, System, SystemState, Told, Trouble,
};

/// How the names of all events about the state of the system begin.
pub const PREFIX: &str = "$sys.system.";
/// The ordering key of these events.
pub const KEY: ByteString = ByteString::from_static("system");
/// Longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// The fields of a request.
const FIELDS: [&str; 5] = ["state", "reason", "barrier", "timeout", "on_timeout"];

/// Reads what an operator asks for. `services` are those that may be in the barrier, `transition` and `recovery` new names.
pub fn parse_put(body: &[u8], services: &[&str], [transition, recovery]: [String; 2]) -> Result<Put, ApiError> {
    let fields = RawObject::parse(body, "body")?;
    fields.check(&FIELDS, true)?;
    let invalid = |field: &str, reason: &str| ApiError::field(ErrorCode::InvalidField, field, reason);
    let to = match SystemState::parse(&fields.required_text("state")?) {
        Some(SystemState::Degraded) => return Err(by_itself()),
        Some(state) => state,
        None => return Err(invalid("state", "must be running, maintenance or draining")),
    };
    let reason = fields.text("reason")?.map(|text| text.into_owned());
    if reason.as_ref().is_some_and(|text| text.len() > MAX_REASON || text.contains(char::is_control)) {
        return Err(invalid("reason", "must have at most 1024 bytes, and no control characters"));
    }
    let timeout = match fields.text("timeout")? {
        None => DEFAULT_TIMEOUT,
        Some(text) => humantime::parse_duration(&text)
            .ok()
            .filter(|timeout| (Duration::from_millis(1)..=MAX_TIMEOUT).contains(timeout))
            .ok_or_else(|| invalid("timeout", "must be a duration from 1ms to 24h, such as 30s"))?,
    };
    let on_timeout = match fields.text("on_timeout")? {
        None => OnTimeout::default(),
        Some(text) => OnTimeout::parse(&text).ok_or_else(|| invalid("on_timeout", "must be revert or proceed"))?,
    };
    Ok(Put { transition, recovery, to, reason, barrier: barrier(&fields, services)?, timeout, on_timeout })
}

fn barrier(fields: &RawObject<'_>, services: &[&str]) -> Result<Vec<String>, ApiError> {
    const FIELD: &str = "barrier";
    let Some(raw) = fields.raw(FIELD).filter(|raw| *raw != "null") else { return Ok(Vec::new()) };
    let invalid = |reason: String| ApiError::field(ErrorCode::InvalidField, FIELD, reason);
    let names: Vec<String> =
        serde_json::from_str(raw).map_err(|_| invalid("must be a list of names of services".to_owned()))?;
    for (at, name) in names.iter().enumerate() {
        if !services.contains(&name.as_str()) {
            return Err(invalid(format!("there is no service {name:?}")).with("known", services.to_vec()));
        }
        if names[..at].contains(name) {
            return Err(invalid(format!("{name:?} is given twice")));
        }
    }
    Ok(names)
}

/// Why nothing is done of what an operator asks for.
impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Changing { transition } => {
                let message = "another change of the system is under way; wait until it is made or taken back";
                Self::new(ErrorCode::SystemChanging, message).with("transition", transition)
            }
            Refusal::ByItself => by_itself(),
        }
    }
}

fn by_itself() -> ApiError {
    ApiError::field(ErrorCode::InvalidField, "state", "degraded is entered and left by itself")
}

/// The state as everybody is shown it by a node on which this critical part does not work, if there is one.
pub fn shown(system: &System, trouble: Option<&Trouble>) -> Value {
    let state = system.seen(trouble.is_some());
    let (transition, reason) = system.shown_transition();
    // What this node alone knows so far.
    let own = trouble.filter(|_| state == SystemState::Degraded && system.state != state);
    json!({
        "state": state.as_str(),
        "since": own.map_or(system.since, |trouble| trouble.since).to_string(),
        "reason": own.map_or(reason, |trouble| Some(&trouble.reason)),
        "transition": transition,
        "waiting_for": system.change.iter().flat_map(|change| change.waiting_for()).collect::<Vec<_>>(),
    })
}

/// The same for operators, with the change that is under way.
pub fn describe(system: &System, trouble: Option<&Trouble>) -> Value {
    let mut described = shown(system, trouble);
    described["trouble"] = trouble.map(|trouble| trouble.reason.as_str()).into();
    described["change"] = system.change.as_ref().map_or(Value::Null, |change| {
        json!({
            "to": change.to.as_str(),
            "barrier": change.barrier,
            "acknowledged": change.acknowledged,
            "due_at": change.due_at.to_string(),
            "on_timeout": change.on_timeout.as_str(),
            "event_id": change.event,
        })
    });
    described
}

/// The event that tells everybody of a step.
pub fn event(told: &Told) -> NewEvent {
    let Told { what, transition, from, to, reason, barrier } = told;
    let mut payload = Map::new();
    payload.insert("transition".into(), transition.as_str().into());
    payload.insert("from".into(), from.as_str().into());
    payload.insert("to".into(), to.as_str().into());
    payload.insert("reason".into(), reason.as_deref().into());
    payload.insert("barrier".into(), barrier.as_slice().into());
    let (name, details) = match what {
        Step::Changing { due_at, on_timeout } => {
            ("changing", json!({ "due_at": due_at.to_string(), "on_timeout": on_timeout.as_str() }))
        }
        Step::Changed { missing } => ("changed", json!({ "missing": missing })),
        Step::Reverted(Cause::Veto { service, status }) => {
            ("reverted", json!({ "cause": "veto", "service": service, "http_status": status }))
        }
        Step::Reverted(Cause::Timeout { missing }) => ("reverted", json!({ "cause": "timeout", "missing": missing })),
    };
    if let Value::Object(details) = details {
        payload.extend(details);
    }
    let event = NewEvent::own(&format!("{PREFIX}{name}"), Value::Object(payload).to_string());
    NewEvent { priority: Priority::High, key: Some(KEY), ..event }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Timestamp;

    fn put(body: &str) -> Result<Put, ApiError> {
        parse_put(body.as_bytes(), &["a", "b"], ["t1".to_owned(), "t2".to_owned()])
    }

    #[test]
    fn a_request_has_defaults() {
        let asked = put(r#"{"state":"maintenance"}"#).expect("valid");
        let expected = Put {
            transition: "t1".to_owned(),
            recovery: "t2".to_owned(),
            to: SystemState::Maintenance,
            reason: None,
            barrier: Vec::new(),
            timeout: Duration::from_secs(30),
            on_timeout: OnTimeout::Revert,
        };
        assert_eq!(asked, expected);
        let all = r#"{"state":"draining","reason":"bye","barrier":["b","a"],"timeout":"2m","on_timeout":"proceed"}"#;
        let asked = put(all).expect("valid");
        assert_eq!(
            (asked.barrier.as_slice(), asked.timeout),
            (&["b".to_owned(), "a".to_owned()][..], DEFAULT_TIMEOUT * 4)
        );
    }

    #[test]
    fn what_cannot_be_asked_for_names_its_field() {
        for (body, field) in [
            ("{}", "state"),
            (r#"{"state":"degraded"}"#, "state"),
            (r#"{"state":"off"}"#, "state"),
            (r#"{"state":"running","reason":"a\u0000b"}"#, "reason"),
            (r#"{"state":"running","barrier":"a"}"#, "barrier"),
            (r#"{"state":"running","barrier":["a","c"]}"#, "barrier"),
            (r#"{"state":"running","barrier":["a","b","a"]}"#, "barrier"),
            (r#"{"state":"running","timeout":"0s"}"#, "timeout"),
            (r#"{"state":"running","timeout":30}"#, "timeout"),
            (r#"{"state":"running","timeout":"2d"}"#, "timeout"),
            (r#"{"state":"running","on_timeout":"wait"}"#, "on_timeout"),
            (r#"{"state":"running","force":true}"#, "force"),
        ] {
            let error = put(body).expect_err(body);
            assert_eq!((error.details()["field"].as_str(), error.status()), (Some(field), 422), "{body}");
        }
    }

    #[test]
    fn events_are_urgent_and_in_order() {
        let told = Told {
            what: Step::Changing { due_at: Timestamp(0), on_timeout: OnTimeout::Revert },
            transition: "t1".to_owned(),
            from: SystemState::Running,
            to: SystemState::Draining,
            reason: None,
            barrier: vec!["a".to_owned()],
        };
        let made = event(&told);
        assert_eq!((made.name.as_str(), made.priority), ("$sys.system.changing", Priority::High));
        assert_eq!(made.key.as_deref(), Some("system"));
        let payload: Value = serde_json::from_str(&made.payload).expect("JSON");
        assert_eq!(payload["to"], "draining");
        let veto = Step::Reverted(Cause::Veto { service: "a".to_owned(), status: 409 });
        let payload: Value = serde_json::from_str(&event(&Told { what: veto, ..told }).payload).expect("JSON");
        assert_eq!((&payload["cause"], &payload["http_status"]), (&json!("veto"), &json!(409)));
    }
}
