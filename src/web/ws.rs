//! `GET /ws`: from an HTTP request to a session.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::query::Query;
use super::reply::Refusal;
use super::seat::{self, Seat};
use super::{Edge, access, peer};
use crate::actors::session::{Session, SessionParts};
use crate::protocol::wire::Wire;
use crate::transport::upgrade;

/// The subprotocol with several JSON objects, one a line, in a frame.
const LINES: &str = "event-handler.v1.ndjson";

/// Opens a session for a WebSocket client.
pub async fn connect(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let (parts, worker) = (&edge.parts, &edge.worker);
    Query::parse(&req, &[], &[])?;
    access::origin(&req, &parts.allowed_origins)?;
    seat::check_open(&edge)?;
    let mut upgraded = upgrade(&req, payload, &[LINES], parts.limits.inbound, worker.queues.clone())
        .map_err(|error| seat::handshake_error(&error))?;
    let wire = if upgraded.protocol == Some(LINES) { Wire::Lines } else { Wire::WebSocket };
    if wire == Wire::Lines {
        upgraded.inbound.split_lines();
    }
    let Seat { seated, link, shard } = seat::take(&edge, upgraded.outbox, wire, peer(&req)).await?;
    let session = SessionParts {
        shard,
        intake: worker.intake.clone(),
        position: parts.position.clone(),
        metrics: parts.metrics.clone(),
        reader: parts.reader.clone(),
        durables: parts.durables.clone(),
        rules: parts.rules,
        queue_limit: worker.queue_limit(),
        low_water: worker.low_water(),
    };
    Session::start(seated, link, session, upgraded.inbound);
    Ok(upgraded.response)
}
