//! Which endpoint answers which requests. `src/protocol/documents/operations.toml` describes each of them.

use actix_web::http::Method;
use actix_web::{Route, web};

use super::{
    admin, documents, event_types, events, health, publish, sagas, schedules, state, stream, system, trace, ws,
};

/// The methods and the path of requests, and what answers them.
pub struct Endpoint {
    pub methods: &'static [Method],
    pub path: &'static str,
    pub route: fn() -> Route,
}

const fn of(methods: &'static [Method], path: &'static str, route: fn() -> Route) -> Endpoint {
    Endpoint { methods, path, route }
}

/// What is read: `HEAD` is answered as `GET`.
const READ: &[Method] = &[Method::GET, Method::HEAD];
const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const PUT: &[Method] = &[Method::PUT];
const DELETE: &[Method] = &[Method::DELETE];

/// The path at which a service wishes to be compared. With other methods than `POST` it is the path of an entity of the
/// type `sync`.
pub const WISH: &str = "/state/sync/{service}";

/// Paths of operators that are not below `/admin`: what is done there is told of like what is done there.
pub const OPERATED: &[&str] = &["/event-types/{name}", "/sagas/{id}/{verb}", "/system"];

/// What operators use is below this path.
pub const ADMIN: &str = "/admin";

/// All endpoints but those below [`ADMIN`]. Of paths that match the same request the first counts; rows of the same path
/// stand together.
pub const ENDPOINTS: &[Endpoint] = &[
    of(POST, "/publish", || web::to(publish::publish)),
    of(POST, "/publish/batch", || web::to(publish::publish_batch)),
    of(READ, "/events", || web::to(events::list)),
    of(READ, "/events/stream", || web::to(stream::connect)),
    of(READ, "/events/{id}", || web::to(events::one)),
    of(READ, "/events/{id}/trace", || web::to(trace::trace)),
    of(READ, "/schedules", || web::to(schedules::list)),
    of(DELETE, "/schedules/{id}", || web::to(schedules::cancel)),
    of(READ, "/event-types", || web::to(event_types::list)),
    of(READ, "/event-types/{name}", || web::to(event_types::read)),
    of(PUT, "/event-types/{name}", || web::to(event_types::put)),
    of(DELETE, "/event-types/{name}", || web::to(event_types::delete)),
    of(READ, "/event-types/{name}/usage", || web::to(event_types::usage)),
    of(READ, "/event-types/{name}/versions", || web::to(event_types::versions)),
    of(READ, "/event-types/{name}/versions/{version}", || web::to(event_types::version)),
    of(READ, "/sagas", || web::to(sagas::list)),
    of(READ, "/sagas/definitions", || web::to(sagas::definitions)),
    of(READ, "/sagas/{id}", || web::to(sagas::one)),
    of(POST, "/sagas/{name}/start", || web::to(sagas::start)),
    of(POST, "/sagas/{id}/{verb}", || web::to(sagas::operate)),
    of(READ, "/state", || web::to(state::types)),
    of(READ, "/state/{type}", || web::to(state::list)),
    of(READ, "/state/{type}/digest", || web::to(state::digest)),
    of(READ, "/state/{type}/digest/{bucket}", || web::to(state::bucket)),
    of(POST, WISH, || web::to(admin::sync::wish)),
    of(READ, "/state/{type}/{key}", || web::to(state::read)),
    of(PUT, "/state/{type}/{key}", || web::to(state::put)),
    of(DELETE, "/state/{type}/{key}", || web::to(state::delete)),
    of(READ, "/system", || web::to(system::read)),
    of(PUT, "/system", || web::to(system::put)),
    of(GET, "/ws", || web::to(ws::connect)),
    of(READ, "/health", || web::to(health::health)),
    of(READ, "/health/live", || web::to(health::health)),
    of(READ, "/health/ready", || web::to(health::ready)),
    of(READ, "/metrics", || web::to(health::metrics)),
    of(READ, "/openapi.json", || web::to(documents::openapi)),
    of(READ, "/asyncapi.json", || web::to(documents::asyncapi)),
    of(READ, "/docs", || web::to(documents::page)),
    of(READ, "/docs/{file}", || web::to(documents::file)),
];

