//! Random lives of subscribers against a model: whatever is published, subscribed, cut and killed in whatever order,
//! every connection gets exactly what its subscriptions cover, in order, each event once.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt as _, SeedableRng};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::ws::Socket;
use crate::support::{Backend, PATIENCE, Server};

const STEPS: usize = 250;
const MAX_CLIENTS: usize = 6;
const NAMES: [&str; 7] = ["a", "b", "a.b", "a.c", "a.b.c", "b.c", "b.b.c"];
const PATTERNS: [&str; 10] = [">", "*", "a", "a.b", "a.*", "*.c", "a.>", "b.>", "*.b.c", "*.*"];
/// Whether the number in a payload passes.
type Passes = fn(usize) -> bool;
/// Filters, and what they mean.
const FILTERS: [(&str, Passes); 4] = [
    ("null", |_| true),
    (r#"{"n":[0,2]}"#, |n| n % 2 == 0),
    (r#"{"n":[{"numeric":[">",1]}]}"#, |n| n > 1),
    (r#"{"n":[{"anything-but":3}],"more":[{"exists":false}]}"#, |n| n != 3),
];

/// An event, as far as it matters here: its name, and the number in its payload.
type Told = (&'static str, usize);

#[test]
fn sqlite_subscribers_get_what_the_model_says() {
    [1, 2, 3].into_iter().for_each(|seed| live(Backend::Sqlite, seed));
}

#[test]
fn postgres_subscribers_get_what_the_model_says() {
    [4, 5].into_iter().for_each(|seed| live(Backend::Postgres, seed));
}

fn live(backend: Backend, seed: u64) {
    eprintln!("seed {seed}");
    // Small queues and a short memory: everybody falls behind, and reads from the store.
    let server = Server::builder()
        .backend(backend)
        .env("EVENT_HANDLER__SERVER__WORKERS", 2)
        .env("EVENT_HANDLER__SUBSCRIBE__QUEUE_PER_CONNECTION", "8KiB")
        .env("EVENT_HANDLER__SUBSCRIBE__RECENT_EVENTS", "32KiB")
        .start();
    let mut world = World { random: StdRng::seed_from_u64(seed), server, log: BTreeMap::new(), clients: Vec::new() };
    (0..STEPS).for_each(|_| world.step());
    world.clients.iter_mut().for_each(Client::read_all_due);
    world.compare_log();
}

struct World {
    random: StdRng,
    server: Server,
    /// The events, by id.
    log: BTreeMap<i64, Told>,
    clients: Vec<Client>,
}

impl World {
    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.publish(1),
            30..42 => {
                let count = self.random.random_range(2..60);
                self.publish(count);
            }
            42..52 if self.clients.len() < MAX_CLIENTS => self.clients.push(Client::connect(&self.server)),
            52..72 => self.subscribe(),
            72..82 => self.with_client(|client, random| client.unsubscribe(random)),
            82..94 => self.with_client(|client, _| client.read_all_due()),
            94..98 if !self.clients.is_empty() => {
                let leaver = self.random.random_range(0..self.clients.len());
                self.clients.swap_remove(leaver);
            }
            98 => self.kill(),
            _ => {}
        }
    }

    fn with_client(&mut self, act: impl FnOnce(&mut Client, &mut StdRng)) {
        if !self.clients.is_empty() {
            let chosen = self.random.random_range(0..self.clients.len());
            act(&mut self.clients[chosen], &mut self.random);
        }
    }

    fn publish(&mut self, count: usize) {
        let events: Vec<(Told, usize)> = (0..count)
            .map(|_| ((self.one_of(&NAMES), self.random.random_range(0..4)), self.random.random_range(0..4000)))
            .collect();
        let body = |((name, n), size): &(Told, usize)| json!({"event_name": name, "payload": {"pad": "x".repeat(*size), "n": n}});
        let first = if let [one] = &events[..] {
            self.server.post("/publish", body(one)).event_id()
        } else {
            let batch: Value = events.iter().map(body).collect();
            self.server.post("/publish/batch", batch).data()["first_id"].as_i64().expect("an id")
        };
        for (id, (told, _)) in (first..).zip(events) {
            assert_eq!(self.log.insert(id, told), None, "{id} was given twice");
            self.clients.iter_mut().for_each(|client| client.published(id, told));
        }
    }

    fn subscribe(&mut self) {
        let pattern = self.one_of(&PATTERNS);
        let last = self.log.keys().last().copied().unwrap_or(0);
        let after = match self.random.random_range(0..6) {
            0..3 => None,
            3 => Some(json!("earliest")),
            4 => Some(json!(last)),
            _ => Some(json!(self.random.random_range(0..=last))),
        };
        let filter = self.random.random_range(0..FILTERS.len());
        let log = &self.log;
        if !self.clients.is_empty() {
            let chosen = self.random.random_range(0..self.clients.len());
            self.clients[chosen].subscribe(pattern, filter, after, log);
        }
    }

    /// What had not arrived by then is lost to the connection, and to nobody who asks again.
    fn kill(&mut self) {
        self.server.kill9();
        self.clients.drain(..).for_each(Client::read_to_the_end);
        self.server.restart();
        self.compare_log();
    }

    fn compare_log(&self) {
        let mut stored: BTreeMap<i64, String> = BTreeMap::new();
        loop {
            let after = stored.keys().last().copied().unwrap_or(0);
            let page = self.server.events(&format!("?after={after}&limit=1000"));
            if page.is_empty() {
                break;
            }
            let entry =
                |e: &Value| (e["id"].as_i64().expect("an id"), e["event_name"].as_str().unwrap_or("").to_owned());
            stored.extend(page.iter().map(entry));
        }
        assert!(
            stored
                .iter()
                .map(|(id, name)| (*id, name.as_str()))
                .eq(self.log.iter().map(|(id, (name, _))| (*id, *name)))
        );
    }

    fn one_of(&mut self, these: &[&'static str]) -> &'static str {
        these.choose(&mut self.random).expect("some")
    }
}

/// A connection, and what the model says about it.
struct Client {
    ws: Socket,
    /// Patterns with the id after which they apply, and the place of their filter.
    subscriptions: BTreeMap<&'static str, (i64, usize)>,
    /// What has to come.
    due: BTreeSet<i64>,
    /// What may come, because a subscription has ended.
    optional: BTreeSet<i64>,
    /// The last id since history was last asked for.
    last: i64,
    log: BTreeMap<i64, Told>,
    requests: u64,
}

impl Client {
    fn connect(server: &Server) -> Self {
        let ws = server.ws();
        Self {
            ws,
            subscriptions: BTreeMap::new(),
            due: BTreeSet::new(),
            optional: BTreeSet::new(),
            last: 0,
            log: BTreeMap::new(),
            requests: 0,
        }
    }

    fn covers(&self, id: i64, (name, n): Told) -> bool {
        let covers = |(pattern, (from, filter)): (&&str, &(i64, usize))| {
            *from < id && matches(pattern, name) && FILTERS[*filter].1(n)
        };
        self.subscriptions.iter().any(covers)
    }

    fn published(&mut self, id: i64, told: Told) {
        self.log.insert(id, told);
        if self.covers(id, told) {
            self.due.insert(id);
        }
    }

    fn subscribe(&mut self, pattern: &'static str, filter: usize, after: Option<Value>, log: &BTreeMap<i64, Told>) {
        let end = log.keys().last().copied().unwrap_or(0);
        let mut request = json!({"action": "subscribe", "event_name": pattern, "envelope": "full"});
        let from = match &after {
            None => end,
            Some(after) => after.as_i64().unwrap_or(0),
        };
        let again = self.subscriptions.contains_key(pattern);
        // Without history it goes on as it is.
        let filter = self.subscriptions.get(pattern).filter(|_| after.is_none()).map_or(filter, |(_, filter)| *filter);
        request["filter"] = serde_json::from_str(FILTERS[filter].0).expect("JSON");
        if after.is_some() && again {
            // Begins anew: what the one before would still have got is asked for again, or not at all.
            self.forget(pattern);
        }
        let new: Vec<i64> = log
            .range(from + 1..)
            .filter(|(id, told)| matches(pattern, told.0) && FILTERS[filter].1(told.1) && !self.covers(**id, **told))
            .map(|(id, _)| *id)
            .collect();
        if let Some(after) = &after {
            request["after"] = after.clone();
        }
        let asks_history = after.is_some();
        if asks_history || !again {
            self.subscriptions.insert(pattern, (from, filter));
        }
        self.log = log.clone();
        let reply = self.request(request, |client| {
            if asks_history {
                client.last = 0;
                client.drop_uncovered();
                client.due.extend(new.iter().copied());
            }
        });
        assert_eq!((&reply["type"], &reply["recovered"]), (&json!("subscribed"), &json!(true)), "{reply}");
    }

    fn unsubscribe(&mut self, random: &mut StdRng) {
        let patterns: Vec<&'static str> = self.subscriptions.keys().copied().collect();
        let Some(pattern) = patterns.choose(random) else { return };
        self.forget(pattern);
        self.request(json!({"action": "unsubscribe", "event_name": pattern}), |_| {});
        self.drop_uncovered();
    }

    /// Ends a subscription in the model: what only it covers need not come any more.
    fn forget(&mut self, pattern: &'static str) {
        if self.subscriptions.remove(pattern).is_none() {
            return;
        }
        let (kept, orphans) = self.due.iter().copied().partition(|id| self.covers(*id, self.log[id]));
        self.due = kept;
        self.optional.extend::<BTreeSet<i64>>(orphans);
    }

    /// From a reply on only what is covered comes.
    fn drop_uncovered(&mut self) {
        let covered: Vec<i64> = self.optional.iter().copied().filter(|id| self.covers(*id, self.log[id])).collect();
        self.optional = covered.into_iter().collect();
    }

    /// Sends a request and reads up to its reply; `on_reply` changes the model in that moment.
    fn request(&mut self, mut request: Value, on_reply: impl FnOnce(&mut Self)) -> Value {
        self.requests += 1;
        request["id"] = self.requests.into();
        self.ws.send(&request);
        loop {
            let frame = self.ws.recv_json();
            if frame["type"] == "event" {
                self.note(&frame);
                continue;
            }
            assert_eq!(frame["id"], self.requests, "{frame}");
            on_reply(self);
            return frame;
        }
    }

    fn read_all_due(&mut self) {
        while !self.due.is_empty() {
            match self.ws.recv(PATIENCE) {
                Ok(Message::Text(frame)) => self.note(&serde_json::from_str(&frame).expect("JSON")),
                other => panic!("{other:?} instead of {:?}; subscriptions: {:?}", self.due, self.subscriptions),
            }
        }
        for frame in self.ws.barrier() {
            self.note(&serde_json::from_str(&frame).expect("JSON"));
        }
    }

    /// The server is gone: what has arrived must be right as far as it goes.
    fn read_to_the_end(mut self) {
        while let Ok(Message::Text(frame)) = self.ws.recv(PATIENCE) {
            self.note(&serde_json::from_str(&frame).expect("JSON"));
        }
    }

    fn note(&mut self, frame: &Value) {
        let id = frame["id"].as_i64().filter(|_| frame["type"] == "event");
        let id = id.unwrap_or_else(|| panic!("not an event: {frame}"));
        let expected = self.due.remove(&id) || self.optional.remove(&id);
        let subscriptions = &self.subscriptions;
        assert!(expected, "event {id} comes unasked or twice; subscriptions: {subscriptions:?}; due: {:?}", self.due);
        assert!(id > self.last, "event {id} comes after {}", self.last);
        assert_eq!((&frame["event_name"], &frame["payload"]["n"]), (&json!(self.log[&id].0), &json!(self.log[&id].1)));
        self.last = id;
    }
}

/// The definition, word for word: `*` is one segment, a last `>` one or more.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.split('.'), name.split('.'));
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(segment), Some(actual)) if segment == actual => {}
            _ => return false,
        }
    }
}
