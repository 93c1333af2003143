//! Stores that stop, hang, lock, fill up, break or vanish under load: publishers are told, nothing acknowledged is
//! lost, and the service heals by itself when the cause is gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, SqliteConnection};
use serde_json::{Value, json};

use crate::support::load::{Follower, Publishers, assert_nothing_lost};
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, wait_for_status};
use crate::support::{Backend, Server, eventually};

fn on_postgres(postgres: &Postgres) -> Builder {
    on_postgres_at(&postgres.url())
}

fn on_postgres_at(url: &str) -> Builder {
    Server::builder().env("DATABASE_URL", url)
}

/// The database file of a server on SQLite.
fn database(server: &Server) -> PathBuf {
    server.dir().join("events.db")
}

/// What `/health/ready` says of the store once it is down; the rest must be well.
fn wait_for_ailment(server: &Server) -> String {
    let ready = wait_for_status(server, "/health/ready", 503);
    assert_eq!(ready.header("retry-after"), Some("1"));
    let checks = ready.json()["checks"].take();
    assert_eq!((&checks["store"]["status"], &checks["actors"]["status"]), (&json!("down"), &json!("ok")), "{checks}");
    assert!(checks["store"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{checks}");
    assert_eq!(server.get("/health").status, 200, "the process is not to be restarted for that");
    checks["store"]["reason"].as_str().expect("a reason").to_owned()
}

/// Load from before `outage` until after it; the outage gets the server and says when it is over by returning.
/// Nothing acknowledged may be lost, no subscriber closed, no part restarted.
fn under_load(server: &Server, outage: impl FnOnce(&Publishers)) {
    let followers = [(); 3].map(|()| Follower::start(server));
    let publishers = Publishers::start(server, 3);
    publishers.wait_for_acknowledged(50);
    outage(&publishers);
    wait_for_status(server, "/health/ready", 200);
    publishers.wait_for_acknowledged(50);
    let published = publishers.stop();
    eprintln!("{} acknowledged, refused: {:?}", published.acknowledged.len(), published.refused);
    assert_nothing_lost(server, &published, &followers);
    for follower in &followers {
        assert_eq!(follower.closes(), [] as [u16; 0]);
    }
    let tree = server.get("/admin/actors").data();
    for actor in tree["children"].as_array().expect("children") {
        assert_eq!(actor["restarts"], 0, "{actor}");
    }
}

#[test]
fn postgres_stops_for_a_while() {
    let postgres = Postgres::start();
    let server = on_postgres(&postgres).start();
    under_load(&server, |publishers| {
        postgres.stop();
        publishers.wait_for_refused("store_unavailable");
        assert_eq!(wait_for_ailment(&server), "unavailable");
        server.get("/events").error(503);
        thread::sleep(Duration::from_secs(8));
        assert_eq!(wait_for_ailment(&server), "unavailable");
        postgres.start_again();
    });
    server.wait_for_log(|line| line["level"] == "error" && line.to_string().contains("store unavailable"));
}

#[test]
fn postgres_hangs_for_a_while() {
    let postgres = Postgres::start();
    let server = on_postgres(&postgres).env("EVENT_HANDLER__PUBLISH__COMMIT_TIMEOUT", "1s").start();
    under_load(&server, |publishers| {
        let frozen = postgres.freeze();
        publishers.wait_for_refused("commit_timeout");
        assert_eq!(wait_for_ailment(&server), "hanging");
        publishers.wait_for_refused("store_unavailable");
        let refused = server.post("/publish", json!({"event_name": "other"}));
        assert_eq!(refused.error(503)["code"], "store_unavailable");
        assert_eq!(server.get("/events").error(503)["code"], "store_unavailable");
        drop(frozen);
    });
}

#[test]
fn a_server_starts_before_its_postgres() {
    let postgres = Postgres::start();
    let spec = on_postgres(&postgres);
    postgres.stop();
    let server = spec.start();
    assert_eq!(wait_for_ailment(&server), "unavailable");
    let refused = server.post("/publish", json!({"event_name": "a"}));
    assert_eq!((refused.header("retry-after"), &refused.error(503)["code"]), (Some("1"), &json!("store_unavailable")));
    assert_eq!(server.get("/events").error(503)["code"], "store_unavailable");
    postgres.start_again();
    under_load_after_start(&server);
}

/// Host, port, role and database of the store are for the log, with the id of the request.
#[test]
fn clients_are_told_nothing_of_the_database() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let server = on_postgres_at(&url).start();
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    postgres.stop();
    let port = url.rsplit([':', '/']).nth(1).expect("a port");
    // Operators are told, with their token.
    eventually("the reason has details", || server.get("/admin/actors").text().contains(port).then_some(()));
    let mut told: Vec<String> = [
        "/events",
        "/events/1",
        "/events/1/trace",
        "/events?after=1&wait=1s",
        "/schedules",
        "/health/ready",
        "/admin/deliveries",
        "/admin/jobs",
        "/admin/subscriptions",
    ]
    .map(|path| server.get(path).text().to_owned())
    .to_vec();
    told.push(server.request("GET", "/events").header("Accept", "application/x-ndjson").send().text().to_owned());
    told.push(server.post("/publish", json!({"event_name": "a"})).text().to_owned());
    told.push(server.post("/publish/batch", json!([{"event_name": "a"}])).text().to_owned());
    for request in [
        json!({"action": "publish", "event_name": "a", "id": 2}),
        json!({"action": "subscribe", "event_name": "b", "after": 100, "id": 3}),
        json!({"action": "subscribe", "event_name": "c", "durable": "d", "id": 4}),
    ] {
        told.push(ws.request(request).to_string());
    }
    let database = url.rsplit('/').next().expect("a database");
    for text in &told {
        for detail in [port, database, "127.0.0.1", "postgres", "connection to server"] {
            assert!(!text.contains(detail), "{detail} in {text}");
        }
    }
    assert!(told.iter().filter(|text| text.contains("store_unavailable")).count() > 8, "{told:#?}");
    server.request("GET", "/events").header("X-Request-Id", "of-this-request").send().error(503);
    let line = server.wait_for_log(|line| line["request_id"] == "of-this-request");
    assert!(line["error"].as_str().is_some_and(|error| error.contains(port)), "{line}");
}

fn under_load_after_start(server: &Server) {
    wait_for_status(server, "/health/ready", 200);
    under_load(server, |_| {});
}

#[test]
fn sqlite_is_locked_by_another_process() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__STORE__BUSY_TIMEOUT", "100ms").start();
    under_load(&server, |publishers| {
        let path = database(&server);
        let mut other = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
        other.batch_execute("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").expect("the lock");
        publishers.wait_for_refused("store_unavailable");
        assert_eq!(wait_for_ailment(&server), "locked");
        other.batch_execute("COMMIT").expect("no lock any more");
    });
}

