//! Events for later: stored now, in the log when they are due.

use serde_json::{Value, json};

use crate::support::{Server, eventually, for_each_backend};

/// RFC 3339, so many seconds from now.
fn in_seconds(seconds: i64) -> String {
    let now = jiff::Timestamp::now();
    (now + jiff::SignedDuration::from_secs(seconds)).to_string()
}

fn schedules(server: &Server) -> Vec<Value> {
    server.get("/schedules").data().as_array().cloned().unwrap_or_default()
}

fn schedule(server: &Server, event_name: &str, deliver_at: &str) -> String {
    let answer =
        server.post("/publish", json!({ "event_name": event_name, "payload": [1.50], "deliver_at": deliver_at }));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("event-id"), None);
    answer.data()["schedule_id"].as_str().expect("an id").to_owned()
}

#[test]
fn an_event_for_later_is_in_the_log_when_it_is_due() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let late = schedule(&server, "much.later", &in_seconds(3_600));
        let soon = schedule(&server, "later", &in_seconds(2));
        assert_eq!(server.events(""), Vec::<Value>::new());
        let waiting = schedules(&server);
        assert_eq!((&waiting[0]["schedule_id"], &waiting[1]["schedule_id"]), (&json!(soon), &json!(late)));
        assert_eq!((&waiting[0]["event_name"], &waiting[0]["payload"]), (&json!("later"), &json!([1.5])));

        // It is stored: a kill loses nothing.
        server.kill9();
        server.restart();
        assert_eq!(schedules(&server), waiting);
        let event = eventually("it is due", || server.events("").pop());
        assert_eq!((&event["event_name"], &event["id"]), (&json!("later"), &json!(1)));
        assert!(event["created_at"].as_str() >= waiting[0]["deliver_at"].as_str(), "{event} {waiting:?}");
        assert_eq!(schedules(&server).len(), 1);
    });
}

#[test]
fn what_is_cancelled_is_never_published() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let id = schedule(&server, "later", &in_seconds(1));
        let path = format!("/schedules/{id}");
        assert_eq!(server.request("DELETE", &path).send().status, 200);
        let again = server.request("DELETE", &path).send();
        assert_eq!((again.status, &again.json()["data"]["code"]), (404, &json!("schedule_not_found")));
        // Due after it: once this one is there, the other would be.
        schedule(&server, "witness", &in_seconds(2));
        let events = eventually("the witness is due", || Some(server.events("")).filter(|events| !events.is_empty()));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["event_name"], "witness");
    });
}

#[test]
fn a_repeated_request_is_one_schedule() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let publish = |deliver_at: &str| {
            let body = json!({ "event_name": "later", "deliver_at": deliver_at });
            server.request("POST", "/publish").header("Idempotency-Key", "once").json(body).send()
        };
        let at = in_seconds(2);
        let first = publish(&at);
        let second = publish(&at);
        assert_eq!((first.header("idempotent-replayed"), second.header("idempotent-replayed")), (None, Some("true")));
        assert_eq!(first.data()["schedule_id"], second.data()["schedule_id"]);
        assert_eq!(publish(&in_seconds(60)).status, 422, "another time is another request");
        let plain = server.request("POST", "/publish").header("Idempotency-Key", "once");
        assert_eq!(plain.json(json!({ "event_name": "later" })).send().status, 422);
        eventually("it is due", || server.events("").pop());
        // Long due, it is still the same request.
        assert_eq!(publish(&at).header("idempotent-replayed"), Some("true"));
        schedule(&server, "witness", &in_seconds(1));
        let names = eventually("the witness is due", || Some(server.events("")).filter(|events| events.len() > 1));
        assert_eq!(names.len(), 2, "{names:?}");
    });
}

#[test]
fn what_is_due_together_comes_in_the_order_it_was_asked_for() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let at = in_seconds(1);
        let names: Vec<String> = (0..12).map(|n| format!("later.{n}")).collect();
        names.iter().for_each(|name| drop(schedule(&server, name, &at)));
        let events = eventually("all are due", || Some(server.events("")).filter(|events| events.len() == 12));
        let came: Vec<&str> = events.iter().filter_map(|event| event["event_name"].as_str()).collect();
        assert_eq!(came, names);
    });
}

#[test]
fn times_and_places_that_make_no_sense_are_refused() {
    let server = Server::start(crate::support::Backend::Sqlite);
    for deliver_at in [json!("2020-01-01T00:00:00Z"), json!("tomorrow"), json!(7), json!("2999-01-01T00:00:00+25:00")] {
        let answer = server.post("/publish", json!({ "event_name": "a", "deliver_at": deliver_at }));
        assert_eq!((answer.status, &answer.json()["data"]["field"]), (422, &json!("deliver_at")), "{answer:?}");
    }
    schedule(&server, "a", "9999-12-31T23:59:59Z");
    assert_eq!(schedules(&server)[0]["deliver_at"], "9999-12-31T23:59:59.000000Z");
    let batch = server.post("/publish/batch", json!([{ "event_name": "a", "deliver_at": in_seconds(60) }]));
    assert_eq!((batch.status, &batch.json()["data"]["errors"][0]["field"]), (422, &json!("deliver_at")), "{batch:?}");
    assert_eq!(server.get("/schedules?after=x").status, 422);
    assert_eq!(server.request("DELETE", "/schedules/7").send().error(404)["code"], "schedule_not_found");
    assert_eq!(server.request("POST", "/schedules").send().status, 405);
}

#[test]
fn pages_of_schedules_follow_each_other() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let at = in_seconds(3_600);
        let expected: Vec<String> = (0..5).map(|_| schedule(&server, "later", &at)).collect();
        let (mut found, mut next) = (Vec::new(), Some("/schedules?limit=2".to_owned()));
        while let Some(path) = next {
            let page = server.get(&path);
            let ids = page.data().as_array().cloned().unwrap_or_default();
            found.extend(ids.iter().filter_map(|s| Some(s["schedule_id"].as_str()?.to_owned())));
            next = page.header("link").and_then(|link| Some(format!("/schedules{}", link.split(['<', '>']).nth(1)?)));
        }
        assert_eq!(found, expected);
    });
}
