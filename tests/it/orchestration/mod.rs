//! Sagas that run: over real services, kills, and two nodes.

mod bounds;
mod crashes;
mod outcomes;
mod refused_events;
mod storm;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::support::server::Builder;
use crate::support::service::Delivery;
use crate::support::{Answer, Backend, Server, Service, eventually};

/// A service that takes part in sagas: it does each action once, and undoes it once, in whatever order they come.
///
/// An action that comes after its compensation does nothing.
pub struct Participant {
    pub service: Service,
    pub ledger: Arc<Mutex<Ledger>>,
}

/// What it has done, by saga and step.
#[derive(Debug, Default)]
pub struct Ledger {
    pub done: BTreeSet<(String, String)>,
    pub undone: BTreeSet<(String, String)>,
    /// How often each request came, by its key.
    pub came: BTreeMap<String, usize>,
    /// In the order in which they came first: operation and step.
    pub order: Vec<String>,
    /// Where a request with a key that is known differs from the first one.
    pub changed: Vec<String>,
    bodies: BTreeMap<String, Vec<u8>>,
}

impl Ledger {
    fn came(&mut self, delivery: &Delivery, (saga, step, operation): (&str, &str, &str), key: String) {
        let expected = match operation {
            "action" => format!("saga/{saga}/{step}"),
            _ => format!("saga/{saga}/{step}/compensation"),
        };
        if key != expected {
            self.changed.push(format!("{key} is not {expected}"));
        }
        if *self.bodies.entry(key.clone()).or_insert_with(|| delivery.body.clone()) != delivery.body {
            self.changed.push(key.clone());
        }
        let count = self.came.entry(key).or_default();
        *count += 1;
        if *count == 1 {
            self.order.push(format!("{operation} {step}"));
        }
    }

    /// What has been done and not undone.
    pub fn in_effect(&self) -> BTreeSet<(String, String)> {
        self.done.difference(&self.undone).cloned().collect()
    }
}

impl Participant {
    /// `fault` may say otherwise before anything is done; what it says is not remembered.
    pub fn start(fault: impl Fn(&Delivery, &str) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let ledger = Arc::<Mutex<Ledger>>::default();
        Self { service: Service::answering(behaviour(&ledger, fault)), ledger }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

/// What a participant does.
pub fn behaviour<F>(ledger: &Arc<Mutex<Ledger>>, fault: F) -> impl Fn(&Delivery) -> Answer + Send + Sync + use<F>
where
    F: Fn(&Delivery, &str) -> Option<Answer> + Send + Sync + 'static,
{
    let ledger = Arc::clone(ledger);
    move |delivery| {
        let header = |name: &str| delivery.header(name).unwrap_or_default().to_owned();
        let (saga, step, operation) = (header("saga-id"), header("saga-step"), header("saga-operation"));
        if !operation.is_empty() {
            lock(&ledger).came(delivery, (&saga, &step, &operation), header("idempotency-key"));
        }
        if let Some(answer) = fault(delivery, &step) {
            return answer;
        }
        let (mut ledger, what) = (lock(&ledger), (saga, step));
        match &*operation {
            "" if !ledger.done.contains(&what) => return Answer::Status(404),
            "action" if !ledger.undone.contains(&what) => drop(ledger.done.insert(what)),
            "compensation" => drop(ledger.undone.insert(what)),
            _ => {}
        }
        Answer::Full(200, vec!["Content-Type: application/json".to_owned()], r#"{"n":1}"#.to_owned())
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server with these sagas, whose services are all one participant under two names.
pub fn server(backend: Backend, sagas: &str, participant: &Participant) -> Server {
    configured(Server::builder().backend(backend), sagas, participant).start()
}

pub fn configured(builder: Builder, sagas: &str, participant: &Participant) -> Builder {
    // They get calls and no events.
    let options = [
        ("routes", "nothing"),
        ("retry_base", "10ms"),
        ("retry_cap", "50ms"),
        ("timeout", "5s"),
        ("breaker_consecutive", "0"),
    ];
    let builder = builder.file("conf.toml", sagas).env("EVENT_HANDLER_CONFIG", "conf.toml");
    let builder = participant.service.configure(builder, "bank", &options);
    participant.service.configure(builder, "chain", &options)
}

/// What is told of sagas, in order: what, of which correlation value.
pub fn told(server: &Server) -> Vec<(String, Value)> {
    let events = server.events("?event_name=$sys.saga.*&limit=1000");
    let what = |event: &Value| {
        event["event_name"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default().to_owned()
    };
    events.iter().map(|event| (what(event), event["payload"]["correlation"].clone())).collect()
}

/// The only instance with this value, once it is in one of these states.
pub fn becomes(server: &Server, correlation: &Value, states: &[&str]) -> Value {
    let path = format!("/sagas?correlation={}", percent(&correlation.to_string()));
    eventually(&format!("{correlation} becomes one of {states:?}"), || {
        let found = server.get(&path).data();
        let found = found.as_array()?.first()?.clone();
        states.iter().any(|state| found["state"] == *state).then_some(found)
    })
}

pub fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// An instance with its journal.
pub fn shown(server: &Server, instance: &Value) -> Value {
    let id = instance["id"].as_str().expect("an id");
    server.get(&format!("/sagas/{id}")).data()
}

pub fn steps(shown: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = shown["steps"].as_array().cloned().unwrap_or_default();
    steps.iter().map(|step| (text(&step["name"]), text(&step["state"]))).collect()
}

pub fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Two reservations, a transfer that is awaited, and an event.
pub const SETTLE: &str = r#"
[[sagas]]
name = "settle"
version = 1
trigger = { event = "auction.ended", filter = { winner = [{ exists = true }] } }
correlation = "/auction"
deadline = "10m"

[[sagas.steps]]
name = "reserve"
call = { service = "bank", path = "/reservations", body = { auction = "${trigger.payload.auction}", of = "${trigger.payload.winner}" } }
compensate = { call = { service = "bank", path = "/reservations/${trigger.payload.auction}/cancel" } }
retry = { max_attempts = 3, retry_base = "5ms", retry_cap = "10ms" }

[[sagas.steps]]
name = "transfer"
call = { service = "chain", path = "/transfers", body = { n = "${steps.reserve.response.n}" } }
await = { event = "transfer.*", correlation = "/auction", success = { ok = [true] }, failure = { ok = [false] }, timeout = "1m" }
compensate = { call = { service = "chain", path = "/transfers/cancel" } }
retry = { max_attempts = 3, retry_base = "5ms", retry_cap = "10ms" }

[[sagas.steps]]
name = "announce"
publish = { event = "auction.settled", payload = { auction = "${trigger.payload.auction}", tx = "${steps.transfer.event.payload.tx}" }, key = "${saga.correlation}" }
"#;

pub fn ended(auction: i64) -> Value {
    json!({ "auction": auction, "winner": "ada" })
}

/// A series of the metrics; 0 if there is none.
pub fn metric_of(server: &Server, series: &str) -> f64 {
    let text = String::from_utf8(server.get("/metrics").body).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}
