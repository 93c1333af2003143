//! Event types on the wire.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::{ApiError, ErrorCode};
use super::raw_object::RawObject;
use crate::domain::catalogue::change::{Put, Refused, compatibility};
use crate::domain::catalogue::{EventType, Mode, Settings};
use crate::domain::entity::Precondition;
use crate::domain::event::NewEvent;
use crate::domain::pattern::Pattern;
use crate::domain::schema::compat::{Comparison, Reason};
use crate::domain::schema::{Invalid, InvalidKind, Schema};

/// The fields of a type.
pub const FIELDS: &[&str] =
    &["name", "version", "description", "owner", "schema", "examples", "deprecated", "mode", "compatibility", "strict"];
/// Longest type, with its schema, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// The event that tells of a change.
pub const TYPE_CHANGED: &str = "$sys.type.changed";

/// Reads the name of a type, given in `field`.
pub fn type_name(text: String, field: &str) -> Result<Pattern, ApiError> {
    let name = Pattern::parse(text).map_err(|reason| ApiError::field(ErrorCode::InvalidField, field, reason))?;
    if name.is_system() {
        let reason = "names beginning with $sys. are the Event Handler's own";
        return Err(ApiError::field(ErrorCode::ReservedName, field, reason));
    }
    Ok(name)
}

