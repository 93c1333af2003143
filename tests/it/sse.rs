//! `/events/stream`: server-sent events, exact recovery, and clients that are slow, old, or gone.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::metric;
use crate::support::sse::EventStream;
use crate::support::{Backend, Server, eventually, for_each_backend};

#[test]
fn events_come_as_they_are_published() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("user.created", json!("before"));
        let mut stream = server.stream("?event_name=user.*&event_name=order.%3E", &[]);
        assert_eq!(stream.header("content-type"), Some("text/event-stream"));
        assert_eq!(stream.header("cache-control"), Some("no-store"));
        assert_eq!(stream.header("x-accel-buffering"), Some("no"));
        assert_eq!(stream.header("connection"), Some("close"));
        assert_eq!(stream.header("stream-recovered"), Some("true"));
        assert_eq!((stream.header("transfer-encoding"), stream.header("content-length")), (None, None));
        let first = stream.next_block().expect("a first block");
        assert_eq!((first.id.as_deref(), &first.data), (Some("1"), &None));
        assert!((1000..3000).contains(&first.retry.expect("advice")), "{first:?}");
        server.publish("user.created", json!({"n": 1}));
        server.publish("other", json!(2));
        server.publish("order.eu.paid", json!([3]));
        assert_eq!(stream.event(), (2, "user.created".to_owned(), json!({"n": 1})));
        assert_eq!(stream.event(), (4, "order.eu.paid".to_owned(), json!([3])));
    });
}

#[test]
fn without_a_name_everything_comes_but_own_events() {
    let server = Server::start(Backend::Sqlite);
    for path in ["/events/stream", "/events"] {
        let mut stream = EventStream::open(server.addr(), path, &["Accept: text/event-stream"]);
        assert_eq!(stream.header("content-type"), Some("text/event-stream"));
        let id = server.publish("a", json!(path));
        assert_eq!(stream.event(), (id, "a".to_owned(), json!(path)));
    }
}

#[test]
fn the_full_envelope_is_the_events_own() {
    let server = Server::start(Backend::Sqlite);
    let mut stream = server.stream("?envelope=full", &[]);
    let id = server.post("/publish", json!({"event_name": "a", "payload": 1, "key": "k"})).event_id();
    let created_at = server.get(&format!("/events/{id}")).data()["created_at"].clone();
    let (_, _, data) = stream.event();
    assert_eq!(
        data,
        json!({"type": "event", "id": id, "event_name": "a", "payload": 1, "created_at": created_at, "source": "api", "key": "k"})
    );
}

#[test]
fn without_names_all_events_are_messages() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("a.before", json!(1));
        let mut stream = server.stream("?event_name=a.*&named=false&after=0", &[]);
        stream.next_block().expect("a first block");
        server.publish("a.after", json!({"n": 2}));
        for (id, name, payload) in [(1, "a.before", json!(1)), (2, "a.after", json!({"n": 2}))] {
            let block = stream.next_block().expect("an event");
            assert_eq!((block.id, block.event), (Some(id.to_string()), None));
            let data: Value = serde_json::from_str(&block.data.expect("data")).expect("JSON");
            assert_eq!((&data["event_name"], &data["payload"], &data["id"]), (&json!(name), &payload, &json!(id)));
        }
        let mut named = server.stream("?named=true&after=1", &[]);
        assert_eq!(named.event(), (2, "a.after".to_owned(), json!({"n": 2})));
        for (query, field) in [("named=no", "named"), ("named=false&envelope=plain", "envelope")] {
            assert_eq!(server.get(&format!("/events/stream?{query}")).error(422)["field"], field);
        }
    });
}

