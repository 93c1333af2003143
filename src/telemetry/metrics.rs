//! The metrics, with Prometheus names and base units. The number of label values does not grow with load.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::domain::judgement::Finding;

/// Buckets for latencies from 50 µs to 10 s.
const LATENCY: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets for what goes over several services, from 10 ms to a day.
const PROCESS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0];
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

macro_rules! metrics {
    ($(#[$doc:meta])* pub struct Metrics { $($(#[$field_doc:meta])* $field:ident: $kind:ty = $make:expr,)+ }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[$field_doc])* pub $field: $kind,)+
        }

        impl Metrics {
            /// Creates all metrics at zero, in a registry of their own.
            ///
            /// # Errors
            /// When two metrics share a name.
            pub fn new() -> prometheus::Result<Self> {
                let registry = Registry::new();
                $(let $field: $kind = register(&registry, $make)?;)+
                #[cfg(target_os = "linux")]
                registry.register(Box::new(super::process::ProcessMetrics::new()?))?;
                Ok(Self { registry, $($field,)+ })
            }

            #[cfg(test)]
            fn descriptions(&self) -> Vec<prometheus::core::Desc> {
                [$(self.$field.desc(),)+].into_iter().flatten().cloned().collect()
            }
        }
    };
}

metrics! {
    /// All metrics of the program.
    pub struct Metrics {
        build_info: IntGaugeVec = IntGaugeVec::new(opts("build_info", "Version of the program; always 1."), &["version"]),
        http_duration: HistogramVec = HistogramVec::new(
            HistogramOpts::new("http_request_duration_seconds", "Time to answer HTTP requests.").buckets(LATENCY.into()),
            &["method", "route", "code"],
        ),
        /// Publish requests by the HTTP status of their answers.
        publishes: IntCounterVec = IntCounterVec::new(opts("publishes_total", "Publish requests by HTTP status."), &["code"]),
        events: IntCounter = IntCounter::with_opts(opts("events_committed_total", "Events committed to the store.")),
        commit_duration: Histogram = Histogram::with_opts(histogram("commit_duration_seconds", "Time of one group commit.", LATENCY)),
        commit_events: Histogram = Histogram::with_opts(histogram("commit_events", "Events in one group commit.", BATCH)),
        publish_duration: Histogram = Histogram::with_opts(histogram("publish_duration_seconds", "Time from a valid publish request to its commit.", LATENCY)),
        store_errors: IntCounterVec = IntCounterVec::new(opts("store_errors_total", "Failed store operations by kind."), &["kind"]),
        clock_departure: prometheus::Gauge = prometheus::Gauge::with_opts(opts("clock_departure_seconds", "By how much the wall clock is off, as far as that is not believed.")),
        store_read_errors: IntCounterVec = IntCounterVec::new(opts("store_read_errors_total", "Failed reads of the store by kind."), &["kind"]),
        store_up: IntGauge = IntGauge::with_opts(opts("store_up", "Whether the store takes writes and can be read.")),
        replica_up: IntGauge = IntGauge::with_opts(opts("store_replica_up", "Whether the replica of the store is read; 0 also without one.")),
        replica_lag: IntGauge = IntGauge::with_opts(opts("store_replica_lag_events", "Events by which the replica of the store was behind when it was last looked at.")),
        replica_reads: IntCounterVec = IntCounterVec::new(opts("store_replica_reads_total", "Reads that may go to the replica of the store, by outcome: all but `served` went to the primary."), &["outcome"]),
        bus_up: IntGauge = IntGauge::with_opts(opts("bus_up", "Whether every part of Redis that is in use works; 0 also without one.")),
        ingested: IntCounterVec = IntCounterVec::new(opts("ingest_entries_total", "Entries of the Redis stream that were taken, by outcome."), &["outcome"]),
        state_changes: IntCounter = IntCounter::with_opts(opts("state_changes_total", "Changes of entities that were committed.")),
        schema_violations: IntCounterVec = IntCounterVec::new(opts("schema_violations_total", "Violations of schemas of event types, and events without a type where there has to be one, by what was done about them."), &["mode"]),
        state_conflicts: IntCounter = IntCounter::with_opts(opts("state_conflicts_total", "Changes of entities that were refused, because a condition was unmet or there was nothing to delete.")),
        sync_checks: IntCounterVec = IntCounterVec::new(opts("sync_checks_total", "Comparisons of a service's entities of a type that have ended, by result."), &["service", "type", "result"]),
        sync_differences: IntCounterVec = IntCounterVec::new(opts("sync_differences_total", "Differences that comparisons have found, by kind."), &["service", "type", "kind"]),
        sync_repairs: IntCounterVec = IntCounterVec::new(opts("sync_repairs_total", "Repairs of single entities, by outcome."), &["service", "type", "outcome"]),
        sync_state: IntGaugeVec = IntGaugeVec::new(opts("sync_state", "1 for how far a service agrees with the entities of a type; of the node that delivers to it only."), &["service", "type", "state"]),
        snapshots: IntGauge = IntGauge::with_opts(opts("snapshots", "Snapshots of entities that are being sent.")),
        snapshot_entities: IntCounter = IntCounter::with_opts(opts("snapshot_entities_total", "Entities that were sent in snapshots.")),
        follower_lag: IntGaugeVec = IntGaugeVec::new(opts("follower_lag_events", "Events that a follower of the log has not taken yet; of its holder only."), &["follower"]),
        sagas: IntGaugeVec = IntGaugeVec::new(opts("sagas", "Instances of sagas, by state; of the node that runs them only."), &["saga", "state"]),
        saga_triggers: IntCounterVec = IntCounterVec::new(opts("saga_triggers_total", "Events that sagas begin with, by what became of them."), &["saga", "result"]),
        saga_changes: IntCounterVec = IntCounterVec::new(opts("saga_changes_total", "What was told of instances of sagas, as in the names of $sys.saga.*."), &["saga", "what"]),
        saga_duration: HistogramVec = HistogramVec::new(
            histogram("saga_duration_seconds", "Time from the start of an instance to its end.", PROCESS),
            &["saga", "end"],
        ),
        saga_step_duration: HistogramVec = HistogramVec::new(
            histogram("saga_step_duration_seconds", "Time from the start of a step to its end.", PROCESS),
            &["saga", "step", "end"],
        ),
        saga_replies: IntCounterVec = IntCounterVec::new(opts("saga_replies_total", "Events that steps of sagas may await, by whether one has taken them."), &["result"]),
        follower_missed: IntCounterVec = IntCounterVec::new(opts("follower_missed_events_total", "Events that retention has removed before a follower of the log has taken them."), &["follower"]),
        retention_waits: IntGaugeVec = IntGaugeVec::new(opts("retention_waits", "Whether retention keeps events only because this follower of the log has not read them; of the node that retains only."), &["follower"]),
        pubsub_sent: IntCounterVec = IntCounterVec::new(opts("pubsub_sent_total", "What went out by the publish/subscribe of Redis, by kind."), &["kind"]),
        pubsub_heard: IntCounterVec = IntCounterVec::new(opts("pubsub_heard_total", "Messages that came by the publish/subscribe of Redis, by outcome."), &["outcome"]),
        mirror_written: IntCounter = IntCounter::with_opts(opts("mirror_written_total", "Entities written to the mirror in Redis, or removed from it.")),
        mirror_mended: IntCounterVec = IntCounterVec::new(opts("mirror_mended_total", "Entities of the mirror in Redis that were found to differ from the store, by flaw."), &["flaw"]),
        mirror_rebuilt: IntCounterVec = IntCounterVec::new(opts("mirror_rebuilt_total", "How often the mirror in Redis was begun anew, by reason."), &["reason"]),
        trimmed: IntCounter = IntCounter::with_opts(opts("events_trimmed_total", "Events removed by retention.")),
        backlog: IntGauge = IntGauge::with_opts(opts("backlog_events", "Events waiting for their commit.")),
        log_last: IntGauge = IntGauge::with_opts(opts("log_last_id", "Id of the newest event.")),
        log_earliest: IntGauge = IntGauge::with_opts(opts("log_earliest_id", "Id of the oldest retained event.")),
        sessions: IntGauge = IntGauge::with_opts(opts("sessions", "Connected subscribers.")),
        sessions_opened: IntCounter = IntCounter::with_opts(opts("sessions_opened_total", "Subscribers that have connected.")),
        subscriptions: IntGauge = IntGauge::with_opts(opts("subscriptions", "Subscriptions of connected clients.")),
        frames_pushed: IntCounter = IntCounter::with_opts(opts("pushed_frames_total", "Event frames queued for clients.")),
        bytes_pushed: IntCounter = IntCounter::with_opts(opts("pushed_bytes_total", "Bytes of event frames queued for clients.")),
        caught_up_frames: IntCounter = IntCounter::with_opts(opts("caught_up_frames_total", "Event frames queued for clients that were catching up.")),
        catch_ups: IntCounterVec = IntCounterVec::new(opts("catch_ups_total", "Times a client began to catch up, by reason."), &["reason"]),
        gaps: IntCounter = IntCounter::with_opts(opts("shard_gaps_total", "Times a shard read missed events from the store.")),
        relay_up: IntGauge = IntGauge::with_opts(opts("relay_up", "Whether commits of other nodes are told at once; else they are found within a second.")),
        relay_hints: IntCounter = IntCounter::with_opts(opts("relay_hints_total", "Commits of other nodes that were told at once.")),
        relay_sent: IntCounterVec = IntCounterVec::new(opts("relay_sent_total", "Messages with committed batches for other nodes by way of Redis, by outcome."), &["outcome"]),
        relay_received: IntCounterVec = IntCounterVec::new(opts("relay_received_total", "Messages with batches that came by way of Redis, by what became of them."), &["verdict"]),
        closes: IntCounterVec = IntCounterVec::new(opts("closes_total", "Ended sessions by close code; other: a code of the client's own; none: the client just went away."), &["code"]),
        frames_in: IntCounter = IntCounter::with_opts(opts("received_frames_total", "Text frames received from clients.")),
        frames_refused: IntCounterVec = IntCounterVec::new(opts("refused_frames_total", "Frames from clients answered with an error, by code."), &["code"]),
        queue_bytes: IntGaugeVec = IntGaugeVec::new(opts("queue_bytes", "Bytes queued for clients."), &["shard"]),
        recent_bytes: IntGaugeVec = IntGaugeVec::new(opts("recent_bytes", "Memory of recent events."), &["shard"]),
        lag_events: IntGaugeVec = IntGaugeVec::new(opts("lag_events", "Events by which the slowest client is behind."), &["shard"]),
        durable_members: IntGauge = IntGauge::with_opts(opts("durable_members", "Connections that are members of durable subscriptions.")),
        durable_deliveries: IntCounter = IntCounter::with_opts(opts("durable_deliveries_total", "Events given to members of durable subscriptions.")),
        durable_redeliveries: IntCounter = IntCounter::with_opts(opts("durable_redeliveries_total", "Those of them that were given before.")),
        durable_settled: IntCounter = IntCounter::with_opts(opts("durable_settled_total", "What members said of events, and was stored.")),
        durable_dead: IntCounter = IntCounter::with_opts(opts("durable_dead_total", "Events that durable subscriptions have given up.")),
        durable_gaps: IntCounter = IntCounter::with_opts(opts("durable_gaps_total", "Times a durable subscription fell behind the retained history.")),
        delivery_attempts: IntCounterVec = IntCounterVec::new(opts("delivery_attempts_total", "Attempts to deliver, by outcome."), &["service", "outcome"]),
        delivery_attempt_duration: HistogramVec = HistogramVec::new(histogram("delivery_attempt_duration_seconds", "Time of one attempt to deliver.", LATENCY), &["service"]),
        delivery_latency: HistogramVec = HistogramVec::new(histogram("delivery_latency_seconds", "Time from the commit of an event to its delivery.", LATENCY), &["service"]),
        breaker_state: IntGaugeVec = IntGaugeVec::new(opts("service_breaker_state", "1 for the state that the circuit breaker is in."), &["service", "state"]),
        breaker_transitions: IntCounterVec = IntCounterVec::new(opts("service_breaker_transitions_total", "Changes of the circuit breaker, by the state after it."), &["service", "state"]),
        deliveries_not_permitted: IntCounterVec = IntCounterVec::new(opts("deliveries_not_permitted_total", "Times the circuit breaker held back what waited."), &["service"]),
        deliveries_in_flight: IntGaugeVec = IntGaugeVec::new(opts("deliveries_in_flight", "Deliveries sent and not yet settled in the store."), &["service"]),
        deliveries_pending: IntGaugeVec = IntGaugeVec::new(opts("deliveries_pending", "Deliveries that are still to be made, by lane."), &["service", "lane"]),
        deliveries_dead: IntGaugeVec = IntGaugeVec::new(opts("deliveries_dead", "Deliveries that were given up."), &["service"]),
        deliveries_oldest: prometheus::GaugeVec = prometheus::GaugeVec::new(opts("deliveries_oldest_pending_seconds", "Age of the oldest event that is still to be delivered."), &["service"]),
        spans_exported: IntCounter = IntCounter::with_opts(opts("spans_exported_total", "Spans of traces that a collector has taken.")),
        spans_dropped: IntCounterVec = IntCounterVec::new(opts("spans_dropped_total", "Spans of traces that were dropped, by reason."), &["reason"]),
        mailbox_full: IntCounterVec = IntCounterVec::new(opts("mailbox_full_total", "Messages not sent because a mailbox was full, by receiver."), &["actor"]),
        mailbox_depth: IntGaugeVec = IntGaugeVec::new(opts("mailbox_depth", "Messages waiting for an actor."), &["actor"]),
        restarts: IntCounterVec = IntCounterVec::new(opts("actor_restarts_total", "Failures of actors by kind and reason."), &["actor", "reason"]),
        system_state: IntGaugeVec = IntGaugeVec::new(opts("system_state", "1 for the state of the whole system as this node sees it."), &["state"]),
        maintenance_refused: IntCounter = IntCounter::with_opts(opts("maintenance_refused_total", "Publish requests refused because the system is in maintenance; entries of the stream of Redis wait, and do not count.")),
        jwt_keys: IntGauge = IntGauge::with_opts(opts("jwt_keys", "Keys that JWTs are verified with.")),
        jwt_keys_usable: IntGauge = IntGauge::with_opts(opts("jwt_keys_file_usable", "Whether the file of keys was usable when it changed last; 0 also without one.")),
        log_lines_dropped: IntGauge = IntGauge::with_opts(opts("log_lines_dropped", "Log lines dropped since the start because their reader was too slow.")),
    }
}

