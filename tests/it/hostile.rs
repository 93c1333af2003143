//! Clients that break rules, or wait for nothing: memory stays bounded, and a neighbour who behaves hardly notices.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;
use tungstenite::Message;

use crate::support::http::{Connection, Request};
use crate::support::load::is_timeout;
use crate::support::raw::{BINARY, CONTINUATION, FIN, PING, Raw, TEXT, frame, frame_head};
use crate::support::server::metric;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

const MIB: u64 = 1 << 20;
/// What one client may cost.
const MAX_GROWTH: u64 = 24 * MIB;
/// Slow for a neighbour, even where tests compete for the processor.
const MAX_LATENCY: Duration = Duration::from_secs(3);

/// A client that behaves, and what it notices of the others.
struct Neighbour<'a> {
    server: &'a Server,
    ws: Socket,
    http: Connection,
    beats: u64,
    slowest: Duration,
    memory: u64,
    peak: u64,
}

impl<'a> Neighbour<'a> {
    fn of(server: &'a Server) -> Self {
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "neighbour", "id": 1}));
        let http = Connection::open(server.addr()).expect("a connection");
        let mut neighbour = Self { server, ws, http, beats: 0, slowest: Duration::ZERO, memory: 0, peak: 0 };
        (0..100).for_each(|_| neighbour.beat());
        neighbour.memory = server.rss();
        neighbour.slowest = Duration::ZERO;
        neighbour
    }

    /// Publishes, and waits until the event is pushed.
    fn beat(&mut self) {
        self.beats += 1;
        let begin = Instant::now();
        let body = json!({"event_name": "neighbour", "payload": self.beats});
        let request = Request::new(self.server.addr(), "POST", "/publish").json(body);
        self.http.send(&request).expect("an answer").event_id();
        assert_eq!(self.ws.recv_json(), json!({"event_name": "neighbour", "payload": self.beats}));
        self.slowest = self.slowest.max(begin.elapsed());
        self.peak = self.peak.max(self.server.rss());
    }

    /// Lives on while `attack` goes on, and for a moment after.
    fn live_through<T: Send>(&mut self, attack: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let attack = scope.spawn(attack);
            while !attack.is_finished() {
                self.beat();
            }
            (0..50).for_each(|_| self.beat());
            attack.join().expect("no panic")
        })
    }

    fn assert_unharmed(&self, max_growth: u64) {
        let growth = self.peak.saturating_sub(self.memory);
        eprintln!("{} beats, slowest {:?}, memory grew by {} KiB", self.beats, self.slowest, growth >> 10);
        assert!(growth < max_growth, "memory grew by {growth} bytes");
        assert!(self.slowest < MAX_LATENCY, "one beat took {:?}", self.slowest);
    }
}

