//! How much each may ask for.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::http::{Connection, Response};
use crate::support::server::metric;
use crate::support::tokens::bearer;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

const OPEN: &str = r#"scopes = { publish = [">"], subscribe = [">"], read = [">"] }"#;

fn limited(limits: &str) -> Server {
    let more = format!("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[limits]\n{limits}");
    let server = Server::builder().backend(Backend::Sqlite).file("limits.toml", &more);
    server.env("EVENT_HANDLER_CONFIG", "limits.toml").start()
}

/// A publish as a proxy forwards it for `client`.
fn publish_for(server: &Server, client: &str) -> Response {
    server.request("POST", "/publish").header("X-Forwarded-For", client).json(json!({"event_name": "a"})).send()
}

/// Publishes for clients until one is refused, which must be soon.
fn until_refused(server: &Server, client: impl Fn(usize) -> String) -> Response {
    let refused = (0..20).map(|n| publish_for(server, &client(n))).find(|answer| answer.status == 429);
    refused.expect("more than the burst within its time")
}

#[test]
fn publishes_are_limited_for_each_client() {
    let server = limited("publish_rate = 1\npublish_burst = 3");
    let refused = until_refused(&server, |_| "10.1.1.1".into());
    assert_eq!(refused.error(429)["code"], "rate_limited");
    assert!(refused.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after >= 1)));
    assert_eq!(publish_for(&server, "10.1.1.2").status, 200, "another client");
    assert_eq!(publish_for(&server, "6.6.6.6, 10.1.1.3").status, 200);
    until_refused(&server, |_| "\u{e9}, 10.1.1.5".into());
    assert_eq!(publish_for(&server, "\u{e9}, 10.1.1.6").status, 200, "no text does not hide who it is");
    // What a client makes up does not count.
    until_refused(&server, |n| format!("10.2.2.{n}, 10.1.1.1"));
    let batch = |client: &str| {
        let request = server.request("POST", "/publish/batch").header("X-Forwarded-For", client);
        request.json(Value::Array(vec![json!({"event_name": "a"}); 3])).send().status
    };
    assert_eq!([batch("10.1.1.4"), batch("10.1.1.4")], [200, 429], "each event counts");
}

#[test]
fn only_the_configured_header_is_read() {
    let refused = |server: &Server, name: &str, value: &dyn Fn(usize) -> String| {
        let publish =
            |n| server.request("POST", "/publish").header(name, &value(n)).json(json!({"event_name": "a"})).send();
        (0..20).any(|n| publish(n).status == 429)
    };
    let server = limited("publish_rate = 1\npublish_burst = 3");
    assert!(refused(&server, "Forwarded", &|n| format!("for=10.3.3.{n}")), "a client makes up the other one");
    assert!(!refused(&server, "X-Forwarded-For", &|n| format!("10.4.4.{n}")));
    let server = server.spec().env("EVENT_HANDLER__SERVER__PROXY_HEADER", "forwarded").start();
    assert!(refused(&server, "X-Forwarded-For", &|n| format!("10.3.3.{n}")), "a client makes up the other one");
    assert!(!refused(&server, "Forwarded", &|n| format!("for=9.9.9.9, For=\"10.4.4.{n}:77\";proto=http")));
    assert!(refused(&server, "Forwarded", &|n| format!("for=9.9.9.{n}, for=10.5.5.5")));
}

#[test]
fn only_trusted_proxies_tell_who_the_client_is() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__LIMITS__PUBLISH_RATE", 1);
    let server = server.env("EVENT_HANDLER__LIMITS__PUBLISH_BURST", 2).start();
    let statuses: Vec<u16> = (0..6).map(|n| publish_for(&server, &format!("10.0.0.{n}")).status).collect();
    assert!(statuses.iter().filter(|status| **status == 429).count() >= 2, "all are one client: {statuses:?}");
}

#[test]
fn a_session_is_told_when_to_publish_again() {
    let server = limited("publish_rate = 1\npublish_burst = 2");
    let mut socket = server.ws();
    let publishes: Vec<Value> =
        (0..4).map(|id| socket.request(json!({"action": "publish", "event_name": "a", "id": id}))).collect();
    let refused: Vec<_> = publishes.iter().filter(|reply| reply["error"]["code"] == "rate_limited").collect();
    assert!(!refused.is_empty(), "{publishes:?}");
    let waits = refused
        .iter()
        .all(|reply| reply["error"]["retry_after_ms"].as_u64().is_some_and(|ms| (1..=1000).contains(&ms)));
    assert!(waits, "{refused:?}");
}

#[test]
fn connections_are_limited_in_number_and_rate() {
    let server = limited("connections_per_peer = 2");
    let connect = |client: &str| Socket::connect(server.addr(), "/ws", &[("X-Forwarded-For", client)]);
    let first = connect("10.1.1.1").expect("room");
    let _second = connect("10.1.1.1").expect("room");
    let refused = connect("10.1.1.1").err().expect("refused");
    assert!(refused.status == 429 && refused.body.contains("too_many_connections"), "{refused:?}");
    let _other = connect("10.1.1.2").expect("another client");
    drop(first);
    eventually("its place is free again", || connect("10.1.1.1").ok());

    let server = limited("connect_rate = 1\nconnect_burst = 3");
    let connect = |client: &str| Socket::connect(server.addr(), "/ws", &[("X-Forwarded-For", client)]);
    let refused = (0..6).filter_map(|_| connect("10.1.1.1").err()).map(|refused| refused.status).collect::<Vec<_>>();
    assert!(refused.len() >= 2 && refused.iter().all(|status| *status == 429), "{refused:?}");
    assert!(connect("10.1.1.2").is_ok());
}

