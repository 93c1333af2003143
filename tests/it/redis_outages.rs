//! Redis is away, starts anew, loses its data, hangs, is full, is a replica: nothing is lost, and no actor ends.

use rustix::process::Signal;
use serde_json::json;

use crate::redis_ingest::{IN, payloads, reading, wait_for_bus, wait_for_events};
use crate::support::postgres::Postgres;
use crate::support::server::{metric, wait_for_status};
use crate::support::{Backend, Redis, Server, eventually};

/// No actor has ended, and all is well again.
fn is_well(server: &Server) {
    wait_for_bus(server, "ok");
    assert_eq!(metric(server, "event_handler_bus_up "), 1.0);
    let actors = server.get("/admin/actors").json();
    let children = actors["data"]["children"].as_array().expect("children");
    assert!(children.iter().all(|child| child["restarts"] == 0), "{actors}");
    let bus = children.iter().find(|child| child["kind"] == "bus").expect("the bus");
    assert_eq!((&bus["name"], &bus["details"]["redis"]), (&json!("bus"), &json!({"status": "ok"})));
}

/// How often something of the bus was logged.
fn told(server: &Server, message: &str) -> usize {
    server.log_text().matches(&format!(r#""msg":"{message}""#)).count()
}

#[test]
fn without_redis_the_service_starts_and_says_so() {
    let mut redis = Redis::vacant(&[]);
    let server = reading(&redis, Backend::Sqlite).start();
    server.wait_for_log(|line| line["level"] == "warn" && line["msg"] == "redis is down");
    let bus = wait_for_bus(&server, "down");
    assert_eq!(bus, json!({"status": "down", "reason": "connection: cannot be reached"}));
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, metric(&server, "event_handler_bus_up ")), (200, 0.0), "{}", ready.text());
    server.publish("b", json!({}));
    let first = told(&server, "redis is down");
    assert!(first <= 2, "once for each thing that is found: {}", server.log_text());
    redis.start_again();
    is_well(&server);
    redis.add_many(IN, "a", 0..3);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), [0, 1, 2]);
    assert_eq!(told(&server, "redis is up"), 1);
}

#[test]
fn a_redis_that_was_killed_loses_nothing_with_its_data_and_without() {
    let mut redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).start();
    redis.add_many(IN, "a", 0..1000);
    redis.kill();
    redis.start_again();
    redis.add_many(IN, "a", 1000..2000);
    redis.wait_until_taken(IN);
    is_well(&server);
    redis.kill();
    redis.lose_data();
    redis.start_again();
    redis.add_many(IN, "a", 2000..3000);
    redis.wait_until_taken(IN);
    redis.run::<()>(&["FLUSHALL"]);
    redis.add_many(IN, "a", 3000..4000);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..4000).collect::<Vec<_>>(), "all, in order, and once");
    is_well(&server);
}

#[test]
fn a_redis_that_hangs_is_noticed_and_goes_on() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).start();
    is_well(&server);
    redis.add_many(IN, "a", 0..2000);
    redis.signal(Signal::STOP);
    let bus = wait_for_bus(&server, "down");
    assert!(bus["reason"].as_str().is_some_and(|reason| reason.ends_with("does not answer")), "{bus}");
    server.publish("b", json!({}));
    assert_eq!(server.get("/health/ready").status, 200);
    redis.signal(Signal::CONT);
    redis.add_many(IN, "a", 2000..3000);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..3000).collect::<Vec<_>>());
    is_well(&server);
}

#[test]
fn a_full_redis_still_gives_what_it_has() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).env("EVENT_HANDLER__REDIS__INGEST__CLAIM_AFTER", "1s").start();
    redis.add_many(IN, "a", 0..1);
    wait_for_events(&server, 1);
    let mut commands = redis::pipe();
    commands.atomic();
    for n in 1..3 {
        commands.cmd("XADD").arg(IN).arg("*").arg("event_name").arg("a").arg("payload").arg(n);
    }
    commands.cmd("XADD").arg(IN).arg("*").arg("nothing").arg("at all");
    commands.cmd("CONFIG").arg("SET").arg("maxmemory").arg(1);
    redis.run_all(&commands);
    wait_for_events(&server, 3);
    let bus = wait_for_bus(&server, "down");
    assert_eq!(bus["reason"], "ingest of what was refused: its memory is full");
    eventually("that one alone is left", || ((redis.length(IN), redis.pending(IN)) == (1, 1)).then_some(()));
    assert!(redis.try_run::<String>(&["XADD", IN, "*", "event_name", "a"]).is_err(), "it is full");
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    redis.add_many(IN, "a", 3..4);
    redis.wait_until_taken(IN);
    assert_eq!((payloads(&server, "a").len(), redis.length("events:in:dead")), (4, 1));
    is_well(&server);
}

