//! Clocks that are wrong for a while. Needs the feature `fault-injection`: the wall clock is off by what a file says.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::{Builder, metric};
use crate::support::service::{Answer, Delivery, Service};
use crate::support::{Backend, Server, eventually};

/// Seconds of 400 days.
const FAR: i64 = 400 * 24 * 60 * 60;

/// A server whose clock counts as steady after this many milliseconds, not a minute.
fn builder(steady: u64) -> Builder {
    let builder = Server::builder().backend(Backend::Sqlite).file("clock", "0");
    let file = builder.dir().join("clock").display().to_string();
    builder.env("EVENT_HANDLER_FAULT_CLOCK", file).env("EVENT_HANDLER_FAULT_CLOCK_STEADY", steady)
}

fn set(server: &Server, seconds: i64) {
    set_in(&server.spec(), seconds);
}

fn set_in(spec: &Builder, seconds: i64) {
    // Moved into place: never read half written.
    let new = spec.dir().join("clock.new");
    std::fs::write(&new, seconds.to_string()).expect("a writable folder");
    std::fs::rename(new, spec.dir().join("clock")).expect("a writable folder");
}

/// By how many whole days an event is dated wrong.
fn days_off(event: &Value) -> i64 {
    let at: jiff::Timestamp = event["created_at"].as_str().expect("a text").parse().expect("a time");
    (at.duration_since(jiff::Timestamp::now()).as_secs_f64() / 86_400.0).round() as i64
}

fn published(server: &Server) -> Value {
    let id = server.publish("a", json!({}));
    server.get(&format!("/events/{id}")).data()
}

fn in_seconds(seconds: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)).to_string()
}

fn schedule(server: &Server, event_name: &str, seconds: i64) {
    server.post("/publish", json!({"event_name": event_name, "deliver_at": in_seconds(seconds)})).data();
}

