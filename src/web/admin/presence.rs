//! `GET /admin/sessions` and `GET /admin/subscriptions`: who is connected, and what they subscribe to.

use std::collections::BTreeMap;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::nodes;
use crate::actors::shard::messages::{CountSubscribers, FindSessions, SubscriberCount};
use crate::domain::pattern::Pattern;
use crate::protocol::error::ApiError;
use crate::runtime::report::ActorReport;
use crate::web::Edge;
use crate::web::query::{Query, invalid};
use crate::web::reply::{self, Refusal};

const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;

/// Answers with the sessions, in the order in which they were opened.
pub async fn sessions(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, &["node", "pattern", "peer", "kind", "after", "limit"], &[])?;
    let limit = query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let find = FindSessions {
        after: query.read("after", "the id of a session", |text| text.parse().ok())?,
        // One more than asked for shows whether there is another page.
        limit: limit + 1,
        pattern: pattern(&query, "pattern")?,
        peer: query.one("peer").map(str::to_owned),
        kind: query
            .read("kind", "websocket or sse", |kind| ["websocket", "sse"].contains(&kind).then(|| kind.to_owned()))?,
    };
    if let Some(answer) = nodes::elsewhere(&req, &edge, &query).await? {
        return Ok(answer);
    }
    let found = edge.parts.actors.ask_shards(find).await;
    let mut found: Vec<Value> = found.into_iter().flatten().map(session).collect();
    found.sort_unstable_by_key(|session| session["id"].as_u64());
    page(&query, found, limit, |session| session["id"].to_string())
}

/// Answers with the patterns that are subscribed to, in order, and the number of subscribers of each.
pub async fn subscriptions(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, &["node", "after", "limit"], &[])?;
    let limit = query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let after = pattern(&query, "after")?;
    if let Some(answer) = nodes::elsewhere(&req, &edge, &query).await? {
        return Ok(answer);
    }
    let counts = edge.parts.actors.ask_shards(CountSubscribers).await;
    let mut all = BTreeMap::<Pattern, SubscriberCount>::new();
    for (pattern, SubscriberCount { websocket, sse }) in counts.into_iter().flatten() {
        let count = all.entry(pattern).or_default();
        count.websocket += websocket;
        count.sse += sse;
    }
    let row = |(pattern, SubscriberCount { websocket, sse }): (Pattern, SubscriberCount)| json!({ "event_name": pattern.as_str(), "subscribers": websocket + sse, "websocket": websocket, "sse": sse });
    let rest = all.into_iter().filter(|(pattern, _)| after.as_ref().is_none_or(|after| pattern > after));
    let rows = rest.take(limit + 1).map(row).collect();
    page(&query, rows, limit, |row| row["event_name"].as_str().unwrap_or_default().to_owned())
}

/// Answers with the first `limit` of `rows`, and, if there are more, a link to the page that follows the `cursor` of
/// the last row.
fn page(
    query: &Query<'_>,
    mut rows: Vec<Value>,
    limit: usize,
    cursor: impl Fn(&Value) -> String,
) -> Result<HttpResponse, Refusal> {
    let mut response = reply::ok_builder();
    if rows.len() > limit {
        rows.truncate(limit);
        let next = query.rewritten(&["after"], ("after", rows.last().map(cursor).unwrap_or_default()));
        response.append_header(reply::link(&next, "next"));
    }
    Ok(response.body(reply::envelope("success", Value::from(rows).to_string().as_bytes())))
}

fn pattern(query: &Query<'_>, name: &str) -> Result<Option<Pattern>, ApiError> {
    let parse = |text: &str| Pattern::parse(text.to_owned()).map_err(|reason| invalid(name, &reason.to_string()));
    query.one(name).map(parse).transpose()
}

/// The state of a session, joined with its report in the actor tree.
fn session(report: ActorReport) -> Value {
    let ActorReport { name, state, uptime_seconds, mut details, .. } = report;
    details["name"] = name.into();
    details["state"] = json!(state);
    details["uptime_seconds"] = uptime_seconds.into();
    details
}
