//! The HTTP and WebSocket edge: decode, send a message, encode.

mod accept;
mod access;
mod admin;
mod body;
mod connecting;
mod cors;
mod encoding;
mod event_query;
mod events;
mod health;
mod lines;
mod long_poll;
mod observe;
mod origin;
mod prefix;
mod publish;
mod query;
mod reply;
mod resume;
mod schedules;
mod stream;
mod trace;
mod write;
mod ws;

use std::rc::Rc;
use std::sync::Arc;

use actix_web::http::{Method, header};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Resource, web};

use self::reply::Refusal;
use crate::access::AccessControl;
use crate::access::limits::Limits;
use crate::actors::log_position::LogPosition;
use crate::actors::push_log::PushLog;
use crate::actors::registry::Registry;
use crate::actors::service_slot::ServiceSlot;
use crate::actors::worker::Worker;
use crate::config::{Config, ServiceConfig};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::publish::PublishRules;
use crate::storage::Reader;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

pub use self::cors::share;
pub use self::long_poll::LongPollLimits;
pub use self::observe::observe;
pub use self::origin::keep_out;
pub use self::prefix::strip as strip_base_path;
pub use self::reply::refuse_unread;

/// What the endpoints of every worker share.
#[derive(Clone)]
pub struct EdgeParts {
    pub rules: PublishRules,
    pub config: Arc<Config>,
    /// Whether the listener is reached from this machine alone.
    pub is_loopback: bool,
    pub access: Arc<AccessControl>,
    /// How much may be asked for under each rate key.
    pub rate_limits: Arc<Limits>,
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub pushes: Arc<PushLog>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    /// The bounds of requests that wait for events.
    pub long_polls: Arc<LongPollLimits>,
    pub actors: Registry,
    /// In the order of the configuration.
    pub services: Arc<[ConfiguredService]>,
}

/// A service that events are delivered to.
#[derive(Clone)]
pub struct ConfiguredService {
    pub config: Arc<ServiceConfig>,
    pub slot: Arc<ServiceSlot>,
}

/// What the endpoints of one worker use.
pub struct Edge {
    pub parts: EdgeParts,
    pub worker: Rc<Worker>,
    observer: observe::Observer,
}

impl Edge {
    pub fn new(parts: EdgeParts, worker: Rc<Worker>) -> Self {
        let observer = observe::Observer::new(&parts.metrics, worker.thread.number);
        Self { parts, worker, observer }
    }
}

/// Routes all endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(resource("/publish", &[Method::POST]).route(web::post().to(publish::publish)))
        .service(resource("/publish/batch", &[Method::POST]).route(web::post().to(publish::publish_batch)))
        .service(get("/events").route(web::get().to(events::list)).route(web::head().to(events::list)))
        .service(get("/events/stream").route(web::get().to(stream::connect)).route(web::head().to(stream::connect)))
        .service(get("/events/{id}").route(web::get().to(events::one)).route(web::head().to(events::one)))
        .service(get("/events/{id}/trace").route(web::get().to(trace::trace)).route(web::head().to(trace::trace)))
        .service(get("/schedules").route(web::get().to(schedules::list)).route(web::head().to(schedules::list)))
        .service(resource("/schedules/{id}", &[Method::DELETE]).route(web::delete().to(schedules::cancel)))
        .service(resource("/ws", &[Method::GET]).route(web::get().to(ws::connect)))
        .service(get("/health").route(web::get().to(health::health)).route(web::head().to(health::health)))
        .service(get("/health/live").route(web::get().to(health::health)).route(web::head().to(health::health)))
        .service(get("/health/ready").route(web::get().to(health::ready)).route(web::head().to(health::ready)))
        .service(get("/metrics").route(web::get().to(health::metrics)).route(web::head().to(health::metrics)))
        .service(web::scope("/admin").wrap(from_fn(access::guard_admin)).configure(admin_routes))
        .default_service(web::to(not_found));
}

fn admin_routes(config: &mut web::ServiceConfig) {
    config
        .service(get("").route(web::get().to(admin::page::show)).route(web::head().to(admin::page::show)))
        .service(resource("/actors", &[Method::GET]).route(web::get().to(admin::actors)))
        .service(resource("/sessions", &[Method::GET]).route(web::get().to(admin::presence::sessions)))
        .service(resource("/subscriptions", &[Method::GET]).route(web::get().to(admin::presence::subscriptions)))
        .service(resource("/sessions/{id}", &[Method::DELETE]).route(web::delete().to(admin::close_session)))
        .service(resource("/services", &[Method::GET]).route(web::get().to(admin::services::list)))
        .service(resource("/services/{name}", &[Method::GET]).route(web::get().to(admin::services::one)))
        .service(
            resource("/services/{name}/{command}", &[Method::POST]).route(web::post().to(admin::services::operate)),
        )
        .service(resource("/deliveries", &[Method::GET]).route(web::get().to(admin::deliveries::list)))
        .service(resource("/deliveries/redrive", &[Method::POST]).route(web::post().to(admin::jobs::redrive)))
        .service(resource("/deliveries/move", &[Method::POST]).route(web::post().to(admin::orphans::move_to)))
        .service(resource("/deliveries/cancel", &[Method::POST]).route(web::post().to(admin::orphans::cancel)))
        .service(resource("/replay", &[Method::POST]).route(web::post().to(admin::jobs::replay)))
        .service(resource("/jobs", &[Method::GET]).route(web::get().to(admin::jobs::list)))
        .service(resource("/jobs/{id}", &[Method::DELETE]).route(web::delete().to(admin::jobs::cancel)))
        .service(resource("/durables", &[Method::GET]).route(web::get().to(admin::consumers::list)))
        .service(
            resource("/durables/{name}", &[Method::GET, Method::DELETE])
                .route(web::get().to(admin::consumers::one))
                .route(web::delete().to(admin::consumers::delete)),
        )
        .service(resource("/durables/{name}/seek", &[Method::POST]).route(web::post().to(admin::consumers::seek)))
        .service(resource("/explain", &[Method::POST]).route(web::post().to(admin::explain::explain)))
        .service(resource("/tokens", &[Method::GET]).route(web::get().to(admin::tokens::list)))
        .service(
            resource("/tokens/{name}/{command}", &[Method::POST]).route(web::post().to(admin::tokens::revoke_token)),
        )
        .service(resource("/revocations", &[Method::POST]).route(web::post().to(admin::tokens::revoke)))
        .service(
            resource("/revocations/{kind}/{value}", &[Method::DELETE]).route(web::delete().to(admin::tokens::restore)),
        )
        .service(
            resource("/drain", &[Method::POST, Method::DELETE])
                .route(web::post().to(admin::drain))
                .route(web::delete().to(admin::undrain)),
        )
        .default_service(web::to(not_found));
    #[cfg(feature = "fault-injection")]
    config
        .service(get("/fault").route(web::get().to(admin::faults)))
        .service(resource("/fault/{name}", &[Method::POST]).route(web::post().to(admin::fault)));
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
    if let Some(elsewhere) = prefix::without_slash(&req) {
        return Ok(elsewhere);
    }
    let message = format!("there is nothing at {}", req.path());
    Err(ApiError::new(ErrorCode::NotFound, message).into())
}
