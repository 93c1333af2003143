//! A store that was set back while no node ran is known as such by what Redis remembers.

use std::fs;

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use serde_json::{Value, json};

use crate::redis_ingest::{reading, wait_for_bus};
use crate::support::postgres::Postgres;
use crate::support::{Backend, Redis, Server, eventually};

fn log_id(server: &Server) -> String {
    server.get("/events").header("event-log").expect("an identity").to_owned()
}

fn told(server: &Server) -> Vec<Value> {
    server.events("?event_name=$sys.log.restored")
}

fn publish(server: &Server, count: usize) -> Vec<i64> {
    (0..count).map(|_| server.publish("a", json!("x"))).collect()
}

fn key(server: &Server) -> String {
    format!("event-handler:{}:newest", log_id(server))
}

/// What Redis remembers: the id, and the whole text.
fn remembered(redis: &Redis, key: &str) -> Option<(i64, String)> {
    let text: Option<String> = redis.run(&["GET", key]);
    text.map(|text| (text.split(' ').next().and_then(|id| id.parse().ok()).unwrap_or(-1), text))
}

fn wait_until_remembered(redis: &Redis, key: &str, id: i64) {
    eventually(&format!("{id} is remembered"), || remembered(redis, key).filter(|(last, _)| *last == id));
}

/// A copy of the SQLite file of a running server.
fn back_up(server: &Server) {
    let path = server.dir().join("events.db");
    let mut connection = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
    connection.batch_execute(&format!("VACUUM INTO '{}'", server.dir().join("backup").display())).expect("a copy");
}

/// The copy in the place of the file, and nothing else that would tell of it.
fn put_back(server: &Server) {
    for name in ["events.db", "events.db-wal", "events.db-shm", ".events.db.mark"] {
        let _ = fs::remove_file(server.dir().join(name));
    }
    fs::copy(server.dir().join("backup"), server.dir().join("events.db")).expect("copied");
}

#[test]
fn a_file_that_was_put_back_at_rest_is_known_by_redis_alone() {
    for is_terminated in [true, false] {
        let redis = Redis::start();
        let mut server = reading(&redis, Backend::Sqlite).start();
        publish(&server, 10);
        back_up(&server);
        assert_eq!(publish(&server, 10).last(), Some(&20));
        let (log, key) = (log_id(&server), key(&server));
        if is_terminated {
            assert!(server.terminate().success());
            assert_eq!(remembered(&redis, &key).map(|(last, _)| last), Some(20), "at its end it says so");
        } else {
            wait_until_remembered(&redis, &key, 20);
            server.kill9();
        }
        put_back(&server);
        server.restart();
        let first = publish(&server, 1)[0];
        let restored = told(&server);
        assert_eq!(restored.len(), 1, "{restored:?}");
        assert_eq!(restored[0]["payload"]["known_last_id"], 20, "{restored:?}");
        assert!(restored[0]["id"].as_i64().is_some_and(|id| id > 20 && id < first), "{restored:?}");
        assert_eq!(log_id(&server), log, "its ids still name one event each");
        // It is told once.
        server.restart();
        assert_eq!((publish(&server, 1)[0], told(&server).len()), (first + 1, 1));
    }
}

#[test]
fn a_database_that_was_restored_while_no_node_ran_is_known_by_redis_alone() {
    let (postgres, redis) = (Postgres::start(), Redis::start());
    let url = postgres.url();
    let mut nodes = ["one", "two"].map(|name| {
        let node = reading(&redis, Backend::Sqlite).env("DATABASE_URL", &url);
        node.env("EVENT_HANDLER__NODE__NAME", name).start()
    });
    publish(&nodes[0], 10);
    postgres.back_up();
    assert_eq!(publish(&nodes[0], 10).last(), Some(&20));
    wait_until_remembered(&redis, &key(&nodes[0]), 20);
    nodes.iter_mut().for_each(Server::kill9);
    postgres.set_back();
    nodes.iter_mut().for_each(Server::restart);
    assert!(publish(&nodes[1], 1)[0] > 20);
    let restored = told(&nodes[0]);
    assert_eq!((restored.len(), &restored[0]["payload"]["known_last_id"]), (1, &json!(20)), "{restored:?}");
}

#[test]
fn without_redis_the_start_goes_on_and_what_it_remembers_is_noticed_later() {
    for is_hanging in [true, false] {
        let mut redis = Redis::start();
        let mut server = reading(&redis, Backend::Sqlite).start();
        publish(&server, 10);
        back_up(&server);
        publish(&server, 10);
        let log = log_id(&server);
        assert!(server.terminate().success());
        put_back(&server);
        if is_hanging {
            redis.signal(rustix::process::Signal::STOP);
        } else {
            redis.kill();
        }
        let begin = std::time::Instant::now();
        server.restart();
        assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
        server
            .wait_for_log(|line| line["msg"].as_str().is_some_and(|msg| msg.starts_with("redis does not say how far")));
        assert_eq!(publish(&server, 15).last(), Some(&25), "it cannot know");
        if is_hanging {
            redis.signal(rustix::process::Signal::CONT);
        } else {
            redis.start_again();
        }
        let restored = eventually("it is noticed", || told(&server).pop());
        eventually("ids name two events, so it is another log", || (log_id(&server) != log).then_some(()));
        assert_eq!(restored["payload"]["previous_log_id"], log, "{restored}");
        assert!(publish(&server, 1)[0] > 25);
        wait_for_bus(&server, "ok");
    }
}

#[test]
fn an_empty_redis_or_one_that_lies_changes_nothing() {
    let redis = Redis::start();
    let mut server = reading(&redis, Backend::Sqlite).start();
    publish(&server, 10);
    let key = key(&server);
    wait_until_remembered(&redis, &key, 10);
    redis.run::<()>(&["FLUSHALL"]);
    wait_until_remembered(&redis, &key, 10);
    let (_, text) = remembered(&redis, &key).expect("text");
    for lie in [text.replacen("010 ", "999 ", 1), "zzz".to_owned(), String::new(), "9".repeat(1000)] {
        server.kill9();
        redis.run::<()>(&["SET", &key, &lie]);
        server.restart();
        wait_until_remembered(&redis, &key, 10);
    }
    server.kill9();
    redis.run::<()>(&["DEL", &key]);
    redis.run::<()>(&["LPUSH", &key, "x"]);
    server.restart();
    let reason = wait_for_bus(&server, "down")["reason"].take();
    assert_eq!(reason, "newest event: a key has another type");
    assert_eq!((publish(&server, 1), told(&server).len()), (vec![11], 0));
}
