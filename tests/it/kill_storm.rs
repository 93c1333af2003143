//! `kill -9` in the middle of a storm of publishes, again and again: what was acknowledged is there, once, in order.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{Connection, Request};
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

const ROUNDS: usize = 50;
const PUBLISHERS: usize = 8;

#[test]
fn sqlite_loses_and_doubles_nothing_under_kills() {
    storm(Backend::Sqlite);
}

#[test]
fn postgres_loses_and_doubles_nothing_under_kills() {
    storm(Backend::Postgres);
}

fn storm(backend: Backend) {
    let mut server = Server::start(backend);
    let mut acknowledged = HashMap::new();
    let mut subscriber = Subscriber::default();
    for round in 0..ROUNDS {
        let publishers = Publishers::new(server.addr(), round);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..PUBLISHERS)
                .map(|n| {
                    scope.spawn({
                        let p = &publishers;
                        move || p.run(n)
                    })
                })
                .collect();
            let listener = scope.spawn(|| subscriber.follow(publishers.addr));
            // A different moment in every round: after so many answers, in the midst of the next.
            let enough = 100 + 37 * (round % 13);
            eventually("publishes are answered", || {
                (publishers.answered.load(Ordering::Relaxed) >= enough).then_some(())
            });
            server.kill9();
            publishers.stop.store(true, Ordering::Relaxed);
            threads.into_iter().for_each(|t| t.join().expect("a publisher"));
            listener.join().expect("a subscriber");
        });
        for (id, tag) in publishers.acknowledged.into_inner().expect("no panic") {
            assert_eq!(acknowledged.insert(id, tag), None, "id {id} was given twice");
        }
        server.restart();
    }

    let stored = read_all(&server);
    let ids: Vec<i64> = stored.iter().map(|(id, _)| *id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "ids increase strictly");
    let tags: HashSet<&str> = stored.iter().map(|(_, tag)| tag.as_str()).collect();
    assert_eq!(tags.len(), stored.len(), "nothing is stored twice");
    let by_id: HashMap<i64, &str> = stored.iter().map(|(id, tag)| (*id, tag.as_str())).collect();
    for (id, tag) in &acknowledged {
        assert_eq!(by_id.get(id), Some(&tag.as_str()), "acknowledged as {id}");
    }

    subscriber.catch_up(&server, *ids.last().expect("events"));
    assert_eq!(subscriber.seen, ids, "the subscriber saw every event once, in order");
    eprintln!("{backend:?}: {ROUNDS} kills, {} acknowledged, {} stored", acknowledged.len(), ids.len());
}

/// Publishers that go on until told to stop, each over a connection of its own.
struct Publishers {
    addr: SocketAddr,
    round: usize,
    stop: AtomicBool,
    answered: AtomicUsize,
    /// Ids with the payloads they were given for.
    acknowledged: Mutex<Vec<(i64, String)>>,
}

impl Publishers {
    fn new(addr: SocketAddr, round: usize) -> Self {
        Self {
            addr,
            round,
            stop: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            acknowledged: Mutex::default(),
        }
    }

    fn run(&self, publisher: usize) {
        let mut own = Vec::new();
        let Ok(mut connection) = Connection::open(self.addr) else { return };
        for n in 0.. {
            let tag = format!("{}/{publisher}/{n}", self.round);
            let body = json!({"event_name": "storm", "payload": tag});
            let request = Request::new(self.addr, "POST", "/publish").json(body);
            let Ok(response) = connection.send(&request) else { break };
            own.push((response.event_id(), tag));
            self.answered.fetch_add(1, Ordering::Relaxed);
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        self.acknowledged.lock().expect("no panic").extend(own);
    }
}

/// Resumes after the last id it saw, over every kill.
#[derive(Default)]
struct Subscriber {
    seen: Vec<i64>,
}

impl Subscriber {
    fn connect(&self, addr: SocketAddr) -> Option<Socket> {
        let mut ws = Socket::try_connect(addr, "/ws", &[]).ok()?;
        let after = self.seen.last().copied().unwrap_or(0);
        let request = json!({"action": "subscribe", "event_name": "storm", "after": after, "envelope": "full"});
        ws.try_send(request).ok()?;
        Some(ws)
    }

    /// Reads until the connection breaks.
    fn follow(&mut self, addr: SocketAddr) {
        let Some(mut ws) = self.connect(addr) else { return };
        while let Ok(message) = ws.recv(Duration::from_secs(20)) {
            self.note(&message.into_text().unwrap_or_default());
        }
    }

    /// Reads up to event `last`.
    fn catch_up(&mut self, server: &Server, last: i64) {
        let mut ws = self.connect(server.addr()).expect("a connection");
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.seen.last() != Some(&last) {
            assert!(Instant::now() < deadline, "stuck at {:?} of {last}", self.seen.last());
            let text = ws.recv_text();
            self.note(&text);
        }
    }

    fn note(&mut self, frame: &str) {
        let frame: Value = serde_json::from_str(frame).unwrap_or_default();
        if frame["type"] == "event" {
            self.seen.push(frame["id"].as_i64().expect("an id"));
        }
    }
}

/// Id and payload of every stored event.
fn read_all(server: &Server) -> Vec<(i64, String)> {
    let mut all: Vec<(i64, String)> = Vec::new();
    loop {
        let after = all.last().map_or(0, |(id, _)| *id);
        let page = server.events(&format!("?event_name=storm&after={after}&limit=1000"));
        if page.is_empty() {
            return all;
        }
        all.extend(page.iter().map(|event| {
            let id = event["id"].as_i64().expect("an id");
            (id, event["payload"].as_str().expect("a text").to_owned())
        }));
    }
}
