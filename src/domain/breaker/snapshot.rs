//! A breaker as it is stored and shown.

use serde::{Deserialize, Serialize};

use super::window::Counts;
use crate::domain::event::Timestamp;

/// The state of a breaker, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
    ForcedOpen,
    ForcedClosed,
}

impl BreakerState {
    /// The name on the wire, in the store and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}

/// What operators see of a breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerFigures {
    pub state: BreakerState,
    /// The calls in the window.
    pub window: Counts,
    /// Failures in a row.
    pub consecutive: u32,
    /// How often it has opened without having been stable in between.
    pub openings: u32,
    pub open_until: Option<Timestamp>,
    pub probes_in_flight: usize,
}

/// The state of a breaker that is stored, and outlives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerSnapshot {
    pub state: BreakerState,
    pub open_until: Option<Timestamp>,
    /// When it closed after having been open.
    pub closed_at: Option<Timestamp>,
    pub openings: u32,
    pub consecutive: u32,
}

impl BreakerSnapshot {
    /// The same on a clock that is ahead by `lead` microseconds.
    pub fn on_clock_ahead(self, lead: i64) -> Self {
        let there = |at: Option<Timestamp>| at.map(|at| Timestamp(at.0.saturating_add(lead)));
        Self { open_until: there(self.open_until), closed_at: there(self.closed_at), ..self }
    }
}
