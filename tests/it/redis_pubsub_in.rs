//! What others publish by Redis becomes events, and nothing goes in circles.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::redis_ingest::wait_for_bus;
use crate::redis_pubsub_out::{ALL, by_part, sending, wait_until_held};
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, metric, wait_for_status};
use crate::support::{Backend, Redis, Server, eventually, for_each_backend};

/// A server that hears what is published by `redis`.
pub fn hearing(redis: &Redis, backend: Backend) -> Builder {
    sending(redis, backend)
        .env("EVENT_HANDLER__REDIS__PUBSUB__OUT", "false")
        .env("EVENT_HANDLER__REDIS__PUBSUB__IN", "true")
}

pub fn start(builder: Builder) -> Server {
    let server = builder.start();
    wait_until_held(&server, "pubsub_in");
    server
}

/// An envelope as a service makes it.
pub fn envelope(id: impl ToString, name: &str, n: i64) -> String {
    json!({"id": id.to_string(), "timestamp": 1_690_891_200_123_i64, "type": name, "source": "AUCTION_ENGINE", "version": "1.0.0", "data": {"n": n}})
        .to_string()
}

pub fn count(server: &Server, outcome: &str) -> f64 {
    metric(server, &format!(r#"event_handler_pubsub_heard_total{{outcome="{outcome}"}} "#))
}

/// All numbers in the log of this node, in order.
fn numbers(server: &Server) -> Vec<i64> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = server.events(&format!("?limit=1000&after={after}"));
        let Some(last) = page.last() else { return found };
        after = last["id"].as_i64().expect("an id");
        found.extend(page.iter().filter_map(|event| event["payload"]["n"].as_i64()));
    }
}

fn wait_for_numbers(server: &Server, count: usize) -> Vec<i64> {
    eventually(&format!("{count} events"), || Some(numbers(server)).filter(|numbers| numbers.len() >= count))
}

#[test]
fn an_envelope_becomes_an_event_once() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let server = start(hearing(&redis, backend));
        let whole = r#"{"id":"x","timestamp":1690891200123,"type":"lot:won","source":"AUCTION_ENGINE","version":"1.0.0","data":{"z": 12345678901234567890123,"a":1.50},"more":1}"#;
        let least = r#"{"type":"lot:won","source":"CHAT","data":{}}"#;
        redis.publish_all("events:lot:won", [whole.to_owned()]);
        redis.publish_all(ALL, [whole, whole, least, least].map(str::to_owned));
        eventually("they are there", || (server.events("").len() == 3).then_some(()));
        let answer = server.get("/events");
        let text = answer.text();
        assert!(text.contains(r#""payload":{"z": 12345678901234567890123,"a":1.50}"#), "{text}");
        let event = server.events("").remove(0);
        let keys: Vec<_> = event.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["created_at", "event_name", "id", "payload", "source", "status"]);
        assert_eq!((&event["event_name"], &event["source"]), (&json!("lot:won"), &json!("AUCTION_ENGINE")));
        eventually("the other one is known", || (count(&server, "repeated") == 1.0).then_some(()));
        assert_eq!(count(&server, "stored"), 3.0);
        // What a publisher says cannot be taken for it.
        redis.publish_all(ALL, [envelope("key", "a", 1)]);
        server.post("/publish", json!({"event_name": "a", "payload": {"n": 1}, "idempotency_key": "key"}));
        wait_for_numbers(&server, 2);
    });
}

#[test]
fn what_cannot_be_an_event_is_counted_and_dropped() {
    let redis = Redis::start();
    let server = start(hearing(&redis, Backend::Sqlite));
    let long = format!(r#"{{"type":"a","source":"s","data":{{"x":"{}"}}}}"#, "x".repeat(2 << 20));
    let messages = [
        "hello",
        r#"{"source":"s","data":{}}"#,
        r#"{"type":"a","source":"s","data":1}"#,
        r#"{"type":"$sys.a","source":"s","data":{}}"#,
        r#"{"type":"all","source":"s","data":{}}"#,
        "{\"type\":\"a\",\"source\":\"s\",\"data\":{\"x\":\"\\u0000\"}}",
        &long,
    ];
    redis.publish_all(ALL, messages.map(str::to_owned));
    redis.publish_all(ALL, [envelope("x", "good", 7)]);
    let events = eventually("the good one", || Some(numbers(&server)).filter(|numbers| !numbers.is_empty()));
    assert_eq!(events, [7]);
    for (code, times) in [
        ("malformed_json", 1.0),
        ("missing_field", 1.0),
        ("invalid_field", 1.0),
        ("reserved_name", 2.0),
        ("body_too_large", 1.0),
    ] {
        assert_eq!(count(&server, code), times, "{code}");
    }
    wait_for_bus(&server, "ok");
}

/// A server that does both.
fn both(redis: &Redis, backend: Backend, name: &str) -> Builder {
    hearing(redis, backend).env("EVENT_HANDLER__REDIS__PUBSUB__OUT", "true").env("EVENT_HANDLER__NODE__NAME", name)
}

#[test]
fn both_ways_together_do_not_go_in_circles() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let server = start(both(&redis, backend, "one"));
        wait_until_held(&server, "pubsub_out");
        let all = redis.subscribe(ALL);
        for part in 0..10 {
            let own: Vec<_> = (0..100).map(|n| json!({"event_name": "a", "payload": {"n": part * 200 + n}})).collect();
            assert_eq!(server.post("/publish/batch", json!(own)).status, 200);
            let n = |n: i64| part * 200 + n;
            redis.publish_all(ALL, (100..200).map(|i| envelope(n(i), "b", n(i))));
        }
        let stored: BTreeSet<i64> = wait_for_numbers(&server, 2000).into_iter().collect();
        assert_eq!(stored.len(), 2000);
        eventually("its own ones are known", || (count(&server, "own") == 1000.0).then_some(()));
        // What was said before the last word is through: another event goes out and comes back.
        let last = server.publish("a", json!({"n": 2000}));
        eventually("it comes back", || (count(&server, "own") == 1001.0).then_some(()));
        assert_eq!((server.events("?order=desc&limit=1")[0]["id"].as_i64(), all.received().len()), (Some(last), 2001));
        assert_eq!(redis.list("events:history:all").len(), 1001);
    });
}

