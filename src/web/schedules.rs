//! `GET /schedules` and `DELETE /schedules/{id}`: events that are appended to the log later.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::query::{DEFAULT_LIMIT, MAX_LIMIT, Query};
use super::reply::{self, Refusal};
use super::write::commit;
use super::{Edge, access, body};
use crate::domain::access::Scope;
use crate::domain::event::{ScheduleId, Timestamp};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::event_json::write_schedule;
use crate::protocol::permit;
use crate::storage::{Outcome, SchedulePosition, Write};

/// Answers with the schedules, in the order in which they are due.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(&req, &edge)?;
    permit::any(&caller, Scope::Read)?;
    let query = Query::parse(&req, &["after", "limit"], &[])?;
    let after = query.read("after", "the cursor of a Link header", cursor)?;
    let limit = query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let mut page = edge.parts.reader.schedules(after, limit + 1).await?;
    let has_more = page.len() > limit;
    page.truncate(limit);
    let mut data = vec![b'['];
    // A caller that may not read all of a page gets a shorter one. The cursor is the same for every caller.
    let readable = page.iter().filter(|scheduled| permit::may_read(&caller, &scheduled.event.name));
    for (at, scheduled) in readable.enumerate() {
        if at > 0 {
            data.push(b',');
        }
        write_schedule(&mut data, scheduled.schedule, &scheduled.event, scheduled.position.created_at);
    }
    data.push(b']');
    let mut response = reply::ok_builder();
    if let Some(last) = page.last().filter(|_| has_more) {
        let SchedulePosition { due_at, created_at, place } = last.position;
        let after = format!("{}.{}.{place}", due_at.0, created_at.0);
        response.append_header(reply::link(&format!("after={after}&limit={limit}"), "next"));
    }
    Ok(response.body(reply::envelope("success", &data)))
}

/// Cancels a schedule.
pub async fn cancel(
    req: HttpRequest,
    payload: Payload,
    id: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    body::discard(&req, payload).await;
    let caller = access::caller(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    let unknown =
        || ApiError::new(ErrorCode::ScheduleNotFound, format!("no schedule {id} waits: it is unknown, or was due"));
    let number = ScheduleId::parse(&id).ok_or_else(unknown)?;
    if caller.principal().is_some() {
        let scheduled = edge.parts.reader.schedule(number).await?;
        let name = scheduled.ok_or_else(unknown)?.event.name;
        // A schedule that the caller may not read does not exist for it.
        let refuse = |refusal| if permit::may_read(&caller, &name) { refusal } else { unknown() };
        permit::publish(&caller, &name).map_err(refuse)?;
    }
    match commit(&edge, Write::CancelSchedule(number)).await? {
        Outcome::Changed(true) => Ok(reply::ok("Schedule cancelled.", b"null")),
        _ => Err(unknown().into()),
    }
}

/// Reads a cursor: `<due>.<created>.<place>`.
fn cursor(text: &str) -> Option<SchedulePosition> {
    let mut numbers = text.split('.').map(str::parse);
    let mut number = || numbers.next()?.ok();
    let position =
        SchedulePosition { due_at: Timestamp(number()?), created_at: Timestamp(number()?), place: number()? };
    number().is_none().then_some(position)
}
