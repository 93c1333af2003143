//! `GET /admin/nodes`: the nodes that share the store, and what each of them does for all. And what other nodes answer
//! to an operator, with `?node=`.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::answer;
use crate::access::node_request::{self, NodeAnswer, NodeRequest};
use crate::actors::clock::now;
use crate::domain::membership::NodeRecord;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::web::Edge;
use crate::web::query::Query;
use crate::web::reply::{self, Refusal};

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

/// How long another node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is passed on, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// The value of `node` that asks all of them.
const ALL: &str = "all";

/// What another node answers to the request, or all of them, if that is asked for. `None`: this node answers.
///
/// This node has judged the caller, and signs what it passes on. The caller's token stays here: where a node is reached
/// is what somebody has written into the store.
pub async fn elsewhere(req: &HttpRequest, edge: &Edge, query: &Query<'_>) -> Result<Option<HttpResponse>, Refusal> {
    let own = edge.parts.cluster.name();
    let Some(name) = query.one("node").filter(|name| **name != **own) else { return Ok(None) };
    // What another node passes on is for this node, or for none.
    if req.headers().contains_key(node_request::SIGNATURE) {
        let message = format!("node {:?} answers here, and not {name:?}", &**own);
        return Err(ApiError::transient(ErrorCode::NodeUnreachable, message).into());
    }
    let known = known(edge).await;
    let nodes: Vec<&NodeRecord> = known.iter().filter(|node| name == ALL || *node.name == *name).collect();
    if nodes.is_empty() {
        let known: Vec<_> = known.iter().map(|node| node.name.to_string()).collect();
        let message = format!("no node is known under the name {name:?}");
        return Err(ApiError::new(ErrorCode::NodeNotFound, message).with("known", known).into());
    }
    let asked = async |node: &NodeRecord| {
        let query = query.rewritten(&["node"], ("node", &node.name));
        ask(edge, req.path(), &query, node).await
    };
    let answers = join_all(nodes.iter().map(|node| asked(node))).await;
    if name != ALL {
        let Some(answer) = answers.into_iter().next() else { return Ok(None) };
        let (link, body) = answer?;
        let link = link.map(|link| (header::LINK, link));
        return Ok(Some(link.into_iter().fold(&mut reply::ok_builder(), |to, link| to.insert_header(link)).body(body)));
    }
    let said = nodes.iter().zip(answers).map(|(node, answer)| {
        let data = answer.and_then(|(_, body)| data_of(&body));
        let shown = data.unwrap_or_else(|error| json!({ "error": error.to_frame_value() }));
        (node.name.to_string(), shown)
    });
    let data = json!({ "nodes": said.collect::<serde_json::Map<_, _>>() });
    Ok(Some(reply::ok("success", data.to_string().as_bytes())))
}

/// What each other node answers at `path`, which takes `node`; with its name. One that is lost has no answer.
pub async fn of_others(edge: &Edge, path: &str) -> Vec<(String, Result<Value, ApiError>)> {
    let own = edge.parts.cluster.name();
    let others = known(edge).await.into_iter().filter(|node| *node.name != **own);
    let asked = async |node: NodeRecord| {
        let query = Query::default().rewritten(&[], ("node", &node.name));
        let answer = ask(edge, path, &query, &node).await;
        (node.name.to_string(), answer.and_then(|(_, body)| data_of(&body)))
    };
    join_all(others.map(asked)).await
}

/// The nodes on this store. While it is away, those are asked that were there before.
async fn known(edge: &Edge) -> Vec<NodeRecord> {
    match edge.parts.reader.nodes().await {
        Ok(nodes) => nodes.into_iter().map(|(node, _)| node).collect(),
        Err(_) => edge.parts.cluster.view().nodes.clone(),
    }
}

/// The body that a node answers, and its link to the next page.
async fn ask(
    edge: &Edge,
    path: &str,
    query: &str,
    node: &NodeRecord,
) -> Result<(Option<HeaderValue>, Bytes), ApiError> {
    let unreachable = |reason: &dyn std::fmt::Display| {
        let message = format!("node {:?} cannot be asked at {}: {reason}", &*node.name, node.url);
        ApiError::transient(ErrorCode::NodeUnreachable, message)
    };
    if !node.is_member() {
        return Err(unreachable(&format!("it was found lost, and seen last at {}", node.seen_at)));
    }
    let url = format!("{}{path}?{query}", node.url);
    let key = edge.parts.position.key();
    let signature = NodeRequest { to: &node.name, path, query }.sign(&key, now());
    let request = awc::Client::builder().disable_timeout().disable_redirects().finish().get(url);
    let request = request.insert_header((node_request::SIGNATURE, &*signature));
    let exchange = async {
        let mut answer = request.send().await.map_err(|error| unreachable(&error))?;
        let body = answer.body().limit(MAX_ANSWER).await.map_err(|error| unreachable(&error))?;
        Ok::<_, ApiError>((answer, body))
    };
    let exchange = tokio::time::timeout(PATIENCE, exchange).await;
    let (answer, body) = exchange.map_err(|_| unreachable(&"it takes too long to answer"))??;
    let link = answer.headers().get(header::LINK).cloned();
    let is_signed = || {
        let link = link.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        let signed = answer.headers().get(node_request::SIGNATURE).map_or(&b""[..], HeaderValue::as_bytes);
        NodeAnswer { request: signature.as_bytes(), link, body: &body }.is_signed(&key, signed)
    };
    match answer.status() {
        StatusCode::OK if is_signed() && data_of(&body).is_ok() => Ok((link, body)),
        StatusCode::OK => Err(unreachable(&"its answer is none of a node on the same store")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(unreachable(&"it does not take this for a request of a node on the same store"))
        }
        status => Err(unreachable(&format!("it answered {status}"))),
    }
}

fn data_of(body: &[u8]) -> Result<Value, ApiError> {
    let mut answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let data = answer.get_mut("data").map(Value::take).filter(|_| answer["status"] == "ok");
    data.ok_or_else(|| ApiError::transient(ErrorCode::NodeUnreachable, "the answer is none of a node"))
}
