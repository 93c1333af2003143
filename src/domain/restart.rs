//! Restart intensity: how often a child may fail before its supervisor gives up.
//!
//! After Erlang/OTP's supervisor principles: more than `max_restarts` within `within`
//! is not a fault to be healed by another restart, but one to be escalated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The limits of a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restarts allowed within the window; one more escalates.
    pub max_restarts: usize,
    pub within: Duration,
    /// Delay before the first restart of a window; doubles with each further one.
    pub backoff: Duration,
    pub backoff_cap: Duration,
}

/// What a supervisor does about a failed child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    RestartAfter(Duration),
    Escalate,
}

/// The recent failures of the children of one supervisor.
#[derive(Debug)]
pub struct RestartIntensity {
    policy: RestartPolicy,
    recent: VecDeque<Instant>,
}

impl RestartIntensity {
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, recent: VecDeque::with_capacity(policy.max_restarts + 1) }
    }

    /// Counts a failure at `now` and decides.
    pub fn on_failure(&mut self, now: Instant) -> Verdict {
        while self.recent.front().is_some_and(|t| now.duration_since(*t) > self.policy.within) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.policy.max_restarts {
            return Verdict::Escalate;
        }
        let doublings = u32::try_from(self.recent.len()).unwrap_or(u32::MAX).min(20);
        self.recent.push_back(now);
        let delay = self.policy.backoff.saturating_mul(1 << doublings);
        Verdict::RestartAfter(delay.min(self.policy.backoff_cap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        max_restarts: 3,
        within: Duration::from_secs(10),
        backoff: Duration::from_millis(10),
        backoff_cap: Duration::from_millis(30),
    };

    #[test]
    fn backs_off_then_escalates() {
        let now = Instant::now();
        let mut intensity = RestartIntensity::new(POLICY);
        let verdicts = [(); 4].map(|()| intensity.on_failure(now));
        let after = |ms| Verdict::RestartAfter(Duration::from_millis(ms));
        assert_eq!(verdicts, [after(10), after(20), after(30), Verdict::Escalate]);
    }

    #[test]
    fn forgets_failures_older_than_the_window() {
        let start = Instant::now();
        let mut intensity = RestartIntensity::new(POLICY);
        for k in 0..100 {
            let now = start + Duration::from_secs(6) * k;
            assert!(matches!(intensity.on_failure(now), Verdict::RestartAfter(_)), "failure {k}");
        }
    }
}
