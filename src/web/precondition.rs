//! What a request says the current version has to be.

use actix_web::http::header::{self, HeaderMap};

use crate::domain::entity::{Precondition, Tags};
use crate::protocol::error::{ApiError, ErrorCode};

/// The conditions of a request (RFC 9110, section 13). Malformed tags are 400.
pub fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let tags = |name: header::HeaderName| {
        let values: Vec<_> = headers.get_all(&name).collect();
        if values.is_empty() {
            return Ok(None);
        }
        let malformed = |reason: &dyn std::fmt::Display| {
            ApiError::new(ErrorCode::MalformedRequest, format!("{name}: {reason}")).with("field", name.as_str())
        };
        let texts = values.into_iter().map(|value| value.to_str()).collect::<Result<Vec<_>, _>>();
        let texts = texts.map_err(|_| malformed(&"must be visible ASCII"))?;
        Tags::parse(texts).map(Some).map_err(|error| malformed(&error))
    };
    Ok(Precondition { is: tags(header::IF_MATCH)?, is_not: tags(header::IF_NONE_MATCH)? })
}
