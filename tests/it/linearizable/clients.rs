//! Clients that change and read a few entities on conditions, and write down what they see.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::checker::{Answer, Ask, Call, Change, Condition};
use crate::cluster::harness::Address;
use crate::support::eventually;
use crate::support::http::{Connection, Request, Response};

/// Few, so that there is strife for each.
const KEYS: u32 = 6;
const TYPE: &str = "register";
/// After which a client turns to another node.
const PATIENCE: Duration = Duration::from_secs(1);

/// From [`Clients::start`] to [`Clients::finish`].
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    begin: Instant,
    nodes: Vec<Address>,
    stop: AtomicBool,
    answers: AtomicUsize,
    calls: Mutex<Vec<Call>>,
}

impl Clients {
    pub fn start(nodes: Vec<Address>, count: usize, seed: u64) -> Self {
        let (stop, answers, calls) = Default::default();
        let shared = Arc::new(Shared { begin: Instant::now(), nodes, stop, answers, calls });
        let spawn = |number: usize| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.work(number, StdRng::seed_from_u64(seed ^ number as u64)))
        };
        Self { threads: (0..count).map(spawn).collect(), shared: Arc::clone(&shared) }
    }

    /// Waits until so many more requests were answered than now, for as long as some are.
    pub fn wait_for_answers(&self, count: usize) {
        let answers = || self.shared.answers.load(Ordering::Relaxed);
        let mut seen = answers();
        let goal = seen + count;
        while seen < goal {
            seen = eventually("requests are answered", || Some(answers()).filter(|now| *now >= goal.min(seen + 50)));
        }
    }

    /// All that they have seen.
    pub fn finish(mut self) -> Vec<Call> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().expect("a client");
        }
        std::mem::take(&mut *self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn work(&self, number: usize, mut random: StdRng) {
        let mut known = vec![None; KEYS as usize];
        let mut connections: Vec<Option<Connection>> = self.nodes.iter().map(|_| None).collect();
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let key = random.random_range(0..KEYS);
            let known = &mut known[key as usize];
            let condition = match (random.random_range(0..4), *known) {
                (0, _) => Condition::Any,
                (_, None) => Condition::Absent,
                (_, Some(version)) => Condition::Version(version),
            };
            let ask = match random.random_range(0..10) {
                0..=4 => Ask::Put(condition),
                5..=6 => Ask::Delete(condition),
                _ => Ask::Read,
            };
            let node = random.random_range(0..self.nodes.len());
            let connection = &mut connections[node];
            let mut call = Call {
                key: format!("k{key}"),
                tag: format!("{number}-{turn}"),
                ask,
                begun: self.begin.elapsed(),
                answered: None,
                value: None,
            };
            let response = send(connection, self.nodes[node].get(), &call);
            let at = self.begin.elapsed();
            match response {
                // It was not even connected.
                Err(_) if connection.is_none() => {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(_) => *connection = None,
                Ok(response) => {
                    let data = response.json()["data"].take();
                    call.answered = read_answer(ask, &response, &data).map(|answer| (at, answer));
                    call.value = data["value"]["tag"].as_str().map(str::to_owned);
                }
            }
            if let Some((_, answer)) = call.answered {
                self.answers.fetch_add(1, Ordering::Relaxed);
                *known = match answer {
                    Answer::Written(_) if matches!(ask, Ask::Delete(_)) => None,
                    Answer::Written(version) => Some(version),
                    Answer::There(version) => version,
                    Answer::Deleted(_) => None,
                };
            }
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        }
    }
}

/// Sends a request on a connection, which is made if there is none.
fn send(connection: &mut Option<Connection>, addr: SocketAddr, call: &Call) -> io::Result<Response> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open_patient(addr, PATIENCE)?),
    };
    let path = format!("/state/{TYPE}/{}?source={}", call.key, call.tag);
    let (request, condition) = match call.ask {
        Ask::Read => return open.send(&Request::new(addr, "GET", &format!("/state/{TYPE}/{}", call.key))),
        Ask::Put(condition) => (Request::new(addr, "PUT", &path).json(json!({"tag": call.tag})), condition),
        Ask::Delete(condition) => (Request::new(addr, "DELETE", &path), condition),
    };
    open.send(&match condition {
        Condition::Any => request,
        Condition::Absent => request.header("If-None-Match", "*"),
        Condition::Version(version) => request.header("If-Match", &format!("\"{version}\"")),
    })
}

/// What an answer says. None: it does not say whether it is done.
fn read_answer(ask: Ask, response: &Response, data: &Value) -> Option<Answer> {
    let version = data["version"].as_i64();
    Some(match (response.status, ask) {
        (200, Ask::Read) => Answer::There(Some(version?)),
        (200 | 201, _) => Answer::Written(version?),
        (404, _) => data["deleted_version"].as_i64().map_or(Answer::There(None), Answer::Deleted),
        (412, _) => Answer::There(data["current_version"].as_i64()),
        _ => return None,
    })
}

/// All changes of the entities, in their order.
pub fn read_log(addr: SocketAddr) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    loop {
        let after = changes.last().map_or(0, |change| change.version);
        let path = format!("/events?event_name=state.{TYPE}.changed&limit=1000&after={after}");
        let page = Request::new(addr, "GET", &path).send().data();
        let page = page.as_array().expect("events");
        if page.is_empty() {
            return changes;
        }
        changes.extend(page.iter().map(|event| {
            let payload = &event["payload"];
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            Change {
                key: text(&payload["key"]),
                version: event["id"].as_i64().expect("an id"),
                previous: payload["previous_version"].as_i64(),
                tag: text(&event["source"]),
                is_put: payload["op"] == "put",
            }
        }));
    }
}
