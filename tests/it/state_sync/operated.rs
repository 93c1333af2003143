//! Outages, kills, services that do not do as they should, and what operators ask for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{builder, equal, fill, ours, put, standing, state_is, synced, told};
use crate::support::copy::{Kept, Replica};
use crate::support::postgres::Postgres;
use crate::support::service::Delivery;
use crate::support::{Answer, Backend, Server, eventually, for_each_backend};

/// Compared when somebody asks for it, and at the start.
const ASKED: &str = r#"{ types = ["lot"], every = "1h", repair_rate = 10000 }"#;

fn operate(server: &Server, command: &str, body: Value) {
    let answer = server.post(&format!("/admin/sync/copy/{command}"), body);
    assert_eq!(answer.status, 202, "{answer:?}");
}

fn check(server: &Server) {
    operate(server, "check", json!({}));
}

/// Loses some keys.
fn lose(replica: &Replica, keys: impl Iterator<Item = usize>) {
    let mut kept = replica.kept();
    for key in keys.map(|number| format!("k{number:05}")) {
        kept.entities.remove(&key);
        kept.seen.remove(&key);
    }
}

fn is_synced(server: &Server) {
    eventually("it is synced", || state_is(server, "synced").then_some(()));
}

#[test]
fn a_copy_that_drops_repairs_is_told_and_not_flooded() {
    for deduplicates in [false, true] {
        let replica = Replica::start();
        let server = builder(Backend::Sqlite, &replica, ASKED).start();
        fill(&server, 60);
        equal(&server, &replica);
        is_synced(&server);
        let drops = |ignores_repairs, deduplicates| {
            let mut kept = replica.kept();
            kept.ignores_repairs = ignores_repairs;
            kept.deduplicates = deduplicates;
        };
        drops(!deduplicates, deduplicates);
        for key in ["k00003", "k00004", "k00005"] {
            // It remembers that it has seen them.
            replica.kept().entities.remove(key);
        }
        for round in 1..=2 {
            check(&server);
            let told = || told(&server, "diverged").len();
            eventually("it is told before and after the repairs", || (told() == round * 2).then_some(()));
            assert_eq!((replica.kept().repairs.len(), told()), (round * 3, round * 2));
        }
        let now = standing(&server);
        assert_eq!((&now["state"], &now["error"]), (&json!("diverged"), &json!("it differs after repairs, too")));
        drops(false, false);
        check(&server);
        equal(&server, &replica);
        is_synced(&server);
    }
}

#[test]
fn a_service_that_comes_back_is_compared_once_its_backlog_is_through() {
    for_each_backend(|backend| {
        let replica = Replica::start();
        let sync = [("breaker_consecutive", "2"), ("breaker_open_for", "500ms"), ("breaker_open_cap", "500ms")];
        let builder = builder(backend, &replica, ASKED);
        let server = replica.service.configure(builder, "copy", &sync).start();
        fill(&server, 100);
        equal(&server, &replica);
        is_synced(&server);
        replica.service.answer(503);
        let asked = |replica: &Replica| {
            replica.service.deliveries().iter().filter(|delivery| delivery.path.starts_with("/sync")).count()
        };
        let before = asked(&replica);
        for number in 0..50 {
            put(&server, &format!("k{number:05}"));
        }
        eventually("the breaker opens", || {
            (!server.events("?event_name=$sys.service.opened").is_empty()).then_some(())
        });
        lose(&replica, 60..70);
        replica.answer(|_| None);
        equal(&server, &replica);
        is_synced(&server);
        let deliveries = replica.service.deliveries();
        let order = |is: &dyn Fn(&&Delivery) -> bool| {
            deliveries.iter().filter(is).map(|delivery| delivery.order).collect::<Vec<_>>()
        };
        let questions = order(&|delivery| delivery.path.starts_with("/sync"));
        let live = order(&|delivery| delivery.event_id > 0 && delivery.header("event-repair").is_none());
        assert!(questions[before] > live[live.len() - 1], "the backlog goes first");
        assert_eq!(told(&server, "diverged")[0]["counts"]["missing"], 10);
        assert_eq!(replica.kept().repairs.len(), 10);
    });
}