#[test]
fn sqlite_may_not_be_written() {
    // Root may write everywhere, unless it gives up that power.
    let mut server = Server::builder().backend(Backend::Sqlite).launched_by(&without_privileges()).start();
    let allow = |server: &Server, mode, mode_of_files| {
        for name in ["events.db", "events.db-wal", "events.db-shm"] {
            let _ = fs::set_permissions(server.dir().join(name), fs::Permissions::from_mode(mode_of_files));
        }
        fs::set_permissions(server.dir(), fs::Permissions::from_mode(mode)).expect("our directory");
    };
    let id = server.publish("a", json!("before"));
    server.kill9();
    allow(&server, 0o555, 0o444);
    let refused = server.spec().run();
    assert_eq!(refused.status.code(), Some(78), "what can never be written stops the start: {refused:?}");
    allow(&server, 0o755, 0o644);
    server.restart();
    assert_eq!(server.publish("a", json!("after")), id + 1);
    assert_eq!(server.events("").len(), 2);
    under_load(&server, |publishers| {
        // What is open stays writable.
        allow(&server, 0o555, 0o444);
        publishers.wait_for_acknowledged(50);
        allow(&server, 0o755, 0o644);
    });
}

fn without_privileges() -> Vec<&'static str> {
    let output = Command::new("id").arg("-u").output().expect("run id");
    if output.stdout.trim_ascii() == b"0" { vec!["--bounding-set=-all"] } else { Vec::new() }
}

#[test]
fn the_disk_of_sqlite_is_full() {
    let small = "mkdir small && mount -t tmpfs -o size=1m none small && exec \"$@\"";
    // The mount is seen by this process alone, and goes with it.
    let namespace = ["unshare", "-m", "sh", "-c", small, "sh"];
    let limited = ["sh", "-c", "mkdir small; trap '' XFSZ; ulimit -S -f 512; exec \"$@\"", "sh"];
    let can_mount = Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|output| output.status.success());
    let launcher: &[&str] = if can_mount { &namespace } else { &limited };
    eprintln!("starts with {launcher:?}");
    let server = Server::builder().launched_by(launcher).env("DATABASE_URL", "sqlite:small/events.db");
    // Where the test sees it.
    let server = server.env("EVENT_HANDLER__ADMIN__TOKEN_FILE", "admin.token").start();
    let (pid, disk) = (server.pid().to_string(), server.dir().join("small"));
    let disk = disk.to_str().expect("UTF-8");
    let more: Vec<&str> = match can_mount {
        true => vec!["nsenter", "-t", &pid, "-m", "mount", "-o", "remount,size=256m", disk],
        false => vec!["prlimit", "--pid", &pid, "--fsize=unlimited"],
    };
    under_load(&server, |publishers| {
        publishers.wait_for_refused("store_unavailable");
        let reason = wait_for_ailment(&server);
        assert_eq!(reason, if can_mount { "full" } else { "unavailable" });
        assert!(!server.get("/events").data().as_array().expect("a list").is_empty(), "reading goes on");
        let status = Command::new(more[0]).args(&more[1..]).status();
        assert!(status.is_ok_and(|status| status.success()), "{more:?}");
    });
}

