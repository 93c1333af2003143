//! A few of the metrics as figures for plots: rates and latencies between two readings.

use std::time::Duration;

use prometheus::core::Collector;

use super::metrics::Metrics;

/// Counters as they stand at one moment.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    published: f64,
    pushed: f64,
    delivered: f64,
    /// Attempts to deliver that did not succeed.
    failed: f64,
    /// Publishes by their time to the commit: the upper bound of each bucket in seconds, and how many are below it.
    publishes: Vec<(f64, u64)>,
}

impl Reading {
    pub fn of(metrics: &Metrics) -> Self {
        let attempts = metrics.delivery_attempts.collect();
        let attempts = attempts.iter().flat_map(|family| family.get_metric());
        let (mut delivered, mut failed) = (0.0, 0.0);
        for attempt in attempts {
            let outcome = attempt.get_label().iter().find(|label| label.name() == "outcome");
            let is_delivered = outcome.is_some_and(|label| label.value() == "delivered");
            let of = if is_delivered { &mut delivered } else { &mut failed };
            *of += attempt.get_counter().get_value();
        }
        let durations = metrics.publish_duration.collect();
        let durations = durations.iter().flat_map(|family| family.get_metric());
        let buckets = durations.flat_map(|metric| metric.get_histogram().get_bucket());
        Self {
            published: metrics.events.get() as f64,
            pushed: metrics.frames_pushed.get() as f64,
            delivered,
            failed,
            publishes: buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
        }
    }

    /// What happened since an earlier reading, `time` ago.
    pub fn since(&self, before: &Self, time: Duration) -> Figures {
        let seconds = time.as_secs_f64().max(0.001);
        let rate = |now: f64, before: f64| round((now - before).max(0.0) / seconds);
        let took = |share| quantile(&before.publishes, &self.publishes, share).map(|seconds| round(seconds * 1e3));
        Figures {
            published: rate(self.published, before.published),
            pushed: rate(self.pushed, before.pushed),
            delivered: rate(self.delivered, before.delivered),
            failed: rate(self.failed, before.failed),
            publish_p50: took(0.5),
            publish_p99: took(0.99),
        }
    }
}

/// What happened between two readings: per second, and in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub published: f64,
    pub pushed: f64,
    pub delivered: f64,
    pub failed: f64,
    /// Half of the publishes took no longer to their commit; none if nothing was published.
    pub publish_p50: Option<f64>,
    pub publish_p99: Option<f64>,
}

/// Two digits after the point are enough for a plot.
fn round(value: f64) -> f64 {
    (value * 1e2).round() / 1e2
}

/// The value that a `share` of what came between two readings of a histogram stays below, taken as spread evenly within
/// each bucket; what lies above all buckets counts as the last bound. None if nothing came.
fn quantile(before: &[(f64, u64)], now: &[(f64, u64)], share: f64) -> Option<f64> {
    let earlier = |at: usize| before.get(at).map_or(0, |(_, count)| *count);
    let below: Vec<(f64, f64)> = now
        .iter()
        .enumerate()
        .filter(|(_, (bound, _))| bound.is_finite())
        .map(|(at, (bound, count))| (*bound, count.saturating_sub(earlier(at)) as f64))
        .collect();
    let &(last, total) = below.last()?;
    if total == 0.0 {
        return None;
    }
    let wanted = share * total;
    let (mut low, mut under) = (0.0, 0.0);
    for &(bound, count) in &below {
        if count >= wanted && count > under {
            return Some(low + (bound - low) * (wanted - under) / (count - under));
        }
        (low, under) = (bound, count);
    }
    Some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_of_what_came_between() {
        let before = [(0.1, 100), (0.2, 100), (0.4, 100)];
        let now = [(0.1, 100), (0.2, 110), (0.4, 120)];
        assert_eq!(quantile(&before, &now, 0.5), Some(0.2));
        let q = quantile(&before, &now, 0.25).expect("some");
        assert!((q - 0.15).abs() < 1e-9, "{q}");
        assert_eq!(quantile(&before, &before, 0.5), None);
        assert_eq!(quantile(&[], &[], 0.5), None);
    }

    #[test]
    fn figures_are_rates_since_the_reading_before() {
        let metrics = Metrics::new().expect("names are unique");
        let before = Reading::of(&metrics);
        metrics.events.inc_by(30);
        metrics.pushed(10, 100);
        let service = metrics.service("eliza");
        service.attempted("delivered", Duration::from_millis(1));
        service.attempted("retry", Duration::from_millis(1));
        service.attempted("dead", Duration::from_millis(1));
        metrics.publish_duration.observe(0.002);
        let figures = Reading::of(&metrics).since(&before, Duration::from_secs(2));
        let Figures { published, pushed, delivered, failed, publish_p50, publish_p99 } = figures;
        assert_eq!((published, pushed, delivered, failed), (15.0, 5.0, 0.5, 1.0));
        assert!(publish_p50.is_some_and(|ms| (1.0..=2.5).contains(&ms)) && publish_p99 >= publish_p50, "{figures:?}");
    }
}
