//! The span of a publish. Its context takes the place of the `traceparent` of the request, so it is stored with the events
//! and is the parent of all that follows.

use std::time::Instant;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};

use crate::domain::event::Append;
use crate::domain::span::{SpanKind, TraceContext};
use crate::protocol::publish::{PublishHeaders, traceparent};
use crate::telemetry::tracer::{Tracer, tracer};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The span of a request that publishes, until it is answered.
pub struct PublishSpan {
    tracer: &'static Tracer,
    context: TraceContext,
    parent: Option<TraceContext>,
    method: Method,
    begin: Instant,
}

/// What is published.
struct Destination {
    name: String,
    count: usize,
}

/// Begins a span, if traces are recorded and the request publishes. `base` is what paths begin with.
pub fn begin(req: &mut ServiceRequest, base: &str) -> Option<PublishSpan> {
    let tracer = tracer()?;
    let path = req.path().strip_prefix(base).unwrap_or_default();
    let is_publish = match *req.method() {
        Method::POST => matches!(path, "/publish" | "/publish/batch"),
        Method::PUT | Method::DELETE => path.starts_with("/state/"),
        _ => false,
    };
    if !is_publish {
        return None;
    }
    let mut headers = req.headers().get_all(TRACEPARENT);
    let given = headers.next().filter(|_| headers.next().is_none()).and_then(|value| value.to_str().ok());
    let given = traceparent(&PublishHeaders { traceparent: given, idempotency_key: None });
    let parent = given.and_then(|text| TraceContext::parse(&text));
    let context = tracer.begin(parent);
    // What is not recorded goes on as it came.
    let goes_on = if context.is_sampled { context } else { parent.unwrap_or(context) };
    let value = HeaderValue::from_str(&goes_on.to_string()).ok()?;
    req.headers_mut().insert(TRACEPARENT, value);
    Some(PublishSpan { tracer, context, parent, method: req.method().clone(), begin: Instant::now() })
}

/// Notes what `req` publishes.
pub fn note(req: &HttpRequest, append: &Append) {
    if tracer().is_some()
        && let Some(first) = append.events.first()
    {
        let destination = Destination { name: first.name.as_str().to_owned(), count: append.events.len() };
        req.extensions_mut().insert(destination);
    }
}

/// Ends the span of a request that was answered.
pub fn end<B>(span: PublishSpan, response: &ServiceResponse<B>, route: &'static str) {
    let PublishSpan { tracer, context, parent, method, begin } = span;
    let status = response.status().as_u16();
    let id = response.headers().get("event-id").and_then(|id| id.to_str().ok());
    let extensions = response.request().extensions();
    let destination = extensions.get::<Destination>();
    let single = destination.filter(|destination| destination.count == 1).map(|destination| destination.name.as_str());
    let name = single.map_or_else(|| "publish".to_owned(), |name| format!("publish {name}"));
    tracer.end(name, SpanKind::Server, (context, parent), begin.elapsed(), |span| {
        let mut span = span
            .of_publish()
            .with("http.request.method", method.as_str())
            .with("http.route", route)
            .with("http.response.status_code", i64::from(status));
        if let Some(name) = single {
            span = span.with("messaging.destination.name", name);
        }
        if let Some(destination) = destination.filter(|destination| destination.count > 1) {
            span = span.with("messaging.batch.message_count", destination.count as i64);
        }
        if let Some(id) = id {
            span = span.with("messaging.message.id", id);
        }
        if status >= 500 {
            span = span.with("error.type", status.to_string().as_str());
            span.is_error = true;
        }
        span
    });
}
