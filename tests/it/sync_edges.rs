//! The edges of services that keep a copy of entities: configuration, access, what is shown, and the example.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::{command, errors, run, text};
use crate::support::http::Request;
use crate::support::program::{Program, command as program, root};
use crate::support::server::Builder;
use crate::support::tokens::bearer;
use crate::support::{Backend, Server, eventually, for_each_backend};

const SERVICES: &str = r#"
    [[services]]
    name = "copy"
    url = "http://127.0.0.1:9"
    routes = ["state.*.changed"]
    sync = { types = ["auction", "bid"] }
    [[services]]
    name = "other"
    url = "http://127.0.0.1:9"
"#;

fn with(config: &str) -> Builder {
    Server::builder().file("sync.toml", config).env("EVENT_HANDLER_CONFIG", "sync.toml")
}

#[test]
fn what_is_configured_is_shown_and_can_be_asked_for() {
    for_each_backend(|backend| {
        let server = with(SERVICES).backend(backend).start();
        let shown = server.get("/admin/sync").data();
        let named = |of: &Value| (of["service"].clone(), of["type"].clone());
        assert_eq!(named(&shown[0]), (json!("copy"), json!("auction")), "{shown}");
        assert_eq!(named(&shown[1]), (json!("copy"), json!("bid")));
        assert_eq!(shown.as_array().map(Vec::len), Some(2), "other keeps no copy");
        for field in ["state", "as_of", "lag", "checked_at", "next_check_at", "error"] {
            assert!(shown[0].get(field).is_some(), "{field}: {shown}");
        }
        for kind in ["missing", "stale", "extra", "ahead"] {
            assert_eq!(shown[0]["differences"][kind], 0, "{shown}");
        }
        for (path, body) in
            [("check", ""), ("repair", ""), ("repair", "{}"), ("repair", r#"{"ahead":true}"#), ("cancel", "{}")]
        {
            let request = server.request("POST", &format!("/admin/sync/copy/{path}"));
            let answer = if body.is_empty() { request.send() } else { request.json(body).send() };
            assert_eq!((answer.status, &answer.json()["data"][1]["type"]), (202, &json!("bid")), "{path} {body}");
        }
        for (path, body, status, code) in [
            ("sync/copy/repair", r#"{"ahead":1}"#, 422, "invalid_field"),
            ("sync/copy/repair", r#"{"behind":true}"#, 422, "unknown_field"),
            ("sync/copy/check", r#"{"ahead":true}"#, 422, "unknown_field"),
            ("sync/copy/recovered", "{}", 404, "not_found"),
            ("sync/none/check", "{}", 404, "service_not_found"),
            ("sync/other/check", "{}", 409, "not_synced"),
            ("services/copy/sync.check", "{}", 404, "not_found"),
        ] {
            assert_eq!(server.post(&format!("/admin/{path}"), body).error(status)["code"], code, "{path}");
        }
        assert_eq!(Request::new(server.addr(), "GET", "/admin/sync").send().status, 401);
    });
}

#[test]
fn a_service_wishes_to_be_compared_with_a_token_that_reads_all_its_types() {
    let tokens = [
        ("all", "scopes = { read = [\"state.>\"] }"),
        ("one", "scopes = { read = [\"state.auction.changed\"] }"),
        ("writer", "scopes = { publish = [\">\"] }"),
    ];
    let server = Server::builder().backend(Backend::Sqlite).tokens(&tokens, SERVICES).start();
    let wish = |token: &str, name: &str| {
        let request = server.request("POST", &format!("/state/sync/{name}"));
        if token.is_empty() { request } else { request.header("Authorization", &bearer(token)) }.send()
    };
    assert_eq!(wish("all", "copy").status, 202);
    assert_eq!(wish("all", "other").error(409)["code"], "not_synced");
    let none = wish("all", "none").error(404);
    assert_eq!(none, json!({"code": "service_not_found"}), "it names no service");
    assert_eq!(wish("one", "copy").error(403)["event_name"], "state.bid.changed");
    assert_eq!(wish("writer", "copy").status, 403);
    assert_eq!(wish("", "copy").status, 401);
}

#[test]
fn entities_of_a_type_called_sync_are_entities() {
    let server = with(SERVICES).backend(Backend::Sqlite).start();
    assert_eq!(crate::state::put(&server, "sync/copy", 1, &[]).status, 201);
    assert_eq!(server.get("/state/sync/copy").data()["value"], 1);
    assert_eq!(server.request("POST", "/state/sync/copy").send().status, 202);
    let other = server.request("POST", "/state/auction/copy").send();
    assert_eq!((other.status, other.header("allow")), (405, Some("GET, HEAD, PUT, DELETE")));
}

#[test]
fn a_type_without_a_route_stops_the_start() {
    let output = with(&SERVICES.replace("state.*.changed", "state.auction.changed")).run();
    let reason = r#"services.copy.sync: types: "bid": no route of the service has all of "state.bid.changed""#;
    assert!(errors(&output).contains(reason), "{output:?}");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn an_operator_sees_and_asks_from_the_command_line() {
    let server = with(SERVICES).backend(Backend::Sqlite).start();
    let table = run(&server, &["sync"]);
    let lines: Vec<&str> = text(&table).lines().collect();
    assert!(lines[0].starts_with("SERVICE  TYPE") && lines[1].starts_with("copy     auction"), "{lines:?}");
    assert_eq!(text(&run(&server, &["sync", "list", "--json"])).lines().count(), 2);
    for verb in [&["check"][..], &["cancel"], &["repair"], &["repair", "--ahead"]] {
        let told = run(&server, &[&["sync"], &verb[..1], &["copy"], &verb[1..]].concat());
        assert!(text(&told).contains("bid"), "{told:?}");
    }
    for (wrong, code) in
        [(&["sync", "check"][..], 2), (&["sync", "check", "copy", "--ahead"], 2), (&["sync", "check", "other"], 1)]
    {
        assert_eq!(command(&server, wrong).status.code(), Some(code), "{wrong:?}");
    }
}

#[test]
fn the_example_service_keeps_a_copy_and_tells_its_digests() {
    let dir = TempDir::new().expect("a folder");
    let start = |address: &str| {
        let mut python = program("python3");
        python.env("PYTHONDONTWRITEBYTECODE", "1").arg(root().join("examples/python/synced_service.py"));
        Program::start(python.args([address, "copy.db"]).current_dir(dir.path()))
    };
    let listening = |line: &str| line.strip_prefix("listening on ").map(str::to_owned);
    let service = start("127.0.0.1:0");
    let address = service.wait_for_word(listening);
    let config = format!(
        "[[services]]\nname = \"copy\"\nurl = \"http://{address}\"\nroutes = [\"state.*.changed\"]\n\
         retry_cap = \"1s\"\nsync = {{ types = [\"auction\"] }}\n"
    );
    let server = with(&config).backend(Backend::Sqlite).start();
    let fill = |from: u32| {
        (from..from + 20)
            .for_each(|n| assert_eq!(crate::state::put(&server, &format!("auction/{n}"), n, &[]).status, 201));
        assert_eq!(crate::state::delete(&server, &format!("auction/{from}"), &[]).status, 200);
    };
    let theirs = |path: &str| Request::new(address.parse().expect("an address"), "GET", path).send().json();
    let agree = || {
        eventually("the copy is whole", || {
            // Events of other names are no business of the copy, so it may be behind.
            let sums = |of: Value| (of["count"].clone(), of["buckets"].clone());
            let ours = sums(server.get("/state/auction/digest?buckets=16").data());
            (sums(theirs("/sync/auction/digest?buckets=16")) == ours).then_some(())
        });
        for number in 0..16 {
            let bucket = format!("digest/{number}?buckets=16");
            let sorted = |mut of: Value| {
                of.as_array_mut().expect("a list").sort_by_key(|entity| entity["key"].as_str().map(str::to_owned));
                of
            };
            let ours = server.get(&format!("/state/auction/{bucket}")).data();
            assert_eq!(sorted(theirs(&format!("/sync/auction/{bucket}"))), sorted(ours), "{number}");
        }
    };
    fill(0);
    agree();
    drop(service);
    fill(100);
    let service = start(&address);
    service.wait_for_word(listening);
    agree();

    // It loses an entity, and goes back to what another one was; then it wishes to be compared.
    drop(service);
    let spoil = "import sqlite3; db = sqlite3.connect('copy.db', isolation_level=None); \
                 db.execute(\"DELETE FROM entities WHERE key = '105'\"); \
                 db.execute(\"UPDATE entities SET version = 1 WHERE key = '106'\")";
    let spoilt = program("python3").args(["-c", spoil]).current_dir(dir.path()).status();
    assert!(spoilt.expect("python3").success());
    let service = start(&address);
    service.wait_for_word(listening);
    assert_eq!(server.request("POST", "/state/sync/copy").send().status, 202);
    agree();
    eventually("the store knows it", || (server.get("/admin/sync").data()[0]["state"] == "synced").then_some(()));
    let diverged = server.events("?event_name=$sys.state.diverged");
    // A check that was under way when it was spoilt may have found a part of it.
    assert!(diverged.iter().any(|event| event["payload"]["counts"]["missing"] == 1), "{diverged:?}");
}