/// What went out with this number, as somebody sends it again, with another time or none.
fn sent(redis: &Redis, n: i64, timestamp: Option<i64>) -> String {
    let of_number = |text: &String| serde_json::from_str::<Value>(text).is_ok_and(|sent| sent["data"]["n"] == n);
    let text = eventually("it went out", || redis.list("events:history:all").into_iter().find(of_number));
    let mut sent: Value = serde_json::from_str(&text).expect("JSON");
    match timestamp {
        Some(timestamp) => sent["timestamp"] = json!(timestamp),
        None => drop(sent.as_object_mut().expect("an object").remove("timestamp")),
    }
    sent.to_string()
}

#[test]
fn an_event_of_ours_is_known_whatever_is_said_of_its_time_for_as_long_as_it_is_in_the_log() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let both = both(&redis, backend, "one").env("EVENT_HANDLER__RETENTION__MAX_EVENTS", "2000");
        let mut server = both.start();
        wait_until_held(&server, "pubsub_in");
        wait_until_held(&server, "pubsub_out");
        for part in 0..15 {
            let own: Vec<_> = (0..100).map(|n| json!({"event_name": "a", "payload": {"n": part * 100 + n}})).collect();
            assert_eq!(server.post("/publish/batch", json!(own)).status, 200);
        }
        eventually("its own ones are known", || (count(&server, "own") == 1500.0).then_some(()));
        let again: Vec<_> =
            [0, 1, 1499].into_iter().flat_map(|n| [None, Some(7)].map(|at| sent(&redis, n, at))).collect();
        for is_first in [true, false] {
            let before = count(&server, "own");
            redis.publish_all(ALL, again.clone());
            eventually("they are known", || (count(&server, "own") == before + 6.0).then_some(()));
            assert_eq!((numbers(&server).len(), count(&server, "stored")), (1500, 0.0));
            if is_first {
                // What is stored of how far it has come is what has gone out.
                server.terminate();
                server.restart();
                wait_until_held(&server, "pubsub_in");
            }
        }
        // The first ones are removed, and are events like any other then.
        for part in 15..30 {
            let own: Vec<_> = (0..100).map(|n| json!({"event_name": "a", "payload": {"n": part * 100 + n}})).collect();
            assert_eq!(server.post("/publish/batch", json!(own)).status, 200);
        }
        eventually("they are removed", || {
            (server.events("?after=0&limit=1")[0]["payload"]["n"].as_i64()? > 1).then_some(())
        });
        redis.publish_all(ALL, again);
        eventually("the first two are new", || (count(&server, "stored") == 2.0).then_some(()));
        let newest = server.events("?order=desc&limit=2");
        assert_eq!([&newest[1]["payload"]["n"], &newest[0]["payload"]["n"]], [0, 1]);
    });
}

#[test]
fn what_went_out_before_both_ways_were_on_is_known_by_its_time() {
    let redis = Redis::start();
    let both = both(&redis, Backend::Sqlite, "one");
    let mut server = both.clone().env("EVENT_HANDLER__REDIS__PUBSUB__IN", "false").start();
    wait_until_held(&server, "pubsub_out");
    for n in 0..10 {
        server.publish("a", json!({"n": n}));
    }
    let mut before =
        eventually("all went out", || Some(redis.list("events:history:all")).filter(|sent| sent.len() == 10));
    server.terminate();
    let server = start(both);
    before.push(envelope("another", "b", 10));
    redis.publish_all(ALL, before);
    assert_eq!(wait_for_numbers(&server, 11), (0..11).collect::<Vec<_>>());
    eventually("all are counted", || (count(&server, "own") + count(&server, "stored") == 11.0).then_some(()));
    assert_eq!(count(&server, "own"), 10.0);
}