#[test]
fn a_flood_of_frames_is_refused_and_then_closed() {
    let server = limited("frame_rate = 50\nframe_burst = 50");
    let mut calm = server.ws();
    calm.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    let mut flood = server.ws();
    for _ in 0..60 {
        flood.send(json!({"action": "ping"}));
    }
    let replies: Vec<Value> = (0..60).map(|_| flood.recv_json()).collect();
    let refused: Vec<_> = replies.iter().filter(|reply| reply["error"]["code"] == "rate_limited").collect();
    assert!(!refused.is_empty() && refused[0]["error"]["retry_after_ms"].is_u64(), "{replies:?}");
    // It goes on regardless.
    let flooded = thread::spawn(move || {
        while flood.try_send(json!({"action": "ping"})).is_ok() {}
        flood
    });
    let mut flood = flooded.join().expect("no panic");
    let closed = loop {
        match flood.recv(Duration::from_secs(20)) {
            Ok(Message::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
            Ok(_) => {}
            // What it still sent may have reset the connection before the close frame was read.
            Err(_) => break None,
        }
    };
    assert!(matches!(closed, None | Some(4008)), "{closed:?}");
    eventually("it is closed for that", || {
        (metric(&server, "event_handler_closes_total{code=\"4008\"}") == 1.0).then_some(())
    });
    server.publish("a", json!(7));
    assert_eq!(calm.recv_json()["payload"], 7, "nobody else is disturbed");
}

#[test]
fn nothing_is_limited_unless_configured() {
    let server = Server::start(Backend::Sqlite);
    let mut connection = Connection::open(server.addr()).expect("a connection");
    let publish = server.request("POST", "/publish").json(json!({"event_name": "a"}));
    for _ in 0..300 {
        assert_eq!(connection.send(&publish).expect("an answer").status, 200);
    }
    let mut socket = server.ws();
    for _ in 0..300 {
        socket.send(json!({"action": "ping"}));
    }
    for _ in 0..300 {
        assert_eq!(socket.recv_json()["type"], "pong");
    }
}

/// One token publishes as fast as it can, another one at its steady pace: that one is never refused, nor slowed down.
#[test]
fn a_flood_of_one_token_does_not_disturb_another() {
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .tokens(&[("flood", OPEN), ("steady", OPEN)], "[limits]\npublish_rate = 200\npublish_burst = 50");
    let server = server.start();
    let publish = |who: &str| {
        let request = server.request("POST", "/publish").header("Authorization", &bearer(who));
        request.json(json!({"event_name": "a"}))
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let floods: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(server.addr()).expect("a connection");
                    let request = publish("flood");
                    let (mut stored, mut refused) = (0, 0);
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        match connection.send(&request).expect("an answer").status {
                            200 => stored += 1,
                            429 => refused += 1,
                            other => panic!("{other}"),
                        }
                    }
                    (stored, refused)
                })
            })
            .collect();
        let mut connection = Connection::open(server.addr()).expect("a connection");
        let begin = Instant::now();
        let statuses: Vec<u16> =
            (0..50).map(|_| connection.send(&publish("steady")).expect("an answer").status).collect();
        let took = begin.elapsed();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let flooded = floods.into_iter().map(|flood| flood.join().expect("no panic"));
        let (stored, refused) = flooded.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        // Its own share is 50 at once and 200 a second; nobody else's was taken.
        let share = 50.0 + 200.0 * (took.as_secs_f64() + 1.0);
        assert!(f64::from(stored) <= share, "{stored} of {share} in {took:?}");
        assert!(refused > 0, "the flood was none");
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    });
}

/// Connections that are opened and dropped, with a request, half of one, or none.
#[test]
fn a_storm_of_connections_leaves_nothing_behind() {
    const STORM: usize = 2_000;
    let server = Server::start(Backend::Sqlite);
    let mut held = server.ws();
    held.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    let storm = |count: usize| {
        let addr = server.addr();
        thread::scope(|scope| {
            for part in 0..4 {
                scope.spawn(move || {
                    for n in 0..count / 4 {
                        match (part + n) % 4 {
                            0 => drop(Socket::try_connect(addr, "/ws", &[])),
                            1 => drop(TcpStream::connect(addr)),
                            2 => {
                                if let Ok(mut connection) = Connection::open(addr) {
                                    let _ = connection.send_raw(
                                        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
                                    );
                                }
                            }
                            _ => {
                                if let Ok(mut connection) = Connection::open(addr) {
                                    let _ = connection.send_raw(b"GET /events HT");
                                }
                            }
                        }
                    }
                });
            }
        });
    };
    let settled = || {
        eventually("only the held session is left", || {
            (metric(&server, "event_handler_sessions") == 1.0).then_some(())
        });
        server.rss()
    };
    storm(STORM);
    let before = settled();
    storm(STORM);
    let after = settled();
    assert!(after < before + 16 * 1024 * 1024, "memory grew from {before} to {after} bytes");
    server.publish("a", json!(1));
    assert_eq!(held.recv_json()["payload"], 1);
}
