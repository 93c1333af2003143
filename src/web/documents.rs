//! The documents that describe this API, and the page that shows them: `/openapi.json`, `/asyncapi.json`, `/docs`.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::query::Query;
use super::reply::Refusal;
use super::{Edge, access, encoding};
use crate::domain::access::Caller;
use crate::protocol::documents::{self, EventType};
use crate::protocol::error::{ApiError, ErrorCode};

/// The page runs no script but its own, loads nothing from elsewhere, makes no text a part of itself, and cannot be framed
/// by another page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// What is made once and sent often.
pub struct Documents {
    base_path: String,
    openapi: Served,
    page: Served,
    files: [(&'static str, Served); 2],
    /// The event types that the last who asked may read, and the document with them.
    asyncapi: Mutex<Option<(Vec<EventType>, Arc<Served>)>>,
}

impl Documents {
    /// Those of a server whose paths begin with `base_path`.
    pub fn new(base_path: &str) -> Self {
        let styles = Served::new("text/css; charset=utf-8", include_str!("docs/docs.css"));
        let script = Served::new("text/javascript; charset=utf-8", include_str!("docs/docs.js"));
        Self {
            base_path: base_path.to_owned(),
            openapi: Served::new("application/json", documents::openapi(base_path).to_string()),
            page: Served::new("text/html; charset=utf-8", include_str!("docs/docs.html")),
            files: [("docs.css", styles), ("docs.js", script)],
            asyncapi: Mutex::new(None),
        }
    }

    fn asyncapi(&self, types: Vec<EventType>) -> Arc<Served> {
        let last = || self.asyncapi.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, served)) = &*last()
            && *known == types
        {
            return Arc::clone(served);
        }
        let served = Arc::new(Served::new("application/json", documents::asyncapi(&self.base_path, &types)));
        *last() = Some((types, Arc::clone(&served)));
        served
    }
}

/// `GET /openapi.json`.
pub async fn openapi(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    reader(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    Ok(edge.parts.documents.openapi.answer(req.headers()))
}

/// `GET /asyncapi.json`, with the event types that the caller may read.
pub async fn asyncapi(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let reader = reader(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    let types = match reader {
        Some(caller) => event_types(&edge, &caller).await?,
        None => Vec::new(),
    };
    let documents = Arc::clone(&edge.parts.documents);
    // A large catalogue takes longer to write down than a worker should be kept.
    let made = actix_rt::task::spawn_blocking(move || documents.asyncapi(types)).await;
    let made = made.map_err(|_| ApiError::new(ErrorCode::Internal, "the document could not be made"))?;
    Ok(made.answer(req.headers()))
}

/// `GET /docs`.
pub async fn page(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let mut answer = edge.parts.documents.page.answer(req.headers());
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(answer)
}

/// `GET /docs/{file}`: what the page consists of besides.
pub async fn file(req: HttpRequest, name: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let found = edge.parts.documents.files.iter().find(|(known, _)| **known == **name);
    let none = || ApiError::new(ErrorCode::NotFound, format!("there is nothing at {}", req.path()));
    Ok(found.ok_or_else(none)?.1.answer(req.headers()))
}

/// Who reads a document. It can be read without a token, but not with one that is none.
fn reader(req: &HttpRequest, edge: &Edge) -> Result<Option<Caller>, ApiError> {
    let is_unknown = edge.parts.access.is_required() && !req.headers().contains_key(header::AUTHORIZATION);
    if is_unknown { Ok(None) } else { access::caller(req, edge).map(Some) }
}

/// The event types that a caller may read.
async fn event_types(_edge: &Edge, _caller: &Caller) -> Result<Vec<EventType>, ApiError> {
    Ok(Vec::new())
}

/// A text that is compressed once.
struct Served {
    content_type: &'static str,
    plain: Bytes,
    packed: Bytes,
    /// The digest of the text, in hexadecimal.
    digest: String,
}

impl Served {
    fn new(content_type: &'static str, text: impl Into<Bytes>) -> Self {
        let plain: Bytes = text.into();
        let digest = Sha256::digest(&plain).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let mut packed = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::default());
        // Memory takes whatever is written to it.
        let _ = packed.write_all(&plain);
        let packed = packed.finish().unwrap_or_default().into();
        Self { content_type, plain, packed, digest }
    }

    /// The text, or that the sender has it already.
    fn answer(&self, request: &HeaderMap) -> HttpResponse {
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
