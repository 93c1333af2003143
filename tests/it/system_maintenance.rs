//! Maintenance refuses certain events on every way in, for the whole cluster, and over restarts.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::redis_ingest::{IN, payloads, reading};
use crate::redis_pubsub_in::{count, envelope, hearing};
use crate::redis_pubsub_out::{ALL, wait_until_held};
use crate::support::http::Response;
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, metric};
use crate::support::{Backend, Redis, Server, eventually, for_each_backend};
use crate::system::{put, wait_for_state};

fn refusing(builder: Builder, patterns: &str) -> Builder {
    builder.env("EVENT_HANDLER__SYSTEM__MAINTENANCE_REFUSES", patterns)
}

fn enter(server: &Server, state: &str) {
    put(server, json!({ "state": state }));
    wait_for_state(server, state);
}

fn is_refused(response: &Response) {
    let error = response.error(503);
    assert_eq!(error["code"], "maintenance");
    let seconds: u64 = response.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!(seconds >= 1);
}

fn count_events(server: &Server, name: &str) -> usize {
    server.events(&format!("?event_name={name}&limit=1000")).len()
}

#[test]
fn sagas_are_not_begun_by_hand_with_what_is_refused() {
    let saga =
        r#"{name="pay",version=1,trigger={event="bid.placed"},correlation="/id",steps=[{name="rest",wait="1h"}]}"#;
    let other =
        r#"{name="ended",version=1,trigger={event="*.ended"},correlation="/id",steps=[{name="rest",wait="1h"}]}"#;
    let file = format!("sagas = [{saga}, {other}]");
    let builder = Server::builder().file("c.toml", &file).env("EVENT_HANDLER_CONFIG", "c.toml");
    let server = refusing(builder, "bid.>").start();
    let start = |id: &str| {
        let request = server.request("POST", "/sagas/pay/start").header("Idempotency-Key", id);
        request.json(json!({ "payload": { "id": id } })).send()
    };
    eventually("it is declared", || (start("a").status == 201).then_some(()));
    enter(&server, "maintenance");
    is_refused(&start("b"));
    // Some of the events that begin it are refused.
    is_refused(&server.post("/sagas/ended/start", json!({ "payload": { "id": 1 } })));
    assert_eq!(start("a").header("idempotent-replayed"), Some("true"), "a repetition is answered as before");
    enter(&server, "running");
    assert_eq!(start("b").status, 201);
    assert_eq!(server.post("/admin/drain", json!({})).status, 200);
    assert_eq!(start("c").error(503)["code"], "draining");
}

#[test]
fn publishes_are_refused_by_http_and_websocket_whatever_their_form() {
    for_each_backend(|backend| {
        let builder = Server::builder().backend(backend);
        let mut server = refusing(builder, "bid.>,state.auction.changed").start();
        let keyed = || server.request("POST", "/publish").header("Idempotency-Key", "k1");
        let body = json!({"event_name": "bid.placed", "payload": 1});
        let id = keyed().json(&body).send().event_id();
        let state = || server.request("PUT", "/state/auction/7").json("1");
        assert_eq!(state().send().status, 201);
        let later = json!({"event_name": "bid.placed", "payload": 2, "deliver_at": "2999-01-01T00:00:00Z"});
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1_500);
        let due = json!({"event_name": "bid.placed", "payload": 3, "deliver_at": soon.to_string()});
        assert_eq!(server.post("/publish", due).status, 200);
        enter(&server, "maintenance");
        is_refused(&server.post("/publish", &body));
        is_refused(&server.post("/publish", &later));
        is_refused(&server.post("/publish/batch", json!([{"event_name": "lot.listed"}, &body])));
        is_refused(
            &server
                .request("POST", "/publish/batch")
                .header("Content-Type", "application/x-ndjson")
                .body(format!("{body}\n{body}\n"))
                .send(),
        );
        let cloud = |id: &str| {
            let head =
                server.request("POST", "/publish").header("ce-specversion", "1.0").header("ce-type", "bid.placed");
            head.header("ce-source", "s").header("ce-id", id).json("{}").send()
        };
        is_refused(&cloud("1"));
        let structured = json!({"specversion": "1.0", "type": "bid.placed", "source": "s", "id": "2"});
        is_refused(
            &server
                .request("POST", "/publish")
                .header("Content-Type", "application/cloudevents+json")
                .body(structured.to_string())
                .send(),
        );
        is_refused(&state().send());
        is_refused(&state().header("If-Match", "\"1\"").send());
        is_refused(&server.request("DELETE", "/state/auction/7").send());
        let entity = json!({"event_name": "lot.listed", "entity": {"type": "auction", "key": "8"}});
        is_refused(&server.post("/publish", entity));
        let mut ws = server.ws();
        let refused = ws.request(json!({"action": "publish", "event_name": "bid.placed", "payload": {}, "id": 1}));
        assert_eq!(refused["error"]["code"], "maintenance", "{refused}");
        assert!(refused["error"]["retry_after_ms"].as_u64().is_some_and(|ms| ms >= 1_000), "{refused}");
        // What was answered before is answered so again, and other events are taken.
        let again = keyed().json(&body).send();
        assert_eq!((again.event_id(), again.header("idempotent-replayed")), (id, Some("true")));
        server.publish("lot.listed", json!({}));
        assert_eq!(server.get("/state/auction/7").status, 200);
        assert_eq!(metric(&server, "event_handler_maintenance_refused_total "), 11.0);
        // It was accepted before, and comes due as ever.
        eventually("a schedule comes due", || (payloads(&server, "bid.placed") == [1, 3]).then_some(()));
        server.kill9();
        server.restart();
        is_refused(&server.post("/publish", &body));
        enter(&server, "running");
        server.post("/publish", &body).event_id();
        assert_eq!(count_events(&server, "bid.placed"), 3);
    });
}

