//! The mirror of all entities in Redis: it is what the store has, whatever becomes of Redis, of the nodes and of the
//! store.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::redis_ingest::wait_for_bus;
use crate::redis_pubsub_out::{by_part, wait_until_held};
use crate::state::{delete, put};
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, metric};
use crate::support::{Backend, Redis, Server, eventually, for_each_backend};

const STAND: &str = "event-handler:mirror";
type Texts = BTreeMap<String, String>;

/// A server whose entities are mirrored in `redis`, and not compared unless it is said.
pub fn mirroring(redis: &Redis, backend: Backend) -> Builder {
    let server = Server::builder().backend(backend).env("REDIS_URL", redis.url());
    let server = server.env("EVENT_HANDLER__NODE__NAME", "one").env("EVENT_HANDLER__REDIS__MIRROR__ENABLED", "true");
    server.env("EVENT_HANDLER__REDIS__MIRROR__CHECK_EVERY", "7d").env("EVENT_HANDLER__REDIS__MIRROR__RATE", "1000000")
}

fn start(builder: Builder) -> Server {
    let server = builder.start();
    wait_until_held(&server, "mirror");
    server
}

/// What the mirror has to have.
fn stored(server: &Server) -> Texts {
    let mut texts = Texts::new();
    for kind in server.get("/state").data().as_array().expect("types") {
        let kind = kind["type"].as_str().expect("a text");
        let mut after = String::new();
        loop {
            let page = server.get(&format!("/state/{kind}?limit=1000&after={after}")).data()["entities"].take();
            let Some(last) = page.as_array().expect("a list").last() else { break };
            after = last["key"].as_str().expect("a text").to_owned();
            for entity in page.as_array().into_iter().flatten() {
                let (version, value, at) = (&entity["version"], &entity["value"], &entity["updated_at"]);
                let text = format!(r#"{{"version":{version},"value":{value},"updated_at":{at}}}"#);
                texts.insert(format!("state:{kind}:{}", entity["key"].as_str().expect("a text")), text);
            }
        }
    }
    texts
}

/// What it has.
fn mirrored(redis: &Redis) -> Option<Texts> {
    let keys: Vec<String> = redis.try_run(&["KEYS", "state:*"]).ok()?;
    if keys.is_empty() {
        return Some(Texts::new());
    }
    let command: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let texts: Vec<Option<String>> = redis.try_run(&command).ok()?;
    Some(keys.iter().cloned().zip(texts).filter_map(|(key, text)| Some((key, text?))).collect())
}

/// Waits until the mirror is what the store has, and returns that.
fn wait_until_equal(server: &Server, redis: &Redis) -> Texts {
    let stored = stored(server);
    eventually("the mirror is what the store has", || (mirrored(redis)? == stored).then_some(()));
    stored
}

/// Waits until nothing is left to do but to follow the log.
fn wait_until_built(redis: &Redis) {
    let todo = || redis.try_run::<String>(&["HGET", STAND, "todo"]);
    eventually("it is built", || todo().is_ok_and(|todo| todo.is_empty()).then_some(()));
}

/// Changes these entities of a type, all at once.
fn put_many(server: &Server, kind: &str, keys: std::ops::Range<usize>, value: &Value) {
    for keys in keys.collect::<Vec<_>>().chunks(500) {
        let change = |key: &usize| json!({"event_name": "e", "entity": {"type": kind, "key": format!("k{key}"), "value": value}});
        let events: Vec<Value> = keys.iter().map(change).collect();
        let answer = server.post("/publish/batch", json!(events));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn rebuilt(server: &Server, reason: &str) -> f64 {
    metric(server, &format!(r#"event_handler_mirror_rebuilt_total{{reason="{reason}"}} "#))
}

#[test]
fn the_mirror_has_the_newest_value_of_each_entity() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let mut server = Server::start(backend);
        put(&server, "auction/before", r#"{ "bid" : 1e400 }"#, &[]);
        put_many(&server, "lot", 0..1200, &json!({"n": 1}));
        server.kill9();
        let spec = server.spec().env("REDIS_URL", redis.url()).env("EVENT_HANDLER__REDIS__MIRROR__ENABLED", "true");
        let server = start(spec);
        let text = eventually("it is filled", || redis.try_run::<String>(&["GET", "state:auction:before"]).ok());
        let told = server.get("/state/auction/before");
        let rest = told.text().split_once(r#""key":"before","#).expect("an entity").1;
        assert_eq!(format!("{{{rest}"), text + "}", "to the letter");
        delete(&server, "auction/before", &[]);
        for (path, value) in
            [("auction/a%2Fb:c", json!(1)), ("auction/ä", json!("ü")), ("bid/x", json!({"a": [1, null]}))]
        {
            put(&server, path, value, &[]);
        }
        put(&server, "bid/x", json!(false), &[]);
        let texts = wait_until_equal(&server, &redis);
        assert!(texts.len() == 1203 && texts.contains_key("state:auction:a/b:c"), "{texts:?}");
        delete(&server, "bid/x", &[]);
        put_many(&server, "lot", 0..1200, &json!("x".repeat(3000)));
        server.publish("last", json!(1));
        wait_until_equal(&server, &redis);
        eventually("the position stands beside the data", || {
            let position: i64 = redis.run(&["HGET", STAND, "position"]);
            (metric(&server, "event_handler_log_last_id ") == position as f64).then_some(())
        });
        assert_eq!(wait_for_bus(&server, "ok"), json!({"status": "ok"}));
    });
}

#[test]
fn a_newer_version_is_never_replaced_by_an_older_one() {
    let redis = Redis::start();
    let server = start(mirroring(&redis, Backend::Sqlite));
    put(&server, "a/1", 1, &[]);
    wait_until_equal(&server, &redis);
    // It was not filled: what is written now follows the log.
    wait_until_built(&redis);
    for newer in [r#"{"version":10000000,"value":2,"updated_at":"x"}"#, r#"{"version":9,"value":2,"updated_at":"x"}"#] {
        redis.run::<()>(&["SET", "state:a:1", newer]);
        put(&server, "a/1", 3, &[]);
        delete(&server, "a/1", &[]);
        put(&server, "a/other", 1, &[]);
        let other = stored(&server)["state:a:other"].clone();
        eventually("what came later is there", || {
            (redis.try_run::<String>(&["GET", "state:a:other"]).ok()? == other).then_some(())
        });
        assert_eq!(redis.run::<String>(&["GET", "state:a:1"]), newer);
        redis.run::<()>(&["DEL", "state:a:1"]);
    }
}

#[test]
fn it_is_filled_anew_when_redis_has_lost_it() {
    for_each_backend(|backend| {
        let mut redis = Redis::start();
        let server = start(mirroring(&redis, backend));
        for kind in ["a", "b"] {
            put_many(&server, kind, 0..1500, &json!(kind));
        }
        wait_until_equal(&server, &redis);
        redis.run::<()>(&["FLUSHALL"]);
        let filled = wait_until_equal(&server, &redis);
        assert_eq!(filled.len(), 3000);
        assert_eq!(rebuilt(&server, "empty"), 2.0);
        // While it is being written.
        let changes = std::thread::scope(|scope| {
            let writer =
                scope.spawn(|| (0..10).for_each(|n| put_many(&server, "a", n * 100..n * 100 + 300, &json!(n))));
            while !writer.is_finished() {
                redis.run::<()>(&["FLUSHALL"]);
                std::thread::yield_now();
            }
            writer.join()
        });
        changes.expect("all are stored");
        wait_until_equal(&server, &redis);
        redis.kill();
        redis.lose_data();
        put_many(&server, "c", 0..10, &json!(1));
        wait_for_bus(&server, "down");
        redis.start_again();
        wait_until_equal(&server, &redis);
        wait_for_bus(&server, "ok");
    });
}

/// What another log has left is replaced though its versions are greater, and removed.
#[test]
fn the_mirror_of_another_log_is_rebuilt() {
    let redis = Redis::start();
    let mut first = start(mirroring(&redis, Backend::Sqlite));
    put_many(&first, "a", 0..600, &json!("old"));
    put_many(&first, "gone", 0..600, &json!("old"));
    put_many(&first, "a", 0..600, &json!("newer"));
    wait_until_equal(&first, &redis);
    first.kill9();
    redis.run::<()>(&["SET", "state:session:1", "somebody else's"]);
    redis.run::<()>(&["HSET", "state:other:1", "a", "hash"]);
    let mut second = Server::start(Backend::Sqlite);
    put_many(&second, "a", 300..310, &json!("of another log"));
    second.kill9();
    let spec = second.spec().env("REDIS_URL", redis.url()).env("EVENT_HANDLER__REDIS__MIRROR__ENABLED", "true");
    let second = start(spec);
    put(&second, "a/k301", json!("newest"), &[]);
    let mut stored = stored(&second);
    stored.insert("state:session:1".to_owned(), "somebody else's".to_owned());
    eventually("what it left is gone", || (mirrored(&redis)? == stored).then_some(()));
    assert_eq!(redis.run::<String>(&["HGET", "state:other:1", "a"]), "hash");
    assert_eq!(rebuilt(&second, "another_log"), 1.0);
    wait_for_bus(&second, "ok");
}

#[test]
fn a_store_that_was_set_back_is_mirrored_as_it_is_now() {
    let redis = Redis::start();
    let mut server = start(mirroring(&redis, Backend::Sqlite));
    put_many(&server, "a", 0..300, &json!("kept"));
    server.terminate();
    let (file, copy) = (server.dir().join("events.db"), server.dir().join("backup.db"));
    fs::copy(&file, &copy).expect("copied");
    server.restart();
    put_many(&server, "a", 100..400, &json!("lost"));
    delete(&server, "a/k1", &[]);
    wait_until_equal(&server, &redis);
    server.kill9();
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        let _ = fs::remove_file(server.dir().join(name));
    }
    fs::copy(&copy, &file).expect("copied");
    server.restart();
    put(&server, "b/1", 1, &[]);
    assert_eq!(wait_until_equal(&server, &redis).len(), 301);
}

#[test]
fn what_was_altered_by_hand_is_mended() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let server = start(mirroring(&redis, backend).env("EVENT_HANDLER__REDIS__MIRROR__CHECK_EVERY", "1s"));
        put_many(&server, "a", 0..2000, &json!("x"));
        put_many(&server, "b", 0..5, &json!("x"));
        delete(&server, "a/k5", &[]);
        wait_until_equal(&server, &redis);
        redis.run::<()>(&["SET", "state:session:1", "somebody else's"]);
        redis.run::<()>(&["DEL", "state:a:k1", "state:b:k1"]);
        for key in ["state:a:k2", "state:a:k5", "state:a:never", "state:unknown:1"] {
            redis.run::<()>(&["SET", key, r#"{"version":900000,"value":1,"updated_at":"x"}"#]);
        }
        redis.run::<()>(&["SET", "state:a:k3", "?"]);
        let mut all = stored(&server);
        all.insert("state:session:1".to_owned(), "somebody else's".to_owned());
        eventually("it is mended", || (mirrored(&redis)? == all).then_some(()));
        let mended = |flaw: &str| metric(&server, &format!(r#"event_handler_mirror_mended_total{{flaw="{flaw}"}} "#));
        assert_eq!(["missing", "altered", "extra"].map(mended), [2.0, 2.0, 3.0]);
        // A key that is in use is left alone, and told.
        redis.run::<()>(&["DEL", "state:a:k7"]);
        redis.run::<()>(&["HSET", "state:a:k7", "a", "hash"]);
        put(&server, "a/k7", json!("y"), &[]);
        assert_eq!(wait_for_bus(&server, "down")["reason"], "mirror keys: a key has another type");
        put(&server, "a/k8", json!("y"), &[]);
        let text = stored(&server)["state:a:k8"].clone();
        eventually("all else goes on", || (redis.run::<String>(&["GET", "state:a:k8"]) == text).then_some(()));
        redis.run::<()>(&["DEL", "state:a:k7"]);
        let text = stored(&server)["state:a:k7"].clone();
        eventually("it is there", || (redis.try_run::<String>(&["GET", "state:a:k7"]).ok()? == text).then_some(()));
        wait_for_bus(&server, "ok");
    });
}

/// Comparisons in the middle of traffic find nothing to mend.
#[test]
fn changes_on_their_way_are_no_flaws() {
    for_each_backend(|backend| {
        let redis = Redis::start();
        let server = start(mirroring(&redis, backend).env("EVENT_HANDLER__REDIS__MIRROR__CHECK_EVERY", "1s"));
        for round in 0..40 {
            put_many(&server, "a", round * 20..round * 20 + 400, &json!(round));
            (0..10).for_each(|n| drop(delete(&server, &format!("a/k{}", round * 20 + n * 7), &[])));
        }
        wait_until_equal(&server, &redis);
        assert!(!server.get("/metrics").text().contains("event_handler_mirror_mended_total{"), "there was no flaw");
    });
}

#[test]
fn another_node_goes_on_and_the_one_before_changes_nothing() {
    let redis = Redis::start();
    let url = Postgres::shared().url();
    let node = |name| {
        let node = mirroring(&redis, Backend::Sqlite).env("DATABASE_URL", &url).env("EVENT_HANDLER__NODE__NAME", name);
        node.start()
    };
    let (mut holder, other) = by_part(["one", "two"].map(node), "mirror");
    put_many(&other, "a", 0..1000, &json!(1));
    put_many(&holder, "a", 500..1500, &json!(2));
    holder.kill9();
    put_many(&other, "a", 0..700, &json!(3));
    wait_until_equal(&other, &redis);
    holder.restart();
    // One that is frozen amid it.
    let (holder, other) = by_part([holder, other], "mirror");
    put_many(&other, "a", 0..2000, &json!(4));
    holder.signal(Signal::STOP);
    (0..2000).step_by(50).for_each(|n| drop(delete(&other, &format!("a/k{n}"), &[])));
    let written = wait_until_equal(&other, &redis);
    holder.signal(Signal::CONT);
    wait_for_bus(&holder, "ok");
    assert_eq!(mirrored(&redis), Some(written));
    assert_eq!(redis.run::<String>(&["HGET", STAND, "todo"]), "", "it goes on, and is not filled anew");
    assert_eq!(rebuilt(&other, "empty") + rebuilt(&holder, "empty"), 0.0);
}

#[test]
fn a_mirror_that_was_half_filled_is_filled_on() {
    let redis = Redis::start();
    let mut server = Server::start(Backend::Sqlite);
    ["a", "b", "c"].iter().for_each(|kind| put_many(&server, kind, 0..1000, &json!(1)));
    server.kill9();
    let spec = server.spec().env("REDIS_URL", redis.url()).env("EVENT_HANDLER__REDIS__MIRROR__ENABLED", "true");
    let mut server = start(spec.env("EVENT_HANDLER__REDIS__MIRROR__RATE", "500"));
    eventually("some are there", || (mirrored(&redis)?.len() > 1000).then_some(()));
    // Live changes do not wait for it.
    put(&server, "c/z", 1, &[]);
    eventually("it is there", || redis.try_run::<String>(&["GET", "state:c:z"]).ok());
    assert!(mirrored(&redis).expect("texts").len() < 3001, "it is not full yet");
    server.kill9();
    let mut server = start(server.spec().env("EVENT_HANDLER__REDIS__MIRROR__RATE", "1000000"));
    assert_eq!(wait_until_equal(&server, &redis).len(), 3001);
    assert!(!server.get("/metrics").text().contains("event_handler_mirror_rebuilt_total{"), "it was not begun anew");
    assert!(server.terminate().success());
}

/// As when a replica that lags takes over: the position goes back with the data.
#[test]
fn a_redis_that_was_set_back_is_followed_on_from_there() {
    let mut redis = Redis::start();
    let server = start(mirroring(&redis, Backend::Sqlite));
    put_many(&server, "a", 0..300, &json!(1));
    wait_until_equal(&server, &redis);
    wait_until_built(&redis);
    redis.kill();
    let (data, copy) = (redis.dir().join("appendonlydir"), redis.dir().join("copy"));
    let copy_of = |from: &Path, to: &Path| {
        fs::create_dir_all(to).expect("a folder");
        for file in fs::read_dir(from).expect("a folder") {
            let file = file.expect("a file");
            fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    };
    copy_of(&data, &copy);
    redis.start_again();
    put_many(&server, "a", 100..400, &json!(2));
    delete(&server, "a/k1", &[]);
    wait_until_equal(&server, &redis);
    redis.kill();
    redis.lose_data();
    copy_of(&copy, &data);
    redis.start_again();
    assert_eq!(wait_until_equal(&server, &redis).len(), 399);
    // It is noticed too when the connection leads to another server all at once.
    let position: i64 = redis.run(&["HGET", STAND, "position"]);
    redis.run::<()>(&["HSET", STAND, "position", &(position - 10).to_string()]);
    redis.run::<()>(&["DEL", "state:a:k399"]);
    wait_until_equal(&server, &redis);
    assert_eq!(rebuilt(&server, "empty"), 1.0, "once, in the beginning");
}

/// Only one may write, and it is the one that has taken the mirror over last.
#[test]
fn what_does_not_continue_the_mirror_is_refused() {
    let redis = Redis::start();
    let server = start(mirroring(&redis, Backend::Sqlite));
    put(&server, "a/1", 1, &[]);
    wait_until_equal(&server, &redis);
    redis.run::<()>(&["HSET", STAND, "writer", "another"]);
    put(&server, "a/2", 1, &[]);
    server.wait_for_log(|line| {
        line["part"] == "mirror" && line["error"].as_str().is_some_and(|e| e.contains("somebody else"))
    });
    wait_until_equal(&server, &redis);
    assert_ne!(redis.run::<String>(&["HGET", STAND, "writer"]), "another", "it was taken over again");
    wait_for_bus(&server, "ok");
}

#[test]
fn a_redis_that_is_full_or_a_replica_or_hangs_gets_all_of_it_afterwards() {
    let redis = Redis::start();
    let server = start(mirroring(&redis, Backend::Sqlite));
    put_many(&server, "a", 0..100, &json!(1));
    wait_until_equal(&server, &redis);
    let outage = |begin: &[&str], end: &[&str], reason: &str, value: i64| {
        redis.run::<()>(begin);
        put_many(&server, "a", 50..150, &json!(value));
        delete(&server, "a/k1", &[]);
        eventually("it is told", || {
            let bus = wait_for_bus(&server, "down");
            bus["reason"].as_str()?.contains(reason).then_some(())
        });
        redis.run::<()>(end);
        wait_until_equal(&server, &redis);
        wait_for_bus(&server, "ok");
    };
    let memory = |bytes: &'static str| ["CONFIG", "SET", "maxmemory", bytes];
    outage(&memory("1"), &memory("0"), "its memory is full", 2);
    outage(&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"], "is a read-only replica", 3);
    redis.signal(Signal::STOP);
    put_many(&server, "a", 0..150, &json!(4));
    wait_for_bus(&server, "down");
    redis.signal(Signal::CONT);
    wait_until_equal(&server, &redis);
    assert_eq!(rebuilt(&server, "empty"), 1.0, "once, in the beginning");
}

#[test]
fn retention_waits_for_the_mirror_and_says_so_but_not_for_ever() {
    let mut redis = Redis::start();
    let keep = |builder: Builder, hold| {
        let builder = builder.env("EVENT_HANDLER__RETENTION__MAX_EVENTS", "100");
        builder.env("EVENT_HANDLER__REDIS__MIRROR__HOLD_RETENTION", hold)
    };
    let mut server = start(keep(mirroring(&redis, Backend::Sqlite), "1h"));
    put_many(&server, "a", 0..10, &json!(1));
    wait_until_equal(&server, &redis);
    redis.kill();
    put_many(&server, "a", 5..1000, &json!(2));
    let retention = |server: &Server| server.get("/health/ready").json()["checks"]["retention"].take();
    eventually("it is told", || (retention(&server)["status"] == "waits").then_some(()));
    assert_eq!(server.get("/health/ready").status, 200);
    assert!(metric(&server, "event_handler_log_earliest_id ") < 30.0, "they are kept");
    redis.start_again();
    wait_until_equal(&server, &redis);
    eventually("they are removed", || (metric(&server, "event_handler_log_earliest_id ") > 1800.0).then_some(()));
    eventually("nothing waits", || retention(&server).is_null().then_some(()));
    assert_eq!(rebuilt(&server, "empty"), 1.0);
    redis.kill();
    server.kill9();
    let server = keep(server.spec(), "0s").start();
    delete(&server, "a/k1", &[]);
    put_many(&server, "a", 500..1500, &json!(3));
    eventually("they are removed", || (metric(&server, "event_handler_log_earliest_id ") > 3000.0).then_some(()));
    redis.start_again();
    wait_until_equal(&server, &redis);
    assert_eq!(rebuilt(&server, "trimmed"), 1.0);
}
