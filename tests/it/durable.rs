//! Durable subscriptions: positions that outlive connections and the process, acknowledgements, shared work, dead
//! letters.

use std::collections::{BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::support::postgres::Postgres;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, for_each_backend};

/// A connection that is a member of durable subscriptions: events and answers come as they please.
pub struct Member {
    pub ws: Socket,
    events: VecDeque<Value>,
}

impl Member {
    /// A member of `name`, for events `a.>`, with further fields.
    pub fn join(server: &Server, name: &str, more: Value) -> Self {
        let mut ws = server.ws();
        let reply = ws.request(request(name, more));
        assert_eq!((&reply["type"], &reply["durable"]), (&json!("subscribed"), &json!(name)), "{reply}");
        Self { ws, events: VecDeque::new() }
    }

    /// The next event.
    pub fn event(&mut self) -> Value {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let frame = self.ws.recv_json();
        assert_eq!(frame["type"], "event", "{frame}");
        frame
    }

    /// The next event: its id and the how manieth delivery it is.
    pub fn next(&mut self) -> (i64, u64) {
        let event = self.event();
        (event["id"].as_i64().expect("an id"), event["delivery"].as_u64().expect("a number"))
    }

    /// The answer to `request`.
    pub fn ask(&mut self, request: Value) -> Value {
        self.ws.send(&request);
        loop {
            match self.ws.recv_json() {
                frame if frame["type"] == "event" => self.events.push_back(frame),
                reply => {
                    assert_eq!(reply["id"], request["id"], "{reply}");
                    return reply;
                }
            }
        }
    }

    /// Says something of an event, and waits until it is so.
    pub fn say(&mut self, action: &str, id: i64, done: &str) {
        let reply = self.ask(json!({"action": action, "id": id}));
        assert_eq!(reply["type"], done, "{reply}");
    }

    pub fn ack(&mut self, id: i64) {
        self.say("ack", id, "acked");
    }

    /// That nothing has come.
    fn has_nothing(&mut self) {
        assert!(self.events.is_empty(), "{:?}", self.events);
        assert_eq!(self.ws.barrier(), [] as [&str; 0]);
    }
}

pub fn request(name: &str, more: Value) -> Value {
    let mut request = json!({"action": "subscribe", "event_name": "a.>", "durable": name, "id": "join"});
    request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    request
}

/// The durable subscription as operators see it.
pub fn shown(server: &Server, name: &str) -> Value {
    server.get(&format!("/admin/durables/{name}")).data()
}

pub fn dead(server: &Server, name: &str) -> Vec<Value> {
    let page = server.get(&format!("/admin/deliveries?service=durable/{name}&state=dead"));
    page.data().as_array().expect("a list").clone()
}

#[test]
fn what_was_acknowledged_does_not_come_again_and_everything_else_does() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let mut ws = Member::join(&server, "billing", json!({}));
        let ids: Vec<i64> = (0..4).map(|n| server.publish("a.x", json!({ "n": n }))).collect();
        server.publish("b", json!({}));
        let frame = ws.event();
        assert_eq!((&frame["event_name"], &frame["payload"]), (&json!("a.x"), &json!({"n": 0})));
        assert_eq!((&frame["durable"], &frame["delivery"]), (&json!("billing"), &json!(1)));
        assert_eq!([ws.next(), ws.next(), ws.next()], [(ids[1], 1), (ids[2], 1), (ids[3], 1)]);
        ws.ack(ids[0]);
        ws.ack(ids[2]);
        server.kill9();
        server.restart();
        let last = server.publish("a.y", json!({}));
        let mut ws = Member::join(&server, "billing", json!({}));
        assert_eq!([ws.next().0, ws.next().0, ws.next().0], [ids[1], ids[3], last]);
        let reply = ws.ask(json!({"action": "ack", "id": last, "cumulative": true}));
        assert_eq!(reply, json!({"id": last, "type": "acked", "durable": "billing"}));
        drop(ws);
        server.kill9();
        server.restart();
        let mut ws = Member::join(&server, "billing", json!({}));
        let next_id = server.publish("a.z", json!({}));
        assert_eq!(ws.next(), (next_id, 1));
    });
}

