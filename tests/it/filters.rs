//! Filters on payload fields: of subscriptions, of services' routes, and in what operators are told.

use serde_json::{Value, json};

use crate::services::{operate, start, told};
use crate::support::ws::Socket;
use crate::support::{Backend, Server, Service, eventually, for_each_backend};

const LARGE: &str = r#"["order.>", {event = "payment.*", filter = {amount = [{numeric = [">", 100]}]}}]"#;

fn subscribe(ws: &mut Socket, event_name: &str, filter: Value, more: Value) -> Value {
    let mut request =
        json!({"action": "subscribe", "event_name": event_name, "filter": filter, "envelope": "full", "id": 1});
    for (field, value) in more.as_object().into_iter().flatten() {
        request[field] = value.clone();
    }
    ws.request(request)
}

/// The ids of the next events, as many as are expected; then nothing more comes.
fn assert_gets(ws: &mut Socket, expected: &[i64], what: &str) {
    assert_gets_after(ws, &[], expected, what);
}

/// The same of a subscription that has just begun: it may begin with events that were stored shortly before.
fn assert_gets_after(ws: &mut Socket, before: &[i64], expected: &[i64], what: &str) {
    let ids = std::iter::repeat_with(|| ws.recv_json()["id"].as_i64().unwrap_or_default());
    let got: Vec<i64> = ids.skip_while(|id| before.contains(id)).take(expected.len()).collect();
    assert_eq!(got, expected, "{what}");
    assert_eq!(ws.barrier(), Vec::<String>::new(), "{what}");
}

#[test]
fn only_what_passes_is_pushed() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let filter = json!({"status": ["open", {"prefix": "re"}], "customer": {"tier": ["gold"]}});
        let mut sockets: Vec<Socket> = (0..3).map(|_| server.ws()).collect();
        let reply = subscribe(&mut sockets[0], "order.*", filter.clone(), json!({}));
        assert_eq!((&reply["type"], &reply["filter"]), (&json!("subscribed"), &filter), "{reply}");
        // The same filter with another envelope, and no filter at all.
        subscribe(&mut sockets[1], "order.*", filter.clone(), json!({"envelope": "plain"}));
        subscribe(&mut sockets[2], "order.*", Value::Null, json!({}));
        let gold = |status: &str| json!({"status": status, "customer": {"tier": "gold"}});
        let ids = [
            server.publish("order.a", gold("open")),
            server.publish("order.a", gold("closed")),
            server.publish("order.b", gold("reopened")),
            server.publish("order.b", json!({"status": "open", "customer": {"tier": "tin"}})),
            server.publish("other", gold("open")),
            server.publish("order.a", json!("no object")),
            server.publish("order.a", json!([gold("x"), gold("open")])),
        ];
        assert_gets(&mut sockets[0], &[ids[0], ids[2], ids[6]], "filtered");
        assert_gets(&mut sockets[2], &[ids[0], ids[1], ids[2], ids[3], ids[5], ids[6]], "not filtered");
        let plain: Vec<Value> = (0..3).map(|_| sockets[1].recv_json()).collect();
        assert_eq!(plain[0], json!({"event_name": "order.a", "payload": gold("open")}));
        let list = sockets[0].request(json!({"action": "list", "id": 2}));
        assert_eq!(
            list["subscriptions"],
            json!([{"event_name": "order.*", "envelope": "full", "filter": filter}]),
            "{list}"
        );
    });
}

#[test]
fn a_batch_reaches_everybody_in_order() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut sockets: Vec<Socket> = (0..4).map(|_| server.ws()).collect();
        for (n, ws) in sockets.iter_mut().enumerate() {
            subscribe(ws, "a", json!({"n": [n % 3]}), json!({}));
        }
        // One that may get an event by two ways.
        subscribe(&mut sockets[3], ">", json!({"n": [{"numeric": [">", 0]}]}), json!({"envelope": "plain"}));
        let items: Vec<Value> = (0..300).map(|n| json!({"event_name": "a", "payload": {"n": n % 3}})).collect();
        server.post("/publish/batch", Value::from(items)).data();
        let of = |rest: i64| (1..=300).filter(|id| (id - 1) % 3 == rest).collect::<Vec<i64>>();
        for (rest, ws) in (0..3).zip(&mut sockets) {
            assert_gets(ws, &of(rest), "one filter");
        }
        for id in 1..=300 {
            let frame = sockets[3].recv_json();
            // The fuller envelope of those that want it.
            let expected = if (id - 1) % 3 == 0 { json!(id) } else { Value::Null };
            assert_eq!((&frame["id"], &frame["payload"]["n"]), (&expected, &json!((id - 1) % 3)), "{frame}");
        }
    });
}

