//! History is read from a streaming replica, and nobody can tell.

use serde_json::{Value, json};

use super::ids;
use crate::support::load::{Follower, Publishers, assert_nothing_lost};
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, metric};
use crate::support::{Backend, Server, eventually};

/// A primary, a replica of it, and the URLs of a new database on both.
fn pair() -> (Postgres, Postgres, [String; 2]) {
    let primary = Postgres::start();
    let url = primary.url();
    let replica = primary.standby("replica");
    let name = url.rsplit('/').next().expect("a name");
    let read_url = replica.url_of(name);
    (primary, replica, [url.clone(), read_url])
}

fn node(url: &str, read_url: &str) -> Builder {
    Server::builder().env("DATABASE_URL", url).env("EVENT_HANDLER__STORE__READ_URL", read_url)
}

fn reads(server: &Server, outcome: &str) -> f64 {
    metric(server, &format!("event_handler_store_replica_reads_total{{outcome=\"{outcome}\"}} "))
}

fn health(server: &Server) -> Value {
    let ready = server.get("/health/ready");
    assert_eq!(ready.status, 200, "a replica is never needed: {}", ready.text());
    ready.json()["checks"]["replica"].clone()
}

fn wait_for_health(server: &Server, status: &str) -> Value {
    eventually(&format!("the replica is {status}"), || Some(health(server)).filter(|check| check["status"] == status))
}

#[test]
fn history_is_read_from_the_replica_and_what_it_lacks_from_the_primary() {
    let (_primary, replica, [url, read_url]) = pair();
    let nodes = [node(&url, &read_url).start(), node(&url, &read_url).start()];
    let [a, b] = &nodes;
    let first: Vec<i64> = (0..50).map(|n| a.publish("a.b", json!(n))).collect();
    eventually("pages come from the replica", || {
        assert_eq!(ids(b, "?event_name=a.b&limit=100"), first);
        (reads(b, "served") >= 3.0).then_some(())
    });

    replica.execute("SELECT pg_wal_replay_pause()");
    let mut all = first;
    for n in 0..30 {
        // Who has published reads it at once, on the other node too.
        all.push(a.publish("a.b", json!(n)));
        assert_eq!(ids(b, "?event_name=a.b&limit=100"), all);
        assert_eq!(ids(a, "?event_name=a.b&order=desc&limit=1"), all[all.len() - 1..]);
    }
    assert!(reads(b, "behind") >= 30.0, "{}", reads(b, "behind"));
    let lag = eventually("it is told", || Some(wait_for_health(b, "ok")).filter(|check| check["lag_events"] == 30));
    assert_eq!(lag["status"], "ok");
    assert_eq!(metric(b, "event_handler_store_replica_lag_events "), 30.0);

    // Of a page that ends where the replica ends, it has all.
    let served = reads(b, "served");
    let end = all[49] + 1;
    assert_eq!(ids(b, &format!("?event_name=a.b&after=0&before={end}&limit=100")), all[..50]);
    assert!(reads(b, "served") > served);
    // A subscriber gets what the replica has from there, and the rest from the primary.
    let mut ws = b.ws();
    ws.request(json!({"action": "subscribe", "event_name": "a.b", "envelope": "full", "id": 1, "after": 0}));
    let seen: Vec<i64> = all.iter().map(|_| ws.recv_json()["id"].as_i64().expect("an event")).collect();
    assert_eq!(seen, all);

    replica.execute("SELECT pg_wal_replay_resume()");
    let served = reads(b, "served");
    eventually("it is level again", || {
        assert_eq!(ids(b, "?event_name=a.b&limit=100"), all);
        (reads(b, "served") > served && health(b)["lag_events"] == 0).then_some(())
    });
}

