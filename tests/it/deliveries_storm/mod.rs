//! Four services, one healthy, one slow, one flapping, one down for a while, and `kill -9` in the middle: every event
//! reaches each of them, in the order of its key, and the healthy one does not notice the others.

mod faults;
mod service;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::service::{Health, Service};
use crate::support::http::Request;
use crate::support::server::Builder;
use crate::support::{Backend, Server};

/// Requests under way to one service, by default.
const CONCURRENCY: usize = 16;
/// Deliveries of one service that may have ended without being settled.
const UNSETTLED: usize = 256;
const OPEN_FOR: Duration = Duration::from_millis(300);
/// What other tests on the same machine may cost; half of the time after which an attempt is given up.
const SLACK: Duration = Duration::from_secs(3);
/// For all that is left to be delivered.
const PATIENCE: Duration = Duration::from_secs(120);

/// Names of the services, in the order in which they are configured.
const NAMES: [&str; 4] = ["healthy", "slow", "flapping", "down"];

#[test]
fn sqlite_delivers_everything_through_kills_and_illness() {
    storm(Backend::Sqlite);
}

#[test]
fn postgres_delivers_everything_through_kills_and_illness() {
    storm(Backend::Postgres);
}

fn storm(backend: Backend) {
    const KILLS: usize = 2;
    let services = NAMES.map(|_| Service::start(Health::Well));
    let [healthy, slow, flapping, down] = &services;
    let mut server = configured(&services).backend(backend).start();
    let mut stream = Stream::default();

    // A batch is published when the healthy service has the one before: what it waits for is not its own backlog.
    let well = paced(&mut stream, &server, healthy, 40);
    slow.set(Health::Slow(Duration::from_millis(5)));
    flapping.set(Health::Flapping(Duration::from_millis(400)));
    drain(&server, down, &stream);
    down.set(Health::Down);
    let (went_down, before) = (Instant::now(), down.requests());
    let ill = paced(&mut stream, &server, healthy, 60);
    let bound = well * 3 + SLACK;
    eprintln!("{backend:?}: p99 of the healthy service {well:?} with others healthy, {ill:?} with others ill");
    assert!(ill <= bound, "{ill:?} instead of {well:?}");

    for _ in 0..KILLS {
        (0..10).for_each(|_| stream.publish(&server, 500));
        server.kill9();
        server.restart();
    }
    let (outage, probes) = (went_down.elapsed(), down.requests() - before);
    // Until it opens, and what a kill keeps from being stored; then one at a time.
    let first = (1 + KILLS) * (CONCURRENCY + 5);
    let most = first + (outage.as_millis() / OPEN_FOR.as_millis()) as usize + 1;
    eprintln!("{probes} requests to the service that was down for {outage:?}");
    assert!(probes <= most, "{probes} requests to a service that was down for {outage:?}");
    down.set(Health::Well);

    for (service, name) in services.iter().zip(NAMES) {
        // Each was ill until those before it had everything.
        service.set(Health::Well);
        drain(&server, service, &stream);
        service.assert_order(name);
        let duplicates = service.duplicates();
        eprintln!("{name}: {} requests, {duplicates} duplicates", service.requests());
        assert!(duplicates <= KILLS * (CONCURRENCY + UNSETTLED), "{name}: {duplicates} duplicates");
        let most = service.arrivals().iter().map(|arrival| arrival.under_way).max();
        // What a killed process had under way may still be there.
        assert!(most <= Some(2 * CONCURRENCY), "{name}: {most:?} at once");
    }
    assert_eq!(stream.ids.len(), 20_000);
    let dead = server
        .get("/metrics")
        .text()
        .lines()
        .any(|l| l.starts_with("event_handler_") && l.contains("dead") && !l.ends_with(" 0"));
    assert!(!dead, "nothing is given up");
}

/// Four services, with fast retries and breakers.
fn configured(services: &[Service]) -> Builder {
    let mut file = String::from(
        "[delivery]\nretry_base = \"50ms\"\nretry_cap = \"500ms\"\nmax_attempts = 1000\nretry_budget = 1.0\n\
         retry_budget_min = 500\ntimeout = \"6s\"\nbreaker_open_for = \"300ms\"\nbreaker_open_cap = \"600ms\"\n\
         breaker_slow_start = \"100ms\"\n",
    );
    for (service, name) in services.iter().zip(NAMES) {
        let _ = write!(file, "[[services]]\nname = \"{name}\"\nurl = \"{}\"\n", service.url());
    }
    Server::builder().file("storm.toml", &file).env("EVENT_HANDLER_CONFIG", "storm.toml")
}

/// Events of mixed priorities and keys, and the ids they got.
#[derive(Default)]
struct Stream {
    ids: Vec<i64>,
}

impl Stream {
    fn publish(&mut self, server: &Server, count: usize) {
        let event = |n: usize| {
            let priority = ["high", "normal", "normal", "low"][n * 7 % 4];
            match n % 10 {
                0..=2 => json!({"event_name": "storm", "priority": priority, "payload": {"n": n}}),
                _ => {
                    let key = format!("key-{}", n * 31 % 211);
                    json!({"event_name": "storm", "priority": priority, "key": key, "payload": {"n": n, "key": key}})
                }
            }
        };
        let first = self.ids.len();
        let events: Vec<Value> = (first..first + count).map(event).collect();
        let stored = Request::new(server.addr(), "POST", "/publish/batch").json(Value::from(events)).send().data();
        let [first, last] = ["first_id", "last_id"].map(|name| stored[name].as_i64().expect("an id"));
        self.ids.extend(first..=last);
    }
}

/// Publishes batches of 100, each when `service` has the one before; the 99th percentile of its latencies.
fn paced(stream: &mut Stream, server: &Server, service: &Service, batches: usize) -> Duration {
    let from = service.requests();
    for _ in 0..batches {
        stream.publish(server, 100);
        drain(server, service, stream);
    }
    let mut latencies: Vec<_> = service.arrivals()[from..].iter().map(|arrival| arrival.latency).collect();
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

/// Waits until `service` has taken everything.
fn drain(server: &Server, service: &Service, stream: &Stream) {
    let deadline = Instant::now() + PATIENCE;
    let mut missing: Vec<i64> = stream.ids.clone();
    while !missing.is_empty() {
        service.keep_missing(&mut missing);
        if Instant::now() > deadline {
            let report = server.get("/admin/actors").text().to_owned();
            panic!("{} are missing, from {:?} on\n{report}", missing.len(), missing.first());
        }
        std::thread::sleep(Duration::from_millis(if missing.len() > 200 { 50 } else { 1 }));
    }
}
