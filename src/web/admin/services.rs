//! `/admin/services`: the state of each service, and the commands of operators.

use std::time::Duration;

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::nodes;
use super::orphans::{orphans, shown};
use super::{answer, find_service, known_services, tree};
use crate::actors::client::messages::{Applied, Operate, ServiceCommand};
use crate::actors::clock::now;
use crate::domain::priority::Lane;
use crate::domain::routes::Selector;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::runtime::report::{ActorKind, ActorReport};
use crate::web::query::Query;
use crate::web::reply::{self, Refusal};
use crate::web::{ConfiguredService, Edge, body};

/// How long a client may take to apply a command, and to have that stored.
const OPERATE_PATIENCE: Duration = Duration::from_secs(5);

/// Answers with all services.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, &["node"], &[])?;
    if let Some(answer) = nodes::elsewhere(&req, &edge, &query).await? {
        return Ok(answer);
    }
    let services = Value::from(states(&edge).await?);
    // While the store is away, operators need the rest all the more, and without waiting for a timeout.
    let orphaned: Vec<Value> = match edge.parts.health.store.is_up() {
        true => orphans(&edge).await.unwrap_or_default().iter().map(shown).collect(),
        false => Vec::new(),
    };
    let body = json!({ "status": "ok", "message": "success", "data": services, "orphaned": orphaned });
    Ok(reply::ok_builder().body(body.to_string()))
}

/// The states of all services, as operators see them.
pub(super) async fn states(edge: &Edge) -> Result<Vec<Value>, ApiError> {
    let reports = observe(edge).await?;
    let services = edge.parts.services.iter().map(|service| describe(edge, service, &reports));
    Ok(futures_util::future::join_all(services).await)
}

/// Answers with one service.
pub async fn one(req: HttpRequest, name: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let service = find_service(&edge, &name).ok_or_else(|| unknown(&edge, &name))?;
    answer(&describe(&edge, service, &observe(&edge).await?).await)
}

/// Has a service's client apply a command. The answer has the state after it, or is a 202 with the present state if the
/// client of another node has to apply it.
pub async fn operate(
    req: HttpRequest,
    payload: Payload,
    path: Path<(String, String)>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    body::nothing(&req, payload, &edge).await?;
    let (name, command) = path.into_inner();
    let service = find_service(&edge, &name).ok_or_else(|| unknown(&edge, &name))?;
    let command = ServiceCommand::ALL.into_iter().find(|known| known.as_str() == command).ok_or_else(|| {
        let known = ServiceCommand::ALL.map(ServiceCommand::as_str);
        let message = format!("a service cannot be told to {command:?}; known are {}", known.join(", "));
        ApiError::new(ErrorCode::NotFound, message).with("known", known.to_vec())
    })?;
    let applied = order(&edge, &name, command).await?;
    let state = describe(&edge, service, &observe(&edge).await?).await;
    let name = &service.config.name;
    if applied == Applied::Elsewhere {
        let message = format!("Service '{name}': left to the node that delivers to it, which obeys within seconds.");
        return Ok(reply::accepted(&message, state.to_string().as_bytes()));
    }
    let done = match command {
        ServiceCommand::Pause => "paused",
        ServiceCommand::Resume => "resumed",
        ServiceCommand::Open => "breaker kept open",
        ServiceCommand::Close => "breaker kept closed",
        ServiceCommand::Reset => "breaker reset",
        ServiceCommand::Synchronize(_) => "synchronized",
    };
    Ok(reply::ok(&format!("Service '{name}': {done}."), state.to_string().as_bytes()))
}

/// Gives the command to the client of the service, and waits until it is stored.
pub(super) async fn order(edge: &Edge, name: &str, command: ServiceCommand) -> Result<Applied, ApiError> {
    let applied = match edge.parts.actors.clients.get(name) {
        Some(client) => tokio::time::timeout(OPERATE_PATIENCE, client.ask(Operate(command))).await,
        None => Ok(Ok(None)),
    };
    let Ok(Ok(Some(applied))) = applied else {
        let message =
            "not confirmed: the service's client is starting, or waits for the store; it may obey all the same";
        return Err(ApiError::transient(ErrorCode::StoreUnavailable, message));
    };
    Ok(applied)
}

/// The reports of all clients.
pub(super) async fn observe(edge: &Edge) -> Result<Vec<ActorReport>, ApiError> {
    Ok(tree(edge, Some(ActorKind::Client)).await?.children)
}

/// The report of the client of `service`.
pub(super) fn report_of<'a>(service: &ConfiguredService, reports: &'a [ActorReport]) -> Option<&'a ActorReport> {
    reports.iter().find(|report| report.name.strip_prefix("client/") == Some(&service.config.name))
}

/// The report of a client, with the service's configuration and its oldest open delivery.
async fn describe(edge: &Edge, service: &ConfiguredService, reports: &[ActorReport]) -> Value {
    let ConfiguredService { config, slot } = service;
    let report = report_of(service, reports);
    let oldest = match slot.id() {
        // While the store is away, operators need the rest all the more, and without waiting for a timeout.
        Some(id) if edge.parts.health.store.is_up() => edge.parts.reader.oldest_open(id).await.ok().flatten(),
        _ => None,
    };
    let mut told = match report.map(|report| &report.details) {
        Some(details @ Value::Object(_)) => details.clone(),
        _ => silent_client(service),
    };
    told["oldest_pending_id"] = oldest.as_ref().map(|event| event.id).into();
    told["oldest_pending_age_seconds"] = oldest.map(|event| now().since(event.created_at).as_secs_f64()).into();
    told["actor"] = report.map_or(
        Value::Null,
        |report| json!({ "state": report.state, "restarts": report.restarts, "uptime_seconds": report.uptime_seconds }),
    );
    told["path"] = config.path.as_str().into();
    told["routes"] = config.routes.iter().map(shown_route).collect();
    told["echo"] = config.echo.into();
    told["aliases"] = config.aliases.clone().into();
    told["signed"] = (!config.secrets.is_empty()).into();
    told["options"] = json!(config.options);
    told
}

/// A route as operators see it: its pattern, and the text of its filter if it has one.
pub fn shown_route(route: &Selector) -> Value {
    match &route.filter {
        None => route.event.as_str().into(),
        Some(filter) => json!({ "event": route.event.as_str(), "filter": filter.as_json() }),
    }
}

/// What is shown of a service whose client does not answer.
fn silent_client(ConfiguredService { config, slot }: &ConfiguredService) -> Value {
    let pending = slot.pending();
    let by_lane = Lane::ALL.into_iter().map(|lane| (lane.as_str().to_owned(), json!(pending[lane.index()])));
    json!({
        "service": config.name,
        "state": "restarting",
        "paused": slot.registered().and_then(|known| known.paused),
        "breaker": null,
        "pending": slot.pending_total(),
        "pending_by_priority": by_lane.collect::<Value>(),
        "dead": slot.dead(),
    })
}

/// The refusal of a name that no service has.
pub(super) fn unknown(edge: &Edge, name: &str) -> ApiError {
    let known = known_services(edge);
    let message = match &known[..] {
        [] => format!("there is no service {name:?}; none is configured"),
        known => format!("there is no service {name:?}; known are {}", known.join(", ")),
    };
    ApiError::new(ErrorCode::ServiceNotFound, message).with("known", known)
}
