//! Request bodies, bounded in size (compressed and decompressed) and in time.

use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::web::{Bytes, BytesMut, Payload};
use actix_web::{HttpMessage, HttpRequest};
use futures_util::StreamExt;

use super::query::Query;
use super::{Edge, encoding};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::raw_object::RawObject;

/// Longest body that is read of a request that needs none, in bytes.
const SMALL: usize = 64 * 1024;
/// Most characters of a content type that are repeated in an error.
const SHOWN: usize = 100;

/// The body of a request, for who asks by putting an empty one into the extensions. Whoever reads the body leaves it
/// there.
#[derive(Debug, Default)]
pub struct Given(pub Bytes);

/// Reads and decompresses the whole body: at most `limit` bytes, within the time that the edge allows.
pub async fn read(req: &HttpRequest, payload: Payload, limit: usize, edge: &Edge) -> Result<Bytes, ApiError> {
    let body = receive(req, payload, limit, edge.parts.config.server.body_timeout.get()).await?;
    let body = match encoding::coding(req.headers())? {
        None => body,
        Some(coding) => encoding::decode(coding, body, limit).await?.ok_or_else(|| too_large(limit))?,
    };
    if let Some(given) = req.extensions_mut().get_mut::<Given>() {
        given.0.clone_from(&body);
    }
    Ok(body)
}

/// Reads a whole JSON body of at most `limit` bytes; the request has no parameters.
pub async fn read_json(req: &HttpRequest, payload: Payload, limit: usize, edge: &Edge) -> Result<Bytes, ApiError> {
    let body = read(req, payload, limit, edge).await?;
    Query::parse(req, &[], &[])?;
    content_type(req, &["application/json"])?;
    Ok(body)
}

/// Reads the body without decompressing it.
async fn receive(req: &HttpRequest, payload: Payload, limit: usize, timeout: Duration) -> Result<Bytes, ApiError> {
    let declared = req.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let end = if is_endless(req) { declared.unwrap_or(0) } else { usize::MAX };
    let late = || ApiError::new(ErrorCode::RequestTimeout, "the body did not arrive in time");
    match tokio::time::timeout(timeout, collect(payload, limit, end)).await {
        Ok(body) => body,
        Err(_) => Err(late()),
    }
}

/// Whether the library takes everything that follows for the body, because it expects the request to be upgraded. It is
/// not, so the declared length holds, and the connection ends after it.
fn is_endless(req: &HttpRequest) -> bool {
    let upgrades = req.headers().get_all(header::UPGRADE).filter_map(|value| value.to_str().ok());
    let is_upgrade = upgrades.into_iter().any(|value| value.trim().eq_ignore_ascii_case("websocket"));
    (is_upgrade || req.method() == Method::CONNECT) && !req.headers().contains_key(header::TRANSFER_ENCODING)
}

/// Reads and drops a small body: a request that is refused unread would cost the sender its connection.
pub async fn discard(req: &HttpRequest, payload: Payload) {
    let _ = receive(req, payload, SMALL, Duration::from_secs(1)).await;
}

/// Reads the body of a request that takes neither fields nor parameters: an empty body, or an empty object.
pub async fn nothing(req: &HttpRequest, payload: Payload, edge: &Edge) -> Result<(), ApiError> {
    let body = read(req, payload, SMALL, edge).await?;
    if !body.is_empty() {
        content_type(req, &["application/json"])?;
        RawObject::parse(&body, "body")?.check(&[], true)?;
    }
    Query::parse(req, &[], &[]).map(drop)
}

async fn collect(mut payload: Payload, limit: usize, end: usize) -> Result<Bytes, ApiError> {
    if end == 0 {
        return Ok(Bytes::new());
    }
    let Some(first) = next(&mut payload).await? else {
        return Ok(Bytes::new());
    };
    if first.len() >= end {
        return Ok(first.slice(..end));
    }
    let Some(second) = next(&mut payload).await? else {
        return if first.len() > limit { Err(too_large(limit)) } else { Ok(first) };
    };
    let mut body = BytesMut::from(first);
    let mut chunk = Some(second);
    while let Some(bytes) = chunk {
        let bytes = bytes.slice(..bytes.len().min(end - body.len()));
        if body.len() + bytes.len() > limit {
            return Err(too_large(limit));
        }
        body.extend_from_slice(&bytes);
        chunk = if body.len() < end { next(&mut payload).await? } else { None };
    }
    Ok(body.freeze())
}

async fn next(payload: &mut Payload) -> Result<Option<Bytes>, ApiError> {
    let chunk = payload.next().await.transpose();
    chunk.map_err(|error| ApiError::new(ErrorCode::MalformedRequest, format!("the body broke off: {error}")))
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::BodyTooLarge, format!("the body may have at most {limit} bytes"))
        .with("limit_bytes", limit)
}

/// The content type of the request, which must be one of `supported`; the first of them if it gives none.
pub fn content_type(req: &HttpRequest, supported: &[&'static str]) -> Result<&'static str, ApiError> {
    let Some(given) = req.headers().get(header::CONTENT_TYPE) else {
        return Ok(supported[0]);
    };
    let given = given.to_str().unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    supported.iter().copied().find(|name| name.eq_ignore_ascii_case(essence)).ok_or_else(|| {
        let shown: String = given.chars().take(SHOWN).collect();
        let types = supported.join(" or ");
        let message = format!("the body came as {shown:?}: send it with the header Content-Type: {types}");
        ApiError::new(ErrorCode::UnsupportedMediaType, message).with("supported", supported.to_vec())
    })
}
