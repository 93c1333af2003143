//! What a client publishes of its service: the events `$sys.service.*`.

use serde_json::json;

use super::Client;
use super::writes::ToStore;
use crate::actors::synchronizer::messages::Demand;
use crate::domain::breaker::{BreakerState, Transition};
use crate::domain::event::NewEvent;

/// What made the breaker change its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// An attempt to deliver an event of a publisher.
    Attempt,
    /// An attempt to deliver an event that the Event Handler itself has published.
    OwnEvent,
    Time,
    Operator,
}

/// The state of the breaker as events name it. They do not say whether an operator has forced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ToldState {
    #[default]
    Closed,
    HalfOpen,
    Open,
}

impl From<BreakerState> for ToldState {
    fn from(state: BreakerState) -> Self {
        match state {
            BreakerState::Open | BreakerState::ForcedOpen => Self::Open,
            BreakerState::HalfOpen => Self::HalfOpen,
            BreakerState::Closed | BreakerState::ForcedClosed => Self::Closed,
        }
    }
}

/// What the last events have said.
#[derive(Debug, Default)]
pub(super) struct Told {
    breaker: ToldState,
    /// Whether deliveries may still be waiting that came while the breaker was open or the service paused.
    recovering: bool,
}

impl Told {
    /// Begins with the stored state.
    pub(super) fn adopt(&mut self, breaker: BreakerState, recovering: bool) {
        *self = Self { breaker: breaker.into(), recovering };
    }

    pub(super) fn resumed(&mut self) {
        self.recovering = true;
    }

    /// Nothing waits any more. True if an event is to say so.
    pub(super) fn recovered(&mut self) -> bool {
        std::mem::take(&mut self.recovering)
    }

    /// The event that a change of the breaker is to publish, if any. Such an event may itself be delivered to a service
    /// that fails. So a change that the delivery of an own event has caused publishes no further event, and a change
    /// that only time has caused publishes one once. The number of these events is therefore bounded for each attempt
    /// to deliver a publisher's event.
    fn turned(&mut self, to: BreakerState, cause: Cause) -> Option<&'static str> {
        let to = ToldState::from(to);
        let (happened, is_told) = match to {
            ToldState::Open => ("opened", cause != Cause::OwnEvent),
            ToldState::HalfOpen => ("half_open", self.breaker == ToldState::Open),
            ToldState::Closed => ("closed", cause == Cause::Operator || self.breaker != ToldState::Closed),
        };
        is_told.then(|| {
            self.breaker = to;
            self.recovering |= to == ToldState::Open;
            happened
        })
    }
}

impl Client {
    /// The breaker has changed its state. Only the holder of the lease publishes that, and stores it.
    pub(super) fn turned(&mut self, transition: Transition, cause: Cause) {
        if !self.lease.is_held() {
            return;
        }
        self.kept.changed();
        let Transition { from, to } = transition;
        self.metrics.turned(to);
        let level = if ToldState::from(to) == ToldState::Open { log::Level::Warn } else { log::Level::Info };
        log::log!(level, service = self.name(), from = from.as_str(), to = to.as_str(); "circuit breaker");
        if ToldState::from(to) == ToldState::Closed && ToldState::from(from) != ToldState::Closed {
            self.synchronize(Demand::Recovered);
        }
        let Some(happened) = self.told.turned(to, cause) else { return };
        let figures = self.dispatcher.breaker().figures(self.clock.now());
        let until = figures.open_until.map(|until| self.clock.time_of_day(until).to_string());
        self.announce(
            happened,
            json!({ "from": from.as_str(), "to": to.as_str(), "open_until": until, "openings": figures.openings }),
        );
    }

    /// Publishes `$sys.service.<happened>`.
    pub(super) fn announce(&mut self, happened: &str, mut payload: serde_json::Value) {
        payload["service"] = self.name().into();
        payload["pending"] = self.parts.slot.pending_total().into();
        let event = NewEvent::own(&format!("$sys.service.{happened}"), payload.to_string());
        self.writes.push(ToStore::Event(event));
    }
}
