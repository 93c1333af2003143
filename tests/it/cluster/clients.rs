//! Clients that go on whatever happens to the nodes, and write down all that they see.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tungstenite::Message;

use super::harness::{Address, Cluster};
use super::history::{
    Answer, At, ConsumerHistory, Given, History, Post, Publish, Push, ServiceHistory, Stored, Subscriber,
};
use crate::databases::number;
use crate::support::Service;
use crate::support::http::{Connection, Request, Response};
use crate::support::load::is_timeout;
use crate::support::sse::EventStream;
use crate::support::ws::Socket;

/// The beginning of the names of all that clients here publish, and a pattern for it.
pub const WANTS: &str = "c.";
const PATTERN: &str = "c.>";
/// After which a client turns to another node.
const PATIENCE: Duration = Duration::from_secs(3);
/// After which a publisher that repeats a publish gives it up.
const PERSISTENCE: Duration = Duration::from_secs(60);
/// Between two publishes of one publisher.
const PACE: Duration = Duration::from_millis(12);
const PAUSE: Duration = Duration::from_millis(20);

/// Up to where the events of the durable subscription are acknowledged.
const FLOOR: &str = "SELECT coalesce(max(floor), 0) AS n FROM event_handler.durables WHERE name = 'work'";

/// The clients of a cluster, from [`Clients::start`] to [`Clients::finish`].
pub struct Clients {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

struct Shared {
    begin: Instant,
    nodes: Vec<Address>,
    publishers_stop: AtomicBool,
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    publishes: Mutex<Vec<Publish>>,
    subscribers: Vec<Mutex<Subscriber>>,
    consumer: Mutex<ConsumerHistory>,
    /// What must not be, and no rule of the checker is about.
    wrong: Mutex<Vec<String>>,
}

impl Clients {
    /// Starts `publishers` publishers; for each node a subscriber by WebSocket, one by SSE, and a member of one durable
    /// subscription.
    pub fn start(cluster: &Cluster, publishers: usize, seed: u64) -> Self {
        let nodes = cluster.addresses();
        let subscriber = |name: String| Mutex::new(Subscriber { name, wants: WANTS.to_owned(), pushes: Vec::new() });
        let of_each =
            ["ws", "sse"].into_iter().flat_map(|kind| nodes.iter().map(move |node| format!("{kind} {}", node.name)));
        let consumer =
            ConsumerHistory { name: "work".to_owned(), wants: WANTS.to_owned(), ..ConsumerHistory::default() };
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            publishers_stop: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            publishes: Mutex::default(),
            subscribers: of_each.map(subscriber).collect(),
            consumer: Mutex::new(consumer),
            wrong: Mutex::default(),
            nodes,
        });
        let spawn = |work: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        };
        let count = shared.nodes.len();
        let mut others = Vec::new();
        for node in 0..count {
            others.push(spawn(Box::new(move |shared| shared.follow_by_ws(node, &shared.subscribers[node]))));
            others.push(spawn(Box::new(move |shared| shared.follow_by_sse(node, &shared.subscribers[count + node]))));
            others.push(spawn(Box::new(move |shared| shared.be_member(&shared.nodes[node]))));
        }
        let publishers = (0..publishers).map(|number| {
            let random = StdRng::seed_from_u64(seed ^ number as u64);
            spawn(Box::new(move |shared| shared.publish(number, random)))
        });
        Self { publishers: publishers.collect(), others, shared: Arc::clone(&shared) }
    }

    /// Waits until `count` more publishes were acknowledged than now.
    pub fn wait_for_acknowledged(&self, count: usize) {
        let goal = self.shared.acknowledged.load(Ordering::Relaxed) + count;
        self.eventually("publishes are acknowledged", || self.shared.acknowledged.load(Ordering::Relaxed) >= goal);
    }

    /// Ends the publishers, waits until everybody has everything, and returns what was seen. If it never comes to that,
    /// the history shows why.
    pub fn finish(mut self, cluster: &Cluster, services: &[(&str, &Service)]) -> History {
        self.shared.publishers_stop.store(true, Ordering::Relaxed);
        for publisher in std::mem::take(&mut self.publishers) {
            publisher.join().expect("a publisher");
        }
        let node = &cluster.nodes[0];
        self.eventually("schedules are due", || {
            let waiting = node.server.request("GET", "/schedules").try_send();
            waiting.is_ok_and(|response| response.status == 200 && response.data() == json!([]))
        });
        let log = read_log(node.server.addr());
        let wanted: Vec<i64> = log.iter().filter(|event| event.name.starts_with(WANTS)).map(|event| event.id).collect();
        let last = wanted.last().copied();
        let shared = &self.shared;
        for subscriber in &shared.subscribers {
            self.eventually("subscribers have everything", || {
                lock(subscriber).pushes.last().map(|push| push.id) >= last
            });
        }
        self.eventually("everything is acknowledged", || {
            self.confirm(number(&cluster.url, FLOOR));
            let acked: BTreeSet<i64> = lock(&shared.consumer).acked.iter().map(|acked| acked.id).collect();
            wanted.iter().all(|id| acked.contains(id))
        });
        for (name, _) in services {
            self.eventually("everything is delivered", || {
                let outcomes = cluster.outcomes(name);
                outcomes.len() == wanted.len() && outcomes.iter().all(|outcome| outcome.is_delivered)
            });
        }
        shared.stop.store(true, Ordering::Relaxed);
        for other in std::mem::take(&mut self.others) {
            other.join().expect("a subscriber");
        }
        assert_eq!(*lock(&shared.wrong), [] as [String; 0]);
        let history = |(name, service): &(&str, &Service)| ServiceHistory {
            name: (*name).to_owned(),
            wants: WANTS.to_owned(),
            posts: posts(service, shared.begin),
            outcomes: cluster.outcomes(name),
        };
        History {
            publishes: lock(&shared.publishes).clone(),
            log,
            subscribers: shared.subscribers.iter().map(|subscriber| lock(subscriber).clone()).collect(),
            services: services.iter().map(history).collect(),
            consumers: vec![lock(&shared.consumer).clone()],
        }
    }

    /// What was given out up to the ack `floor` in the store was acknowledged. A node that ended after the commit has told
    /// nobody.
    fn confirm(&self, floor: i64) {
        let mut consumer = lock(&self.shared.consumer);
        let acked: BTreeSet<i64> = consumer.acked.iter().map(|acked| acked.id).collect();
        let untold: BTreeSet<i64> =
            consumer.given.iter().map(|given| given.id).filter(|id| *id <= floor && !acked.contains(id)).collect();
        let at = self.shared.now();
        consumer.acked.extend(untold.into_iter().map(|id| Given { at, node: "the store".to_owned(), id }));
    }

    /// Waits long for `condition`. If it never holds, the checker shows more than a panic here would.
    fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PERSISTENCE;
        while !condition() {
            if Instant::now() > deadline {
                return eprintln!("did not happen within {PERSISTENCE:?}: {what}");
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.publishers_stop.store(true, Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// All that came to a service that is told by the path who has sent it.
pub fn posts(service: &Service, begin: Instant) -> Vec<Post> {
    let post = |delivery: crate::support::service::Delivery| Post {
        number: delivery.order,
        node: delivery.path.trim_start_matches('/').to_owned(),
        id: delivery.event_id,
        arrived: delivery.arrived.saturating_duration_since(begin),
        answered: delivery.answered.map(|at| at.saturating_duration_since(begin)).zip(delivery.status),
    };
    service.deliveries().into_iter().map(post).collect()
}

/// Everything that is stored, the program's own events with it.
pub fn read_log(addr: SocketAddr) -> Vec<Stored> {
    let mut log = Vec::new();
    for pattern in ["%3E", "$sys.%3E"] {
        let mut after = 0;
        loop {
            let path = format!("/events?event_name={pattern}&after={after}&limit=1000");
            let page = Request::new(addr, "GET", &path).send().data();
            let page = page.as_array().expect("a list");
            log.extend(page.iter().map(|event| Stored {
                id: event["id"].as_i64().expect("an id"),
                name: event["event_name"].as_str().expect("a name").to_owned(),
                key: event["key"].as_str().map(str::to_owned),
                tag: event["payload"]["tag"].as_str().map(str::to_owned),
            }));
            match page.last() {
                Some(event) => after = event["id"].as_i64().expect("an id"),
                None => break,
            }
        }
    }
    log.sort_by_key(|event| event.id);
    log
}

impl Shared {
    fn now(&self) -> At {
        self.begin.elapsed()
    }

    fn wrong(&self, what: String) {
        lock(&self.wrong).push(what);
    }

    /// Publishes at one node after the other, going on to the next when it is refused or gets no answer. With an
    /// idempotency key it repeats the publish there.
    fn publish(&self, publisher: usize, mut random: StdRng) {
        let mut at = publisher % self.nodes.len();
        let mut connection = None;
        for number in 0.. {
            if self.publishers_stop.load(Ordering::Relaxed) {
                return;
            }
            let tag = format!("p{publisher}-{number}");
            let name = format!("c.{}", ["a", "b"][random.random_range(0..2)]);
            let key = (random.random_range(0..2) == 0).then(|| format!("key-{}", random.random_range(0..6)));
            let idempotency_key = (random.random_range(0..4) > 0).then(|| format!("once-{tag}"));
            let is_for_later = idempotency_key.is_some() && random.random_range(0..25) == 0;
            let priority = ["high", "normal", "low"][random.random_range(0..3)];
            let mut body = json!({
                "event_name": name,
                "payload": {"tag": tag},
                "key": key,
                "priority": priority,
            });
            if let Some(key) = &idempotency_key {
                body["idempotency_key"] = json!(key);
            }
            if is_for_later {
                let delay = jiff::SignedDuration::from_millis(random.random_range(1_500..3_000));
                body["deliver_at"] = json!((jiff::Timestamp::now() + delay).to_string());
            }
            let deadline = Instant::now() + PERSISTENCE;
            loop {
                let node = &self.nodes[at];
                let asked = self.now();
                let answer = post(&mut connection, node.get(), &body);
                let answered = answer.as_ref().ok().and_then(|response| self.judge(response, is_for_later));
                let publish = Publish {
                    node: node.name.clone(),
                    tag: tag.clone(),
                    name: name.clone(),
                    key: key.clone(),
                    idempotency_key: idempotency_key.clone(),
                    asked,
                    answered: answered.map(|answer| (self.now(), answer)),
                };
                lock(&self.publishes).push(publish);
                if answered.is_some() {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                connection = None;
                at = (at + 1) % self.nodes.len();
                thread::sleep(PAUSE);
                // A date that has passed meanwhile is refused.
                if idempotency_key.is_none() || is_for_later && answer.is_ok_and(|response| response.status == 422) {
                    break;
                }
                if Instant::now() > deadline {
                    return self.wrong(format!("no node takes {tag}"));
                }
            }
            thread::sleep(PACE);
        }
    }

    /// What the publisher was told; none if it cannot know.
    fn judge(&self, response: &Response, is_for_later: bool) -> Option<Answer> {
        match response.status {
            200 if is_for_later => Some(Answer::Scheduled),
            200 => Some(Answer::Stored(response.event_id())),
            503 => None,
            422 if is_for_later => None,
            _ => {
                self.wrong(format!("{response:?}"));
                None
            }
        }
    }

    /// Follows everything from the beginning, from one node after the other.
    fn follow_by_ws(&self, first: usize, history: &Mutex<Subscriber>) {
        for node in self.nodes.iter().cycle().skip(first) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let after = lock(history).pushes.last().map_or(0, |push| push.id);
            let request =
                json!({"action": "subscribe", "event_name": PATTERN, "after": after, "envelope": "full", "id": 1});
            self.talk(node, &request, Some(PATIENCE), |frame| {
                match (frame["type"].as_str(), frame["id"].as_i64()) {
                    (Some("event"), Some(id)) => self.pushed(history, node, id, &frame["payload"]),
                    (Some("subscribed"), _) if frame["recovered"] != true => self.wrong(format!("{frame}")),
                    _ => {}
                }
                None
            });
            thread::sleep(PAUSE);
        }
    }

    fn follow_by_sse(&self, first: usize, history: &Mutex<Subscriber>) {
        for node in self.nodes.iter().cycle().skip(first) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let after = lock(history).pushes.last().map_or(0, |push| push.id);
            let header = format!("Last-Event-ID: {after}");
            let path = format!("/events/stream?event_name={}", PATTERN.replace('>', "%3E"));
            let stream = EventStream::request_patient(node.get(), "HTTP/1.1", &path, &[&header], PATIENCE);
            let Some(mut stream) = stream.ok().filter(|stream| stream.status == 200) else {
                thread::sleep(PAUSE);
                continue;
            };
            while let Ok(Some(block)) = stream.try_block() {
                if let (Some(id), Some(data)) = (block.id.and_then(|id| id.parse().ok()), block.data) {
                    self.pushed(history, node, id, &serde_json::from_str(&data).unwrap_or_default());
                }
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }

    fn pushed(&self, history: &Mutex<Subscriber>, node: &Address, id: i64, payload: &Value) {
        let tag = payload["tag"].as_str().map(str::to_owned);
        lock(history).pushes.push(Push { at: self.now(), node: node.name.clone(), id, tag });
    }

    /// Is a member of the durable subscription at one node, whenever that node can be reached.
    fn be_member(&self, node: &Address) {
        let request = json!({"action": "subscribe", "event_name": PATTERN, "durable": "work", "id": "join",
                             "after": "earliest", "ack_wait": "1h", "max_deliver": 0});
        while !self.stop.load(Ordering::Relaxed) {
            self.talk(node, &request, None, |frame| {
                let id = frame["id"].as_i64()?;
                let line = || Given { at: self.now(), node: node.name.clone(), id };
                match frame["type"].as_str()? {
                    "event" => {
                        lock(&self.consumer).given.push(line());
                        Some(json!({"action": "ack", "id": id}))
                    }
                    "acked" => {
                        lock(&self.consumer).acked.push(line());
                        None
                    }
                    _ => None,
                }
            });
            thread::sleep(PAUSE);
        }
    }

    /// Connects to `node`, asks for something, and hands over every frame that comes, until the connection ends, is refused,
    /// or has been silent for too long.
    fn talk(
        &self,
        node: &Address,
        request: &Value,
        silence: Option<Duration>,
        mut take: impl FnMut(&Value) -> Option<Value>,
    ) {
        let Ok(mut socket) = Socket::connect_patient(node.get(), "/ws", &[], PATIENCE) else { return };
        if socket.try_send(request).is_err() {
            return;
        }
        let mut heard = Instant::now();
        while !self.stop.load(Ordering::Relaxed) && silence.is_none_or(|silence| heard.elapsed() < silence) {
            let frame: Value = match socket.recv(Duration::from_millis(100)) {
                Ok(Message::Text(text)) => serde_json::from_str(&text).unwrap_or_default(),
                Ok(Message::Ping(_) | Message::Pong(_)) => continue,
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => continue,
                Ok(_) | Err(_) => return,
            };
            heard = Instant::now();
            if frame["type"] == "error" {
                return;
            }
            if take(&frame).is_some_and(|answer| socket.try_send(answer).is_err()) {
                return;
            }
        }
    }
}

fn post(connection: &mut Option<Connection>, addr: SocketAddr, body: &Value) -> std::io::Result<Response> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open_patient(addr, PATIENCE)?),
    };
    open.send(&Request::new(addr, "POST", "/publish").json(body))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
