//! Crashes at every boundary between what is decided, stored, sent and answered.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Participant, SETTLE, becomes, configured, ended, server, shown, steps, told};
use crate::support::backend::for_each_backend;
use crate::support::postgres::Postgres;
use crate::support::{Answer, Backend, Server, eventually};

const POINTS: [&str; 4] = ["saga_killed_before", "saga_killed_after", "call_killed_before", "call_killed_after"];

/// Publishes to a server that may be killed at any time, under a key.
fn publish(server: &mut Server, name: &str, payload: &serde_json::Value, key: &str) {
    eventually("it is published", || {
        let body = json!({ "event_name": name, "payload": payload, "idempotency_key": key });
        let answer = server.request("POST", "/publish").json(&body).try_send();
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return Some(());
        }
        restart_if_dead(server);
        None
    });
}

fn restart_if_dead(server: &mut Server) {
    if server.has_ended() {
        server.restart();
    }
}

/// Runs an auction that is settled, and one that is turned back, with a kill at the `n`th passing of a point. Whether it was
/// reached.
fn run(backend: Backend, point: &str, n: usize) -> bool {
    let participant = Participant::start(|_, _| None);
    let mut server = server(backend, SETTLE, &participant);
    server.post(&format!("/admin/fault/{point}?times=1&after={n}"), "").data();
    let pid = server.pid();
    for (auction, ok) in [(1, true), (2, false)] {
        publish(&mut server, "auction.ended", &ended(auction), &format!("ended {auction}"));
        let key = format!("transfer/{auction}");
        eventually("it was called", || {
            restart_if_dead(&mut server);
            let called = |came: &std::collections::BTreeMap<String, usize>| {
                came.keys().filter(|key| key.ends_with("/transfer")).count()
            };
            (called(&participant.ledger().came) as i64 >= auction).then_some(())
        });
        publish(&mut server, "transfer.done", &json!({ "auction": auction, "ok": ok, "tx": 5 }), &key);
    }
    for (auction, state) in [(1, "completed"), (2, "compensated")] {
        let path = format!("/sagas?correlation={auction}");
        eventually(&format!("{auction} is {state}"), || {
            restart_if_dead(&mut server);
            let found = server.request("GET", &path).try_send().ok()?.data();
            (found.as_array()?.first()?["state"] == state).then_some(())
        });
    }
    // What was stored last may be seen before the kill that follows it: who has followed it is past that.
    eventually("all is followed", || {
        restart_if_dead(&mut server);
        let get = |path: &str| Some(server.request("GET", path).try_send().ok()?.data());
        let (actors, newest) = (get("/admin/actors")?, get("/events?limit=1")?);
        let orchestrator = actors["children"].as_array()?.iter().find(|child| child["kind"] == "orchestrator")?;
        let position = orchestrator["details"]["log"]["position"].as_i64()?;
        (position >= newest.as_array()?.first()?["id"].as_i64()?).then_some(())
    });
    let is_hit = server.pid() != pid;
    let count = |what: &str| told(&server).iter().filter(|(told, _)| told == what).count();
    let tellings = ["started", "completed", "compensating", "compensated", "needs_operator", "late_reply"].map(count);
    assert_eq!(tellings, [2, 1, 1, 1, 0, 0], "{point} {n}: {:?}", told(&server));
    assert_eq!(server.events("?event_name=auction.settled").len(), 1, "{point} {n}");
    let ledger = participant.ledger();
    assert_eq!(ledger.changed, Vec::<String>::new(), "{point} {n}");
    let in_effect: Vec<_> = ledger.in_effect().into_iter().map(|(_, step)| step).collect();
    assert_eq!(in_effect, ["reserve", "transfer"], "{point} {n}");
    // One crash repeats what was under way at the most, and of each of the two sagas that is one call.
    let repeated: Vec<usize> = ledger.came.values().map(|count| count - 1).filter(|more| *more > 0).collect();
    assert!(repeated.len() <= 2 && repeated.iter().all(|more| *more == 1), "{point} {n}: {:?}", ledger.came);
    for auction in [1, 2] {
        let full = shown(&server, &becomes(&server, &json!(auction), &["completed", "compensated"]));
        assert_eq!(steps(&full).len(), 3);
    }
    is_hit
}

