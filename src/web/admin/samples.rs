//! `GET /admin/samples`: what the pages of operators plot, as server-sent events.
//!
//! One task a node samples, only while somebody reads, and every reader is sent the same bytes. The last samples are
//! kept for who comes next. While the node drains, a stream ends with its next sample.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{self, BoxBody};
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, Receiver, Sender, error::RecvError};

use super::services::states;
use crate::actors::clock::now;
use crate::telemetry::figures::{Figures, Reading};
use crate::web::query::Query;
use crate::web::reply::Refusal;
use crate::web::{Edge, access};

/// How often is sampled.
const EVERY: Duration = Duration::from_secs(2);
/// Samples that are kept: those of 15 minutes.
const KEPT: usize = 450;
/// Messages that a reader may be behind; it misses older ones.
const BEHIND: usize = 16;
/// The age of the oldest delivery is told in steps of so many seconds, so that what has not changed is not sent.
const AGE_STEP: f64 = 10.0;

/// The fields of a sample, in order. The first is milliseconds since 1970.
const FIELDS: [&str; 11] = [
    "at",
    "published",
    "pushed",
    "delivered",
    "failed",
    "publish_p50",
    "publish_p99",
    "sessions",
    "queued",
    "pending",
    "dead",
];

/// What the readers of a node share.
pub struct Samples(Mutex<Shared>);

struct Shared {
    /// The last samples as JSON.
    recent: VecDeque<String>,
    /// The state of the services, as it was sent last.
    services: String,
    readers: Sender<Bytes>,
    is_sampling: bool,
}

impl Default for Samples {
    fn default() -> Self {
        let (readers, _) = broadcast::channel(BEHIND);
        Self(Mutex::new(Shared { recent: VecDeque::new(), services: String::new(), readers, is_sampling: false }))
    }
}

impl Samples {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a reader is sent first, and what it gets from then on.
    fn join(&self) -> (Bytes, Receiver<Bytes>) {
        let shared = self.shared();
        let recent: Vec<&str> = shared.recent.iter().map(String::as_str).collect();
        let begin = format!(r#"{{"fields":{},"samples":[{}]}}"#, json!(FIELDS), recent.join(","));
        let mut first = frame("begin", &begin);
        if !shared.services.is_empty() {
            first += &frame("services", &shared.services);
        }
        (first.into(), shared.readers.subscribe())
    }

    /// Whether somebody reads; if not, the task that asks ends, and it is noted that none samples.
    fn is_read(&self) -> bool {
        let mut shared = self.shared();
        shared.is_sampling = shared.readers.receiver_count() > 0;
        shared.is_sampling
    }

    /// Sends a sample, if there is one, and the services, if they have changed.
    fn tell(&self, sample: Option<String>, services: String) {
        let mut shared = self.shared();
        let mut told = sample.as_deref().map(|sample| frame("sample", sample)).unwrap_or_default();
        shared.recent.extend(sample);
        if shared.recent.len() > KEPT {
            shared.recent.pop_front();
        }
        if services != shared.services {
            told += &frame("services", &services);
            shared.services = services;
        }
        // Without a reader nobody misses it.
        let _ = shared.readers.send(told.into());
    }
}

/// Answers with the samples of the last 15 minutes, as far as somebody has looked, and with each one to come.
pub async fn follow(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, "text/event-stream")).insert_header((CACHE_CONTROL, "no-store"));
    response.insert_header(("x-accel-buffering", "no"));
    if req.method() == Method::HEAD {
        return Ok(response.body(BoxBody::new(body::None::new())));
    }
    let (first, receiver) = edge.parts.samples.join();
    start(&edge);
    let state = (Some(first), receiver, req, edge);
    Ok(response.streaming(stream::unfold(state, |(first, mut receiver, req, edge)| async move {
        if let Some(first) = first {
            return Some((Ok::<_, Infallible>(first), (None, receiver, req, edge)));
        }
        let next = loop {
            match receiver.recv().await {
                Ok(next) => break next,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        };
        // A token may be revoked, or expire, while its bearer looks on.
        let may_stay = access::admin(&req, &edge).is_ok() && !edge.parts.health.is_draining();
        may_stay.then_some((Ok(next), (None, receiver, req, edge)))
    })))
}

/// Starts the task that samples, if none does.
fn start(edge: &Data<Edge>) {
    let samples = &edge.parts.samples;
    if std::mem::replace(&mut samples.shared().is_sampling, true) {
        return;
    }
    let (edge, mut ends) = (edge.clone(), Ends(Some(Arc::clone(samples))));
    actix_rt::spawn(async move {
        let (mut before, mut at) = (Reading::of(&edge.parts.metrics), Instant::now());
        let mut turns = tokio::time::interval(EVERY);
        turns.tick().await;
        // The services are told at once, the rates after a turn.
        edge.parts.samples.tell(None, services(&edge).await);
        loop {
            turns.tick().await;
            if !edge.parts.samples.is_read() {
                // Another one may have been started since that was noted.
                ends.were_noted();
                return;
            }
            let (reading, time) = (Reading::of(&edge.parts.metrics), at.elapsed());
            at = Instant::now();
            let sample = sample(&edge, &reading.since(&before, time));
            before = reading;
            edge.parts.samples.tell(Some(sample), services(&edge).await);
        }
    });
}

/// However the task ends, another may be started.
struct Ends(Option<Arc<Samples>>);

impl Ends {
    fn were_noted(&mut self) {
        self.0 = None;
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(samples) = &self.0 {
            samples.shared().is_sampling = false;
        }
    }
}

fn sample(edge: &Edge, figures: &Figures) -> String {
    let Figures { published, pushed, delivered, failed, publish_p50, publish_p99 } = figures;
    let parts = &edge.parts;
    let pending: i64 = parts.services.iter().map(|service| service.slot.pending_total()).sum();
    let dead: i64 = parts.services.iter().map(|service| service.slot.dead()).sum();
    json!([
        now().0 / 1000,
        published,
        pushed,
        delivered,
        failed,
        publish_p50,
        publish_p99,
        parts.metrics.sessions.get(),
        parts.metrics.queued_bytes(),
        pending,
        dead,
    ])
    .to_string()
}

/// The services, as far as an overview tells of them.
async fn services(edge: &Edge) -> String {
    let shown = states(edge).await.unwrap_or_default().into_iter().map(|told| {
        let age = told["oldest_pending_age_seconds"].as_f64().map(|age| (age / AGE_STEP).floor() * AGE_STEP);
        json!({
            "service": told["service"],
            "state": told["state"],
            "paused": told["paused"],
            "breaker": told["breaker"]["state"],
            "pending": told["pending"],
            "dead": told["dead"],
            "oldest_pending_age_seconds": age,
            "last_error": told["last_errors"][0]["error"],
        })
    });
    Value::from_iter(shown).to_string()
}

fn frame(event: &str, data: &str) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}
