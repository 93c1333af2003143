//! Services that were removed or renamed: what they leave is seen, moved, or cancelled.

use serde_json::{Value, json};

use crate::services::{HASTY, deliveries};
use crate::support::server::Builder;
use crate::support::{Answer, Backend, Server, Service, eventually, for_each_backend};

/// What the log says of open deliveries that nobody makes.
const WARNING: &str = "deliveries of a service that is not configured";

/// Two events, of which `old` has refused the first; then it is renamed to `new`.
fn renamed(backend: Backend, old: &Service, new: &Service) -> (Server, [i64; 2]) {
    let before = Server::builder().backend(backend);
    let mut server = old.configure(before.clone(), "old", HASTY).start();
    let first = server.publish("a", json!({"n": 1}));
    eventually("it is dead", || deliveries(&server, "?service=old&state=dead").pop());
    eventually("it is active", || {
        let paused = server.post("/admin/services/old/pause", "");
        (paused.status == 200).then_some(())
    });
    let second = server.publish("a", json!({"n": 2}));
    server.terminate();
    (new.configure(before, "new", HASTY).start(), [first, second])
}

fn orphaned(server: &Server) -> Value {
    server.get("/admin/services").json()["orphaned"].clone()
}

fn ask(server: &Server, path: &str, body: Value) -> Value {
    server.post(&format!("/admin/deliveries/{path}"), body).data()
}

fn command(server: &Server, builder: Builder) -> String {
    let output = builder.env("PORT", server.addr().port()).arg("services").run();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_a_renamed_service_has_left_is_seen_and_moved() {
    for_each_backend(|backend| {
        let (old, new) = (Service::answering(|_| Answer::Status(400)), Service::start());
        let (server, [first, second]) = renamed(backend, &old, &new);
        server.wait_for_log(|line| line["service"] == "old" && line["pending"] == 1 && line["dead"] == 1);
        assert_eq!(orphaned(&server), json!([{"service": "old", "pending": 1, "dead": 1}]));
        assert!(command(&server, server.spec()).contains("old is not configured"), "the command says it too");
        assert_eq!(deliveries(&server, "?service=old").len(), 2, "they are listed by their service");
        assert_eq!(deliveries(&server, "").len(), 2, "and with all others");
        let third = server.publish("a", json!({"n": 3}));
        new.wait_for_accepted(&[third]);

        let counted = ask(&server, "move", json!({"from": "old", "to": "new", "dry_run": true}));
        assert_eq!((&counted["pending"], &counted["dead"]), (&json!(1), &json!(1)), "{counted}");
        assert_eq!(new.ids(), [third], "nothing was done");
        let moved = ask(&server, "move", json!({"from": "old", "to": "new"}));
        assert_eq!((&moved["count"], &moved["dry_run"]), (&json!(2), &json!(false)), "{moved}");
        new.wait_for_accepted(&[second, third]);
        assert_eq!(orphaned(&server), json!([]));
        eventually("it is settled", || {
            let told = server.get("/admin/services/new").data();
            (told["pending"] == 0 && told["dead"] == 1).then_some(())
        });
        // What was dead is so still, with its attempts, and can be made anew there.
        let dead = deliveries(&server, &format!("?event_id={first}")).remove(0);
        assert_eq!((&dead["service"], &dead["state"]), (&json!("new"), &json!("dead")), "{dead}");
        assert_eq!(dead["attempt_log"][0]["http_status"], 400, "{dead}");
        server.post("/admin/deliveries/redrive", json!({"service": "new"})).data();
        new.wait_for_accepted(&[first, second, third]);
    });
}

#[test]
fn what_a_removed_service_has_left_is_cancelled() {
    for_each_backend(|backend| {
        let (old, new) = (Service::answering(|_| Answer::Status(400)), Service::start());
        let (mut server, [_, second]) = renamed(backend, &old, &new);
        server.wait_for_log(|line| line["msg"].as_str().is_some_and(|msg| msg.contains(WARNING)));
        assert_eq!(server.get(&format!("/events/{second}")).data()["status"], "pending");
        assert_eq!(ask(&server, "cancel", json!({"service": "old", "dry_run": true}))["count"], 1);
        assert_eq!(ask(&server, "cancel", json!({"service": "old"}))["count"], 1);
        assert_eq!(orphaned(&server), json!([{"service": "old", "pending": 0, "dead": 2}]));
        let cancelled = deliveries(&server, &format!("?event_id={second}")).remove(0);
        assert_eq!((&cancelled["state"], &cancelled["dead_reason"]), (&json!("dead"), &json!("cancelled")));
        assert_eq!(ask(&server, "cancel", json!({"service": "old"}))["count"], 0);
        server.restart();
        server.publish("a", json!({}));
        assert!(!server.log_text().contains(WARNING), "nothing waits: {}", server.log_text());
    });
}

#[test]
fn only_what_nobody_gets_is_moved_and_only_to_somebody() {
    let (old, new) = (Service::answering(|_| Answer::Status(400)), Service::start());
    let (server, _) = renamed(Backend::Sqlite, &old, &new);
    let refused = |path: &str, body: Value| server.post(&format!("/admin/deliveries/{path}"), body).error(422);
    for (path, body, field) in [
        ("move", json!({"from": "old", "to": "nobody"}), "to"),
        ("move", json!({"from": "old", "to": "old"}), "to"),
        ("move", json!({"from": "new", "to": "new"}), "from"),
        ("move", json!({"from": "nobody", "to": "new"}), "from"),
        ("move", json!({"from": "old"}), "to"),
        ("move", json!({"from": "old", "to": "new", "all": true}), "all"),
        ("cancel", json!({"service": "new"}), "service"),
        ("cancel", json!({}), "service"),
        ("redrive", json!({"service": "old"}), "service"),
    ] {
        assert_eq!(refused(path, body.clone())["field"], field, "{path} {body}");
    }
    assert_eq!(orphaned(&server), json!([{"service": "old", "pending": 1, "dead": 1}]));
}
