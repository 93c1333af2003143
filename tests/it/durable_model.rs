//! Durable subscriptions under everything at once: members that come, acknowledge, refuse, stall and go; kills of the
//! process and failures of its parts. Every event is delivered until it is acknowledged, and never after that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, for_each_backend};

const MEMBERS: usize = 4;
const ROUNDS: usize = 6;
const EVENTS_A_ROUND: usize = 150;

/// One durable subscription: its name, how members ask for it, and which events are its own.
struct Subject {
    name: &'static str,
    request: fn() -> Value,
    wants: fn(&str, u64) -> bool,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    delivered: BTreeSet<i64>,
    /// Their acknowledgement was answered.
    acked: BTreeSet<i64>,
    wrong: Vec<String>,
}

impl Subject {
    fn all() -> [Self; 2] {
        [
            Self {
                name: "all",
                request: || json!({"event_name": "m.>", "ack_wait": "1h", "max_deliver": 0, "after": "earliest"}),
                wants: |_, _| true,
                record: Mutex::default(),
            },
            Self {
                name: "some",
                request: || {
                    let filter = json!({"n": [{"numeric": [">=", 3]}]});
                    json!({"event_name": "m.a", "ack_wait": "1h", "max_deliver": 0, "after": "earliest", "filter": filter})
                },
                wants: |name, n| name == "m.a" && n >= 3,
                record: Mutex::default(),
            },
        ]
    }

    /// One member, until it goes or the connection breaks.
    fn be_member(&self, addr: SocketAddr, random: &mut StdRng, is_steady: bool, stop: &AtomicBool) {
        let Ok(mut ws) = Socket::try_connect(addr, "/ws", &[]) else { return };
        let mut request = (self.request)();
        request["action"] = "subscribe".into();
        request["durable"] = self.name.into();
        request["id"] = "join".into();
        if ws.try_send(request).is_err() {
            return;
        }
        let mut patience: u32 = random.random_range(5..60);
        loop {
            if stop.load(Ordering::Relaxed) || (patience == 0 && !is_steady) {
                return;
            }
            let frame: Value = match ws.recv(Duration::from_millis(200)) {
                Ok(Message::Text(text)) => serde_json::from_str(&text).expect("JSON"),
                Ok(Message::Ping(_) | Message::Pong(_)) => continue,
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => continue,
                Ok(_) | Err(_) => return,
            };
            let id = frame["id"].as_i64();
            match (frame["type"].as_str(), id) {
                (Some("event"), Some(id)) => {
                    patience = patience.saturating_sub(1);
                    self.take(id, &frame);
                    let word = match random.random_range(0..20) {
                        _ if is_steady => json!({"action": "ack", "id": id}),
                        0..14 => json!({"action": "ack", "id": id}),
                        14..16 => json!({"action": "nack", "id": id, "delay_ms": random.random_range(0..30)}),
                        16..18 => json!({"action": "ack", "id": id, "cumulative": true}),
                        // It stalls, and goes away with it.
                        _ => continue,
                    };
                    if ws.try_send(word).is_err() {
                        return;
                    }
                }
                (Some("acked"), Some(id)) => {
                    self.record.lock().expect("no panic").acked.insert(id);
                }
                // Before it is disconnected it is told when to come back.
                (Some("nacked" | "subscribed" | "disconnect"), _) => {}
                // Its store, or the part itself, is being restarted.
                (Some("error"), _) if frame["error"]["retry_after_ms"].is_u64() => return,
                _ => self.record.lock().expect("no panic").wrong.push(format!("{frame}")),
            }
        }
    }

    fn take(&self, id: i64, frame: &Value) {
        let mut record = self.record.lock().expect("no panic");
        let (name, n) = (frame["event_name"].as_str().unwrap_or_default(), frame["payload"]["n"].as_u64());
        if !(self.wants)(name, n.unwrap_or(0)) {
            record.wrong.push(format!("not its own: {frame}"));
        }
        if record.acked.contains(&id) {
            record.wrong.push(format!("acknowledged, and came again: {frame}"));
        }
        record.delivered.insert(id);
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock)
}

#[test]
fn every_event_is_delivered_until_it_is_acknowledged_and_never_after_that() {
    for_each_backend(|backend| storm(backend, 0x5eed));
}

fn storm(backend: Backend, seed: u64) {
    let builder = Server::builder().backend(backend).env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", 100);
    let mut server = builder.env("EVENT_HANDLER__SUPERVISION__BACKOFF", "10ms").start();
    let subjects = Subject::all();
    let mut published: BTreeMap<i64, (String, u64)> = BTreeMap::new();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..=ROUNDS {
        let is_last = round == ROUNDS;
        let (stop, addr) = (AtomicBool::new(false), server.addr());
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            for subject in &subjects {
                for member in 0..MEMBERS {
                    let mut random = StdRng::seed_from_u64(seed ^ (round * MEMBERS + member) as u64);
                    let stop = &stop;
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            subject.be_member(addr, &mut random, is_last, stop);
                            // A server that is away is not asked too often.
                            thread::sleep(Duration::from_millis(2));
                        }
                    });
                }
            }
            for _ in 0..EVENTS_A_ROUND {
                let (name, n) = (["m.a", "m.b"][random.random_range(0..2)], random.random_range(0..6));
                published.insert(publish(&server, name, n), (name.to_owned(), n));
            }
            match round % 3 {
                _ if is_last => eventually("everything is acknowledged", || {
                    subjects.iter().all(|subject| subject.is_done(&server)).then_some(())
                }),
                0 => server.kill9(),
                1 => fail(&server, "durables"),
                _ => fail(&server, "persistence"),
            }
        });
        if round % 3 == 0 && !is_last {
            server.restart();
        }
    }
    for subject in &subjects {
        let record = subject.record.lock().expect("no panic");
        assert_eq!(record.wrong, [] as [String; 0], "{}", subject.name);
        assert!(subject.own(&published).is_subset(&record.delivered), "{}", subject.name);
        eprintln!("{backend:?}: {} acknowledged of {}", record.acked.len(), subject.name);
    }
}

impl Subject {
    fn own(&self, published: &BTreeMap<i64, (String, u64)>) -> BTreeSet<i64> {
        let own = published.iter().filter(|(_, (name, n))| (self.wants)(name, *n));
        own.map(|(id, _)| *id).collect()
    }

    /// Whether the server says that nothing is left; or something is wrong, and there is nothing to wait for.
    fn is_done(&self, server: &Server) -> bool {
        let it = server.get(&format!("/admin/durables/{}", self.name)).data();
        it["lag"] == 0 || !self.record.lock().expect("no panic").wrong.is_empty()
    }
}

/// Stops the members, whatever happens.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Publishes, as soon as the server can; returns the event's id.
fn publish(server: &Server, name: &str, n: u64) -> i64 {
    eventually("a publish is answered", || {
        let answer = server.post("/publish", json!({"event_name": name, "payload": {"n": n}}));
        (answer.status == 200).then(|| answer.event_id())
    })
}

/// Has a part of the server fail, while members are at work.
fn fail(server: &Server, actor: &str) {
    let path = format!("/admin/fault/{actor}");
    if cfg!(feature = "fault-injection") {
        server.post(&path, "").data();
    }
}
