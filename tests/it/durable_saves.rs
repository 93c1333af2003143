//! What members of durable subscriptions are told is stored, at whatever point a save fails: every one of the program's
//! fault points, for a moment and for good, and a kill after it. Needs the feature `fault-injection`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::server::{Builder, wait_for_status};
use crate::support::ws::Socket;
use crate::support::{Backend, PATIENCE, Server, Service, eventually, for_each_backend};

/// More often than anybody tries.
const FOR_GOOD: u64 = 1_000_000;

/// Restarts without much ado.
fn builder(backend: Backend) -> Builder {
    Server::builder()
        .backend(backend)
        .env("EVENT_HANDLER__SUPERVISION__BACKOFF", "10ms")
        .env("EVENT_HANDLER__SUPERVISION__BACKOFF_CAP", "20ms")
        .env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", 1000)
}

/// The fault points that the program has, but for those that stop the process: nobody would let it go on.
fn points(server: &Server) -> Vec<String> {
    let points = server.get("/admin/fault").data();
    let points = points.as_object().expect("an object").keys();
    points.filter(|point| !point.starts_with("stops_")).cloned().collect()
}

fn hits(server: &Server, point: &str) -> u64 {
    server.get("/admin/fault").data()[point].as_u64().expect("a number")
}

fn arm(server: &Server, point: &str, times: u64) {
    server.post(&format!("/admin/fault/{point}?times={times}"), "").data();
}

/// The only member of a durable subscription, and what it was told.
struct Member {
    name: &'static str,
    ws: Option<Socket>,
    delivered: BTreeMap<i64, u64>,
    said: BTreeSet<i64>,
    /// `acked`, `nacked`, `rejected`, or `error`.
    told: BTreeMap<i64, String>,
}

impl Member {
    fn new(name: &'static str) -> Self {
        Self { name, ws: None, delivered: BTreeMap::new(), said: BTreeSet::new(), told: BTreeMap::new() }
    }

    fn publish(&self, server: &Server) -> i64 {
        eventually("a publish is answered", || {
            let answer = server.post("/publish", json!({"event_name": self.name}));
            (answer.status == 200).then(|| answer.event_id())
        })
    }

    /// Joins, if it is not connected, and waits for these.
    fn await_events(&mut self, server: &Server, ids: &[i64]) {
        eventually("the events come", || {
            if self.ws.is_none() {
                let mut ws = Socket::try_connect(server.addr(), "/ws", &[]).ok()?;
                let name = self.name;
                ws.send(json!({"action": "subscribe", "event_name": name, "durable": name, "id": "join",
                               "ack_wait": "1h", "max_deliver": 0, "after": "earliest"}));
                self.delivered.clear();
                self.ws = Some(ws);
            }
            self.listen(Duration::from_millis(20));
            ids.iter().all(|id| self.delivered.contains_key(id)).then_some(())
        });
    }

    fn say(&mut self, id: i64, word: Value) {
        let mut request = word;
        request["id"] = id.into();
        self.said.insert(id);
        self.told.remove(&id);
        if let Some(ws) = &mut self.ws
            && ws.try_send(request).is_err()
        {
            self.ws = None;
        }
    }

