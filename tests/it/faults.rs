//! Parts that panic under load: they come back, and nothing acknowledged is lost. Needs the feature `fault-injection`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::load::{EVENT_NAME, Follower, Publishers, assert_nothing_lost};
use crate::support::server::{Builder, metric, wait_for_status};
use crate::support::{Backend, Server, eventually, for_each_backend};

const PUBLISHERS: usize = 4;
const ROUNDS: u64 = 4;

/// Two workers, and so two shards; restarts without much ado.
fn builder(backend: Backend) -> Builder {
    Server::builder()
        .backend(backend)
        .env("EVENT_HANDLER__SERVER__WORKERS", 2)
        .env("EVENT_HANDLER__SUPERVISION__BACKOFF", "20ms")
        .env("EVENT_HANDLER__SUPERVISION__BACKOFF_CAP", "100ms")
        .env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", 20)
}

#[test]
fn sessions_do_not_notice_that_the_writer_or_the_router_fails() {
    for_each_backend(|backend| {
        let server = builder(backend).start();
        let followers = [(); 4].map(|()| Follower::start(&server));
        let publishers = Publishers::start(&server, PUBLISHERS);
        for round in 1..=ROUNDS {
            for actor in ["persistence", "router"] {
                publishers.wait_for_acknowledged(50);
                inject(&server, actor);
                wait_for_restarts(&server, actor, round);
            }
        }
        publishers.wait_for_acknowledged(50);
        let published = publishers.stop();
        assert_nothing_lost(&server, &published, &followers);
        for follower in &followers {
            assert_eq!(follower.closes(), [] as [u16; 0]);
        }
        assert_routed(&server, &followers);
        assert_restarts_are_visible(&server, "persistence", "persistence", ROUNDS);
        assert_restarts_are_visible(&server, "router", "router", ROUNDS);
    });
}

#[test]
fn a_new_writer_makes_no_new_file_in_place_of_a_lost_one() {
    let server = builder(Backend::Sqlite).start();
    server.publish("a", json!({}));
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        std::fs::remove_file(server.dir().join(name)).expect("a file");
    }
    inject(&server, "persistence");
    wait_for_restarts(&server, "persistence", 1);
    eventually("the new writer has looked", || server.log_text().contains("is gone").then_some(()));
    wait_for_status(&server, "/health/ready", 503);
    assert_eq!(server.post("/publish", json!({"event_name": "a"})).error(503)["code"], "store_unavailable");
    assert!(!server.dir().join("events.db").exists());
}

/// While a shard reads what the failed router took along, batches go on arriving.
#[test]
fn no_event_falls_between_a_gap_and_what_is_live() {
    for_each_backend(|backend| {
        let server = builder(backend).env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", 1000).start();
        let followers = [(); 2].map(|()| Follower::start(&server));
        let publishers = Publishers::start_at(&server, 8, Duration::ZERO);
        for round in 1..=25 {
            publishers.wait_for_acknowledged(20);
            inject(&server, "router");
            wait_for_restarts(&server, "router", round);
        }
        let published = publishers.stop();
        assert_eq!(published.refused, [].into(), "publishers do not need the router");
        assert_nothing_lost(&server, &published, &followers);
        assert!(metric(&server, "event_handler_shard_gaps_total") > 0.0, "the case occurred");
    });
}

#[test]
fn sessions_of_a_failed_shard_are_sent_back_and_miss_nothing() {
    for_each_backend(|backend| {
        let server = builder(backend).start();
        let followers: Vec<_> = (0..6).map(|_| Follower::start(&server)).collect();
        let publishers = Publishers::start(&server, PUBLISHERS);
        let mut expected: Vec<Vec<u16>> = vec![Vec::new(); followers.len()];
        for round in 1..=ROUNDS {
            publishers.wait_for_acknowledged(50);
            let on_shard = peers_of_shard_0(&server);
            inject(&server, "shard");
            wait_for_restarts(&server, "shard/0", round);
            for (follower, expected) in followers.iter().zip(&mut expected) {
                if on_shard.contains(&follower.peer()) || follower.closes().len() > expected.len() {
                    expected.push(4201);
                }
                eventually("a closed subscriber is back", || (follower.closes() == *expected).then_some(()));
            }
        }
        assert!(expected.iter().any(|closes| !closes.is_empty()), "somebody was on the shard");
        publishers.wait_for_acknowledged(50);
        let published = publishers.stop();
        assert_eq!(published.refused, [].into(), "publishers do not need the shard");
        assert_nothing_lost(&server, &published, &followers);
        for (follower, expected) in followers.iter().zip(&expected) {
            assert_eq!(follower.closes(), *expected);
        }
        let closes = expected.iter().flatten().count() as f64;
        assert_eq!(metric(&server, "event_handler_closes_total{code=\"4201\"} "), closes);
        // The others may all have gone to the other shard.
        let mut late = Vec::new();
        eventually("somebody is on the shard again", || {
            // Two in a row are on two shards: connections go to the workers in turn.
            late.extend([(); 2].map(|()| Follower::start(&server)));
            let on_shard = peers_of_shard_0(&server);
            late.iter().any(|follower| on_shard.contains(&follower.peer())).then_some(())
        });
        assert_routed(&server, &late);
        assert_restarts_are_visible(&server, "shard/0", "shard", ROUNDS);
    });
}

