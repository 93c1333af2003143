//! What operators do from the command line.

use serde_json::{Value, json};

use crate::support::command::{command, errors, run, text, with};
use crate::support::service::{Answer, Service};
use crate::support::{Server, eventually, for_each_backend};

#[test]
fn publish_for_later_prints_the_schedule_which_can_be_listed_and_cancelled() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        assert!(errors(&run(&server, &["schedules"])).contains("nothing is scheduled"));
        let payload = r#"{"n":12345678901234567890123}"#;
        let mut ids = Vec::new();
        for due in ["2999-12-31T23:00:00Z", "2998-01-01T00:00:00+01:00"] {
            let printed = run(&server, &["publish", "a", payload, "--deliver-at", due, "--idempotency-key", due]);
            ids.push(text(&printed).trim().to_owned());
            let again = run(&server, &["publish", "a", payload, "--deliver-at", due, "--idempotency-key", due]);
            assert!(errors(&again).contains("schedule sch_"), "{again:?}");
        }
        assert_eq!(server.events(""), [] as [Value; 0]);
        let table = run(&server, &["schedules"]);
        let lines: Vec<&str> = text(&table).lines().collect();
        assert!(lines[0].starts_with("SCHEDULE") && lines[1].starts_with(&ids[1]), "{lines:?}");
        assert!(lines[1].contains("2997-12-31T23:00:00"), "{lines:?}");
        let all = run(&server, &["schedules", "--all", "--limit", "1", "--json"]);
        assert_eq!(text(&all).matches(payload).count(), 2, "{all:?}");
        run(&server, &["schedules", "cancel", &ids[0]]);
        let again = command(&server, &["schedules", "cancel", &ids[0]]);
        assert_eq!((again.status.code(), errors(&again).contains("schedule_not_found")), (Some(1), true), "{again:?}");
        assert_eq!(text(&run(&server, &["schedules", "--json"])).lines().count(), 1);
        let refused = command(&server, &["publish", "a", "--deliver-at", "soon"]);
        assert_eq!((refused.status.code(), errors(&refused).contains("deliver_at")), (Some(1), true), "{refused:?}");
    });
}

#[test]
fn an_operator_sees_and_steers_everything_from_the_command_line() {
    let service = Service::answering(|_| Answer::Status(400));
    let server = service.configure(Server::builder(), "eliza", &[]).start();
    let id = server.publish("order.paid", json!({"n": 1})).to_string();
    service.wait_for(1);
    let dead = eventually("it is dead", || {
        let trace = run(&server, &["trace", &id]);
        text(&trace).contains("dead").then_some(trace)
    });
    let traced: Vec<&str> = text(&dead).lines().collect();
    assert!(traced[0].contains("order.paid  {\"n\":1}") && traced[1].starts_with("pushed to 0"), "{traced:?}");
    assert!(traced[3].contains("eliza") && traced[3].contains("400"), "{traced:?}");
    let json = run(&server, &["trace", &id, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(text(&json)).expect("JSON")["event"]["event_name"], "order.paid");
    assert_eq!(command(&server, &["trace", "999"]).status.code(), Some(1));

    service.answer(200);
    assert!(text(&run(&server, &["replay", "eliza", "--from", "1", "--dry-run"])).contains("1 would be sent"));
    assert!(errors(&run(&server, &["jobs"])).contains("no jobs"));
    let begun = run(&server, &["replay", "eliza", "--from", "1", "--event-name", "order.*"]);
    assert_eq!(text(&begun), "eliza: sending 1 (job 1)\n");
    service.wait_for_accepted(&[1]);
    eventually("the job is done", || text(&run(&server, &["jobs"])).contains("done").then_some(()));
    let jobs = run(&server, &["jobs", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(text(&jobs)).expect("one line")["kind"], "replay");
    let over = command(&server, &["jobs", "cancel", "1"]);
    assert_eq!((over.status.code(), errors(&over).contains("job_not_running")), (Some(1), true), "{over:?}");
    assert_eq!(command(&server, &["replay", "eliza"]).status.code(), Some(2));
    assert!(errors(&command(&server, &["replay", "nobody", "--from", "1"])).contains("eliza"));

    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "order.>", "id": 1, "durable": "audit"}));
    let explained = run(&server, &["explain", "user.created", "{}"]);
    let rows: Vec<&str> = text(&explained).lines().collect();
    assert!(rows[1].starts_with("service") && rows[1].contains("yes"), "{rows:?}");
    assert!(rows[2].starts_with("consumer") && rows[2].contains("no       its event_name"), "{rows:?}");
    assert!(text(&run(&server, &["explain", "order.paid", "--json"])).contains("\"durable\":\"audit\""));

    let consumers = run(&server, &["consumers"]);
    assert!(text(&consumers).lines().nth(1).is_some_and(|row| row.starts_with("audit     order.>")), "{consumers:?}");
    assert_eq!(
        text(&run(&server, &["consumers", "seek", "audit", "--after", "earliest"])),
        "audit goes on after event 0\n"
    );
    assert_eq!(ws.recv_json()["id"], 1);
    assert_eq!(command(&server, &["consumers", "seek", "audit"]).status.code(), Some(2));
    run(&server, &["consumers", "delete", "audit"]);
    assert!(errors(&run(&server, &["consumers"])).contains("no durable"));

    let plain = server.ws();
    let sessions = run(&server, &["sessions", "--json"]);
    let sessions: Vec<Value> = text(&sessions).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let ids: Vec<String> = sessions.iter().map(|session| session["id"].to_string()).collect();
    assert_eq!(text(&run(&server, &["sessions", "close", &ids[0]])), format!("session {} is closed\n", ids[0]));
    eventually("it is gone", || (text(&run(&server, &["sessions"])).lines().count() == 2).then_some(()));
    assert_eq!(command(&server, &["sessions", "close", &ids[0]]).status.code(), Some(1));

    assert!(text(&run(&server, &["system"])).starts_with("running since "));
    let changed = run(&server, &["system", "maintenance", "--reason", "upgrade", "--json"]);
    let changed: Value = serde_json::from_str(text(&changed)).expect("JSON");
    assert_eq!((&changed["state"], &changed["reason"]), (&json!("maintenance"), &json!("upgrade")));
    assert!(errors(&command(&server, &["system", "running", "--barrier", "nobody"])).contains("nobody"));
    assert!(text(&run(&server, &["system", "running"])).starts_with("running since "));
    assert_eq!(command(&server, &["system", "--reason", "x"]).status.code(), Some(2));

    assert!(text(&run(&server, &["drain"])).starts_with("draining: "));
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(text(&run(&server, &["drain", "--undo"])), "draining no more\n");
    assert_eq!(server.get("/health/ready").status, 200);
    drop(plain);
}

