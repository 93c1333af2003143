//! Pages for people: texts that are embedded in the binary, compressed once, and sent under one strict policy.

use std::io::Write as _;

use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::encoding;
use super::query::Query;
use super::reply::Refusal;
use crate::protocol::error::{ApiError, ErrorCode};

/// A page runs no script but its own, loads nothing from elsewhere, makes no text a part of itself, and cannot be framed
/// by another page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// The types of files by the endings of their names.
const TYPES: [(&str, &str); 3] = [
    (".html", "text/html; charset=utf-8"),
    (".css", "text/css; charset=utf-8"),
    (".js", "text/javascript; charset=utf-8"),
];

/// The variable that names the folder `src/web` from which builds for tests read the files at each request, so that who
/// works on a page need not build it.
#[cfg(feature = "fault-injection")]
const SOURCES: &str = "EVENT_HANDLER_PAGES_FROM";

/// A file of a page: its name, and the files of the source that it consists of, each with its text.
pub struct File {
    pub name: &'static str,
    pub parts: &'static [(&'static str, &'static str)],
}

/// A page: a document, and the files that it loads.
pub struct Page {
    document: Served,
    files: Vec<Served>,
}

impl Page {
    /// A page of this document.
    pub fn new(document: &'static File, files: &'static [File]) -> Self {
        Self { document: Served::file(document), files: files.iter().map(Served::file).collect() }
    }

    /// Answers with the document.
    pub fn show(&self, req: &HttpRequest) -> Result<HttpResponse, Refusal> {
        Query::parse(req, &[], &[])?;
        let mut answer = self.document.answer(req.headers());
        answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        answer.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Ok(answer)
    }

    /// Answers with one of the files.
    pub fn file(&self, req: &HttpRequest, name: &str) -> Result<HttpResponse, Refusal> {
        Query::parse(req, &[], &[])?;
        let none = || ApiError::new(ErrorCode::NotFound, format!("there is nothing at {}", req.path()));
        let found = self.files.iter().find(|served| served.source.is_some_and(|file| file.name == name));
        Ok(found.ok_or_else(none)?.answer(req.headers()))
    }
}

/// A text that is compressed once.
pub struct Served {
    content_type: &'static str,
    plain: Bytes,
    packed: Bytes,
    /// The digest of the text, in hexadecimal.
    digest: String,
    /// The file that the text is of, if it is of one.
    source: Option<&'static File>,
}

impl Served {
    pub fn new(content_type: &'static str, text: impl Into<Bytes>) -> Self {
        let plain: Bytes = text.into();
        let digest = Sha256::digest(&plain).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let mut packed = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::best());
        // Memory takes whatever is written to it.
        let _ = packed.write_all(&plain);
        let packed = packed.finish().unwrap_or_default().into();
        Self { content_type, plain, packed, digest, source: None }
    }

    fn file(file: &'static File) -> Self {
        Self { source: Some(file), ..Self::of_file(file, |(_, text)| (*text).to_owned()) }
    }

    fn of_file(file: &File, text: impl Fn(&(&'static str, &'static str)) -> String) -> Self {
        let known = TYPES.iter().find(|(ending, _)| file.name.ends_with(ending));
        let content_type = known.map_or("application/octet-stream", |(_, content_type)| content_type);
        Self::new(content_type, file.parts.iter().map(text).collect::<String>())
    }

    /// The text as it stands in the sources now.
    #[cfg(feature = "fault-injection")]
    fn current(&self) -> Option<Self> {
        let (file, folder) = (self.source?, std::env::var_os(SOURCES)?);
        let read = |(path, text): &(&'static str, &'static str)| {
            let path = std::path::Path::new(&folder).join(path);
            std::fs::read_to_string(path).unwrap_or_else(|_| (*text).to_owned())
        };
        Some(Self::of_file(file, read))
    }

    /// The text, or that the sender has it already.
    pub fn answer(&self, request: &HeaderMap) -> HttpResponse {
        #[cfg(feature = "fault-injection")]
        if let Some(newer) = self.current() {
            return newer.answer(request);
        }
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