#[test]
fn a_replica_is_told_as_one_until_it_is_promoted() {
    let (primary, redis) = (Redis::start(), Redis::start());
    let server = reading(&redis, Backend::Sqlite).start();
    is_well(&server);
    redis.run::<()>(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    eventually("it is told", || {
        let bus = server.get("/health/ready").json()["checks"]["bus"].take();
        (bus["reason"] == "ingest: is a read-only replica").then_some(())
    });
    primary.add_many(IN, "a", 0..3);
    eventually("they are replicated", || (redis.length(IN) == 3).then_some(()));
    assert!(server.events("").is_empty());
    redis.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), [0, 1, 2]);
    is_well(&server);
}

#[test]
fn a_redis_that_loads_its_data_is_waited_for() {
    let mut redis = Redis::start();
    let mut commands = redis::pipe();
    for n in 0..3000 {
        commands.cmd("SET").arg(n).arg("x".repeat(100)).ignore();
    }
    redis.run_all(&commands);
    redis.add_many(IN, "a", 0..3);
    redis.run::<String>(&["BGREWRITEAOF"]);
    eventually("it is written", || {
        let info: String = redis.run(&["INFO", "persistence"]);
        (info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")).then_some(())
    });
    redis.kill();
    // It loads for long, and answers meanwhile.
    redis.set_args(&["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]);
    redis.launch();
    let server = reading(&redis, Backend::Sqlite).start();
    eventually("it is told", || {
        let bus = server.get("/health/ready").json()["checks"]["bus"].take();
        bus["reason"].as_str().is_some_and(|reason| reason.ends_with("loads its data")).then_some(())
    });
    redis.kill();
    redis.set_args(&[]);
    redis.start_again();
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), [0, 1, 2]);
    is_well(&server);
}

#[test]
fn a_command_that_loses_its_stream_begins_anew() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).start();
    for n in 0..5 {
        redis.run::<i64>(&["DEL", IN]);
        redis.add_many(IN, "a", n..n + 1);
        wait_for_events(&server, n + 1);
    }
    redis.run::<i64>(&["DEL", IN]);
    redis.run::<()>(&["SET", IN, "no stream"]);
    eventually("it is told", || {
        let bus = server.get("/health/ready").json()["checks"]["bus"].take();
        (bus["reason"] == "ingest: a key has another type").then_some(())
    });
    redis.run::<i64>(&["DEL", IN]);
    redis.add_many(IN, "a", 5..6);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..6).collect::<Vec<_>>());
    is_well(&server);
}

#[test]
fn nothing_is_read_while_the_store_is_away() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = reading(&redis, Backend::Sqlite).env("DATABASE_URL", postgres.url()).start();
    is_well(&server);
    postgres.stop();
    wait_for_status(&server, "/health/ready", 503);
    eventually("the read that had begun is over", || {
        redis.run::<String>(&["INFO", "clients"]).contains("blocked_clients:0").then_some(())
    });
    redis.add_many(IN, "a", 0..3000);
    // Whoever publishes is refused all the while: it has been long enough to read.
    eventually("the bus is looked at", || {
        (server.get("/health/ready").json()["checks"]["bus"]["status"] == "ok").then_some(())
    });
    for _ in 0..20 {
        assert_eq!(server.post("/publish", json!({"event_name": "b"})).status, 503);
        assert_eq!((redis.pending(IN), redis.length(IN)), (0, 3000), "nobody was given anything");
    }
    postgres.start_again();
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..3000).collect::<Vec<_>>());
}

#[test]
fn a_store_that_goes_away_amid_a_stream_costs_nothing() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = reading(&redis, Backend::Sqlite).env("DATABASE_URL", postgres.url()).start();
    const COUNT: usize = 20_000;
    (0..COUNT).step_by(1000).for_each(|n| redis.add_many(IN, "a", n..n + 1000));
    wait_for_events(&server, 1);
    postgres.stop();
    postgres.start_again();
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..COUNT as i64).collect::<Vec<_>>(), "all, in order, and once");
    is_well(&server);
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_bus_that_panics_is_restarted_and_goes_on() {
    let redis = Redis::start();
    let server = reading(&redis, Backend::Sqlite).start();
    redis.add_many(IN, "a", 0..5000);
    wait_for_events(&server, 1);
    assert_eq!(server.post("/admin/fault/bus", "").status, 200);
    eventually("it is restarted", || {
        (metric(&server, r#"event_handler_actor_restarts_total{actor="bus",reason="panic"} "#) == 1.0).then_some(())
    });
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..5000).collect::<Vec<_>>());
    wait_for_bus(&server, "ok");
}
