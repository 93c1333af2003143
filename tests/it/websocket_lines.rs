//! The subprotocol `event-handler.v1.ndjson`: several JSON objects, one a line, in a text frame.

use serde_json::{Value, json};

use crate::support::ws::Socket;
use crate::support::{Backend, Server, for_each_backend};

const LINES: &[(&str, &str)] = &[("Sec-WebSocket-Protocol", "event-handler.v1.ndjson")];

fn connect(server: &Server) -> Socket {
    Socket::connect(server.addr(), "/ws", LINES).expect("an open data plane")
}

/// The objects of the next `count` or more lines, and in how many frames they came.
fn receive(ws: &mut Socket, count: usize) -> (Vec<Value>, usize) {
    let (mut objects, mut frames) = (Vec::new(), 0);
    while objects.len() < count {
        let text = ws.recv_text();
        objects.extend(text.split('\n').map(|line| serde_json::from_str::<Value>(line).expect("JSON on each line")));
        frames += 1;
    }
    (objects, frames)
}

#[test]
fn events_that_go_out_together_share_frames() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let items: Vec<Value> = (1..=1000).map(|n| json!({"event_name": "a", "payload": n})).collect();
        server.post("/publish/batch", Value::from(items.clone())).data();
        let mut ws = connect(&server);
        // From history, then live; by one subscription, then by two that overlap.
        ws.send(json!({"action": "subscribe", "event_name": "a", "after": 0, "envelope": "full"}));
        let (events, frames) = receive(&mut ws, 1000);
        let ids = |events: &[Value]| events.iter().filter_map(|event| event["id"].as_i64()).collect::<Vec<_>>();
        assert_eq!(ids(&events), (1..=1000).collect::<Vec<_>>());
        assert!(frames < 100, "{frames} frames");
        for round in 1..=2 {
            server.post("/publish/batch", Value::from(items.clone())).data();
            let (events, frames) = receive(&mut ws, 1000);
            assert_eq!(ids(&events), (1000 * round + 1..=1000 * (round + 1)).collect::<Vec<_>>());
            assert!(frames < 100, "{frames} frames");
            ws.send(json!({"action": "subscribe", "event_name": ">", "envelope": "full"}));
            ws.barrier();
        }
    });
}

#[test]
fn an_object_is_always_one_line() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = connect(&server);
    ws.send(json!({"action": "subscribe", "event_name": "a"}));
    ws.barrier();
    server.post("/publish", "{\"event_name\":\"a\",\"payload\":{\r\n\"n\":\n1}}").event_id();
    assert_eq!(receive(&mut ws, 1).0, [json!({"event_name": "a", "payload": {"n": 1}})]);
}

#[test]
fn several_requests_may_share_a_frame() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = connect(&server);
    let requests = [
        json!({"action": "subscribe", "event_name": "a", "id": 1}),
        json!({"action": "list", "id": 2}),
        json!({"action": "unsubscribe", "event_name": "a", "id": 3}),
        json!({"action": "list", "id": 4}),
        json!({"action": "publish", "event_name": "a", "id": 5}),
    ];
    let text: Vec<String> = requests.iter().map(Value::to_string).collect();
    ws.send(format!("{}\n\r\nnonsense\n", text.join("\r\n")));
    let (replies, _) = receive(&mut ws, 6);
    assert_eq!(replies[1]["subscriptions"][0]["event_name"], "a");
    assert_eq!(replies[3]["subscriptions"], json!([]));
    let errors: Vec<&Value> = replies.iter().filter(|reply| reply["type"] == "error").collect();
    assert_eq!((errors.len(), &errors[0]["error"]["code"]), (1, &json!("malformed_json")));
    let ids: Vec<i64> = replies.iter().filter_map(|reply| reply["id"].as_i64()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
}

#[test]
fn without_the_subprotocol_a_frame_is_one_object() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = server.ws();
    ws.send("{\"action\":\"ping\"}\n{\"action\":\"ping\"}");
    assert_eq!(ws.recv_json()["error"]["code"], "malformed_json");
}
