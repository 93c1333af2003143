//! Who may do what.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::web::Data;

use super::{Edge, EdgeParts, peer, reply};
use crate::protocol::error::{ApiError, ErrorCode};

/// Headers by which a proxy says that it stands in between, beside all that begin with [`FORWARDING_PREFIXES`].
const FORWARDING: &[&str] = &[
    "forwarded",
    "forwarded-for",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "fastly-client-ip",
];
const FORWARDING_PREFIXES: &[&str] = &["x-forwarded", "x-original"];

/// Lets only operators through to `/admin`, whether there is anything at the path or not.
pub async fn guard_admin(
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let verdict = match req.app_data::<Data<Edge>>() {
        Some(edge) => admin(req.request(), &edge.parts),
        None => Err(ApiError::new(ErrorCode::Internal, "the edge is not set up")),
    };
    match verdict {
        Ok(()) => next.call(req).await,
        Err(error) => Ok(req.into_response(reply::refuse(&error))),
    }
}

/// Admits operators: whoever has the admin token, or without one configured, this machine itself.
///
/// "This machine" means a loopback peer that also names loopback in `Host`, so that no browser is tricked into it by
/// DNS, no sign of a proxy, which would make every caller look local, and no page of another site behind it.
fn admin(req: &HttpRequest, parts: &EdgeParts) -> Result<(), ApiError> {
    if !parts.admin_token.is_empty() {
        let given = bearer(req)
            .ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, "send the admin token as Authorization: Bearer"))?;
        if parts.admin_token.matches(given) {
            return Ok(());
        }
        return Err(ApiError::new(ErrorCode::Unauthorized, "this is not the admin token"));
    }
    let local_peer = peer(req).is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    let local_host = host(req).is_some_and(|host| names_loopback(&host));
    if local_peer && local_host && !is_proxied(req) && origin(req, &[]).is_ok() && !is_cross_site(req) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Forbidden, "without ADMIN_TOKEN set, /admin answers only to loopback, unproxied"))
}

fn is_proxied(req: &HttpRequest) -> bool {
    let forwards = |name: &str| FORWARDING.contains(&name) || FORWARDING_PREFIXES.iter().any(|p| name.starts_with(p));
    req.headers().keys().any(|name| forwards(name.as_str()))
}

/// Whether a browser says that another site's page makes this request.
fn is_cross_site(req: &HttpRequest) -> bool {
    req.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site")
}

/// Admits browsers from the same origin and from those in `allowed`. Other clients send no `Origin`.
pub fn origin(req: &HttpRequest, allowed: &[String]) -> Result<(), ApiError> {
    let Some(origin) = req.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let same = authority.is_some_and(|a| host(req).is_some_and(|host| a.eq_ignore_ascii_case(&host)));
    if same || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Forbidden, "this origin is not in server.allowed_origins"))
}

fn bearer(req: &HttpRequest) -> Option<&str> {
    let (scheme, token) = req.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `Host` as the client sent it.
fn host(req: &HttpRequest) -> Option<String> {
    let header = req.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    header.map(str::to_owned).or_else(|| req.uri().authority().map(|authority| authority.to_string()))
}

fn names_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::names_loopback;

    #[test]
    fn knows_the_names_of_loopback() {
        for host in ["localhost", "LOCALHOST:4300", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:4300"] {
            assert!(names_loopback(host), "{host}");
        }
        for host in ["example.com", "127.0.0.1.example.com", "localhost.example.com:80", "[::2]:80", "10.0.0.1", ""] {
            assert!(!names_loopback(host), "{host}");
        }
    }
}
