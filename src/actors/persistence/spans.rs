//! The span of a group commit.

use std::time::Duration;

use crate::domain::event::Event;
use crate::domain::span::{Span, SpanKind, TraceContext, links};
use crate::telemetry::tracer::tracer;

/// Records the commit of `events`, with a link to each publish that it has stored. It is part of the trace of a single one;
/// of several it is none, and begins its own.
pub fn committed(events: &[Event], took: Duration) {
    let Some(tracer) = tracer() else { return };
    let (links, dropped_links) =
        links(events.iter().filter_map(|event| TraceContext::parse(event.traceparent.as_deref()?)));
    let Some(first) = links.first().copied() else { return };
    let parent = Some(first).filter(|_| links.len() == 1);
    // What it links to is recorded, and so is the commit.
    let context = TraceContext { is_sampled: true, ..tracer.begin(parent) };
    tracer.end("commit", SpanKind::Internal, (context, parent), took, |span| {
        let span = Span { links, dropped_links, ..span };
        span.with("messaging.system", "event_handler").with("messaging.batch.message_count", events.len() as i64)
    });
}