#[test]
fn a_filter_holds_for_all_names() {
    let server = Server::start(Backend::Sqlite);
    server.publish("a", json!({"n": 1}));
    server.publish("b", json!({"n": 2}));
    let filter = "%7B%22n%22:%5B%7B%22numeric%22:%5B%22%3E%22,1%5D%7D%5D%7D";
    let mut stream = server.stream(&format!("?event_name=a&event_name=b&after=0&filter={filter}"), &[]);
    server.publish("a", json!({"n": 0}));
    server.publish("a", json!({"n": 3}));
    assert_eq!([stream.event().0, stream.event().0], [2, 4]);
    let error = server.get("/events/stream?filter=%7B%22n%22:%5B%7B%22numeric%22:%5B%22x%22,1%5D%7D%5D%7D").error(422);
    assert!(error["field"].as_str().is_some_and(|field| field.starts_with("filter.n")), "{error}");
}

#[test]
fn payloads_of_several_lines_arrive_whole() {
    let server = Server::start(Backend::Sqlite);
    let mut stream = server.stream("", &[]);
    let payload = "{\r\n\"a\": [1,\n\n2],\r\"b\":\n\"x\\n\"}";
    server.post("/publish", format!(r#"{{"event_name":"a","payload":{payload}}}"#)).event_id();
    assert_eq!(stream.next_block().expect("the preamble").data, None);
    let data = stream.next_block().expect("an event").data.expect("data");
    assert_eq!(data, payload.replace("\r\n", "\n").replace('\r', "\n"));
}

#[test]
fn a_client_resumes_where_it_was() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for n in 1..=5 {
            server.publish(if n == 3 { "other" } else { "a" }, json!(n));
        }
        let ids = |mut stream: EventStream, count: usize| (0..count).map(|_| stream.event().0).collect::<Vec<_>>();
        assert_eq!(ids(server.stream("?event_name=a&after=earliest", &[]), 4), [1, 2, 4, 5]);
        assert_eq!(ids(server.stream("?event_name=a&after=2", &[]), 2), [4, 5]);
        assert_eq!(ids(server.stream("?event_name=a", &["Last-Event-ID: 4"]), 1), [5]);
        // The header is newer than the URL with which the client began.
        assert_eq!(ids(server.stream("?event_name=a&after=earliest", &["Last-Event-ID: 4"]), 1), [5]);
        // Patterns that overlap: each event once, in order.
        assert_eq!(ids(server.stream("?event_name=a&event_name=%3E&event_name=a&after=0", &[]), 5), [1, 2, 3, 4, 5]);
    });
}

/// From the store, and from the recent events that a shard with a client keeps.
#[test]
fn histories_of_several_patterns_come_as_one() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__WORKERS", 1).start();
    for kept in [false, true] {
        let _keeper = kept.then(|| server.stream("", &[]));
        let first = server.publish("a", json!({}));
        for n in 1..20 {
            server.publish(["a", "b", "c"][n % 3], json!({}));
        }
        let query = format!("?event_name=a&event_name=b&event_name=c&after={}", first - 1);
        let mut stream = server.stream(&query, &[]);
        let ids: Vec<i64> = (0..20).map(|_| stream.event().0).collect();
        assert_eq!(ids, (first..first + 20).collect::<Vec<_>>(), "recent events kept: {kept}");
    }
}

#[test]
fn a_client_without_any_event_yet_resumes_too() {
    let mut server = Server::builder().backend(Backend::Sqlite).start();
    server.publish("a", json!(1));
    let mut stream = server.stream("?event_name=a", &[]);
    stream.next_block().expect("the preamble");
    server.kill9();
    assert_eq!(stream.next_block(), None);
    server.restart();
    server.publish("a", json!(2));
    let mut stream = server.stream("?event_name=a", &[&format!("Last-Event-ID: {}", stream.last_id)]);
    assert_eq!(stream.event().0, 2);
}

#[test]
fn nothing_is_missed_or_repeated_over_a_kill() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let mut seen = Vec::new();
        let mut last = "earliest".to_owned();
        for round in 0..3 {
            let items: Vec<Value> = (0..700).map(|n| json!({"event_name": "a", "payload": [round, n]})).collect();
            let mut stream = server.stream("", &[&format!("Last-Event-ID: {last}")]);
            server.post("/publish/batch", Value::from(items)).data();
            while seen.len() < 700 * (round + 1) - 300 {
                seen.push(stream.event().0);
            }
            last.clone_from(&stream.last_id);
            server.kill9();
            server.restart();
        }
        let mut stream = server.stream("", &[&format!("Last-Event-ID: {last}")]);
        while seen.len() < 2100 {
            seen.push(stream.event().0);
        }
        assert_eq!(seen, (1..=2100).collect::<Vec<_>>());
    });
}

