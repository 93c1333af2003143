//! What one node commits reaches subscribers of another at once.

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use serde_json::json;

use crate::support::postgres::Postgres;
use crate::support::server::metric;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

fn is_up(server: &Server) -> bool {
    metric(server, "event_handler_relay_up ") == 1.0
}

fn hints(server: &Server) -> f64 {
    metric(server, "event_handler_relay_hints_total ")
}

/// Two nodes that know each other, with their relays connected.
fn two(url: &str) -> [Server; 2] {
    let nodes = ["a", "b"].map(|name| {
        Server::builder().env("DATABASE_URL", url).env("EVENT_HANDLER__NODE__NAME", name).operated("sesame").start()
    });
    eventually("they know each other", || {
        let all = nodes.iter().all(|node| {
            let tree = node.get("/admin/actors").data();
            let mut children = tree["children"].as_array().expect("children").iter();
            is_up(node) && children.any(|child| child["details"]["members"] == 2)
        });
        all.then_some(())
    });
    nodes
}

fn subscribe(server: &Server) -> Socket {
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": ">", "envelope": "full", "id": 1}));
    ws
}

#[test]
fn each_event_of_another_node_is_told_at_once() {
    let [a, b] = two(&Postgres::shared().url());
    let mut ws = subscribe(&b);
    for n in 1..=20 {
        let id = a.publish("a.b", json!({}));
        assert_eq!(ws.recv_json()["id"], id);
        // The look that is made twice a second may have been quicker now and then.
        assert!(hints(&b) >= f64::from(n) / 2.0, "{} of {n}", hints(&b));
    }
    assert_eq!(hints(&a), 0.0, "of its own commits a node knows");
}

#[test]
fn a_relay_that_is_cut_off_misses_nothing_and_comes_back() {
    let url = Postgres::shared().url();
    let [a, b] = two(&url);
    let mut ws = subscribe(&b);
    let mut database = PgConnection::establish(&url).expect("a connection");
    for _ in 0..3 {
        database
            .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()")
            .expect("they end");
        let id = a.publish("a.b", json!({}));
        assert_eq!(ws.recv_json()["id"], id);
        eventually("the relays are back", || (is_up(&a) && is_up(&b)).then_some(()));
    }
    let before = hints(&b);
    eventually("it tells again", || {
        let id = a.publish("a.b", json!({}));
        assert_eq!(ws.recv_json()["id"], id);
        (hints(&b) > before).then_some(())
    });
}

/// A look that dies with the writer is not waited for.
#[cfg(feature = "fault-injection")]
#[test]
fn a_relay_outlives_its_writer() {
    let [a, b] = two(&Postgres::shared().url());
    let mut ws = subscribe(&b);
    for _ in 0..3 {
        b.post("/admin/fault/persistence", "").data();
        let id = a.publish("a.b", json!({}));
        assert_eq!(ws.recv_json()["id"], id);
    }
    let before = hints(&b);
    eventually("it tells again", || {
        let id = a.publish("a.b", json!({}));
        assert_eq!(ws.recv_json()["id"], id);
        (hints(&b) > before).then_some(())
    });
}

/// Whoever reaches the database may notify.
#[test]
fn a_notification_is_not_believed() {
    #[derive(diesel::QueryableByName)]
    struct Listening {
        #[diesel(sql_type = diesel::sql_types::Text)]
        query: String,
    }
    let url = Postgres::shared().url();
    let [a, b] = two(&url);
    let mut earliest = subscribe(&b);
    let first = a.publish("a.b", json!({}));
    assert_eq!(earliest.recv_json()["id"], first);
    let mut database = PgConnection::establish(&url).expect("a connection");
    let listening = "SELECT query FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
    let listening: Listening = diesel::sql_query(listening).get_result(&mut database).expect("a relay");
    let channel = listening.query.trim_start_matches("LISTEN ").to_owned();
    for said in ["1000 5", "9223372036854775807 5", "", "x", "-1 -1"] {
        database.batch_execute(&format!("NOTIFY {channel}, '{said}'")).expect("sent");
    }
    let mut early = subscribe(&b);
    let id = a.publish("a.b", json!({}));
    assert_eq!((id, early.recv_json()["id"].as_i64()), (first + 1, Some(id)));
    let reply = b.ws().request(json!({"action": "subscribe", "event_name": ">", "id": 1}));
    assert_eq!(reply["last_id"], id);
    for node in b.get("/admin/nodes").data().as_array().expect("a list") {
        assert!(node["end_of_log"].as_i64() <= Some(id), "{node}");
    }
}

#[test]
fn a_file_has_no_relay() {
    let server = Server::start(Backend::Sqlite);
    server.publish("a", json!({}));
    assert!(!is_up(&server));
}