#[test]
fn history_is_filtered_like_what_comes() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let items: Vec<Value> = (1..=2000).map(|n| json!({"event_name": "a", "payload": {"n": n % 10}})).collect();
        server.post("/publish/batch", Value::from(items)).data();
        let expected: Vec<i64> = (1..=2000).filter(|n| n % 10 == 7).collect();
        for what in ["from memory", "from the store"] {
            let mut ws = server.ws();
            let reply = subscribe(&mut ws, "a", json!({"n": 7}), json!({"after": 0}));
            assert_eq!(reply["recovered"], true, "{reply}");
            assert_gets(&mut ws, &expected, what);
            let mut ws = server.ws();
            subscribe(&mut ws, "a", json!({"n": 7}), json!({"after": 1990}));
            assert_gets(&mut ws, &[1997], what);
            server.restart();
        }
        let mut ws = server.ws();
        subscribe(&mut ws, "a", json!({"n": 8}), json!({"after": 1980}));
        let live = server.publish("a", json!({"n": 8}));
        server.publish("a", json!({"n": 7}));
        assert_gets(&mut ws, &[1988, 1998, live], "history, then live");
    });
}

#[test]
fn an_event_that_one_of_two_subscriptions_keeps_back_is_sent() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let ids: Vec<i64> = (0..4).map(|n| server.publish("a.b", json!({"n": n}))).collect();
        let mut ws = server.ws();
        subscribe(&mut ws, "a.*", json!({"n": [0, 1, 4, 5]}), json!({}));
        // What the first keeps back in the part that it has had is not taken for sent.
        subscribe(&mut ws, "a.>", json!({"n": [1, 2, 5, 6]}), json!({"after": 0}));
        assert_gets(&mut ws, &ids[1..3], "history");
        let live: Vec<i64> = (4..8).map(|n| server.publish("a.b", json!({"n": n}))).collect();
        assert_gets(&mut ws, &live[..3], "live");
        subscribe(&mut ws, "*.b", json!({"n": [3, 4, 7]}), json!({"after": 0}));
        // 4 was sent to the first one; 3 and 7 to none.
        let sent = [ids[3], live[3]];
        assert_gets(&mut ws, &sent, "what was not sent before");
    });
}

#[test]
fn subscribing_again_replaces_the_filter() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        let publish = || [1, 2, 3].map(|n| server.publish("a", json!({"n": n})));
        subscribe(&mut ws, "a", json!({"n": [1]}), json!({}));
        let first = publish();
        assert_gets(&mut ws, &first[..1], "the first filter");
        subscribe(&mut ws, "a", json!({"n": [2]}), json!({}));
        let second = publish();
        assert_gets_after(&mut ws, &first[1..2], &second[1..2], "the second filter");
        subscribe(&mut ws, "a", json!({"n": [2]}), json!({"envelope": "plain"}));
        let third = publish();
        assert_eq!(ws.recv_json(), json!({"event_name": "a", "payload": {"n": 2}}));
        subscribe(&mut ws, "a", Value::Null, json!({}));
        let fourth = publish();
        assert_gets_after(&mut ws, &third[2..], &fourth, "no filter any more");
        subscribe(&mut ws, "a", json!({"n": [3]}), json!({"after": 0}));
        let thirds: Vec<i64> = (1..=12).filter(|id| id % 3 == 0).collect();
        assert_gets(&mut ws, &thirds, "history anew");
        // What the present filter has kept back is not taken for sent when another asks for it.
        subscribe(&mut ws, ">", Value::Null, json!({"after": 10}));
        assert_gets(&mut ws, &[11], "the other subscription");
        ws.request(json!({"action": "unsubscribe", "event_name": "a", "id": 3}));
        ws.request(json!({"action": "unsubscribe", "event_name": ">", "id": 4}));
        publish();
        assert_eq!(ws.barrier(), Vec::<String>::new());
    });
}

#[test]
fn a_bad_filter_is_refused_with_its_place() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = server.ws();
    for (filter, field) in [
        (json!({"price": [{"numeric": [">", "x"]}]}), "filter.price[0].numeric[1]"),
        (json!({"a": {"b": [{"between": [1, 2]}]}}), "filter.a.b[0].between"),
        (json!({"a": {"prefix": "x"}}), "filter.a.prefix"),
        (json!({"a.b": []}), r#"filter["a.b"]"#),
        (json!("x"), "filter"),
        (json!({"a": vec![0; 300]}), "filter.a[256]"),
        (json!({"a": "x".repeat(10_000)}), "filter"),
    ] {
        let reply = subscribe(&mut ws, "a", filter.clone(), json!({}));
        let error = &reply["error"];
        assert_eq!((&error["code"], &error["field"]), (&json!("invalid_field"), &json!(field)), "{filter} {reply}");
        let begin = format!("{field}: ");
        assert!(error["message"].as_str().is_some_and(|message| message.starts_with(&begin)), "{reply}");
    }
    let list = ws.request(json!({"action": "list", "id": 2}));
    assert_eq!(list["subscriptions"], json!([]), "nothing was subscribed to");
}

