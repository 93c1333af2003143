//! Watching state: a snapshot of all entities of a type, and from then on every change.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::state::{delete, put};
use crate::support::ws::Socket;
use crate::support::{Server, eventually, for_each_backend};

/// What a watcher holds: versions and values by key; deleted ones without a value.
#[derive(Default)]
struct Cache(BTreeMap<String, (i64, Option<Value>)>);

impl Cache {
    fn take(&mut self, frame: &Value) {
        let (key, version, value) = match frame["type"].as_str() {
            Some("entity") => (&frame["key"], &frame["version"], Some(frame["value"].clone())),
            Some("event") => (&frame["payload"]["key"], &frame["id"], frame["payload"].get("value").cloned()),
            _ => return,
        };
        let (key, version) = (key.as_str().expect("a key").to_owned(), version.as_i64().expect("a version"));
        if self.0.get(&key).is_none_or(|(known, _)| *known < version) {
            self.0.insert(key, (version, value));
        }
    }

    fn there(&self) -> BTreeMap<String, Value> {
        self.0.iter().filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?))).collect()
    }
}

fn stored(server: &Server, kind: &str) -> BTreeMap<String, Value> {
    let data = server.get(&format!("/state/{kind}?limit=1000")).data();
    let entities = data["entities"].as_array().expect("a list").clone();
    entities.iter().map(|e| (e["key"].as_str().expect("a key").to_owned(), e["value"].clone())).collect()
}

/// What came before may be of entities that are deleted by now, and of these a snapshot says nothing.
#[test]
fn a_snapshot_in_the_place_of_a_subscription_says_that_it_replaces_it() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "state.t.changed", "id": 1, "envelope": "full"}));
        put(&server, "t/gone", 1, &[]);
        assert_eq!(ws.recv_json()["payload"]["key"], "gone");
        let watch = json!({"action": "subscribe", "event_name": "state.t.changed", "snapshot": true, "id": 2});
        ws.send(watch.clone());
        let types = |ws: &mut Socket| [(); 3].map(|()| ws.recv_json()["type"].as_str().unwrap_or_default().to_owned());
        assert_eq!(types(&mut ws), ["snapshot_begin", "entity", "snapshot_end"]);
        // Another one replaces that in turn.
        ws.send(watch.clone());
        assert_eq!(types(&mut ws), ["snapshot_begin", "entity", "snapshot_end"]);
        let mut other = server.ws();
        other.send(watch);
        assert_eq!(other.recv_json()["type"], "entity", "there is nothing to replace");
    });
}

#[test]
fn a_watcher_gets_a_snapshot_and_then_the_changes() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for n in 0..1_000 {
            server.publish("x", json!(n));
            if n < 700 {
                put(&server, &format!("t/k{n:04}"), json!("v".repeat(200)), &[]);
            }
        }
        put(&server, "other/x", 1, &[]);
        let mut ws = server.ws();
        ws.send(json!({"action": "subscribe", "event_name": "state.t.changed", "snapshot": true, "id": 7}));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..300 {
                    match n % 3 {
                        0 => put(&server, &format!("t/k{:04}", n * 2), json!(n), &[]),
                        1 => delete(&server, &format!("t/k{:04}", n * 2), &[]),
                        _ => put(&server, &format!("t/new{n}"), json!(n), &[]),
                    };
                }
                put(&server, "t/last", 1, &[])
            });
            let (mut cache, mut order, mut end) = (Cache::default(), Vec::new(), None);
            while !cache.0.contains_key("last") {
                let frame = ws.recv_json();
                match frame["type"].as_str() {
                    Some("entity") => {
                        assert_eq!((frame["entity_type"].clone(), end.is_none()), (json!("t"), true));
                        order.push(frame["key"].as_str().expect("a key").to_owned());
                    }
                    Some("snapshot_end") => {
                        assert_eq!(frame["id"], 7);
                        end = frame["as_of"].as_i64();
                    }
                    Some("event") => assert!(frame["id"].as_i64() > end, "{frame}"),
                    _ => panic!("{frame}"),
                }
                cache.take(&frame);
            }
            writer.join().expect("joined");
            assert!(order.is_sorted(), "in the order of keys");
            assert_eq!(cache.there(), stored(&server, "t"));
        });
        for (bad, field) in [
            (json!({"event_name": "state.*.changed"}), "event_name"),
            (json!({"event_name": "a"}), "event_name"),
            (json!({"event_name": "state.t.changed", "after": 1}), "after"),
            (json!({"event_name": "state.t.changed", "durable": "d"}), "durable"),
            (json!({"event_name": "state.t.changed", "filter": {"op": ["put"]}}), "filter"),
        ] {
            let mut request = bad.clone();
            request["action"] = json!("subscribe");
            request["snapshot"] = json!(true);
            request["id"] = json!(1);
            assert_eq!(ws.request(request)["error"]["field"], field, "{bad}");
        }
    });
}

#[test]
fn a_stream_begins_with_a_snapshot_and_resumes_without_one() {
    for_each_backend(|backend| {
        let server = Server::builder().backend(backend).env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 50).start();
        for n in 0..3 {
            put(&server, &format!("t/k{n}"), n, &[]);
        }
        let query = "?event_name=state.t.changed&snapshot=true";
        let mut stream = server.stream(query, &[]);
        assert_eq!(stream.next_block().expect("a block").id, None);
        for n in 0..3 {
            let block = stream.next_block().expect("an entity");
            let data: Value = serde_json::from_str(&block.data.expect("data")).expect("JSON");
            assert_eq!((block.event.as_deref(), block.id), (Some("entity"), None));
            assert_eq!(
                (&data["key"], &data["value"], &data["version"]),
                (&json!(format!("k{n}")), &json!(n), &json!(n + 1))
            );
        }
        let end = stream.next_block().expect("the end");
        assert_eq!((end.event.as_deref(), end.id.as_deref()), (Some("snapshot_end"), Some("3")));
        put(&server, "t/k0", 9, &[]);
        let (id, name, data) = stream.event();
        assert_eq!((id, &*name, &data["payload"]["value"]), (4, "state.t.changed", &json!(9)));

        let mut resumed = server.stream(query, &["Last-Event-ID: 3"]);
        assert_eq!(resumed.header("stream-recovered"), Some("true"));
        assert_eq!(resumed.event().0, 4, "without a snapshot");
        for n in 0..200 {
            server.publish("x", json!(n));
        }
        eventually("the log is trimmed", || {
            server.events("?after=0&limit=1").first().filter(|event| event["id"].as_i64() > Some(10)).map(drop)
        });
        // A moment may pass until the node knows it too.
        let late = || Some(server.stream(query, &["Last-Event-ID: 4"]));
        let mut late = eventually("it is told", || late().filter(|s| s.header("stream-recovered") == Some("false")));
        let names = std::iter::from_fn(|| late.next_block()).filter_map(|block| block.event);
        let names: Vec<String> = names.take(5).collect();
        assert_eq!(names, ["snapshot_begin", "entity", "entity", "entity", "snapshot_end"]);
        assert_eq!(server.request("GET", &format!("/events/stream{query}&after=3")).send().status, 422);
    });
}
