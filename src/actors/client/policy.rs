//! The policies of the dispatcher and of retries, as the options of a service say.

use std::time::Duration;

use crate::config::{BreakerWindow, DeliveryConfig};
use crate::domain::breaker::{BreakerPolicy, Window};
use crate::domain::dispatch::DispatchPolicy;
use crate::domain::priority::LanePolicy;
use crate::domain::rate::RateLimit;
use crate::domain::retry::{RetryBudgetPolicy, RetryDelays, RetrySchedule};

/// Deliveries in hand of each lane, for each request that may be in flight.
const IN_HAND_PER_FLIGHT: usize = 8;
/// The least number of deliveries in hand: as many as redrives and replays may have open.
const MIN_IN_HAND: usize = 256;
/// Deliveries in hand that wait behind another of their key.
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
            // A breaker that was closed for as long as it may stay open at most has shown that the service is well.
            stable_after: options.breaker_open_cap.get(),
            probes: options.breaker_probes,
            probe_timeout: options.breaker_probe_timeout.get(),
            slow_start: options.breaker_slow_start.get(),
        },
    }
}

/// A limit whose rate need not be a whole number.
fn limit(per_second: f64, burst: u32) -> RateLimit {
    const PARTS: u32 = 1_000;
    let tokens = (per_second * f64::from(PARTS)).round().max(1.0) as u32;
    RateLimit { tokens, per: Duration::from_secs(PARTS.into()), burst }
}
