//! Whether a caller may do what a request asks for, and the error if not, so that each edge needs one line.

use super::error::{ApiError, ErrorCode};
use crate::domain::access::{Caller, Restriction, Scope};
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;

/// Checks that the caller may publish an event of this name.
pub fn publish(caller: &Caller, name: &EventName) -> Result<(), ApiError> {
    if caller.allows(Scope::Publish, name) { Ok(()) } else { Err(forbidden(Scope::Publish, name.as_str())) }
}

/// Checks that the caller may publish every event that `pattern` matches.
pub fn publish_all(caller: &Caller, pattern: &Pattern) -> Result<(), ApiError> {
    if caller.covers(Scope::Publish, pattern) { Ok(()) } else { Err(forbidden(Scope::Publish, pattern.as_str())) }
}

/// Checks that the caller may subscribe to everything that `pattern` matches.
pub fn subscribe(caller: &Caller, pattern: &Pattern) -> Result<(), ApiError> {
    if caller.covers(Scope::Subscribe, pattern) { Ok(()) } else { Err(forbidden(Scope::Subscribe, pattern.as_str())) }
}

/// Checks that the caller may read events of this name.
pub fn read(caller: &Caller, name: &EventName) -> Result<(), ApiError> {
    if may_read(caller, name) { Ok(()) } else { Err(forbidden(Scope::Read, name.as_str())) }
}

/// Checks that the caller may read every event that `pattern` matches.
pub fn read_all(caller: &Caller, pattern: &Pattern) -> Result<(), ApiError> {
    if caller.covers(Scope::Read, pattern) { Ok(()) } else { Err(forbidden(Scope::Read, pattern.as_str())) }
}

/// Whether the caller may read an event of this name. The edges answer as if an event that it may not read did not
/// exist.
pub fn may_read(caller: &Caller, name: &EventName) -> bool {
    caller.allows(Scope::Read, name)
}

/// The patterns to read for a caller that asked for `asked`, or, if that is empty, for everything that it may see. An
/// empty result means every event but the Event Handler's own.
pub fn reading(caller: &Caller, scope: Scope, asked: Vec<Pattern>) -> Result<Vec<Pattern>, ApiError> {
    if let Some(pattern) = asked.iter().find(|pattern| !caller.covers(scope, pattern)) {
        return Err(forbidden(scope, pattern.as_str()));
    }
    if !asked.is_empty() {
        return Ok(asked);
    }
    match caller.restriction(scope) {
        Restriction::None => Ok(Vec::new()),
        Restriction::Only(granted) => Ok(granted),
        Restriction::Total => Err(forbidden(scope, Pattern::everything().as_str())),
    }
}

/// Checks that the caller may do this to any events at all.
pub fn any(caller: &Caller, scope: Scope) -> Result<(), ApiError> {
    if caller.has(scope) { Ok(()) } else { Err(forbidden(scope, Pattern::everything().as_str())) }
}

/// The refusal of a known caller that is no operator.
pub fn no_admin() -> ApiError {
    ApiError::new(ErrorCode::Forbidden, "the token does not grant admin").with("scope", Scope::Admin.as_str())
}

/// The refusal: it names what is missing.
fn forbidden(scope: Scope, event_name: &str) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, format!("the token does not grant {scope} of {event_name:?}"))
        .with("scope", scope.as_str())
        .with("event_name", event_name)
}