/// The state of a delivery changes with no new event.
#[test]
fn what_changes_is_not_read_from_the_replica() {
    let (_primary, replica, [url, read_url]) = pair();
    let service = crate::support::Service::start();
    let server = service.configure(node(&url, &read_url), "billing", &[("routes", "a")]).start();
    wait_for_health(&server, "ok");
    replica.execute("SELECT pg_wal_replay_pause()");
    let id = server.publish("a", json!(1));
    service.wait_until("delivered", |all| all.iter().any(|delivery| delivery.is_accepted()));
    replica.execute("SELECT pg_wal_replay_resume()");
    eventually("the replica has the event", || (health(&server)["lag_events"] == 0).then_some(()));
    replica.execute("SELECT pg_wal_replay_pause()");
    for _ in 0..20 {
        let event = &server.events("?event_name=a")[0];
        let one = server.get(&format!("/events/{id}")).data();
        assert_eq!(event["status"], one["status"], "both are true");
    }
    eventually("it is processed", || (server.events("?status=processed&event_name=a").len() == 1).then_some(()));
    assert_eq!(server.events("?event_name=a")[0]["status"], "processed");
    replica.execute("SELECT pg_wal_replay_resume()");
}

#[test]
fn a_replica_that_is_away_costs_nothing_and_comes_back() {
    let (_primary, replica, [url, read_url]) = pair();
    let server = node(&url, &read_url).operated("sesame").start();
    wait_for_health(&server, "ok");
    let publishers = Publishers::start(&server, 2);
    let follower = Follower::start(&server);
    publishers.wait_for_acknowledged(50);
    for is_frozen in [false, true] {
        let frozen = is_frozen.then(|| replica.freeze());
        if !is_frozen {
            replica.stop();
        }
        eventually("it is told", || {
            ids(&server, "?limit=10");
            (health(&server)["status"] == "down").then_some(())
        });
        assert_eq!(metric(&server, "event_handler_store_replica_up "), 0.0);
        let tree = server.get("/admin/actors").data().to_string();
        assert!(tree.contains(r#""replica":{"#) && !tree.contains("postgres://"), "{tree}");
        let early = Follower::start(&server);
        publishers.wait_for_acknowledged(50);
        let id = server.publish("own", json!(1));
        assert_eq!(ids(&server, "?event_name=own&order=desc&limit=1"), [id]);
        drop(early);
        drop(frozen);
        if !is_frozen {
            replica.start_again();
        }
        wait_for_health(&server, "ok");
        let served = reads(&server, "served");
        eventually("it is read again", || {
            ids(&server, "?event_name=load&after=0&before=20");
            (reads(&server, "served") > served).then_some(())
        });
    }
    let published = publishers.stop();
    let late = Follower::start(&server);
    assert_nothing_lost(&server, &published, &[follower, late]);
}

#[test]
fn a_replica_of_another_log_is_not_read() {
    let [url, other] = [Postgres::shared().url(), Postgres::shared().url()];
    let foreign = Server::builder().env("DATABASE_URL", &other).start();
    foreign.publish("foreign", json!(1));
    let server = node(&url, &other).start();
    let id = server.publish("own", json!(1));
    let check = wait_for_health(&server, "down");
    eventually("the reason is told", || (health(&server)["reason"] == "unusable").then_some(()));
    assert!(!check.to_string().contains("postgres://"));
    assert_eq!(ids(&server, ""), [id]);
    assert_eq!(reads(&server, "served"), 0.0);
}

#[test]
fn a_read_url_needs_postgresql_and_is_never_shown() {
    let builder = Server::builder().backend(Backend::Sqlite);
    for url in ["postgres://eve:s3cret@127.0.0.1:1/db", "nonsense:s3cret"] {
        let output = builder.clone().env("EVENT_HANDLER__STORE__READ_URL", url).run();
        let line = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(78), "{line}");
        assert!(line.contains("store.read_url") && !line.contains("s3cret"), "{line}");
    }
    let shown = node("postgres://127.0.0.1:1/db", "postgres://eve:s3cret@127.0.0.1:1/db").arg("check-config").run();
    let shown = format!("{}{}", String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.contains("read_url") && !shown.contains("s3cret"), "{shown}");
}
