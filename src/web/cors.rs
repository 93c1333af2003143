//! CORS: pages of configured origins may use the HTTP API, but never `/admin`.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use percent_encoding::percent_decode_str;

use super::Edge;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "Accept, Authorization, Content-Encoding, Content-Type, Idempotency-Key, If-Match, If-Modified-Since, \
     If-None-Match, Last-Event-ID, Prefer, traceparent, X-Request-Id",
);
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "ETag, Event-Id, Event-Log, Idempotent-Replayed, Link, Preference-Applied, Retry-After, Stream-Earliest-Id, \
     Stream-Recovered, X-Request-Id",
);
/// How long a browser may remember the answer to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The middleware.
pub async fn share(req: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let config = match req.app_data::<Data<Edge>>() {
        Some(edge) if !is_admin(req.path()) => Arc::clone(&edge.parts.config),
        _ => return next.call(req).await,
    };
    let allowed = &config.server.cors_origins;
    let every = allowed.iter().any(|origin| origin == "*");
    let given = req.headers().get(header::ORIGIN).cloned();
    let origin = given.filter(|given| every || allowed.iter().any(|origin| given == origin.as_str()));
    let is_preflight =
        req.method() == Method::OPTIONS && req.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match &origin {
        Some(_) if is_preflight => {
            let mut response = HttpResponse::NoContent().finish();
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
            req.into_response(response)
        }
        _ => next.call(req).await?,
    };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        let origin = if every { HeaderValue::from_static("*") } else { origin };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    }
    vary_by_origin(headers);
    Ok(response)
}

/// Whether the path is below `/admin`, compared decoded, as the router does.
pub fn is_admin(path: &str) -> bool {
    const ADMIN: &[u8] = b"/admin";
    percent_decode_str(path).take(ADMIN.len()).eq(ADMIN.iter().copied())
}

/// Tells caches that the answer depends on the origin.
fn vary_by_origin(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
