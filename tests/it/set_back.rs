//! Stores that are set back to a backup, at rest and under running servers: what was shown is not given to anything
//! else, and whoever comes back is told the truth.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, SqliteConnection};
use serde_json::{Value, json};

use crate::support::load::Publishers;
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, wait_for_status};
use crate::support::service::Service;
use crate::support::tail::Tail;
use crate::support::{Backend, Server, eventually};

fn database(server: &Server) -> PathBuf {
    server.dir().join("events.db")
}

/// A copy of the database as it is now, which holds everything.
fn back_up(server: &Server) -> PathBuf {
    let copy = server.dir().join("backup.db");
    let path = database(server);
    let mut connection = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
    connection.batch_execute(&format!("VACUUM INTO '{}'", copy.display())).expect("a copy");
    copy
}

/// What an operator does by hand: away with the database, the backup in its place.
fn put_back(server: &Server, backup: &Path) {
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        let _ = fs::remove_file(server.dir().join(name));
    }
    fs::copy(backup, database(server)).expect("copied");
}

fn publish(server: &Server, count: usize) -> Vec<i64> {
    (0..count).map(|_| server.publish("a", json!("x"))).collect()
}

fn log_id(server: &Server) -> String {
    server.get("/events").header("event-log").expect("an identity").to_owned()
}

fn told(server: &Server) -> Vec<Value> {
    server.events("?event_name=$sys.log.restored")
}

fn subscribe(after: i64, log: &str) -> Value {
    json!({"id": 1, "action": "subscribe", "event_name": "a", "envelope": "full", "after": after, "log_id": log})
}

#[test]
fn after_a_backup_was_put_back_at_rest_nobody_is_told_that_nothing_is_missing_who_misses_something() {
    for is_killed in [true, false] {
        let service = Service::start();
        let builder = Server::builder().backend(Backend::Sqlite);
        let mut server = service.configure(builder, "billing", &[("routes", "a,$sys.>")]).start();
        publish(&server, 10);
        service.wait_until("ten", |all| all.iter().filter(|d| d.is_accepted()).count() >= 10);
        let backup = back_up(&server);
        assert_eq!(publish(&server, 10), (11..=20).collect::<Vec<_>>());
        service.wait_until("twenty", |all| all.iter().filter(|d| d.is_accepted()).count() >= 20);
        let log = log_id(&server);
        if is_killed {
            server.kill9();
        } else {
            server.terminate();
        }
        put_back(&server, &backup);
        server.restart();

        let restored = told(&server);
        assert_eq!(restored.len(), 1, "{restored:?}");
        let first = restored[0]["id"].as_i64().expect("an id");
        assert!(first > 20, "{first}");
        let expected = json!({
            "log_id": log, "previous_log_id": null, "last_id": 10, "known_last_id": 20, "first_id": first,
        });
        assert_eq!(restored[0]["payload"], expected);
        assert_eq!(log_id(&server), log, "its ids still name one event each");
        let new = publish(&server, 5);
        assert_eq!(new, (first + 1..=first + 5).collect::<Vec<_>>(), "without holes from there");

        // Everything new comes to whoever has seen the twenty, by whatever way, and it is told that some of them are gone.
        let mut ws = server.ws();
        assert_eq!(ws.request(subscribe(20, &log))["recovered"], false);
        assert_eq!([(); 5].map(|()| ws.recv_json()["id"].as_i64().expect("an id")).to_vec(), new);
        let mut stream = server.stream(&format!("?event_name=a&after=20&log_id={log}"), &[]);
        assert_eq!(stream.header("stream-recovered"), Some("false"));
        let events = std::iter::from_fn(|| stream.next_block()).filter(|block| block.event.as_deref() == Some("a"));
        let ids: Vec<String> = events.take(5).filter_map(|block| block.id).collect();
        assert_eq!(ids, new.iter().map(i64::to_string).collect::<Vec<_>>());
        let poll = server.get(&format!("/events?event_name=a&after=20&wait=30s&log_id={log}"));
        assert_eq!(poll.header("stream-recovered"), Some("false"));
        assert_eq!(poll.data()[0]["id"], new[0]);
        service.wait_for_accepted(&new);
        service.wait_for_accepted(&[first]);
        let names = |event_id: i64| -> HashSet<String> {
            let all = service.deliveries();
            let of_event = all.iter().filter(|delivery| delivery.event_id == event_id);
            of_event.map(|delivery| delivery.header("webhook-id").expect("an id").to_owned()).collect()
        };
        let all: Vec<String> = (1..=20).chain(new.iter().copied()).flat_map(names).collect();
        assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (25, 25), "one name for each event");

        // It is told once.
        server.restart();
        assert_eq!(told(&server).len(), 1);
        assert_eq!(publish(&server, 1), [first + 6]);
    }
}

