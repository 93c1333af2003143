//! `GET /admin/nodes`: the nodes that share the store, and what each of them does for all.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::answer;
use crate::domain::membership::NodeRecord;
use crate::protocol::error::ApiError;
use crate::web::Edge;
use crate::web::query::Query;
use crate::web::reply::Refusal;

/// Answers with all nodes, in the order of their names.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let nodes = edge.parts.reader.nodes().await.map_err(ApiError::from)?;
    let end = nodes.iter().map(|(node, _)| node.last_id).fold(edge.parts.position.last(), i64::max);
    let describe = |(node, holds): &(NodeRecord, Vec<String>)| -> Value {
        let is_own = node.name == *edge.parts.cluster.name();
        let last_id = if is_own { edge.parts.position.last() } else { node.last_id };
        let state = match (node.is_member(), node.is_draining) {
            (false, _) => "lost",
            (true, true) => "draining",
            (true, false) => "up",
        };
        json!({
            "name": &*node.name,
            "version": node.version,
            "state": state,
            "started_at": node.started_at.to_string(),
            "last_seen": node.seen_at.to_string(),
            "holds": holds,
            "end_of_log": last_id,
            "lag": end - last_id,
            "url": node.url,
        })
    };
    answer(&nodes.iter().map(describe).collect::<Vec<_>>())
}
