//! Deliveries of services that are no longer configured: they are listed, moved to another service, or cancelled.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::{find_service, known_services};
use crate::domain::routes::ServiceId;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::job_request::{CancelRequest, MoveRequest};
use crate::storage::{Orphan, OrphanAction, OrphansSettled, Outcome, Write};
use crate::web::reply::{self, Refusal};
use crate::web::write::commit;
use crate::web::{Edge, body};

/// The deliveries that wait for services that are not configured.
pub(super) async fn orphans(edge: &Edge) -> Result<Vec<Orphan>, ApiError> {
    let configured = known_services(edge).into_iter().map(str::to_owned).collect();
    Ok(edge.parts.reader.orphans(configured).await?)
}

/// One such service, as operators see it.
pub(super) fn shown(Orphan { name, pending, .. }: &Orphan) -> Value {
    json!({ "service": name, "pending": pending.open(), "dead": pending.dead })
}

/// Moves all deliveries of one such service, dead ones included, to another service.
pub async fn move_to(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let MoveRequest { from, to, dry_run } =
        MoveRequest::parse(&body::read_json(&req, payload, MAX_BODY, &edge).await?)?;
    let orphan = find(&edge, "from", &from).await?;
    let receiver = find_service(&edge, &to).and_then(|service| service.slot.id());
    let receiver = receiver.ok_or_else(|| {
        let known = known_services(&edge).join(", ");
        ApiError::field(ErrorCode::InvalidField, "to", format!("must be a configured service (known: {known})"))
    })?;
    let done = settle(&edge, &orphan, OrphanAction::MoveTo(receiver), dry_run).await?;
    let (open, dead) = match dry_run {
        true => (orphan.pending.open(), orphan.pending.dead),
        false => (done.open.iter().sum(), done.dead),
    };
    if !dry_run {
        log::info!(from = from.as_str(), to = to.as_str(), pending = open, dead, doubles = done.duplicates; "deliveries moved");
    }
    let data = json!({
        "dry_run": dry_run, "from": from, "to": to,
        "count": open + dead, "pending": open, "dead": dead, "doubles": done.duplicates,
    });
    Ok(reply::ok(if dry_run { NOTHING_DONE } else { "Moved." }, data.to_string().as_bytes()))
}

/// Cancels the open deliveries of one such service.
pub async fn cancel(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let CancelRequest { service, dry_run } =
        CancelRequest::parse(&body::read_json(&req, payload, MAX_BODY, &edge).await?)?;
    let orphan = find(&edge, "service", &service).await?;
    let done = settle(&edge, &orphan, OrphanAction::Cancel, dry_run).await?;
    let count: i64 = if dry_run { orphan.pending.open() } else { done.open.iter().sum() };
    if !dry_run {
        log::info!(service = service.as_str(), count; "deliveries cancelled");
    }
    let data = json!({ "dry_run": dry_run, "service": service, "count": count });
    Ok(reply::ok(if dry_run { NOTHING_DONE } else { "Cancelled." }, data.to_string().as_bytes()))
}

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
const NOTHING_DONE: &str = "Counted; nothing was done.";

/// The service of this name, which the request gives in `field`.
async fn find(edge: &Edge, field: &str, name: &str) -> Result<Orphan, ApiError> {
    let all = orphans(edge).await?;
    let names: Vec<String> = all.iter().map(|orphan| orphan.name.clone()).collect();
    all.into_iter().find(|orphan| orphan.name == name).ok_or_else(|| {
        let reason = match (find_service(edge, name), &names[..]) {
            (Some(_), _) => {
                "is configured: its deliveries are made; pause it, or take it out of the configuration first".to_owned()
            }
            (None, []) => "must be a service that is not configured and has deliveries; there is none".to_owned(),
            (None, names) => {
                format!("must be a service that is not configured and has deliveries: {}", names.join(", "))
            }
        };
        ApiError::field(ErrorCode::InvalidField, field, reason)
    })
}

/// Moves or cancels deliveries in steps, so that appends are committed in between. Completed steps stay if a later one
/// fails.
async fn settle(edge: &Edge, orphan: &Orphan, action: OrphanAction, dry_run: bool) -> Result<OrphansSettled, ApiError> {
    let mut total = OrphansSettled::default();
    let from: ServiceId = orphan.service;
    if dry_run {
        return Ok(total);
    }
    loop {
        let Outcome::OrphansSettled(step) = commit(edge, Write::SettleOrphans { from, action }).await? else {
            return Ok(total);
        };
        if step.is_nothing() {
            return Ok(total);
        }
        total.open.iter_mut().zip(step.open).for_each(|(total, step)| *total += step);
        total.dead += step.dead;
        total.duplicates += step.duplicates;
    }
}
