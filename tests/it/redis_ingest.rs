//! Events that come by a stream of Redis.

use serde_json::{Value, json};

use crate::support::server::{Builder, metric};
use crate::support::{Backend, Redis, Server, eventually, for_each_backend};

pub const IN: &str = "events:in";
const DEAD: &str = "events:in:dead";

/// A server of this name that reads the streams of `redis`.
pub fn reading(redis: &Redis, backend: Backend) -> Builder {
    Server::builder().backend(backend).env("REDIS_URL", redis.url()).env("EVENT_HANDLER__NODE__NAME", "one")
}

pub fn wait_for_bus(server: &Server, status: &str) -> Value {
    eventually(&format!("the bus is {status}"), || {
        let bus = server.get("/health/ready").json()["checks"]["bus"].take();
        (bus["status"] == status).then_some(bus)
    })
}

/// Waits until so many events are there, and returns them all.
pub fn wait_for_events(server: &Server, count: usize) -> Vec<Value> {
    eventually(&format!("{count} events"), || {
        let events = server.events("?limit=1000");
        (events.len() >= count).then_some(events)
    })
}

/// The payloads of all events of a name, in the order of their ids.
pub fn payloads(server: &Server, name: &str) -> Vec<i64> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = server.events(&format!("?event_name={name}&limit=1000&after={after}"));
        let Some(last) = page.last() else { return found };
        after = last["id"].as_i64().expect("an id");
        found.extend(page.iter().map(|event| event["payload"].as_i64().expect("a number")));
    }
}

#[test]
fn an_entry_is_a_publish() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let server = reading(&redis, backend).start();
        redis.run::<String>(&["XADD", IN, "*", "event_name", "user.created", "payload", r#"{"user_id":"123"}"#]);
        let event = wait_for_events(&server, 1).remove(0);
        let keys: Vec<_> = event.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["created_at", "event_name", "id", "payload", "source", "status"]);
        assert_eq!((&event["event_name"], &event["source"]), (&json!("user.created"), &json!("redis")));
        assert_eq!(event["payload"], json!({"user_id": "123"}));
        redis.wait_until_taken(IN);
        assert!(redis.entries(DEAD).is_empty());
        assert_eq!(wait_for_bus(&server, "ok"), json!({"status": "ok"}));
        assert_eq!(metric(&server, "event_handler_bus_up "), 1.0);
    });
}

#[test]
fn an_entry_has_the_fields_of_publish() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).start();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    redis.add(
        IN,
        &[
            ("event_name", "a"),
            ("payload", "[1.50]"),
            ("source", "s"),
            ("priority", "high"),
            ("key", "k"),
            ("metadata", r#"{"m":"1"}"#),
            ("traceparent", parent),
        ],
    );
    let event = wait_for_events(&server, 1).remove(0);
    for (field, value) in [("source", json!("s")), ("priority", json!("high")), ("key", json!("k"))] {
        assert_eq!(event[field], value, "{event}");
    }
    assert_eq!((&event["metadata"], &event["traceparent"]), (&json!({"m": "1"}), &json!(parent)));
    assert!(server.get("/events/1").text().contains("[1.50]"));
    redis.add(IN, &[("event_name", "later"), ("deliver_at", "2999-01-01T00:00:00Z")]);
    eventually("it is scheduled", || (!server.get("/schedules").data().as_array()?.is_empty()).then_some(()));
    redis.wait_until_taken(IN);
    assert_eq!(server.events("").len(), 1);
}

