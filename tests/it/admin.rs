//! `/admin`: what runs, and how it fares.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use serde_json::{Value, json};
use socket2::SockRef;

use crate::admission::{lock, patient};
use crate::support::{Backend, Server, Service, eventually, for_each_backend};

#[test]
fn the_actor_tree_names_everything_that_runs() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let tree = server.get("/admin/actors").data();
        let actors = flatten(&tree);
        for kind in ["supervisor", "persistence", "router"] {
            assert!(actors.iter().any(|a| a["kind"] == kind), "{kind} is missing in {tree}");
        }
        for actor in actors {
            assert!(actor["name"].is_string(), "{actor}");
            let state = actor["state"].as_str().unwrap_or_default();
            assert!(matches!(state, "running" | "restarting" | "stopped"), "{actor}");
            assert_eq!(actor["restarts"], 0, "{actor}");
            for field in ["mailbox", "uptime_seconds"] {
                assert!(!actor[field].is_null(), "{field} is missing in {actor}");
            }
        }
    });
}

#[test]
fn sessions_are_shown_while_they_last() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        assert_eq!(server.get("/admin/sessions").data(), json!([]));
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "auction.>", "id": 1}));
        let sessions = eventually("one session", || {
            let sessions = server.get("/admin/sessions").data();
            (sessions.as_array().map(Vec::len) == Some(1)).then_some(sessions)
        });
        let text = sessions.to_string();
        for word in ["127.0.0.1:", "auction.>", "queue", "lag"] {
            assert!(text.contains(word), "{word} is missing in {text}");
        }
        drop(ws);
        eventually("no session", || (server.get("/admin/sessions").data() == json!([])).then_some(()));
    });
}

#[test]
fn a_session_can_be_closed() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
        let sessions = server.get("/admin/sessions").data();
        let id = sessions[0]["name"].as_str().and_then(|name| name.strip_prefix("session/")).expect("session/<id>");
        server.request("DELETE", &format!("/admin/sessions/{id}")).send().data();
        let (close, _) = ws.recv_close();
        assert!(close.is_some_and(|c| u16::from(c.code) >= 4000));
        server.request("DELETE", "/admin/sessions/999999").send().error(404);
    });
}

/// Every node of the tree that has a kind.
#[test]
fn commands_without_arguments_take_none() {
    let server = Server::builder().env("EVENT_HANDLER__SERVICES__BILLING__URL", "http://127.0.0.1:1").start();
    for path in ["/admin/services/billing/pause", "/admin/drain"] {
        let post = |body: &str| server.post(path, body);
        assert_eq!(post("{").error(400)["code"], "malformed_json", "{path}");
        assert_eq!(post("[]").error(422)["field"], "body", "{path}");
        assert_eq!(post(r#"{"spread":"9s"}"#).error(422)["field"], "spread", "{path}");
        let text = server.request("POST", path).header("Content-Type", "text/plain").body("{}").send();
        assert_eq!(text.error(415)["code"], "unsupported_media_type", "{path}");
    }
    assert_eq!(server.get("/health/ready").status, 200, "what was refused did nothing");
    let paused = eventually("the client is there", || {
        let answer = server.post("/admin/services/billing/pause", "{}");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(paused.data()["state"], "paused");
    server.post("/admin/drain", "{}").data();
    assert_eq!(server.get("/health/ready").status, 503);
}

fn flatten(value: &Value) -> Vec<&Value> {
    let below = match value {
        Value::Array(items) => items.iter().flat_map(flatten).collect(),
        Value::Object(fields) => fields.values().flat_map(flatten).collect(),
        _ => Vec::new(),
    };
    let own = Some(value).filter(|v| v["kind"].is_string());
    own.into_iter().chain(below).collect()
}

/// Who, what, and with which result. What only counts, asks or is refused has done nothing.
#[test]
fn what_operators_do_is_an_event() {
    let service = Service::start();
    let server = service.configure(Server::builder().backend(Backend::Sqlite), "eliza", &[]).start();
    server.post("/admin/deliveries/redrive", json!({"service": "eliza", "dry_run": true})).data();
    server.post("/admin/explain", json!({"event_name": "a"})).data();
    server.post("/admin/services/none/pause", "").error(404);
    server.post("/admin/services/eliza/pause", "").data();
    let revocation = json!({"kind": "sub", "value": "mallory"});
    server.post("/admin/revocations", &revocation).data();
    let change = json!({"state": "maintenance", "reason": "a test"});
    assert_eq!(server.request("PUT", "/system").bearer(server.admin_token()).json(&change).send().status, 202);
    let told = eventually("all are told of", || {
        let told = server.events("?event_name=$sys.admin.action");
        (told.len() == 3).then_some(told)
    });
    let shown: Vec<_> = told.iter().map(|event| &event["payload"]).collect();
    let row = |what: &str, body: Value, status: u16| {
        let who = json!({"kind": "token", "name": "admin.token", "peer": "127.0.0.1"});
        json!({"who": who, "what": what, "body": body, "result": status})
    };
    let expected = [
        row("POST /admin/services/eliza/pause", Value::Null, 200),
        row("POST /admin/revocations", revocation, 200),
        row("PUT /system", change, 202),
    ];
    assert_eq!(shown, expected.iter().collect::<Vec<_>>());
}

#[test]
fn what_an_operator_has_done_who_is_gone_before_the_answer_is_an_event_too() {
    let server = patient().start();
    // A reset may overtake the request.
    let name = (0..20).map(|turn| format!("type{turn}")).find(|name| {
        let mut store = lock(&server);
        let request = server.request("PUT", &format!("/event-types/{name}")).bearer(server.admin_token());
        let request = request.json(json!({ "schema": true })).encode();
        let mut client = TcpStream::connect(server.addr()).expect("a connection");
        client.write_all(&request).expect("sent");
        (0..5).for_each(|_| assert_eq!(server.get("/health").status, 200));
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a reset");
        drop(client);
        (0..5).for_each(|_| assert_eq!(server.get("/health").status, 200));
        store.batch_execute("COMMIT").expect("no lock any more");
        // What is published afterwards is stored afterwards.
        server.publish("a", json!({}));
        server.get(&format!("/event-types/{name}")).status == 200
    });
    let what = format!("PUT /event-types/{}", name.expect("one is stored"));
    eventually("it is told of", || {
        let told = server.events("?event_name=$sys.admin.action");
        told.iter().any(|event| event["payload"]["what"] == what.as_str()).then_some(())
    });
}
