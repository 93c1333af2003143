//! `GET /admin`: a page for operators. It asks for the token, or takes it from the fragment of its address, and shows
//! the answers of the other endpoints of `/admin`.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use crate::web::query::Query;
use crate::web::reply::Refusal;

const PAGE: &str = include_str!("page.html");
/// The page runs no script but its own, loads nothing from elsewhere, and cannot be framed by another page.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers with the page.
pub async fn show(req: HttpRequest) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    Ok(HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(PAGE))
}
