//! The span of a publish over a WebSocket. Its context is stored with the event, and is the parent of all that follows.

use std::time::Instant;

use crate::domain::event::Append;
use crate::domain::span::{SpanKind, TraceContext};
use crate::protocol::error::ApiError;
use crate::protocol::outcome::{Published, Told};
use crate::telemetry::tracer::{Tracer, tracer};

/// A span, until the publish is answered.
pub struct PublishSpan {
    tracer: &'static Tracer,
    context: TraceContext,
    event_name: String,
    begin: Instant,
}

impl PublishSpan {
    /// Begins a span, if traces are recorded and this one is. It begins a trace, since the protocol has none to go on with.
    pub fn begin(append: &mut Append) -> Option<Self> {
        let tracer = tracer()?;
        let context = Some(tracer.begin(None)).filter(|context| context.is_sampled)?;
        let event = append.events.first_mut()?;
        event.traceparent = Some(context.to_string().into());
        Some(Self { tracer, context, event_name: event.name.as_str().to_owned(), begin: Instant::now() })
    }

    /// The publish is answered so.
    pub fn end(self, told: &Result<Told, ApiError>) {
        let Self { tracer, context, event_name, begin } = self;
        tracer.end(format!("publish {event_name}"), SpanKind::Server, (context, None), begin.elapsed(), |span| {
            let mut span = span
                .of_publish()
                .with("messaging.destination.name", event_name.as_str())
                .with("network.protocol.name", "websocket");
            match told {
                Ok(Told::Published(Published { first_id, .. })) => {
                    span = span.with("messaging.message.id", first_id.to_string().as_str());
                }
                Ok(Told::Scheduled { .. }) => {}
                Err(error) => {
                    span = span.with("error.type", error.code().as_str());
                    span.is_error = error.status() >= 500;
                }
            }
            span
        });
    }
}
