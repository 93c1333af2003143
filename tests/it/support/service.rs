//! A downstream service: a real HTTP server on threads that does what it is told, and remembers all that came.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;
use super::server::Builder;

/// A request as it came, and how it was answered.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its place in the order of arrival, from 0 on.
    pub order: usize,
    /// The connection it came over, from 0 on.
    pub connection: usize,
    /// Of the event, wherever the format has it; 0 if nowhere.
    pub event_id: i64,
    /// How often this event had come before.
    pub repeated: usize,
    pub path: String,
    /// In the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub arrived: Instant,
    /// The status it was answered with, once it was, and when.
    pub status: Option<u16>,
    pub answered: Option<Instant>,
}

impl Delivery {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn is_accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    /// Status, header lines without their end, and a body.
    Full(u16, Vec<String>, String),
    /// The same, this much later.
    After(Duration, Box<Answer>),
    /// Nothing, until the service is told to behave otherwise; then what that says.
    Hang,
    /// The connection ends without an answer.
    HangUp,
}

type Behaviour = Arc<dyn Fn(&Delivery) -> Answer + Send + Sync>;

/// See the module. Ends when dropped.
pub struct Service {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    behaviour: Option<Behaviour>,
    /// Raised with each new behaviour.
    generation: usize,
    is_refusing: bool,
    deliveries: Vec<Delivery>,
    /// How often each event came.
    came: HashMap<i64, usize>,
    /// Under way now, and most at once so far.
    concurrent: usize,
    max_concurrent: usize,
    /// Open ones, to be cut off; the number of all so far is their length.
    connections: Vec<Option<TcpStream>>,
}

impl Service {
    /// One that answers every request with 200.
    pub fn start() -> Self {
        Self::answering(|_| Answer::Status(200))
    }

    /// One that answers as `behaviour` says.
    pub fn answering(behaviour: impl Fn(&Delivery) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let mut service = Self { addr, shared: Arc::default(), acceptor: None };
        service.behave(behaviour);
        service.accept_from(listener);
        service
    }

