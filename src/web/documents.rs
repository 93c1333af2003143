//! The documents that describe this API, and the page that shows them: `/openapi.json`, `/asyncapi.json`, `/docs`.

use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::header;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};

use super::assets::{File, Page, Served};
use super::query::Query;
use super::reply::Refusal;
use super::{Edge, access};
use crate::domain::access::Caller;
use crate::domain::catalogue::Settings;
use crate::protocol::documents::{self, EventType};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::permit;

const DOCUMENT: File = File { name: "docs.html", parts: &[("docs/docs.html", include_str!("docs/docs.html"))] };
const FILES: &[File] = &[
    File {
        name: "docs.css",
        parts: &[("theme.css", include_str!("theme.css")), ("docs/docs.css", include_str!("docs/docs.css"))],
    },
    File { name: "docs.js", parts: &[("docs/docs.js", include_str!("docs/docs.js"))] },
];

/// What is made once and sent often.
pub struct Documents {
    base_path: String,
    page: Page,
    openapi: Document,
    asyncapi: Document,
}

/// Writes a document: the base path, and the event types.
type Write = fn(&str, &[EventType]) -> String;

/// One with the event types.
struct Document {
    write: Write,
    /// The event types that the last who asked may read, and the document with them.
    last: Mutex<Option<(Vec<EventType>, Arc<Served>)>>,
}

impl Document {
    fn new(write: Write) -> Self {
        Self { write, last: Mutex::new(None) }
    }

    fn with(&self, base_path: &str, types: Vec<EventType>) -> Arc<Served> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, served)) = &*last()
            && *known == types
        {
            return Arc::clone(served);
        }
        let served = Arc::new(Served::new("application/json", (self.write)(base_path, &types)));
        *last() = Some((types, Arc::clone(&served)));
        served
    }
}

impl Documents {
    /// Those of a server whose paths begin with `base_path`.
    pub fn new(base_path: &str) -> Self {
        Self {
            base_path: base_path.to_owned(),
            page: Page::new(&DOCUMENT, FILES),
            openapi: Document::new(documents::openapi_with),
            asyncapi: Document::new(documents::asyncapi),
        }
    }
}

/// `GET /openapi.json`, with the event types that the caller may read.
pub async fn openapi(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    show(&req, &edge, |documents| &documents.openapi).await
}

/// `GET /asyncapi.json`, with the same.
pub async fn asyncapi(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    show(&req, &edge, |documents| &documents.asyncapi).await
}

async fn show(
    req: &HttpRequest,
    edge: &Data<Edge>,
    which: fn(&Documents) -> &Document,
) -> Result<HttpResponse, Refusal> {
    let reader = reader(req, edge)?;
    Query::parse(req, &[], &[])?;
    let types = match reader {
        Some(caller) => event_types(edge, &caller).await?,
        None => Vec::new(),
    };
    let documents = Arc::clone(&edge.parts.documents);
    // A large catalogue takes longer to write down than a worker should be kept.
    let made = actix_rt::task::spawn_blocking(move || which(&documents).with(&documents.base_path, types)).await;
    let made = made.map_err(|_| ApiError::new(ErrorCode::Internal, "the document could not be made"))?;
    Ok(made.answer(req.headers()))
}

/// `GET /docs`.
pub async fn page(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    edge.parts.documents.page.show(&req)
}

/// `GET /docs/{file}`: what the page consists of besides.
pub async fn file(req: HttpRequest, name: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    edge.parts.documents.page.file(&req, &name)
}

/// Who reads a document. It can be read without a token, but not with one that is none.
fn reader(req: &HttpRequest, edge: &Edge) -> Result<Option<Caller>, ApiError> {
    let is_unknown = edge.parts.access.is_required() && !req.headers().contains_key(header::AUTHORIZATION);
    if is_unknown { Ok(None) } else { access::caller(req, edge).map(Some) }
}

/// The event types that a caller may read.
async fn event_types(edge: &Edge, caller: &Caller) -> Result<Vec<EventType>, ApiError> {
    let types = edge.parts.reader.event_types().await?.into_iter();
    let readable = types.filter(|of| permit::read_all(caller, &of.name).is_ok());
    let documented = readable.map(|of| {
        let Settings { description, owner, examples, deprecated, .. } = of.settings.unwrap_or_default();
        let (name, is_deprecated) = (of.name.as_str().to_owned(), deprecated);
        EventType { name, version: of.version, schema: of.schema, description, owner, examples, is_deprecated }
    });
    Ok(documented.collect())
}
