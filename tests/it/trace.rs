//! `GET /events/{id}/trace`: where an event has gone.

use serde_json::json;

use crate::support::{Answer, Backend, Server, Service, eventually, for_each_backend};

#[test]
fn a_trace_tells_of_every_attempt() {
    for_each_backend(|backend| {
        let service = Service::answering(|delivery| match delivery.repeated {
            0 => Answer::Full(503, Vec::new(), "not now".into()),
            _ => Answer::Status(200),
        });
        let options = [("retry_delays", "10ms,10ms"), ("breaker_consecutive", "0")];
        let server = service.configure(Server::builder().backend(backend), "billing", &options).start();
        let id = server.publish("order.paid", json!({ "n": 1 }));
        let trace = eventually("it is delivered", || {
            let trace = server.get(&format!("/events/{id}/trace")).data();
            (trace["deliveries"][0]["state"] == "delivered").then_some(trace)
        });
        assert_eq!((&trace["event"]["id"], &trace["event"]["status"]), (&json!(id), &json!("processed")));
        assert_eq!((&trace["committed_at"], &trace["pushed_to"]), (&trace["event"]["created_at"], &json!(0)));
        let delivery = &trace["deliveries"][0];
        assert_eq!((&delivery["service"], &delivery["next_attempt_at"]), (&json!("billing"), &json!(null)));
        let [first, second] = &delivery["attempts"].as_array().expect("attempts")[..] else { panic!("{delivery}") };
        assert_eq!(
            (&first["attempt"], &first["outcome"], &first["http_status"]),
            (&json!(1), &json!("failed"), &json!(503))
        );
        assert_eq!((&first["error"], &first["answer"]), (&json!("answered 503"), &json!("not now")));
        assert_eq!((&second["attempt"], &second["outcome"]), (&json!(2), &json!("delivered")));
    });
}

#[test]
fn a_trace_counts_subscribers() {
    let server = Server::start(Backend::Sqlite);
    let mut sockets: Vec<_> = (0..3).map(|_| server.ws()).collect();
    for socket in &mut sockets {
        socket.request(json!({ "action": "subscribe", "event_name": "a.>", "id": 1 }));
    }
    // Two patterns, one frame.
    sockets[0].request(json!({ "action": "subscribe", "event_name": "a.b", "id": 2 }));
    let pushed = server.publish("a.b", json!({}));
    let unheard = server.publish("b", json!({}));
    for socket in &mut sockets {
        socket.recv_json();
    }
    let count = |id: i64| server.get(&format!("/events/{id}/trace")).data()["pushed_to"].clone();
    assert_eq!((count(pushed), count(unheard)), (json!(3), json!(0)));
    // Who comes later and catches up counts too.
    let mut late = server.ws();
    late.request(json!({ "action": "subscribe", "event_name": "a.b", "after": "earliest", "id": 1 }));
    late.recv_json();
    assert_eq!(count(pushed), json!(4));
    assert_eq!(server.get("/events/99/trace").status, 404);
}
