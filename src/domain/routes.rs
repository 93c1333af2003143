//! Which services an event is to be delivered to.

use bytestring::ByteString;
use smallvec::SmallVec;

use super::event::{Event, NewEvent};
use super::filter::{Candidates, Document, Failure, Filter, FilterId, FilterSet};
use super::index::PatternIndex;
use super::pattern::Pattern;

/// The number of a service in the store.
pub type ServiceId = i16;

/// Which events: those of a pattern, or of them those whose payload passes a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub event: Pattern,
    pub filter: Option<Filter>,
}

/// The routes of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub service: ServiceId,
    /// The selectors; an event matches if any of them does.
    pub selectors: Vec<Selector>,
    /// The service's own names as a source: it gets no events of these sources.
    pub own_sources: Vec<ByteString>,
}

/// The routes of all services; the cost of a look-up does not depend on the routes that do not match.
#[derive(Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
    index: PatternIndex,
    /// By topic of the index: places in `routes`, and what the payload has to pass.
    subscribers: Vec<Vec<(usize, Option<FilterId>)>>,
    filters: FilterSet,
}

impl Selector {
    /// Everything that `event` matches.
    pub fn all_of(event: Pattern) -> Self {
        Self { event, filter: None }
    }

    /// The first condition of the filter that `payload` does not fulfil; none if it is selected.
    pub fn first_failure(&self, payload: &str) -> Option<Failure> {
        self.filter.as_ref().and_then(|filter| filter.first_failure(payload))
    }
}

impl Route {
    /// Whether a replay may send `event`: not what the service has published itself, nor what the filters of all
    /// selectors that match its name keep back. What matches none of them was asked for by name.
    pub fn allows_replay_of(&self, event: &Event) -> bool {
        let own = self.own_sources.contains(&event.source);
        let mut named = self.selectors.iter().filter(|selector| selector.event.matches(&event.name)).peekable();
        let passes = |selector: &Selector| selector.filter.as_ref().is_none_or(|filter| filter.matches(&event.payload));
        !own && (named.peek().is_none() || named.any(passes))
    }
}

impl Routes {
    pub fn new(routes: Vec<Route>) -> Self {
        let mut made = Self::default();
        for (at, route) in routes.iter().enumerate() {
            for Selector { event, filter } in &route.selectors {
                let topic = made.index.insert(event);
                made.subscribers.resize_with(made.subscribers.len().max(topic + 1), Vec::new);
                let filter = filter.as_ref().map(|filter| made.filters.insert(filter));
                made.subscribers[topic].push((at, filter));
            }
        }
        made.routes = routes;
        made
    }

    /// Whether no service is configured.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Adds the routes of `service`.
    pub fn of(&self, service: ServiceId) -> Option<&Route> {
        self.routes.iter().find(|route| route.service == service)
    }

    /// Calls `found` for every service that is to get `event`, each once. Reads its payload only if a filter depends
    /// on it, and then once.
    pub fn for_each_service(&self, event: &NewEvent, mut found: impl FnMut(ServiceId)) {
        if self.is_empty() {
            return;
        }
        let mut seen: SmallVec<[usize; 8]> = SmallVec::new();
        let mut passed: Option<Vec<FilterId>> = None;
        self.index.for_each_match(&event.name, |topic| {
            for &(at, filter) in &self.subscribers[topic] {
                let route = &self.routes[at];
                let own = route.own_sources.contains(&event.source);
                if own || seen.contains(&at) {
                    continue;
                }
                let mut passes = |filter| passed.get_or_insert_with(|| self.passed(&event.payload)).contains(&filter);
                if filter.is_none_or(&mut passes) {
                    seen.push(at);
                    found(route.service);
                }
            }
        });
    }

    fn passed(&self, payload: &str) -> Vec<FilterId> {
        let mut passed = Vec::new();
        let document = Document::for_sets(payload, std::iter::once(&self.filters));
        self.filters.for_each_passing(&document, &mut Candidates::default(), |filter| passed.push(filter));
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{DEFAULT_SOURCE, Timestamp};

    fn event(name: &str, source: ByteString) -> NewEvent {
        NewEvent { source, ..NewEvent::plain(name, "{}") }
    }

    fn route(service: ServiceId, name: &str, patterns: &[&str], echo: bool) -> Route {
        let selectors =
            patterns.iter().map(|p| Selector::all_of(Pattern::parse((*p).to_owned()).expect("a pattern"))).collect();
        let own_sources = if echo { Vec::new() } else { vec![name.to_owned().into()] };
        Route { service, selectors, own_sources }
    }

    fn filtered(pattern: &str, filter: &str) -> Selector {
        let filter = Filter::parse(filter).expect("a filter");
        Selector { filter: Some(filter), ..Selector::all_of(Pattern::parse(pattern.to_owned()).expect("a pattern")) }
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

    #[test]
    fn filters_decide_which_events_of_a_pattern() {
        let mut large = route(1, "large", &["user.>"], false);
        large.selectors.push(filtered("order.*", r#"{"amount":[{"numeric":[">",100]}]}"#));
        large.selectors.push(filtered("order.paid", r#"{"vip":true}"#));
        let routes = Routes::new(vec![large.clone(), route(2, "all", &[">"], false)]);
        let got = |name, payload: &'static str| {
            services(&routes, &NewEvent { payload: payload.into(), ..event(name, DEFAULT_SOURCE) })
        };
        let replayed = |name, payload: &'static str| {
            let event = NewEvent { payload: payload.into(), ..event(name, DEFAULT_SOURCE) };
            large.allows_replay_of(&Event::stored(event, 1, Timestamp(0)))
        };
        for (name, payload, wanted) in [
            ("order.paid", r#"{"amount":101}"#, true),
            ("order.paid", r#"{"amount":100,"vip":true}"#, true),
            ("order.paid", r#"{"amount":100}"#, false),
            ("order.made", r#"{"amount":100,"vip":true}"#, false),
            ("user.made", "{}", true),
        ] {
            assert_eq!(got(name, payload).contains(&1), wanted, "{name} {payload}");
            assert_eq!(replayed(name, payload), wanted, "{name} {payload}");
            assert!(got(name, payload).contains(&2), "{name} {payload}");
        }
        assert!(got("other", "{}") == [2] && replayed("other", "{}"), "replays may go beyond the routes");
    }
}
