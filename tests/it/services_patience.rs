//! Services that limit their rate, are being deployed, or refuse; and a machine that has no room.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::services::{HASTY, deliveries, operate, start, told};
use crate::support::http::{Connection, Request};
use crate::support::{Answer, Backend, Service, eventually, for_each_backend};

/// One that takes `limit` requests in each `window`, and asks those who come too often to wait for a second.
fn limited(limit: usize, window: Duration) -> Service {
    let taken: Mutex<Vec<Instant>> = Mutex::default();
    Service::answering(move |_| {
        let mut taken = taken.lock().expect("no panic");
        taken.retain(|at| at.elapsed() < window);
        if taken.len() >= limit {
            return Answer::Full(429, vec!["Retry-After: 1".into()], String::new());
        }
        taken.push(Instant::now());
        Answer::Status(200)
    })
}

#[test]
fn a_service_that_limits_its_rate_gets_everything_at_no_cost() {
    for_each_backend(|backend| {
        let service = limited(5, Duration::from_millis(500));
        let server = start(backend, &service, &[("max_attempts", "2"), ("breaker_consecutive", "2")]);
        let events: Vec<Value> = (0..25).map(|n| json!({"event_name": "a", "payload": n})).collect();
        server.post("/publish/batch", json!(events)).data();
        service.wait_for_accepted(&(1..=25).collect::<Vec<_>>());
        let refused = service.deliveries().iter().filter(|delivery| !delivery.is_accepted()).count();
        assert!((1..=25).contains(&refused), "{refused} of 25 were too many at first, and few later");
        eventually("everything is settled", || (told(&server)["pending"] == 0).then_some(()));
        let delivered = deliveries(&server, "?state=delivered");
        assert_eq!(delivered.len(), 25);
        assert!(delivered.iter().all(|delivery| delivery["attempts"] == 1), "{delivered:?}");
        let told = told(&server);
        assert_eq!((&told["dead"], &told["breaker"]["openings"]), (&json!(0), &json!(0)), "{told}");
        assert_eq!(told["breaker"]["failures"], 0, "{told}");
        assert!(told["last_errors"][0]["error"].as_str().is_some_and(|e| e.contains("answered 429")), "{told}");
    });
}

#[test]
fn it_is_shown_until_when_a_service_has_asked_for_time() {
    let service = Service::answering(|_| Answer::Full(503, vec!["Retry-After: 7200".into()], String::new()));
    let server = start(Backend::Sqlite, &service, &[("retry_after_cap", "30m")]);
    let id = server.publish("a", json!({}));
    service.wait_for(1);
    let told = eventually("it waits", || Some(told(&server)).filter(|told| told["waits_for"] == "retry_after"));
    assert!(told["next_attempt_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{told}");
    assert_eq!((&told["breaker"]["state"], &told["pending"]), (&json!("closed"), &json!(1)), "{told}");
    let explained = server.post("/admin/explain", json!({"event_name": "a"})).data();
    assert_eq!(explained["services"][0]["waits_for"], "the time that it has asked for", "{explained}");
    assert_eq!(deliveries(&server, "?state=pending")[0]["attempts"], 0);
    // An operator knows better.
    service.answer(200);
    operate(&server, "reset");
    service.wait_for_accepted(&[id]);
}

#[test]
fn without_retry_after_a_refusal_for_now_counts() {
    let service = Service::answering(|_| Answer::Status(429));
    let server = start(Backend::Sqlite, &service, HASTY);
    server.publish("a", json!({}));
    let dead = eventually("it is dead", || deliveries(&server, "?state=dead").pop());
    assert_eq!((&dead["attempts"], &dead["http_status"]), (&json!(3), &json!(429)), "{dead}");
}

#[test]
fn a_retry_that_is_due_later_is_shown_with_its_time() {
    let service = Service::answering(|_| Answer::Status(500));
    let server = start(Backend::Sqlite, &service, &[("retry_delays", "1h"), ("breaker_consecutive", "0")]);
    assert_eq!(told(&server)["waits_for"], "empty");
    server.publish("a", json!({}));
    let told = eventually("it waits", || Some(told(&server)).filter(|told| told["waits_for"] == "retry"));
    let due = deliveries(&server, "?state=pending").remove(0)["due_at"].clone();
    assert_eq!(told["next_attempt_at"], due, "{told}");
    let shown = server.spec().env("PORT", server.addr().port()).arg("services").run();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("  retry 3") || shown.contains("  retry 2"), "in nearly an hour: {shown}");
}

