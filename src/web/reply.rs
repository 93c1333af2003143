//! Answers: the envelope `{"status","message","data"}`, for success and for every error alike.

use std::fmt;
use std::net::SocketAddr;

use actix_web::body::MessageBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde_json::{Value, json};

use crate::protocol::error::{ApiError, ErrorCode};
use crate::transport::peer_name;

/// A 200 whose `data` is given as JSON text. `message` must need no escaping.
pub fn ok(message: &str, data: &[u8]) -> HttpResponse {
    builder(StatusCode::OK).body(envelope(message, data))
}

/// A 202 whose `data` is given as JSON text: the request is stored, and will be executed. `message` must need no
/// escaping.
pub fn accepted(message: &str, data: &[u8]) -> HttpResponse {
    builder(StatusCode::ACCEPTED).body(envelope(message, data))
}

/// An answer of another status without data. `message` must need no escaping.
pub fn answer(status: StatusCode, message: &str) -> HttpResponse {
    builder(status).body(envelope(message, b"null"))
}

/// A 200 to which the caller adds headers and the body.
pub fn ok_builder() -> HttpResponseBuilder {
    builder(StatusCode::OK)
}

/// The envelope of a success. `message` must need no escaping.
pub fn envelope(message: &str, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.len() + data.len() + 48);
    body.extend_from_slice(br#"{"status":"ok","message":""#);
    body.extend_from_slice(message.as_bytes());
    body.extend_from_slice(br#"","data":"#);
    body.extend_from_slice(data);
    body.push(b'}');
    body
}

/// A `Link` to another page of the same list. The reference is a query alone, so that it holds under whatever prefix
/// a proxy has put before the path.
pub fn link(query: &str, relation: &str) -> (HeaderName, String) {
    (header::LINK, format!(r#"<?{query}>; rel="{relation}""#))
}

/// The answer to a request that failed.
pub fn refuse(error: &ApiError) -> HttpResponse {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut data = error.details().clone();
    data.insert("code".into(), error.code().as_str().into());
    let mut response = builder(status);
    if let Some(after) = error.retry() {
        // The header takes whole seconds; at least one, so that the sender waits.
        let seconds = after.as_secs_f64().ceil().max(1.0);
        response.insert_header((header::RETRY_AFTER, format!("{seconds:.0}")));
    }
    match error.code() {
        ErrorCode::Unauthorized => {
            response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        ErrorCode::UpgradeRequired => {
            response.insert_header((header::UPGRADE, HeaderValue::from_static("websocket")));
            response.insert_header((header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        }
        _ => {}
    }
    let body = json!({ "status": "error", "message": error.message(), "data": Value::Object(data) });
    response.body(body.to_string())
}

/// The whole answer, head included, to bytes that the HTTP library could not read as a request. It is the last of its
/// connection.
pub fn refuse_unread(status: u16, peer: Option<SocketAddr>) -> Bytes {
    let (code, message) = match status {
        408 => (ErrorCode::RequestTimeout, "the head of the request did not arrive in time"),
        431 => (ErrorCode::HeadTooLarge, "the head of the request is too long"),
        _ => (
            ErrorCode::MalformedRequest,
            "this cannot be read as an HTTP request: look at its first line and its headers",
        ),
    };
    let id = format!("{:016x}", rand::random::<u64>());
    log::info!(target: "event_handler::http", request_id = id.as_str(), peer = peer_name(peer).as_str(), code = status; "not a request, refused: {message}");
    let refused = refuse(&ApiError::new(code, message));
    let status = refused.status();
    let body = refused.into_body().try_into_bytes().unwrap_or_default();
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    answer.into()
}

fn builder(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header(ContentType::json());
    response
}

/// The error of an endpoint, made of any error that has an [`ApiError`].
#[derive(Debug)]
pub struct Refusal(pub ApiError);

impl<E: Into<ApiError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        refuse(&self.0)
    }
}
