//! How far services agree with the entities that they keep a copy of: `/admin/sync`, and `POST /state/sync/{service}` for
//! a service that wishes to be compared.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::{answer, find_service, services};
use crate::actors::client::messages::ServiceCommand;
use crate::actors::synchronizer::messages::Demand;
use crate::config::ServiceSync;
use crate::domain::access::Scope;
use crate::domain::sync::{Kind, Standing};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::permit;
use crate::protocol::raw_object::RawObject;
use crate::storage::SyncRecord;
use crate::web::query::Query;
use crate::web::reply::{self, Refusal};
use crate::web::{ConfiguredService, Edge, access, body};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Answers with every service and type.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let records = edge.parts.reader.syncs().await?;
    let all: Vec<Value> = edge.parts.services.iter().flat_map(|service| shown(service, &records)).collect();
    answer(&all)
}

/// Has a service compared or repaired, or that ended. It is done by the node that delivers to the service.
pub async fn operate(
    req: HttpRequest,
    payload: Payload,
    path: Path<(String, String)>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    let (name, command) = path.into_inner();
    let demand = match command.as_str() {
        "check" => Demand::Check,
        "cancel" => Demand::Cancel,
        "repair" => {
            let given = body::read(&req, payload, MAX_BODY, &edge).await?;
            Query::parse(&req, &[], &[])?;
            if !given.is_empty() {
                body::content_type(&req, &["application/json"])?;
            }
            return demanded(&edge, &name, Demand::Repair { ahead: ahead(&given)? }).await;
        }
        _ => {
            body::discard(&req, payload).await;
            let known = ["check", "repair", "cancel"];
            let message = format!("a service cannot be told to {command:?}; known are {}", known.join(", "));
            return Err(ApiError::new(ErrorCode::NotFound, message).with("known", known.to_vec()).into());
        }
    };
    body::nothing(&req, payload, &edge).await?;
    demanded(&edge, &name, demand).await
}

/// Has a service compared at its own wish.
pub async fn wish(
    req: HttpRequest,
    payload: Payload,
    name: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    body::nothing(&req, payload, &edge).await?;
    let caller = access::caller(&req, &edge)?;
    permit::any(&caller, Scope::Read)?;
    // Which services there are is not for everybody to know.
    let none = || ApiError::new(ErrorCode::ServiceNotFound, format!("there is no service {:?}", *name));
    let sync = copy_of(find_service(&edge, &name).ok_or_else(none)?)?;
    sync.types.iter().try_for_each(|kind| permit::read(&caller, &kind.change_name()))?;
    demanded(&edge, &name, Demand::Check).await
}

/// Whether what is ahead is to be repaired too.
fn ahead(body: &[u8]) -> Result<bool, ApiError> {
    if body.is_empty() {
        return Ok(false);
    }
    let fields = RawObject::parse(body, "body")?;
    fields.check(&["ahead"], true)?;
    match fields.raw("ahead") {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(ApiError::field(ErrorCode::InvalidField, "ahead", "must be true or false")),
    }
}

async fn demanded(edge: &Edge, name: &str, demand: Demand) -> Result<HttpResponse, Refusal> {
    let (service, _) = synced(edge, name)?;
    services::order(edge, name, ServiceCommand::Synchronize(demand)).await?;
    let done = match demand {
        Demand::Check | Demand::Recovered => "is to be compared",
        Demand::Repair { .. } => "is to be compared and repaired",
        Demand::Cancel => "what is under way is to end",
    };
    let records = edge.parts.reader.syncs().await?;
    let data: Value = shown(service, &records).collect();
    Ok(reply::accepted(&format!("Service '{name}': {done}."), data.to_string().as_bytes()))
}

/// The service of this name, and the copy that it keeps.
fn synced<'a>(edge: &'a Edge, name: &str) -> Result<(&'a ConfiguredService, &'a ServiceSync), ApiError> {
    let service = find_service(edge, name).ok_or_else(|| services::unknown(edge, name))?;
    Ok((service, copy_of(service)?))
}

/// The copy that a service keeps.
fn copy_of(service: &ConfiguredService) -> Result<&ServiceSync, ApiError> {
    let ConfiguredService { config, .. } = service;
    let none = || ApiError::new(ErrorCode::NotSynced, format!("service {:?} keeps no copy of entities", config.name));
    config.sync.as_ref().ok_or_else(none)
}

/// The types of a service, each with what the store knows of it.
fn shown<'a>(service: &'a ConfiguredService, records: &'a [SyncRecord]) -> impl Iterator<Item = Value> + 'a {
    let types = service.config.sync.iter().flat_map(|sync| &sync.types);
    types.map(|kind| {
        let mut known = records.iter().filter(|record| Some(record.service) == service.slot.id());
        let never = Standing::default();
        let standing = known.find(|record| record.kind == *kind).map_or(&never, |record| &record.standing);
        let Standing { state, as_of, lag, checked_at, next_check_at, error, differences } = standing;
        let counts = Kind::ALL.map(|of| (of.as_str().to_owned(), differences.of(of).into()));
        json!({
            "service": service.config.name,
            "type": kind.as_str(),
            "state": state.as_str(),
            "as_of": as_of,
            "lag": lag,
            "checked_at": checked_at.map(|at| at.to_string()),
            "next_check_at": next_check_at.map(|at| at.to_string()),
            "error": error,
            "differences": counts.into_iter().collect::<serde_json::Map<_, _>>(),
        })
    })
}
