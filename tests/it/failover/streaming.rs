//! Primaries of PostgreSQL fail and are replaced, with nothing but its streaming replication and a URL with both hosts.
//! The test promotes, as an engine or an operator would.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ids, next_publish};
use crate::support::load::{Follower, Publishers, assert_nothing_lost};
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, wait_for_status};
use crate::support::{Server, eventually};

/// A primary and a standby, and the URL of a new database with both hosts.
fn pair(is_synchronous: bool) -> ([Postgres; 2], String) {
    let primary = Postgres::start();
    let name = primary.url().rsplit('/').next().expect("a name").to_owned();
    let standby = primary.standby("b");
    if is_synchronous {
        set_synchronous(&primary, "*");
    }
    let url = url([primary.port(), standby.port()], &name);
    ([primary, standby], url)
}

fn url([first, second]: [u16; 2], database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/{database}")
}

/// Commits wait from now on for these standbys; for none if there are none.
fn set_synchronous(primary: &Postgres, names: &str) {
    primary.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
    primary.execute("SELECT pg_reload_conf()");
}

fn node(url: &str) -> Builder {
    Server::builder().env("DATABASE_URL", url)
}

#[test]
fn with_synchronous_replication_a_failover_loses_nothing_that_was_acknowledged() {
    let ([a, b], url) = pair(true);
    let nodes = [node(&url).start(), node(&url).start()];
    let followers: Vec<Follower> = nodes.iter().map(Follower::start).collect();
    let publishers: Vec<Publishers> = nodes.iter().map(|node| Publishers::start(node, 2)).collect();
    let go_on = || publishers.iter().for_each(|all| all.wait_for_acknowledged(100));
    go_on();

    // The primary dies; what had it becomes its standby.
    a.kill();
    b.promote();
    set_synchronous(&b, "");
    next_publish(&nodes[0], "the promotion after a kill");
    go_on();
    a.stream_from(&b, "a");
    set_synchronous(&b, "*");
    go_on();

    // A planned switch-over: the primary ends in good order, with all that it has at its standby.
    b.end();
    a.promote();
    set_synchronous(&a, "");
    next_publish(&nodes[1], "the promotion of a switch-over");
    go_on();
    b.stream_from(&a, "b");
    go_on();

    for (node, published) in nodes.iter().zip(publishers.into_iter().map(Publishers::stop)) {
        assert_nothing_lost(node, &published, &[]);
    }
    let last = nodes[0].publish("load", json!("last"));
    let [first, second] = [&followers[0], &followers[1]].map(|follower| follower.wait_for(last));
    assert_eq!(first, second);
    assert!(nodes[0].events("?event_name=$sys.log.restored").is_empty(), "nothing was lost");
}

/// Not after any time-out either: PostgreSQL calls it a success when the wait for a standby is cut short.
#[test]
fn no_publish_is_acknowledged_that_only_the_primary_has() {
    let ([a, b], url) = pair(true);
    let server = node(&url).env("EVENT_HANDLER__PUBLISH__COMMIT_TIMEOUT", "60s").start();
    let id = server.publish("before", json!(1));
    let frozen = b.freeze();
    let publish = std::thread::spawn({
        let request = server.request("POST", "/publish").json(json!({"event_name": "waits"}));
        move || request.send()
    });
    let begun = Instant::now();
    eventually("the commit waits for the standby", || {
        let waits = a.count("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND now() - state_change > interval '11 s'");
        assert!(!publish.is_finished() || begun.elapsed() > Duration::from_secs(30), "acknowledged too early");
        (waits > 0 && !publish.is_finished()).then_some(())
    });
    drop(frozen);
    assert_eq!(publish.join().expect("an answer").event_id(), id + 1);
}

#[test]
fn what_an_asynchronous_failover_has_lost_is_told() {
    let ([a, b], url) = pair(false);
    let read_replica = a.standby("r");
    let name = url.rsplit('/').next().expect("a name");
    let server = node(&url).env("EVENT_HANDLER__STORE__READ_URL", read_replica.url_of(name)).start();
    let kept = server.publish("a", json!("kept"));
    let log = server.get("/events").header("event-log").expect("an identity").to_owned();
    eventually("the standby has it", || {
        let there = a.count("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()");
        (there == 2).then_some(())
    });
    b.stop();
    let lost: Vec<i64> = (0..5).map(|n| server.publish("a", json!(n))).collect();
    eventually("the read replica has what will be lost", || {
        (server.get("/health/ready").json()["checks"]["replica"]["lag_events"] == 0).then_some(())
    });
    a.kill();
    b.start_again();
    b.promote();
    next_publish(&server, "a promotion");

    let told = eventually("it is told", || server.events("?event_name=$sys.log.restored").pop());
    let after = told["id"].as_i64().expect("an id");
    assert!(after > lost[4], "no id is given out twice: {after}");
    assert_eq!(told["payload"]["known_last_id"].as_i64().unwrap_or_default().max(lost[4]), lost[4], "{told}");
    assert_eq!(ids(&server, "?event_name=a"), [kept], "nor shown by a replica that has it still");
    for node in [&server, &self::node(&url).start()] {
        let resume = |after: i64| {
            let request = json!({"id": 1, "action": "subscribe", "event_name": "a", "after": after, "log_id": log});
            node.ws().request(request)["recovered"].clone()
        };
        assert_eq!([kept, lost[2], lost[4], lost[4] + 50].map(resume), [true, false, false, false].map(Value::from));
    }

    a.stream_from(&b, "a");
    let more = server.publish("a", json!("more"));
    let mut ws = server.ws();
    let reply = ws.request(
        json!({"id": 1, "action": "subscribe", "event_name": "a", "envelope": "full", "after": kept, "log_id": log}),
    );
    let next = ws.recv_json();
    assert_eq!((next["id"].as_i64(), &next["payload"]), (Some(more), &json!("more")), "{reply}");
}

/// A machine that is gone answers nothing, not even that it does not listen.
#[test]
fn a_host_that_says_nothing_costs_little() {
    let ([a, b], url) = pair(false);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let server = node(&url.replace("@", &format!("@{address},"))).start();
    wait_for_status(&server, "/health/ready", 200);
    server.publish("a", json!(1));
    eventually("the standby has it", || {
        (a.count("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()") == 1).then_some(())
    });
    a.kill();
    wait_for_status(&server, "/health/ready", 503);
    b.promote();
    next_publish(&server, "a promotion");
    assert_eq!(ids(&server, "?event_name=a").len(), 1);
}

/// An address that leads to a standby, before its promotion or by mistake, is no store that was set back.
#[test]
fn a_standby_is_not_taken_for_the_primary() {
    let ([a, b], url) = pair(false);
    let name = url.rsplit('/').next().expect("a name");
    let server = node(&b.url_of(name)).launch();
    let line = server.wait_for_log(|line| line["reason"] == "read_only");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("standby")), "{line}");
    let server = server.into_server();
    assert_eq!(server.get("/health/ready").json()["checks"]["store"]["reason"], "read_only");
    a.kill();
    b.promote();
    next_publish(&server, "a promotion");
}
