//! The SQLite file: one process at a time, and one that can be used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Instant;

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};
use serde_json::{Value, json};

use crate::support::{Backend, Server, eventually};

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_successor_waits_until_the_first_has_ended_and_misses_nothing() {
    let mut first = Server::start(Backend::Sqlite);
    first.publish("a", json!(1));
    let successor = first.spec().launch();
    let line = successor.wait_for_log(|line| line["msg"] == "waiting for the store");
    assert!(line["error"].as_str().is_some_and(|text| text.ends_with(&format!("process {}", first.pid()))), "{line}");
    let last = first.publish("a", json!(2));
    assert!(first.terminate().success(), "{}", first.log_text());
    let successor = successor.into_server();
    assert_eq!(successor.events("").last().map(|event| event["id"].clone()), Some(json!(last)));
    assert_eq!(successor.publish("a", json!(3)), last + 1);
}

#[test]
fn a_second_process_on_one_file_ends_with_78_naming_the_first() {
    let mut first = Server::start(Backend::Sqlite);
    let second = first.spec().env("EVENT_HANDLER__SERVER__SHUTDOWN_GRACE", "300ms");
    let begin = Instant::now();
    let refused = second.run();
    assert!(begin.elapsed().as_millis() >= 300, "the first may be about to end");
    assert_eq!(refused.status.code(), Some(78), "{}", errors(&refused));
    let line = errors(&refused).lines().last().map(str::to_owned).unwrap_or_default();
    assert!(line.starts_with("environment variable DATABASE_URL: store.url: "), "{line}");
    assert!(line.contains("events.db") && line.ends_with(&format!("in use by process {}", first.pid())), "{line}");
    // What asks the service, or finds nothing to do, is in nobody's way.
    let at_first = first.spec().env("PORT", first.addr().port());
    for args in [&["publish", "a"][..], &["events"], &["health"], &["migrate"]] {
        let output = args.iter().fold(at_first.clone(), |builder, arg| builder.arg(arg)).run();
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
    }
    // However the first ends, it leaves no lock behind.
    first.kill9();
    let heir = second.start();
    assert_eq!(heir.events("").len(), 1);
}

#[test]
fn a_store_that_cannot_be_used_stops_the_start() {
    let builder = Server::builder().file("notes.txt", "no database at all\n");
    let dir = builder.dir().to_owned();
    for name in ["folder.db", "locked"] {
        fs::create_dir(dir.join(name)).expect("a folder");
    }
    fs::set_permissions(dir.join("locked"), fs::Permissions::from_mode(0o555)).expect("our folder");
    let without_privileges = Server::builder().launched_by(&["--bounding-set=-all"]);
    let is_root = fs::write(dir.join("locked/probe"), "").is_ok();
    for (url, why) in [
        ("sqlite:folder.db", "is a directory"),
        ("sqlite:notes.txt", "is not a SQLite database"),
        ("sqlite:missing/events.db", "there is no directory missing"),
        ("sqlite:locked/events.db", "Permission denied"),
    ] {
        let builder = if is_root && url.contains("locked") {
            let _ = fs::remove_file(dir.join("locked/probe"));
            without_privileges.clone().env("DATABASE_URL", format!("sqlite:{}", dir.join("locked/events.db").display()))
        } else {
            builder.clone().env("DATABASE_URL", url)
        };
        for command in ["serve", "migrate"] {
            let output = builder.clone().arg(command).run();
            let text = errors(&output);
            assert_eq!(output.status.code(), Some(78), "{url}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("DATABASE_URL: store.url: ") && text.contains(why), "{url}: {text}");
        }
    }
    assert!(!dir.join("missing").exists());
    assert_eq!(fs::read_to_string(dir.join("notes.txt")).expect("a file"), "no database at all\n");
    // The default's own directory is made.
    let server = builder.start();
    server.publish("a", json!(1));
    assert!(dir.join("data/event-handler.db").exists());
}

#[test]
fn after_a_clean_stop_the_file_alone_is_the_whole_store() {
    let mut server = Server::start(Backend::Sqlite);
    let mut subscriber = server.ws();
    subscriber.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    for n in 1..=3 {
        server.publish("a", json!(n));
    }
    assert_eq!(server.events("").len(), 3);
    assert!(server.terminate().success(), "{}", server.log_text());
    let copy = Server::builder().backend(Backend::Sqlite);
    fs::copy(server.dir().join("events.db"), copy.dir().join("events.db")).expect("a copy");
    let copy = copy.start();
    assert_eq!(copy.events("").len(), 3);
    let mut left: Vec<_> =
        fs::read_dir(server.dir()).expect("our folder").flatten().map(|file| file.file_name()).collect();
    left.retain(|name| name.to_string_lossy().starts_with("events.db-"));
    assert_eq!(left, [] as [&str; 0], "closed: nothing lies beside it");
}

/// The last connection to a file empties the write-ahead log by closing; here another program has one open.
#[test]
fn after_a_clean_stop_the_file_has_everything_though_another_program_has_it_open() {
    let mut server = Server::start(Backend::Sqlite);
    let path = server.dir().join("events.db");
    let mut other = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
    other.batch_execute("SELECT count(*) FROM events").expect("a look");
    server.publish("a", json!(1));
    assert!(server.terminate().success(), "{}", server.log_text());
    let copy = Server::builder().backend(Backend::Sqlite);
    fs::copy(&path, copy.dir().join("events.db")).expect("a copy");
    assert_eq!(copy.start().events("").len(), 1);
    drop(other);
}

#[test]
fn the_file_shrinks_after_retention_while_others_publish() {
    let mut server = Server::start(Backend::Sqlite);
    let payload = "x".repeat(2000);
    for _ in 0..10 {
        let items: Vec<Value> = (0..1000).map(|_| json!({"event_name": "a", "payload": payload})).collect();
        server.post("/publish/batch", Value::from(items)).data();
    }
    assert!(server.terminate().success(), "{}", server.log_text());
    let path = server.dir().join("events.db");
    let length = || fs::metadata(&path).expect("a file").len();
    let full = length();
    assert!(full > 20_000_000, "{full}");
    let server = server.spec().env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 100).start();
    eventually("the file is small", || {
        server.publish("b", json!(1));
        (length() < full / 8).then_some(())
    });
    // What has to be written anew as a whole is for when nobody uses it.
    let refused = server.spec().arg("compact").run();
    assert_eq!(refused.status.code(), Some(78), "{}", errors(&refused));
    assert!(errors(&refused).contains(&format!("in use by process {}", server.pid())), "{}", errors(&refused));
    let mut server = server;
    assert!(server.terminate().success(), "{}", server.log_text());
    let before = length();
    let compacted = server.spec().arg("compact").run();
    assert!(compacted.status.success(), "{}", errors(&compacted));
    let text = String::from_utf8_lossy(&compacted.stdout).into_owned();
    assert!(text.contains(&format!("{before} bytes before, {} now", length())), "{text}");
    assert!(length() < before, "{text}");
    server.restart();
    assert!(!server.events("?event_name=b").is_empty());
}