    /// Takes what comes within this time.
    fn listen(&mut self, patience: Duration) {
        while let Some(ws) = &mut self.ws {
            match ws.recv(patience) {
                Ok(Message::Text(text)) => self.take(&serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => return,
                Ok(_) | Err(_) => self.ws = None,
            }
        }
    }

    fn take(&mut self, frame: &Value) {
        let id = frame["id"].as_i64();
        match (frame["type"].as_str(), id) {
            (Some("event"), Some(id)) => {
                let delivery = frame["delivery"].as_u64().expect("a number");
                let is_done = self.told.get(&id).is_some_and(|told| told == "acked" || told == "rejected");
                assert!(!is_done, "it was told that {id} is done with, and has it again: {frame}");
                self.delivered.insert(id, delivery);
            }
            (Some(told @ ("acked" | "nacked" | "rejected" | "error")), Some(id)) => {
                self.told.insert(id, told.to_owned());
            }
            (Some("error"), _) if frame["id"] == "join" => self.ws = None,
            (Some("subscribed" | "disconnect"), _) => {}
            _ => panic!("unexpected: {frame}"),
        }
    }

    /// Whether there is nothing to wait for.
    fn is_answered(&self) -> bool {
        self.ws.is_none() || self.said.iter().all(|id| self.told.contains_key(id))
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock)
}

/// What is said of events while saves fail: of all of them, so that only the floor moves, and of some.
struct Round {
    low: [i64; 3],
    gaps: [i64; 4],
    /// Dead and made anew before.
    renewed: i64,
}

impl Round {
    /// Everything is delivered, nothing is said.
    fn prepare(server: &Server, low: &mut Member, gaps: &mut Member) -> Self {
        let renewed = gaps.publish(server);
        gaps.await_events(server, &[renewed]);
        gaps.say(renewed, json!({"action": "reject"}));
        eventually("it is dead", || {
            gaps.listen(Duration::from_millis(20));
            gaps.told.remove(&renewed)
        });
        gaps.delivered.remove(&renewed);
        let redriven =
            server.post("/admin/deliveries/redrive", json!({"service": "durable/gaps", "event_id": renewed})).data();
        assert_eq!(redriven["count"], 1, "{redriven}");
        gaps.said.remove(&renewed);
        let round =
            Self { low: [(); 3].map(|()| low.publish(server)), gaps: [(); 4].map(|()| gaps.publish(server)), renewed };
        low.await_events(server, &round.low);
        gaps.await_events(server, &round.gaps);
        gaps.await_events(server, &[renewed]);
        round
    }

