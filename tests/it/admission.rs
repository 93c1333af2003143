//! Publishes that cannot be committed now: refused at once, or told in time; and keys that make repeating safe.

use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, SqliteConnection};
use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::server::{Builder, metric};
use crate::support::{Backend, Server, eventually, for_each_backend};

const BACKLOG: usize = 8;

/// Waits long for its store, and lets few wait with it.
pub fn patient() -> Builder {
    Server::builder()
        .backend(Backend::Sqlite)
        .env("EVENT_HANDLER__STORE__BUSY_TIMEOUT", "30s")
        .env("EVENT_HANDLER__PUBLISH__BACKLOG_EVENTS", BACKLOG)
        .env("EVENT_HANDLER__PUBLISH__MAX_BATCH", BACKLOG)
}

/// Keeps every other process from writing until it is dropped.
pub fn lock(server: &Server) -> SqliteConnection {
    let path = server.dir().join("events.db");
    let mut other = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
    other.batch_execute("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").expect("the lock");
    other
}

fn wait_for_backlog(server: &Server, events: usize) {
    eventually(&format!("{events} events wait"), || {
        (metric(server, "event_handler_backlog_events") == events as f64).then_some(())
    });
}

fn publish(server: &Server, body: &Value) -> Response {
    server.post("/publish", body)
}

#[test]
fn beyond_the_backlog_publishes_are_refused_at_once() {
    let server = patient().start();
    let mut ws = server.ws();
    let locked = lock(&server);
    let event = |n: usize| json!({"event_name": "a", "payload": n});
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..BACKLOG)
            .map(|n| {
                scope.spawn({
                    let server = &server;
                    move || publish(server, &event(n))
                })
            })
            .collect();
        wait_for_backlog(&server, BACKLOG);
        let begin = Instant::now();
        for _ in 0..50 {
            let refused = publish(&server, &event(99));
            assert_eq!(refused.header("retry-after"), Some("1"));
            assert_eq!(refused.error(503)["code"], "overloaded");
        }
        let refused = server.post("/publish/batch", json!([event(99), event(99)]));
        assert_eq!(refused.error(503)["code"], "overloaded");
        let reply = ws.request(json!({"action": "publish", "event_name": "a", "payload": 99, "id": 1}));
        assert_eq!((&reply["error"]["code"], &reply["error"]["retry_after_ms"]), (&json!("overloaded"), &json!(1000)));
        assert!(begin.elapsed() < Duration::from_secs(5), "refusing took {:?}", begin.elapsed());
        drop(locked);
        let mut ids: Vec<i64> = waiting.into_iter().map(|p| p.join().expect("no panic").event_id()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=BACKLOG as i64).collect::<Vec<_>>());
    });
    wait_for_backlog(&server, 0);
    assert_eq!(publish(&server, &event(0)).event_id(), BACKLOG as i64 + 1, "nothing refused was stored");
}

#[test]
fn a_commit_that_takes_too_long_is_told_and_can_be_repeated_safely() {
    let server = patient().env("EVENT_HANDLER__PUBLISH__COMMIT_TIMEOUT", "500ms").start();
    let locked = lock(&server);
    let event = json!({"event_name": "a", "payload": 1, "idempotency_key": "k"});
    let late = publish(&server, &event);
    assert_eq!((late.header("retry-after"), &late.error(503)["code"]), (Some("1"), &json!("commit_timeout")));
    drop(locked);
    let repeated = eventually("the store answers again", || {
        let response = publish(&server, &event);
        if response.status == 503 {
            response.error(503);
            return None;
        }
        Some(response)
    });
    assert_eq!(repeated.event_id(), 1);
    assert_eq!(server.events("").len(), 1, "stored once, whichever attempt did it");
}

#[test]
fn who_waits_behind_a_hanging_commit_is_told_in_time() {
    let server =
        patient().env("EVENT_HANDLER__SERVER__WORKERS", 1).env("EVENT_HANDLER__PUBLISH__COMMIT_TIMEOUT", "3s").start();
    let locked = lock(&server);
    let begin = Instant::now();
    let refused: Vec<Response> = thread::scope(|scope| {
        let waiting: Vec<_> = (0..BACKLOG)
            .map(|n| {
                let server = &server;
                let publish = scope.spawn(move || publish(server, &json!({"event_name": "a", "payload": n})));
                wait_for_backlog(server, n + 1);
                publish
            })
            .collect();
        waiting.into_iter().map(|publish| publish.join().expect("no panic")).collect()
    });
    // Two batches are under way, each with one publish or a few that came together.
    let under_way = refused.iter().take_while(|refused| refused.error(503)["code"] == "commit_timeout").count();
    assert!((2..BACKLOG).contains(&under_way), "{under_way} were under way");
    for behind in &refused[under_way..] {
        assert_eq!(behind.error(503)["code"], "store_unavailable");
        assert!(behind.text().contains("an earlier commit hangs"), "{}", behind.text());
    }
    assert!(begin.elapsed() < Duration::from_secs(15), "they waited for {:?}", begin.elapsed());
    wait_for_backlog(&server, 0);
    drop(locked);
    eventually("the store answers again", || {
        (publish(&server, &json!({"event_name": "a", "payload": "after"})).status == 200).then_some(())
    });
    let stored: Vec<Value> = server.events("").into_iter().map(|mut event| event["payload"].take()).collect();
    let allowed = |payload: &Value| payload == "after" || payload.as_u64().is_some_and(|n| n < under_way as u64);
    assert!(stored.iter().all(allowed), "what was not sent is not stored: {stored:?}");
}

#[test]
fn idempotency_keys_outlive_the_process() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let event = json!({"event_name": "a", "payload": {"n": 1}, "idempotency_key": "k"});
        let batch = json!([{"event_name": "b"}, {"event_name": "c", "idempotency_key": "in-batch"}]);
        let batch = |server: &Server| {
            server.request("POST", "/publish/batch").header("Idempotency-Key", "batch").json(&batch).send()
        };
        let id = publish(&server, &event).event_id();
        let batch_data = batch(&server).data();
        for graceful in [false, true, false] {
            if graceful {
                assert!(server.terminate().success());
            }
            server.restart();
            let again = publish(&server, &event);
            assert_eq!((again.event_id(), again.header("idempotent-replayed")), (id, Some("true")));
            let again = batch(&server);
            assert_eq!((again.data(), again.header("idempotent-replayed")), (batch_data.clone(), Some("true")));
            let other = json!({"event_name": "a", "payload": {"n": 2}, "idempotency_key": "k"});
            assert_eq!(publish(&server, &other).error(422)["code"], "idempotency_key_reused");
        }
        assert_eq!(server.events("").len(), 3);
    });
}
