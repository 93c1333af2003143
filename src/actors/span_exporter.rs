//! Posts spans to a collector (OTLP over HTTP). It alone waits for the collector: meanwhile the queue of spans fills, and
//! what finds it full is dropped.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::client::post::{Attempt, Outcome, Poster};
use crate::config::Config;
use crate::domain::span::Span;
use crate::protocol::otlp::{export_request, rejected_spans};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tracer;

/// Spans of one request.
const BATCH: usize = 512;
/// How long spans wait for others to go with them.
const GATHER: Duration = Duration::from_secs(1);
/// Wait before a request is repeated; doubles up to [`RETRY_CAP`].
const RETRY_BASE: Duration = Duration::from_millis(500);
/// Longest wait, also if the collector asks for a longer one.
const RETRY_CAP: Duration = Duration::from_secs(30);
/// Requests with the same spans.
const ATTEMPTS: u32 = 5;
/// At the end of the process, how long it may take for all that waits.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Asks for an end, and is told of it.
type Finish = oneshot::Sender<()>;

/// The exporter, seen by who ends it.
pub struct SpanExporter(mpsc::Sender<Finish>);

/// What it works with.
struct Exporting {
    poster: Poster,
    path: &'static str,
    resource: Vec<(String, String)>,
    spans: mpsc::Receiver<Span>,
    finish: mpsc::Receiver<Finish>,
    metrics: Arc<Metrics>,
}

impl SpanExporter {
    /// Begins to record traces and to post their spans, if the configuration names a collector. Call it inside an actix
    /// system.
    pub fn start(config: &Config, node: &str, metrics: &Arc<Metrics>) -> Result<Option<Self>, String> {
        let Some((collector, path)) = config.tracing.collector(&config.delivery) else { return Ok(None) };
        if !cfg!(feature = "otel") {
            log::warn!("this build records no traces: it is without the feature otel");
            return Ok(None);
        }
        let poster = Poster::new(&collector)?;
        let Some(spans) = tracer::install(config.tracing.sampling(), Arc::clone(metrics)) else { return Ok(None) };
        let (sender, finish) = mpsc::channel(1);
        let resource = config.tracing.resource(node);
        let exporting = Exporting { poster, path, resource, spans, finish, metrics: Arc::clone(metrics) };
        actix_rt::spawn(exporting.run());
        Ok(Some(Self(sender)))
    }

    /// Posts what waits, for a bounded time, and ends.
    pub async fn finish(&self) {
        let (done, is_done) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            // Without an answer it has ended before.
            let _ = is_done.await;
        }
    }
}

impl Exporting {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let done = tokio::select! {
                count = gather(&mut self.spans, &mut batch) => match count {
                    0 => return,
                    _ => self.post_with_retries(&batch).await,
                },
                Some(done) = self.finish.recv() => Some(done),
            };
            if let Some(done) = done {
                self.post_rest(batch).await;
                let _ = done.send(());
                return;
            }
            batch.clear();
        }
    }

    /// Posts a batch until it is taken, final, or asked to finish. Then it is still to be posted.
    async fn post_with_retries(&mut self, batch: &[Span]) -> Option<Finish> {
        let body = Bytes::from(export_request(&self.resource, batch));
        for attempt in 1..=ATTEMPTS {
            let posted = tokio::select! {
                posted = post(&self.poster, self.path, body.clone()) => posted,
                Some(done) = self.finish.recv() => return Some(done),
            };
            let asked = self.settle(posted, batch.len(), attempt == ATTEMPTS)?;
            let wait = asked.unwrap_or(RETRY_BASE * 2u32.pow(attempt - 1)).min(RETRY_CAP);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(done) = self.finish.recv() => return Some(done),
            }
        }
        None
    }

    /// Posts `batch` and whatever waits behind it, each once.
    async fn post_rest(&mut self, mut batch: Vec<Span>) {
        let deadline = Instant::now() + LAST_PATIENCE;
        loop {
            while batch.len() < BATCH
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            let body = Bytes::from(export_request(&self.resource, &batch));
            let posted = timeout_at(deadline, post(&self.poster, self.path, body)).await;
            match posted {
                Ok(posted) => _ = self.settle(posted, batch.len(), true),
                Err(_) => self.drop_all("collector", batch.len() + self.spans.len()),
            }
            if Instant::now() >= deadline {
                return;
            }
            batch.clear();
        }
    }

    /// Counts what became of so many spans. `None` if that is final, else how long the collector asks to wait, if it does.
    fn settle(&self, posted: Outcome, count: usize, is_last: bool) -> Option<Option<Duration>> {
        let (wait, reason) = match posted {
            Outcome::Answered { status: 200..=299, excerpt, .. } => {
                let rejected = rejected_spans(&excerpt).min(count as u64);
                self.metrics.spans_exported.inc_by(count as u64 - rejected);
                if rejected > 0 {
                    self.drop_all("rejected", rejected as usize);
                    log::warn!(rejected, answer = excerpt.as_str(); "the collector of traces rejects spans");
                }
                return None;
            }
            Outcome::Answered { status, retry_after, .. } => {
                let wait = matches!(status, 429 | 502 | 503 | 504).then_some(retry_after);
                (wait, format!("answered {status}"))
            }
            Outcome::Failed { message, .. } => (Some(None), message),
        };
        let wait = wait.filter(|_| !is_last);
        if wait.is_none() {
            self.drop_all("collector", count);
            log::warn!(spans = count, reason = reason.as_str(); "the collector of traces does not take spans, they are dropped");
        }
        wait
    }

    fn drop_all(&self, reason: &str, count: usize) {
        self.metrics.spans_dropped.with_label_values(&[reason]).inc_by(count as u64);
    }
}

/// Waits for spans, and a moment more for others. Returns how many there are; none, if no more can come. When it is dropped
/// meanwhile, what has come stays in `batch`.
async fn gather(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) -> usize {
    if spans.recv_many(batch, BATCH).await == 0 {
        return 0;
    }
    let deadline = Instant::now() + GATHER;
    while batch.len() < BATCH
        && let Ok(Some(span)) = timeout_at(deadline, spans.recv()).await
    {
        batch.push(span);
    }
    batch.len()
}

async fn post(poster: &Poster, path: &str, body: Bytes) -> Outcome {
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let Attempt { outcome, .. } = poster.post(path, &json, body).await;
    outcome
}
