//! What is done around every request: it gets an id, its duration is measured, and its answer may be compressed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{HttpMessage, HttpRequest};
use prometheus::Histogram;

use super::reply::Refusal;
use super::{Edge, access, encoding, tracing};
use crate::telemetry::metrics::Metrics;
use crate::transport::ConnectionSocket;
use crate::transport::peer_name;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;

/// The histograms and ids of one worker, so that observing a request needs no look-up by text.
pub struct Observer {
    metrics: Arc<Metrics>,
    /// The endpoint of a path, as one of few labels.
    pattern: fn(&str) -> Option<&'static str>,
    durations: RefCell<HashMap<(&'static str, &'static str, u16), Histogram>>,
    /// Request ids of this worker begin with this: unique per process start and worker.
    prefix: String,
    requests: Cell<u64>,
}

impl Observer {
    pub fn new(metrics: &Arc<Metrics>, worker: usize, pattern: fn(&str) -> Option<&'static str>) -> Self {
        let prefix = format!("{:012x}{worker:02x}-", rand::random::<u64>() >> 16);
        Self { metrics: Arc::clone(metrics), pattern, durations: RefCell::default(), prefix, requests: Cell::new(0) }
    }

    fn new_request_id(&self) -> HeaderValue {
        self.requests.set(self.requests.get() + 1);
        let id = format!("{}{:x}", self.prefix, self.requests.get());
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }

    /// The endpoint as a label. The set is bounded, whatever is asked for.
    fn route(&self, path: &str, query: &str) -> &'static str {
        // A request that waits takes as long as it waits, so it must not count among the others.
        if path == "/events" && query.split('&').any(|pair| pair.starts_with("wait=")) {
            return "/events?wait";
        }
        (self.pattern)(path).unwrap_or("unmatched")
    }

    fn answered(&self, method: &'static str, route: &'static str, code: u16, begin: Instant) {
        let mut durations = self.durations.borrow_mut();
        let duration = durations
            .entry((method, route, code))
            .or_insert_with(|| self.metrics.http_duration.with_label_values(&[method, route, &code.to_string()]));
        duration.observe(begin.elapsed().as_secs_f64());
        if route.starts_with("/publish") {
            self.metrics.publishes.with_label_values(&[&code.to_string()]).inc();
        }
    }
}

/// The id of a request, which endpoints find in its extensions while activity is logged.
#[derive(Clone)]
struct RequestId(HeaderValue);

/// The id of `req`, for the log.
pub fn request_id(req: &HttpRequest) -> String {
    req.extensions().get::<RequestId>().and_then(|id| id.0.to_str().ok()).unwrap_or("-").to_owned()
}

/// The middleware.
pub async fn observe<B: MessageBody + 'static>(
    mut req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let begin = Instant::now();
    let Some(edge) = req.app_data::<Data<Edge>>().cloned() else {
        return next.call(req).await.map(ServiceResponse::map_into_boxed_body);
    };
    let given = req.headers().get(&REQUEST_ID).filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()));
    let id = given.cloned().unwrap_or_else(|| edge.observer.new_request_id());
    if edge.parts.config.log.activity {
        req.extensions_mut().insert(RequestId(id.clone()));
    }
    let _served = req.conn_data::<Rc<ConnectionSocket>>().map(ConnectionSocket::serve);
    let peer = access::peer(req.request(), &edge);
    let method = method_label(req.method().as_str());
    let span = tracing::begin(&mut req, &edge.parts.config.server.base_path);
    let mut response = encoding::answer(next.call(req).await?.map_into_boxed_body()).await;
    let code = response.status().as_u16();
    let route = edge.observer.route(response.request().path(), response.request().query_string());
    edge.observer.answered(method, route, code, begin);
    if let Some(span) = span {
        tracing::end(span, &response, route);
    }
    let level = match code {
        500 => log::Level::Error,
        _ if edge.parts.config.log.activity => log::Level::Info,
        _ => log::Level::Debug,
    };
    if level <= log::max_level() {
        log::log!(target: "event_handler::http", level, request_id = id.to_str().unwrap_or("-"), peer = peer_name(peer).as_str(), method, route, code; "answered");
    }
    let refusal = response.response().error().and_then(|error| error.as_error::<Refusal>());
    if let Some(cause) = refusal.and_then(|Refusal(error)| error.cause()) {
        log::warn!(target: "event_handler::http", request_id = id.to_str().unwrap_or("-"), peer = peer_name(peer).as_str(), method, route, code, error = cause; "request failed");
    }
    response.headers_mut().insert(REQUEST_ID, id);
    if edge.parts.health.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The sender is to make its next request to another node.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// The method as a label. The set is bounded, whatever is sent.
fn method_label(method: &str) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"].into_iter().find(|m| *m == method).unwrap_or("other")
}
