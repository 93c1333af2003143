//! Request bodies: bounded in size and time.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header;
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt;

use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::raw_object::RawObject;

/// Longest body of a request that needs none, in bytes.
const SMALL: usize = 64 * 1024;

/// Reads the whole body: at most `limit` bytes, within `timeout`.
pub async fn read(req: &HttpRequest, payload: Payload, limit: usize, timeout: Duration) -> Result<Bytes, ApiError> {
    let declared = req.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let late = || ApiError::new(ErrorCode::RequestTimeout, "the body did not arrive in time");
    match tokio::time::timeout(timeout, collect(payload, limit)).await {
        Ok(body) => body,
        Err(_) => Err(late()),
    }
}

/// Reads a small body that nobody wants: refusing a request unread would cost the client its connection.
pub async fn discard(req: &HttpRequest, payload: Payload) {
    let _ = read(req, payload, SMALL, Duration::from_secs(1)).await;
}

/// Reads the body of a request that has nothing to say: none at all, or an object without fields.
pub async fn nothing(req: &HttpRequest, payload: Payload, timeout: Duration) -> Result<(), ApiError> {
    let body = read(req, payload, SMALL, timeout).await?;
    if body.is_empty() {
        return Ok(());
    }
    content_type(req, &["application/json"])?;
    RawObject::parse(&body, "body")?.check(&[], true)
}

async fn collect(mut payload: Payload, limit: usize) -> Result<Bytes, ApiError> {
    let Some(first) = next(&mut payload).await? else {
        return Ok(Bytes::new());
    };
    let Some(second) = next(&mut payload).await? else {
        return if first.len() > limit { Err(too_large(limit)) } else { Ok(first) };
    };
    let mut body = BytesMut::from(first);
    let mut chunk = Some(second);
    while let Some(bytes) = chunk {
        if body.len() + bytes.len() > limit {
            return Err(too_large(limit));
        }
        body.extend_from_slice(&bytes);
        chunk = next(&mut payload).await?;
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

/// Refuses a body that does not come as it is.
pub fn check_encoding(req: &HttpRequest) -> Result<(), ApiError> {
    let encodings = req.headers().get_all(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("unreadable"));
    if let Some(encoding) = encodings.flat_map(|value| value.split(',')).map(str::trim).find(|e| !is_identity(e)) {
        let message = format!("unsupported content encoding {encoding:?}: send the body as it is");
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, message).with("supported", vec!["identity"]));
    }
    Ok(())
}

/// Which of `supported` the request's content type is; none given is the first. A body must come as it is, not encoded.
pub fn content_type(req: &HttpRequest, supported: &[&'static str]) -> Result<&'static str, ApiError> {
    check_encoding(req)?;
    let Some(given) = req.headers().get(header::CONTENT_TYPE) else {
        return Ok(supported[0]);
    };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    supported.iter().copied().find(|name| name.eq_ignore_ascii_case(essence)).ok_or_else(|| {
        ApiError::new(ErrorCode::UnsupportedMediaType, format!("send {}", supported.join(" or ")))
            .with("supported", supported.to_vec())
    })
}

fn is_identity(encoding: &str) -> bool {
    encoding.is_empty() || encoding.eq_ignore_ascii_case("identity")
}