#[test]
fn members_share_the_work_and_who_leaves_hands_over() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut first = Member::join(&server, "work", json!({}));
        let mut second = Member::join(&server, "work", json!({}));
        let ids: Vec<i64> = (0..10).map(|_| server.publish("a.job", json!({}))).collect();
        let had: Vec<i64> = (0..5).map(|_| first.next().0).collect();
        let others: Vec<i64> = (0..5).map(|_| second.next().0).collect();
        let mut all = [had.clone(), others.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, ids, "each to one of them");
        first.ack(had[0]);
        drop(first);
        let again: Vec<(i64, u64)> = (0..4).map(|_| second.next()).collect();
        let expected: Vec<(i64, u64)> = had[1..].iter().map(|id| (*id, 2)).collect();
        assert_eq!(again, expected);
    });
}

#[test]
fn what_is_not_acknowledged_in_time_comes_again_and_is_dead_in_the_end() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut watch = server.ws();
        watch.request(json!({"action": "subscribe", "event_name": "$sys.delivery.dead", "id": 1}));
        let mut ws = Member::join(&server, "d", json!({"ack_wait": "150ms", "max_deliver": 2}));
        let id = server.publish("a.b", json!({}));
        assert_eq!([ws.next(), ws.next()], [(id, 1), (id, 2)]);
        let told = watch.recv_json();
        assert_eq!((&told["payload"]["durable"], &told["payload"]["event_id"]), (&json!("d"), &json!(id)));
        assert_eq!((&told["payload"]["reason"], &told["payload"]["attempts"]), (&json!("exhausted"), &json!(2)));
        let letters = dead(&server, "d");
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!((&letters[0]["event_id"], &letters[0]["dead_reason"]), (&json!(id), &json!("exhausted")));
        assert_eq!(server.events("?status=failed")[0]["id"], id);
        // It is over, and holds nothing back.
        let next_id = server.publish("a.c", json!({}));
        assert_eq!(ws.next(), (next_id, 1));
        ws.ack(next_id);
        assert_eq!(shown(&server, "d")["floor"], next_id);
        // An operator wants it to be tried anew.
        let redriven = server.post("/admin/deliveries/redrive", json!({"service": "durable/d"})).data();
        assert_eq!(redriven["count"], 1, "{redriven}");
        assert_eq!(ws.next(), (id, 3));
        ws.ack(id);
        eventually("no dead letter is left", || dead(&server, "d").is_empty().then_some(()));
        assert_eq!(server.get(&format!("/events/{id}")).data()["status"], "processed");
        ws.has_nothing();
    });
}

#[test]
fn members_refuse_delay_extend_and_reject() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = Member::join(&server, "d", json!({"ack_wait": 3600}));
    let [a, b] = [server.publish("a.1", json!({})), server.publish("a.2", json!({}))];
    assert_eq!([ws.next(), ws.next()], [(a, 1), (b, 1)]);
    let reply = ws.ask(json!({"action": "extend", "id": a}));
    assert_eq!(reply["type"], "extended");
    let reply = ws.ask(json!({"action": "nack", "id": a, "delay_ms": 50}));
    assert_eq!(reply["type"], "nacked");
    assert_eq!(ws.next(), (a, 2));
    ws.say("reject", b, "rejected");
    assert_eq!(dead(&server, "d")[0]["dead_reason"], "rejected");
    for (action, id) in [("reject", b), ("nack", b), ("extend", b + 5), ("ack", b + 5)] {
        let reply = ws.ask(json!({"action": action, "id": id}));
        assert_eq!((&reply["type"], &reply["error"]["code"]), (&json!("error"), &json!("not_delivered")), "{action}");
    }
    // Twice is as good as once.
    ws.ack(a);
    ws.ack(a);
}

#[test]
fn who_joins_again_on_the_same_connection_goes_on() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = Member::join(&server, "d", json!({}));
    let id = server.publish("a.b", json!({}));
    assert_eq!(ws.next(), (id, 1));
    assert_eq!(ws.ask(request("d", json!({})))["type"], "subscribed");
    assert_eq!(ws.next(), (id, 2), "what it had comes again");
    ws.ws.send(json!({"action": "unsubscribe", "durable": "d"}));
    assert_eq!(ws.ask(request("d", json!({})))["type"], "subscribed");
    assert_eq!(ws.next(), (id, 3));
    ws.ack(id);
    ws.has_nothing();
}

#[test]
fn what_was_said_before_leaving_is_answered() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = Member::join(&server, "d", json!({}));
    let id = server.publish("a.b", json!({}));
    assert_eq!(ws.next(), (id, 1));
    ws.ws.send(json!({"action": "ack", "id": id}));
    ws.ws.send(json!({"action": "unsubscribe", "durable": "d", "id": "leave"}));
    let mut answers = [ws.ws.recv_json(), ws.ws.recv_json()].map(|answer| answer["type"].clone());
    answers.sort_by_key(ToString::to_string);
    assert_eq!(answers, ["acked", "unsubscribed"]);
}

