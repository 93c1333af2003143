//! Authentication, admission and the address of a request's sender.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::body::{self, BoxBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, header};
use actix_web::middleware::Next;
use actix_web::web::Data;
use url::form_urlencoded;

use super::{Edge, reply};
use crate::access::limits::{PeerAdmission, RateKey};
use crate::access::node_request::{self, NodeAnswer, NodeRequest};
use crate::actors::clock::{now, steady};
use crate::config::ProxyHeader;
use crate::domain::access::{Caller, Principal};
use crate::domain::network::client_address;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::permit;
use crate::transport::requested_protocols;

/// The subprotocol in which a browser, which cannot send the header there, names a token: this prefix and the token.
const BEARER_PROTOCOL: &str = "bearer.";
/// The query parameter for the same purpose.
pub const TOKEN_PARAMETER: &str = "access_token";

/// The caller of this request, by its header `Authorization`.
pub fn caller(req: &HttpRequest, edge: &Edge) -> Result<Caller, ApiError> {
    identify(bearer(req).map(Cow::Borrowed), edge)
}

/// The caller that opens this stream. Browsers cannot send headers there, so the token may also be a subprotocol
/// `bearer.<token>` or the parameter `access_token`.
pub fn streaming_caller(req: &HttpRequest, edge: &Edge) -> Result<Caller, ApiError> {
    identify(
        bearer(req).map(Cow::Borrowed).or_else(|| protocol_token(req).map(Cow::Borrowed)).or_else(|| query_token(req)),
        edge,
    )
}

fn identify(token: Option<Cow<'_, str>>, edge: &Edge) -> Result<Caller, ApiError> {
    let access = &edge.parts.access;
    if access.is_required() { access.caller(token.as_deref(), now()) } else { Ok(Caller::Anybody) }
}

/// The key under which the limits count a request.
pub fn rate_key(req: &HttpRequest, edge: &Edge, caller: &Caller) -> RateKey {
    edge.parts.rate_limits.rate_key(caller, peer(req, edge).map(|peer| peer.ip()))
}

/// Counts `events` that are published at once, if publishes are limited.
pub fn limit_publish(req: &HttpRequest, edge: &Edge, caller: &Caller, events: usize) -> Result<(), ApiError> {
    let limits = &edge.parts.rate_limits;
    if limits.limits_publishes() { limits.publish(rate_key(req, edge, caller), events, steady()) } else { Ok(()) }
}

/// Counts a stream that is opened. It counts among the connections of its address as long as the result lives.
pub fn admit_stream(req: &HttpRequest, edge: &Edge, caller: &Caller) -> Result<Option<PeerAdmission>, ApiError> {
    let limits = &edge.parts.rate_limits;
    limits.connect(rate_key(req, edge, caller), steady())?;
    limits.admit(peer(req, edge).map(|peer| peer.ip()))
}

/// The subprotocol with a token, as it was offered.
pub fn bearer_protocol(req: &HttpRequest) -> Option<&str> {
    requested_protocols(req).find(|protocol| protocol.starts_with(BEARER_PROTOCOL))
}

fn protocol_token(req: &HttpRequest) -> Option<&str> {
    bearer_protocol(req)?.strip_prefix(BEARER_PROTOCOL)
}

fn query_token(req: &HttpRequest) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(req.query_string().as_bytes())
        .find(|(name, _)| name == TOKEN_PARAMETER)
        .map(|(_, token)| token)
}

/// The address of a request's sender: that of its socket, or the one that a trusted proxy names.
pub fn peer(req: &HttpRequest, edge: &Edge) -> Option<SocketAddr> {
    let (peer, trusted) = (req.peer_addr()?, &edge.parts.config.server.trusted_proxies);
    if trusted.is_empty() {
        return Some(peer);
    }
    let lists = |name: &str| {
        let values: Vec<_> = req.headers().get_all(name).collect();
        // The list is read hop by hop from the right: an entry on the left may be forged, and need not be text, but
        // does not hide what a proxy has added.
        let hops = values.into_iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        hops.map(|hop| std::str::from_utf8(hop).unwrap_or_default())
    };
    if edge.parts.config.server.proxy_header == ProxyHeader::Forwarded {
        let hops = lists("forwarded").map(|hop| {
            let pairs = hop.split(';').filter_map(|pair| pair.trim().split_once('='));
            pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("for")).map_or("", |(_, address)| address)
        });
        return Some(client_address(peer, hops, trusted));
    }
    Some(client_address(peer, lists("x-forwarded-for"), trusted))
}

