//! Entities on the wire: the field `entity` of a publish, and what is told of state.

use std::borrow::Cow;

use super::error::{ApiError, ErrorCode};
use super::raw_object::RawObject;
use crate::domain::entity::{Change, EntityId, EntityKey, EntityType, Op, Precondition, Unmet};
use crate::domain::event::{EventId, NewEvent, Timestamp};
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;

const FIELDS: &[&str] = &["type", "key", "op", "value", "expected_version"];

/// Reads the field `entity` of a publish request: the change that is stored after `event`. Its value is the payload of
/// the event unless it says another one.
pub(super) fn change_from(entity: &str, event: &NewEvent) -> Result<NewEvent, ApiError> {
    let object = RawObject::parse(entity.as_bytes(), "entity").map_err(of_entity)?;
    object.check(FIELDS, true).map_err(of_entity)?;
    let entity = EntityId {
        kind: entity_type(object.required_text("type").map_err(of_entity)?, "entity.type")?,
        key: entity_key(object.required_text("key").map_err(of_entity)?, "entity.key")?,
    };
    let op = match object.text("op").map_err(of_entity)?.as_deref() {
        None | Some("put") => Op::Put,
        Some("delete") => Op::Delete,
        Some(_) => return Err(invalid("entity.op", "must be put or delete")),
    };
    let precondition = match object.raw("expected_version") {
        None | Some("null") => Precondition::default(),
        Some(text) => match text.parse() {
            Ok(version @ 0..) => Precondition::version(version),
            _ => {
                return Err(invalid(
                    "entity.expected_version",
                    "must be the number of a version, or 0 if it must not exist",
                ));
            }
        },
    };
    let value = match (op, object.raw("value")) {
        (Op::Put, Some(value)) => Some(value.into()),
        (Op::Put, None) => Some(event.payload.clone()),
        (Op::Delete, None) => None,
        (Op::Delete, Some(_)) => return Err(invalid("entity.value", "cannot be given with op delete")),
    };
    let change = Change { entity, op, precondition, follows: true };
    Ok(NewEvent { traceparent: event.traceparent.clone(), ..NewEvent::change(change, value, event.source.clone()) })
}

/// Reads a type, given in `field`.
pub fn entity_type(text: Cow<'_, str>, field: &str) -> Result<EntityType, ApiError> {
    EntityType::parse(text.into_owned()).map_err(|reason| invalid(field, reason))
}

/// Reads a key, given in `field`.
pub fn entity_key(text: Cow<'_, str>, field: &str) -> Result<EntityKey, ApiError> {
    EntityKey::parse(text.into_owned()).map_err(|reason| invalid(field, reason))
}

fn invalid(field: &str, reason: impl std::fmt::Display) -> ApiError {
    ApiError::field(ErrorCode::InvalidField, field, reason)
}

/// The error of a field within `entity`.
fn of_entity(error: ApiError) -> ApiError {
    match error.details().get("field").and_then(|field| field.as_str()) {
        None | Some("entity") => error,
        Some(field) => {
            let field = format!("entity.{field}");
            let message = format!("entity.{}", error.message());
            error.renamed(&field, message)
        }
    }
}

/// Why a change was not made.
pub fn unmet(unmet: Unmet) -> ApiError {
    match unmet {
        Unmet::Version(current) => {
            let message = match current {
                Some(version) => format!("the entity has the version {version}"),
                None => "the entity does not exist".to_owned(),
            };
            ApiError::new(ErrorCode::VersionConflict, message).with("current_version", current)
        }
        Unmet::Absent => ApiError::new(ErrorCode::EntityNotFound, "there is no such entity"),
        Unmet::TooManyTypes => {
            ApiError::new(ErrorCode::TooManyTypes, "there are as many types of entities as may be (state.max_types)")
        }
    }
}

/// A stored entity as it is told: `{"type","key","version","value","updated_at"}`.
pub fn entity_json(entity: &EntityId, version: EventId, value: &str, updated_at: Timestamp) -> String {
    let EntityId { kind, key } = entity;
    let key = serde_json::Value::from(key.as_str());
    format!(r#"{{"type":"{kind}","key":{key},"version":{version},"value":{value},"updated_at":"{updated_at}"}}"#)
}

/// An entity that was deleted by the event of this id.
pub fn deleted_json(entity: &EntityId, version: EventId) -> String {
    let EntityId { kind, key } = entity;
    let key = serde_json::Value::from(key.as_str());
    format!(r#"{{"type":"{kind}","key":{key},"version":{version}}}"#)
}

/// The same in a list of its type.
pub fn listed_json(key: &EntityKey, version: EventId, value: &str, updated_at: Timestamp) -> String {
    let key = serde_json::Value::from(key.as_str());
    format!(r#"{{"key":{key},"version":{version},"value":{value},"updated_at":"{updated_at}"}}"#)
}

/// The type whose changes are what `pattern`, given in `field`, asks for.
pub fn watched(pattern: &Pattern, field: &str) -> Result<EntityType, ApiError> {
    let name = EventName::parse(pattern.as_str().to_owned()).ok();
    let reason = "must be state.{type}.changed, of one type, for a snapshot";
    name.and_then(|name| EntityType::of_change(&name)).ok_or_else(|| invalid(field, reason))
}
