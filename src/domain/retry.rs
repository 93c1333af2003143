//! When a failed delivery is tried again, and how many of the attempts may be such second tries.

use std::time::Duration;

use super::event::Timestamp;
use super::rate::{RateLimit, TokenBucket};

/// The pauses between the attempts of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryDelays {
    /// Full jitter: anything from nothing to `base · 2^(n-1)`, at most `cap`, after the n-th attempt. Attempts that
    /// failed together are spread over the whole span.
    Exponential { base: Duration, cap: Duration },
    /// Exactly these waits; there is no attempt after the last of them.
    Listed(Vec<Duration>),
}

/// How long and how often a delivery is retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    pub delays: RetryDelays,
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// The longest `Retry-After` that is applied.
    pub retry_after_cap: Duration,
}

/// What to do about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryVerdict {
    After(Duration),
    /// There is no further attempt.
    Exhausted,
}

impl RetrySchedule {
    /// Decides after `attempts_made` failed attempts (the first included). What the service asked for in `Retry-After`
    /// is a lower bound, as far as it is [applied](Self::applied); `jitter` is in `[0, 1)`.
    pub fn next(&self, attempts_made: u32, retry_after: Option<Duration>, jitter: f64) -> RetryVerdict {
        if attempts_made >= self.max_attempts {
            return RetryVerdict::Exhausted;
        }
        let earlier = attempts_made.saturating_sub(1);
        let delay = match &self.delays {
            RetryDelays::Exponential { base, cap } => doubled(*base, earlier, *cap).mul_f64(jitter.clamp(0.0, 1.0)),
            RetryDelays::Listed(delays) => match delays.get(earlier as usize) {
                Some(delay) => *delay,
                None => return RetryVerdict::Exhausted,
            },
        };
        RetryVerdict::After(delay.max(self.applied(retry_after).unwrap_or_default()))
    }

    /// The part of the wait asked for in `Retry-After` that is applied: at most the cap.
    pub fn applied(&self, retry_after: Option<Duration>) -> Option<Duration> {
        retry_after.map(|asked| asked.min(self.retry_after_cap))
    }

    /// No retry waits longer.
    pub fn longest(&self) -> Duration {
        let longest = match &self.delays {
            RetryDelays::Exponential { cap, .. } => *cap,
            RetryDelays::Listed(delays) => delays.iter().copied().max().unwrap_or_default(),
        };
        longest.max(self.retry_after_cap)
    }
}

/// `base · 2^times`, at most `cap`.
pub(super) fn doubled(base: Duration, times: u32, cap: Duration) -> Duration {
    base.saturating_mul(1 << times.min(31)).min(cap)
}

/// The share of retries among the attempts that reach one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudgetPolicy {
    /// Retries that each hundred first attempts pay for.
    pub percent: u32,
    /// The rate that is always allowed, so that retries go on without first attempts; never 0.
    pub minimum: RateLimit,
}

/// Keeps retries from multiplying the load of a service that fails under its load: over any span they are at most a
/// share of the first attempts, plus the minimum rate and its burst (RB-1). Further retries wait; none is dropped.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    percent: u32,
    bucket: TokenBucket,
}

impl RetryBudget {
    pub fn new(policy: RetryBudgetPolicy, now: Timestamp) -> Self {
        Self { percent: policy.percent, bucket: TokenBucket::new(policy.minimum, now) }
    }

    /// Notes a first attempt, which adds its share to the budget.
    pub fn on_first_attempt(&mut self) {
        self.bucket.deposit(self.percent);
    }

    /// Whether a retry may be made at `now`; if not, when one may at the latest.
    pub fn check(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.bucket.check(now)
    }

    /// Takes the right to one retry, or says when to ask again.
    pub fn try_take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        self.bucket.try_take(now)
    }

    /// Returns the right to a retry that was not made.
    pub fn refund(&mut self) {
        self.bucket.deposit(100);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn exponential() -> RetrySchedule {
        let delays = RetryDelays::Exponential { base: SECOND, cap: SECOND * 60 };
        RetrySchedule { delays, max_attempts: 12, retry_after_cap: SECOND * 3_600 }
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let schedule = exponential();
        let delay = |attempts| match schedule.next(attempts, None, 0.5) {
            RetryVerdict::After(delay) => delay.as_millis(),
            RetryVerdict::Exhausted => 0,
        };
        assert_eq!([1, 2, 3, 6, 7, 11, 12].map(delay), [500, 1_000, 2_000, 16_000, 30_000, 30_000, 0]);
    }

    #[test]
    fn a_list_ends_with_its_last_delay() {
        let delays = RetryDelays::Listed(vec![SECOND, SECOND * 5]);
        let schedule = RetrySchedule { delays, ..exponential() };
        let verdicts = [1, 2, 3].map(|attempts| schedule.next(attempts, None, 0.9));
        assert_eq!(verdicts, [RetryVerdict::After(SECOND), RetryVerdict::After(SECOND * 5), RetryVerdict::Exhausted]);
    }

    #[test]
    fn retries_go_on_without_first_attempts() {
        let minimum = RateLimit::per_second(0, 0);
        let mut budget = RetryBudget::new(RetryBudgetPolicy { percent: 0, minimum }, Timestamp(0));
        assert_eq!(budget.try_take(Timestamp(0)), Ok(()));
        assert_eq!(budget.try_take(Timestamp(0)), Err(Timestamp(1_000_000)));
        budget.refund();
        assert_eq!(budget.try_take(Timestamp(0)), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Within the span of its ceiling, never before `Retry-After`, which is applied only up to its cap.
        #[test]
        fn delays_keep_their_bounds(
            base in 0..100_000u64, cap in 0..10_000_000u64, attempts in 0..u32::MAX,
            asked in prop::option::of(0..u64::MAX), asked_cap in 0..10_000_000u64, jitter in 0.0..1.0f64,
        ) {
            let [base, cap, asked_cap] = [base, cap, asked_cap].map(Duration::from_millis);
            let asked = asked.map(Duration::from_millis);
            let schedule = RetrySchedule {
                delays: RetryDelays::Exponential { base, cap }, max_attempts: u32::MAX, retry_after_cap: asked_cap,
            };
            let verdict = schedule.next(attempts, asked, jitter);
            let RetryVerdict::After(delay) = verdict else { panic!("exhausted") };
            prop_assert!(delay >= asked.unwrap_or_default().min(asked_cap));
            prop_assert!(delay <= cap.max(asked_cap));
        }

        /// RB-1 from the beginning on.
        #[test]
        fn retries_stay_within_their_share(
            percent in 0..100u32, rate in 1..20u32, burst in 1..20u32,
            steps in prop::collection::vec((any::<bool>(), 0..200_000i64), 0..300),
        ) {
            let mut now = Timestamp(0);
            let policy = RetryBudgetPolicy { percent, minimum: RateLimit::per_second(rate, burst) };
            let mut budget = RetryBudget::new(policy, now);
            let (mut firsts, mut retries) = (0.0, 0.0);
            for (first, gap) in steps {
                now.0 += gap;
                if first {
                    budget.on_first_attempt();
                    firsts += 1.0;
                } else {
                    match budget.try_take(now) {
                        Ok(()) => retries += 1.0,
                        Err(later) => prop_assert!(later > now && budget.check(later).is_ok()),
                    }
                }
                let allowed = firsts * f64::from(percent) / 100.0
                    + f64::from(burst) + f64::from(rate) * now.0 as f64 / 1e6;
                prop_assert!(retries <= allowed + 1e-6, "{retries} of {allowed}");
            }
        }
    }
}
