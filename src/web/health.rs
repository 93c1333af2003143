//! `/health`, `/health/live`, `/health/ready` and `/metrics`.

use actix_web::http::header::ContentType;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use super::Edge;
use super::query::Query;
use super::reply::Refusal;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::telemetry::logging;

/// The process can serve. Nothing but `{"status":"ok"}`, as health monitors expect it.
pub async fn health(req: HttpRequest) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    Ok(HttpResponse::Ok().insert_header(ContentType::json()).body(r#"{"status":"ok"}"#))
}

/// The process runs.
pub async fn live(req: HttpRequest) -> Result<HttpResponse, Refusal> {
    health(req).await
}

/// The process can do its job, with a word from each part.
pub async fn ready(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let (ready, checks) = edge.parts.health.describe();
    let (mut response, status) =
        if ready { (HttpResponse::Ok(), "ok") } else { (HttpResponse::ServiceUnavailable(), "unavailable") };
    if !ready {
        response.insert_header(("Retry-After", "1"));
    }
    Ok(response.json(serde_json::json!({ "status": status, "checks": checks })))
}

/// Everything that is counted, for Prometheus.
pub async fn metrics(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let metrics = &edge.parts.metrics;
    metrics.store_up.set(edge.parts.health.store.is_up().into());
    metrics.backlog.set(edge.worker.intake.backlog().events() as i64);
    if let Some(bounds) = edge.parts.position.get() {
        metrics.log_last.set(bounds.last);
        metrics.log_earliest.set(bounds.earliest);
    }
    metrics
        .log_lines_dropped
        .set(i64::try_from(logging::handle().map_or(0, logging::LogHandle::dropped)).unwrap_or(i64::MAX));
    metrics.mailbox_depth.with_label_values(&["persistence"]).set(edge.worker.intake.mailbox_depth() as i64);
    let text = metrics.encode().map_err(|error| {
        log::error!(error:% = error; "metrics cannot be written");
        ApiError::new(ErrorCode::Internal, "the metrics cannot be written")
    })?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}
