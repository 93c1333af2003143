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
mod sagas;
mod schedules;
mod state;
mod stream;
mod system;
mod trace;
mod write;
mod ws;

use std::rc::Rc;
use std::sync::Arc;

use actix_web::guard;
use actix_web::http::{Method, header};
use actix_web::middleware::from_fn;
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, web};

use self::reply::Refusal;
use crate::access::AccessControl;
use crate::access::limits::Limits;
use crate::actors::cluster::Cluster;
use crate::actors::log_position::LogPosition;
use crate::actors::orchestrator::desk::Desk;
use crate::actors::push_log::PushLog;
use crate::actors::registry::Registry;
use crate::actors::service_slot::ServiceSlot;
use crate::actors::system::view::SystemView;
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
    pub cluster: Arc<Cluster>,
    pub system: Arc<SystemView>,
    pub pushes: Arc<PushLog>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    /// The bounds of requests that wait for events.
    pub long_polls: Arc<LongPollLimits>,
    pub actors: Registry,
    /// Where instances of sagas are decided on.
    pub desk: Desk,
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
        .service(on(Method::POST, "/publish", publish::publish))
        .service(on(Method::POST, "/publish/batch", publish::publish_batch))
        .service(get("/events", events::list))
        .service(get("/events/stream", stream::connect))
        .service(get("/events/{id}", events::one))
        .service(get("/events/{id}/trace", trace::trace))
        .service(get("/schedules", schedules::list))
        .service(on(Method::DELETE, "/schedules/{id}", schedules::cancel))
        .service(get("/sagas", sagas::list))
        .service(get("/sagas/definitions", sagas::definitions))
        .service(get("/sagas/{id}", sagas::one))
        .service(on(Method::POST, "/sagas/{name}/start", sagas::start))
        .service(on(Method::POST, "/sagas/{id}/{verb}", sagas::operate))
        .service(get("/state", state::types))
        .service(get("/state/{type}", state::list))
        .service(get("/state/{type}/digest", state::digest))
        .service(get("/state/{type}/digest/{bucket}", state::bucket))
        // With other methods it is the entity of this key and the type `sync`.
        .service(on(Method::POST, "/state/sync/{service}", admin::sync::wish).guard(guard::Post()))
        .service(
            resource("/state/{type}/{key}", &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE])
                .route(web::get().to(state::read))
                .route(web::head().to(state::read))
                .route(web::put().to(state::put))
                .route(web::delete().to(state::delete)),
        )
        .service(
            resource("/system", &[Method::GET, Method::HEAD, Method::PUT])
                .route(web::get().to(system::read))
                .route(web::head().to(system::read))
                .route(web::put().to(system::put)),
        )
        .service(on(Method::GET, "/ws", ws::connect))
        .service(get("/health", health::health))
        .service(get("/health/live", health::health))
        .service(get("/health/ready", health::ready))
        .service(get("/metrics", health::metrics))
        .service(web::scope("/admin").wrap(from_fn(access::guard_admin)).configure(admin_routes))
        .default_service(web::to(not_found));
}

fn admin_routes(config: &mut web::ServiceConfig) {
    config
        .service(get("", admin::page::show))
        .service(on(Method::GET, "/actors", admin::actors))
        .service(on(Method::GET, "/sessions", admin::presence::sessions))
        .service(on(Method::GET, "/subscriptions", admin::presence::subscriptions))
        .service(on(Method::DELETE, "/sessions/{id}", admin::close_session))
        .service(on(Method::GET, "/services", admin::services::list))
        .service(on(Method::GET, "/services/{name}", admin::services::one))
        .service(on(Method::POST, "/services/{name}/{command}", admin::services::operate))
        .service(on(Method::POST, "/sagas/{verb}", sagas::operate_many))
        .service(on(Method::GET, "/sync", admin::sync::list))
        .service(on(Method::POST, "/sync/{service}/{command}", admin::sync::operate))
        .service(on(Method::GET, "/deliveries", admin::deliveries::list))
        .service(on(Method::POST, "/deliveries/redrive", admin::jobs::redrive))
        .service(on(Method::POST, "/deliveries/move", admin::orphans::move_to))
        .service(on(Method::POST, "/deliveries/cancel", admin::orphans::cancel))
        .service(on(Method::POST, "/replay", admin::jobs::replay))
        .service(on(Method::GET, "/jobs", admin::jobs::list))
        .service(on(Method::DELETE, "/jobs/{id}", admin::jobs::cancel))
        .service(on(Method::GET, "/durables", admin::consumers::list))
        .service(
            resource("/durables/{name}", &[Method::GET, Method::DELETE])
                .route(web::get().to(admin::consumers::one))
                .route(web::delete().to(admin::consumers::delete)),
        )
        .service(on(Method::POST, "/durables/{name}/seek", admin::consumers::seek))
        .service(on(Method::POST, "/explain", admin::explain::explain))
        .service(on(Method::GET, "/nodes", admin::nodes::list))
        .service(on(Method::GET, "/tokens", admin::tokens::list))
        .service(on(Method::POST, "/tokens/{name}/{command}", admin::tokens::revoke_token))
        .service(on(Method::POST, "/revocations", admin::tokens::revoke))
        .service(on(Method::DELETE, "/revocations/{kind}/{value}", admin::tokens::restore))
        .service(
            resource("/drain", &[Method::POST, Method::DELETE])
                .route(web::post().to(admin::drain))
                .route(web::delete().to(admin::undrain)),
        )
        .default_service(web::to(not_found));
    #[cfg(feature = "fault-injection")]
    config.service(on(Method::GET, "/fault", admin::faults)).service(on(Method::POST, "/fault/{name}", admin::fault));
}

/// A resource to be read: its `HEAD` is answered as its `GET`.
fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args, Output: Responder + 'static>,
    Args: FromRequest + 'static,
{
    let resource = resource(path, &[Method::GET, Method::HEAD]);
    resource.route(web::get().to(handler.clone())).route(web::head().to(handler))
}

/// A resource with one method.
fn on<F, Args>(method: Method, path: &str, handler: F) -> Resource
where
    F: Handler<Args, Output: Responder + 'static>,
    Args: FromRequest + 'static,
{
    resource(path, std::slice::from_ref(&method)).route(web::method(method.clone()).to(handler))
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
