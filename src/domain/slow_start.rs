//! Slow start: after an outage the concurrency of a service grows steadily from one to its maximum.

use std::time::Duration;

use super::event::Timestamp;

/// Concurrency that grows from one to its maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowStart {
    pub since: Timestamp,
    pub takes: Duration,
}

impl SlowStart {
    /// How many calls may be under way at once, if `max` may when all is well.
    pub fn allowed(self, now: Timestamp, max: usize) -> usize {
        let (passed, whole) = (now.since(self.since).as_micros(), self.takes.as_micros());
        if passed >= whole || max <= 1 {
            return max;
        }
        1 + ((max - 1) as u128 * passed / whole) as usize
    }

    /// When more calls are allowed than at `now`; none once `max` are.
    pub fn grows_at(self, now: Timestamp, max: usize) -> Option<Timestamp> {
        let allowed = self.allowed(now, max);
        if allowed >= max {
            return None;
        }
        let step = (self.takes.as_micros() * allowed as u128).div_ceil((max - 1) as u128);
        Some(self.since.plus(Duration::from_micros(u64::try_from(step).unwrap_or(u64::MAX))))
    }
}
