//! `GET /admin`: a page for operators. It asks for the token, or takes it from the fragment of its address, and shows
//! what the other endpoints answer. The page and its files hold no secret.

use std::sync::LazyLock;

use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};

use crate::web::assets::{File, Page};
use crate::web::reply::Refusal;

/// A file that stands beside this one, in a folder of its own.
macro_rules! file {
    ($name:literal) => {
        File { name: $name, parts: &[(concat!("admin/page/", $name), include_str!(concat!("page/", $name)))] }
    };
}

const DOCUMENT: File = file!("index.html");
/// Others have made `preact.js` and `hooks.js` (Preact 11.2.0, which the second names by its file here), `htm.js` (htm
/// 3.1.1) and `uplot.js` (uPlot 1.6.32, `dist/uPlot.iife.min.js` with an `export` at its end). Their licences are in
/// `licences`.
const FILES: &[File] = &[
    File {
        name: "page.css",
        parts: &[("theme.css", include_str!("../theme.css")), ("admin/page/page.css", include_str!("page/page.css"))],
    },
    file!("preact.js"),
    file!("hooks.js"),
    file!("htm.js"),
    file!("uplot.js"),
    file!("api.js"),
    file!("app.js"),
    file!("json.js"),
    file!("parts.js"),
    file!("samples.js"),
    file!("plots.js"),
    file!("overview.js"),
    file!("actors.js"),
    file!("services.js"),
    file!("dead.js"),
    file!("events.js"),
    file!("tail.js"),
    file!("explain.js"),
    file!("subscribers.js"),
    file!("nodes.js"),
    file!("sync.js"),
    file!("sagas.js"),
    file!("system.js"),
    file!("types.js"),
];

/// It is compressed when somebody looks at it first.
static PAGE: LazyLock<Page> = LazyLock::new(|| Page::new(&DOCUMENT, FILES));

/// Answers with the page.
pub async fn show(req: HttpRequest) -> Result<HttpResponse, Refusal> {
    PAGE.show(&req)
}

/// Answers with one of the files that the page loads.
pub async fn file(req: HttpRequest, name: Path<String>) -> Result<HttpResponse, Refusal> {
    PAGE.file(&req, &name)
}