/// Reads a type that is to be put. Its name is `name`, or, if that is none, what it says.
pub fn parse_put(json: &[u8], name: Option<Pattern>) -> Result<Put, ApiError> {
    let object = RawObject::parse(json, "body")?;
    object.check(FIELDS, true)?;
    let given = object.text("name")?.map(|text| type_name(text.into_owned(), "name")).transpose()?;
    let name = match (name, given) {
        (Some(name), Some(given)) if name != given => {
            return Err(invalid("name", "must be the name in the path, or be left out"));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => return Err(ApiError::field(ErrorCode::MissingField, "name", "is required")),
    };
    let version = given_value(&object, "version", "must be the number of a version", |value: &u32| *value > 0)?;
    let schema =
        object.raw("schema").ok_or_else(|| ApiError::field(ErrorCode::MissingField, "schema", "is required"))?;
    Schema::compile(schema).map_err(invalid_schema)?;
    let examples: Option<Vec<Box<RawValue>>> =
        given_value(&object, "examples", "must be a list of payloads", |_| true)?;
    let flag = |field: &str| given_value(&object, field, "must be true or false", |_: &bool| true);
    let settings = Settings {
        description: text(&object, "description")?,
        owner: text(&object, "owner")?,
        examples: examples.unwrap_or_default().iter().map(|example| example.get().to_owned()).collect(),
        deprecated: flag("deprecated")?.unwrap_or_default(),
        mode: choice(&object, "mode", &Mode::ALL, Mode::as_str)?.unwrap_or_default(),
        compatibility: choice(&object, "compatibility", &compatibility::ALL, compatibility::name)?.unwrap_or_default(),
        strict: flag("strict")?.unwrap_or_default(),
    };
    Ok(Put { name, version, condition: Precondition::default(), schema: schema.to_owned(), settings })
}

fn invalid(field: &str, reason: &str) -> ApiError {
    ApiError::field(ErrorCode::InvalidField, field, reason)
}

fn text(object: &RawObject<'_>, field: &str) -> Result<Option<String>, ApiError> {
    Ok(object.text(field)?.map(|text| text.into_owned()))
}

/// The value of a field; absent and `null` are the same.
fn given_value<'a, T: serde::Deserialize<'a>>(
    object: &RawObject<'a>,
    field: &str,
    reason: &str,
    is_valid: impl Fn(&T) -> bool,
) -> Result<Option<T>, ApiError> {
    let Some(raw) = object.raw(field).filter(|raw| *raw != "null") else { return Ok(None) };
    let value = serde_json::from_str(raw).ok().filter(is_valid);
    value.map(Some).ok_or_else(|| invalid(field, reason))
}

fn choice<T: Copy>(
    object: &RawObject<'_>,
    field: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Option<T>, ApiError> {
    let Some(text) = object.text(field)? else { return Ok(None) };
    let known = || all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
    let found = all.iter().copied().find(|one| name(*one) == text);
    found.map(Some).ok_or_else(|| invalid(field, &format!("must be one of {}", known())))
}

/// What a schema cannot be compiled for.
pub fn invalid_schema(Invalid { field, message, kind }: Invalid) -> ApiError {
    let code = match kind {
        InvalidKind::Malformed => ErrorCode::InvalidSchema,
        InvalidKind::TooCostly => ErrorCode::SchemaTooCostly,
    };
    ApiError::field(code, &format!("schema{field}"), message)
}

/// Why a type is not put.
pub fn refused(refused: Refused) -> ApiError {
    match refused {
        Refused::Condition(current) => {
            let message = match current {
                Some(version) => format!("the newest version is {version}"),
                None => "there is no such event type".to_owned(),
            };
            ApiError::new(ErrorCode::VersionConflict, message).with("current_version", current).of_precondition()
        }
        Refused::Version { current, expected } => {
            let reason = match current {
                Some(_) => format!("the newest version is {expected}"),
                None => format!("there is no such event type, and a new one gets version {expected}"),
            };
            ApiError::field(ErrorCode::VersionConflict, "version", reason).with("current_version", current)
        }
        Refused::Incompatible(comparison) => {
            let Comparison { reasons, strict_reasons } = &comparison;
            let reasons = if reasons.is_empty() { strict_reasons } else { reasons };
            let first = reasons.first().map_or("", |reason| reason.message.as_str());
            ApiError::new(ErrorCode::IncompatibleSchema, format!("the new schema is not compatible: {first}"))
                .with("reasons", reasons_json(reasons))
        }
    }
}

fn reasons_json(reasons: &[Reason]) -> Value {
    let one = |Reason { path, rule, message, witness }: &Reason| {
        let mut reason = json!({ "path": path, "rule": rule, "message": message });
        if let Some(witness) = witness {
            reason["witness"] = witness.clone();
        }
        reason
    };
    reasons.iter().map(one).collect()
}

/// What is between a new schema and the stored one. The reasons are those that count if it is strict.
pub fn comparison_json(comparison: &Comparison, is_strict: bool) -> Value {
    let Comparison { reasons, strict_reasons } = comparison;
    let counting = if is_strict { strict_reasons } else { reasons };
    json!({
        "compatible": counting.is_empty(),
        "strictly_compatible": strict_reasons.is_empty(),
        "reasons": reasons_json(if counting.is_empty() { strict_reasons } else { counting }),
    })
}

/// A type as it is shown: in full, or without its schema and examples.
pub fn shown(of: &EventType, is_full: bool) -> String {
    let settings = of.settings.clone().unwrap_or_default();
    let Settings { description, owner, examples, deprecated, mode, compatibility, strict } = settings;
    let texts = [of.name.as_str().into(), json!(description), json!(owner)];
    let [name, description, owner] = texts;
    let (version, mode, compatibility, at) =
        (of.version, mode.as_str(), compatibility::name(compatibility), of.changed_at);
    let long = match is_full {
        true => format!(r#","schema":{},"examples":[{}]"#, of.schema, examples.join(",")),
        false => String::new(),
    };
    format!(
        r#"{{"name":{name},"version":{version},"description":{description},"owner":{owner},"deprecated":{deprecated},"mode":"{mode}","compatibility":"{compatibility}","strict":{strict},"updated_at":"{at}"{long}}}"#
    )
}

/// The event that tells of a change, or of a deletion.
pub fn changed(name: &Pattern, version: u32, mode: Mode, op: &str) -> NewEvent {
    let payload = json!({ "name": name.as_str(), "version": version, "mode": mode.as_str(), "op": op });
    NewEvent::own(TYPE_CHANGED, payload.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(json: &str) -> (ErrorCode, Option<String>) {
        let error = parse_put(json.as_bytes(), Pattern::parse("a").ok()).expect_err(json);
        (error.code(), error.details().get("field").and_then(|field| field.as_str()).map(str::to_owned))
    }

    #[test]
    fn a_type_says_what_is_wrong_with_it() {
        for (json, expected, field) in [
            ("{", ErrorCode::MalformedJson, None),
            ("{}", ErrorCode::MissingField, Some("schema")),
            (r#"{"schema":{},"name":"b"}"#, ErrorCode::InvalidField, Some("name")),
            (r#"{"schema":{},"name":"$sys.a"}"#, ErrorCode::ReservedName, Some("name")),
            (r#"{"schema":{},"version":0}"#, ErrorCode::InvalidField, Some("version")),
            (r#"{"schema":{},"mode":"loud"}"#, ErrorCode::InvalidField, Some("mode")),
            (r#"{"schema":{},"strict":"yes"}"#, ErrorCode::InvalidField, Some("strict")),
            (r#"{"schema":{},"examples":{}}"#, ErrorCode::InvalidField, Some("examples")),
            (r#"{"schema":{},"colour":1}"#, ErrorCode::UnknownField, Some("colour")),
            (r#"{"schema":{"type":7}}"#, ErrorCode::InvalidSchema, Some("schema/type")),
        ] {
            assert_eq!(code(json), (expected, field.map(str::to_owned)), "{json}");
        }
    }

    #[test]
    fn what_is_put_is_shown_as_it_was_written() {
        let json = br#"{"schema":{"const": 1.10},"examples":[1e400],"owner":"a\"b","mode":"observe"}"#;
        let Put { name, schema, settings, .. } = parse_put(json, Pattern::parse("a.>").ok()).expect("a type");
        let (settings, changed_at) = (Some(settings), Default::default());
        let of = EventType { name, version: 3, schema, settings, generation: 9, changed_at };
        let expected = r#"{"name":"a.>","version":3,"description":null,"owner":"a\"b","deprecated":false,"mode":"observe","compatibility":"backward","strict":false,"updated_at":"1970-01-01T00:00:00.000000Z","schema":{"const": 1.10},"examples":[1e400]}"#;
        assert_eq!(shown(&of, true), expected);
    }
}