#[test]
fn a_gap_is_told() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 10).start();
    let items: Vec<Value> = (0..100).map(|n| json!({"event_name": "a", "payload": n})).collect();
    server.post("/publish/batch", Value::from(items)).data();
    let earliest = eventually("trimmed", || {
        let first = server.events("?after=0&limit=1")[0]["id"].as_i64();
        first.filter(|first| *first > 80)
    });
    let mut stream = server.stream("", &["Last-Event-ID: 5"]);
    assert_eq!(stream.header("stream-recovered"), Some("false"));
    let told = stream.header("stream-earliest-id").and_then(|id| id.parse().ok()).expect("an id");
    assert!(earliest <= told);
    let (_, name, data) = stream.event();
    assert_eq!(
        (name.as_str(), &data),
        ("$sys.stream.gap", &json!({"recovered": false, "earliest_id": told, "last_id": 100}))
    );
    assert_eq!(stream.event().0, told);
    // From another log, which was longer.
    let mut stream = server.stream("", &["Last-Event-ID: 5000"]);
    assert_eq!(stream.event().1, "$sys.stream.gap");
    assert_eq!(stream.last_id, "100");
}

#[test]
fn bad_requests_are_refused_in_json() {
    let server = Server::start(Backend::Sqlite);
    for (query, field) in [
        ("?event_name=a..b", "event_name"),
        ("?after=-1", "after"),
        ("?after=latest", "after"),
        ("?envelope=half", "envelope"),
        ("?limit=3", "limit"),
        ("?after=1&after=2", "after"),
    ] {
        let error = server.get(&format!("/events/stream{query}")).error(422);
        assert_eq!(error["field"], field, "{query}");
    }
    let refused = server.request("GET", "/events/stream").header("Last-Event-ID", "x").send();
    assert_eq!(refused.error(422)["field"], "Last-Event-ID");
    let many: String = (0..1001).map(|n| format!("&event_name=a{n}")).collect();
    assert_eq!(server.get(&format!("/events/stream?{many}")).error(422)["code"], "too_many_subscriptions");
    server.post("/events/stream", "").error(405);
    // What was refused holds no seat.
    eventually("no session", || (metric(&server, "event_handler_sessions") == 0.0).then_some(()));
}

#[test]
fn a_head_request_gets_the_head() {
    let server = Server::start(Backend::Sqlite);
    let response = server.request("HEAD", "/events/stream").send();
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(response.body, b"");
}

#[test]
fn a_client_of_http_1_0_is_served() {
    let server = Server::start(Backend::Sqlite);
    let mut stream = EventStream::request(server.addr(), "HTTP/1.0", "/events/stream", &[]).expect("an answer");
    assert_eq!((stream.status, stream.header("transfer-encoding")), (200, None));
    let id = server.publish("a", json!({}));
    assert_eq!(stream.event().0, id);
}

#[test]
fn a_client_that_goes_is_noticed() {
    let server = Server::start(Backend::Sqlite);
    let sessions = || metric(&server, "event_handler_sessions");
    let streams: Vec<_> = (0..3).map(|_| server.stream("", &[])).collect();
    assert_eq!(sessions(), 3.0);
    for stream in &streams {
        stream.stream().shutdown(Shutdown::Both).expect("connected");
    }
    eventually("no session", || (sessions() == 0.0).then_some(()));
}