#[test]
fn a_failed_session_concerns_nobody_else() {
    let server = builder(Backend::Sqlite).start();
    let followers = [(); 4].map(|()| Follower::start(&server));
    let publishers = Publishers::start(&server, PUBLISHERS);
    for _ in 0..8 {
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "nobody", "id": 1}));
        publishers.wait_for_acknowledged(20);
        ws.send(json!({"action": "panic"}));
        let (close, frames) = ws.recv_close();
        assert_eq!((close.map(|c| u16::from(c.code)), frames), (Some(4103), Vec::new()));
    }
    let published = publishers.stop();
    assert_eq!(published.refused, [].into());
    assert_nothing_lost(&server, &published, &followers);
    for follower in &followers {
        assert_eq!(follower.closes(), [] as [u16; 0]);
    }
    let sessions = || server.get("/admin/sessions").data().as_array().map_or(0, Vec::len);
    eventually("the failed sessions are gone", || (sessions() == followers.len()).then_some(()));
    assert_eq!(metric(&server, r#"event_handler_closes_total{code="4103"}"#), 8.0);
}

/// Whatever kinds of actors there are: a new one is tested by being in the tree.
#[test]
fn every_supervised_actor_is_restarted_and_at_work_again() {
    let server = builder(Backend::Sqlite).env("EVENT_HANDLER__SERVICES__CRM__URL", "http://127.0.0.1:9").start();
    let tree = server.get("/admin/actors").data();
    let children = tree["children"].as_array().expect("children").iter();
    let first_of_each: std::collections::BTreeMap<_, _> =
        children.rev().map(|child| (child["kind"].as_str().expect("a kind"), &child["name"])).collect();
    assert!(
        ["client", "durables", "persistence", "router", "shard"].iter().all(|kind| first_of_each.contains_key(kind))
    );
    for (kind, name) in first_of_each {
        let name = name.as_str().expect("a name");
        let mailbox = report_of(&server, name)["mailbox"]["capacity"].clone();
        inject(&server, kind);
        wait_for_restarts(&server, name, 1);
        assert_restarts_are_visible(&server, name, kind, 1);
        assert_eq!(report_of(&server, name)["mailbox"]["capacity"], mailbox);
        server.publish("a", json!({}));
    }
}

#[test]
fn a_part_that_fails_too_often_ends_the_process() {
    for actor in ["persistence", "router", "durables", "shard"] {
        let mut server = builder(Backend::Sqlite).env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", 2).start();
        for round in 1..=2 {
            inject(&server, actor);
            wait_for_restarts(&server, if actor == "shard" { "shard/0" } else { actor }, round);
        }
        assert_eq!(server.publish("a", json!({})), 1, "two restarts are allowed");
        let _ = server.request("POST", &format!("/admin/fault/{actor}")).try_send();
        assert_eq!(server.wait_for_exit().code(), Some(70), "{}", server.log_text());
        server.wait_for_log(|line| line["level"] == "error" && line.to_string().contains("max_restarts"));
        server.restart();
        assert_eq!(server.events("")[0]["id"], 1);
    }
}

#[test]
fn a_failed_supervisor_ends_the_process() {
    let mut server = builder(Backend::Sqlite).start();
    let id = server.publish("a", json!({}));
    let _ = server.request("POST", "/admin/fault/supervisor").try_send();
    assert_eq!(server.wait_for_exit().code(), Some(70), "{}", server.log_text());
    server.wait_for_log(|line| line["level"] == "error" && line.to_string().contains("supervisor"));
    server.restart();
    assert_eq!(server.events("")[0]["id"], id);
}

fn inject(server: &Server, actor: &str) {
    server.post(&format!("/admin/fault/{actor}"), "").data();
}

/// Waits until `actor` has been restarted so often, and runs again.
fn wait_for_restarts(server: &Server, actor: &str, restarts: u64) {
    eventually(&format!("{actor} is restarted {restarts} times"), || {
        let report = report_of(server, actor);
        let back = report["restarts"] == restarts && report["state"] == "running" && !report["details"].is_null();
        back.then_some(())
    });
}

fn report_of(server: &Server, actor: &str) -> Value {
    let tree = server.get("/admin/actors").data();
    let children = tree["children"].as_array().expect("children");
    children.iter().find(|child| child["name"] == actor).cloned().unwrap_or_default()
}

fn assert_restarts_are_visible(server: &Server, actor: &str, kind: &str, restarts: u64) {
    wait_for_status(server, "/health/ready", 200);
    assert_eq!(report_of(server, actor)["restarts"], restarts);
    let panic = server.wait_for_log(|line| line["msg"].as_str().is_some_and(|msg| msg.starts_with("panicked: ")));
    assert!(panic["backtrace"].is_null(), "only with RUST_BACKTRACE: {panic}");
    let name = format!(r#"event_handler_actor_restarts_total{{actor="{kind}",reason="panic"}}"#);
    assert_eq!(metric(server, &name), restarts as f64);
    server.wait_for_log(|line| line["level"] == "error" && line.to_string().contains(&format!("{actor:?}")));
}

/// What is published reaches the shards by way of the router again: they would find it in the store too, but later.
fn assert_routed(server: &Server, followers: &[Follower]) {
    let publish = || {
        let id = server.publish(EVENT_NAME, json!("routed"));
        followers.iter().for_each(|follower| drop(follower.wait_for(id)));
    };
    // On a busy machine a batch may come too late.
    let is_routed = (0..3).any(|_| {
        publish();
        let gaps = || metric(server, "event_handler_shard_gaps_total");
        let before = gaps();
        (0..5).for_each(|_| publish());
        gaps() == before
    });
    assert!(is_routed, "the shards read everything from the store");
}

fn peers_of_shard_0(server: &Server) -> Vec<SocketAddr> {
    let sessions = server.get("/admin/sessions").data();
    let of_shard = sessions.as_array().expect("a list").iter().filter(|session| session["shard"] == 0);
    of_shard.map(|session| session["peer"].as_str().and_then(|p| p.parse().ok()).expect("an address")).collect()
}
