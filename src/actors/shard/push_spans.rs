//! The spans of pushes: one for each event, when all shards of the node have passed its batch on.

use std::time::SystemTime;

use crate::actors::push_log::PushLog;
use crate::domain::span::{SpanKind, TraceContext};
use crate::protocol::log_batch::LogBatch;
use crate::telemetry::tracer::tracer;

/// One of so many `shards` has passed `batch` on. A batch that a shard has missed, and reads from the store, is not traced.
pub fn passed_on(batch: &LogBatch, pushes: &PushLog, shards: usize) {
    let Some(tracer) = tracer().filter(|_| batch.passed_on(shards)) else { return };
    let now = SystemTime::now();
    for event in batch.events.iter().map(|event| &event.event) {
        let context = event.traceparent.as_deref().and_then(TraceContext::parse).filter(|context| context.is_sampled);
        let Some((parent, subscribers)) = context.zip(pushes.get(event.id)) else { continue };
        let context = TraceContext { is_sampled: true, ..tracer.begin(Some(parent)) };
        // It begins when the event was dated.
        let took = now.duration_since(event.created_at.into()).unwrap_or_default();
        let name = format!("push {}", event.name);
        tracer.end(name, SpanKind::Internal, (context, Some(parent)), took, |span| {
            span.with("messaging.system", "event_handler")
                .with("messaging.operation.name", "push")
                .with("messaging.destination.name", event.name.as_str())
                .with("messaging.message.id", event.id.to_string().as_str())
                .with("event_handler.push.subscribers", i64::from(subscribers))
        });
    }
}
