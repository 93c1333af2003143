//! Circuit breaker: whether a service may be called.
//!
//! ```text
//!            too many failed or slow              probes succeeded
//!   closed ───────────────────────────▶ open     ┌────────────────▶ closed, slowly
//!                                        │ time  │
//!                                        ▼       │
//!                                       half open ────────────────▶ open, for twice as long
//!                                                  a probe failed
//! ```
//!
//! An operator can force it open or closed from any state, and reset it. Each transition begins a new epoch.
//!
//! - CB-1: open admits none.
//! - CB-2: half open admits at most `probes` at once.
//! - CB-3: a result of an earlier epoch never counts.
//! - CB-4: only an operator changes a forced state.
//! - CB-5: it stays open for at least `open_base`, and less than `open_cap` and a quarter.

mod snapshot;
mod window;

use std::time::Duration;

use super::event::Timestamp;
use super::retry::doubled;
use super::slow_start::SlowStart;
pub use snapshot::{BreakerFigures, BreakerSnapshot, BreakerState};
use window::CallWindow;
pub use window::{Counts, Window};

/// When a breaker opens, and how it closes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// The calls that are judged.
    pub window: Window,
    /// Fewer calls than this are not judged by their rates.
    pub minimum_calls: u32,
    /// Opens at this share of failed calls, in percent; 0: never.
    pub failure_rate: u32,
    /// A call that takes as long as this is slow.
    pub slow_call_duration: Duration,
    /// Opens at this share of slow calls, in percent; 0: never.
    pub slow_call_rate: u32,
    /// Opens after so many failures in a row; 0: never.
    pub consecutive_failures: u32,
    /// How long it stays open; doubles each time it opens again without having been closed for `stable_after`.
    pub open_base: Duration,
    pub open_cap: Duration,
    pub stable_after: Duration,
    /// Probes at once while half open, and successes needed to close; at least one.
    pub probes: u32,
    /// A probe without a result after this has failed.
    pub probe_timeout: Duration,
    /// Once closed again, concurrency grows from one to its maximum in this time.
    pub slow_start: Duration,
}

/// A change of state, to be told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: BreakerState,
    pub to: BreakerState,
}

/// The right to make one call. It is recorded with the call's result, or released without one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit is recorded or released"]
pub struct Permit {
    epoch: u64,
    number: u64,
}

/// No call is permitted now. `retry_at` is when to ask again; none while only an operator can change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPermitted {
    pub retry_at: Option<Timestamp>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallResult {
    pub failed: bool,
    pub took: Duration,
}

#[derive(Debug)]
enum State {
    /// `since` is known if it was open before.
    Closed {
        since: Option<Timestamp>,
    },
    Open {
        until: Timestamp,
    },
    HalfOpen {
        probes: Vec<Probe>,
        results: Counts,
    },
    ForcedOpen,
    ForcedClosed,
}

/// A call under way while half open.
#[derive(Debug)]
struct Probe {
    number: u64,
    times_out: Timestamp,
}

/// The breaker of one service.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
    epoch: u64,
    /// Permits given so far.
    permits: u64,
    window: CallWindow,
    consecutive: u32,
    openings: u32,
}