#[test]
fn a_path_that_is_missing_during_a_deployment_is_tried_again() {
    let service = Service::answering(|delivery| Answer::Status(if delivery.repeated < 2 { 404 } else { 200 }));
    let options = [("retry_404", "2"), ("breaker_consecutive", "1"), ("retry_delays", "1ms,1ms,1ms")];
    let server = start(Backend::Sqlite, &service, &options);
    let id = server.publish("a", json!({}));
    service.wait_for_accepted(&[id]);
    assert_eq!(told(&server)["breaker"]["openings"], 0);
    service.answer(404);
    server.publish("b", json!({}));
    let dead = eventually("it is dead", || deliveries(&server, "?state=dead").pop());
    assert_eq!((&dead["attempts"], &dead["dead_reason"]), (&json!(3), &json!("rejected")), "{dead}");
}

#[test]
fn a_service_that_refuses_everything_is_told_of_once() {
    let service = Service::answering(|_| Answer::Status(404));
    let server = start(Backend::Sqlite, &service, &[("routes", "a")]);
    let refusing = || server.events("?event_name=$sys.service.refusing");
    let publish = |count: usize| {
        let events: Vec<Value> = (0..count).map(|_| json!({"event_name": "a"})).collect();
        server.post("/publish/batch", json!(events)).data();
        eventually("all are settled", || (told(&server)["pending"] == 0).then_some(()));
    };
    publish(19);
    assert_eq!(refusing(), Vec::<Value>::new());
    service.answer(403);
    publish(30);
    let told = eventually("it is told", || refusing().pop());
    assert_eq!(told["payload"]["service"], "billing", "{told}");
    assert_eq!((&told["payload"]["refusals"], &told["payload"]["http_status"]), (&json!(20), &json!(403)), "{told}");
    server.wait_for_log(|line| line["msg"] == "delivery is dead" && line["service"] == "billing");
    service.answer(200);
    publish(1);
    service.answer(404);
    publish(20);
    eventually("the next series is told, too", || (refusing().len() == 2).then_some(()));
}

#[test]
fn running_out_of_descriptors_costs_nothing() {
    // A name cannot be looked up then, either.
    for host in ["127.0.0.1", "localhost"] {
        without_descriptors(host);
    }
}

fn without_descriptors(host: &str) {
    let service = Service::start();
    let url = service.url().replace("127.0.0.1", host);
    let options = [("url", url.as_str()), ("max_attempts", "1"), ("breaker_consecutive", "1")];
    let server = start(Backend::Sqlite, &service, &options);
    let mut connection = Connection::open(server.addr()).expect("a connection");
    let mut get = |path: &str| connection.send(&Request::new(server.addr(), "GET", path)).expect("an answer");
    assert_eq!(get("/health").status, 200);
    let pid = Pid::from_raw(server.pid() as i32).expect("a process");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |files| prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(files), maximum });
    let had = limit(0).expect("a limit of its own");
    let body = json!({"event_name": "a", "payload": {}});
    let publish = Request::new(server.addr(), "POST", "/publish").json(body);
    let id = connection.send(&publish).expect("an answer").event_id();
    let mut get = |path: &str| connection.send(&Request::new(server.addr(), "GET", path)).expect("an answer");
    eventually("it could not be sent", || {
        let metrics = get("/metrics");
        metrics.text().lines().any(|line| line.contains("put_off") && !line.ends_with(" 0")).then_some(())
    });
    limit(had.current.unwrap_or(4096)).expect("the limit that it had");
    service.wait_for_accepted(&[id]);
    let delivered = eventually("it is delivered", || deliveries(&server, "?state=delivered").pop());
    assert_eq!(delivered["attempts"], 1, "{delivered}");
    assert_eq!(told(&server)["breaker"]["openings"], 0);
}
