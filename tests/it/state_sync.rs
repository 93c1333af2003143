//! Services that keep a copy of entities: what differs is found and repaired, and nothing else.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::copy::{Kept, Replica};
use crate::support::server::Builder;
use crate::support::{Answer, Backend, Server, eventually, for_each_backend};

/// Compared every second.
const SYNC: &str = r#"{ types = ["lot"], every = "1s", repair_rate = 10000 }"#;

fn builder(backend: Backend, replica: &Replica, sync: &str) -> Builder {
    let options = [("routes", r#"["state.lot.changed"]"#), ("sync", sync), ("retry_delays", "100ms")];
    let builder = Server::builder().operated("sesame").env("EVENT_HANDLER__SYNC__SETTLE", "1s");
    replica.service.configure(builder.backend(backend), "copy", &options)
}

fn put(server: &Server, key: &str) -> i64 {
    let answer = server.request("PUT", &format!("/state/lot/{key}")).json(json!({"key": key})).send();
    answer.data()["version"].as_i64().unwrap_or_else(|| panic!("{answer:?}"))
}

fn delete(server: &Server, key: &str) {
    assert_eq!(server.request("DELETE", &format!("/state/lot/{key}")).send().status, 200);
}

/// Puts keys "k0000" and so on; each has a version then.
fn fill(server: &Server, count: usize) {
    let lots = (0..count).map(|number| {
        json!({"event_name": "lot.made", "payload": number, "entity": {"type": "lot", "key": format!("k{number:05}")}})
    });
    for lots in lots.collect::<Vec<_>>().chunks(500) {
        let answer = server.post("/publish/batch", Value::from(lots.to_vec()));
        assert!(answer.status < 300, "{answer:?}");
    }
}

/// What the store has.
fn ours(server: &Server) -> BTreeMap<String, i64> {
    let mut entities = BTreeMap::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("/state/lot?limit=1000&after={after}")).data()["entities"].clone();
        let page: Vec<Value> = serde_json::from_value(page).expect("a list");
        let Some(last) = page.last() else { return entities };
        after = last["key"].as_str().expect("a key").to_owned();
        for entity in page {
            let key = entity["key"].as_str().expect("a key").to_owned();
            entities.insert(key, entity["version"].as_i64().expect("a version"));
        }
    }
}

/// How the service stands, as operators see it.
fn standing(server: &Server) -> Value {
    server.get("/admin/sync").data()[0].clone()
}

fn state_is(server: &Server, state: &str) -> bool {
    standing(server)["state"] == state
}

/// Waits until a check that began after now has found no difference.
fn synced(server: &Server) {
    let before = standing(server)["checked_at"].clone();
    let is_later = |now: &Value| now["checked_at"].as_str() > before.as_str() && now["state"] == "synced";
    let mut checks = 0;
    let mut last = before.clone();
    eventually("it is synced", || {
        let now = standing(server);
        if is_later(&now) && now["checked_at"] != last {
            last = now["checked_at"].clone();
            checks += 1;
        }
        // The first may have begun before.
        (checks >= 2).then_some(())
    });
}

fn told(server: &Server, what: &str) -> Vec<Value> {
    let events = server.events(&format!("?event_name=$sys.state.{what}&limit=1000"));
    events.into_iter().map(|event| event["payload"].clone()).collect()
}

/// Waits until the copy is equal to the store.
fn equal(server: &Server, replica: &Replica) {
    eventually("the copy is equal", || {
        let count = server.get("/state").data()[0]["count"].as_u64().unwrap_or(0) as usize;
        let copy = replica.kept().entities.clone();
        (copy.len() == count && copy == ours(server)).then_some(())
    });
}

#[test]
fn a_copy_that_is_equal_is_synced() {
    for_each_backend(|backend| {
        let replica = Replica::start();
        let server = builder(backend, &replica, SYNC).start();
        fill(&server, 300);
        delete(&server, "k00007");
        synced(&server);
        let now = standing(&server);
        assert_eq!((&now["service"], &now["type"], &now["error"]), (&json!("copy"), &json!("lot"), &Value::Null));
        assert_eq!(now["differences"], json!({"missing": 0, "stale": 0, "extra": 0, "ahead": 0}));
        assert!(now["next_check_at"].as_str() > now["checked_at"].as_str());
        assert_eq!(told(&server, "diverged"), [Value::Null; 0]);
        assert_eq!(told(&server, "synced"), [json!({"service": "copy", "type": "lot", "as_of": now["as_of"]})]);
        assert_eq!(replica.kept().repairs, []);
    });
}

#[test]
fn planted_differences_of_each_kind_are_repaired_and_nothing_else() {
    for_each_backend(|backend| {
        let replica = Replica::start();
        let server = builder(backend, &replica, SYNC).start();
        fill(&server, 50);
        delete(&server, "k00049");
        equal(&server, &replica);
        synced(&server);
        let versions = ours(&server);
        {
            let mut kept = replica.kept();
            for key in ["k00000", "k00001"] {
                kept.entities.remove(key);
                kept.seen.remove(key);
            }
            for (key, version) in [("k00002", 1), ("k00049", 1), ("never-here", 2)] {
                kept.entities.insert(key.to_owned(), version);
                kept.seen.insert(key.to_owned(), version);
            }
        }
        equal(&server, &replica);
        synced(&server);
        let diverged = told(&server, "diverged");
        assert_eq!(diverged.len(), 1, "{diverged:?}");
        assert_eq!(diverged[0]["counts"], json!({"missing": 2, "stale": 1, "extra": 2, "ahead": 0}));
        assert_eq!(diverged[0]["sample"][0]["key"], "k00000");
        assert_eq!(told(&server, "synced").len(), 2);
        let repairs = replica.kept().repairs.clone();
        let keys: Vec<&str> = repairs.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["k00000", "k00001", "k00002", "k00049", "never-here"]);
        assert!(repairs[..3].iter().all(|(key, version)| versions[key] == *version), "the present version");
        let sent = replica.service.deliveries();
        let sent = sent.iter().filter(|delivery| delivery.header("event-repair").is_some());
        for repair in sent {
            let id = repair.header("webhook-id").expect("an id");
            assert!(id.starts_with("rep_") && repair.header("idempotency-key") == Some(id), "{id}");
            assert_eq!(
                repair.json()["key"],
                json!(format!("lot:{}", repair.json()["payload"]["key"].as_str().unwrap()))
            );
        }
    });
}