#[test]
fn what_cannot_be_an_event_is_kept_with_the_reason() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).env("EVENT_HANDLER__REDIS__INGEST__DEAD_MAX", "3").start();
    let twice = [("event_name", "a"), ("key", "1"), ("key", "2")];
    let bad: [&[(&str, &str)]; 4] = [
        &[("event_name", "dropped"), ("priority", "urgent")],
        &[("event_name", "a"), ("payload", "{")],
        &[("some", "thing")],
        &twice,
    ];
    let ids: Vec<String> = bad.iter().map(|fields| redis.add(IN, fields)).collect();
    redis.add(IN, &[("event_name", "good")]);
    redis.wait_until_taken(IN);
    let dead = redis.entries(DEAD);
    assert_eq!(dead.len(), 3, "the newest are kept: {dead:?}");
    for (((_, fields), id), given) in dead.iter().zip(&ids[1..]).zip(&bad[1..]) {
        let (own, added) = fields.split_at(given.len());
        let own: Vec<_> = own.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(own, *given);
        let names: Vec<_> = added.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, &added[0].1), (vec!["entry", "code", "message"], id));
    }
    let codes: Vec<_> = dead.iter().map(|(_, fields)| fields[fields.len() - 2].1.as_str()).collect();
    assert_eq!(codes, ["malformed_json", "unknown_field", "duplicate_field"]);
    assert!(dead[2].1[5].1.contains("key"), "{dead:?}");
    assert_eq!(server.events("").len(), 1, "the good one");
    assert_eq!(metric(&server, r#"event_handler_ingest_entries_total{outcome="refused"} "#), 4.0);
    assert_eq!(metric(&server, r#"event_handler_ingest_entries_total{outcome="stored"} "#), 1.0);
}

#[test]
fn an_idempotency_key_is_that_of_publish() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).start();
    let body = json!({"event_name": "a", "payload": 1, "source": "s", "idempotency_key": "k"});
    server.post("/publish", &body);
    let same = [("event_name", "a"), ("payload", "1"), ("source", "s"), ("idempotency_key", "k")];
    redis.add(IN, &same);
    redis.add(IN, &[("event_name", "a"), ("payload", "2"), ("idempotency_key", "k")]);
    redis.wait_until_taken(IN);
    assert_eq!(server.events("").len(), 1);
    let dead = redis.entries(DEAD);
    assert_eq!(dead.len(), 1, "another content: {dead:?}");
    assert_eq!(dead[0].1[4], ("code".to_owned(), "idempotency_key_reused".to_owned()));
    // The scope of what has no key of its own is another one: no publisher can take such a key.
    let id = redis.add(IN, &[("event_name", "b")]);
    wait_for_events(&server, 2);
    let taken = json!({"event_name": "c", "idempotency_key": format!("events:in:{id}")});
    assert_eq!(server.post("/publish", taken).status, 200);
    assert_eq!(server.events("").len(), 3);
}

#[test]
fn an_entry_that_is_not_trimmed_stays_and_is_stored_once() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let mut server = reading(&redis, backend).env("EVENT_HANDLER__REDIS__INGEST__TRIM", "false").start();
        redis.add_many(IN, "a", 0..5);
        wait_for_events(&server, 5);
        eventually("all are acknowledged", || (redis.pending(IN) == 0).then_some(()));
        assert_eq!(redis.length(IN), 5);
        // Read again from the beginning, as after a mistake.
        redis.run::<()>(&["XGROUP", "SETID", IN, "event-handler", "0"]);
        redis.add_many(IN, "a", 5..6);
        wait_for_events(&server, 6);
        server.restart();
        redis.add_many(IN, "a", 6..7);
        wait_for_events(&server, 7);
        assert_eq!(payloads(&server, "a"), (0..7).collect::<Vec<_>>());
        assert_eq!(redis.length(IN), 7);
    });
}

#[test]
fn a_stream_is_not_read_if_that_is_switched_off() {
    let redis = Redis::start();
    redis.add_many(IN, "a", 0..1);
    let server = reading(&redis, Backend::Sqlite).env("EVENT_HANDLER__REDIS__INGEST__ENABLED", "false").start();
    wait_for_bus(&server, "ok");
    server.publish("b", json!({}));
    assert_eq!(redis.run::<Vec<redis::Value>>(&["XINFO", "GROUPS", IN]).len(), 0);
    assert_eq!((redis.length(IN), server.events("").len()), (1, 1));
}

#[test]
fn another_stream_is_read_if_it_is_configured() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).env("EVENT_HANDLER__REDIS__INGEST__STREAM", "in").start();
    redis.add("in", &[("event_name", "a")]);
    redis.add("in", &[("event_name", "")]);
    redis.wait_until_taken("in");
    assert_eq!((server.events("").len(), redis.length("in:dead")), (1, 1));
}

