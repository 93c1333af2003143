//! Services that keep a copy of entities: what differs is found and repaired, and nothing else.

mod operated;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::copy::Replica;
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
