//! A service that takes deliveries over real sockets, remembers them all, and can be ill in many ways.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Well,
    /// 200, after this time.
    Slow(Duration),
    /// 503 and 200 in turn, for this time each.
    Flapping(Duration),
    /// 503.
    Down,
    /// Takes the request, and never answers.
    Hanging,
    /// 200, with a body that never ends.
    Endless,
    /// Takes connections, and reads nothing.
    Deaf,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub id: i64,
    pub key: Option<String>,
    /// Whether it was answered with 200.
    pub is_taken: bool,
    /// Since the event was stored.
    pub latency: Duration,
    /// Requests under way then, this one included.
    pub under_way: usize,
}

struct State {
    health: Health,
    started: Instant,
    under_way: usize,
    arrivals: Vec<Arrival>,
    /// The events it has taken.
    taken: HashSet<i64>,
}

/// See the module. Its threads end with the process.
pub struct Service {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Service {
    pub fn start(health: Health) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let state =
            State { health, started: Instant::now(), under_way: 0, arrivals: Vec::new(), taken: HashSet::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || drop(serve(&stream, &state)));
            }
        });
        Self { addr, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn set(&self, health: Health) {
        lock(&self.state).health = health;
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.state).arrivals.clone()
    }

    pub fn requests(&self) -> usize {
        lock(&self.state).arrivals.len()
    }

    /// Leaves of `ids` what it has not taken.
    pub fn keep_missing(&self, ids: &mut Vec<i64>) {
        let state = lock(&self.state);
        ids.retain(|id| !state.taken.contains(id));
    }

    /// How often it has taken an event that it had taken before.
    pub fn duplicates(&self) -> usize {
        let state = lock(&self.state);
        state.arrivals.iter().filter(|arrival| arrival.is_taken).count() - state.taken.len()
    }

    /// Checks that no event came before an earlier one of its key was taken.
    ///
    /// # Panics
    /// When one did.
    pub fn assert_order(&self, name: &str) {
        let state = lock(&self.state);
        let mut keys: HashMap<&str, Vec<i64>> = HashMap::new();
        for arrival in &state.arrivals {
            keys.entry(arrival.key.as_deref().unwrap_or_default()).or_default().push(arrival.id);
        }
        keys.remove("");
        let before: HashMap<i64, i64> = keys
            .into_values()
            .flat_map(|mut ids| {
                ids.sort_unstable();
                ids.dedup();
                ids.windows(2).map(|pair| (pair[1], pair[0])).collect::<Vec<_>>()
            })
            .collect();
        let mut taken = HashSet::new();
        for arrival in &state.arrivals {
            if let Some(earlier) = before.get(&arrival.id) {
                assert!(taken.contains(earlier), "{name}: {arrival:?} came before {earlier} was taken");
            }
            if arrival.is_taken {
                taken.insert(arrival.id);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one connection to its end.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        while lock(state).health == Health::Deaf {
            thread::sleep(Duration::from_millis(10));
        }
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.trim_end().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        answer(stream, state, &serde_json::from_slice(&body)?)?;
    }
}

fn answer(mut stream: &TcpStream, state: &Mutex<State>, event: &Value) -> std::io::Result<()> {
    let health = {
        let mut state = lock(state);
        state.under_way += 1;
        let is_up = |span: Duration| (state.started.elapsed().as_millis() / span.as_millis()).is_multiple_of(2);
        let is_taken = match state.health {
            Health::Well | Health::Slow(_) | Health::Endless => true,
            Health::Flapping(span) => is_up(span),
            Health::Down | Health::Hanging | Health::Deaf => false,
        };
        let created: jiff::Timestamp = event["created_at"].as_str().unwrap_or_default().parse().unwrap_or_default();
        let arrival = Arrival {
            id: event["id"].as_i64().unwrap_or(0),
            key: event["payload"]["key"].as_str().map(str::to_owned),
            is_taken,
            latency: SystemTime::now().duration_since(created.into()).unwrap_or_default(),
            under_way: state.under_way,
        };
        if is_taken {
            state.taken.insert(arrival.id);
        }
        state.arrivals.push(arrival);
        match state.health {
            Health::Flapping(_) if is_taken => Health::Well,
            Health::Flapping(_) => Health::Down,
            health => health,
        }
    };
    let written = match health {
        Health::Well | Health::Flapping(_) => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        Health::Slow(time) => {
            thread::sleep(time);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        }
        // A zero byte is text that not every store can keep.
        Health::Down => stream.write_all(b"HTTP/1.1 503 Down\r\ncontent-length: 4\r\n\r\nno\0!"),
        Health::Hanging | Health::Deaf => stream.take(u64::MAX).read_to_end(&mut Vec::new()).map(drop),
        Health::Endless => {
            let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            while written.is_ok() {
                thread::sleep(Duration::from_millis(1));
                written = stream.write_all(b"4\r\nmore\r\n");
            }
            written
        }
    };
    lock(state).under_way -= 1;
    written
}