#[test]
fn what_cannot_be_written_down_stays_pending_and_holds_up_nothing() {
    let redis = Redis::start();
    redis.run::<()>(&["SET", DEAD, "no stream"]);
    let server = reading(&redis, Backend::Sqlite).env("EVENT_HANDLER__REDIS__INGEST__CLAIM_AFTER", "1s").start();
    redis.add(IN, &[("event_name", "")]);
    redis.add_many(IN, "a", 0..3);
    wait_for_events(&server, 3);
    redis.add_many(IN, "a", 3..6);
    wait_for_events(&server, 6);
    eventually("that one alone is left", || ((redis.length(IN), redis.pending(IN)) == (1, 1)).then_some(()));
    let bus = wait_for_bus(&server, "down");
    assert_eq!(bus["reason"], "ingest of what was refused: a key has another type");
    redis.run::<()>(&["DEL", DEAD]);
    redis.wait_until_taken(IN);
    assert_eq!(redis.length(DEAD), 1);
    wait_for_bus(&server, "ok");
}

#[test]
fn entries_of_consumers_that_are_gone_are_taken_over() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let server = reading(&redis, backend).env("EVENT_HANDLER__REDIS__INGEST__CLAIM_AFTER", "1s").start();
        redis.add_many(IN, "a", 0..1);
        wait_for_events(&server, 1);
        // Somebody else is given entries, and is heard of no more. The server has the chance to be first.
        let mut added = 1;
        eventually("the other one is given an entry", || {
            redis.add_many(IN, "a", added..added + 1);
            added += 1;
            let read = ["XREADGROUP", "GROUP", "event-handler", "gone", "STREAMS", IN, ">"];
            (redis.run::<redis::Value>(&read) != redis::Value::Nil).then_some(())
        });
        redis.add_many(IN, "a", added..added + 1);
        redis.wait_until_taken(IN);
        let mut taken = payloads(&server, "a");
        taken.sort_unstable();
        assert_eq!(taken, (0..=added as i64).collect::<Vec<_>>());
    });
}

#[test]
fn the_group_is_made_where_the_store_has_come_to() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        // What was there before the first start is read too.
        redis.add_many(IN, "a", 0..3);
        let mut server = reading(&redis, backend).env("EVENT_HANDLER__REDIS__INGEST__TRIM", "false").start();
        wait_for_events(&server, 3);
        let repeated = |server: &Server| metric(server, r#"event_handler_ingest_entries_total{outcome="repeated"} "#);
        redis.run::<i64>(&["XGROUP", "DESTROY", IN, "event-handler"]);
        redis.add_many(IN, "a", 3..6);
        wait_for_events(&server, 6);
        server.kill9();
        redis.run::<i64>(&["XGROUP", "DESTROY", IN, "event-handler"]);
        redis.add_many(IN, "a", 6..9);
        server.restart();
        wait_for_events(&server, 9);
        assert_eq!(repeated(&server), 0.0, "nothing was read twice");
        // A stream that lies behind is another one.
        redis.run::<i64>(&["DEL", IN]);
        redis.run::<String>(&["XADD", IN, "1-1", "event_name", "a", "payload", "9"]);
        wait_for_events(&server, 10);
        redis.run::<String>(&["XADD", IN, "1-2", "event_name", "a", "payload", "10"]);
        wait_for_events(&server, 11);
        server.restart();
        wait_for_bus(&server, "ok");
        redis.run::<String>(&["XADD", IN, "1-3", "event_name", "a", "payload", "11"]);
        wait_for_events(&server, 12);
        assert_eq!(payloads(&server, "a"), (0..12).collect::<Vec<_>>());
    });
}

#[test]
fn many_entries_are_stored_in_order_and_in_batches() {
    for_each_backend(|backend| {
        const COUNT: usize = 10_000;
        let redis = Redis::start();
        // How many there are at a time does not depend on how fast they are written.
        (0..COUNT).step_by(1000).for_each(|n| redis.add_many(IN, "a", n..n + 1000));
        let server = reading(&redis, backend).start();
        redis.wait_until_taken(IN);
        assert_eq!(payloads(&server, "a"), (0..COUNT as i64).collect::<Vec<_>>());
        let commits = metric(&server, "event_handler_commit_events_count ");
        assert!(commits < COUNT as f64 / 10.0, "{commits} commits");
    });
}

#[test]
fn a_stop_leaves_nothing_in_hand() {
    let redis = Redis::start();
    let mut server = reading(&redis, Backend::Sqlite).start();
    redis.add_many(IN, "a", 0..5000);
    wait_for_events(&server, 1);
    assert!(server.terminate().success());
    let left = redis.length(IN);
    assert_eq!(redis.pending(IN), 0, "what was read is stored and acknowledged");
    server.restart();
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..5000).collect::<Vec<_>>(), "{left} were left");
}
