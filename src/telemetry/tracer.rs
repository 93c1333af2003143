//! Where spans go: a bounded queue, which the exporter among the actors empties. Without the feature `otel`,
//! and without a collector, there is no tracer, and nothing is done.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::metrics::Metrics;
use crate::domain::span::{Sampling, Span, SpanIds, SpanKind, TraceContext};

/// Spans that may wait; further ones are dropped.
pub const QUEUE: usize = 2048;

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// See the module.
#[derive(Debug)]
pub struct Tracer {
    sampling: Sampling,
    queue: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
}

/// The tracer, if traces are recorded.
pub fn tracer() -> Option<&'static Tracer> {
    if cfg!(feature = "otel") { TRACER.get() } else { None }
}

/// Has the whole process record traces. Returns the end of the queue; `None` if it does already.
pub fn install(sampling: Sampling, metrics: Arc<Metrics>) -> Option<mpsc::Receiver<Span>> {
    let (tracer, spans) = Tracer::new(sampling, metrics, QUEUE);
    TRACER.set(tracer).ok().map(|()| spans)
}

impl Tracer {
    fn new(sampling: Sampling, metrics: Arc<Metrics>, queue: usize) -> (Self, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(queue);
        (Self { sampling, queue, metrics }, spans)
    }

    /// The context of a new span: a child of `parent`, or the first of a trace.
    pub fn begin(&self, parent: Option<TraceContext>) -> TraceContext {
        self.sampling.begin(parent, SpanIds { trace: rand::random(), span: rand::random() })
    }

    /// Records a span that ends now, if its trace is recorded; `fill` adds what it says.
    pub fn end(
        &self,
        name: impl Into<String>,
        kind: SpanKind,
        (context, parent): (TraceContext, Option<TraceContext>),
        took: Duration,
        fill: impl FnOnce(Span) -> Span,
    ) {
        if !context.is_sampled {
            return;
        }
        let span = Span::ended(name, kind, (context, parent), (SystemTime::now(), took));
        if self.queue.try_send(fill(span)).is_err() {
            self.metrics.spans_dropped.with_label_values(&["queue_full"]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::span::Sampler;

    #[test]
    fn a_full_queue_drops_and_counts() {
        let metrics = Arc::new(Metrics::new().expect("distinct names"));
        let sampling = Sampling { sampler: Sampler::ParentBasedAlwaysOn, ratio: 1.0 };
        let (tracer, mut spans) = Tracer::new(sampling, Arc::clone(&metrics), 2);
        let unsampled = TraceContext { is_sampled: false, ..tracer.begin(None) };
        let end = |context| tracer.end("a", SpanKind::Internal, (context, None), Duration::ZERO, |span| span);
        end(tracer.begin(Some(unsampled)));
        for _ in 0..5 {
            end(tracer.begin(None));
        }
        assert_eq!(metrics.spans_dropped.with_label_values(&["queue_full"]).get(), 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    }
}
