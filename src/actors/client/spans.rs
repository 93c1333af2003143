//! The span of an attempt to deliver. Its context is what the service gets as `traceparent`.

use super::post::{Attempt, Outcome};
use crate::config::ServiceConfig;
use crate::domain::event::Event;
use crate::domain::span::{SpanKind, TraceContext};
use crate::telemetry::tracer::{Tracer, tracer};

/// See the module.
pub struct DeliverySpan {
    tracer: &'static Tracer,
    context: TraceContext,
    parent: Option<TraceContext>,
    service: String,
    event_name: String,
    event_id: String,
    host: String,
    port: Option<u16>,
}

impl DeliverySpan {
    /// Begins an attempt to deliver `event` to `service`, if traces are recorded.
    pub fn begin(event: &Event, service: &ServiceConfig) -> Option<Self> {
        let tracer = tracer()?;
        let parent = event.traceparent.as_deref().and_then(TraceContext::parse);
        let url = service.url.expose();
        Some(Self {
            tracer,
            context: tracer.begin(parent),
            parent,
            service: service.name.clone(),
            event_name: event.name.as_str().to_owned(),
            event_id: event.id.to_string(),
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default(),
        })
    }

    /// What names the attempt.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// The attempt has ended so.
    pub fn end(self, attempt: &Attempt) {
        let Self { tracer, context, parent, service, event_name, event_id, host, port } = self;
        tracer.end(format!("deliver {service}"), SpanKind::Client, (context, parent), attempt.took, |span| {
            let mut span = span
                .with("messaging.system", "event_handler")
                .with("messaging.operation.name", "deliver")
                .with("messaging.destination.name", event_name.as_str())
                .with("messaging.message.id", event_id.as_str())
                .with("http.request.method", "POST")
                .with("server.address", host.as_str());
            if let Some(port) = port {
                span = span.with("server.port", i64::from(port));
            }
            match &attempt.outcome {
                Outcome::Answered { status, .. } => {
                    span = span.with("http.response.status_code", i64::from(*status));
                    if *status >= 400 {
                        span = span.with("error.type", status.to_string().as_str());
                        span.is_error = true;
                    }
                }
                Outcome::Failed { kind, .. } => {
                    span = span.with("error.type", kind.as_str());
                    span.is_error = true;
                }
            }
            span
        });
    }
}
