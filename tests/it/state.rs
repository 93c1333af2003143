//! `/state`: the newest value of each entity, under the version that is the id of its event.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::long_poll::wait_for_waiting;
use crate::support::http::Response;
use crate::support::tokens::bearer;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, for_each_backend};

pub fn put(server: &Server, path: &str, value: impl ToString, headers: &[(&str, &str)]) -> Response {
    let request = server.request("PUT", &format!("/state/{path}")).json(value);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

pub fn delete(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = server.request("DELETE", &format!("/state/{path}"));
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = server.request("GET", &format!("/state/{path}"));
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

/// Status, code and current version of a refusal.
fn conflict(answer: &Response) -> (u16, Value, Value) {
    let data = &answer.json()["data"];
    (answer.status, data["code"].clone(), data["current_version"].clone())
}

#[test]
fn a_version_is_the_id_of_its_event() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("before", json!(1));
        let new = put(&server, "auction/a1", r#"{"bid": 1.50, "bid2":12345678901234567890}"#, &[]);
        assert_eq!((new.status, new.header("etag")), (201, Some("\"2\"")), "{new:?}");
        assert!(new.text().contains(r#""value":{"bid": 1.50, "bid2":12345678901234567890}"#), "{}", new.text());
        let changed = put(&server, "auction/a1?source=house", 2, &[]);
        assert_eq!((changed.status, &changed.data()["version"]), (200, &json!(3)));
        let got = get(&server, "auction/a1", &[]);
        assert_eq!((got.header("etag"), got.data()), (Some("\"3\""), changed.data()));
        let events = server.events("?event_name=state.auction.changed");
        let payload = json!({"type": "auction", "key": "a1", "op": "put", "previous_version": 2, "value": 2});
        assert_eq!(
            (&events[1]["payload"], &events[1]["key"], &events[1]["source"]),
            (&payload, &json!("auction:a1"), &json!("house"))
        );
        assert_eq!(events[1]["created_at"], changed.data()["updated_at"]);
        let gone = delete(&server, "auction/a1", &[]);
        assert_eq!((gone.status, gone.data()), (200, json!({"type": "auction", "key": "a1", "version": 4})));
        let payload = json!({"type": "auction", "key": "a1", "op": "delete", "previous_version": 3});
        assert_eq!(server.events("?event_name=state.*.changed")[2]["payload"], payload);
        let absent = get(&server, "auction/a1", &[]);
        assert_eq!(
            (absent.error(404)["code"].clone(), absent.json()["data"]["deleted_version"].clone()),
            (json!("entity_not_found"), json!(4))
        );
        assert_eq!(delete(&server, "auction/a1", &[]).status, 404);
        assert_eq!(server.events("").len(), 4, "what was not there makes no event");
        assert_eq!(put(&server, "auction/a1", 5, &[]).status, 201, "it is new again");
        assert_eq!(server.events("?event_name=state.auction.changed")[3]["payload"]["previous_version"], json!(null));
        assert_eq!(server.get("/state").data(), json!([{"type": "auction", "count": 1}]));
    });
}

#[test]
fn conditions_are_decided_in_the_transaction() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        assert_eq!(put(&server, "t/a", 1, &[("If-None-Match", "*")]).status, 201);
        assert_eq!(
            conflict(&put(&server, "t/a", 2, &[("If-None-Match", "*")])),
            (412, json!("version_conflict"), json!(1))
        );
        assert_eq!(put(&server, "t/a", 2, &[("If-Match", "\"9\", \"1\"")]).status, 200);
        assert_eq!(
            conflict(&put(&server, "t/a", 3, &[("If-Match", "\"1\"")])),
            (412, json!("version_conflict"), json!(2))
        );
        assert_eq!(put(&server, "t/a", 3, &[("If-Match", "W/\"2\"")]).status, 412, "a weak tag matches nothing");
        assert_eq!(
            conflict(&put(&server, "t/b", 3, &[("If-Match", "*")])),
            (412, json!("version_conflict"), Value::Null)
        );
        assert_eq!(delete(&server, "t/b", &[("If-Match", "\"1\"")]).status, 412);
        assert_eq!(delete(&server, "t/a", &[("If-Match", "\"1\"")]).status, 412);
        for malformed in ["2", "\"2", "*, \"2\"", ""] {
            assert_eq!(
                put(&server, "t/a", 3, &[("If-Match", malformed)]).error(400)["code"],
                "malformed_request",
                "{malformed}"
            );
        }
        assert_eq!(get(&server, "t/a", &[("If-None-Match", "W/\"2\"")]).status, 304);
        assert_eq!(get(&server, "t/a", &[("If-None-Match", "\"1\"")]).status, 200);
        assert_eq!(get(&server, "t/a", &[("If-Match", "\"1\"")]).status, 412);
        assert_eq!(server.events("").len(), 2, "what was refused made no event");

        // Many at once with one condition, so that some are decided in one transaction: one wins.
        let winners = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..24)
                .map(|n| {
                    let server = &server;
                    scope.spawn(move || put(server, "t/a", n, &[("If-Match", "\"2\"")]).status)
                })
                .collect();
            tries.into_iter().map(|t| t.join().expect("joined")).filter(|status| *status == 200).count()
        });
        assert_eq!(winners, 1);
        assert_eq!(server.events("").len(), 3);
    });
}

