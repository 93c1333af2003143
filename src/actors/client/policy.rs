//! From the options of a service to the policies of its machines.

use std::time::Duration;

use crate::config::{BreakerWindow, DeliveryConfig};
use crate::domain::breaker::{BreakerPolicy, Window};
use crate::domain::dispatch::DispatchPolicy;
use crate::domain::priority::LanePolicy;
use crate::domain::rate::RateLimit;
use crate::domain::retry::{RetryBudgetPolicy, RetryDelays, RetrySchedule};

/// Deliveries in hand of each lane, for each that may be in flight.
const IN_HAND_PER_FLIGHT: usize = 8;
/// At least as many as may be open of redrives and replays.
const MIN_IN_HAND: usize = 256;
/// Deliveries in hand behind another of their key.
const BEHIND: usize = 32;

/// When failed deliveries are tried again.
pub fn retry_schedule(options: &DeliveryConfig) -> RetrySchedule {
    let delays = if options.retry_delays.is_empty() {
        RetryDelays::Exponential { base: options.retry_base.get(), cap: options.retry_cap.get() }
    } else {
        RetryDelays::Listed(options.retry_delays.iter().map(|delay| delay.get()).collect())
    };
    RetrySchedule { delays, max_attempts: options.max_attempts, retry_after_cap: options.retry_after_cap.get() }
}

pub(super) fn dispatch_policy(options: &DeliveryConfig) -> DispatchPolicy {
    let rate = (options.rate > 0.0).then(|| {
        let burst = if options.burst > 0 { options.burst } else { options.rate.ceil().max(1.0) as u32 };
        limit(options.rate, burst)
    });
    let minimum = options.retry_budget_min;
    DispatchPolicy {
        concurrency: options.concurrency,
        in_hand: (options.concurrency * IN_HAND_PER_FLIGHT).max(MIN_IN_HAND),
        behind: BEHIND,
        rate,
        retries: RetryBudgetPolicy {
            percent: (options.retry_budget * 100.0).round() as u32,
            minimum: limit(minimum, minimum.ceil().max(1.0) as u32),
        },
        lanes: LanePolicy { age_limit: options.priority_age.get(), ..LanePolicy::default() },
        breaker: BreakerPolicy {
            window: match options.breaker_window {
                BreakerWindow::Calls(calls) => Window::Calls(calls),
                BreakerWindow::Time(span) => Window::Time(span.get()),
            },
            minimum_calls: options.breaker_minimum_calls,
            failure_rate: options.breaker_failure_rate,
            slow_call_duration: options.breaker_slow_call.map_or(Duration::MAX, |span| span.get()),
            slow_call_rate: if options.breaker_slow_call.is_some() { options.breaker_slow_rate } else { 0 },
            consecutive_failures: options.breaker_consecutive,
            open_base: options.breaker_open_for.get(),
            open_cap: options.breaker_open_cap.get(),
            // As long as it may stay open at most: what is closed for that long has shown that it is well.
            stable_after: options.breaker_open_cap.get(),
            probes: options.breaker_probes,
            probe_timeout: options.breaker_probe_timeout.get(),
            slow_start: options.breaker_slow_start.get(),
        },
    }
}

/// A rate that need not be whole.
fn limit(per_second: f64, burst: u32) -> RateLimit {
    const PARTS: u32 = 1_000;
    let tokens = (per_second * f64::from(PARTS)).round().max(1.0) as u32;
    RateLimit { tokens, per: Duration::from_secs(PARTS.into()), burst }
}