/// Those below [`ADMIN`].
pub const OF_OPERATORS: &[Endpoint] = &[
    of(READ, "/admin", || web::to(admin::page::show)),
    of(READ, "/admin/page/{file}", || web::to(admin::page::file)),
    of(READ, "/admin/samples", || web::to(admin::samples::follow)),
    of(GET, "/admin/actors", || web::to(admin::actors)),
    of(GET, "/admin/sessions", || web::to(admin::presence::sessions)),
    of(GET, "/admin/subscriptions", || web::to(admin::presence::subscriptions)),
    of(DELETE, "/admin/sessions/{id}", || web::to(admin::close_session)),
    of(GET, "/admin/services", || web::to(admin::services::list)),
    of(GET, "/admin/services/{name}", || web::to(admin::services::one)),
    of(POST, "/admin/services/{name}/{command}", || web::to(admin::services::operate)),
    of(POST, "/admin/sagas/{verb}", || web::to(sagas::operate_many)),
    of(GET, "/admin/sync", || web::to(admin::sync::list)),
    of(POST, "/admin/sync/{service}/{command}", || web::to(admin::sync::operate)),
    of(GET, "/admin/deliveries", || web::to(admin::deliveries::list)),
    of(POST, "/admin/deliveries/redrive", || web::to(admin::jobs::redrive)),
    of(POST, "/admin/deliveries/move", || web::to(admin::orphans::move_to)),
    of(POST, "/admin/deliveries/cancel", || web::to(admin::orphans::cancel)),
    of(POST, "/admin/replay", || web::to(admin::jobs::replay)),
    of(GET, "/admin/jobs", || web::to(admin::jobs::list)),
    of(DELETE, "/admin/jobs/{id}", || web::to(admin::jobs::cancel)),
    of(GET, "/admin/durables", || web::to(admin::consumers::list)),
    of(GET, "/admin/durables/{name}", || web::to(admin::consumers::one)),
    of(DELETE, "/admin/durables/{name}", || web::to(admin::consumers::delete)),
    of(POST, "/admin/durables/{name}/seek", || web::to(admin::consumers::seek)),
    of(POST, "/admin/explain", || web::to(admin::explain::explain)),
    of(GET, "/admin/nodes", || web::to(admin::nodes::list)),
    of(GET, "/admin/event-types/{name}/usage", || web::to(event_types::usage_here)),
    of(GET, "/admin/tokens", || web::to(admin::tokens::list)),
    of(POST, "/admin/tokens/{name}/{command}", || web::to(admin::tokens::revoke_token)),
    of(POST, "/admin/revocations", || web::to(admin::tokens::revoke)),
    of(DELETE, "/admin/revocations/{kind}/{value}", || web::to(admin::tokens::restore)),
    of(POST, "/admin/drain", || web::to(admin::drain)),
    of(DELETE, "/admin/drain", || web::to(admin::undrain)),
];

/// Those of builds for tests, below [`ADMIN`]. No document describes them.
#[cfg(feature = "fault-injection")]
pub const OF_FAULTS: &[Endpoint] =
    &[of(GET, "/admin/fault", || web::to(admin::faults)), of(POST, "/admin/fault/{name}", || web::to(admin::fault))];

/// The path in the tables above under which a request for `path` is answered: one of few, whatever is asked for.
pub fn pattern(path: &str) -> Option<&'static str> {
    let endpoints = if path.starts_with(ADMIN) { OF_OPERATORS } else { ENDPOINTS };
    endpoints.iter().map(|endpoint| endpoint.path).find(|pattern| is_like(path, pattern))
}

fn is_like(path: &str, pattern: &str) -> bool {
    let (mut segments, mut wanted) = (path.split('/'), pattern.split('/'));
    loop {
        match (segments.next(), wanted.next()) {
            (None, None) => return true,
            (Some(segment), Some(wanted)) if segment == wanted => {}
            (Some(segment), Some(wanted)) if wanted.starts_with('{') && !segment.is_empty() => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::protocol::documents::operations;

    #[test]
    fn the_document_describes_what_is_routed_and_nothing_else() {
        let rows = |endpoints: &'static [Endpoint]| {
            endpoints.iter().flat_map(move |Endpoint { methods, path, .. }| {
                // The document says once for all that HEAD is answered as GET.
                let methods = methods.iter().filter(|method| **method != Method::HEAD);
                methods.map(move |method| format!("{method} {path}"))
            })
        };
        let routed: BTreeSet<String> = rows(ENDPOINTS).chain(rows(OF_OPERATORS)).collect();
        let described: BTreeSet<String> = operations().iter().map(|operation| operation.on.clone()).collect();
        assert_eq!(routed, described);
        assert_eq!(described.len(), operations().len(), "an operation is described twice");
    }

    #[test]
    fn a_path_has_the_pattern_of_its_endpoint() {
        for endpoint in ENDPOINTS.iter().chain(OF_OPERATORS) {
            let path = endpoint.path.replace(['{', '}'], "");
            assert_eq!(pattern(&path), Some(endpoint.path));
        }
        for nowhere in
            ["", "/", "/nowhere", "/publish/", "/events/", "/events/1/2", "/administration", "/admin/", "/state/a/b/c"]
        {
            assert_eq!(pattern(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn rows_of_the_same_path_stand_together() {
        for endpoints in [ENDPOINTS, OF_OPERATORS] {
            let paths: Vec<&str> =
                endpoints.chunk_by(|one, other| one.path == other.path).map(|rows| rows[0].path).collect();
            assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), paths.len(), "{paths:?}");
        }
    }
}