#[test]
fn a_repeated_change_is_answered_as_the_first_was() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let key = ("Idempotency-Key", "k");
        let first = put(&server, "t/a", json!({"n": 1}), &[key, ("If-None-Match", "*")]);
        put(&server, "t/a", 2, &[]);
        let again = put(&server, "t/a", json!({"n": 1}), &[key, ("If-None-Match", "*")]);
        assert_eq!((first.status, again.status, again.header("idempotent-replayed")), (201, 201, Some("true")));
        assert_eq!(again.data(), first.data());
        assert_eq!(get(&server, "t/a", &[]).data()["value"], 2);
        assert_eq!(put(&server, "t/a", json!({"n": 1}), &[key]).error(422)["code"], "idempotency_key_reused");
        assert_eq!(put(&server, "t/b", json!({"n": 1}), &[key]).status, 422);
        // What was refused is not remembered.
        let late = ("Idempotency-Key", "late");
        assert_eq!(put(&server, "t/c", 1, &[late, ("If-Match", "*")]).status, 412);
        put(&server, "t/c", 0, &[]);
        assert_eq!(put(&server, "t/c", 1, &[late, ("If-Match", "*")]).status, 200);
    });
}

#[test]
fn an_event_and_its_change_are_stored_together() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let publish = |entity: Value| {
            server.post("/publish", json!({"event_name": "bid", "payload": 5, "source": "s", "entity": entity}))
        };
        let first = publish(json!({"type": "auction", "key": "a", "expected_version": 0}));
        assert_eq!((first.event_id(), first.header("entity-version")), (1, Some("2")));
        assert_eq!(get(&server, "auction/a", &[]).data()["value"], 5);
        let again = publish(json!({"type": "auction", "key": "a", "expected_version": 0}));
        assert_eq!(conflict(&again), (409, json!("version_conflict"), json!(2)));
        let other = publish(json!({"type": "auction", "key": "a", "value": {"best": 5}, "expected_version": 2}));
        assert_eq!(other.header("entity-version"), Some("4"));
        assert_eq!(get(&server, "auction/a", &[]).data()["value"], json!({"best": 5}));
        assert_eq!(publish(json!({"type": "auction", "key": "a", "op": "delete"})).header("entity-version"), Some("6"));
        assert_eq!(
            publish(json!({"type": "auction", "key": "a", "op": "delete"})).error(404)["code"],
            "entity_not_found"
        );
        let batch = json!([
            {"event_name": "x"},
            {"event_name": "bid", "payload": 1, "entity": {"type": "auction", "key": "b", "expected_version": 0}},
            {"event_name": "bid", "payload": 2, "entity": {"type": "auction", "key": "b"}},
        ]);
        let stored = server.post("/publish/batch", batch.clone()).data();
        assert_eq!(
            stored,
            json!({"count": 3, "first_id": 7, "last_id": 10, "ids": [7, 8, 10], "entity_versions": [null, 9, 11]})
        );
        let refused = server.post("/publish/batch", batch);
        assert_eq!(refused.error(409)["errors"][0]["index"], 1);
        assert_eq!(refused.json()["data"]["errors"][0]["current_version"], 11);
        let twice = json!({"event_name": "x", "entity": {"type": "auction", "key": "new", "expected_version": 0}});
        let refused = server.post("/publish/batch", json!([twice, twice])).error(409);
        assert_eq!(refused["errors"][0]["current_version"], Value::Null, "what is undone was never there");
        assert_eq!(server.events("").len(), 11, "nothing of a refused batch is stored");
        let sources: Vec<Value> = server.events("").iter().take(2).map(|event| event["source"].clone()).collect();
        assert_eq!(sources, ["s", "s"]);

        let mut ws = server.ws();
        let told = ws.request(
            json!({"action": "publish", "id": 1, "event_name": "bid", "entity": {"type": "auction", "key": "c"}}),
        );
        assert_eq!(
            told,
            json!({"id": 1, "type": "published", "event_id": 12, "entity_version": 13, "replayed": false})
        );
        let told = ws.request(json!({"action": "publish", "id": 2, "event_name": "bid", "entity": {"type": "auction", "key": "c", "expected_version": 1}}));
        assert_eq!(
            (&told["error"]["code"], &told["error"]["current_version"]),
            (&json!("version_conflict"), &json!(13))
        );

        for (bad, field) in [
            (json!({"type": "a.b", "key": "k"}), "entity.type"),
            (json!({"type": "a", "key": "digest"}), "entity.key"),
            (json!({"type": "a"}), "entity.key"),
            (json!({"type": "a", "key": "k", "op": "patch"}), "entity.op"),
            (json!({"type": "a", "key": "k", "expected_version": -1}), "entity.expected_version"),
            (json!({"type": "a", "key": "k", "op": "delete", "value": 1}), "entity.value"),
            (json!({"type": "a", "key": "k", "keys": 1}), "entity.keys"),
            (json!([]), "entity"),
        ] {
            assert_eq!(publish(bad.clone()).error(422)["field"], field, "{bad}");
        }
        let later =
            json!({"event_name": "a", "entity": {"type": "a", "key": "k"}, "deliver_at": "2099-01-01T00:00:00Z"});
        assert_eq!(server.post("/publish", later).error(422)["field"], "entity");
        let name = json!({"event_name": "state.auction.changed"});
        assert_eq!(server.post("/publish", name).error(422)["code"], "reserved_name");
    });
}

