//! `/ws` for clients that ask for more: replies, patterns, full envelopes, history.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::postgres::Postgres;
use crate::support::{Server, for_each_backend};

#[test]
fn a_request_with_an_id_gets_one_reply_with_it() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("a", json!({}));
        server.publish("a", json!({}));
        let mut ws = server.ws();
        let reply = ws.request(json!({"action": "subscribe", "event_name": "auction.>", "id": 7}));
        let log = server.get("/events").header("event-log").map(str::to_owned);
        let expected = json!({
            "id": 7, "type": "subscribed", "event_name": "auction.>", "last_id": 2, "recovered": true, "log_id": log,
        });
        assert_eq!(reply, expected);
        let reply = ws.request(json!({"action": "unsubscribe", "event_name": "auction.>", "id": 8}));
        assert_eq!((&reply["type"], &reply["event_name"]), (&json!("unsubscribed"), &json!("auction.>")));
        assert_eq!(ws.barrier(), [] as [&str; 0]);
    });
}

#[test]
fn an_error_carries_the_id_of_its_request() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        for request in [
            json!({"action": "dance", "id": 1}),
            json!({"action": "subscribe", "id": 2}),
            json!({"action": "subscribe", "event_name": "a..b", "id": 3}),
            json!({"action": "subscribe", "event_name": "a", "nonsense": true, "id": 4}),
            json!({"action": "subscribe", "event_name": "a", "after": "latest", "id": 5}),
            json!({"action": "subscribe", "event_name": "a", "after": -1, "id": 6}),
            json!({"action": "subscribe", "event_name": "a", "envelope": "half", "id": 7}),
            json!({"action": "publish", "event_name": "$sys.mine", "id": 8}),
        ] {
            let reply = ws.request(request.clone());
            assert_eq!(reply["type"], "error", "{request}: {reply}");
            assert!(reply["error"]["code"].is_string() && reply["error"]["message"].is_string(), "{reply}");
        }
        assert_eq!(ws.barrier(), [] as [&str; 0]);
    });
}

#[test]
fn ping_is_answered_with_pong() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        for ping in [json!({"action": "ping"}), json!({"type": "ping"})] {
            ws.send(&ping);
            assert_eq!(ws.recv_json(), json!({"type": "pong"}), "{ping}");
        }
        let reply = ws.request(json!({"action": "ping", "id": 9}));
        assert_eq!(reply["type"], "pong");
        // Clients of other services send what they are used to.
        ws.send("{\"type\":\"pong\",\"timestamp\":1}");
        ws.send("{\"type\":\"ping\",\"timestamp\":1690891200000.50,\"clientId\":\"c\",\"data\":{}}");
        assert_eq!(ws.recv_text(), r#"{"type":"pong","timestamp":1690891200000.50}"#);
    });
}

#[test]
fn patterns_match_by_segment() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let names = ["auction.1.bid", "auction.2.bid", "auction.1.bid.late", "auction", "user.created", "mark"];
        let cases = [
            ("auction.*.bid", &["auction.1.bid", "auction.2.bid"][..]),
            ("auction.>", &["auction.1.bid", "auction.2.bid", "auction.1.bid.late"]),
            ("*", &["auction", "mark"]),
            ("*.*", &["user.created"]),
            (">", &names),
            ("user.created", &["user.created"]),
        ];
        let mut sockets: Vec<_> = cases
            .iter()
            .map(|(pattern, expected)| {
                let mut ws = server.ws();
                ws.request(json!({"action": "subscribe", "event_name": pattern, "id": 1}));
                ws.request(json!({"action": "subscribe", "event_name": "mark", "id": 2}));
                (ws, pattern, expected)
            })
            .collect();
        for name in names {
            server.publish(name, json!({}));
        }
        for (ws, pattern, expected) in &mut sockets {
            let mut got = Vec::new();
            while got.last().is_none_or(|name| name != "mark") {
                got.push(ws.recv_json()["event_name"].as_str().expect("a name").to_owned());
            }
            got.pop();
            let expected: Vec<&str> = expected.iter().copied().filter(|name| *name != "mark").collect();
            assert_eq!(got, expected, "{pattern}");
        }
    });
}

#[test]
fn the_full_envelope_is_the_events_own() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "a", "envelope": "full", "id": 1}));
        let event = json!({"event_name": "a", "payload": {"n": 1}, "source": "test", "key": "k"});
        let id = server.post("/publish", &event).event_id();
        let stored = server.get(&format!("/events/{id}")).data();
        assert_eq!(
            ws.recv_json(),
            json!({"type": "event", "id": id, "event_name": "a", "payload": {"n": 1}, "source": "test", "key": "k",
                   "created_at": stored["created_at"]})
        );
        server.publish("a", json!({}));
        let frame = ws.recv_json();
        assert_eq!((&frame["key"], &frame["source"]), (&Value::Null, &json!("api")), "{frame}");
    });
}

#[test]
fn history_comes_first_then_live() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for n in 1..=5 {
            server.publish(if n == 3 { "other" } else { "a" }, json!(n));
        }
        for (after, expected) in
            [(json!(0), &[1, 2, 4, 5][..]), (json!("earliest"), &[1, 2, 4, 5]), (json!(2), &[4, 5]), (json!(5), &[])]
        {
            let mut ws = server.ws();
            let request =
                json!({"action": "subscribe", "event_name": "a", "after": after, "envelope": "full", "id": 1});
            let reply = ws.request(request);
            assert_eq!((&reply["type"], &reply["recovered"]), (&json!("subscribed"), &json!(true)), "{reply}");
            let ids: Vec<i64> = expected.iter().filter_map(|_| ws.recv_json()["id"].as_i64()).collect();
            assert_eq!(ids, expected, "after {after}");
            let live = server.publish("later", json!({}));
            ws.request(
                json!({"action": "subscribe", "event_name": "later", "after": live - 1, "envelope": "full", "id": 2}),
            );
            assert_eq!(ws.recv_json()["id"], live, "after {after}");
        }
    });
}