#[test]
fn while_the_breaker_is_open_nothing_is_asked() {
    let replica = Replica::start();
    let server = builder(Backend::Sqlite, &replica, ASKED).start();
    fill(&server, 10);
    equal(&server, &replica);
    is_synced(&server);
    assert_eq!(server.post("/admin/services/copy/open", "{}").status, 200);
    let before = replica.service.deliveries().len();
    lose(&replica, 0..1);
    check(&server);
    let now = eventually("it is catching up", || {
        let now = standing(&server);
        (now["state"] == "catching_up" && now["error"] != Value::Null).then_some(now)
    });
    assert!(now["error"].as_str().expect("a reason").contains("its breaker is open"), "{now}");
    assert_eq!(replica.service.deliveries().len(), before);
    assert_eq!(server.post("/admin/services/copy/reset", "{}").status, 200);
    equal(&server, &replica);
    is_synced(&server);
}

#[test]
fn repairs_go_on_after_the_server_was_killed_and_after_the_service_was_away() {
    for_each_backend(|backend| {
        let mut replica = Replica::start();
        let sync = r#"{ types = ["lot"], every = "1s", repair_rate = 200 }"#;
        let mut server = builder(backend, &replica, sync).start();
        fill(&server, 500);
        equal(&server, &replica);
        is_synced(&server);
        *replica.kept() = Default::default();
        eventually("some are repaired", || (replica.kept().repairs.len() >= 100).then_some(()));
        assert!(state_is(&server, "diverged"));
        let left = standing(&server)["differences"]["missing"].as_u64().expect("a number");
        assert!((1..=500).contains(&left), "{left}");
        server.kill9();
        let done = replica.kept().repairs.len();
        server.restart();
        eventually("some more are repaired", || (replica.kept().repairs.len() >= done + 100).then_some(()));
        replica.service.refuse();
        replica.service.accept();
        equal(&server, &replica);
        synced(&server);
        let repairs = replica.kept().repairs.len();
        assert!(repairs <= 520, "what was repaired is not repaired again: {repairs}");
    });
}

#[test]
fn another_node_goes_on_with_the_repairs() {
    let url = Postgres::shared().url();
    let replica = Replica::start();
    let sync = r#"{ types = ["lot"], every = "1s", repair_rate = 200 }"#;
    let [mut holder, other] = ["n1", "n2"].map(|name| {
        let builder = builder(Backend::Sqlite, &replica, sync);
        let server = builder.env("DATABASE_URL", &url).env("EVENT_HANDLER__NODE__NAME", name).start();
        if name == "n1" {
            is_synced(&server);
        }
        server
    });
    fill(&holder, 400);
    equal(&other, &replica);
    *replica.kept() = Default::default();
    eventually("some are repaired", || (replica.kept().repairs.len() >= 50).then_some(()));
    assert!(state_is(&other, "diverged"), "every node knows");
    holder.kill9();
    equal(&other, &replica);
    synced(&other);
    assert!(replica.kept().repairs.len() <= 420);
}

#[test]
fn a_check_that_is_asked_for_during_another_is_made_after_it() {
    let replica = Replica::start();
    let server = builder(Backend::Sqlite, &replica, ASKED).start();
    fill(&server, 10);
    equal(&server, &replica);
    is_synced(&server);
    let before = replica.service.deliveries().len();
    replica.answer(|delivery| {
        let data = json!({"count": 0, "buckets": vec!["0000000000000000"; 256]}).to_string();
        let slow = Answer::After(Duration::from_millis(300), Box::new(Answer::Full(200, Vec::new(), data)));
        delivery.path.contains("/digest?").then_some(slow)
    });
    check(&server);
    replica.service.wait_for(before + 1);
    check(&server);
    check(&server);
    replica.answer(|_| None);
    replica.service.wait_until("two checks", |all| {
        all[before..].iter().filter(|delivery| delivery.path.contains("/digest?")).count() >= 2
    });
    is_synced(&server);
    // Those of before may have overlapped: they were ordinary deliveries.
    let asked = replica.service.deliveries().split_off(before);
    let one_by_one = |pair: &[Delivery]| pair[0].answered.is_some_and(|answered| answered <= pair[1].arrived);
    assert!(asked.windows(2).all(one_by_one), "one thing at a time: {asked:?}");
}

