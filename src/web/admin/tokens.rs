//! Tokens and revocations: `/admin/tokens`, `/admin/revocations`.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::answer;
use crate::actors::clock::now;
use crate::domain::access::Identity;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::raw_object::RawObject;
use crate::storage::Write;
use crate::web::query::{Query, invalid};
use crate::web::reply::{self, Refusal};
use crate::web::write::commit;
use crate::web::{Edge, body};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// Longest `sub` or `jti`, in bytes.
const MAX_VALUE: usize = 255;

/// Answers with the tokens, keys and revocations, without any secret.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    answer(&edge.parts.access.describe(now()))
}

/// Revokes a configured token (`revoke`), or withdraws the revocation (`restore`).
pub async fn revoke_token(
    req: HttpRequest,
    payload: Payload,
    path: Path<(String, String)>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    body::nothing(&req, payload, &edge).await?;
    let (name, command) = path.into_inner();
    let is_revoked = match &*command {
        "revoke" => true,
        "restore" => false,
        other => {
            return Err(invalid("command", &format!("must be revoke or restore, not {other:?}")).into());
        }
    };
    if !edge.parts.access.knows_token(&name) {
        let message = format!("no token is configured under the name {name:?}");
        return Err(ApiError::new(ErrorCode::TokenNotFound, message).into());
    }
    set(&edge, Identity::Token(name), is_revoked).await
}

/// Revokes all JWTs with this `sub` or `jti`, or a token by its name.
pub async fn revoke(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let body = body::read_json(&req, payload, MAX_BODY, &edge).await?;
    let object = RawObject::parse(&body, "body")?;
    object.check(&["kind", "value"], true)?;
    let who = identity(&object.required_text("kind")?, &object.required_text("value")?)
        .map_err(|(field, reason)| ApiError::field(ErrorCode::InvalidField, field, reason))?;
    set(&edge, who, true).await
}

/// Withdraws a revocation.
pub async fn restore(
    req: HttpRequest,
    payload: Payload,
    path: Path<(String, String)>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    body::discard(&req, payload).await;
    Query::parse(&req, &[], &[])?;
    let who = identity(&path.0, &path.1).map_err(|(field, reason)| invalid(field, reason))?;
    set(&edge, who, false).await
}

fn identity(kind: &str, value: &str) -> Result<Identity, (&'static str, &'static str)> {
    if !(1..=MAX_VALUE).contains(&value.len()) || value.chars().any(char::is_control) {
        return Err(("value", "must be 1 to 255 bytes without control characters"));
    }
    Identity::new(kind, value).ok_or(("kind", "must be \"token\", \"sub\" or \"jti\""))
}

/// Stores the revocation first, so that it outlives this process and reaches other nodes, and then applies it here.
async fn set(edge: &Edge, who: Identity, is_revoked: bool) -> Result<HttpResponse, Refusal> {
    commit(edge, Write::Revoke { who: who.clone(), is_revoked }).await?;
    log::info!(kind = who.kind(), principal = who.value(), is_revoked; "revocation changed by an operator");
    edge.parts.access.revoke(who, is_revoked);
    edge.parts.actors.check_access();
    Ok(reply::ok(if is_revoked { "Revoked." } else { "Restored." }, b"null"))
}
