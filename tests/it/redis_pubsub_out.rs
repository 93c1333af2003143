//! Events go out by the publish/subscribe of Redis: the channels and lists of the auction system.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::redis_ingest::wait_for_bus;
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, metric};
use crate::support::{Backend, Redis, Server, Service, eventually, for_each_backend};

pub const ALL: &str = "events:all";
const HISTORY: &str = "events:history:all";
const DEAD_LETTERS: &str = "events:deadletter";

/// A server of this name whose events go out by `redis`, which keeps all of them.
pub fn sending(redis: &Redis, backend: Backend) -> Builder {
    let server = Server::builder().backend(backend).env("REDIS_URL", redis.url());
    let server = server.env("EVENT_HANDLER__NODE__NAME", "one").env("EVENT_HANDLER__REDIS__PUBSUB__OUT", "true");
    server.env("EVENT_HANDLER__REDIS__PUBSUB__HISTORY", "1000000")
}

fn details(server: &Server) -> Value {
    let actors = server.get("/admin/actors").data();
    let children = actors["children"].as_array().cloned().unwrap_or_default();
    children.into_iter().find(|child| child["kind"] == "bus").map(|bus| bus["details"].clone()).unwrap_or_default()
}

/// Waits until this node does what is called `part`.
pub fn wait_until_held(server: &Server, part: &str) {
    eventually(&format!("it does {part}"), || (details(server)[part]["is_held"] == true).then_some(()));
}

/// Starts it, and waits until what is published goes out.
fn start(builder: Builder) -> Server {
    let server = builder.start();
    wait_until_held(&server, "pubsub_out");
    server
}

/// The one of the nodes that does what is called `part`, and the other.
pub fn by_part(nodes: [Server; 2], part: &str) -> (Server, Server) {
    let is_first = eventually(&format!("one of them does {part}"), || {
        match nodes.each_ref().map(|node| details(node)[part]["is_held"] == true) {
            [true, false] => Some(true),
            [false, true] => Some(false),
            _ => None,
        }
    });
    let [one, two] = nodes;
    if is_first { (one, two) } else { (two, one) }
}