#[test]
fn paths_are_decoded_and_checked() {
    let server = Server::start(Backend::Sqlite);
    assert_eq!(put(&server, "t/a%2Fb", 1, &[]).data()["key"], "a/b");
    assert_eq!(put(&server, "t/gr%C3%B6%C3%9Fe%20%22", 1, &[]).data()["key"], "größe \"");
    assert_eq!(get(&server, "t/gr%C3%B6%C3%9Fe%20%22", &[]).data()["key"], "größe \"");
    for (path, field) in
        [("a%2Eb/k", "type"), ("a:b/k", "type"), ("t/%0A", "key"), ("t/%FF", "key"), ("t/%2E%2E", "key")]
    {
        assert_eq!(put(&server, path, 1, &[]).error(422)["field"], field, "{path}");
    }
    assert_eq!(put(&server, &format!("t/{}", "x".repeat(256)), 1, &[]).status, 422);
    assert_eq!(put(&server, &format!("{}/k", "x".repeat(65)), 1, &[]).status, 422);
    assert_eq!(put(&server, "t/k", "{", &[]).error(400)["code"], "malformed_json");
    assert_eq!(put(&server, "t/digest", 1, &[]).status, 405);
    assert_eq!(put(&server, "t/k?surce=x", 1, &[]).error(422)["field"], "surce");
}

#[test]
fn pages_show_every_entity_once_in_the_order_of_bytes() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut keys: Vec<String> = (0..25).map(|n| format!("k{n}")).collect();
        keys.extend(["K1", "ä", "z", "a b"].map(str::to_owned));
        for key in &keys {
            put(&server, &format!("t/{}", key.replace(' ', "%20").replace('ä', "%C3%A4")), json!(key), &[]);
        }
        put(&server, "other/x", 1, &[]);
        keys.sort();
        let walk = |query: &str| {
            let (mut seen, mut as_of, mut path) = (Vec::new(), Vec::new(), format!("/state/t{query}"));
            loop {
                let page = server.get(&path);
                let data = page.data();
                as_of.push(data["as_of"].clone());
                seen.extend(
                    data["entities"]
                        .as_array()
                        .expect("a list")
                        .iter()
                        .map(|e| e["key"].as_str().expect("a key").to_owned()),
                );
                let next = page.headers_named("link").find(|link| link.contains("next")).map(str::to_owned);
                let Some(next) = next else { return (seen, as_of) };
                path = format!("/state/t{}", next.split(['<', '>']).nth(1).expect("a reference"));
                put(&server, "t/zz", json!(seen.len()), &[]);
            }
        };
        let (mut seen, as_of) = walk("?limit=7");
        seen.retain(|key| key != "zz");
        assert_eq!(seen, keys);
        assert!(as_of.iter().all(|one| *one == as_of[0]), "{as_of:?}");
        assert_eq!(
            walk("?prefix=k1&limit=4").0,
            keys.iter().filter(|key| key.starts_with("k1")).cloned().collect::<Vec<_>>()
        );
        assert_eq!(server.get("/state/none").data()["entities"], json!([]));
        assert_eq!(server.get("/state/t?as_of=9999").error(422)["field"], "as_of");
    });
}