/// Frames whose answers nobody reads: the client is held back, or closed.
#[test]
fn floods_of_frames_cost_little() {
    let publish = json!({"action": "publish", "event_name": "flood", "payload": 1, "id": 1}).to_string();
    let floods: [(&str, Vec<u8>); 6] = [
        ("requests", frame(FIN | TEXT, br#"{"action":"list","id":1}"#)),
        ("nonsense", frame(FIN | TEXT, b"x")),
        ("empty texts", frame(FIN | TEXT, b"")),
        ("binaries", frame(FIN | BINARY, b"x")),
        ("pings", frame(FIN | PING, &[b'x'; 125])),
        ("publishes", frame(FIN | TEXT, publish.as_bytes())),
    ];
    for (name, one) in floods {
        let server =
            Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUBSCRIBE__RECENT_EVENTS", "1MiB").start();
        let mut neighbour = Neighbour::of(&server);
        let many = one.repeat(16 * 1024 / one.len() + 1);
        let sent = neighbour.live_through(|| {
            let mut raw = Raw::websocket(server.addr());
            let sent = raw.flood(&many, 48 * MIB as usize);
            thread::sleep(Duration::from_secs(2));
            sent
        });
        eprintln!("{name}: {} KiB were taken", sent >> 10);
        neighbour.assert_unharmed(MAX_GROWTH);
    }
}

#[test]
fn a_frame_is_refused_on_the_length_it_declares() {
    let server = Server::start(Backend::Sqlite);
    let mut neighbour = Neighbour::of(&server);
    for length in [64 * 1024 + 1, 2 << 30, u64::MAX >> 1] {
        let mut raw = Raw::websocket(server.addr());
        raw.send(&frame_head(FIN | TEXT, length)).expect("an open connection");
        assert_eq!(raw.close_code().ok(), Some(1009), "{length}");
    }
    neighbour.live_through(|| {
        let mut raw = Raw::websocket(server.addr());
        raw.send(&frame_head(FIN | TEXT, 2 << 30)).expect("an open connection");
        raw.flood(&[b' '; 64 * 1024], 64 * MIB as usize);
    });
    neighbour.assert_unharmed(MAX_GROWTH);
}

#[test]
fn a_message_of_endless_fragments_is_refused() {
    let server = Server::start(Backend::Sqlite);
    let mut neighbour = Neighbour::of(&server);
    for (size, codes) in [(0, &[4008][..]), (1, &[4008, 1009]), (60 * 1024, &[1009])] {
        let fragment = frame(CONTINUATION, &vec![b' '; size]);
        let mut raw = Raw::websocket(server.addr());
        raw.send(&frame(TEXT, b" ")).expect("an open connection");
        // Enough to be refused, and not so much that the refusal would be lost with the connection.
        (0..1024).take_while(|_| raw.send(&fragment).is_ok()).take((80 * 1024 / (size + 8)).max(2)).for_each(drop);
        let code = raw.close_code().expect("a close frame");
        assert!(codes.contains(&code), "fragments of {size}: {code}");
    }
    neighbour.live_through(|| {
        let mut raw = Raw::websocket(server.addr());
        raw.send(&frame(TEXT, b" ")).expect("an open connection");
        raw.flood(&frame(CONTINUATION, b"").repeat(1000), 16 * MIB as usize);
    });
    neighbour.assert_unharmed(MAX_GROWTH);
}

/// 64 events of 16 KiB, as the body of a batch.
fn batch_of_a_mebibyte() -> String {
    Value::from(vec![json!({"event_name": "bulk", "payload": "x".repeat(16 * 1024)}); 64]).to_string()
}

#[test]
fn a_subscriber_that_never_reads_costs_its_queue_and_no_more() {
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .env("EVENT_HANDLER__SUBSCRIBE__RECENT_EVENTS", "1MiB")
        .env("EVENT_HANDLER__STORE__READERS", 1)
        .start();
    let body = batch_of_a_mebibyte();
    (0..16).for_each(|_| drop(server.post("/publish/batch", &body).data()));
    let mut neighbour = Neighbour::of(&server);
    let (mut idle, mut live) = (server.ws(), server.ws());
    idle.request(json!({"action": "subscribe", "event_name": ">", "after": 0, "id": 1}));
    live.request(json!({"action": "subscribe", "event_name": ">", "id": 1}));
    neighbour.live_through(|| (0..100).for_each(|_| drop(server.post("/publish/batch", &body).data())));
    neighbour.assert_unharmed(2 * MAX_GROWTH);
    let sessions = server.get("/admin/sessions").data();
    let queued = sessions.as_array().expect("a list").iter().filter_map(|s| s["queue_bytes"].as_u64()).max();
    assert!(queued.is_some_and(|bytes| (1..2 * MIB).contains(&bytes)), "{queued:?} bytes are queued");
}

/// Many who read nothing, live or catching up, get what fits into the queues of all; the rest when these drain.
#[test]
fn all_queues_together_keep_to_their_budget() {
    const EVENTS: i64 = 8 * 64;
    const QUEUE_TOTAL: u64 = MIB;
    /// A page that was being read is queued whole; so many are read at once.
    const PAGES_UNDER_WAY: u64 = 4 * 256 * 1024;
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .env("EVENT_HANDLER__SERVER__WORKERS", 1)
        .env("EVENT_HANDLER__SUBSCRIBE__QUEUE_PER_CONNECTION", "256KiB")
        .env("EVENT_HANDLER__SUBSCRIBE__QUEUE_TOTAL", "1MiB")
        .env("EVENT_HANDLER__SUBSCRIBE__STALL_TIMEOUT", "2m")
        .env("EVENT_HANDLER__SUBSCRIBE__RECENT_EVENTS", "64KiB")
        .start();
    let connect = || {
        let ws = server.ws();
        SockRef::from(ws.stream()).set_recv_buffer_size(16 * 1024).expect("a small buffer");
        ws
    };
    let live = (0..24).map(|_| {
        let mut ws = connect();
        ws.request(json!({"action": "subscribe", "event_name": "bulk", "envelope": "full", "id": 1}));
        ws
    });
    let mut clients: Vec<Socket> = live.collect();
    let body = batch_of_a_mebibyte();
    (0..EVENTS / 64).for_each(|_| drop(server.post("/publish/batch", &body).data()));
    clients.extend((0..24).map(|_| {
        let mut ws = connect();
        ws.send(json!({"action": "subscribe", "event_name": "bulk", "after": 0, "envelope": "full"}));
        ws
    }));
    let queued = || -> (u64, u64) {
        let sessions = server.get("/admin/sessions").data();
        let sum = |field: &str| sessions.as_array().expect("a list").iter().filter_map(|s| s[field].as_u64()).sum();
        (sum("queue_bytes"), sum("lag"))
    };
    let (mut peak, mut last, mut unchanged) = (0, (0, 0), 0);
    eventually("nothing moves any more", || {
        let now = queued();
        unchanged = if now == last { unchanged + 1 } else { 0 };
        (last, peak) = (now, peak.max(now.0));
        (now.0 > QUEUE_TOTAL / 2 && unchanged == 200).then_some(())
    });
    eprintln!("{peak} bytes were queued");
    assert!(peak < QUEUE_TOTAL + PAGES_UNDER_WAY, "{peak} bytes are queued");
    let readers = clients.into_iter().map(|mut ws| {
        thread::spawn(move || (0..EVENTS).map(|_| ws.recv_json()["id"].as_i64().expect("an id")).collect::<Vec<_>>())
    });
    for reader in readers.collect::<Vec<_>>() {
        assert_eq!(reader.join().expect("no panic"), (1..=EVENTS).collect::<Vec<_>>());
    }
    eventually("the queues are empty", || (queued().0 == 0).then_some(()));
}

#[test]
fn a_subscriber_that_takes_nothing_is_closed_in_time() {
    let server =
        Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUBSCRIBE__STALL_TIMEOUT", "1s").start();
    let mut neighbour = Neighbour::of(&server);
    let mut idle = Raw::websocket(server.addr());
    idle.send(&frame(FIN | TEXT, br#"{"action":"subscribe","event_name":"bulk"}"#)).expect("an open connection");
    let body = batch_of_a_mebibyte();
    neighbour.live_through(|| {
        (0..16).for_each(|_| drop(server.post("/publish/batch", &body).data()));
        eventually("it is closed", || {
            (metric(&server, r#"event_handler_closes_total{code="4101"}"#) == 1.0).then_some(())
        });
    });
    // What had left the process before arrives, and then the end.
    assert!(idle.rest().len() < 16 * MIB as usize);
    neighbour.beat();
    assert_eq!(metric(&server, "event_handler_sessions"), 1.0);
}

/// Its queue is never empty for long, so it is never asked for a sign of life: taking bytes is one.
#[test]
fn a_slow_but_moving_subscriber_is_never_cut() {
    const EVENTS: i64 = 1280;
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .env("EVENT_HANDLER__SUBSCRIBE__QUEUE_PER_CONNECTION", "64KiB")
        .env("EVENT_HANDLER__SUBSCRIBE__RECENT_EVENTS", "64KiB")
        .env("EVENT_HANDLER__SUBSCRIBE__STALL_TIMEOUT", "2s")
        .env("EVENT_HANDLER__SUBSCRIBE__PING_INTERVAL", "500ms")
        .env("EVENT_HANDLER__SUBSCRIBE__IDLE_TIMEOUT", "2s")
        .start();
    let mut slow = server.ws();
    SockRef::from(slow.stream()).set_recv_buffer_size(16 * 1024).expect("a small buffer");
    slow.request(json!({"action": "subscribe", "event_name": "bulk", "envelope": "full", "id": 1}));
    let body = batch_of_a_mebibyte();
    (0..EVENTS / 64).for_each(|_| drop(server.post("/publish/batch", &body).data()));
    // Answers wait behind its queue, and come all the same.
    slow.send(json!({"action": "subscribe", "event_name": "other", "id": 2}));
    slow.send(json!({"action": "subscribe", "event_name": "third", "id": 3}));
    let (mut ids, mut replies) = (Vec::new(), Vec::new());
    while ids.len() < EVENTS as usize || replies.len() < 2 {
        match slow.recv_json() {
            event if event["type"] == "event" => ids.push(event["id"].as_i64().expect("an id")),
            reply => replies.push(reply["id"].clone()),
        }
        // As fast as it can.
        thread::sleep(Duration::from_millis(8));
    }
    assert_eq!(ids, (1..=EVENTS).collect::<Vec<_>>());
    assert_eq!(replies, [2, 3]);
    server.publish("other", json!("live again"));
    assert_eq!(slow.recv_json()["payload"], "live again");
}

#[test]
fn half_sent_requests_are_ended_and_disturb_nobody() {
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .env("EVENT_HANDLER__SERVER__HEAD_TIMEOUT", "1s")
        .env("EVENT_HANDLER__SERVER__BODY_TIMEOUT", "1s")
        .env("EVENT_HANDLER__SERVER__KEEP_ALIVE", "2s")
        .start();
    let mut neighbour = Neighbour::of(&server);
    let (head, body) =
        ("POST /publish HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "Content-Length: 4096\r\n\r\n{\"event_name\":\"");
    let whole = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let open = |text: &str| -> Vec<Raw> {
        let connect = |_| {
            let mut raw = Raw::connect(server.addr());
            raw.send(text.as_bytes()).expect("an open connection");
            raw
        };
        (0..100).map(connect).collect()
    };
    neighbour.live_through(|| {
        let heads = open(head);
        let silent = open("");
        let bodies = open(&format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{body}"));
        let dripping_heads = open(head);
        let dripping_bodies = open(&format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{body}"));
        let mut second_heads = open(&format!("{whole}{head}"));
        second_heads.truncate(10);
        let late_heads: Vec<Connection> = (0..10)
            .map(|_| {
                let mut connection = Connection::open(server.addr()).expect("a connection");
                let health = connection.send(&Request::new(server.addr(), "GET", "/health")).expect("an answer");
                assert_eq!(health.status, 200);
                connection.send_raw(head.as_bytes()).expect("an open connection");
                connection
            })
            .collect();
        let mut dripping = [dripping_heads, dripping_bodies];
        let begin = Instant::now();
        // A byte now and then does not buy time.
        while begin.elapsed() < Duration::from_secs(3) {
            dripping.iter_mut().flatten().for_each(|raw| drop(raw.send(b"x")));
            thread::sleep(Duration::from_millis(100));
        }
        let [dripping_heads, dripping_bodies] = dripping;
        for mut raw in heads.into_iter().chain(silent) {
            let answer = raw.rest();
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
        }
        for mut raw in bodies {
            let answer = raw.rest();
            assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
        }
        // Bytes that come after the answer may cost them the answer, but not us the connection.
        dripping_heads.into_iter().chain(dripping_bodies).for_each(|mut raw| drop(raw.rest()));
        for mut connection in late_heads {
            let end = connection.receive(false);
            assert!(end.as_ref().is_err_and(|error| !is_timeout(error)), "{end:?}");
        }
        for mut raw in second_heads {
            assert!(raw.rest().starts_with(b"HTTP/1.1 200 "));
        }
    });
    neighbour.assert_unharmed(MAX_GROWTH);
    assert_eq!(server.events("?event_name=neighbour&limit=1").len(), 1);
}

#[test]
fn who_reads_an_answer_slowly_gets_all_of_it() {
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .env("EVENT_HANDLER__SERVER__HEAD_TIMEOUT", "500ms")
        .env("EVENT_HANDLER__SERVER__KEEP_ALIVE", "1s")
        .start();
    // More than the system takes off the server's hands.
    let body = batch_of_a_mebibyte();
    (0..12).for_each(|_| drop(server.post("/publish/batch", &body).data()));
    let mut stream = std::net::TcpStream::connect(server.addr()).expect("a listening server");
    SockRef::from(&stream).set_recv_buffer_size(16 * 1024).expect("a small buffer");
    stream.write_all(b"GET /events?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("an open connection");
    let (begin, mut answer, mut chunk) = (Instant::now(), Vec::new(), [0; 16 * 1024]);
    // Then the connection ends, as nothing else is asked for.
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..count]);
        thread::sleep(Duration::from_millis(8));
    }
    assert!(begin.elapsed() > Duration::from_millis(1500), "it was read slowly");
    let text = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{} bytes of {head}", body.len());
}

#[test]
fn malformed_requests_are_the_clients_fault() {
    let server = Server::start(Backend::Sqlite);
    let mut neighbour = Neighbour::of(&server);
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-A: b\r\n".repeat(10_000));
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{deep}",
        deep.len()
    );
    let requests: [&[u8]; 16] = [
        b"\r\n\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /%ff%00%zz?%ff=%00&&&=== HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /events?after=%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
        deep.as_bytes(),
    ];
    for request in requests {
        let shown = String::from_utf8_lossy(&request[..request.len().min(80)]).into_owned();
        let mut raw = Raw::connect(server.addr());
        let _ = raw.send(request);
        raw.end_input();
        let answer = raw.rest();
        let status = String::from_utf8_lossy(answer.get(9..10).unwrap_or(b"4")).into_owned();
        assert_eq!(status, "4", "{shown:?}: {}", String::from_utf8_lossy(&answer));
        neighbour.beat();
    }
    let frames: [(&[u8], &[u16]); 8] = [
        (b"\x81\x02{}", &[1002]),
        (b"\xf1\x80\0\0\0\0", &[1002]),
        (b"\x83\x80\0\0\0\0", &[1002]),
        (b"\x80\x80\0\0\0\0", &[1002]),
        (b"\x09\x80\0\0\0\0", &[1002]),
        (b"\x89\xfe\x00\x80\0\0\0\0", &[1002]),
        (b"\x81\x82\0\0\0\0\xff\xfe", &[1007]),
        (b"\x88\x81\0\0\0\0x", &[1000, 1002]),
    ];
    for (bytes, codes) in frames {
        let mut raw = Raw::websocket(server.addr());
        raw.send(bytes).expect("an open connection");
        let code = raw.close_code().expect("a close frame");
        assert!(codes.contains(&code), "{bytes:?}: {code}");
        neighbour.beat();
    }
    neighbour.assert_unharmed(MAX_GROWTH);
}

#[test]
fn subscriptions_of_one_connection_are_bounded() {
    const MAX: usize = 1000;
    let server = Server::start(Backend::Sqlite);
    let mut neighbour = Neighbour::of(&server);
    let mut ws = server.ws();
    for n in 0..10 * MAX {
        let reply = ws.request(json!({"action": "subscribe", "event_name": format!("many.{n}.*"), "id": n}));
        if n < MAX {
            assert_eq!(reply["type"], "subscribed", "{reply}");
        } else {
            assert_eq!(reply["error"]["code"], "too_many_subscriptions", "{reply}");
        }
    }
    server.publish("many.7.x", json!(7));
    server.publish(&format!("many.{MAX}.x"), json!(8));
    assert_eq!(ws.barrier(), [r#"{"event_name":"many.7.x","payload":7}"#]);
    let reply = ws.request(json!({"action": "unsubscribe", "event_name": "many.0.*", "id": 1}));
    assert_eq!(reply["type"], "unsubscribed");
    let reply = ws.request(json!({"action": "subscribe", "event_name": "one.more", "id": 1}));
    assert_eq!(reply["type"], "subscribed", "there is room again");
    neighbour.beat();
    neighbour.assert_unharmed(MAX_GROWTH);
    assert!(matches!(ws.recv(Duration::from_millis(1)), Err(_) | Ok(Message::Ping(_))));
}
