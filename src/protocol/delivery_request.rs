//! What every format of a delivery produces: headers and a body.

use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;

/// Headers of a request, in order.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

/// A request without its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRequest {
    pub headers: Headers,
    pub body: Bytes,
}