fn publish_numbers(server: &Server, name: &str, numbers: std::ops::Range<i64>) {
    let events: Vec<Value> = numbers.map(|n| json!({"event_name": name, "payload": {"n": n}})).collect();
    let answer = server.post("/publish/batch", json!(events));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn number(envelope: &str) -> i64 {
    serde_json::from_str::<Value>(envelope).expect("JSON")["data"]["n"].as_i64().expect("a number")
}

/// The numbers in the order in which they went out first. What went out again has the same text.
fn numbers(envelopes: &[String]) -> Vec<i64> {
    let mut texts = HashMap::new();
    let mut first = |text: &&String| match texts.insert(number(text), (*text).clone()) {
        None => true,
        Some(before) => {
            assert_eq!(&before, *text, "a repeat");
            false
        }
    };
    envelopes.iter().filter(|text| first(text)).map(|text| number(text)).collect()
}

/// Everything that was kept, the oldest first, once the number `last` is there.
fn kept(redis: &Redis, last: i64) -> Vec<String> {
    eventually("the last one went out", || {
        // After it may come again what a holder that was stopped had in hand.
        let newest: Vec<String> = redis.try_run(&["LRANGE", HISTORY, "0", "999"]).ok()?;
        newest.iter().any(|text| number(text) >= last).then_some(())
    });
    let mut kept = redis.list(HISTORY);
    kept.reverse();
    kept
}

#[test]
fn an_event_goes_out_as_the_services_know_it() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let server = start(
            sending(&redis, backend).env("EVENT_HANDLER__REDIS__PUBSUB__SOURCES", r#"{ api = "EVENT_HANDLER" }"#),
        );
        let [named, all] = ["events:lot:won", ALL].map(|channel| redis.subscribe(channel));
        let payload = r#"{ "z" : 1e400, "a":[1.50, "ä \" b"], "big": 123456789012345678901234567890 }"#;
        server.post("/publish", format!(r#"{{"event_name":"lot:won","payload":{payload}}}"#));
        let text = all.wait_for(1).remove(0);
        assert_eq!(named.wait_for(1), std::slice::from_ref(&text));
        let envelope: Value = serde_json::from_str(&text.replace("1e400", "1")).expect("JSON");
        let (id, at) = (envelope["id"].as_str().expect("a text"), envelope["timestamp"].as_i64().expect("a number"));
        assert!(id.len() == 36 && id.as_bytes()[14] == b'5', "a UUID of version 5: {id}");
        let data = r#"{"z":1e400,"a":[1.50,"ä \" b"],"big":123456789012345678901234567890}"#;
        let whole = format!(
            r#"{{"id":"{id}","timestamp":{at},"type":"lot:won","source":"EVENT_HANDLER","version":"1.0.0","data":{data}}}"#
        );
        assert_eq!(text, whole);
        assert_eq!([redis.list("events:history:lot:won"), redis.list(HISTORY)], [[text.clone()], [text]]);
        server.post("/publish", json!({"event_name": "n", "payload": [1], "source": "s"}));
        assert!(all.wait_for(2)[1].ends_with(r#""source":"s","version":"1.0.0","data":{"value":[1]}}"#));
        assert_eq!(wait_for_bus(&server, "ok"), json!({"status": "ok"}));
        let sent = || metric(&server, r#"event_handler_pubsub_sent_total{kind="event"} "#);
        eventually("it is counted", || (sent() == 2.0).then_some(()));
    });
}

#[test]
fn events_go_out_in_order_from_the_next_one_on_and_lists_keep_the_newest() {
    let redis = Redis::start();
    let mut server = Server::start(Backend::Sqlite);
    publish_numbers(&server, "before", 0..10);
    server.kill9();
    let again = |history: &str| {
        let spec = server.spec().env("REDIS_URL", redis.url()).env("EVENT_HANDLER__REDIS__PUBSUB__OUT", "true");
        start(spec.env("EVENT_HANDLER__REDIS__PUBSUB__HISTORY", history))
    };
    let mut sends = again("100");
    let all = redis.subscribe(ALL);
    assert_eq!(sends.post("/publish", json!({"event_name": "all"})).status, 200, "it is an event, and stays here");
    for n in 0..4 {
        publish_numbers(&sends, if n % 2 == 0 { "even" } else { "odd" }, n * 1000..(n + 1) * 1000);
    }
    let received = all.wait_for(4000);
    assert_eq!(received.iter().map(|text| number(text)).collect::<Vec<_>>(), (0..4000).collect::<Vec<_>>());
    let newest = |list: &str| redis.list(list).iter().map(|text| number(text)).collect::<Vec<_>>();
    assert_eq!(newest(HISTORY), (3900..4000).rev().collect::<Vec<_>>());
    assert_eq!(newest("events:history:even"), (2900..3000).rev().collect::<Vec<_>>());
    assert!(redis.run::<Vec<String>>(&["KEYS", "*sys*"]).is_empty() && redis.list("events:history:before").is_empty());
    // Switched off and on again, it goes on from where it was, which it has stored.
    assert!(sends.terminate().success());
    let mut off = server.spec().start();
    publish_numbers(&off, "odd", 4000..4010);
    off.kill9();
    let _on = again("100");
    let received = all.wait_for(4010);
    assert_eq!(received[4000..].iter().map(|text| number(text)).collect::<Vec<_>>(), (4000..4010).collect::<Vec<_>>());
}

#[test]
fn a_node_that_is_killed_leaves_no_gap_and_repeats_the_same_text() {
    for_each_backend(|backend| {
        let mut redis = Redis::start();
        let mut server = start(sending(&redis, backend));
        const ROUNDS: i64 = 6;
        for round in 0..ROUNDS {
            // It is killed before, amid or after the first of several pages, with its position stored or not.
            publish_numbers(&server, "a", round * 2000..(round + 1) * 2000);
            if round % 2 == 0 {
                let reaches = |text: &String| number(text) >= round * 2000;
                eventually("some went out", || {
                    let newest: Vec<String> = redis.run(&["LRANGE", HISTORY, "0", "0"]);
                    newest.first().is_some_and(reaches).then_some(())
                });
            }
            server.kill9();
            server.restart();
        }
        // And before it can send anything.
        redis.kill();
        publish_numbers(&server, "a", ROUNDS * 2000..(ROUNDS + 1) * 2000);
        eventually("it has tried", || {
            let bus = server.get("/health/ready").json()["checks"]["bus"]["reason"].take();
            bus.as_str().is_some_and(|reason| reason.contains("cannot be reached")).then_some(())
        });
        server.kill9();
        redis.start_again();
        server.restart();
        let kept = kept(&redis, (ROUNDS + 1) * 2000 - 1);
        assert_eq!(numbers(&kept), (0..(ROUNDS + 1) * 2000).collect::<Vec<_>>());
    });
}

#[test]
fn another_node_goes_on_without_a_gap() {
    let redis = Redis::start();
    let url = Postgres::shared().url();
    let node = |name| {
        let node = sending(&redis, Backend::Sqlite).env("DATABASE_URL", &url);
        node.env("EVENT_HANDLER__NODE__NAME", name).start()
    };
    let (mut holder, other) = by_part(["one", "two"].map(node), "pubsub_out");
    publish_numbers(&other, "a", 0..3000);
    publish_numbers(&holder, "a", 3000..6000);
    holder.kill9();
    publish_numbers(&other, "a", 6000..9000);
    assert_eq!(numbers(&kept(&redis, 8999)), (0..9000).collect::<Vec<_>>());
    // One that is frozen amid it.
    holder.restart();
    let (holder, other) = by_part([holder, other], "pubsub_out");
    publish_numbers(&other, "a", 9000..12_000);
    holder.signal(Signal::STOP);
    publish_numbers(&other, "a", 12_000..15_000);
    kept(&redis, 14_999);
    holder.signal(Signal::CONT);
    publish_numbers(&other, "a", 15_000..16_000);
    assert_eq!(numbers(&kept(&redis, 15_999)), (0..16_000).collect::<Vec<_>>());
    // One that ends.
    let (mut holder, other) = by_part([holder, other], "pubsub_out");
    publish_numbers(&holder, "a", 16_000..18_000);
    assert!(holder.terminate().success());
    publish_numbers(&other, "a", 18_000..19_000);
    assert_eq!(numbers(&kept(&redis, 18_999)), (0..19_000).collect::<Vec<_>>());
}

#[test]
fn a_redis_that_hangs_or_is_full_slows_nobody_down_and_misses_nothing() {
    let redis = Redis::start();
    let server = start(sending(&redis, Backend::Sqlite));
    redis.signal(Signal::STOP);
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut published = 0;
    while wait_is_over(&server, begun) {
        let publish = Instant::now();
        server.publish("a", json!({"n": published}));
        slowest = slowest.max(publish.elapsed());
        published += 1;
    }
    assert!(slowest < Duration::from_secs(5), "a publish has taken {slowest:?}");
    redis.signal(Signal::CONT);
    assert_eq!(numbers(&kept(&redis, published - 1)), (0..published).collect::<Vec<_>>());
    wait_for_bus(&server, "ok");
    // Full: nothing goes out by halves, over and over.
    let all = redis.subscribe(ALL);
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    publish_numbers(&server, "a", published..published + 10);
    let bus = wait_for_bus(&server, "down");
    assert_eq!(bus["reason"], "pubsub out: its memory is full");
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    let received = all.wait_for(10);
    assert_eq!(
        received.iter().map(|text| number(text)).collect::<Vec<_>>(),
        (published..published + 10).collect::<Vec<_>>()
    );
    wait_for_bus(&server, "ok");
}

/// Whether it goes on to hang: until it was noticed, and for a while beyond what any command may take.
fn wait_is_over(server: &Server, begun: Instant) -> bool {
    begun.elapsed() < Duration::from_secs(8) || server.get("/health/ready").json()["checks"]["bus"]["status"] == "ok"
}

#[test]
fn a_redis_that_starts_anew_gets_what_it_has_not_had() {
    let mut redis = Redis::start();
    let server = start(sending(&redis, Backend::Sqlite));
    publish_numbers(&server, "a", 0..1000);
    kept(&redis, 999);
    redis.kill();
    publish_numbers(&server, "a", 1000..2000);
    wait_for_bus(&server, "down");
    redis.start_again();
    assert_eq!(numbers(&kept(&redis, 1999)), (0..2000).collect::<Vec<_>>());
    redis.run::<()>(&["FLUSHALL"]);
    publish_numbers(&server, "a", 2000..2100);
    assert_eq!(numbers(&kept(&redis, 2099)), (2000..2100).collect::<Vec<_>>(), "lists are not filled again");
    // A list whose key is in use: all else goes on.
    wait_for_bus(&server, "ok");
    redis.run::<()>(&["SET", "events:history:b", "no list"]);
    publish_numbers(&server, "b", 2100..2110);
    assert_eq!(wait_for_bus(&server, "down")["reason"], "pubsub lists: a key has another type");
    publish_numbers(&server, "a", 2110..2120);
    assert_eq!(numbers(&kept(&redis, 2119)), (2000..2120).collect::<Vec<_>>());
    wait_for_bus(&server, "ok");
}

#[test]
fn a_store_that_goes_away_costs_nothing() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = start(sending(&redis, Backend::Sqlite).env("DATABASE_URL", postgres.url()));
    publish_numbers(&server, "a", 0..5000);
    postgres.stop();
    postgres.start_again();
    eventually("it takes events again", || (server.get("/health/ready").status == 200).then_some(()));
    publish_numbers(&server, "a", 5000..6000);
    let kept = kept(&redis, 5999);
    assert_eq!(numbers(&kept), (0..6000).collect::<Vec<_>>());
    assert_eq!(kept.len(), 6000, "what this node knows to have gone out does not go out again");
}

#[test]
fn what_retention_removes_before_it_went_out_is_counted() {
    let mut redis = Redis::start();
    let server = start(sending(&redis, Backend::Sqlite).env("EVENT_HANDLER__RETENTION__MAX_EVENTS", "100"));
    publish_numbers(&server, "a", 0..50);
    kept(&redis, 49);
    redis.kill();
    publish_numbers(&server, "a", 50..5000);
    eventually("they are removed", || (metric(&server, "event_handler_log_earliest_id ") > 4800.0).then_some(()));
    redis.start_again();
    publish_numbers(&server, "a", 5000..5010);
    let out = numbers(&kept(&redis, 5009));
    let missed = metric(&server, r#"event_handler_follower_missed_events_total{follower="pubsub:out"} "#);
    assert_eq!(out.len() as f64 + missed, 5010.0, "{missed} are missing");
    assert!(missed > 0.0 && out.is_sorted());
    server.wait_for_log(|line| line["level"] == "error" && line["missed"].as_f64() == Some(missed));
}

#[test]
fn a_dead_delivery_is_kept_with_the_reason() {
    let redis = Redis::start();
    let service = Service::start();
    service.answer(400);
    let server = start(service.configure(sending(&redis, Backend::Sqlite), "auction-manager", &[]));
    let all = redis.subscribe(ALL);
    publish_numbers(&server, "a", 0..3);
    let letters = eventually("they are dead", || Some(redis.list(DEAD_LETTERS)).filter(|list| list.len() == 3));
    let envelopes = all.wait_for(3);
    for letter in &letters {
        let parsed: Value = serde_json::from_str(letter).expect("JSON");
        let envelope = &envelopes[usize::try_from(parsed["event"]["data"]["n"].as_u64().expect("n")).expect("small")];
        let (message, at) =
            (parsed["error"]["message"].as_str().expect("a text"), parsed["error"]["timestamp"].as_str());
        let at = at.expect("a text");
        assert_eq!(
            *letter,
            format!(r#"{{"event":{envelope},"error":{{"message":{},"stack":"","timestamp":"{at}"}}}}"#, json!(message))
        );
        assert!(message.contains("auction-manager") && message.contains("400"), "{message}");
        assert!(at.len() == "2026-01-31T12:00:00.000Z".len() && at.ends_with('Z'), "{at}");
    }
    // Those of durable subscriptions are no deliveries.
    assert_eq!(metric(&server, r#"event_handler_pubsub_sent_total{kind="dead_letter"} "#), 3.0);
    assert_eq!(all.received().len(), 3, "nothing else goes out");
}

/// Each try makes a connection, which a server that hangs takes: what it is sent on them, it would do later.
#[test]
fn what_goes_out_while_redis_hangs_is_repeated_once_at_most() {
    let redis = Redis::start();
    let server = start(sending(&redis, Backend::Sqlite));
    server.publish("a", json!({"n": 1}));
    eventually("it is out", || (redis.list("events:history:all").len() == 1).then_some(()));
    redis.signal(Signal::STOP);
    server.publish("a", json!({"n": 2}));
    // Three tries and more.
    std::thread::sleep(Duration::from_secs(14));
    redis.signal(Signal::CONT);
    server.publish("a", json!({"n": 3}));
    let sent = eventually("all are out", || {
        let list = redis.list("events:history:all");
        list.first().is_some_and(|newest| newest.contains(r#"{"n":3}"#)).then_some(list)
    });
    assert!((3..=4).contains(&sent.len()), "{sent:#?}");
}
