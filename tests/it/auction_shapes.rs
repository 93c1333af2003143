//! Events in the shapes of the auction system: its envelope, its names for itself, and names that colons divide.

use serde_json::{Value, json};

use crate::support::tokens::bearer;
use crate::support::ws::Socket;
use crate::support::{Answer, Backend, Server, Service, eventually, for_each_backend};

const OPTIONS: &[(&str, &str)] = &[
    ("format", "envelope"),
    ("routes", "lot:*,state.*.changed"),
    ("sources", r#"{ api = "EVENT_HANDLER" }"#),
    ("aliases", "AUCTION_ENGINE"),
    ("retry_delays", "10ms"),
];

#[test]
fn a_service_of_the_auction_system_gets_its_own_envelope() {
    for_each_backend(|backend| {
        let service = Service::answering(|delivery| Answer::Status(if delivery.order == 0 { 500 } else { 200 }));
        let server = service.configure(Server::builder().backend(backend), "auction-manager", OPTIONS).start();
        server.publish("auction.started", json!({}));
        let own = json!({"event_name": "lot:created", "source": "AUCTION_ENGINE"});
        server.post("/publish", own).event_id();
        let id = server.publish("lot:bid:placed", json!({"lot": 7, "amount": 12.50}));
        let came = service.wait_for(2);
        let [first, second] = &came[..] else { panic!("{came:?}") };
        assert_eq!(first.body, second.body, "the same for every attempt");
        assert_eq!(first.header("event-id"), Some(id.to_string().as_str()));
        let envelope = first.json();
        let keys: Vec<&String> = envelope.as_object().expect("an object").keys().collect();
        assert_eq!(keys.len(), 6, "{envelope}");
        for (field, value) in [
            ("type", json!("lot:bid:placed")),
            ("source", json!("EVENT_HANDLER")),
            ("version", json!("1.0.0")),
            ("data", json!({"lot": 7, "amount": 12.50})),
        ] {
            assert_eq!(envelope[field], value, "{field} of {envelope}");
        }
        let uuid = envelope["id"].as_str().expect("text");
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "5"), "{uuid}");
        let created = server.get(&format!("/events/{id}")).data()["created_at"].as_str().expect("a time").to_owned();
        let created = event_handler::domain::event::Timestamp::parse(&created).expect("a time");
        assert_eq!(envelope["timestamp"], created.0 / 1000, "{envelope}");

        let other = json!({"event_name": "lot:closed", "source": "stream-manager", "payload": [1]});
        server.post("/publish", other).event_id();
        let envelope = service.wait_for(3).remove(2).json();
        assert_eq!((&envelope["source"], &envelope["data"]), (&json!("stream-manager"), &json!({"value": [1]})));
        assert_ne!(envelope["id"], uuid);
    });
}

#[test]
fn names_that_colons_divide_are_read_and_subscribed_to_by_their_beginning() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut live = server.ws();
        assert_eq!(live.request(json!({"action": "subscribe", "event_name": "lot:*", "id": 1}))["type"], "subscribed");
        let mut durable = server.ws();
        let join = json!({"action": "subscribe", "event_name": "lot:bid:*", "durable": "bids", "id": 1});
        assert_eq!(durable.request(join)["type"], "subscribed");
        let names = ["lot:created", "lots:x", "lot:bid:placed", "lot", "auction.lot:7", "lot:bid:won", "lot;"];
        for name in names {
            server.publish(name, json!({}));
        }
        for name in ["lot:created", "lot:bid:placed", "lot:bid:won"] {
            assert_eq!(live.recv_json()["event_name"], name);
        }
        assert_eq!(durable.recv_json()["event_name"], "lot:bid:placed");
        let found = |pattern: &str| -> Vec<Value> {
            server.events(&format!("?event_name={pattern}")).iter().map(|event| event["event_name"].clone()).collect()
        };
        assert_eq!(found("lot:*"), ["lot:created", "lot:bid:placed", "lot:bid:won"]);
        assert_eq!(found("lot:bid:*"), ["lot:bid:placed", "lot:bid:won"]);
        assert_eq!(found("*.lot:*"), ["auction.lot:7"]);
        assert_eq!(server.get("/events?event_name=lo*").error(422)["field"], "event_name");
        // With more patterns than are looked up one by one, and more names than are read one by one.
        let events: Vec<Value> = (0..100).map(|n| json!({"event_name": format!("lot:bid:{n}")})).collect();
        server.post("/publish/batch", json!(events)).data();
        assert_eq!(found("lot:bid:*").len(), 100, "the newest");
        assert_eq!(server.events("?event_name=lot:bid:*&limit=1000").len(), 102);
        let many: String = (0..20).map(|n| format!("&event_name=lot:bid:{n}:*")).collect();
        assert_eq!(server.events(&format!("?event_name=lot:bid:*{many}&limit=1000")).len(), 102);
    });
}

#[test]
fn a_token_for_a_beginning_reaches_no_further() {
    const LOTS: &str = r#"scopes = { publish = ["lot:bid:*"], subscribe = ["lot:*"], read = ["lot:*"] }"#;
    let server = Server::builder().backend(Backend::Sqlite).tokens(&[("lots", LOTS)], "").start();
    let mut ws = Socket::connect(server.addr(), "/ws", &[("Authorization", &bearer("lots"))]).expect("a good token");
    let mut subscribe = |pattern: &str| {
        let reply = ws.request(json!({"action": "subscribe", "event_name": pattern, "id": 1}));
        reply["type"].as_str().expect("a type").to_owned()
    };
    for pattern in ["lot:*", "lot:bid:*", "lot:created"] {
        assert_eq!(subscribe(pattern), "subscribed", "{pattern}");
    }
    for pattern in ["*", ">", "lot:*.a", "lot:a.b", "lo:*", "lots:*", "lot"] {
        assert_eq!(subscribe(pattern), "error", "{pattern}");
    }
    let request = |method: &str, path: &str| server.request(method, path).header("Authorization", &bearer("lots"));
    let publish = |name: &str| request("POST", "/publish").json(json!({ "event_name": name })).send().status;
    assert_eq!(["lot:bid:placed", "lot:created", "lot:bid:a.b"].map(publish), [200, 403, 403]);
    eventually("it is read", || (request("GET", "/events?event_name=lot:*").send().status == 200).then_some(()));
    assert_eq!(request("GET", "/events?event_name=*").send().status, 403);
}