impl Metrics {
    /// Counts a group commit of `events` that took `time`.
    pub fn commit(&self, events: usize, time: Duration) {
        self.events.inc_by(events as u64);
        self.commit_events.observe(events as f64);
        self.commit_duration.observe(time.as_secs_f64());
    }

    /// Counts what the catalogue has found in an event.
    pub fn found(&self, finding: &Finding) {
        let mode = if finding.refuses { "enforce" } else { "observe" };
        self.schema_violations.with_label_values(&[mode]).inc_by(finding.count().into());
    }

    /// Counts event frames that were queued for subscribers.
    pub fn pushed(&self, frames: u64, bytes: u64) {
        if frames > 0 {
            self.frames_pushed.inc_by(frames);
            self.bytes_pushed.inc_by(bytes);
        }
    }

    /// Counts event frames that were queued for a subscriber that was catching up.
    pub fn caught_up(&self, frames: u64, bytes: u64) {
        self.pushed(frames, bytes);
        self.caught_up_frames.inc_by(frames);
    }

    /// Sets the bytes that a shard has in send queues and as recent events.
    pub fn queued(&self, shard: usize, queued: usize, recent: usize) {
        let shard = shard.to_string();
        self.queue_bytes.with_label_values(&[&shard]).set(queued as i64);
        self.recent_bytes.with_label_values(&[&shard]).set(recent as i64);
    }

