//! The recent calls that a breaker judges by, in bounded memory.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::event::Timestamp;

/// Which calls are recent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The last so many; at least one.
    Calls(u32),
    /// Those of the last so long, to a tenth of it.
    Time(Duration),
}

/// Calls, and how they went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub calls: u32,
    pub failures: u32,
    pub slow: u32,
}

impl Counts {
    /// Share of failed calls, in percent; 0 of none.
    pub fn failure_rate(&self) -> f64 {
        100.0 * f64::from(self.failures) / f64::from(self.calls.max(1))
    }

    /// Share of slow calls, in percent; 0 of none.
    pub fn slow_rate(&self) -> f64 {
        100.0 * f64::from(self.slow) / f64::from(self.calls.max(1))
    }

    pub(super) fn add(&mut self, failed: bool, slow: bool) {
        self.calls = self.calls.saturating_add(1);
        self.failures = self.failures.saturating_add(failed.into());
        self.slow = self.slow.saturating_add(slow.into());
    }
}

/// How many parts a window of time has.
const BUCKETS: i64 = 10;

#[derive(Debug)]
pub(super) struct CallWindow {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Calls {
        limit: usize,
        /// Failed, slow; the newest last.
        recent: VecDeque<(bool, bool)>,
        counts: Counts,
    },
    Time {
        /// Microseconds of one bucket.
        width: i64,
        /// At most [`BUCKETS`], by the number of their span of time, ascending.
        buckets: VecDeque<(i64, Counts)>,
    },
}

impl CallWindow {
    pub fn new(window: Window) -> Self {
        let kind = match window {
            Window::Calls(calls) => {
                let limit = calls.max(1) as usize;
                Kind::Calls { limit, recent: VecDeque::new(), counts: Counts::default() }
            }
            Window::Time(span) => {
                let width = i64::try_from(span.as_micros() / BUCKETS as u128).unwrap_or(i64::MAX).max(1);
                Kind::Time { width, buckets: VecDeque::with_capacity(BUCKETS as usize) }
            }
        };
        Self { kind }
    }

    pub fn record(&mut self, failed: bool, slow: bool, now: Timestamp) {
        match &mut self.kind {
            Kind::Calls { limit, recent, counts } => {
                if recent.len() == *limit
                    && let Some((failed, slow)) = recent.pop_front()
                {
                    counts.calls -= 1;
                    counts.failures -= u32::from(failed);
                    counts.slow -= u32::from(slow);
                }
                recent.push_back((failed, slow));
                counts.add(failed, slow);
            }
            Kind::Time { width, buckets } => {
                let newest = buckets.back().map_or(i64::MIN, |(number, _)| *number);
                // A clock that was set back adds to the newest bucket.
                let number = now.0.div_euclid(*width).max(newest);
                if number > newest {
                    buckets.push_back((number, Counts::default()));
                }
                while buckets.front().is_some_and(|(oldest, _)| *oldest <= number - BUCKETS) {
                    buckets.pop_front();
                }
                if let Some((_, counts)) = buckets.back_mut() {
                    counts.add(failed, slow);
                }
            }
        }
    }

    /// The calls that are recent at `now`.
    pub fn counts(&self, now: Timestamp) -> Counts {
        match &self.kind {
            Kind::Calls { counts, .. } => *counts,
            Kind::Time { width, buckets } => {
                let gone = now.0.div_euclid(*width) - BUCKETS;
                let recent = buckets.iter().filter(|(number, _)| *number > gone);
                recent.fold(Counts::default(), |sum, (_, counts)| Counts {
                    calls: sum.calls.saturating_add(counts.calls),
                    failures: sum.failures.saturating_add(counts.failures),
                    slow: sum.slow.saturating_add(counts.slow),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Against lists that are kept whole.
        #[test]
        fn counts_are_those_of_the_recent_calls(
            calls in prop::collection::vec((any::<bool>(), any::<bool>(), 0..200i64), 1..100), limit in 1..20u32,
        ) {
            const SPAN: i64 = 1_000;
            let mut by_calls = CallWindow::new(Window::Calls(limit));
            let mut by_time = CallWindow::new(Window::Time(Duration::from_micros(SPAN as u64)));
            let mut all: Vec<(bool, bool, i64)> = Vec::new();
            let mut now = Timestamp(-5_000);
            let naive = |calls: &[(bool, bool, i64)]| Counts {
                calls: calls.len() as u32,
                failures: calls.iter().filter(|(failed, _, _)| *failed).count() as u32,
                slow: calls.iter().filter(|(_, slow, _)| *slow).count() as u32,
            };
            for (failed, slow, gap) in calls {
                now.0 += gap;
                all.push((failed, slow, now.0));
                by_calls.record(failed, slow, now);
                by_time.record(failed, slow, now);

                prop_assert_eq!(by_calls.counts(now), naive(&all[all.len().saturating_sub(limit as usize)..]));
                let begins = (now.0.div_euclid(100) - 9) * 100;
                prop_assert_eq!(by_time.counts(now), naive(&all[all.partition_point(|call| call.2 < begins)..]));
                let Kind::Time { buckets, .. } = &by_time.kind else { panic!("by time") };
                prop_assert!(buckets.len() <= BUCKETS as usize);
            }
            prop_assert_eq!(by_time.counts(Timestamp(now.0 + SPAN)), Counts::default());
        }
    }
}