#[test]
fn a_reader_waits_for_a_newer_version() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        put(&server, "t/a", 1, &[]);
        assert_eq!(get(&server, "t/a?wait=30s", &[]).data()["version"], 1);
        assert_eq!(get(&server, "t/a?wait=50ms&after_version=1", &[]).status, 304);
        let ahead = get(&server, "t/a?wait=50ms&after_version=99", &[]);
        assert_eq!((ahead.status, ahead.header("etag")), (304, Some("\"1\"")), "no version that never was");
        assert_eq!(get(&server, "t/none?wait=50ms", &[]).status, 404);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| get(&server, "t/a?wait=30s&after_version=1", &[]));
            wait_for_waiting(&server, 1);
            put(&server, "t/b", 1, &[]);
            put(&server, "t/a", 2, &[]);
            assert_eq!(waits.join().expect("joined").data()["value"], 2);
            let waits = scope.spawn(|| get(&server, "t/a?wait=30s&after_version=3", &[]));
            wait_for_waiting(&server, 1);
            delete(&server, "t/a", &[]);
            assert_eq!(waits.join().expect("joined").status, 404);
        });
    });
}

/// The digest as the contract has it.
fn digest(entities: &BTreeMap<String, i64>, buckets: u64) -> Vec<String> {
    let first = |bytes: &[u8]| u64::from_be_bytes(Sha256::digest(bytes)[..8].try_into().expect("eight bytes"));
    let mut sums = vec![0u64; buckets as usize];
    for (key, version) in entities {
        let text = [key.as_bytes(), b"\0", version.to_string().as_bytes()].concat();
        sums[(first(key.as_bytes()) % buckets) as usize] ^= first(&text);
    }
    sums.into_iter().map(|sum| format!("{sum:016x}")).collect()
}

#[test]
fn a_digest_is_that_of_any_moment_in_the_log() {
    for_each_backend(|backend| {
        let server = Server::builder().backend(backend).env("EVENT_HANDLER__STATE__DIGEST_MAX_UNDO", 60).start();
        let mut states: Vec<(i64, BTreeMap<String, i64>)> = vec![(0, BTreeMap::new())];
        for n in 0..60 {
            let (_, mut state) = states.last().cloned().expect("a state");
            let key = format!("k{}", n * 7 % 11);
            let id = if n % 5 == 4 && state.remove(&key).is_some() {
                delete(&server, &format!("t/{key}"), &[]).data()["version"].as_i64()
            } else {
                let id = put(&server, &format!("t/{key}"), n, &[]).data()["version"].as_i64();
                state.insert(key, id.expect("a version"));
                id
            };
            states.push((id.expect("a version"), state));
            server.publish("between", json!(n));
        }
        for (as_of, state) in &states {
            for buckets in [1, 4, 256] {
                let data = server.get(&format!("/state/t/digest?as_of={as_of}&buckets={buckets}")).data();
                assert_eq!((&data["as_of"], &data["count"]), (&json!(as_of), &json!(state.len())), "{data}");
                assert_eq!(data["buckets"], json!(digest(state, buckets)), "as of {as_of}");
            }
            let listed = server.get(&format!("/state/t/digest/0?as_of={as_of}&buckets=1")).data();
            let listed: BTreeMap<String, i64> = listed
                .as_array()
                .expect("a list")
                .iter()
                .map(|e| (e["key"].as_str().expect("a key").to_owned(), e["version"].as_i64().expect("a version")))
                .collect();
            assert_eq!(listed, *state);
        }
        let (_, newest) = states.last().expect("a state");
        let data = server.get("/state/t/digest").data();
        assert_eq!(
            (data["buckets"].as_array().map(Vec::len), &data["buckets"]),
            (Some(256), &json!(digest(newest, 256)))
        );
        assert_eq!(server.get("/state/t/digest?as_of=99999").error(422)["field"], "as_of");
        for bad in ["0", "3", "131072", "x"] {
            assert_eq!(server.get(&format!("/state/t/digest?buckets={bad}")).error(422)["field"], "buckets");
        }
        assert_eq!(server.get("/state/t/digest/4?buckets=4").error(422)["field"], "bucket");
        put(&server, "t/k0", "1", &[]);
        let trimmed = server.get("/state/t/digest?as_of=0");
        assert_eq!((trimmed.status, &trimmed.json()["data"]["code"]), (410, &json!("as_of_trimmed")));
        let earliest = trimmed.json()["data"]["earliest_as_of"].as_i64().expect("an id");
        assert_eq!(server.get(&format!("/state/t/digest?as_of={earliest}")).status, 200);
        assert_eq!(server.get(&format!("/state/t/digest?as_of={}", earliest - 1)).status, 410);
    });
}

