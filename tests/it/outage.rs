//! The database goes away and comes back.

use serde_json::json;

use crate::support::postgres::Postgres;
use crate::support::server::wait_for_status;
use crate::support::{Server, eventually};

#[test]
fn publishes_are_refused_while_the_store_is_away_and_nothing_is_lost() {
    let postgres = Postgres::start();
    let server = Server::builder().env("DATABASE_URL", postgres.url()).start();
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "a", "envelope": "full", "id": 1}));
    assert_eq!(server.publish("a", json!("before")), 1);
    assert_eq!(ws.recv_json()["id"], 1);

    postgres.stop();
    for _ in 0..3 {
        let response = server.post("/publish", json!({"event_name": "a", "payload": "lost"}));
        assert_eq!(response.error(503)["code"], "store_unavailable");
        assert!(response.header("retry-after").is_some_and(|v| v.parse::<u32>().is_ok()), "{:?}", response.headers);
    }
    assert_eq!(server.get("/events").error(503)["code"], "store_unavailable");
    wait_for_status(&server, "/health/ready", 503);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(ws.barrier(), [] as [&str; 0], "subscribers stay connected");

    postgres.start_again();
    let id = eventually("publishes are taken again", || {
        let response = server.post("/publish", json!({"event_name": "a", "payload": "after"}));
        (response.status == 200).then(|| response.event_id())
    });
    wait_for_status(&server, "/health/ready", 200);
    assert_eq!(ws.recv_json(), server_frame(&server, id));
    let payloads: Vec<_> = server.events("").iter().map(|e| e["payload"].clone()).collect();
    assert_eq!(payloads, ["before", "after"]);
}

/// The frame that event `id` makes in the full envelope.
fn server_frame(server: &Server, id: i64) -> serde_json::Value {
    let event = server.get(&format!("/events/{id}")).data();
    json!({"type": "event", "id": id, "event_name": event["event_name"], "payload": event["payload"],
           "created_at": event["created_at"], "source": event["source"], "key": event["key"]})
}