#[test]
fn a_kill_at_any_boundary_loses_and_repeats_nothing() {
    for_each_backend(|backend| {
        let all_of = |point: &str| {
            let mut n = 0;
            while run(backend, point, n) {
                n += 1;
                assert!(n < 100, "{point} has no end");
            }
            eprintln!("{backend:?}: {point} was killed {n} times");
            assert!(n >= 4, "{point}: {n}");
        };
        std::thread::scope(|scope| {
            POINTS.map(|point| scope.spawn(move || all_of(point))).map(|done| done.join().expect("as it should be"))
        });
    });
}

/// Each fault of the store that a holder can meet, while instances are on their way.
#[test]
fn a_store_that_fails_for_a_while_changes_nothing() {
    for_each_backend(|backend| {
        for point in [
            "mailbox_full",
            "writer_dies_before",
            "store_locked",
            "transaction_aborted",
            "commit_unconfirmed",
            "writer_dies_after",
        ] {
            let participant = Participant::start(|_, _| None);
            let builder = Server::builder()
                .backend(backend)
                .env("EVENT_HANDLER__SUPERVISION__BACKOFF", "10ms")
                .env("EVENT_HANDLER__SUPERVISION__BACKOFF_CAP", "20ms")
                .env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", 1000);
            let mut server = configured(builder, SETTLE, &participant).start();
            for auction in 1..4 {
                publish(&mut server, "auction.ended", &ended(auction), &format!("ended {auction}"));
                server.post(&format!("/admin/fault/{point}?times=2&after={auction}"), "").data();
                becomes(&server, &json!(auction), &["waiting"]);
                server.post(&format!("/admin/fault/{point}?times=2&after={auction}"), "").data();
                publish(
                    &mut server,
                    "transfer.done",
                    &json!({ "auction": auction, "ok": auction != 2, "tx": 5 }),
                    &format!("t{auction}"),
                );
                becomes(&server, &json!(auction), &[if auction == 2 { "compensated" } else { "completed" }]);
                server.post(&format!("/admin/fault/{point}?times=0"), "").data();
            }
            assert_eq!(server.events("?event_name=auction.settled").len(), 2, "{point}");
            let ledger = participant.ledger();
            assert_eq!((ledger.changed.len(), ledger.in_effect().len()), (0, 4), "{point}");
        }
    });
}

#[test]
fn of_two_nodes_one_runs_an_instance_and_the_other_takes_over() {
    let url = Postgres::shared().url();
    let participant = Participant::start(|_, step| (step == "transfer").then_some(Answer::Hang));
    let node = || {
        let builder = Server::builder().env("DATABASE_URL", &url);
        configured(builder, SETTLE, &participant).start()
    };
    let mut nodes = vec![node(), node()];
    for auction in 0..20 {
        nodes[auction % 2].publish("auction.ended", ended(auction as i64));
    }
    participant.service.wait_until("all have reserved", |came| {
        came.iter().filter(|delivery| delivery.path == "/reservations").count() >= 20
    });
    let holder = nodes.iter().position(|node| {
        node.get("/admin/actors").data()["children"].as_array().is_some_and(|children| {
            children.iter().any(|child| child["kind"] == "orchestrator" && child["details"]["log"]["is_held"] == true)
        })
    });
    nodes.remove(holder.expect("one holds it")).kill9();
    participant.service.behave(super::behaviour(&participant.ledger, |_, _| None));
    // What is said before a step has begun is no reply to it.
    participant.service.wait_until("all are at their transfer", |came| {
        let transfers = came.iter().filter(|delivery| delivery.path == "/transfers");
        transfers.filter_map(|delivery| delivery.header("saga-id")).collect::<BTreeSet<_>>().len() == 20
    });
    for auction in 0..20 {
        nodes[0].publish("transfer.done", json!({ "auction": auction, "ok": auction % 2 == 0, "tx": 1 }));
    }
    for auction in 0..20 {
        let state = if auction % 2 == 0 { "completed" } else { "compensated" };
        becomes(&nodes[0], &json!(auction), &[state]);
    }
    let ledger = participant.ledger();
    assert_eq!((ledger.changed.len(), ledger.in_effect().len()), (0, 20));
    assert_eq!(nodes[0].events("?event_name=auction.settled&limit=100").len(), 10);
}
