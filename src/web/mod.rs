//! The HTTP and WebSocket edge: decode, send a message, encode.

mod access;
mod admin;
mod body;
mod events;
mod health;
mod observe;
mod publish;
mod query;
mod reply;
mod ws;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::Recipient;
use actix_web::http::{Method, header};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Resource, web};

use self::reply::Refusal;
use crate::actors::log_position::LogPosition;
use crate::actors::router::messages::CloseSession;
use crate::actors::router::worker::Worker;
use crate::actors::supervisor::messages::{Drain, ObserveTree};
use crate::config::Secret;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::publish::PublishRules;
use crate::storage::Reader;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use crate::transport::InboundLimits;

pub use self::observe::observe;

/// What the endpoints of every worker share.
#[derive(Clone)]
pub struct EdgeParts {
    pub rules: PublishRules,
    pub limits: EdgeLimits,
    pub allowed_origins: Arc<[String]>,
    pub admin_token: Secret,
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub supervisor: SupervisorAddresses,
    pub log_activity: bool,
}

/// What operators can ask of the supervisor.
#[derive(Clone)]
pub struct SupervisorAddresses {
    pub observe: Recipient<ObserveTree>,
    pub close_session: Recipient<CloseSession>,
    pub drain: Recipient<Drain>,
    #[cfg(feature = "fault-injection")]
    pub inject_panic: Recipient<crate::actors::supervisor::messages::InjectPanic>,
}

/// Bounds at the edge.
#[derive(Debug, Clone, Copy)]
pub struct EdgeLimits {
    /// Longest body, and longest single event of a batch, in bytes.
    pub max_body: usize,
    pub max_batch_body: usize,
    /// Time for a body to arrive whole.
    pub body_timeout: Duration,
    pub inbound: InboundLimits,
}

/// What the endpoints of one worker use.
pub struct Edge {
    pub parts: EdgeParts,
    pub worker: Rc<Worker>,
    observer: observe::Observer,
}

impl Edge {
    pub fn new(parts: EdgeParts, worker: Rc<Worker>) -> Self {
        let observer = observe::Observer::new(&parts.metrics, worker.number);
        Self { parts, worker, observer }
    }
}

/// The peer of a connection, as the socket tells it.
fn peer(req: &HttpRequest) -> Option<SocketAddr> {
    req.peer_addr()
}

/// All endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(resource("/publish", &[Method::POST]).route(web::post().to(publish::publish)))
        .service(resource("/publish/batch", &[Method::POST]).route(web::post().to(publish::publish_batch)))
        .service(get("/events").route(web::get().to(events::list)).route(web::head().to(events::list)))
        .service(get("/events/{id}").route(web::get().to(events::one)).route(web::head().to(events::one)))
        .service(resource("/ws", &[Method::GET]).route(web::get().to(ws::connect)))
        .service(get("/health").route(web::get().to(health::health)).route(web::head().to(health::health)))
        .service(get("/health/live").route(web::get().to(health::live)).route(web::head().to(health::live)))
        .service(get("/health/ready").route(web::get().to(health::ready)).route(web::head().to(health::ready)))
        .service(get("/metrics").route(web::get().to(health::metrics)).route(web::head().to(health::metrics)))
        .service(web::scope("/admin").wrap(from_fn(access::guard_admin)).configure(admin_routes))
        .default_service(web::to(not_found));
}

fn admin_routes(config: &mut web::ServiceConfig) {
    config
        .service(resource("/actors", &[Method::GET]).route(web::get().to(admin::actors)))
        .service(resource("/sessions", &[Method::GET]).route(web::get().to(admin::sessions)))
        .service(resource("/sessions/{id}", &[Method::DELETE]).route(web::delete().to(admin::close_session)))
        .service(resource("/drain", &[Method::POST]).route(web::post().to(admin::drain)))
        .default_service(web::to(not_found));
    #[cfg(feature = "fault-injection")]
    config.service(resource("/fault/{actor}", &[Method::POST]).route(web::post().to(admin::fault)));
}

fn get(path: &str) -> Resource {
    resource(path, &[Method::GET, Method::HEAD])
}

/// A resource that answers other methods than `allowed` with 405 and `Allow`.
fn resource(path: &str, allowed: &[Method]) -> Resource {
    let allow = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    web::resource(path).default_service(web::to(move |req: HttpRequest, payload: web::Payload| {
        let allow = allow.clone();
        async move {
            body::discard(&req, payload).await;
            let message = format!("this path has {allow}");
            let mut response = reply::refuse(&ApiError::new(ErrorCode::MethodNotAllowed, message));
            if let Ok(allow) = header::HeaderValue::from_str(&allow) {
                response.headers_mut().insert(header::ALLOW, allow);
            }
            response
        }
    }))
}

async fn not_found(req: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
    body::discard(&req, payload).await;
    let message = format!("there is nothing at {}", req.path());
    Err(ApiError::new(ErrorCode::NotFound, message).into())
}
