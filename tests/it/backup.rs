//! `event-handler backup` and `event-handler restore`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::json;

use crate::support::load::Publishers;
use crate::support::{Backend, Server};

fn run(server: &Server, arguments: &[&str]) -> Output {
    arguments.iter().fold(server.spec(), |spec, argument| spec.arg(argument)).run()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn log_id(server: &Server) -> String {
    server.get("/events").header("event-log").expect("an identity").to_owned()
}

#[test]
fn a_backup_under_load_is_whole_and_can_be_restored_as_another_log() {
    let mut server = Server::start(Backend::Sqlite);
    fs::set_permissions(server.dir().join("events.db"), fs::Permissions::from_mode(0o600)).expect("permissions");
    let publishers = Publishers::start(&server, 3);
    publishers.wait_for_acknowledged(300);
    let backup = run(&server, &["backup", "copy.db"]);
    assert!(backup.status.success(), "{}", said(&backup));
    publishers.wait_for_acknowledged(300);
    let published = publishers.stop();
    let log = log_id(&server);
    let said_last: i64 = said(&backup).trim().rsplit(' ').next().and_then(|id| id.parse().ok()).expect("an id");
    assert!(said(&backup).contains(&log) && said_last >= 300, "{}", said(&backup));
    let copy = server.dir().join("copy.db");
    assert_eq!(fs::metadata(&copy).expect("a file").permissions().mode() & 0o777, 0o600, "as private as the store");
    let names = fs::read_dir(server.dir()).expect("a folder").flatten().map(|entry| entry.file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().starts_with("copy.db")).count(), 1, "one file");
    let again = run(&server, &["backup", "copy.db"]);
    assert!(again.status.code() == Some(1) && said(&again).contains("exists"), "{}", said(&again));

    let under_way = run(&server, &["restore", "copy.db"]);
    assert!(said(&under_way).contains("is in use by process"), "{}", said(&under_way));
    server.kill9();
    let restored = run(&server, &["restore", "copy.db"]);
    assert!(restored.status.success(), "{}", said(&restored));
    server.restart();
    let shown = *published.acknowledged.keys().next_back().expect("events");
    let told = server.events("?event_name=$sys.log.restored").remove(0);
    assert!(told["id"].as_i64().is_some_and(|id| id > shown), "{told}");
    assert_eq!(told["payload"]["previous_log_id"], json!(log));
    assert_eq!((&told["payload"]["last_id"], &told["payload"]["known_last_id"]), (&json!(said_last), &json!(shown)));
    let new = log_id(&server);
    assert_eq!((told["payload"]["log_id"].as_str(), new != log), (Some(&*new), true));
    let known: Vec<_> = published.acknowledged.iter().filter(|(id, _)| **id <= said_last).collect();
    for (id, payload) in [known[0], known[known.len() / 2], known[known.len() - 1]] {
        assert_eq!(server.get(&format!("/events/{id}")).data()["payload"], json!(payload));
    }
    let mut ws = server.ws();
    let request = json!({"id": 1, "action": "subscribe", "event_name": "load", "after": shown, "log_id": log});
    assert_eq!(ws.request(request)["recovered"], false);
    // What was there is kept, whole.
    let kept = server.spec().env("DATABASE_URL", "sqlite:events.db.before-restore").start();
    assert_eq!(kept.get(&format!("/events/{shown}")).data()["payload"], json!(published.acknowledged[&shown]));
    assert_eq!(server.events("?event_name=$sys.log.restored").len(), 1, "told once");
}

#[test]
fn what_is_no_whole_store_is_not_restored() {
    let mut server = Server::start(Backend::Sqlite);
    let big = "x".repeat(2000);
    for _ in 0..100 {
        server.publish("a", json!(big));
    }
    assert!(run(&server, &["backup", "copy.db"]).status.success());
    server.terminate();
    let dir = server.dir();
    let mut bytes = fs::read(dir.join("copy.db")).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20_000].fill(0xa5);
    fs::write(dir.join("damaged.db"), bytes).expect("written");
    fs::write(dir.join("text"), "no database at all, but a text").expect("written");
    fs::write(dir.join("empty"), "").expect("written");
    for (file, reason) in [
        ("damaged.db", "damaged"),
        ("text", "cannot be restored"),
        ("empty", "cannot be restored"),
        ("missing", "is no file"),
    ] {
        let refused = run(&server, &["restore", file]);
        assert!(!refused.status.success() && said(&refused).contains(reason), "{file}: {}", said(&refused));
    }
    let left = fs::read_dir(&dir).expect("a folder").flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().contains("restor")).count(), 0, "nothing is left behind");
    server.restart();
    assert_eq!(server.events("?limit=1000").len(), 100);
}

#[test]
fn an_operator_says_that_postgres_was_restored() {
    let server = Server::start(Backend::Postgres);
    server.publish("a", json!(1));
    let log = log_id(&server);
    for (arguments, advice) in [(["backup", "copy"], "pg_dump"), (["restore", "copy"], "pg_restore")] {
        let refused = run(&server, &arguments);
        assert!(!refused.status.success() && said(&refused).contains(advice), "{}", said(&refused));
    }
    let declared = run(&server, &["restore"]);
    assert!(declared.status.success(), "{}", said(&declared));
    // The running node learns of it.
    crate::support::eventually("it is another log", || (log_id(&server) != log).then_some(()));
    assert!(server.publish("a", json!(2)) > 100_000);
    assert_eq!(server.events("?event_name=$sys.log.restored").len(), 1);
}