#[test]
fn a_copy_that_was_set_back_and_says_so_honestly_is_repaired_without_an_operator() {
    for_each_backend(|backend| {
        let replica = Replica::start();
        let server = builder(backend, &replica, SYNC).start();
        fill(&server, 100);
        equal(&server, &replica);
        let yesterday = replica.kept().clone();
        for number in 0..30 {
            put(&server, &format!("k{:05}", number * 2));
        }
        delete(&server, "k00001");
        put(&server, "new");
        equal(&server, &replica);
        synced(&server);
        *replica.kept() = yesterday;
        equal(&server, &replica);
        synced(&server);
        let counts = json!({"missing": 1, "stale": 30, "extra": 1, "ahead": 0});
        assert_eq!(told(&server, "diverged")[0]["counts"], counts);
        assert_eq!(replica.kept().repairs.len(), 32);
    });
}

#[test]
fn a_copy_that_has_lost_everything_gets_it_in_key_order_while_changes_go_on() {
    for_each_backend(|backend| {
        let replica = Replica::start();
        let server = builder(backend, &replica, SYNC).start();
        fill(&server, 600);
        equal(&server, &replica);
        synced(&server);
        *replica.kept() = Default::default();
        for number in 0..100 {
            put(&server, &format!("k{:05}", number % 10));
        }
        equal(&server, &replica);
        synced(&server);
        let kept = replica.kept();
        let keys: Vec<&String> = kept.repairs.iter().map(|(key, _)| key).collect();
        assert!(keys.is_sorted() && keys.len() >= 590, "{} repairs", keys.len());
        drop(kept);
        // Of each key the versions rise, repairs and changes together.
        let mut newest = BTreeMap::new();
        let deliveries = replica.service.deliveries();
        for delivery in deliveries.iter().filter(|delivery| delivery.event_id > 0) {
            let body = delivery.json();
            let before = newest.insert(body["payload"]["key"].to_string(), delivery.event_id);
            assert!(before.is_none_or(|before| before <= delivery.event_id), "{body} after {before:?}");
        }
        assert_eq!(told(&server, "diverged").len(), 1);
    });
}

#[test]
fn answers_that_cannot_be_right_are_an_error_and_never_synced() {
    let replica = Replica::start();
    let server = builder(Backend::Sqlite, &replica, SYNC).start();
    fill(&server, 20);
    synced(&server);
    let zero = "0000000000000000";
    let zeros = vec![zero; 256];
    let twice = json!([{"key": "k00001", "version": 1}, {"key": "k00001", "version": 1}]);
    // What is asked for, the answer, and why it is none.
    let garbage = [
        ("/digest?", "<html>".to_owned(), "expected value"),
        ("/digest?", json!({"count": 0, "buckets": [zero]}).to_string(), "1 buckets, and not 256"),
        ("/digest?", json!({"count": 3, "buckets": zeros, "as_of": 1_000_000}).to_string(), "beyond the end"),
        ("/digest?", json!({"count": 3, "buckets": zeros, "as_of": -1}).to_string(), "as_of is negative"),
        ("/digest/", "{}".to_owned(), "expected a sequence"),
        ("/digest/", twice.to_string(), "is there twice"),
    ];
    for (question, answer, reason) in garbage {
        replica.answer(move |delivery| {
            let is_asked = delivery.path.starts_with("/sync/") && delivery.path.contains(question);
            is_asked.then(|| Answer::Full(200, Vec::new(), answer.clone()))
        });
        // So that there is a bucket to be asked for.
        replica.kept().entities.insert("k00001".to_owned(), 1);
        let error = eventually("an error", || standing(&server)["error"].as_str().map(str::to_owned));
        assert!(error.contains(reason) || error.contains("not of this bucket"), "{error}");
        assert!(!state_is(&server, "synced"));
        replica.answer(|_| None);
        synced(&server);
    }
    for status in [500, 404] {
        replica.answer(move |delivery| delivery.path.starts_with("/sync").then_some(Answer::Status(status)));
        let error = eventually("an error", || standing(&server)["error"].as_str().map(str::to_owned));
        assert!(error.contains(&status.to_string()), "{error}");
        assert!(!state_is(&server, "synced"));
        replica.answer(|_| None);
        synced(&server);
    }
}

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
        let order = |is: &dyn Fn(&&crate::support::service::Delivery) -> bool| {
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
    let url = crate::support::postgres::Postgres::shared().url();
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
        let slow = Answer::After(std::time::Duration::from_millis(300), Box::new(Answer::Full(200, Vec::new(), data)));
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
    assert_eq!(replica.service.max_concurrent(), 1, "one thing at a time");
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
    let begun = std::time::Instant::now();
    check(&server);
    eventually("it is repaired", || (!replica.kept().repairs.is_empty()).then_some(()));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
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
