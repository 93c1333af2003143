//! Holds every answer that a test gets against /openapi.json: its status, its error code, and its JSON; and the Event
//! Handler's own events in it against /asyncapi.json.

use std::sync::OnceLock;

use event_handler::protocol::documents::{OUTSIDE, asyncapi, openapi};
use serde_json::{Map, Value};

use super::http::Response;

/// # Panics
/// When an answer of the program is not described. Those of other programs are none of its concern.
pub fn check(method: &str, target: &str, response: &Response) {
    if response.header("x-request-id").is_none() || response.status == 308 {
        return;
    }
    let path = target.split('?').next().unwrap_or_default();
    // With `server.base_path` the operation is below that.
    let ends = path.match_indices('/').map(|(at, _)| &path[at..]);
    let operations = ends.filter_map(|path| operation(if method == "HEAD" { "GET" } else { method }, path));
    let verdicts: Vec<Result<(), String>> = operations.map(|operation| is_described(operation, response)).collect();
    if verdicts.is_empty() || verdicts.iter().any(Result::is_ok) {
        return;
    }
    let problems: Vec<String> = verdicts.into_iter().filter_map(Result::err).collect();
    let text: String = String::from_utf8_lossy(&response.body).chars().take(2000).collect();
    panic!("{method} {target}: {} {text} is not in /openapi.json: {}", response.status, problems.join("; or "));
}

fn is_described(operation: &'static Value, response: &Response) -> Result<(), String> {
    let Response { status, .. } = response;
    let media = response.header("content-type").map(|media| media.split(';').next().unwrap_or_default().to_owned());
    let is_json = media.as_deref() == Some("application/json") && response.header("content-encoding").is_none();
    let body: Value = match is_json && !response.body.is_empty() {
        true => serde_json::from_slice(&response.body).unwrap_or_default(),
        false => Value::Null,
    };
    let code = body["data"]["code"].as_str().filter(|_| *status >= 400);
    // With `server.base_path` there is nothing at most paths.
    if code == Some("not_found") || OUTSIDE.iter().any(|outside| Some(outside.as_str()) == code) {
        return Ok(());
    }
    let described = resolved(&operation["responses"][status.to_string()]);
    if !described.is_object() {
        return Err(format!("it has no {status}"));
    }
    let events = body["data"].as_array().map_or(std::slice::from_ref(&body["data"]), Vec::as_slice);
    events.iter().try_for_each(own_is_described)?;
    let Some(media) = media.filter(|_| !response.body.is_empty()) else { return Ok(()) };
    let of_media = &described["content"][&media];
    if !of_media.is_object() {
        return Err(format!("{status} has no {media}"));
    }
    if body.is_null() { Ok(()) } else { conforms(&of_media["schema"], &body) }
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| openapi(""))
}

/// /asyncapi.json without event types.
pub fn messages() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::from_str(&asyncapi("", &[])).expect("JSON"))
}

/// Whether an event is not one of the Event Handler's own, or is as the document says.
fn own_is_described(event: &Value) -> Result<(), String> {
    let Some(name) = event["event_name"].as_str().filter(|name| name.starts_with("$sys.")) else { return Ok(()) };
    let Some(payload) = event.get("payload") else { return Ok(()) };
    let mut messages = messages()["components"]["messages"].as_object().into_iter().flatten();
    let message = messages.find(|(key, message)| key.starts_with("payload.") && message["name"] == name);
    let (_, message) = message.ok_or_else(|| format!("{name} is not in /asyncapi.json"))?;
    conforms(&message["payload"], payload).map_err(|problem| format!("{name} is not as in /asyncapi.json: {problem}"))
}

/// The operation of a path; of several that match it, the one with the most literal segments.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let parts: Vec<&str> = path.split('/').collect();
    let literals = |template: &str| {
        let of_template: Vec<&str> = template.split('/').collect();
        let is_match = |(part, wanted): (&&str, &&str)| part == wanted || (wanted.starts_with('{') && !part.is_empty());
        let fits = of_template.len() == parts.len() && parts.iter().zip(&of_template).all(is_match);
        fits.then(|| of_template.iter().filter(|part| !part.starts_with('{')).count())
    };
    let paths = document()["paths"].as_object()?;
    let fitting = paths.iter().filter_map(|(template, methods)| {
        let operation = methods.get(method.to_ascii_lowercase())?;
        Some((literals(template)?, operation))
    });
    fitting.max_by_key(|(literals, _)| *literals).map(|(_, operation)| operation)
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let at = reference.trim_start_matches('#');
            document().pointer(at).or_else(|| messages().pointer(at)).expect("a reference that leads somewhere")
        }
        None => value,
    }
}

/// Whether a value is as the schema says. An object may have no other members than those that its schema names, unless
/// the schema says that it may: so a new one is described too.
pub fn conforms(schema: &'static Value, value: &Value) -> Result<(), String> {
    let schema = resolved(schema);
    let wrong = |what: &str| Err(format!("{what} at {}", value.to_string().chars().take(200).collect::<String>()));
    let Some(schema) = schema.as_object() else { return Ok(()) };
    if schema.get("const").is_some_and(|wanted| wanted != value) {
        return wrong("another constant");
    }
    if schema.get("enum").and_then(Value::as_array).is_some_and(|wanted| !wanted.contains(value)) {
        return wrong("none of the values");
    }
    if let Some(kinds) = schema.get("type") {
        let is = |kind: &Value| match kind.as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            _ => value.is_null(),
        };
        let is_one = kinds.as_array().map_or_else(|| is(kinds), |kinds| kinds.iter().any(is));
        if !is_one {
            return wrong(&format!("no {kinds}"));
        }
    }
    if schema.get("minimum").and_then(Value::as_i64).zip(value.as_i64()).is_some_and(|(least, value)| value < least) {
        return wrong("less than there may be");
    }
    if let Some(any_of) = schema.get("anyOf").and_then(Value::as_array) {
        let problems: Vec<String> = any_of.iter().filter_map(|schema| conforms(schema, value).err()).collect();
        if problems.len() == any_of.len() {
            return Err(problems.join("; or "));
        }
    }
    for schema in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        conforms(schema, value)?;
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().try_for_each(|value| conforms(items, value))?;
    }
    value.as_object().map_or(Ok(()), |object| object_conforms(schema, object))
}

fn object_conforms(schema: &'static Map<String, Value>, object: &Map<String, Value>) -> Result<(), String> {
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    if let Some(missing) = required.filter_map(Value::as_str).find(|name| !object.contains_key(*name)) {
        return Err(format!("{missing} is missing in {:?}", object.keys().collect::<Vec<_>>()));
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    let is_open = schema.get("additionalProperties") == Some(&Value::Bool(true)) || !schema.contains_key("type");
    for (name, value) in object {
        match properties.get(name) {
            Some(schema) => conforms(schema, value).map_err(|problem| format!("{name}: {problem}"))?,
            None if is_open => {}
            None => return Err(format!("{name} is not described")),
        }
    }
    Ok(())
}