impl Breaker {
    /// A closed breaker without any calls yet.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            state: State::Closed { since: None },
            epoch: 0,
            permits: 0,
            window: CallWindow::new(policy.window),
            consecutive: 0,
            openings: 0,
        }
    }

    /// A breaker as it was. What was half open has lost its probes, so it is open and due; what was open stays so
    /// until its time, or the longest time that `policy` would give it now; what was closed was so by now. The window
    /// starts anew.
    pub fn restore(snapshot: BreakerSnapshot, policy: BreakerPolicy, now: Timestamp) -> Self {
        let BreakerSnapshot { state, open_until, closed_at, openings, consecutive } = snapshot;
        let state = match state {
            BreakerState::Closed => State::Closed { since: closed_at.map(|since| since.min(now)) },
            BreakerState::Open => {
                let longest = spread(policy.open_cap.max(policy.open_base), 1.0);
                State::Open { until: open_until.unwrap_or(now).min(now.plus(longest)) }
            }
            BreakerState::HalfOpen => State::Open { until: now },
            BreakerState::ForcedOpen => State::ForcedOpen,
            BreakerState::ForcedClosed => State::ForcedClosed,
        };
        Self { state, openings, consecutive, ..Self::new(policy) }
    }

    /// Becomes as [`Self::restore`] would make it, or new, in a new epoch: what is under way says nothing of it (CB-3).
    pub fn replace(&mut self, snapshot: Option<BreakerSnapshot>, now: Timestamp) {
        let restored = match snapshot {
            Some(snapshot) => Self::restore(snapshot, self.policy, now),
            None => Self::new(self.policy),
        };
        *self = Self { epoch: self.epoch + 1, permits: self.permits, ..restored };
    }

    /// The state to store for [`Self::restore`].
    pub fn snapshot(&self) -> BreakerSnapshot {
        BreakerSnapshot {
            state: self.state(),
            open_until: self.open_until(),
            closed_at: self.closed_since(),
            openings: self.openings,
            consecutive: self.consecutive,
        }
    }

    /// The state by name.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::ForcedOpen => BreakerState::ForcedOpen,
            State::ForcedClosed => BreakerState::ForcedClosed,
        }
    }

    /// The figures at `now`.
    pub fn figures(&self, now: Timestamp) -> BreakerFigures {
        BreakerFigures {
            state: self.state(),
            window: self.window.counts(now),
            consecutive: self.consecutive,
            openings: self.openings,
            open_until: self.open_until(),
            probes_in_flight: match &self.state {
                State::HalfOpen { probes, .. } => probes.len(),
                State::Closed { .. } | State::Open { .. } | State::ForcedOpen | State::ForcedClosed => 0,
            },
        }
    }

    /// When [`Self::tick`] will have something to do, if nothing else happens.
    pub fn due(&self) -> Option<Timestamp> {
        match &self.state {
            State::Open { until } => Some(*until),
            State::HalfOpen { probes, .. } => probes.iter().map(|probe| probe.times_out).min(),
            State::Closed { .. } | State::ForcedOpen | State::ForcedClosed => None,
        }
    }

    /// Makes the transition that is due: an open breaker becomes half open, or a half-open one opens again because a
    /// probe gave no result in time.
    pub fn tick(&mut self, now: Timestamp, jitter: f64) -> Option<Transition> {
        self.due().filter(|due| *due <= now)?;
        match self.state {
            State::Open { .. } => Some(self.turn(State::HalfOpen { probes: Vec::new(), results: Counts::default() })),
            State::HalfOpen { .. } => Some(self.open(now, jitter)),
            State::Closed { .. } | State::ForcedOpen | State::ForcedClosed => None,
        }
    }

    /// Whether a call would be permitted. The answer is good after a [`Self::tick`] at the same instant.
    pub fn check(&self) -> Result<(), NotPermitted> {
        match &self.state {
            State::Closed { .. } | State::ForcedClosed => Ok(()),
            State::HalfOpen { probes, .. } if probes.len() < self.probes() as usize => Ok(()),
            State::Open { .. } | State::HalfOpen { .. } | State::ForcedOpen => {
                Err(NotPermitted { retry_at: self.due() })
            }
        }
    }

    /// Permits a call that begins at `now`.
    pub fn acquire(&mut self, now: Timestamp) -> Result<Permit, NotPermitted> {
        self.check()?;
        self.permits += 1;
        let number = self.permits;
        if let State::HalfOpen { probes, .. } = &mut self.state {
            probes.push(Probe { number, times_out: now.plus(self.policy.probe_timeout) });
        }
        Ok(Permit { epoch: self.epoch, number })
    }

    /// Releases a permit whose call said nothing about the service.
    pub fn release(&mut self, permit: Permit) {
        if let State::HalfOpen { probes, .. } = &mut self.state {
            probes.retain(|probe| probe.number != permit.number);
        }
    }

    /// Counts the result of a call.
    pub fn record(&mut self, permit: Permit, call: CallResult, now: Timestamp, jitter: f64) -> Option<Transition> {
        if permit.epoch != self.epoch {
            return None;
        }
        let slow = call.took >= self.policy.slow_call_duration;
        self.consecutive = if call.failed { self.consecutive.saturating_add(1) } else { 0 };
        self.window.record(call.failed, slow, now);
        let enough = self.probes();
        match &mut self.state {
            State::Closed { .. } => self.must_open(now).then(|| self.open(now, jitter)),
            State::HalfOpen { .. } if call.failed => Some(self.open(now, jitter)),
            State::HalfOpen { probes, results } => {
                probes.retain(|probe| probe.number != permit.number);
                results.add(call.failed, slow);
                if results.calls < enough {
                    return None;
                }
                let still_slow = results.slow_rate() >= share(self.policy.slow_call_rate);
                Some(if still_slow { self.open(now, jitter) } else { self.close(Some(now)) })
            }
            // Calls of an open epoch do not exist; those of a forced one are only counted.
            State::Open { .. } | State::ForcedOpen | State::ForcedClosed => None,
        }
    }

    /// Permits no call until an operator changes that.
    pub fn force_open(&mut self) -> Option<Transition> {
        (self.state() != BreakerState::ForcedOpen).then(|| self.turn(State::ForcedOpen))
    }

    /// Permits every call, whatever its result, until an operator changes that.
    pub fn force_close(&mut self) -> Option<Transition> {
        (self.state() != BreakerState::ForcedClosed).then(|| self.turn(State::ForcedClosed))
    }

    /// Closes it, and forgets everything before.
    pub fn reset(&mut self) -> Option<Transition> {
        self.openings = 0;
        let transition = self.close(None);
        (transition.from != transition.to).then_some(transition)
    }

    /// How many calls may be under way at once, if `max` may when all is well: slow start.
    pub fn concurrency(&self, now: Timestamp, max: usize) -> usize {
        self.slow_start().map_or(max, |start| start.allowed(now, max))
    }

    /// When slow start will allow more than it does at `now`.
    pub fn grows_at(&self, now: Timestamp, max: usize) -> Option<Timestamp> {
        self.slow_start()?.grows_at(now, max)
    }

    fn slow_start(&self) -> Option<SlowStart> {
        Some(SlowStart { since: self.closed_since()?, takes: self.policy.slow_start })
    }

    fn closed_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Closed { since } => since,
            State::Open { .. } | State::HalfOpen { .. } | State::ForcedOpen | State::ForcedClosed => None,
        }
    }

    fn open_until(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } | State::ForcedOpen | State::ForcedClosed => None,
        }
    }

    fn probes(&self) -> u32 {
        self.policy.probes.max(1)
    }

    fn must_open(&self, now: Timestamp) -> bool {
        let BreakerPolicy { minimum_calls, failure_rate, slow_call_rate, consecutive_failures, .. } = self.policy;
        if consecutive_failures > 0 && self.consecutive >= consecutive_failures {
            return true;
        }
        let counts = self.window.counts(now);
        let judged = match self.policy.window {
            Window::Calls(calls) => counts.calls >= minimum_calls.min(calls.max(1)),
            Window::Time(_) => counts.calls >= minimum_calls,
        };
        judged && (counts.failure_rate() >= share(failure_rate) || counts.slow_rate() >= share(slow_call_rate))
    }

    fn open(&mut self, now: Timestamp, jitter: f64) -> Transition {
        if self.closed_since().is_some_and(|since| now.since(since) >= self.policy.stable_after) {
            self.openings = 0;
        }
        let base = self.policy.open_base;
        let span = doubled(base, self.openings, self.policy.open_cap.max(base));
        self.openings = self.openings.saturating_add(1);
        self.turn(State::Open { until: now.plus(spread(span, jitter)) })
    }

    fn close(&mut self, since: Option<Timestamp>) -> Transition {
        self.consecutive = 0;
        self.window = CallWindow::new(self.policy.window);
        self.turn(State::Closed { since })
    }

    fn turn(&mut self, to: State) -> Transition {
        let from = self.state();
        self.state = to;
        self.epoch += 1;
        Transition { from, to: self.state() }
    }
}

/// `span`, longer by up to a quarter.
fn spread(span: Duration, jitter: f64) -> Duration {
    span.saturating_add(span.mul_f64(jitter.clamp(0.0, 1.0) / 4.0))
}

/// A rate in percent to compare with; 0 is never reached.
fn share(percent: u32) -> f64 {
    if percent == 0 { f64::INFINITY } else { f64::from(percent) }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