fn names(server: &Server) -> Vec<String> {
    server.events("").iter().map(|event| event["event_name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The attempts to deliver an event.
fn attempts(service: &Service, id: i64) -> Vec<Delivery> {
    service.deliveries().into_iter().filter(|delivery| delivery.event_id == id).collect()
}

#[test]
fn a_moment_of_a_wrong_clock_deletes_nothing_and_sets_nothing_off() {
    for off in [FAR, -FAR] {
        let server = builder(3_600_000).env("EVENT_HANDLER__RETENTION__MAX_AGE", "1h").start();
        published(&server);
        published(&server);
        schedule(&server, "in.months", 100 * 24 * 60 * 60);
        set(&server, off);
        server.wait_for_log(|line| line["msg"].as_str().is_some_and(|msg| msg.starts_with("the clock was set")));
        eventually("it is measured", || {
            let departure = metric(&server, "event_handler_clock_departure_seconds");
            ((departure - off as f64).abs() < 60.0).then_some(())
        });
        assert_eq!(days_off(&published(&server)), 0);
        schedule(&server, "soon", 2);
        set(&server, 0);
        server.wait_for_log(|line| line["msg"] == "the clock is right again");
        assert_eq!(days_off(&published(&server)), 0);
        // Nothing was done that cannot be taken back, nor is it now.
        assert_eq!(names(&server), ["a"; 4]);
        assert_eq!(server.get("/schedules").data().as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn after_a_long_time_of_a_wrong_clock_everything_is_as_it_should_be() {
    let service = Service::answering(|_| Answer::Status(500));
    let builder = builder(1_000)
        .env("EVENT_HANDLER__PUBLISH__IDEMPOTENCY_WINDOW", "1s")
        .env("EVENT_HANDLER__RETENTION__MAX_AGE", "2s")
        .env("EVENT_HANDLER__DELIVERY__MAX_ATTEMPTS", 1_000)
        .env("EVENT_HANDLER__DELIVERY__RETRY_BASE", "1s")
        .env("EVENT_HANDLER__DELIVERY__RETRY_CAP", "1s")
        .env("EVENT_HANDLER__DELIVERY__BREAKER_OPEN_FOR", "1s")
        .env("EVENT_HANDLER__DELIVERY__BREAKER_OPEN_CAP", "1s")
        .env("AUCTION_MANAGER_URL", service.url());
    for restarted in [false, true] {
        set_in(&builder, FAR);
        let mut server = builder.clone().backend(Backend::Sqlite).start();
        let keyed = json!({"event_name": "keyed", "idempotency_key": format!("k{restarted}")});
        let first = server.post("/publish", &keyed).event_id();
        assert_eq!(days_off(&server.get(&format!("/events/{first}")).data()), 400);
        eventually("attempts have failed", || (attempts(&service, first).len() > 1).then_some(()));
        if restarted {
            server.kill9();
        }
        set_in(&builder, 0);
        if restarted {
            server.restart();
        }
        // Dates are true again, and found by them.
        let event = eventually("dates are true", || Some(published(&server)).filter(|event| days_off(event) == 0));
        let around = server.events(&format!("?since={}&until={}", in_seconds(-3_600), in_seconds(3_600)));
        assert!(around.iter().any(|found| found["id"] == event["id"]), "{around:?}");
        assert!(around.iter().all(|found| found["id"] != first), "{around:?}");
        // Windows end.
        eventually("the idempotency window ends", || {
            (server.post("/publish", &keyed).event_id() > first).then_some(())
        });
        // What was held back is done.
        schedule(&server, "soon", 2);
        eventually("the schedule is due", || names(&server).contains(&"soon".to_owned()).then_some(()));
        // Deliveries go on.
        service.behave(|_| Answer::Status(200));
        eventually("what failed is delivered", || {
            attempts(&service, first).iter().any(|d| d.is_accepted()).then_some(())
        });
        // What is old goes.
        eventually("the wrong dates are trimmed", || {
            published(&server);
            (server.get(&format!("/events/{first}")).status == 404).then_some(())
        });
        service.behave(|_| Answer::Status(500));
    }
}

/// One that waits, and one that has ended at once.
const SAGAS: &str = r#"
[[sagas]]
name = "long"
version = 1
trigger = { event = "begin" }
correlation = "/n"
[[sagas.steps]]
name = "rest"
wait = "1h"

[[sagas]]
name = "short"
version = 1
trigger = { event = "begin" }
correlation = "/n"
[[sagas.steps]]
name = "note"
publish = { event = "noted", payload = {} }
"#;

#[test]
fn a_clock_that_is_wrong_at_the_start_is_found_out_by_the_log() {
    let builder = builder(3_600_000).file("c.toml", SAGAS).env("EVENT_HANDLER_CONFIG", "c.toml");
    let mut server = builder.env("EVENT_HANDLER__RETENTION__MAX_AGE", "1h").start();
    published(&server);
    published(&server);
    schedule(&server, "in.months", 100 * 24 * 60 * 60);
    server.publish("begin", json!({"n": 1}));
    let states = |server: &Server| {
        let sagas = server.get("/sagas").data();
        let state = |saga: &Value| saga["state"].as_str().unwrap_or_default().to_owned();
        let mut states: Vec<String> = sagas.as_array().expect("a list").iter().map(state).collect();
        states.sort_unstable();
        states
    };
    eventually("sagas run", || (states(&server) == ["completed", "waiting"]).then_some(()));
    server.kill9();
    set(&server, FAR);
    server.restart();
    server.wait_for_log(|line| line["msg"].as_str().is_some_and(|msg| msg.starts_with("the newest event is from")));
    set(&server, 0);
    eventually("dates are true", || (days_off(&published(&server)) == 0).then_some(()));
    // Time enough for what must not be done.
    std::thread::sleep(Duration::from_secs(1));
    assert!(!names(&server).contains(&"in.months".to_owned()), "{:?}", names(&server));
    assert_eq!(server.get("/events/1").status, 200);
    assert_eq!(states(&server), ["completed", "waiting"], "no timer has fired, and what has ended is kept");
}

#[test]
fn nodes_on_one_database_share_its_time() {
    let right = builder(60_000).backend(Backend::Postgres).start();
    std::fs::write(right.dir().join("wrong"), FAR.to_string()).expect("a writable folder");
    let wrong = right.spec().env("EVENT_HANDLER_FAULT_CLOCK", right.dir().join("wrong").display()).start();
    wrong.wait_for_log(|line| line["msg"].as_str().is_some_and(|msg| msg.starts_with("this machine's clock differs")));
    for server in [&right, &wrong, &right] {
        assert_eq!(days_off(&published(server)), 0);
    }
    // Nor does it matter when it is set while the node runs.
    set(&right, -FAR);
    schedule(&right, "soon", 2);
    eventually("the schedule is due", || names(&wrong).contains(&"soon".to_owned()).then_some(()));
    assert_eq!(days_off(&published(&right)), 0);
}

/// It reads the clock in the middle of setting up, and of being set up.
#[test]
fn the_program_runs_under_libfaketime() {
    let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let library = found.expect("libfaketime is installed");
    let server = Server::builder()
        .env("LD_PRELOAD", library)
        .env("FAKETIME", "+400d")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
        .start();
    assert_eq!(days_off(&published(&server)), 400);
}