#[test]
fn numbers_are_compared_exactly() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = server.ws();
    ws.send(r#"{"action":"subscribe","event_name":"a","filter":{"n":[1e400, 9007199254740993]},"envelope":"full"}"#);
    ws.barrier();
    let publish =
        |n: &str| server.post("/publish", format!(r#"{{"event_name":"a","payload":{{"n":{n}}}}}"#)).event_id();
    let ids = ["10e399", "1e401", "9007199254740992", "9007199254740993.0"].map(publish);
    // The frames hold numbers that this client's JSON does not.
    for id in [ids[0], ids[3]] {
        let frame = ws.recv_text();
        assert!(frame.contains(&format!(r#""id":{id},"#)), "{id} {frame}");
    }
}

#[test]
fn a_service_gets_what_its_routes_let_through() {
    for_each_backend(|backend| {
        let service = Service::start();
        let server = start(backend, &service, &[("routes", LARGE)]);
        let ids = [
            server.publish("order.made", json!({"amount": 1})),
            server.publish("payment.done", json!({"amount": 101})),
            server.publish("payment.done", json!({"amount": 100})),
            server.publish("payment.done", json!({})),
            server.publish("payment.done", json!({"amount": [1, 1e3]})),
            server.publish("user.created", json!({"amount": 101})),
        ];
        let wanted = [ids[0], ids[1], ids[4]];
        service.wait_for_accepted(&wanted);
        let routes = &told(&server)["routes"];
        assert_eq!(routes[0], "order.>", "{routes}");
        assert_eq!(routes[1]["filter"], r#"{"amount":[{"numeric":[">",100]}]}"#, "{routes}");

        let replay = |body: Value| server.post("/admin/replay", body).data();
        operate(&server, "pause");
        assert_eq!(replay(json!({"service": "billing", "from": 1, "dry_run": true}))["count"], 3);
        // By name, filters hold; what no route is about is sent because it was asked for.
        let asked = json!({"service": "billing", "from": 1, "event_name": ["payment.*", "user.*"]});
        assert_eq!(replay(asked)["count"], 3);
        operate(&server, "resume");
        service.wait_for_accepted(&ids[5..]);
        eventually("the replay is over", || (told(&server)["pending"] == 0).then_some(()));
        let mut all = service.ids();
        all.sort_unstable();
        assert_eq!(all, [ids[0], ids[1], ids[1], ids[4], ids[4], ids[5]]);
    });
}

#[test]
fn a_new_service_begins_with_what_its_filters_let_through() {
    for_each_backend(|backend| {
        let service = Service::start();
        let mut server = Server::start(backend);
        let ids = [1, 2, 3, 4].map(|n| server.publish("a", json!({"n": n})));
        server.terminate();
        let routes = r#"[{"event":"a","filter":{"n":[{"numeric":[">",1,"<=",3]}]}}]"#;
        let server =
            service.configure(server.spec(), "billing", &[("routes", routes), ("start_from", "earliest")]).start();
        service.wait_for_accepted(&ids[1..3]);
        let job = eventually("the job is done", || {
            let job = server.get("/admin/jobs").data()[0].take();
            (job["state"] == "done").then_some(job)
        });
        assert_eq!(job["made"], 2, "{job}");
        assert_eq!(service.ids().len(), 2);
    });
}

#[test]
fn a_bad_filter_of_a_route_stops_the_start() {
    let service = "[[services]]\nname = \"x\"\nurl = \"http://h\"\nroutes = [\"a\", ";
    let file = format!("{service}{{ event = \"b\", filter = {{ n = [{{ numeric = [\">\", \"1\"] }}] }} }}]\n");
    let output = Server::builder().file("own.toml", &file).env("EVENT_HANDLER_CONFIG", "own.toml").run();
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("own.toml: services.x.routes[1]: filter.n[0].numeric[1]: must be a number"), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}

#[test]
fn it_is_explained_why_a_filter_keeps_an_event_back() {
    let service = Service::start();
    let server = start(Backend::Sqlite, &service, &[("routes", LARGE)]);
    let mut ws = server.ws();
    subscribe(&mut ws, "payment.*", json!({"customer": {"tier": ["gold"]}}), json!({}));
    let explain = |payload: Value| {
        let told = server.post("/admin/explain", json!({"event_name": "payment.done", "payload": payload})).data();
        (told["services"][0].clone(), told["sessions"].clone())
    };
    let (of_service, sessions) = explain(json!({"amount": 101, "customer": {"tier": "gold"}}));
    assert_eq!((&of_service["gets"], &of_service["route"]), (&json!(true), &json!("payment.*")), "{of_service}");
    assert_eq!((&sessions["count"], &sessions["others_count"]), (&json!(1), &json!(0)), "{sessions}");
    let (of_service, sessions) = explain(json!({"amount": 1}));
    assert_eq!(of_service["why_not"], "filter.amount: has no value that is asked for", "{of_service}");
    assert_eq!(sessions["others_listed"][0]["why_not"], "filter.customer.tier: is missing", "{sessions}");
    assert_eq!(sessions["others_listed"][0]["patterns"], json!(["payment.*"]), "{sessions}");
}
