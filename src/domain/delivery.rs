//! The states of a delivery (one event for one service), and what an attempt says about it.

use std::time::Duration;

/// Where a delivery stands, with its number in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum DeliveryState {
    /// Not attempted since it was made or reopened; due at once.
    Waiting = 0,
    /// Attempted, and due again later.
    Retrying = 1,
    /// The service took it. Only an operator's replay opens it again (DL-1).
    Delivered = 2,
    /// Given up. Only an operator's redrive or replay opens it again (DL-1).
    Dead = 3,
}

impl DeliveryState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Retrying, Self::Delivered, Self::Dead];

    /// The name on the wire. Only the client of the service knows which deliveries are `in_flight`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting | Self::Retrying => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// Reads the number in the store.
    pub fn from_store(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i16 == number)
    }

    /// Whether something is still to be done.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Retrying)
    }
}

/// Whether all deliveries of an event are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventStatus {
    /// No delivery is open or dead.
    Processed,
    /// Some delivery is outstanding, and none is dead.
    Pending,
    /// Some delivery is dead.
    Failed,
}

impl EventStatus {
    /// All statuses.
    pub const ALL: [Self; 3] = [Self::Processed, Self::Pending, Self::Failed];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Pending => "pending",
            Self::Failed => "failed",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Of an event whose deliveries are in these states.
    pub fn of(states: impl Iterator<Item = DeliveryState>) -> Self {
        let of_one = |state| match state {
            DeliveryState::Waiting | DeliveryState::Retrying => Self::Pending,
            DeliveryState::Delivered => Self::Processed,
            DeliveryState::Dead => Self::Failed,
        };
        states.map(of_one).max().unwrap_or(Self::Processed)
    }
}

/// Why a delivery was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// The service answered that it will never take it.
    Rejected,
    /// The last attempt allowed has failed.
    Exhausted,
    /// The request is longer than the service accepts.
    TooLarge,
    /// An operator has cancelled it.
    Cancelled,
}

impl DeadReason {
    /// The name in the store and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::TooLarge => "too_large",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What an attempt says about the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Try again, no sooner than the service asked for.
    Retry {
        retry_after: Option<Duration>,
    },
    /// Try again: the service is there, but not yet what it is asked for.
    NotYet,
    /// The service is overloaded and asks to wait this long. That says nothing about the delivery, and does not count
    /// against the service.
    PutOff(Duration),
    Dead(DeadReason),
    /// The service wants no more deliveries: it is to be paused, and the delivery kept.
    Gone,
}

impl Verdict {
    /// Whether the service has seen the request; else the attempt says nothing of it.
    pub fn was_sent(self) -> bool {
        !matches!(self, Self::Dead(DeadReason::TooLarge | DeadReason::Cancelled))
    }

    /// What the service asked for before the delivery is tried again.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Retry { retry_after } => retry_after,
            Self::PutOff(asked) => Some(asked),
            Self::Delivered | Self::NotYet | Self::Dead(_) | Self::Gone => None,
        }
    }

    /// Whether the circuit breaker counts it against the service. One that refuses a request is alive.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Retry { .. })
    }
}

/// Whether a service refuses in a way that says more of the service than of the event: the path is not there, or this
/// side may not use it.
pub fn is_refusal_of_all(status: u16) -> bool {
    matches!(status, 403 | 404)
}

/// Judges an answer. `retry_after` is what the service asked for, as far as that is applied; `spares_404` lets a
/// path that is not there be tried again.
///
/// Redirects are not followed: following could lead anywhere, so they are refusals. Whatever keeps an answer from
/// coming is a reason to try again.
pub fn classify(status: u16, retry_after: Option<Duration>, spares_404: bool) -> Verdict {
    match (status, retry_after) {
        (429 | 503, Some(asked)) if !asked.is_zero() => return Verdict::PutOff(asked),
        (404, _) if spares_404 => return Verdict::NotYet,
        _ => {}
    }
    match status {
        200..=299 => Verdict::Delivered,
        408 | 425 | 429 | 500..=599 => Verdict::Retry { retry_after },
        410 => Verdict::Gone,
        300..=499 => Verdict::Dead(DeadReason::Rejected),
        // Not an answer that HTTP knows.
        _ => Verdict::Retry { retry_after: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_the_store() {
        for (number, state) in DeliveryState::ALL.into_iter().enumerate() {
            assert_eq!(state as i16, number as i16);
            assert_eq!(DeliveryState::from_store(state as i16), Some(state));
            assert_eq!(state.is_open(), state.as_str() == "pending");
        }
        assert_eq!(DeliveryState::from_store(4), None);
    }

    #[test]
    fn every_status_has_the_verdict_of_the_contract() {
        let asked = Duration::from_secs(3);
        for retry_after in [None, Some(Duration::ZERO), Some(asked)] {
            for status in 0..=1_000 {
                let verdict = classify(status, retry_after, false);
                let expected = match status {
                    200..300 => Verdict::Delivered,
                    410 => Verdict::Gone,
                    429 | 503 if retry_after == Some(asked) => Verdict::PutOff(asked),
                    408 | 425 | 429 | 500..600 => Verdict::Retry { retry_after },
                    300..500 => Verdict::Dead(DeadReason::Rejected),
                    _ => Verdict::Retry { retry_after: None },
                };
                assert_eq!(verdict, expected, "status {status}");
                let alive = (200..500).contains(&status) && !matches!(status, 408 | 425 | 429);
                let is_failure = !alive && !matches!(verdict, Verdict::PutOff(_));
                assert_eq!(verdict.is_failure(), is_failure, "status {status}");
                let spared = classify(status, retry_after, true);
                assert_eq!(spared, if status == 404 { Verdict::NotYet } else { expected }, "status {status}");
            }
        }
        assert!(!Verdict::NotYet.is_failure());
    }
}