#[test]
fn a_long_history_meets_the_live_stream_without_gap_or_duplicate() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let items: Vec<Value> = (1..=5000).map(|n| json!({"event_name": "a", "payload": n})).collect();
        server.post("/publish/batch", Value::from(items)).data();
        let publishing = AtomicBool::new(true);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while publishing.load(Ordering::Relaxed) {
                        server.publish("a", json!({}));
                        server.publish("other", json!({}));
                    }
                });
            }
            let mut ws = server.ws();
            ws.request(json!({"action": "subscribe", "event_name": "a", "after": 0, "envelope": "full", "id": 1}));
            let mut ids: Vec<i64> = Vec::new();
            // Well past the history, so that the live stream has begun.
            while ids.len() < 5500 {
                ids.push(ws.recv_json()["id"].as_i64().expect("an id"));
            }
            publishing.store(false, Ordering::Relaxed);
            assert_eq!(ids, stored_ids(&server, "a", *ids.last().expect("events")));
        });
    });
}

#[test]
fn two_histories_on_one_connection_stay_in_order_and_once() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for n in 1..=300 {
            let name = ["a.x", "b", "a.y"][n % 3];
            server.publish(name, json!(n));
        }
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "a.*", "after": 0, "envelope": "full", "id": 1}));
        let first: Vec<i64> = (0..200).filter_map(|_| ws.recv_json()["id"].as_i64()).collect();
        assert_eq!(first, stored_ids(&server, "a.*", 300));
        ws.request(json!({"action": "subscribe", "event_name": "a.>", "envelope": "full", "id": 2}));
        let live = server.publish("a.x", json!({}));
        let mark = server.publish("a.mark", json!({}));
        assert_eq!((ws.recv_json()["id"].as_i64(), ws.recv_json()["id"].as_i64()), (Some(live), Some(mark)));
    });
}

#[test]
fn a_position_in_the_future_waits_for_it() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("a", json!(1));
        let mut ws = server.ws();
        let reply =
            ws.request(json!({"action": "subscribe", "event_name": "a", "after": 1, "envelope": "full", "id": 1}));
        assert_eq!(reply["last_id"], 1);
        let id = server.publish("a", json!(2));
        assert_eq!(ws.recv_json()["id"], id);
    });
}

#[test]
fn events_can_be_published_over_the_connection() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
        ws.send(json!({"action": "publish", "event_name": "a", "payload": {"n": 1}, "source": "socket", "id": 2}));
        let frames = [ws.recv_json(), ws.recv_json()];
        let reply = frames.iter().find(|f| f["id"] == 2).expect("a reply");
        assert!(frames.contains(&json!({"event_name": "a", "payload": {"n": 1}})), "{frames:?}");
        assert_ne!(reply["type"], "error", "{reply}");
        assert_eq!(server.events("")[0]["source"], "socket");
    });
}

#[test]
fn own_subscriptions_are_listed() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        for pattern in ["a", "b.>"] {
            ws.request(json!({"action": "subscribe", "event_name": pattern, "id": 1}));
        }
        let reply = ws.request(json!({"action": "list", "id": 2})).to_string();
        assert!(reply.contains(r#""a""#) && reply.contains(r#""b.>""#), "{reply}");
    });
}

/// Ids of the stored events that match `pattern`, up to `last`.
fn stored_ids(server: &Server, pattern: &str, last: i64) -> Vec<i64> {
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let after = ids.last().copied().unwrap_or(0);
        let page = server.events(&format!("?event_name={pattern}&after={after}&before={}&limit=1000", last + 1));
        if page.is_empty() {
            return ids;
        }
        ids.extend(page.iter().filter_map(|e| e["id"].as_i64()));
    }
}

/// A node learns of another node's events a moment later; a client that comes from there may be ahead of it.
#[test]
fn a_client_moves_between_nodes_without_gap_or_duplicate() {
    let url = Postgres::shared().url();
    let start = || Server::builder().env("DATABASE_URL", &url).start();
    let nodes = [start(), start()];
    let mut last = 0;
    for hop in 0..20 {
        let id = nodes[0].publish("a", json!(hop));
        assert_eq!(id, last + 1);
        // It has had everything, and connects at once to a node that may not know of it yet.
        let mut ws = nodes[hop % 2].ws();
        let request = json!({"action": "subscribe", "event_name": "a", "after": id, "envelope": "full", "id": 1});
        assert_eq!(ws.request(request)["recovered"], true);
        last = nodes[0].publish("a", json!("next"));
        assert_eq!(ws.recv_json()["id"], last);
    }
}

#[test]
fn publishes_are_answered_in_order() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        for n in 0..200 {
            ws.send(json!({"action": "publish", "event_name": "a", "payload": n, "id": n}));
        }
        for n in 0..200 {
            let reply = ws.recv_json();
            assert_eq!((&reply["id"], &reply["event_id"]), (&json!(n), &json!(n + 1)), "{reply}");
        }
    });
}
