//! `GET /events` as NDJSON: the whole result, line by line.

use serde_json::{Value, json};

use crate::support::http::{Connection, Response};
use crate::support::{Backend, Server, for_each_backend};

const EVENTS: i64 = 2500;

fn lines(server: &Server, query: &str) -> Response {
    server.request("GET", &format!("/events{query}")).header("Accept", "application/x-ndjson").send()
}

fn events(response: &Response) -> Vec<Value> {
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/x-ndjson")));
    response.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn ids(response: &Response) -> Vec<i64> {
    events(response).iter().filter_map(|event| event["id"].as_i64()).collect()
}

/// A server with events 1 to [`EVENTS`], every tenth of them named `ten`.
fn filled(backend: Backend) -> Server {
    let server = Server::start(backend);
    let name = |n: i64| if n % 10 == 0 { "ten" } else { "other" };
    let items: Vec<Value> = (1..=EVENTS).map(|n| json!({"event_name": name(n), "payload": n})).collect();
    server.post("/publish/batch", Value::from(items)).data();
    server
}

#[test]
fn everything_comes_in_order() {
    for_each_backend(|backend| {
        let server = filled(backend);
        let all = lines(&server, "");
        assert_eq!(ids(&all), (1..=EVENTS).collect::<Vec<_>>());
        // Each line is the event as it is shown elsewhere.
        assert_eq!(events(&all)[6], server.get("/events/7").data());
        assert_eq!(ids(&lines(&server, "?order=desc")), (1..=EVENTS).rev().collect::<Vec<_>>());
        assert_eq!(ids(&lines(&server, "?after=2000&before=2400")), (2001..2400).collect::<Vec<_>>());
        assert_eq!(ids(&lines(&server, "?limit=1500")), (1..=1500).collect::<Vec<_>>());
        assert_eq!(ids(&lines(&server, "?limit=3&after=100")), [101, 102, 103]);
        assert_eq!(ids(&lines(&server, "?limit=2&order=desc&before=100")), [99, 98]);
        let tens: Vec<i64> = (1..=EVENTS / 10).map(|n| n * 10).collect();
        assert_eq!(ids(&lines(&server, "?event_name=ten")), tens);
        assert_eq!(lines(&server, "?event_name=none").body, b"");
        lines(&server, "?wait=1s&after=0").error(422);
        lines(&server, "?limit=0").error(422);
    });
}

#[test]
fn an_event_of_several_lines_is_one() {
    let server = Server::start(Backend::Sqlite);
    server.post("/publish", "{\"event_name\":\"a\",\"payload\":{\r\n\"n\":\n[1,\n2]}}").event_id();
    server.publish("b", json!("x\ny"));
    let events = events(&lines(&server, ""));
    assert_eq!([&events[0]["payload"], &events[1]["payload"]], [&json!({"n": [1, 2]}), &json!("x\ny")]);
}

#[test]
fn it_ends_where_the_log_ended_when_it_began() {
    let server = Server::start(Backend::Sqlite);
    let payload = "x".repeat(100_000);
    let publish = |count: usize| {
        let items: Vec<Value> = (0..count).map(|_| json!({"event_name": "a", "payload": payload})).collect();
        server.post("/publish/batch", Value::from(items)).data();
    };
    publish(100);
    publish(100);
    let mut connection = Connection::open(server.addr()).expect("a connection");
    let request = server.request("GET", "/events").header("Accept", "application/x-ndjson");
    connection.send_raw(&request.encode()).expect("sent");
    let (status, _) = connection.receive_head().expect("a head");
    assert_eq!(status, 200);
    // The client has read nothing of 20 MB, far more than fits on the way: the server waits for it.
    publish(100);
    let mut body = Vec::new();
    while connection.read_chunk(&mut body).expect("a chunk") {}
    assert_eq!(body.iter().filter(|byte| **byte == b'\n').count(), 200);
}

#[test]
fn memory_does_not_grow_with_the_result() {
    let server = Server::start(Backend::Sqlite);
    let payload = "x".repeat(10_000);
    let items: Vec<Value> = (0..1000).map(|_| json!({"event_name": "a", "payload": payload})).collect();
    for _ in 0..8 {
        server.post("/publish/batch", Value::from(items.clone())).data();
    }
    lines(&server, "?limit=1000");
    let before = server.rss();
    assert_eq!(ids(&lines(&server, "")).len(), 8000);
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 40 << 20, "80 MB of events took {grown} bytes of memory");
}

#[test]
fn a_failure_on_the_way_is_seen() {
    let server = Server::start(Backend::Sqlite);
    let payload = "x".repeat(100_000);
    let items: Vec<Value> = (0..150).map(|_| json!({"event_name": "a", "payload": payload})).collect();
    for _ in 0..2 {
        server.post("/publish/batch", Value::from(items.clone())).data();
    }
    let mut connection = Connection::open(server.addr()).expect("a connection");
    let request = server.request("GET", "/events").header("Accept", "application/x-ndjson");
    connection.send_raw(&request.encode()).expect("sent");
    connection.receive_head().expect("a head");
    // The client reads nothing, so the server waits with most of it. The database goes away.
    let path = server.dir().join("events.db");
    std::fs::rename(&path, path.with_extension("away")).expect("moved");
    std::fs::write(&path, "not a database, but in its place").expect("written");
    let mut body = Vec::new();
    let ended = loop {
        match connection.read_chunk(&mut body) {
            Ok(true) => {}
            ended => break ended,
        }
    };
    assert!(ended.is_err(), "a clean end after {} bytes", body.len());
}
