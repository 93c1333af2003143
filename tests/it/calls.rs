//! Calls of the store: what is known of one when the node that makes it is killed.

use std::path::Path;

use crate::support::program::command;
use crate::support::service::{Answer, Service};
use crate::support::{Backend, Server, eventually};

/// What SQLite answers to a statement, its values separated by spaces.
fn sql(file: &Path, statement: &str) -> String {
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10); \
                  print(*[value for row in db.execute(sys.argv[2]) for value in row])";
    let output = command("python3").args(["-c", script]).arg(file).arg(statement).output().expect("python3");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// CA-1 and CA-2 over a crash between the request and its answer: what was under way may be done, so that a 409 after it
/// does not say that it was not; what had not been sent is refused by the same answer.
#[test]
fn a_call_that_was_under_way_in_a_crash_may_be_done() {
    let service = Service::answering(|_| Answer::Hang);
    let mut server =
        service.configure(Server::builder(), "bank", &[("concurrency", "1")]).backend(Backend::Sqlite).start();
    let file = server.dir().join("events.db");
    let id = sql(&file, "SELECT id FROM services WHERE name = 'bank'");
    server.terminate();
    for (tag, key) in [("under_way", "saga/1/a"), ("waiting", "saga/1/b")] {
        let request = format!(
            r#"{{"method":"POST","path":"/transfers","headers":[["Saga-Id","1"]],"body":"{{}}","idempotency_key":"{key}"}}"#
        );
        let policy = r#"{"kind":"action","max_attempts":5,"retry_base":{"secs":0,"nanos":1000000},"retry_cap":{"secs":1,"nanos":0}}"#;
        let insert = format!(
            "INSERT INTO calls (service, owner, tag, lane, request, policy, due_at, state, attempts, may_be_done) \
             VALUES ({id}, 'saga', '{tag}', 1, '{request}', '{policy}', 0, 0, 0, 0)"
        );
        sql(&file, &insert);
    }
    server.restart();
    service.wait_for(1);
    assert_eq!(sql(&file, "SELECT may_be_done FROM calls ORDER BY id"), "1 0", "only what is sent is begun");
    server.kill9();
    service.answer(409);
    server.restart();
    let ended = eventually("both have ended", || {
        let ended = sql(&file, "SELECT tag, json_extract(last, '$.end') FROM calls WHERE state = 3 ORDER BY tag");
        (ended.split(' ').count() == 4).then_some(ended)
    });
    assert_eq!(ended, "under_way unknown waiting refused");
    assert_eq!(sql(&file, "SELECT sum(place), (SELECT last FROM call_ends) FROM calls"), "3 2");
}