#[test]
fn several_nodes_and_another_event_handler_do_not_go_in_circles() {
    let redis = Redis::start();
    let url = Postgres::shared().url();
    let nodes = ["one", "two"].map(|name| both(&redis, Backend::Sqlite, name).env("DATABASE_URL", &url).start());
    let other = start(both(&redis, Backend::Sqlite, "other"));
    wait_until_held(&other, "pubsub_out");
    let held = |lease: &str| {
        let nodes = nodes[0].get("/admin/nodes").data();
        let holds = |node: &Value| node["holds"].as_array().is_some_and(|held| held.iter().any(|name| name == lease));
        nodes.as_array().is_some_and(|nodes| nodes.iter().filter(|node| holds(node)).count() == 1)
    };
    eventually("each is done by one", || (held("pubsub:in") && held("pubsub:out")).then_some(()));
    // The one that has the lease hears.
    eventually("two hear", || (redis.run::<(String, i64)>(&["PUBSUB", "NUMSUB", ALL]).1 == 2).then_some(()));
    let all = redis.subscribe(ALL);
    for n in 0..300 {
        let publisher = [&nodes[0], &nodes[1], &other][n as usize % 3];
        publisher.publish("a", json!({"n": n}));
    }
    redis.publish_all(ALL, (300..400).map(|n| envelope(n, "b", n)));
    for node in [&nodes[0], &other] {
        assert_eq!(wait_for_numbers(node, 400).into_iter().collect::<BTreeSet<_>>(), (0..400).collect());
    }
    // The last word is through: what else there were would have come before.
    nodes[0].publish("a", json!({"n": 400}));
    wait_for_numbers(&other, 401);
    other.publish("a", json!({"n": 401}));
    for node in [&nodes[0], &other] {
        assert_eq!(wait_for_numbers(node, 402).len(), 402);
    }
    assert_eq!(all.received().len(), 402, "each once");
}

#[test]
fn what_comes_while_the_store_is_away_is_stored_as_far_as_there_is_room() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = start(hearing(&redis, Backend::Sqlite).env("DATABASE_URL", postgres.url()));
    redis.publish_all(ALL, (0..100).map(|n| envelope(n, "a", n)));
    wait_for_numbers(&server, 100);
    postgres.stop();
    wait_for_status(&server, "/health/ready", 503);
    redis.publish_all(ALL, (100..13_000).map(|n| envelope(n, "a", n)));
    eventually("there is no more room", || (count(&server, "lost") > 1000.0).then_some(()));
    server.wait_for_log(|line| {
        line["level"] == "error" && line["msg"].as_str().is_some_and(|msg| msg.contains("is lost"))
    });
    postgres.start_again();
    let stored = wait_for_numbers(&server, 10_000);
    eventually("all are counted", || (count(&server, "lost") + count(&server, "stored") == 13_000.0).then_some(()));
    let stored = if stored.len() as f64 == count(&server, "stored") { stored } else { numbers(&server) };
    assert_eq!(stored, (0..stored.len() as i64).collect::<Vec<_>>(), "in order, and once");
}

#[test]
fn what_comes_while_the_store_hangs_has_its_bound_too() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = start(hearing(&redis, Backend::Sqlite).env("DATABASE_URL", postgres.url()));
    let frozen = postgres.freeze();
    redis.publish_all(ALL, (0..13_000).map(|n| envelope(n, "a", n)));
    eventually("there is no more room", || (count(&server, "lost") > 1000.0).then_some(()));
    drop(frozen);
    eventually("all are counted", || (count(&server, "lost") + count(&server, "stored") == 13_000.0).then_some(()));
    let stored = numbers(&server);
    assert_eq!((stored.len() as f64, stored.is_sorted()), (count(&server, "stored"), true), "in order, and once");
}

#[test]
fn another_node_hears_when_one_is_killed_and_a_redis_that_starts_anew_is_heard() {
    let mut redis = Redis::start();
    let url = Postgres::shared().url();
    let node = |name| {
        let node = hearing(&redis, Backend::Sqlite).env("DATABASE_URL", &url);
        node.env("EVENT_HANDLER__NODE__NAME", name).start()
    };
    let (mut holder, other) = by_part(["one", "two"].map(node), "pubsub_in");
    redis.publish_all(ALL, (0..100).map(|n| envelope(n, "a", n)));
    wait_for_numbers(&other, 100);
    holder.kill9();
    wait_until_held(&other, "pubsub_in");
    redis.publish_all(ALL, (50..200).map(|n| envelope(n, "a", n)));
    assert_eq!(wait_for_numbers(&other, 200), (0..200).collect::<Vec<_>>());
    redis.kill();
    wait_for_bus(&other, "down");
    redis.start_again();
    wait_for_bus(&other, "ok");
    eventually("it hears", || (redis.run::<(String, i64)>(&["PUBSUB", "NUMSUB", ALL]).1 == 1).then_some(()));
    redis.publish_all(ALL, (200..300).map(|n| envelope(n, "a", n)));
    assert_eq!(wait_for_numbers(&other, 300), (0..300).collect::<Vec<_>>());
    assert_eq!(count(&other, "lost"), 0.0);
}
