//! Which services an event is to be delivered to.

use bytestring::ByteString;
use smallvec::SmallVec;

use super::event::NewEvent;
use super::index::PatternIndex;
use super::pattern::Pattern;

/// The number of a service in the store.
pub type ServiceId = i16;

/// What one service wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub service: ServiceId,
    pub name: ByteString,
    /// Any of these.
    pub patterns: Vec<Pattern>,
    /// Whether it also gets the events whose source is its own name.
    pub echo: bool,
}

/// The routes of all services; the cost of a look-up does not depend on the routes that do not match.
#[derive(Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
    index: PatternIndex,
    /// By topic of the index: places in `routes`.
    subscribers: Vec<Vec<usize>>,
}

impl Routes {
    pub fn new(routes: Vec<Route>) -> Self {
        let mut made = Self::default();
        for (at, route) in routes.iter().enumerate() {
            for pattern in &route.patterns {
                let topic = made.index.insert(pattern);
                made.subscribers.resize_with(made.subscribers.len().max(topic + 1), Vec::new);
                made.subscribers[topic].push(at);
            }
        }
        made.routes = routes;
        made
    }

    /// Whether no service is configured.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The source whose events `service` is not to get, because it is itself that source.
    pub fn own_source(&self, service: ServiceId) -> Option<&str> {
        let route = self.routes.iter().find(|route| route.service == service && !route.echo)?;
        Some(&route.name)
    }

    /// Calls `found` for every service that is to get `event`, each once.
    pub fn for_each_service(&self, event: &NewEvent, mut found: impl FnMut(ServiceId)) {
        if self.is_empty() {
            return;
        }
        let mut seen: SmallVec<[usize; 8]> = SmallVec::new();
        self.index.for_each_match(&event.name, |topic| {
            for &at in &self.subscribers[topic] {
                let route = &self.routes[at];
                let own = !route.echo && route.name == event.source;
                if !own && !seen.contains(&at) {
                    seen.push(at);
                    found(route.service);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{DEFAULT_SOURCE, Priority};
    use crate::domain::name::EventName;

    fn event(name: &str, source: ByteString) -> NewEvent {
        NewEvent {
            name: EventName::parse(name.to_owned()).expect("a name"),
            payload: "{}".into(),
            source,
            priority: Priority::Normal,
            key: None,
            metadata: None,
            traceparent: None,
            idempotency: None,
        }
    }

    fn route(service: ServiceId, name: &str, patterns: &[&str], echo: bool) -> Route {
        let patterns = patterns.iter().map(|p| Pattern::parse((*p).to_owned()).expect("a pattern")).collect();
        Route { service, name: name.to_owned().into(), patterns, echo }
    }

    fn services(routes: &Routes, event: &NewEvent) -> Vec<ServiceId> {
        let mut found = Vec::new();
        routes.for_each_service(event, |service| found.push(service));
        found.sort_unstable();
        found
    }

    #[test]
    fn finds_each_service_once_and_spares_it_its_own_events() {
        let routes = Routes::new(vec![
            route(1, "all", &[">"], false),
            route(2, "bids", &["auction.*.bid", "auction.>"], false),
            route(3, "mirror", &["auction.>"], true),
            route(4, "watch", &["$sys.>"], false),
        ]);
        assert_eq!(services(&routes, &event("auction.7.bid", DEFAULT_SOURCE)), [1, 2, 3]);
        assert_eq!(services(&routes, &event("auction.7.bid", "bids".into())), [1, 3]);
        assert_eq!(services(&routes, &event("auction.7.bid", "mirror".into())), [1, 2, 3]);
        assert_eq!(services(&routes, &event("user.created", "all".into())), [0; 0]);
        assert_eq!(services(&routes, &event("$sys.service.opened", DEFAULT_SOURCE)), [4]);
    }
}