#[test]
fn a_client_of_another_log_is_told_and_goes_on_at_the_end() {
    let server = Server::start(Backend::Sqlite);
    publish(&server, 25);
    let (log, other) = (log_id(&server), "10e8a1c2-0000-4000-8000-000000000000");

    let mut ws = server.ws();
    let reply = ws.request(subscribe(20, other));
    assert_eq!((&reply["recovered"], &reply["log_id"], &reply["last_id"]), (&json!(false), &json!(log), &json!(25)));
    let mut stream = server.stream(&format!("?event_name=a&log_id={other}"), &["Last-Event-ID: 20"]);
    assert_eq!(stream.header("stream-recovered"), Some("false"));
    assert_eq!(stream.header("event-log"), Some(&*log));
    assert_eq!(stream.event().1, "$sys.stream.gap");
    let polled = |query: &str| {
        let answer = server.get(&format!("/events?event_name=a&wait=10ms&{query}"));
        assert_eq!(answer.header("event-log"), Some(&*log));
        let count = answer.data().as_array().map(Vec::len);
        (answer.header("stream-recovered").expect("told").to_owned(), count.expect("a list"))
    };
    assert_eq!(polled(&format!("after=20&log_id={other}")), ("false".to_owned(), 0));
    assert_eq!(polled(&format!("after=20&log_id={log}")), ("true".to_owned(), 5));
    assert_eq!(polled("after=20"), ("true".to_owned(), 5));
    assert_eq!(polled("after=99"), ("false".to_owned(), 0));
    for log_id in ["x", ""] {
        let refused = server.get(&format!("/events?after=1&log_id={log_id}")).error(422);
        assert_eq!((&refused["code"], &refused["field"]), (&json!("invalid_parameter"), &json!("log_id")));
    }

    let id = server.publish("a", json!("new"));
    assert_eq!(ws.recv_json()["id"], id);
    assert_eq!(stream.event().0, id);
}

/// Who waits after more than there is must not wait until the log has come that far.
#[test]
fn a_long_poll_from_beyond_the_end_gets_what_comes_next() {
    let server = Server::start(Backend::Sqlite);
    publish(&server, 2);
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| server.get("/events?after=20&wait=60s"));
        eventually("it waits", || {
            let tree = server.get("/admin/actors").data();
            let children = tree["children"].as_array().cloned().unwrap_or_default();
            children.iter().any(|child| child["details"]["long_polls"] == 1).then_some(())
        });
        let id = server.publish("a", json!(1));
        let answer = poll.join().expect("an answer");
        assert_eq!(answer.header("stream-recovered"), Some("false"));
        assert_eq!(answer.data()[0]["id"], id);
    });
}

#[test]
fn a_file_that_is_swapped_under_a_running_server_under_load_gives_no_id_twice() {
    let server = Server::start(Backend::Sqlite);
    publish(&server, 10);
    let mut ws = server.ws();
    ws.request(json!({"id": 1, "action": "subscribe", "event_name": "b", "envelope": "full"}));
    let mut durable = server.ws();
    durable.request(json!({"id": 1, "action": "subscribe", "event_name": "b", "durable": "d"}));
    let backup = back_up(&server);
    let log = log_id(&server);
    // These fail where an id is given a second time.
    let publishers = Publishers::start(&server, 3);
    publishers.wait_for_acknowledged(200);
    fs::rename(&backup, database(&server)).expect("swapped");
    publishers.wait_for_refused("store_unavailable");
    publishers.wait_for_acknowledged(200);
    let published = publishers.stop();
    wait_for_status(&server, "/health/ready", 200);
    let restored = told(&server);
    assert_eq!((restored.len(), log_id(&server)), (1, log), "{restored:?}");
    let first = restored[0]["id"].as_i64().expect("an id");
    let stored: HashSet<i64> = (0..)
        .map_while(|page| {
            let query = format!("?event_name=load&limit=1000&after={}", first + page * 1000);
            Some(server.events(&query)).filter(|events| !events.is_empty())
        })
        .flatten()
        .filter_map(|event| event["id"].as_i64())
        .collect();
    let since: Vec<_> = published.acknowledged.keys().filter(|id| **id > first).collect();
    assert!(since.len() >= 200 && since.iter().all(|id| stored.contains(id)), "what was acknowledged since is there");

    // Those who were connected all the time go on.
    let id = server.publish("b", json!(1));
    assert_eq!(ws.recv_json()["id"], id);
    assert_eq!(durable.recv_json()["id"], id);
    durable.send(json!({"action": "ack", "id": id}));
    assert_eq!(durable.recv_json()["type"], "acked");
    let mut connection = SqliteConnection::establish(database(&server).to_str().expect("UTF-8")).expect("a database");
    connection.batch_execute("PRAGMA busy_timeout = 20000; REINDEX").expect("not mixed with another log");
}