#[test]
fn a_client_that_floods_is_cut_off() {
    use std::io::Write;
    let server = Server::start(Backend::Sqlite);
    let stream = server.stream("", &[]);
    stream.stream().set_write_timeout(Some(Duration::from_secs(5))).expect("valid");
    let mut sent = 0;
    while sent < 64 << 20 && stream.stream().write_all(&[b'x'; 65_536]).is_ok() {
        sent += 65_536;
    }
    eventually("cut off", || (metric(&server, r#"event_handler_closes_total{code="4008"}"#) == 1.0).then_some(()));
}

#[test]
fn heartbeats_carry_the_position() {
    let server =
        Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUBSCRIBE__HEARTBEAT_INTERVAL", "100ms").start();
    let mut stream = server.stream("?event_name=rare", &[]);
    let id = server.publish("frequent", json!({}));
    loop {
        let block = stream.next_block().expect("a heartbeat");
        assert_eq!(block.data, None);
        if block.id.as_deref() == Some(&id.to_string()) {
            assert_eq!(block.comments, 1);
            break;
        }
    }
}

#[test]
fn a_slow_client_catches_up() {
    for_each_backend(|backend| {
        let server = Server::builder()
            .backend(backend)
            .env("EVENT_HANDLER__SUBSCRIBE__QUEUE_PER_CONNECTION", "16KiB")
            .env("EVENT_HANDLER__SUBSCRIBE__RECENT_EVENTS", "0B")
            .start();
        let mut slow = server.stream("", &[]);
        let payload = "x".repeat(10_000);
        let items: Vec<Value> = (0..200).map(|_| json!({"event_name": "a", "payload": payload})).collect();
        for _ in 0..5 {
            server.post("/publish/batch", Value::from(items.clone())).data();
        }
        eventually("behind", || {
            (metric(&server, r#"event_handler_catch_ups_total{reason="slow"}"#) > 0.0).then_some(())
        });
        let ids: Vec<i64> = (0..1000).map(|_| slow.event().0).collect();
        assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
        let id = server.publish("a", json!("live"));
        assert_eq!(slow.event().0, id);
    });
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let server =
        Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUBSCRIBE__STALL_TIMEOUT", "1s").start();
    let _stalled = server.stream("", &[]);
    let payload = "x".repeat(500_000);
    eventually("cut off", || {
        server.publish("a", json!(payload));
        (metric(&server, r#"event_handler_closes_total{code="4101"}"#) == 1.0).then_some(())
    });
}

#[test]
fn a_thousand_clients_get_the_same() {
    let server = Server::start(Backend::Sqlite);
    let mut streams: Vec<_> = (0..1000).map(|_| server.stream("?event_name=a", &[])).collect();
    for n in 0..20 {
        server.publish("a", json!(n));
    }
    for stream in &mut streams {
        let ids: Vec<i64> = (0..20).map(|_| stream.event().0).collect();
        assert_eq!(ids, (1..=20).collect::<Vec<_>>());
    }
}

#[test]
fn old_connections_are_rotated() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUBSCRIBE__MAX_AGE", "1s").start();
    let begun = Instant::now();
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    let mut stream = server.stream("", &[]);
    while stream.next_block().is_some() {}
    assert!(begun.elapsed() > Duration::from_millis(800), "too early");
    assert!(stream.retry.is_some_and(|retry| retry <= 1000), "{:?}", stream.retry);
    let (close, frames) = ws.recv_close();
    assert_eq!(close.map(|close| u16::from(close.code)), Some(4200));
    let advice: Value = serde_json::from_str(&frames[0]).expect("JSON");
    assert_eq!((&advice["type"], &advice["reconnect"]), (&json!("disconnect"), &json!(true)));
}

#[test]
fn an_operator_ends_a_stream() {
    let server = Server::start(Backend::Sqlite);
    let mut stream = server.stream("", &[]);
    let sessions = server.get("/admin/sessions").data();
    assert_eq!(sessions[0]["kind"], "sse");
    let id = &sessions[0]["id"];
    server.request("DELETE", &format!("/admin/sessions/{id}")).send().data();
    while stream.next_block().is_some() {}
    assert!(stream.retry.is_some_and(|retry| retry >= 60_000), "{:?}", stream.retry);
}