    /// From now on it answers so; whoever hangs is answered so, too.
    pub fn behave(&self, behaviour: impl Fn(&Delivery) -> Answer + Send + Sync + 'static) {
        let mut state = self.shared.lock();
        state.behaviour = Some(Arc::new(behaviour));
        state.generation += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// From now on it answers every request with `status`.
    pub fn answer(&self, status: u16) {
        self.behave(move |_| Answer::Status(status));
    }

    /// Refuses connections, and cuts off those that there are.
    pub fn refuse(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.lock().is_refusing = true;
        // Wakes the acceptor, which closes the port.
        let _ = TcpStream::connect(self.addr);
        acceptor.join().expect("no panic");
        self.cut_off();
    }

    /// Accepts connections again, at the same address.
    pub fn accept(&mut self) {
        if self.acceptor.is_none() {
            self.shared.lock().is_refusing = false;
            self.accept_from(TcpListener::bind(self.addr).expect("the port is still free"));
        }
    }

    /// Ends all connections at once.
    pub fn cut_off(&self) {
        for connection in self.shared.lock().connections.iter().flatten() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Makes it the service `name` of a server, with further keys of its configuration.
    pub fn configure(&self, builder: Builder, name: &str, options: &[(&str, &str)]) -> Builder {
        let key = |key: &str| {
            let path = format!("EVENT_HANDLER__SERVICES__{name}__{key}");
            path.to_uppercase().replace('-', "_")
        };
        let builder = builder.env(&key("url"), self.url());
        options.iter().fold(builder, |builder, (option, value)| builder.env(&key(option), value))
    }

    /// All requests so far, in the order of arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.lock().deliveries.clone()
    }

    /// The ids of the events that came, in the order of arrival, repeated ones as often as they came.
    pub fn ids(&self) -> Vec<i64> {
        self.shared.lock().deliveries.iter().map(|delivery| delivery.event_id).collect()
    }

    /// The ids of the events that were taken, in the order of arrival.
    pub fn accepted(&self) -> Vec<i64> {
        let state = self.shared.lock();
        state.deliveries.iter().filter(|delivery| delivery.is_accepted()).map(|delivery| delivery.event_id).collect()
    }

    /// Most requests that were under way at once.
    pub fn max_concurrent(&self) -> usize {
        self.shared.lock().max_concurrent
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections.len()
    }

    /// Waits until `is_enough` of what came.
    ///
    /// # Panics
    /// After [`PATIENCE`], naming `what` was awaited.
    pub fn wait_until(&self, what: &str, is_enough: impl Fn(&[Delivery]) -> bool) -> Vec<Delivery> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        while !is_enough(&state.deliveries) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "did not happen within {PATIENCE:?}: {what}; {} came", state.deliveries.len());
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.deliveries.clone()
    }

    /// Waits until so many requests have come.
    pub fn wait_for(&self, count: usize) -> Vec<Delivery> {
        self.wait_until(&format!("{count} deliveries"), |deliveries| deliveries.len() >= count)
    }

    /// Waits until each of these events was taken.
    pub fn wait_for_accepted(&self, ids: &[i64]) {
        self.wait_until(&format!("{ids:?} are taken"), |deliveries| {
            let taken = |id| deliveries.iter().any(|delivery| delivery.event_id == id && delivery.is_accepted());
            ids.iter().all(|id| taken(*id))
        });
    }

    fn accept_from(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.acceptor = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                let mut state = shared.lock();
                if state.is_refusing {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = state.connections.len();
                state.connections.push(stream.try_clone().ok());
                drop(state);
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    // However it ends, it ends.
                    let _ = shared.serve(number, stream);
                    shared.lock().connections[number] = None;
                });
            }
        }));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Whoever hangs goes on, to find its connection cut off.
        self.behave(|_| Answer::HangUp);
        self.refuse();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of one connection.
    fn serve(&self, connection: usize, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        while let Some(delivery) = read_request(&mut reader, connection)? {
            let order = self.arrived(delivery);
            let answer = self.decide(order);
            let written = match answer {
                None => Err(io::ErrorKind::ConnectionAborted.into()),
                Some((status, headers, body)) => {
                    self.answered(order, status);
                    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n{headers}\r\n");
                    writer.write_all(format!("{head}{body}").as_bytes())
                }
            };
            self.lock().concurrent -= 1;
            if let Err(error) = written {
                let _ = writer.shutdown(Shutdown::Both);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes the request down; returns its place.
    fn arrived(&self, mut delivery: Delivery) -> usize {
        let mut state = self.lock();
        delivery.order = state.deliveries.len();
        let came = state.came.entry(delivery.event_id).or_default();
        delivery.repeated = *came;
        *came += 1;
        let order = delivery.order;
        state.deliveries.push(delivery);
        state.concurrent += 1;
        state.max_concurrent = state.max_concurrent.max(state.concurrent);
        drop(state);
        self.changed.notify_all();
        order
    }

    /// Written down before the answer goes out: what the server knows, a test knows.
    fn answered(&self, order: usize, status: u16) {
        if let Some(delivery) = self.lock().deliveries.get_mut(order) {
            delivery.status = Some(status);
            delivery.answered = Some(Instant::now());
        }
        self.changed.notify_all();
    }

    /// What to answer; none to hang up.
    fn decide(&self, order: usize) -> Option<(u16, Vec<String>, String)> {
        let mut answer = Answer::Hang;
        let mut asked = 0;
        loop {
            match answer {
                Answer::Status(status) => return Some((status, Vec::new(), String::new())),
                Answer::Full(status, headers, body) => return Some((status, headers, body)),
                Answer::HangUp => return None,
                Answer::After(delay, then) => {
                    thread::sleep(delay);
                    answer = *then;
                }
                Answer::Hang => {
                    let mut state = self.lock();
                    while state.generation == asked {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    asked = state.generation;
                    let behaviour = state.behaviour.clone()?;
                    let delivery = state.deliveries.get(order)?.clone();
                    drop(state);
                    answer = behaviour(&delivery);
                }
            }
        }
    }
}

/// The next request of a connection; none at its end.
fn read_request(reader: &mut impl BufRead, connection: usize) -> io::Result<Option<Delivery>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let header = |line: &String| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    let headers: Vec<_> = lines.iter().skip(1).filter_map(header).collect();
    let named = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let length = named("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let in_body = json["id"].as_i64().or_else(|| json["id"].as_str()?.parse().ok());
    let event_id = named("ce-id").and_then(|id| id.parse().ok()).or(in_body).unwrap_or(0);
    Ok(Some(Delivery {
        order: 0,
        connection,
        event_id,
        repeated: 0,
        path,
        body,
        arrived: Instant::now(),
        status: None,
        answered: None,
        headers,
    }))
}
