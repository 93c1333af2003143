//! `server.base_path`, for a proxy that passes paths on with their prefix; and slashes at the end of paths.

use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::LOCATION;
use actix_web::http::uri::PathAndQuery;
use actix_web::http::{StatusCode, Uri};
use actix_web::middleware::Next;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::{Edge, body, origin, reply};
use crate::protocol::error::{ApiError, ErrorCode};

/// Paths that are answered outside of the base path too, because monitors and orchestrators do not use the proxy.
const EVERYWHERE: [&str; 2] = ["/health", "/metrics"];

/// The middleware that removes the base path, so that routes need not know it.
pub async fn strip<B: MessageBody + 'static>(
    mut req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let config = req.app_data::<Data<Edge>>().map(|edge| Arc::clone(&edge.parts.config));
    let base = config.as_ref().map_or("", |config| &config.server.base_path);
    match below(req.uri().path(), base).map(|rest| rewritten(req.uri(), rest)) {
        Some(Some(uri)) => {
            req.match_info_mut().get_mut().update(&uri);
            req.head_mut().uri = uri;
        }
        None if EVERYWHERE.iter().any(|path| below(req.path(), path).is_some()) => {}
        Some(None) | None => {
            let message = format!("there is nothing at {}: all paths begin with {base} (server.base_path)", req.path());
            let foreign = req.app_data::<Data<Edge>>().and_then(|edge| origin::judge(req.request(), edge).err());
            let error = foreign.unwrap_or_else(|| ApiError::new(ErrorCode::NotFound, message));
            let payload = req.extract::<Payload>().await?;
            body::discard(req.request(), payload).await;
            return Ok(req.into_response(reply::refuse(&error)));
        }
    }
    next.call(req).await.map(ServiceResponse::map_into_boxed_body)
}

/// The part of `path` after `base`, as it was sent: empty, or beginning with a slash. Percent-encoded characters are
/// compared decoded, as the router does.
fn below<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let mut rest = path;
    for wanted in base.bytes() {
        let (byte, width) = match rest.as_bytes() {
            [b'%', high, low, ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                (u8::try_from(digit(high)? * 16 + digit(low)?).ok()?, 3)
            }
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        if byte != wanted {
            return None;
        }
        rest = rest.get(width..)?;
    }
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn rewritten(uri: &Uri, rest: &str) -> Option<Uri> {
    let path = if rest.is_empty() { "/" } else { rest };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}{query}")).ok()?);
    Uri::from_parts(parts).ok()
}

/// Redirects a request whose path ends in a slash to the path without it, keeping method and body. The reference is
/// relative, so that it holds under every prefix.
pub fn without_slash(req: &HttpRequest) -> Option<HttpResponse> {
    let path = req.uri().path().strip_suffix('/').filter(|path| req.resource_map().has_resource(path))?;
    let query = req.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut response = reply::answer(StatusCode::PERMANENT_REDIRECT, "the path has no slash at its end");
    response.headers_mut().insert(LOCATION, format!("../{name}{query}").try_into().ok()?);
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_a_base_or_it_is_not() {
        for (path, base, expected) in [
            ("/events/publish", "/events", Some("/publish")),
            ("/events/events/5%2f", "/events", Some("/events/5%2f")),
            ("/%65vents/%70ublish", "/events", Some("/%70ublish")),
            ("/events", "/events", Some("")),
            ("/events/", "/events", Some("/")),
            ("/eventsx/publish", "/events", None),
            ("/event", "/events", None),
            ("/event%", "/events", None),
            ("/event%\u{e4}", "/events", None),
            ("/publish", "/events", None),
            ("/a/b/ws", "/a/b", Some("/ws")),
            ("/a%2fb/ws", "/a/b", Some("/ws")),
            ("*", "/a", None),
            ("/ws", "", Some("/ws")),
        ] {
            assert_eq!(below(path, base), expected, "{path} {base}");
        }
    }

    #[test]
    fn the_rest_of_a_target_stays() {
        let uri = |text: &str| Uri::try_from(text).expect("a URI");
        assert_eq!(rewritten(&uri("/b/ws?x=%3E&y"), "/ws"), Some(uri("/ws?x=%3E&y")));
        assert_eq!(rewritten(&uri("http://h:1/b/ws"), "/ws"), Some(uri("http://h:1/ws")));
        assert_eq!(rewritten(&uri("/b"), ""), Some(uri("/")));
    }
}
