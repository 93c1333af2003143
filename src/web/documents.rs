//! The documents that describe this API: `/openapi.json`.

use std::io::Write as _;

use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::query::Query;
use super::reply::Refusal;
use super::{Edge, access, encoding};
use crate::protocol::documents;

/// What is the same for all who ask, and is made once.
pub struct Documents {
    openapi: Served,
}

impl Documents {
    /// Those of a server whose paths begin with `base_path`.
    pub fn new(base_path: &str) -> Self {
        Self { openapi: Served::new("application/json", documents::openapi(base_path).to_string()) }
    }
}

/// `GET /openapi.json`.
pub async fn openapi(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    known_if_named(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    Ok(edge.parts.documents.openapi.answer(req.headers()))
}

/// Refuses a token that is none. A document can be read without one.
fn known_if_named(req: &HttpRequest, edge: &Edge) -> Result<(), Refusal> {
    if req.headers().contains_key(header::AUTHORIZATION) {
        access::caller(req, edge)?;
    }
    Ok(())
}

/// A text that is compressed once and sent often.
pub struct Served {
    content_type: &'static str,
    plain: Bytes,
    packed: Bytes,
    /// The digest of the text, in hexadecimal.
    digest: String,
}

impl Served {
    pub fn new(content_type: &'static str, text: impl Into<Bytes>) -> Self {
        let plain: Bytes = text.into();
        let digest = Sha256::digest(&plain).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let mut packed = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::best());
        // Memory takes whatever is written to it.
        let _ = packed.write_all(&plain);
        let packed = packed.finish().unwrap_or_default().into();
        Self { content_type, plain, packed, digest }
    }

    /// The text, or that the sender has it already.
    pub fn answer(&self, request: &HeaderMap) -> HttpResponse {
        let is_packed = encoding::accepts_gzip(request) && !self.packed.is_empty();
        // A strong tag names exactly the bytes that are sent.
        let tag = format!("\"{}{}\"", self.digest, if is_packed { "-gzip" } else { "" });
        let is_known = self.is_known(request);
        let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        response
            .insert_header((header::ETAG, tag))
            .insert_header((header::VARY, "Accept-Encoding, Authorization"))
            .insert_header((header::CACHE_CONTROL, "no-cache"));
        if is_known {
            return response.finish();
        }
        response.content_type(self.content_type).insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
        match is_packed {
            true => response.insert_header((header::CONTENT_ENCODING, "gzip")).body(self.packed.clone()),
            false => response.body(self.plain.clone()),
        }
    }

    /// Whether `If-None-Match` names this text, packed or not.
    fn is_known(&self, request: &HeaderMap) -> bool {
        let values = request.get_all(header::IF_NONE_MATCH).filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(str::trim).any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
            tag == "*" || tag.strip_suffix("-gzip").unwrap_or(tag) == self.digest
        })
    }
}
