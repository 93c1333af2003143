//! What operators and members see of durable subscriptions: where an event is, what holds one up, what is the same.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::durable::{Member, dead, request, shown};
use crate::support::{Backend, Server, eventually, for_each_backend};

/// Far less than a round of looking at everything takes.
const AT_ONCE: Duration = Duration::from_secs(6);

#[test]
fn a_redriven_event_reaches_an_idle_member_at_once_and_the_next_member_when_that_one_leaves() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut first = Member::join(&server, "d", json!({}));
        let id = server.publish("a.b", json!({}));
        assert_eq!(first.next(), (id, 1));
        first.say("reject", id, "rejected");
        assert_eq!(dead(&server, "d").len(), 1);
        // More than once: the moment must not matter.
        for delivery in 2..5 {
            let began = Instant::now();
            assert_eq!(server.post("/admin/deliveries/redrive", json!({"event_id": id})).data()["count"], 1);
            assert_eq!(first.next(), (id, delivery));
            assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
            first.say("reject", id, "rejected");
        }
        assert_eq!(server.post("/admin/deliveries/redrive", json!({"event_id": id})).data()["count"], 1);
        assert_eq!(first.next(), (id, 5));
        // The one that held it was the last member: the next one begins with it.
        drop(first);
        eventually("nobody is a member", || (shown(&server, "d")["members"] == 0).then_some(()));
        let began = Instant::now();
        let mut second = Member::join(&server, "d", json!({}));
        assert_eq!(second.next().0, id);
        let mut third = Member::join(&server, "d", json!({}));
        drop(second);
        assert_eq!(third.next().0, id);
        assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
        third.ack(id);
        eventually("no dead letter is left", || dead(&server, "d").is_empty().then_some(()));
    });
}

#[test]
fn an_after_beyond_the_end_is_not_recovered() {
    let server = Server::start(Backend::Sqlite);
    let id = server.publish("a.b", json!({}));
    let join = |name: &str, after: i64| server.ws().request(request(name, json!({ "after": after })));
    let reply = join("d", id + 7);
    assert_eq!((&reply["recovered"], &reply["after"]), (&json!(false), &json!(id)), "{reply}");
    assert_eq!(join("d", id + 7)["recovered"], false, "who comes back with it has seen another log");
    assert_eq!(join("e", id)["recovered"], true);
}

#[test]
fn an_after_of_another_log_is_not_recovered() {
    let server = Server::start(Backend::Sqlite);
    let id = server.publish("a.b", json!({}));
    let other = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let join = |name: &str, log: &str| server.ws().request(request(name, json!({ "after": 0, "log_id": log })));
    let reply = join("d", other);
    assert_eq!((&reply["recovered"], &reply["after"]), (&json!(false), &json!(id)), "{reply}");
    assert_eq!(join("d", other)["recovered"], false, "who comes back with it has seen another log");
    assert_eq!(join("e", reply["log_id"].as_str().expect("a text"))["recovered"], true);
}

#[test]
fn the_same_filter_in_another_spelling_is_the_same() {
    let server = Server::start(Backend::Sqlite);
    let first = json!({"filter": {"amount": 5, "to": ["x", "y"]}});
    let _member = Member::join(&server, "d", first);
    for same in [r#"{"to":["y","x"],"amount":[5.0]}"#, r#"{"\u0061mount":[{"equals":50e-1}],"to":["x","\u0079"]}"#] {
        let join = format!(r#"{{"action":"subscribe","event_name":"a.>","durable":"d","id":"join","filter":{same}}}"#);
        let mut ws = server.ws();
        // Twice: also of the same connection.
        for _ in 0..2 {
            ws.send(&join);
            let reply = ws.recv_json();
            assert_eq!(reply["type"], "subscribed", "{same}: {reply}");
        }
    }
    let other = server.ws().request(request("d", json!({"filter": {"amount": "5", "to": ["x", "y"]}})));
    assert_eq!(other["error"]["code"], "durable_mismatch", "{other}");
}

#[test]
fn a_trace_says_where_an_event_is_with_durable_subscriptions() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let trace = |server: &Server, id: i64| server.get(&format!("/events/{id}/trace")).data();
        let mut ws = Member::join(&server, "billing", json!({"max_in_flight": 2}));
        let _other = Member::join(&server, "others", json!({"event_name": "b"}));
        let ids = [(); 3].map(|()| server.publish("a.x", json!({})));
        assert_eq!([ws.next().0, ws.next().0], ids[..2]);
        let first = trace(&server, ids[0]);
        assert_eq!(first["pushed_to"], 1, "{first}");
        assert_eq!(first["durables"], json!([{"durable": "billing", "state": "in_flight", "deliveries": 1}]));
        let waits = trace(&server, ids[2]);
        assert_eq!(waits["durables"], json!([{"durable": "billing", "state": "waiting", "deliveries": null}]));
        assert_eq!(waits["pushed_to"], 0, "{waits}");
        let sessions = server.get("/admin/sessions").data();
        let frames: Vec<i64> =
            sessions.as_array().expect("a list").iter().filter_map(|s| s["frames"].as_i64()).collect();
        assert_eq!(frames.iter().sum::<i64>(), 2, "{sessions}");
        ws.say("reject", ids[0], "rejected");
        ws.ack(ids[1]);
        let state = |server: &Server, id: i64| trace(server, id)["durables"][0]["state"].clone();
        let is_so = |server: &Server| {
            assert_eq!([state(server, ids[0]), state(server, ids[1])], [json!("dead"), json!("settled")]);
            let dead = trace(server, ids[0])["deliveries"][0].clone();
            assert_eq!((&dead["service"], &dead["state"]), (&json!("durable/billing"), &json!("dead")), "{dead}");
        };
        is_so(&server);
        assert_eq!(trace(&server, ids[1])["deliveries"], json!([]));
        // The store knows it too.
        server.kill9();
        server.restart();
        is_so(&server);
        assert_eq!(state(&server, ids[2]), "waiting");
    });
}

