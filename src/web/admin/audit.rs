//! What operators do is an event: `$sys.admin.action` says who, what, and with which result.
//!
//! Requests that only read or count, and those that were refused, have done nothing and are not told of.

use actix_web::HttpMessage;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use smallvec::smallvec;

use crate::domain::access::Principal;
use crate::domain::event::{Append, NewEvent};
use crate::web::body::Given;
use crate::web::{Edge, access};

const NAME: &str = "$sys.admin.action";
/// Paths at which a POST does nothing, and those of faults that tests inject.
const HARMLESS: [&str; 2] = ["/admin/explain", "/admin/fault/"];
/// Longest body that is told of, in bytes.
const MAX_BODY: usize = 4 * 1024;

/// The middleware, for endpoints of operators.
pub async fn tell(req: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let mut parameters = url::form_urlencoded::parse(req.query_string().as_bytes());
    let only_counts = parameters.any(|(name, value)| name == "dry_run" && value == "true");
    let does = ![Method::GET, Method::HEAD].contains(req.method())
        && !only_counts
        && !HARMLESS.iter().any(|harmless| req.path().starts_with(harmless));
    let edge = req.app_data::<Data<Edge>>().cloned().filter(|_| does);
    let who = edge.as_ref().and_then(|edge| access::operator(req.request(), edge).ok().flatten());
    let (Some(edge), Some(who)) = (edge, who) else { return next.call(req).await };
    let what = format!("{} {}", req.method(), req.path());
    let peer = access::peer(req.request(), &edge).map(|peer| peer.ip().to_string());
    req.extensions_mut().insert(Given::default());
    let done = async move {
        let answer = next.call(req).await?;
        let given = answer.request().extensions_mut().remove::<Given>().unwrap_or_default();
        if let Some(payload) = action(&who, &what, peer, &given.0, answer.status()) {
            let event = NewEvent::own(NAME, payload);
            if edge.worker.thread.intake.enqueue(Append::of(smallvec![event], None)).is_err() {
                log::warn!(principal = who.name(), what = what.as_str(); "no event tells of an operator's action: too much waits");
            }
        }
        Ok(answer)
    };
    // The HTTP library drops what it does for a connection that is reset. What is done is told of all the same.
    actix_rt::spawn(done).await.map_err(actix_web::error::ErrorInternalServerError)?
}

/// What is told of a request; nothing of one that has done nothing.
fn action(who: &Principal, what: &str, peer: Option<String>, body: &[u8], status: StatusCode) -> Option<String> {
    // Of a request that has failed by the server's fault it is not known what it has done.
    if !status.is_success() && !status.is_server_error() {
        return None;
    }
    let body: Option<&RawValue> = serde_json::from_slice(body).ok();
    let fields: Value = body.and_then(|body| serde_json::from_str(body.get()).ok()).unwrap_or_default();
    if fields["dry_run"] == true {
        return None;
    }
    let body = body.map(RawValue::get).filter(|body| body.len() <= MAX_BODY).unwrap_or("null");
    let who = json!({ "kind": who.identity.kind(), "name": who.name(), "peer": peer });
    let (what, result) = (json!(what), status.as_u16());
    Some(format!(r#"{{"who":{who},"what":{what},"body":{body},"result":{result}}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::{Grants, Identity};

    #[test]
    fn what_has_done_nothing_is_not_told_of() {
        let identity = Identity::Token("ops".to_owned());
        let who = Principal { identity, token_id: None, grants: Grants::everything(), expires_at: None };
        let told = |body: &[u8], status| action(&who, "POST /admin/replay", Some("::1".to_owned()), body, status);
        let begin = r#"{"who":{"kind":"token","name":"ops","peer":"::1"},"what":"POST /admin/replay","body":"#;
        let full = |body: &str, status: u16| Some(format!(r#"{begin}{body},"result":{status}}}"#));
        let body = r#"{"a":12345678901234567890123}"#;
        assert_eq!(told(body.as_bytes(), StatusCode::OK), full(body, 200));
        assert_eq!(told(b"", StatusCode::ACCEPTED), full("null", 202));
        assert!(told(b"", StatusCode::SERVICE_UNAVAILABLE).is_some(), "nobody knows what it has done");
        assert_eq!(told(br#"{"dry_run":true}"#, StatusCode::OK), None);
        assert_eq!(told(br#"{"service":"none"}"#, StatusCode::UNPROCESSABLE_ENTITY), None);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_BODY));
        assert_eq!(told(long.as_bytes(), StatusCode::OK), full("null", 200));
    }
}