#[test]
fn begins_where_it_is_told_to_and_only_once() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let ids: Vec<i64> = (0..3).map(|_| server.publish("a.b", json!({}))).collect();
        let mut all = Member::join(&server, "all", json!({"after": "earliest"}));
        assert_eq!([all.next().0, all.next().0, all.next().0], ids[..]);
        let mut rest = Member::join(&server, "rest", json!({"after": ids[1]}));
        assert_eq!(rest.next().0, ids[2]);
        rest.ack(ids[2]);
        drop(rest);
        let mut rest = Member::join(&server, "rest", json!({"after": "earliest"}));
        rest.has_nothing(); // It has a position of its own already.
        let refused = server.ws().request(request("rest", json!({"event_name": "b"})));
        assert_eq!(refused["error"]["code"], "durable_mismatch", "{refused}");
        assert_eq!(refused["error"]["event_name"], "a.>", "{refused}");
    });
}

#[test]
fn is_listed_moved_and_deleted_by_operators() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let mut ws = Member::join(&server, "d", json!({"max_in_flight": 2}));
        let ids: Vec<i64> = (0..5).map(|_| server.publish("a.b", json!({}))).collect();
        assert_eq!([ws.next().0, ws.next().0], ids[..2]);
        let it = shown(&server, "d");
        assert_eq!((&it["state"], &it["members"], &it["in_flight"]), (&json!("active"), &json!(1), &json!(2)), "{it}");
        assert_eq!((&it["event_name"], &it["max_in_flight"], &it["lag"]), (&json!("a.>"), &json!(2), &json!(5)));
        assert_eq!(server.get("/admin/durables").data().as_array().map(Vec::len), Some(1));
        assert_eq!(server.post("/admin/durables/d/seek", json!({"after": ids[3]})).data()["floor"], ids[3]);
        assert_eq!(ws.next(), (ids[4], 1));
        let late = ws.ask(json!({"action": "ack", "id": ids[0]}));
        assert_eq!(late["type"], "acked", "it is below the floor: {late}");
        assert_eq!(server.post("/admin/durables/d/seek", json!({"after": "earliest"})).status, 200);
        assert_eq!([ws.next().0, ws.next().0], ids[..2]);
        ws.ack(ids[0]);
        server.kill9();
        server.restart();
        let mut ws = Member::join(&server, "d", json!({}));
        assert_eq!([ws.next().0, ws.next().0], ids[1..3], "max_in_flight is kept too");
        assert_eq!(server.request("DELETE", "/admin/durables/d").send().status, 200);
        let ended = ws.ws.recv_json();
        assert_eq!((&ended["durable"], &ended["error"]["code"]), (&json!("d"), &json!("durable_not_found")), "{ended}");
        for (method, path, body) in [
            ("GET", "/admin/durables/d", None),
            ("DELETE", "/admin/durables/d", None),
            ("POST", "/admin/durables/d/seek", Some(json!({"after": 1}))),
        ] {
            let request = server.request(method, path);
            let answer = body.map_or(request.clone(), |body| request.json(body)).send();
            assert_eq!(answer.error(404)["code"], "durable_not_found", "{method} {path}");
        }
        for (body, field) in [(json!({}), "after"), (json!({"after": -1}), "after"), (json!({"since": "x"}), "since")] {
            assert_eq!(server.post("/admin/durables/d/seek", &body).error(422)["field"], field, "{body}");
        }
        // The name is free for something else.
        assert_eq!(server.ws().request(request("d", json!({"event_name": "b"})))["type"], "subscribed");
    });
}