/// The middleware that lets only operators through to `/admin`, whether the path exists or not. The page itself and its
/// files hold no secret and are for everybody, because people enter the token there. Nothing else may be kept by caches.
pub async fn guard_admin(
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let rest = req.match_info().unprocessed();
    let is_page = matches!(rest, "" | "/") || rest.starts_with("/page/");
    let verdict = match req.app_data::<Data<Edge>>() {
        _ if is_page => Ok(()),
        Some(edge) => admin(req.request(), edge),
        None => Err(ApiError::new(ErrorCode::Internal, "the edge is not set up")),
    };
    match verdict {
        Ok(()) if is_page => next.call(req).await,
        Ok(()) if req.headers().contains_key(node_request::SIGNATURE) => sign(next.call(req).await?).await,
        Ok(()) => next.call(req).await.map(not_kept),
        Err(error) => Ok(not_kept(req.into_response(reply::refuse(&error)))),
    }
}

/// An answer for an operator alone, or why there is none.
fn not_kept(mut answer: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Signs the answer to what another node has passed on.
async fn sign(answer: ServiceResponse<BoxBody>) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let (req, answer) = answer.into_parts();
    let (mut answer, body) = answer.into_parts();
    let body = body::to_bytes(body).await?;
    let of = |headers: &HeaderMap, name: &str| headers.get(name).map(|value| value.as_bytes().to_vec());
    let request = of(req.headers(), node_request::SIGNATURE).unwrap_or_default();
    let link = of(answer.headers(), header::LINK.as_str()).unwrap_or_default();
    if let Some(edge) = req.app_data::<Data<Edge>>() {
        let signature = NodeAnswer { request: &request, link: &link, body: &body }.sign(&edge.parts.position.key());
        let signature = HeaderValue::from_str(&signature).expect("invariant: base64 is a header");
        answer.headers_mut().insert(HeaderName::from_static(node_request::SIGNATURE), signature);
    }
    Ok(ServiceResponse::new(req, answer.set_body(body).map_into_boxed_body()))
}

/// Admits operators: callers with the admin token, or with one of the scope `admin`. The address of a request proves
/// nothing: behind a proxy on this machine every request looks local.
pub fn admin(req: &HttpRequest, edge: &Edge) -> Result<(), ApiError> {
    operator(req, edge).map(drop)
}

/// The operator who sends this request. None: another node passes it on.
pub fn operator(req: &HttpRequest, edge: &Edge) -> Result<Option<Arc<Principal>>, ApiError> {
    if is_of_node(req, edge)? {
        return Ok(None);
    }
    let access = &edge.parts.access;
    if !access.can_administer() {
        let advice = "no token opens /admin: set ADMIN_TOKEN, or admin.token_file to a file that can be written";
        return Err(ApiError::new(ErrorCode::Forbidden, advice));
    }
    let principal = access.authenticate(bearer(req), now())?;
    if principal.grants.admin { Ok(Some(principal)) } else { Err(permit::no_admin()) }
}

/// Whether another node passes this request on, which has judged its caller. A signature that does not hold is refused,
/// so that nobody takes such a request for one of its caller.
fn is_of_node(req: &HttpRequest, edge: &Edge) -> Result<bool, ApiError> {
    let Some(signature) = req.headers().get(node_request::SIGNATURE) else { return Ok(false) };
    let asked = NodeRequest { to: edge.parts.cluster.name(), path: req.path(), query: req.query_string() };
    let signature = signature.to_str().unwrap_or_default();
    if req.method() == Method::GET && asked.is_signed(&edge.parts.position.key(), signature, now()) {
        return Ok(true);
    }
    Err(ApiError::new(ErrorCode::Unauthorized, "this is no request that a node on the same store has signed"))
}

fn bearer(req: &HttpRequest) -> Option<&str> {
    let (scheme, token) = req.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The host that the request is for. A target in absolute form wins over `Host` (RFC 9112, section 3.2.2).
pub fn host(req: &HttpRequest) -> Option<&str> {
    match req.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => req.headers().get(header::HOST).and_then(|host| host.to_str().ok()),
    }
}