#[test]
fn tail_says_that_it_is_another_log_and_goes_on() {
    let mut server = Server::start(Backend::Sqlite);
    publish(&server, 3);
    let spec = server.spec().env("PORT", server.addr().port()).arg("tail").arg("a").arg("--after").arg("0");
    let tail = Tail::start(&spec);
    tail.wait_for_lines(3);
    server.kill9();
    for entry in fs::read_dir(server.dir()).expect("a folder").flatten() {
        let _ = fs::remove_file(entry.path());
    }
    let server = server.spec().env("PORT", server.addr().port()).start();
    publish(&server, 5);
    tail.wait_until_it_says("another log");
    let id = server.publish("a", json!("new"));
    let lines = tail.wait_for_lines(4);
    assert!(lines.last().is_some_and(|line| line.contains(&id.to_string())), "{lines:?}");
}

fn on(postgres_url: &str) -> Builder {
    Server::builder().env("DATABASE_URL", postgres_url)
}

#[test]
fn a_postgres_that_is_restored_from_a_backup_under_two_running_nodes_gives_no_id_twice() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let nodes = [on(&url).start(), on(&url).start()];
    publish(&nodes[0], 10);
    let log = log_id(&nodes[0]);
    assert_eq!(log_id(&nodes[1]), log);
    postgres.back_up();
    let mut ws = nodes[1].ws();
    ws.request(json!({"id": 1, "action": "subscribe", "event_name": "a", "envelope": "full"}));
    let mut seen: HashSet<i64> = publish(&nodes[0], 10).into_iter().collect();
    // It may begin with some of the first ones: its node learns of those of the other a little later.
    eventually("the other node has them all", || (ws.recv_json()["id"] == 20).then_some(()));
    postgres.set_back();
    for node in &nodes {
        eventually("it publishes again", || {
            let answer = node.post("/publish", json!({"event_name": "a"}));
            (answer.status == 200).then(|| assert!(seen.insert(answer.event_id()), "given a second time"))
        });
    }
    for _ in 0..5 {
        nodes.iter().for_each(|node| assert!(seen.insert(node.publish("a", json!(1))), "given a second time"));
    }
    let known = told(&nodes[0]);
    assert_eq!(known[0]["payload"]["known_last_id"], 20, "{known:?}");
    assert_eq!([log_id(&nodes[0]), log_id(&nodes[1])], [log.clone(), log.clone()]);
    // Who has followed all the time goes on, over the gap.
    let followed = eventually("the newest comes", || {
        let id = ws.recv_json()["id"].as_i64();
        id.filter(|id| Some(id) == seen.iter().max())
    });
    assert!(followed > 20);
    let mut late = nodes[0].ws();
    assert_eq!(late.request(subscribe(20, &log))["recovered"], false);
    assert_eq!(late.recv_json()["id"].as_i64(), seen.iter().copied().filter(|id| *id > 20).min());
}

#[test]
fn where_a_node_that_knew_of_nothing_gave_ids_again_it_is_another_log_and_clients_come_back_to_hear_so() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let knows = on(&url).start();
    publish(&knows, 20);
    let log = log_id(&knows);
    let mut ws = knows.ws();
    ws.request(json!({"id": 1, "action": "subscribe", "event_name": "a", "envelope": "full"}));
    postgres.back_up();
    publish(&knows, 20);
    // A node that stands still while the database is set back, and another one goes on.
    knows.signal(rustix::process::Signal::STOP);
    postgres.set_back();
    let fresh = on(&url).start();
    assert_eq!(publish(&fresh, 3), [21, 22, 23]);
    knows.signal(rustix::process::Signal::CONT);
    let (close, _) = ws.recv_close();
    assert_eq!(close.map(|close| u16::from(close.code)), Some(4201), "it is to come back");
    let renamed = eventually("both say so", || {
        let (a, b) = (log_id(&knows), log_id(&fresh));
        (a == b && a != log).then_some(a)
    });
    let mut ws = fresh.ws();
    let reply = ws.request(subscribe(30, &log));
    assert_eq!((&reply["recovered"], &reply["log_id"]), (&json!(false), &json!(renamed)));
    let event = told(&fresh).pop().expect("told");
    assert_eq!((&event["payload"]["previous_log_id"], &event["payload"]["log_id"]), (&json!(log), &json!(renamed)));
    assert!(publish(&fresh, 1)[0] > 40);
}