    /// Bytes that all shards have in send queues.
    pub fn queued_bytes(&self) -> i64 {
        let families = self.queue_bytes.collect();
        let shards = families.iter().flat_map(|family| family.get_metric());
        shards.map(|shard| shard.get_gauge().get_value() as i64).sum()
    }

    /// Sets by how many events the slowest subscriber of a shard is behind.
    pub fn lag(&self, shard: usize, events: i64) {
        self.lag_events.with_label_values(&[&shard.to_string()]).set(events);
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn encode(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("event_handler")
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::from(opts(name, help)).buckets(buckets.into())
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let protocol = include_str!("../../docs/protocol.md");
        let metrics = Metrics::new().expect("names are unique");
        for desc in metrics.descriptions() {
            let labels: Vec<String> = desc.variable_labels.iter().map(|label| format!("`{label}`")).collect();
            let row = format!("| `{}` | {} | {} |", desc.fq_name, labels.join(", "), desc.help);
            assert!(protocol.contains(&row), "docs/protocol.md misses the row\n{row}");
        }
        let documented = protocol.lines().filter(|line| line.starts_with("| `event_handler_"));
        let described = metrics.descriptions().iter().filter(|d| d.fq_name.starts_with("event_handler_")).count();
        assert_eq!(documented.count(), described, "docs/protocol.md has rows for metrics that are gone");
    }
}
