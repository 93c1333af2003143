//! `/system`: the state of the whole system.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::query::Query;
use super::reply::{self, Refusal};
use super::{Edge, access, body, write};
use crate::domain::access::Scope;
use crate::domain::system::{Input, System, transition_name};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::permit;
use crate::protocol::system::{parse_put, shown};
use crate::storage::{Outcome, Write};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Answers with the state, as this node sees it.
pub async fn read(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    permit::any(&access::caller(&req, &edge)?, Scope::Read)?;
    Query::parse(&req, &[], &[])?;
    // While the store is away, what it said last holds.
    let system = match (edge.parts.reader.system().await, edge.parts.system.stored()) {
        (Ok(system), _) => system,
        (Err(_), Some(known)) => System::clone(&known),
        (Err(error), None) => return Err(error.into()),
    };
    Ok(reply::ok("success", &data(&edge, &system)))
}

/// Begins a change.
pub async fn put(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    if let Err(error) = access::admin(&req, &edge) {
        body::discard(&req, payload).await;
        return Err(error.into());
    }
    let given = body::read(&req, payload, MAX_BODY, &edge).await?;
    Query::parse(&req, &[], &[])?;
    body::content_type(&req, &["application/json"])?;
    let services: Vec<&str> = edge.parts.services.iter().map(|service| service.config.name.as_str()).collect();
    let names = [rand::random(), rand::random()].map(transition_name);
    let change = Write::ChangeSystem(Input::Put(parse_put(&given, &services, names)?));
    let Outcome::System(done) = write::commit(&edge, change).await? else {
        return Err(ApiError::new(ErrorCode::Internal, "the change of the system has no outcome").into());
    };
    let system = done.map_err(ApiError::from)?;
    edge.parts.system.wake();
    let message = match &system.change {
        Some(change) => format!("The system is to be {}.", change.to.as_str()),
        None => format!("The system is {}.", system.state.as_str()),
    };
    Ok(reply::accepted(&message, &data(&edge, &system)))
}

fn data(edge: &Edge, system: &System) -> Vec<u8> {
    shown(system, edge.parts.system.trouble().as_deref()).to_string().into_bytes()
}
