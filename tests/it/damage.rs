//! A SQLite file that is damaged under the service: everybody who meets the damage is told, and so is whoever watches.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, SqliteConnection};
use serde_json::{Value, json};

use crate::support::raw::Raw;
use crate::support::server::{Builder, metric, wait_for_status};
use crate::support::{Backend, Server, Service, eventually};

const EVENTS: i64 = 600;

fn database(server: &Server) -> PathBuf {
    server.dir().join("events.db")
}

/// A server on a log that has to be read from its file.
fn with_history(builder: Builder) -> Server {
    let mut server = builder.backend(Backend::Sqlite).start();
    let payload = "x".repeat(1500);
    let items: Vec<Value> = (1..=EVENTS).map(|_| json!({"event_name": "a.b", "payload": payload})).collect();
    server.post("/publish/batch", Value::from(items)).data();
    assert!(server.terminate().success(), "{}", server.log_text());
    server.restart();
    server
}

/// Overwrites what lies between two hundredths of the file; returns what puts it back.
fn damage(server: &Server, from: usize, to: usize) -> impl Fn() + use<> {
    let path = database(server);
    let whole = fs::read(&path).expect("a file");
    let at = |hundredths: usize| whole.len() * hundredths / 100 / 4096 * 4096;
    let (from, to) = (at(from), at(to));
    let write = move |bytes: &[u8]| {
        let file = OpenOptions::new().write(true).open(&path).expect("a file");
        file.write_all_at(bytes, from as u64).expect("a writable file");
    };
    write(&vec![0xa5; to - from]);
    move || write(&whole[from..to])
}

#[test]
fn who_meets_a_damaged_page_is_told_and_ready_says_so() {
    let server = with_history(Server::builder());
    let mend = damage(&server, 50, 70);
    wait_for_status(&server, "/health/ready", 200);
    assert_eq!(metric(&server, "event_handler_store_up"), 1.0);

    // A subscriber gets what can be read, and is told why there is no more.
    let mut subscriber = server.ws();
    subscriber.send(json!({"action": "subscribe", "event_name": "a.*", "after": 0, "envelope": "full"}));
    let (close, frames) = subscriber.recv_close();
    let close = close.expect("a close frame");
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4103, "history cannot be read"));
    let ids: Vec<i64> =
        frames.iter().map(|f| serde_json::from_str::<Value>(f).expect("JSON")["id"].as_i64().expect("an id")).collect();
    assert_eq!(ids, (1..=ids.len() as i64).collect::<Vec<_>>(), "no gap");
    assert!(!ids.is_empty() && (ids.len() as i64) < EVENTS, "{}", ids.len());

    let ready = wait_for_status(&server, "/health/ready", 503).json();
    let store = &ready["checks"]["store"];
    assert_eq!((&store["status"], &store["reason"]), (&json!("down"), &json!("corrupt")), "{ready}");
    assert!(store["message"].as_str().is_some_and(|message| message.starts_with("cannot be read: ")), "{ready}");
    assert_eq!(metric(&server, "event_handler_store_up"), 0.0);
    assert!(metric(&server, r#"event_handler_store_read_errors_total{kind="corrupt"}"#) >= 1.0);
    server.wait_for_log(|line| line["level"] == "error" && line["msg"] == "the store cannot be read");
    server.wait_for_log(|line| line["msg"] == "history cannot be read, closing the client");
    assert_eq!(server.get("/health").status, 200);
    // What is new is not concerned.
    let last = server.publish("a.b", json!("new"));
    assert_eq!(server.events(&format!("?after={}", last - 1)).len(), 1);

    // The same for all who read.
    let mut stream = Raw::connect(server.addr());
    stream.send(b"GET /events/stream?event_name=a.b&after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let text = String::from_utf8_lossy(&stream.rest()).into_owned();
    let end: String = text.chars().skip(text.len().saturating_sub(200)).collect();
    assert!(end.contains("\n: history cannot be read\nretry: "), "{end}");
    let mut member = server.ws();
    member.send(json!({"action": "subscribe", "event_name": "a.b", "durable": "d", "after": "earliest", "id": 1}));
    let (close, _) = member.recv_close();
    let close = close.expect("a close frame");
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4103, "history cannot be read"));
    let middle = EVENTS / 2;
    assert_eq!(server.get(&format!("/events?after={middle}&limit=10")).error(503)["code"], "store_unavailable");
    let poll = server.get(&format!("/events?after={middle}&limit=10&wait=5s"));
    assert_eq!(poll.error(503)["code"], "store_unavailable");
    assert_eq!(server.get(&format!("/events/{middle}")).error(503)["code"], "store_unavailable");
    let lines = server.request("GET", "/events").header("Accept", "application/x-ndjson").send();
    assert_eq!(lines.error(503)["code"], "store_unavailable");
    wait_for_status(&server, "/health/ready", 503);

    mend();
    wait_for_status(&server, "/health/ready", 200);
    server.wait_for_log(|line| line["msg"] == "the store can be read again");
    assert_eq!(server.events(&format!("?after={middle}&limit=10")).len(), 10);
}

#[test]
fn a_service_whose_deliveries_cannot_be_read_is_seen_to_wait_for_the_store() {
    let mut service = Service::start();
    service.refuse();
    let server = with_history(service.configure(Server::builder(), "s", &[]));
    let _mend = damage(&server, 10, 60);
    eventually("it waits for the store", || {
        let shown = server.get("/admin/services").data();
        (shown[0]["waits_for"] == "store").then_some(())
    });
    wait_for_status(&server, "/health/ready", 503);
    server.wait_for_log(|line| line["msg"].as_str().is_some_and(|text| text.starts_with("what is to be delivered")));
}

#[test]
fn a_file_that_is_truncated_is_noticed_without_being_read() {
    let server = with_history(Server::builder());
    let path = database(&server);
    let mut other = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
    other.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA wal_checkpoint(TRUNCATE)").expect("all in one file");
    let whole = fs::read(&path).expect("a file");
    for length in [whole.len() as u64 / 2, 0] {
        let file = OpenOptions::new().write(true).open(&path).expect("a file");
        file.set_len(length).expect("a writable file");
        let ready = wait_for_status(&server, "/health/ready", 503).json();
        assert_eq!(ready["checks"]["store"]["reason"], "corrupt", "{ready}");
        for _ in 0..2 {
            assert_eq!(server.post("/publish", json!({"event_name": "a"})).error(503)["code"], "store_unavailable");
            assert_eq!(server.get("/events").error(503)["code"], "store_unavailable");
            wait_for_status(&server, "/health/ready", 503);
        }
        fs::write(&path, &whole).expect("a writable file");
        wait_for_status(&server, "/health/ready", 200);
        assert_eq!(server.events("?after=0&limit=1000").len(), EVENTS as usize);
    }
    server.publish("a", json!(1));
    drop(other);
}
