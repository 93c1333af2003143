//! Watchers that come and go while entities change, retention trims the log and the server is killed: what each of them
//! holds never goes back, and is the store's in the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::server::metric;
use crate::support::sse::EventStream;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

const KEYS: u64 = 24;
const WRITERS: u64 = 3;
const WATCHERS: u64 = 4;
const KILLS: usize = 4;
/// So long a silent connection is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn watchers_end_with_what_sqlite_holds() {
    storm(Backend::Sqlite);
}

#[test]
fn watchers_end_with_what_postgres_holds() {
    storm(Backend::Postgres);
}

struct Storm {
    addr: Mutex<SocketAddr>,
    changes: AtomicUsize,
    snapshots: AtomicUsize,
    resumed: AtomicUsize,
    is_over: AtomicBool,
}

impl Storm {
    fn addr(&self) -> SocketAddr {
        *self.addr.lock().expect("no panic")
    }
}

fn storm(backend: Backend) {
    let mut server = Server::builder().backend(backend).env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 60).start();
    let storm = Storm {
        addr: Mutex::new(server.addr()),
        changes: AtomicUsize::default(),
        snapshots: AtomicUsize::default(),
        resumed: AtomicUsize::default(),
        is_over: AtomicBool::default(),
    };
    // They make a snapshot take long enough for changes meanwhile.
    for part in 0..5 {
        let entity = |n| json!({ "type": "t", "key": format!("m{part}{n}"), "value": "x".repeat(400) });
        let events: Vec<Value> =
            (0..1_000).map(|n| json!({ "event_name": "x", "payload": 1, "entity": entity(n) })).collect();
        assert_eq!(server.post("/publish/batch", Value::from(events)).status, 200);
    }
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                scope.spawn({
                    let storm = &storm;
                    move || write(storm, n)
                })
            })
            .collect();
        let watchers: Vec<_> = (0..WATCHERS)
            .map(|n| {
                scope.spawn({
                    let storm = &storm;
                    move || watch(storm, n)
                })
            })
            .collect();
        for round in 1..=KILLS {
            eventually("entities change", || (storm.changes.load(Relaxed) >= round * 250).then_some(()));
            // Whoever was away for this long has missed something.
            eventually("the log is trimmed", || {
                (metric(&server, "event_handler_events_trimmed_total") > 0.0).then_some(())
            });
            server.restart();
            *storm.addr.lock().expect("no panic") = server.addr();
        }
        let enough = (KILLS + 1) * 250;
        eventually("entities change", || (storm.changes.load(Relaxed) >= enough).then_some(()));
        eventually("watchers resume, and take another snapshot when that is too late", || {
            let is_all_seen = storm.snapshots.load(Relaxed) > WATCHERS as usize && storm.resumed.load(Relaxed) > 0;
            is_all_seen.then_some(())
        });
        storm.is_over.store(true, Relaxed);
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        // Whoever has this has all that was before it.
        server.request("PUT", "/state/t/last").json(json!(1)).send();
        let listed = ["k", "last"].map(|prefix| server.get(&format!("/state/t?limit=1000&prefix={prefix}")).data());
        let stored: BTreeMap<String, (i64, Value)> = listed
            .iter()
            .flat_map(|data| data["entities"].as_array().expect("a list"))
            .map(|e| {
                (e["key"].as_str().expect("a key").into(), (e["version"].as_i64().expect("one"), e["value"].clone()))
            })
            .collect();
        for watcher in watchers {
            let mut held = watcher.join().expect("a watcher");
            held.retain(|key, _| !key.starts_with('m'));
            assert_eq!(held, stored);
        }
    });
    let (snapshots, resumed) = (storm.snapshots.load(Relaxed), storm.resumed.load(Relaxed));
    eprintln!("{backend:?}: {} changes, {snapshots} snapshots, {resumed} resumed", storm.changes.load(Relaxed));
}

/// A small generator.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Changes entities, in any way, until the storm is over. What is refused or lost is as well.
fn write(storm: &Storm, n: u64) {
    let mut dice = Dice(n + 1);
    let mut version = BTreeMap::<u64, Value>::new();
    while !storm.is_over.load(Relaxed) {
        let key = dice.roll(KEYS);
        let (addr, path) = (storm.addr(), format!("/state/t/k{key}"));
        let request = match dice.roll(6) {
            0 => Request::new(addr, "DELETE", &path),
            1 => {
                let entity = json!({ "type": "t", "key": format!("k{key}"), "value": dice.roll(1_000) });
                Request::new(addr, "POST", "/publish")
                    .json(json!({ "event_name": "x", "payload": 1, "entity": entity }))
            }
            2 | 3 => {
                let tag = format!("\"{}\"", version.get(&key).unwrap_or(&json!(1)));
                Request::new(addr, "PUT", &path).json(json!(dice.roll(1_000))).header("If-Match", &tag)
            }
            _ => Request::new(addr, "PUT", &path).json(json!(["x".repeat(dice.roll(200) as usize), n])),
        };
        let Ok(answer) = request.try_send() else { continue };
        if answer.status < 300 {
            storm.changes.fetch_add(1, Relaxed);
            version.insert(key, answer.data()["version"].clone());
        } else if answer.status == 412 {
            version.insert(key, answer.json()["data"]["current_version"].clone());
        }
    }
}

/// What a watcher holds, and from where it goes on.
#[derive(Default)]
struct Watcher {
    held: BTreeMap<String, (i64, Value)>,
    /// The newest version of each key that it has ever shown, deletions among them.
    shown: BTreeMap<String, i64>,
    position: Option<(i64, String)>,
}