#[test]
fn sqlite_is_damaged_and_restored() {
    let server = Server::start(Backend::Sqlite);
    let followers = [Follower::start(&server)];
    let publishers = Publishers::start(&server, 3);
    publishers.wait_for_acknowledged(500);
    let mut published = publishers.stop();
    let path = database(&server);
    let mut other = SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("a database");
    other.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA wal_checkpoint(TRUNCATE)").expect("all in one file");
    let whole = fs::read(&path).expect("a file");
    fs::write(&path, vec![0xa5; whole.len()]).expect("a writable file");
    for _ in 0..3 {
        let refused = server.post("/publish", json!({"event_name": "a"}));
        assert_eq!(refused.error(503)["code"], "store_unavailable");
        assert_eq!(wait_for_ailment(&server), "corrupt");
    }
    assert_eq!(server.get("/events").error(503)["code"], "store_unavailable");
    fs::write(&path, whole).expect("a writable file");
    wait_for_status(&server, "/health/ready", 200);
    let publishers = Publishers::start(&server, 3);
    publishers.wait_for_acknowledged(50);
    let more = publishers.stop();
    let is_new = |id: &i64| !published.acknowledged.contains_key(id);
    assert!(more.acknowledged.keys().all(is_new), "ids never come again");
    published.acknowledged.extend(more.acknowledged);
    assert_nothing_lost(&server, &published, &followers);
    drop(other);
}

/// A new, empty file in place of the old one would lose everything without a word.
#[test]
fn sqlite_is_moved_away() {
    let server = Server::builder().backend(Backend::Sqlite).start();
    let before = server.publish("a", json!("before"));
    let away = server.dir().join("away");
    fs::create_dir(&away).expect("a folder");
    let files = ["events.db", "events.db-wal", "events.db-shm"];
    for name in files {
        fs::rename(server.dir().join(name), away.join(name)).expect("a file");
    }
    // Nobody has to publish for it to be seen.
    wait_for_status(&server, "/health/ready", 503);
    let reason = eventually("the reason is told", || {
        let tree = server.get("/admin/actors").data();
        let persistence =
            tree["children"].as_array().expect("children").iter().find(|actor| actor["name"] == "persistence");
        let told = persistence.expect("persistence")["details"]["store"]["details"].clone();
        told.as_str().filter(|message| message.contains("is gone")).map(str::to_owned)
    });
    assert!(reason.contains("events.db") && reason.contains("restore it, or restart"), "{reason}");
    let refused = server.post("/publish", json!({"event_name": "a"}));
    assert_eq!(refused.error(503)["code"], "store_unavailable", "nothing is acknowledged into a deleted file");
    server.wait_for_log(|line| line["level"] == "error" && line.to_string().contains("events.db"));
    assert!(!database(&server).exists(), "no other file is made");
    for name in files.iter().filter(|name| away.join(name).exists()) {
        fs::rename(away.join(name), server.dir().join(name)).expect("a file");
    }
    wait_for_status(&server, "/health/ready", 200);
    assert_eq!(server.publish("a", json!("after")), before + 1);
    let payloads: Vec<Value> = server.events("").into_iter().map(|mut event| event["payload"].take()).collect();
    assert_eq!(payloads, ["before", "after"]);
}

#[test]
fn sqlite_is_deleted() {
    let mut server = Server::builder().backend(Backend::Sqlite).start();
    server.publish("a", json!("before"));
    server.publish("a", json!("before"));
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        fs::remove_file(server.dir().join(name)).expect("a file");
    }
    for _ in 0..2 {
        let refused = server.post("/publish", json!({"event_name": "a"}));
        assert_eq!(refused.error(503)["code"], "store_unavailable", "nothing is acknowledged into a deleted file");
        assert_eq!(wait_for_ailment(&server), "unavailable");
    }
    server.restart();
    assert_eq!(server.publish("a", json!("after")), 1);
    // Whoever comes back is told that this is another log.
    let mut late = server.ws();
    let reply =
        late.request(json!({"action": "subscribe", "event_name": "a", "after": 2, "envelope": "full", "id": 1}));
    assert_eq!((&reply["recovered"], &reply["last_id"]), (&json!(false), &json!(1)), "{reply}");
    server.publish("a", json!("more"));
    assert_eq!(late.recv_json()["id"], 2);
}
