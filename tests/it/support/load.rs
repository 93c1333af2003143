//! Publishers and subscribers that go on while something is being broken, and the proof that nothing was lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Error, Message};

use super::http::{Connection, Request};
use super::ws::Socket;
use super::{Server, eventually};

/// What all publishers here publish.
pub const EVENT_NAME: &str = "load";

/// Between two publishes of one publisher, unless told otherwise.
const PACE: Duration = Duration::from_millis(1);
/// After a refusal.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Publishers, each with a connection of its own, until [`Publishers::stop`].
pub struct Publishers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    addr: SocketAddr,
    /// Tells payloads of several starts apart.
    run: usize,
    pace: Duration,
    stop: AtomicBool,
    published: Mutex<Published>,
}

/// What publishers were told.
#[derive(Debug, Default)]
pub struct Published {
    /// Id and payload of every publish that was answered with 200.
    pub acknowledged: BTreeMap<i64, String>,
    /// The codes of those that were answered with 503, and how often.
    pub refused: BTreeMap<String, usize>,
    /// Anything else.
    failures: Vec<String>,
}

impl Publishers {
    /// Starts `count` publishers.
    pub fn start(server: &Server, count: usize) -> Self {
        Self::start_at(server, count, PACE)
    }

    /// Starts `count` publishers that pause for `pace` after each publish.
    pub fn start_at(server: &Server, count: usize, pace: Duration) -> Self {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let shared =
            Shared { addr: server.addr(), run, pace, stop: AtomicBool::new(false), published: Mutex::default() };
        let shared = Arc::new(shared);
        let threads = (0..count).map(|publisher| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Err(failure) = shared.publish(publisher) {
                    lock(&shared.published).failures.push(failure);
                }
            })
        });
        Self { threads: threads.collect(), shared }
    }

    /// Waits until `count` more publishes were acknowledged than now.
    pub fn wait_for_acknowledged(&self, count: usize) {
        let goal = lock(&self.shared.published).acknowledged.len() + count;
        eventually("publishes are acknowledged", || {
            let published = lock(&self.shared.published);
            assert_eq!(published.failures, [] as [String; 0]);
            (published.acknowledged.len() >= goal).then_some(())
        });
    }

    /// Waits until some publish was refused with `code`.
    pub fn wait_for_refused(&self, code: &str) {
        eventually(&format!("a publish is refused with {code}"), || {
            lock(&self.shared.published).refused.contains_key(code).then_some(())
        });
    }

    /// Ends the publishers.
    ///
    /// # Panics
    /// When any of them met anything but 200 and a well-formed 503.
    pub fn stop(self) -> Published {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a publisher");
        }
        let published = std::mem::take(&mut *lock(&self.shared.published));
        assert_eq!(published.failures, [] as [String; 0]);
        published
    }
}

impl Shared {
    fn publish(&self, publisher: usize) -> Result<(), String> {
        let mut connection = Connection::open(self.addr).map_err(|error| format!("no connection: {error}"))?;
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let tag = format!("{}/{publisher}/{n}", self.run);
            let body = json!({"event_name": EVENT_NAME, "payload": tag});
            let request = Request::new(self.addr, "POST", "/publish").json(body);
            let response = connection.send(&request).map_err(|error| format!("no answer: {error}"))?;
            match response.status {
                200 => {
                    if let Some(other) = lock(&self.published).acknowledged.insert(response.event_id(), tag) {
                        return Err(format!("id {} was given to {other} too", response.event_id()));
                    }
                    thread::sleep(self.pace);
                }
                503 if response.header("retry-after").is_some_and(|s| s.parse().is_ok_and(|s: u32| s > 0)) => {
                    let code = response.error(503)["code"].as_str().unwrap_or_default().to_owned();
                    *lock(&self.published).refused.entry(code).or_default() += 1;
                    thread::sleep(BACK_OFF);
                }
                _ => return Err(format!("{response:?}")),
            }
        }
        Ok(())
    }
}

