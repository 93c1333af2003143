//! Refuses requests of web pages of other origins.

use actix_web::HttpRequest;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName};
use actix_web::middleware::Next;
use actix_web::web::Data;

use super::{Edge, access, cors, reply};
use crate::domain::origin::Provenance;
use crate::protocol::error::{ApiError, ErrorCode};

/// Pages for people, which may be opened by a link on any page.
const PAGES: [&str; 2] = ["/admin", "/docs"];

/// The middleware.
pub async fn keep_out<B: MessageBody>(
    req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let refusal = req.app_data::<Data<Edge>>().and_then(|edge| judge(req.request(), edge).err());
    match refusal {
        None => next.call(req).await.map(ServiceResponse::map_into_left_body),
        Some(error) => Ok(req.into_response(reply::refuse(&error)).map_into_right_body()),
    }
}

/// Decides whether the request may go on.
pub(super) fn judge(req: &HttpRequest, edge: &Edge) -> Result<(), ApiError> {
    let text = |name: HeaderName| req.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let who = Provenance {
        origin: text(header::ORIGIN),
        site: text(HeaderName::from_static("sec-fetch-site")),
        host: access::host(req),
    };
    let parts = &edge.parts;
    if parts.is_loopback
        && !parts.access.is_required()
        && who.is_rebound(&parts.config.server.allowed_hosts)
        && !is_probe(req)
    {
        let advice =
            "this Host may be anybody's name for this machine: use its address, or name it in server.allowed_hosts";
        return Err(ApiError::new(ErrorCode::ForeignOrigin, advice));
    }
    if who.origin.is_none() && who.site.is_none() {
        return Ok(());
    }
    // A page can send this header only by opening a WebSocket.
    let (allowed, key): (&[String], _) = match req.headers().contains_key(header::UPGRADE) {
        _ if cors::is_admin(req.path()) => (&[], "which nothing can change for /admin"),
        true => (&parts.config.server.allowed_origins, "unless server.allowed_origins names its origin"),
        false => (&parts.config.server.cors_origins, "unless server.cors_origins names its origin"),
    };
    if !who.is_foreign(allowed) || is_probe(req) || is_visit(req) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::ForeignOrigin, format!("a page of another origin may do nothing here, {key}")))
}

/// Whether the request is for health or metrics, which every origin may read.
fn is_probe(req: &HttpRequest) -> bool {
    let path = req.path();
    path == "/metrics" || path.strip_prefix("/health").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a person navigates to a page, in a tab of its own.
fn is_visit(req: &HttpRequest) -> bool {
    let says = |name: &str, text: &str| req.headers().get(name).is_some_and(|value| value == text);
    req.method() == Method::GET
        && PAGES.contains(&req.path())
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
}