/// Has the publishers end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Whoever publishes at any node: between the two events that tell of it, there is none that is refused.
#[test]
fn no_refused_event_is_stored_between_the_beginning_of_maintenance_and_its_end() {
    let url = Postgres::shared().url();
    let node = |name: &str| {
        let builder = Server::builder().env("DATABASE_URL", &url).env("EVENT_HANDLER__NODE__NAME", name);
        refusing(builder.operated("the operator's token"), "bid.>").start()
    };
    let nodes = [node("one"), node("two")];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when something fails below.
        let _over = Over(&is_over);
        for node in &nodes {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let status = node.post("/publish", json!({"event_name": "bid.placed", "payload": 1})).status;
                    assert!([200, 503].contains(&status), "{status}");
                }
            });
        }
        for at in [0, 1, 0] {
            let before = count_events(&nodes[at], "bid.placed");
            eventually("bids are taken", || (count_events(&nodes[at], "bid.placed") > before).then_some(()));
            enter(&nodes[at], "maintenance");
            is_refused(&nodes[1 - at].post("/publish", json!({"event_name": "bid.placed"})));
            enter(&nodes[1 - at], "running");
        }
    });
    let (mut is_refused, mut after, mut periods) = (false, 0, 0);
    loop {
        let query = format!("?event_name=bid.placed&event_name=$sys.system.changed&limit=1000&after={after}");
        let page = nodes[0].events(&query);
        let Some(last) = page.last() else { break };
        after = last["id"].as_i64().expect("an id");
        for event in &page {
            if event["event_name"] == "$sys.system.changed" {
                is_refused = event["payload"]["to"] == "maintenance";
                periods += 1;
            } else {
                assert!(!is_refused, "{event} was stored in maintenance");
            }
        }
    }
    assert_eq!(periods, 6);
}

#[test]
fn reading_a_redis_stream_stops_at_the_first_refused_entry_and_goes_on_afterwards() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let mut server = refusing(reading(&redis, backend), "bid.>").start();
        let add = |name: &str, payload: i64| redis.add(IN, &[("event_name", name), ("payload", &payload.to_string())]);
        add("bid.placed", 0);
        eventually("it is read", || (payloads(&server, "bid.placed") == [0]).then_some(()));
        enter(&server, "maintenance");
        for payload in 1..4 {
            add("lot.listed", payload);
        }
        add("bid.placed", 4);
        for payload in 5..8 {
            add("lot.listed", payload);
        }
        eventually("what comes before is read", || (payloads(&server, "lot.listed") == [1, 2, 3]).then_some(()));
        let stopped = || ingest(&server)["stopped_by_maintenance"] == true;
        eventually("it has stopped", || stopped().then_some(()));
        eventually("the rest is there", || (redis.length(IN) == 4).then_some(()));
        server.kill9();
        server.restart();
        eventually("it stops again", || (ingest(&server)["stopped_by_maintenance"] == true).then_some(()));
        assert_eq!(payloads(&server, "lot.listed"), [1, 2, 3]);
        enter(&server, "running");
        redis.wait_until_taken(IN);
        assert_eq!(
            (payloads(&server, "lot.listed"), payloads(&server, "bid.placed")),
            (vec![1, 2, 3, 5, 6, 7], vec![0, 4])
        );
        let of_stream = server.events("?limit=1000").into_iter().filter(|event| event["source"] == "redis");
        let order: Vec<i64> = of_stream.map(|event| event["payload"].as_i64().expect("a number")).collect();
        assert_eq!(order, (0..8).collect::<Vec<_>>(), "the order is kept");
    });
}

fn ingest(server: &Server) -> Value {
    let tree = server.get("/admin/actors").data();
    let children = tree["children"].as_array().cloned().unwrap_or_default();
    children.into_iter().find(|child| child["kind"] == "bus").unwrap_or_default()["details"]["ingest"].take()
}

#[test]
fn envelopes_that_are_refused_are_counted_and_dropped() {
    let redis = Redis::start();
    let server = refusing(hearing(&redis, Backend::Sqlite), "bid.>").start();
    wait_until_held(&server, "pubsub_in");
    enter(&server, "maintenance");
    redis.publish_all(ALL, [envelope(1, "bid.placed", 1), envelope(2, "lot.listed", 2), envelope(3, "bid.placed", 3)]);
    eventually("they are counted", || (count(&server, "maintenance") == 2.0).then_some(()));
    eventually("the other one is there", || (count_events(&server, "lot.listed") == 1).then_some(()));
    enter(&server, "running");
    redis.publish_all(ALL, [envelope(4, "bid.placed", 4)]);
    eventually("it is taken again", || (count_events(&server, "bid.placed") == 1).then_some(()));
}