/// A subscriber that follows everything from the beginning; comes back after its last event when it is told to.
pub struct Follower {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Seen {
    ids: Vec<i64>,
    closes: Vec<u16>,
    peer: Option<SocketAddr>,
    failure: Option<String>,
}

impl Follower {
    /// Connects, and reads from then on.
    pub fn start(server: &Server) -> Self {
        let follower = Self { seen: Arc::default(), stop: Arc::default() };
        let (seen, stop, addr) = (Arc::clone(&follower.seen), Arc::clone(&follower.stop), server.addr());
        let socket = follow_from(addr, 0);
        lock(&seen).peer = Some(socket.local_addr());
        thread::spawn(move || {
            let mut socket = socket;
            while !stop.load(Ordering::Relaxed) {
                match socket.recv(Duration::from_millis(200)) {
                    Ok(Message::Text(text)) => note(&mut lock(&seen), &text),
                    Ok(Message::Close(Some(frame))) if (4100..4300).contains(&u16::from(frame.code)) => {
                        let last = lock(&seen).ids.last().copied().unwrap_or(0);
                        socket = follow_from(addr, last);
                        let mut seen = lock(&seen);
                        seen.closes.push(frame.code.into());
                        seen.peer = Some(socket.local_addr());
                    }
                    Err(Error::Io(error)) if is_timeout(&error) => {}
                    other => {
                        lock(&seen).failure = Some(format!("{other:?}"));
                        return;
                    }
                }
            }
        });
        follower
    }

    /// Waits until it has seen the event `last`; returns all it has seen.
    pub fn wait_for(&self, last: i64) -> Vec<i64> {
        eventually(&format!("a subscriber sees event {last}"), || {
            let seen = lock(&self.seen);
            assert_eq!(seen.failure, None);
            (seen.ids.last() >= Some(&last)).then(|| seen.ids.clone())
        })
    }

    /// The codes with which it was closed.
    pub fn closes(&self) -> Vec<u16> {
        lock(&self.seen).closes.clone()
    }

    /// Its address, as the server sees it.
    #[cfg(feature = "fault-injection")]
    pub fn peer(&self) -> SocketAddr {
        lock(&self.seen).peer.expect("a connection")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A subscription to everything after `after`; the server may need a moment to take it.
fn follow_from(addr: SocketAddr, after: i64) -> Socket {
    eventually("a subscription is taken", || {
        let mut socket = Socket::connect(addr, "/ws", &[]).ok()?;
        let request =
            json!({"action": "subscribe", "event_name": EVENT_NAME, "after": after, "envelope": "full", "id": 1});
        socket.try_send(&request).ok()?;
        let Ok(Message::Text(reply)) = socket.recv(Duration::from_secs(5)) else { return None };
        let reply: Value = serde_json::from_str(&reply).ok()?;
        (reply["recovered"] == true).then_some(socket)
    })
}

fn note(seen: &mut Seen, frame: &str) {
    let frame: Value = serde_json::from_str(frame).unwrap_or_default();
    match frame["id"].as_i64() {
        Some(id) if frame["type"] == "event" => seen.ids.push(id),
        // The close frame follows.
        _ if frame["type"] == "disconnect" => {}
        _ => seen.failure = Some(format!("not an event: {frame}")),
    }
}

pub fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Id and payload of every stored event of the publishers, walked through `/events`.
pub fn stored(server: &Server) -> Vec<(i64, String)> {
    let mut all: Vec<(i64, String)> = Vec::new();
    loop {
        let after = all.last().map_or(0, |(id, _)| *id);
        let page = server.events(&format!("?event_name={EVENT_NAME}&after={after}&limit=1000"));
        if page.is_empty() {
            return all;
        }
        all.extend(page.iter().map(|event| {
            let id = event["id"].as_i64().expect("an id");
            (id, event["payload"].as_str().expect("a text").to_owned())
        }));
    }
}

/// Proves that what was acknowledged is stored, once and in order, and that every follower has seen what is stored.
pub fn assert_nothing_lost(server: &Server, published: &Published, followers: &[Follower]) {
    let stored = stored(server);
    let ids: Vec<i64> = stored.iter().map(|(id, _)| *id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "ids rise");
    let tags: HashSet<&str> = stored.iter().map(|(_, tag)| tag.as_str()).collect();
    assert_eq!(tags.len(), stored.len(), "nothing is stored twice");
    let by_id: BTreeMap<i64, &str> = stored.iter().map(|(id, tag)| (*id, tag.as_str())).collect();
    for (id, tag) in &published.acknowledged {
        assert_eq!(by_id.get(id), Some(&tag.as_str()), "acknowledged as {id}");
    }
    let last = *ids.last().expect("events");
    for (k, follower) in followers.iter().enumerate() {
        let seen = follower.wait_for(last);
        if seen != ids {
            let (seen_set, all): (BTreeSet<_>, BTreeSet<_>) = (seen.iter().collect(), ids.iter().collect());
            let missing: Vec<_> = all.difference(&seen_set).collect();
            let rises = seen.is_sorted_by(|a, b| a < b);
            panic!("follower {k} saw {} of {}; in order: {rises}; missing: {missing:?}", seen.len(), ids.len());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