#[test]
fn a_member_that_has_to_acknowledge_before_it_gets_more_is_told_so() {
    let unacked = |bytes| Server::builder().env("EVENT_HANDLER__CONSUMERS__MAX_UNACKED_BYTES", bytes).start();
    let held = |member: &mut Member| -> Value {
        let frame = member.ws.recv_json();
        assert_eq!((&frame["type"], &frame["durable"]), (&json!("held"), &json!("d")), "{frame}");
        frame
    };
    let server = unacked("64KiB");
    let mut ws = Member::join(&server, "d", json!({"ack_wait": "1h"}));
    let big = "x".repeat(20_000);
    let ids: Vec<i64> = (0..10).map(|_| server.publish("a.b", json!({ "big": big }))).collect();
    let mut had = Vec::new();
    while had.len() < ids.len() {
        let frame = ws.ws.recv_json();
        match frame["type"].as_str() {
            Some("event") => had.push(frame["id"].as_i64().expect("an id")),
            Some("held") => {
                assert_eq!((&frame["held_by"], &frame["unacked"]), (&json!("max_unacked_bytes"), &json!(4)), "{frame}");
                assert!(frame["unacked_bytes"].as_u64().is_some_and(|bytes| bytes > 64 * 1024), "{frame}");
                let it = shown(&server, "d");
                assert_eq!(
                    (&it["held_by"], &it["unacked_bytes"]),
                    (&frame["held_by"], &frame["unacked_bytes"]),
                    "{it}"
                );
                let last = *had.last().expect("some");
                ws.ws.send(json!({"action": "ack", "id": last, "cumulative": true}));
            }
            Some("acked") => {}
            _ => panic!("{frame}"),
        }
    }
    assert_eq!(had, ids);
    ws.ws.send(json!({"action": "ack", "id": ids[9], "cumulative": true}));
    eventually("nothing holds it up", || shown(&server, "d")["held_by"].is_null().then_some(()));
    // One that asks for few at a time, too; once.
    let mut few = Member::join(&server, "d", json!({"max_in_flight": 1}));
    drop(ws);
    let [first, second] = [(); 2].map(|()| server.publish("a.b", json!({})));
    assert_eq!(few.next().0, first);
    assert_eq!(held(&mut few)["held_by"], "max_in_flight");
    few.ack(first);
    assert_eq!(few.next().0, second);
}

#[test]
fn names_and_numbers_of_memberships_have_bounds() {
    let server = Server::builder().env("EVENT_HANDLER__CONSUMERS__MAX_PER_CONNECTION", 2).start();
    let mut ws = server.ws();
    for name in [".", ".."] {
        let refused = ws.request(request(name, json!({})));
        assert_eq!(
            (&refused["error"]["code"], &refused["error"]["field"]),
            (&json!("invalid_field"), &json!("durable"))
        );
    }
    for name in ["a", "b"] {
        assert_eq!(ws.request(request(name, json!({})))["type"], "subscribed");
    }
    assert_eq!(ws.request(request("c", json!({})))["error"]["code"], "too_many_subscriptions");
    let both = ws.request(request("a", json!({"ack_wait": 1, "ack_wait_ms": 1000})));
    assert_eq!((&both["error"]["code"], &both["error"]["field"]), (&json!("invalid_field"), &json!("ack_wait_ms")));
}