impl Watcher {
    fn take(&mut self, key: &Value, version: &Value, value: Option<&Value>) {
        let (key, version) = (key.as_str().expect("a key").to_owned(), version.as_i64().expect("a version"));
        if self.held.get(&key).is_some_and(|(held, _)| *held >= version) {
            return;
        }
        let newest = self.shown.entry(key.clone()).or_insert(version);
        assert!(*newest <= version, "{key}: {version} after {newest}");
        *newest = version;
        match value {
            Some(value) => drop(self.held.insert(key, (version, value.clone()))),
            None => drop(self.held.remove(&key)),
        }
    }

    /// Takes what comes over WebSocket or a stream. Whether it is all there.
    fn take_frame(&mut self, storm: &Storm, frame: &Value) -> bool {
        match frame["type"].as_str() {
            Some("entity") => self.take(&frame["key"], &frame["version"], Some(&frame["value"])),
            Some("snapshot_begin") => self.held.clear(),
            Some("snapshot_end") => {
                storm.snapshots.fetch_add(1, Relaxed);
                let log = frame["log_id"].as_str().expect("a log").to_owned();
                self.position = Some((frame["as_of"].as_i64().expect("an id"), log));
            }
            Some("event") => {
                let (payload, id) = (&frame["payload"], &frame["id"]);
                self.take(&payload["key"], id, payload.get("value"));
                if let Some((position, _)) = &mut self.position {
                    *position = id.as_i64().expect("an id");
                }
            }
            _ => {}
        }
        self.position.is_some() && self.held.contains_key("last")
    }
}

fn watch(storm: &Storm, n: u64) -> BTreeMap<String, (i64, Value)> {
    let mut dice = Dice(100 + n);
    let mut watcher = Watcher::default();
    let mut was_away = false;
    loop {
        // Some stay for long, and some hear almost nothing before they go.
        let stays = if storm.is_over.load(Relaxed) { usize::MAX } else { dice.roll(20_000) as usize };
        let is_whole = match n % 2 {
            0 => by_websocket(storm, &mut watcher, stays),
            _ => by_stream(storm, &mut watcher, stays),
        };
        if is_whole == Some(true) {
            return watcher.held;
        }
        if let Some((position, _)) = watcher.position.as_ref().filter(|_| !was_away || dice.roll(8) == 0) {
            was_away = true;
            let oldest = || {
                Request::new(storm.addr(), "GET", "/events?after=0&limit=1").try_send().ok()?.data()[0]["id"].as_i64()
            };
            let is_gone = || oldest().is_some_and(|oldest| oldest > position + 1) || storm.is_over.load(Relaxed);
            eventually("what it missed is gone", || is_gone().then_some(()));
        }
    }
}

/// How much of a stay a frame takes: a snapshot is long.
fn cost(frame: &Value) -> usize {
    if frame["type"] == "entity" { 1 } else { 50 }
}

/// None: the connection has ended.
fn by_websocket(storm: &Storm, watcher: &mut Watcher, mut stays: usize) -> Option<bool> {
    let mut socket = Socket::connect_patient(storm.addr(), "/ws", &[], PATIENCE).ok()?;
    let subscribe = |socket: &mut Socket, watcher: &mut Watcher| {
        let mut request = json!({ "id": 1, "action": "subscribe", "event_name": "state.t.changed" });
        match &watcher.position {
            Some((after, log)) => {
                (request["after"], request["log_id"], request["envelope"]) = (json!(after), json!(log), json!("full"));
            }
            None => {
                watcher.held.clear();
                request["snapshot"] = json!(true);
            }
        }
        socket.try_send(request).ok()
    };
    subscribe(&mut socket, watcher)?;
    while stays > 0 {
        let frame: Value = serde_json::from_str(socket.recv(PATIENCE).ok()?.to_text().ok()?).ok()?;
        match (frame["type"].as_str(), frame["recovered"].as_bool()) {
            (Some("subscribed"), Some(true)) => drop(storm.resumed.fetch_add(1, Relaxed)),
            (Some("subscribed"), _) => {
                watcher.position = None;
                subscribe(&mut socket, watcher)?;
            }
            (Some("error"), _) => return None,
            _ => {}
        }
        if watcher.take_frame(storm, &frame) {
            return Some(true);
        }
        stays = stays.saturating_sub(cost(&frame));
    }
    Some(false)
}

/// None: the connection has ended.
fn by_stream(storm: &Storm, watcher: &mut Watcher, mut stays: usize) -> Option<bool> {
    let last = watcher.position.as_ref().map(|(position, _)| format!("Last-Event-ID: {position}"));
    if last.is_none() {
        watcher.held.clear();
    }
    let headers: Vec<&str> = last.iter().map(String::as_str).collect();
    let path = "/events/stream?event_name=state.t.changed&snapshot=true";
    let mut stream = EventStream::request_patient(storm.addr(), "HTTP/1.1", path, &headers, PATIENCE).ok()?;
    if last.is_some() && stream.header("stream-recovered") == Some("true") {
        storm.resumed.fetch_add(1, Relaxed);
    }
    while stays > 0 {
        let block = stream.try_block().ok()??;
        let Some(data) = block.data else { continue };
        let mut frame: Value = serde_json::from_str(&data).ok()?;
        if block.event.as_deref() == Some("state.t.changed") {
            frame["type"] = json!("event");
        } else if frame["type"].is_null() {
            frame["type"] = json!(block.event);
        }
        if frame["type"] == "snapshot_begin" {
            watcher.position = None;
        }
        if watcher.take_frame(storm, &frame) {
            return Some(true);
        }
        stays = stays.saturating_sub(cost(&frame));
    }
    Some(false)
}