    fn say(&self, low: &mut Member, gaps: &mut Member) {
        low.say(self.low[0], json!({"action": "ack"}));
        low.say(self.low[2], json!({"action": "ack", "cumulative": true}));
        gaps.say(self.renewed, json!({"action": "ack"}));
        // Of the first nothing is said.
        gaps.say(self.gaps[1], json!({"action": "ack"}));
        gaps.say(self.gaps[2], json!({"action": "nack", "delay_ms": 3_600_000}));
        gaps.say(self.gaps[3], json!({"action": "reject"}));
    }
}

#[test]
fn what_members_are_told_is_stored_at_whatever_point_a_save_fails() {
    for_each_backend(|backend| {
        let points = points(&builder(backend).start());
        assert!(!points.is_empty());
        for point in points {
            eprintln!("{point}");
            survives(backend, &point);
        }
    });
}

fn survives(backend: Backend, point: &str) {
    let mut server = builder(backend).start();
    let (mut low, mut gaps) = (Member::new("low"), Member::new("gaps"));
    let mut rounds = Vec::new();
    for times in [2, FOR_GOOD] {
        let round = Round::prepare(&server, &mut low, &mut gaps);
        let before = hits(&server, point);
        arm(&server, point, times);
        round.say(&mut low, &mut gaps);
        rounds.push(round);
        // For good: as soon as it was tried again, or there is nothing to try.
        eventually("everything is answered, or was tried in vain", || {
            low.listen(Duration::from_millis(20));
            gaps.listen(Duration::from_millis(20));
            let is_tried = times == FOR_GOOD && hits(&server, point) >= before + 3;
            (is_tried || low.is_answered() && gaps.is_answered()).then_some(())
        });
        if times != FOR_GOOD {
            arm(&server, point, 0);
            wait_for_status(&server, "/health/ready", 200);
        }
    }
    // What was told by now.
    for member in [&mut low, &mut gaps] {
        member.listen(Duration::from_millis(50));
    }
    server.kill9();
    server.restart();
    for member in [&mut low, &mut gaps] {
        member.ws = None;
        let last = member.publish(&server);
        // Whoever is told that something is done with never gets it again: the member itself checks that.
        member.await_events(&server, &[last]);
    }
    let dead = server.get("/admin/deliveries?service=durable/gaps&state=dead").data();
    let dead: BTreeSet<i64> =
        dead.as_array().expect("a list").iter().filter_map(|row| row["event_id"].as_i64()).collect();
    let told = |member: &Member, id: i64| member.told.get(&id).cloned().unwrap_or_default();
    for round in &rounds {
        if told(&low, round.low[2]) == "acked" {
            assert!(!low.delivered.contains_key(&round.low[1]), "{point}: it was acknowledged with a later one");
        }
        assert!(gaps.delivered.contains_key(&round.gaps[0]), "{point}: nobody has said anything of it");
        if told(&gaps, round.gaps[2]) == "nacked" {
            assert!(gaps.delivered[&round.gaps[2]] >= 2, "{point}: it was delivered before");
        }
        if told(&gaps, round.gaps[3]) == "rejected" {
            assert!(dead.contains(&round.gaps[3]), "{point}: it is dead");
        }
        if told(&gaps, round.renewed) == "acked" {
            let trace = server.get("/admin/deliveries?service=durable/gaps&state=delivered").data();
            let is_delivered = |row: &Value| row["event_id"] == round.renewed;
            assert!(trace.as_array().expect("a list").iter().any(is_delivered), "{point}: {trace}");
        }
    }
    // It goes on as if nothing had happened.
    for member in [&mut low, &mut gaps] {
        eventually("everything is settled", || {
            for id in std::mem::take(&mut member.delivered).into_keys() {
                member.say(id, json!({"action": "ack"}));
            }
            member.listen(Duration::from_millis(20));
            let shown = server.get(&format!("/admin/durables/{}", member.name)).data();
            (shown["lag"] == 0).then_some(())
        });
    }
}

#[test]
fn what_waits_for_a_service_is_counted_right_after_a_settlement_that_was_not_confirmed() {
    for_each_backend(|backend| {
        let service = Service::start();
        let server = service.configure(builder(backend), "billing", &[]).start();
        for (point, times) in [("commit_unconfirmed", 1), ("mailbox_full", 3), ("writer_dies_after", 1)] {
            arm(&server, point, times);
            let id = server.publish("order.paid", json!({}));
            service.wait_for_accepted(&[id]);
            eventually("its end is stored", || {
                let shown = server.get(&format!("/events/{id}"));
                (shown.status == 200 && shown.data()["status"] == "processed").then_some(())
            });
            eventually("the store is well again", || {
                (server.post("/admin/services/billing/pause", "").status == 200).then_some(())
            });
            let held: Vec<i64> = (0..3).map(|_| server.publish("order.paid", json!({}))).collect();
            let pending = || server.get("/admin/services/billing").data()["pending"].clone();
            // The figures are counted anew within a second after a doubt.
            eventually("three are pending", || (pending() == 3).then_some(()));
            std::thread::sleep(Duration::from_millis(1500).min(PATIENCE));
            assert_eq!(pending(), 3, "{point}");
            server.post("/admin/services/billing/resume", "").data();
            service.wait_for_accepted(&held);
            eventually("nothing is pending", || (pending() == 0).then_some(()));
        }
    });
}

#[test]
fn nothing_is_acknowledged_while_another_process_has_the_store_locked() {
    let locked = |server: &Server| {
        let path = server.dir().join("events.db");
        let mut other = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
        other.batch_execute("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").expect("the lock");
        other
    };
    let mut server = builder(Backend::Sqlite).env("EVENT_HANDLER__STORE__BUSY_TIMEOUT", "100ms").start();
    let mut member = Member::new("low");
    for is_killed in [false, true] {
        let ids = [(); 3].map(|()| member.publish(&server));
        member.await_events(&server, &ids);
        let mut other = locked(&server);
        member.say(ids[0], json!({"action": "ack"}));
        member.say(ids[2], json!({"action": "ack", "cumulative": true}));
        wait_for_status(&server, "/health/ready", 503);
        // Longer than what it takes to be tried again.
        member.listen(Duration::from_millis(1500));
        assert_eq!(member.told, BTreeMap::new(), "nothing can be stored");
        if is_killed {
            server.kill9();
        }
        other.batch_execute("COMMIT").expect("no lock any more");
        if is_killed {
            server.restart();
            member.ws = None;
            member.await_events(&server, &ids);
        } else {
            eventually("it is stored, and told", || {
                member.listen(Duration::from_millis(20));
                member.is_answered().then_some(())
            });
            let told: Vec<_> = std::mem::take(&mut member.told).into_values().collect();
            assert_eq!(told, ["acked", "acked"]);
            member.said.clear();
        }
    }
}