#[test]
fn a_filter_is_part_of_it() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let rich = json!({"filter": {"amount": [{"numeric": [">=", 100]}]}});
        let mut ws = Member::join(&server, "rich", rich.clone());
        let ids: Vec<i64> = [5, 100, 7, 300].map(|amount| server.publish("a.b", json!({ "amount": amount }))).into();
        assert_eq!([ws.next().0, ws.next().0], [ids[1], ids[3]]);
        ws.ack(ids[1]);
        server.kill9();
        server.restart();
        let mut ws = Member::join(&server, "rich", rich);
        assert_eq!(ws.next().0, ids[3]);
        for other in [json!({}), json!({"filter": {"amount": [1]}})] {
            assert_eq!(server.ws().request(request("rich", other))["error"]["code"], "durable_mismatch");
        }
        let told = server.post("/admin/explain", json!({"event_name": "a.b", "payload": {"amount": 5}})).data();
        assert_eq!(told["durables"][0]["gets"], false, "{told}");
        assert!(told["durables"][0]["why_not"].as_str().is_some_and(|why| why.starts_with("filter.amount")), "{told}");
        let told = server.post("/admin/explain", json!({"event_name": "a.b", "payload": {"amount": 500}})).data();
        assert_eq!(told["durables"][0], json!({"durable": "rich", "gets": true, "why_not": null}));
        let bad = server.ws().request(request("new", json!({"filter": {"amount": [{"numeric": [">"]}]}})));
        assert_eq!(
            (&bad["error"]["code"], &bad["error"]["field"]),
            (&json!("invalid_field"), &json!("filter.amount[0].numeric")),
            "{bad}"
        );
        ws.ack(ids[3]);
        server.publish("a.b", json!({"amount": 1}));
        eventually("what it passes by moves it too", || (shown(&server, "rich")["lag"] == 0).then_some(()));
    });
}

#[test]
fn leaving_is_answered_and_listed() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = Member::join(&server, "d", json!({}));
    let listed = ws.ask(json!({"action": "list", "id": 1}));
    assert_eq!(listed["subscriptions"], json!([{"event_name": "a.>", "durable": "d"}]));
    let id = server.publish("a.b", json!({}));
    assert_eq!(ws.next(), (id, 1));
    let left = ws.ask(json!({"action": "unsubscribe", "durable": "d", "id": 2}));
    assert_eq!(left, json!({"id": 2, "type": "unsubscribed", "durable": "d"}));
    for (request, code) in [
        (json!({"action": "unsubscribe", "durable": "d", "id": 3}), "not_a_member"),
        (json!({"action": "ack", "id": id}), "not_a_member"),
    ] {
        assert_eq!(ws.ask(request.clone())["error"]["code"], code, "{request}");
    }
    let mut ws = Member::join(&server, "d", json!({}));
    assert_eq!(ws.next(), (id, 2));
}

#[test]
fn many_in_a_row_are_kept_apart_by_name() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = Member::join(&server, "one", json!({}));
    ws.ask(request("two", json!({})));
    let id = server.publish("a.b", json!({}));
    assert_eq!([ws.next(), ws.next()], [(id, 1), (id, 1)]);
    let reply = ws.ask(json!({"action": "ack", "id": id}));
    assert_eq!((&reply["error"]["code"], &reply["error"]["field"]), (&json!("missing_field"), &json!("durable")));
    for name in ["one", "two"] {
        let reply = ws.ask(json!({"action": "ack", "id": id, "durable": name}));
        assert_eq!((&reply["type"], &reply["durable"]), (&json!("acked"), &json!(name)));
    }
}

#[test]
fn of_two_nodes_one_delivers_and_the_other_takes_over() {
    let url = Postgres::shared().url();
    let node = || Server::builder().env("DATABASE_URL", &url).start();
    let (mut holder, standby) = (node(), node());
    let mut first = Member::join(&holder, "d", json!({}));
    let mut second = Member::join(&standby, "d", json!({}));
    let ids = [standby.publish("a.1", json!({})), standby.publish("a.2", json!({}))];
    assert_eq!([first.next().0, first.next().0], ids);
    first.ack(ids[0]);
    second.has_nothing();
    assert_eq!(shown(&standby, "d")["state"], "standby");
    holder.kill9();
    assert_eq!(second.next().0, ids[1]);
    second.ack(ids[1]);
    // And back, when the last member here leaves.
    holder.restart();
    let mut first = Member::join(&holder, "d", json!({}));
    let id = holder.publish("a.3", json!({}));
    assert_eq!(second.next().0, id);
    drop(second);
    assert_eq!(first.next().0, id);
}

#[test]
fn a_slow_member_does_not_hold_back_the_others() {
    let server = Server::start(Backend::Sqlite);
    let slow = Member::join(&server, "d", json!({"max_in_flight": 10000}));
    let mut quick = Member::join(&server, "d", json!({}));
    let big = "x".repeat(50_000);
    // More than both sockets, queues and budgets of the slow one hold.
    let ids: BTreeSet<i64> = (0..400).map(|_| server.publish("a.b", json!({ "big": big }))).collect();
    let mut had = BTreeSet::new();
    while had.len() < 200 {
        let (id, _) = quick.next();
        quick.ack(id);
        had.insert(id);
    }
    drop(slow);
    while had != ids {
        let (id, _) = quick.next();
        quick.ack(id);
        assert!(had.insert(id), "acknowledged, and came again");
    }
}