#[test]
fn retention_keeps_values_and_forgets_the_deleted() {
    for_each_backend(|backend| {
        let mut server = Server::builder()
            .backend(backend)
            .env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 1)
            .env("EVENT_HANDLER__STATE__TOMBSTONE_TTL", "1s")
            .env("EVENT_HANDLER__STATE__MAX_TYPES", 2)
            .start();
        put(&server, "t/a", json!({"n": 1}), &[]);
        put(&server, "t/b", 2, &[]);
        assert_eq!(delete(&server, "t/b", &[]).data()["version"], 3);
        for n in 0..10 {
            server.publish("x", json!(n));
        }
        eventually("it is trimmed", || (server.events("").len() == 1).then_some(()));
        eventually("it is forgotten", || {
            get(&server, "t/b", &[]).json()["data"].get("deleted_version").is_none().then_some(())
        });
        server.kill9();
        server.restart();
        assert_eq!(get(&server, "t/a", &[]).data()["value"], json!({"n": 1}));
        put(&server, "u/a", 1, &[]);
        assert_eq!(put(&server, "v/a", 1, &[]).error(422)["code"], "too_many_types");
        delete(&server, "u/a", &[]);
        assert_eq!(put(&server, "v/a", 1, &[]).status, 201);
        let types = server.get("/state").data();
        assert_eq!(types, json!([{"type": "t", "count": 1}, {"type": "v", "count": 1}]));
    });
}

#[test]
fn access_is_that_of_the_events() {
    let tokens = [
        ("writer", "scopes = { publish = [\"state.t.changed\"] }"),
        ("reader", "scopes = { read = [\"state.t.changed\"] }"),
        ("watcher", "scopes = { subscribe = [\"state.t.changed\"] }"),
        ("publisher", "scopes = { publish = [\"bid\"] }"),
    ];
    let server = Server::builder().tokens(&tokens, "").start();
    let ask = |method: &str, path: &str, who: &str| {
        let request = server.request(method, path).header("Authorization", &bearer(who));
        let request = if method == "PUT" { request.json(1) } else { request };
        request.send().status
    };
    assert_eq!(ask("PUT", "/state/t/a", "writer"), 201);
    assert_eq!(ask("PUT", "/state/u/a", "writer"), 403);
    assert_eq!(ask("PUT", "/state/t/a", "reader"), 403);
    assert_eq!(ask("DELETE", "/state/t/a", "reader"), 403);
    for path in ["/state/t/a", "/state/t", "/state/t/digest", "/state/t/digest/0"] {
        assert_eq!((ask("GET", path, "reader"), ask("GET", path, "writer")), (200, 403), "{path}");
    }
    assert_eq!(ask("GET", "/state/u/a", "reader"), 403);
    let types = server.request("GET", "/state").header("Authorization", &bearer("reader")).send();
    assert_eq!(types.data(), json!([{"type": "t", "count": 1}]));
    let body = json!({"event_name": "bid", "entity": {"type": "t", "key": "a"}});
    let publish = server.request("POST", "/publish").header("Authorization", &bearer("publisher")).json(body);
    assert_eq!(publish.send().status, 403, "the change needs its own scope");
    let header = bearer("watcher");
    let mut ws = Socket::connect(server.addr(), "/ws", &[("Authorization", &header)]).expect("connected");
    let watch = |name: &str| json!({"action": "subscribe", "event_name": name, "snapshot": true, "id": 1});
    assert_eq!(ws.request(watch("state.u.changed"))["error"]["code"], "forbidden");
    ws.send(watch("state.t.changed"));
    assert_eq!([ws.recv_json(), ws.recv_json()].map(|frame| frame["type"].clone()), ["entity", "snapshot_end"]);
}
