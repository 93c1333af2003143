//! What a client tells of its service: the events `$sys.service.*`.

use serde_json::json;

use super::Client;
use super::writes::ToStore;
use crate::domain::breaker::{BreakerState, Transition};
use crate::domain::event::NewEvent;

/// What made the breaker change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// To deliver an event of a publisher.
    Attempt,
    /// To deliver an event that the Event Handler itself has published.
    OwnEvent,
    Time,
    Operator,
}

/// The state of the breaker as events tell it: whether an operator has forced it is not told.
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

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    breaker: ToldState,
    /// Whether something is left that was there while the breaker was open.
    recovering: bool,
}

impl Told {
    /// Goes on from what is stored.
    pub(super) fn adopt(&mut self, breaker: BreakerState, recovering: bool) {
        *self = Self { breaker: breaker.into(), recovering };
    }

    pub(super) fn resumed(&mut self) {
        self.recovering = true;
    }

    /// Nothing is left of what has waited: true if that is to be told.
    pub(super) fn recovered(&mut self) -> bool {
        std::mem::take(&mut self.recovering)
    }

    /// What is to be told of a change of the breaker. Events that tell of it may themselves be delivered to services
    /// that fail; so what they cause is not told by further events, nor what only time has caused beyond the first time:
    /// for each attempt of a publisher's event, there is a bounded number of them.
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
    /// A change of the breaker: to be told, and kept, by who holds the service.
    pub(super) fn turned(&mut self, transition: Transition, cause: Cause) {
        if !self.lease.is_held() {
            return;
        }
        self.kept.changed();
        let Transition { from, to } = transition;
        self.metrics.turned(to);
        let level = if ToldState::from(to) == ToldState::Open { log::Level::Warn } else { log::Level::Info };
        log::log!(level, service = self.name(), from = from.as_str(), to = to.as_str(); "circuit breaker");
        let Some(happened) = self.told.turned(to, cause) else { return };
        let figures = self.dispatcher.breaker().figures(self.clock.now());
        let until = figures.open_until.map(|until| self.clock.time_of_day(until).to_string());
        self.announce(
            happened,
            json!({ "from": from.as_str(), "to": to.as_str(), "open_until": until, "openings": figures.openings }),
        );
    }

    /// `$sys.service.<happened>`.
    pub(super) fn announce(&mut self, happened: &str, mut payload: serde_json::Value) {
        payload["service"] = self.name().into();
        payload["pending"] = self.parts.slot.pending_total().into();
        let event = NewEvent::own(&format!("$sys.service.{happened}"), payload.to_string());
        self.writes.push(ToStore::Event(event));
    }
}