#[test]
fn token_new_prints_a_section_that_works_and_revoke_ends_it() {
    let made = |args: &[&str]| {
        let output = with(Server::builder(), &[&["token", "new"], args].concat()).run();
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output).to_owned()
    };
    let (default, admin) = (made(&[]), made(&["--name", "operator", "--admin"]));
    assert!(default.contains(r#"scopes = { publish = [">"], subscribe = [">"], read = [">"] }"#), "{default}");
    assert!(admin.contains("scopes = { admin = true }"), "{admin}");
    let scopes = ["--name", "shop", "--publish", "order.>", "--publish", "a", "--read", "order.>"];
    let shop = made(&[&scopes[..], &["--expires-in", "90d"]].concat());
    assert!(shop.contains(r#"scopes = { publish = ["order.>", "a"], read = ["order.>"] }"#), "{shop}");
    let old = made(&["--name", "old", "--publish", ">", "--expires-at", "2020-01-01T00:00:00Z"]);
    let token = |text: &str| text.lines().find(|line| line.starts_with("eh_")).expect("a token").to_owned();
    let config: String =
        [&admin, &shop, &old].map(|text| text.split("\n\n").nth(1).expect("a section").to_owned()).join("\n");
    let server = Server::builder().file("config.toml", &config).env("EVENT_HANDLER_CONFIG", "config.toml").start();
    let publish = |name: &str, token: &str| command(&server, &["publish", name, "1", "--token", token]);
    assert!(publish("order.paid", &token(&shop)).status.success());
    for (name, token) in [("user.created", token(&shop)), ("order.paid", token(&old)), ("order.paid", token(&admin))] {
        assert_eq!(publish(name, &token).status.code(), Some(1));
    }
    let as_admin = |args: &[&str]| command(&server, &[args, &["--token", &token(&admin)]].concat());
    assert_eq!(text(&as_admin(&["token", "revoke", "shop"])), "token shop is revoked\n");
    assert_eq!(publish("order.paid", &token(&shop)).status.code(), Some(1));
    assert_eq!(text(&as_admin(&["token", "revoke", "shop", "--undo"])), "token shop is restored\n");
    assert!(publish("order.paid", &token(&shop)).status.success());
    assert_eq!(text(&as_admin(&["token", "revoke", "--sub", "a b/c"])), "sub a b/c is revoked\n");
    assert_eq!(text(&as_admin(&["token", "revoke", "--sub", "a b/c", "--undo"])), "sub a b/c is restored\n");
    assert!(errors(&as_admin(&["token", "revoke", "nobody"])).contains("token_not_found"));
    for bad in
        [&["token", "revoke"][..], &["token", "new", "--publish", "a..b"], &["token", "new", "--expires-in", "x"]]
    {
        assert_eq!(with(Server::builder(), bad).run().status.code(), Some(2), "{bad:?}");
    }
}
