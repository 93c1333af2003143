//! The HTTP and WebSocket edge: decode, send a message, encode.

mod accept;
mod access;
mod admin;
mod assets;
mod body;
mod connecting;
mod cors;
mod documents;
mod encoding;
mod event_query;
mod event_types;
mod events;
mod health;
mod lines;
mod long_poll;
mod observe;
mod origin;
mod precondition;
mod prefix;
mod publish;
mod query;
mod reply;
mod resume;
mod routes;
mod sagas;
mod schedules;
mod state;
mod stream;
mod system;
mod trace;
mod tracing;
mod write;
mod ws;

use std::rc::Rc;
use std::sync::Arc;

use actix_web::guard;
use actix_web::http::{Method, header};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Resource, web};

use self::reply::Refusal;
use self::routes::{ADMIN, ENDPOINTS, Endpoint, OF_OPERATORS};
use crate::access::AccessControl;
use crate::access::limits::Limits;
use crate::actors::catalogue::CatalogueDesk;
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

pub use self::admin::samples::Samples;
pub use self::cors::share;
pub use self::documents::Documents;
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
    /// What describes this API.
    pub documents: Arc<Documents>,
    /// What the pages of operators are sent.
    pub samples: Arc<Samples>,
    /// Where instances of sagas are decided on.
    pub desk: Desk,
    /// Where event types are changed.
    pub catalogue: CatalogueDesk,
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
        let observer = observe::Observer::new(&parts.metrics, worker.thread.number, routes::pattern);
        Self { parts, worker, observer }
    }
}

/// Routes all endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    register(config, ENDPOINTS);
    config
        .service(
            web::scope(ADMIN)
                .wrap(from_fn(admin::audit::tell))
                .wrap(from_fn(access::guard_admin))
                .configure(admin_routes),
        )
        .default_service(web::to(not_found));
}

fn admin_routes(config: &mut web::ServiceConfig) {
    register(config, OF_OPERATORS);
    #[cfg(feature = "fault-injection")]
    register(config, routes::OF_FAULTS);
    config.default_service(web::to(not_found));
}

/// Makes a resource of each path.
fn register(config: &mut web::ServiceConfig, endpoints: &[Endpoint]) {
    for of_path in endpoints.chunk_by(|one, other| one.path == other.path) {
        let methods: Vec<Method> = of_path.iter().flat_map(|endpoint| endpoint.methods).cloned().collect();
        let path = of_path[0].path;
        let resource = resource(path.strip_prefix(ADMIN).unwrap_or(path), &methods);
        // With other methods this path is that of an entity.
        let resource = if path == routes::WISH { resource.guard(guard::Post()) } else { resource };
        let resource = of_path.iter().fold(resource, |resource, Endpoint { methods, route, .. }| {
            methods.iter().fold(resource, |resource, method| resource.route(route().method(method.clone())))
        });
        // What operators do elsewhere is told of as well.
        match routes::OPERATED.contains(&path) {
            true => config.service(resource.wrap(from_fn(admin::audit::tell))),
            false => config.service(resource),
        };
    }
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
