//! Redrives and replays: `POST /admin/deliveries/redrive`, `POST /admin/replay`, `/admin/jobs`.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::answer;
use super::destinations::{Destination, Kind, destinations};
use crate::domain::event::EventId;
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::job_request::JobRequest;
use crate::storage::{Counting, NewReplayJob, Outcome, ReplayJob, ReplayJobKind, Write};
use crate::web::query::{DEFAULT_LIMIT, MAX_LIMIT, Query};
use crate::web::reply::{self, Refusal};
use crate::web::write::commit;
use crate::web::{Edge, body};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// A count stops at this number or after this time, and is then a lower bound.
const MAX_COUNT: usize = 100_000;
const COUNT_PATIENCE: Duration = Duration::from_secs(2);

/// Starts jobs that reopen dead deliveries.
pub async fn redrive(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let request = JobRequest::redrive(&body::read_json(&req, payload, MAX_BODY, &edge).await?)?;
    if let (Some(id), true) = (request.from, request.from == request.to) {
        let event = edge.parts.reader.event(id).await?;
        event.ok_or_else(|| ApiError::new(ErrorCode::EventNotFound, format!("there is no event {id}")))?;
    }
    make_anew(&edge, ReplayJobKind::Redrive, request).await
}

/// Starts jobs that deliver stored events to a service, whether it had them before or not.
pub async fn replay(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let request = JobRequest::replay(&body::read_json(&req, payload, MAX_BODY, &edge).await?)?;
    make_anew(&edge, ReplayJobKind::Replay, request).await
}

/// Answers with the jobs, the newest first.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, &["limit"], &[])?;
    let limit = query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let reader = &edge.parts.reader;
    let jobs = reader.replay_jobs(limit).await?;
    let names = reader.service_names().await?;
    let row = |ReplayJob { id, job, next_id, touched, state, created_at, updated_at }: ReplayJob| {
        json!({
            "id": id,
            "kind": job.kind.as_str(),
            "service": names.get(&job.service),
            "event_name": job.patterns.iter().map(Pattern::as_str).collect::<Vec<_>>(),
            "next_id": next_id,
            "to": job.through,
            "made": touched,
            "state": state.as_str(),
            "created_at": created_at.to_string(),
            "updated_at": updated_at.to_string(),
        })
    };
    answer(&jobs.into_iter().map(row).collect::<Vec<_>>())
}

/// Stops a job. The deliveries that it has made stay.
pub async fn cancel(req: HttpRequest, id: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let unknown = || ApiError::new(ErrorCode::JobNotFound, format!("there is no job {id}"));
    let number: i64 = id.parse().map_err(|_| unknown())?;
    if commit(&edge, Write::CancelReplayJob(number)).await? == Outcome::Changed(true) {
        return Ok(reply::ok("Job cancelled.", b"null"));
    }
    let job = edge.parts.reader.replay_job(number).await?.ok_or_else(unknown)?;
    let state = job.state.as_str();
    Err(ApiError::new(ErrorCode::JobNotRunning, format!("job {id} is {state}")).with("state", state).into())
}

/// Starts a job for each service that has deliveries to make, or only counts them.
async fn make_anew(edge: &Edge, kind: ReplayJobKind, request: JobRequest) -> Result<HttpResponse, Refusal> {
    let wanted = request.service.as_deref();
    let found = destinations(edge, wanted, ErrorCode::InvalidField).await?;
    if let (Some(_), [destination]) = (wanted, &found[..]) {
        let reason = match (destination.kind, kind) {
            (Kind::Orphan, _) => Some("is not configured: move its deliveries with /admin/deliveries/move"),
            (Kind::Durable, ReplayJobKind::Replay) => {
                Some("is a durable subscription: move it with /admin/durables/{name}/seek")
            }
            (Kind::Durable | Kind::Service(_), _) => None,
        };
        if let Some(reason) = reason {
            return Err(ApiError::field(ErrorCode::InvalidField, "service", reason).into());
        }
    }
    let (from, through) = range(edge, &request).await?;
    let (mut total, mut exact, mut rows) = (0, true, Vec::new());
    for destination in found.into_iter().filter(|destination| !matches!(destination.kind, Kind::Orphan)) {
        let job = new_job(&destination, kind, &request.patterns, from, through)?;
        let route = destination.service().and_then(|service| service.slot.route());
        let counted = edge.parts.reader.count(Counting::new(job.clone(), route), MAX_COUNT, COUNT_PATIENCE).await;
        let counted = counted?;
        let is_nothing = counted.count == 0 && counted.is_complete();
        let job_id = match request.dry_run || is_nothing {
            true => None,
            false => match commit(edge, Write::StartReplayJob(job)).await.map_err(in_doubt)? {
                Outcome::Started(id) => Some(id),
                _ => None,
            },
        };
        total += counted.count;
        exact &= counted.is_complete();
        if !is_nothing {
            rows.push(json!({
                "service": destination.name,
                "count": counted.count,
                "exact": counted.is_complete(),
                "job_id": job_id,
            }));
        }
    }
    let message = match request.dry_run {
        true => "Counted; nothing was done.",
        false if rows.is_empty() => "There is nothing to do.",
        false => "Under way; see /admin/jobs.",
    };
    let data = json!({ "dry_run": request.dry_run, "count": total, "exact": exact, "services": Value::from(rows) });
    Ok(reply::ok(message, data.to_string().as_bytes()))
}

/// A job that is made twice delivers twice: whoever is to ask again is told to look first.
fn in_doubt(error: ApiError) -> ApiError {
    match error.code() {
        code @ (ErrorCode::StoreUnavailable | ErrorCode::CommitTimeout) => {
            let advice = "a job may have been started all the same: look at /admin/jobs before you ask again";
            ApiError::transient(code, format!("{}; {advice}", error.message()))
        }
        _ => error,
    }
}

/// The range of ids that all bounds of the request allow, which ends at the present end of the log.
async fn range(edge: &Edge, request: &JobRequest) -> Result<(EventId, EventId), ApiError> {
    let ids = edge.parts.reader.ids_between(request.since, request.until).await;
    let (low, high) = ids?;
    Ok((request.from.unwrap_or(low).max(low), request.to.unwrap_or(high).min(high)))
}

/// A replay without patterns is of the events that the service's routes match. The routes' filters hold for every
/// replay.
fn new_job(
    destination: &Destination<'_>,
    kind: ReplayJobKind,
    patterns: &[Pattern],
    from: EventId,
    through: EventId,
) -> Result<NewReplayJob, ApiError> {
    let unregistered = || ApiError::transient(ErrorCode::StoreUnavailable, "the store does not know the service yet");
    let patterns = match (kind, destination.service()) {
        (ReplayJobKind::Replay, Some(service)) if patterns.is_empty() => {
            service.config.routes.iter().map(|route| route.event.clone()).collect()
        }
        (ReplayJobKind::Replay | ReplayJobKind::Redrive, _) => patterns.to_vec(),
    };
    let id = destination.id.ok_or_else(unregistered)?;
    Ok(NewReplayJob { kind, service: id, patterns, from, through })
}