#[test]
fn thousands_of_differences_are_repaired() {
    let replica = Replica::start();
    let server = builder(Backend::Sqlite, &replica, ASKED).start();
    fill(&server, 3_000);
    equal(&server, &replica);
    is_synced(&server);
    lose(&replica, 10..3_000);
    check(&server);
    equal(&server, &replica);
    is_synced(&server);
    assert_eq!(told(&server, "diverged")[0]["counts"]["missing"], 2_990);
    assert!(replica.kept().repairs.is_sorted_by_key(|(key, _)| key.clone()));
}

#[test]
fn what_a_service_changes_itself_is_compared_once_it_has_settled() {
    let replica = Replica::start();
    let sync = r#"{ types = ["lot"], every = "1h" }"#;
    let server = builder(Backend::Sqlite, &replica, sync).env("EVENT_HANDLER__SYNC__SETTLE", "3s").start();
    fill(&server, 10);
    equal(&server, &replica);
    is_synced(&server);
    let answer = server.request("PUT", "/state/lot/own?source=copy").json(json!(1)).send();
    let version = answer.data()["version"].as_i64().expect("a version");
    let begun = Instant::now();
    check(&server);
    eventually("it is repaired", || (!replica.kept().repairs.is_empty()).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(replica.kept().repairs, [("own".to_owned(), version)], "the echo rule is set aside");
    is_synced(&server);
}

#[test]
fn what_is_ahead_is_told_and_written_anew_when_an_operator_says_so() {
    for_each_backend(|backend| {
        let replica = Replica::start();
        let server = builder(backend, &replica, ASKED).start();
        fill(&server, 10);
        equal(&server, &replica);
        is_synced(&server);
        let version = ours(&server)["k00009"];
        {
            let Kept { entities, seen, .. } = &mut *replica.kept();
            [entities, seen].into_iter().for_each(|map| _ = map.insert("k00009".to_owned(), version + 1));
        }
        check(&server);
        eventually("it is told", || (told(&server, "diverged").len() == 1).then_some(()));
        assert_eq!(told(&server, "diverged")[0]["counts"]["ahead"], 1);
        operate(&server, "repair", json!({}));
        eventually("it is told again", || (told(&server, "diverged").len() == 2).then_some(()));
        assert_eq!(ours(&server)["k00009"], version);
        operate(&server, "repair", json!({"ahead": true}));
        equal(&server, &replica);
        is_synced(&server);
        assert!(ours(&server)["k00009"] > version);
        assert_eq!(replica.kept().repairs, [], "it is an ordinary change");
    });
}

#[test]
fn an_operator_ends_the_repairs() {
    let replica = Replica::start();
    let sync = r#"{ types = ["lot"], every = "1h", repair_rate = 50 }"#;
    let server = builder(Backend::Sqlite, &replica, sync).start();
    fill(&server, 500);
    equal(&server, &replica);
    is_synced(&server);
    *replica.kept() = Default::default();
    check(&server);
    eventually("some are repaired", || (replica.kept().repairs.len() >= 10).then_some(()));
    operate(&server, "cancel", json!({}));
    let now = eventually("it is cancelled", || {
        let now = standing(&server);
        (now["error"] == "cancelled by an operator").then_some(now)
    });
    assert_eq!(now["state"], "diverged");
    let repairs = replica.kept().repairs.len();
    put(&server, "later");
    eventually("another delivery goes out", || replica.kept().entities.contains_key("later").then_some(()));
    assert!(replica.kept().repairs.len() <= repairs + 1);
    operate(&server, "repair", json!({}));
    eventually("repairs go on", || (replica.kept().repairs.len() > repairs + 20).then_some(()));
}
