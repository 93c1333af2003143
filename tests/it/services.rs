//! Services: what is delivered to them, what operators see of it, and what they can do about it.

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::{Builder, wait_for_status};
use crate::support::service::Delivery;
use crate::support::{Answer, Backend, Server, Service, eventually, for_each_backend};

/// Retries at once, and few of them.
pub const HASTY: &[(&str, &str)] = &[("retry_delays", "10ms,10ms"), ("breaker_consecutive", "0")];

#[test]
fn an_event_is_delivered_and_told_of() {
    for_each_backend(|backend| {
        let service = Service::start();
        let server =
            start(backend, &service, &[("routes", "order.>"), ("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]);
        let body = json!({"event_name": "order.paid", "payload": {"n": 1}, "priority": "high", "key": "k"});
        let id = server.post("/publish", body).event_id();
        server.publish("user.created", json!({}));
        let delivery = service.wait_for(1).remove(0);
        assert_eq!((delivery.event_id, delivery.path.as_str()), (id, "/events"));
        assert_eq!(delivery.json()["payload"], json!({"n": 1}));
        assert!(delivery.header("webhook-signature").is_some_and(|signature| signature.starts_with("v1,")));
        let delivered = eventually("it is delivered", || deliveries(&server, "?state=delivered").pop());
        for (field, value) in [
            ("event_id", json!(id)),
            ("event_name", json!("order.paid")),
            ("service", json!("billing")),
            ("priority", json!("high")),
            ("key", json!("k")),
            ("attempts", json!(1)),
            ("http_status", json!(200)),
            ("last_error", json!(null)),
            ("dead_reason", json!(null)),
            ("due_at", json!(null)),
        ] {
            assert_eq!(delivered[field], value, "{field} of {delivered}");
        }
        assert!(delivered["created_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{delivered}");
        assert_eq!(service.ids(), [id], "the other event has no route");
        let told = told(&server);
        for (field, value) in [
            ("service", json!("billing")),
            ("url", json!(format!("{}/", service.url()))),
            ("path", json!("/events")),
            ("routes", json!(["order.>"])),
            ("state", json!("active")),
            ("signed", json!(true)),
            ("paused", json!(null)),
            ("pending", json!(0)),
            ("dead", json!(0)),
            ("in_flight", json!(0)),
            ("oldest_pending_id", json!(null)),
            ("last_errors", json!([])),
        ] {
            assert_eq!(told[field], value, "{field} of {told}");
        }
        assert_eq!((&told["breaker"]["state"], &told["breaker"]["calls"]), (&json!("closed"), &json!(1)));
        assert_eq!(told["options"]["concurrency"], 16, "{told}");
        assert!(!told.to_string().contains("MfKQ9r8G"), "{told}");
        assert_eq!(server.get("/admin/services").data()[0]["service"], "billing");
    });
}

#[test]
fn what_keeps_failing_is_dead_with_every_attempt_written_down() {
    for_each_backend(|backend| {
        let service = Service::answering(|delivery: &Delivery| match delivery.repeated {
            0 => Answer::HangUp,
            1 => Answer::Status(500),
            _ => Answer::Full(503, vec!["Retry-After: 0".into()], "busy".into()),
        });
        let server = start(backend, &service, HASTY);
        let id = server.publish("order.paid", json!({}));
        eventually("it is dead", || deliveries(&server, "?state=dead&service=billing").pop());
        let dead = deliveries(&server, &format!("?event_id={id}&state=dead")).remove(0);
        assert_eq!((&dead["dead_reason"], &dead["attempts"]), (&json!("exhausted"), &json!(3)), "{dead}");
        let log: Vec<_> = dead["attempt_log"].as_array().expect("a list").iter().map(|a| &a["http_status"]).collect();
        assert_eq!(log, [&json!(null), &json!(500), &json!(503)], "{dead}");
        assert_eq!(deliveries(&server, &format!("?event_id={id}&state=delivered")), Vec::<Value>::new());
        assert_eq!(told(&server)["last_errors"][0]["error"], "answered 503");
        assert_eq!(server.events("?event_name=$sys.delivery.dead")[0]["payload"]["event_id"], id);
    });
}

#[test]
fn while_paused_everything_is_kept() {
    for_each_backend(|backend| {
        let service = Service::start();
        let mut server = start(backend, &service, &[]);
        let paused = operate(&server, "pause");
        assert_eq!((&paused["state"], &paused["paused"]), (&json!("paused"), &json!("by an operator")), "{paused}");
        let ids = [server.publish("a", json!({})), server.publish("b", json!({}))];
        let explained = server.post("/admin/explain", json!({"event_name": "a"})).data();
        assert_eq!(explained["services"][0]["waits_for"], "being resumed", "{explained}");
        // What was answered outlives whatever comes.
        assert_eq!(operate(&server, "open")["breaker"]["state"], "forced_open");
        server.kill9();
        server.restart();
        let pending = deliveries(&server, "?state=pending");
        assert_eq!(pending.iter().map(|d| d["event_id"].as_i64()).collect::<Vec<_>>(), [Some(ids[1]), Some(ids[0])]);
        let told =
            eventually("it is paused after a restart", || Some(told(&server)).filter(|t| t["state"] == "paused"));
        assert_eq!((&told["pending"], &told["oldest_pending_id"]), (&json!(2), &json!(ids[0])), "{told}");
        assert!(told["oldest_pending_age_seconds"].as_f64().is_some_and(|age| age > 0.0), "{told}");
        assert_eq!(service.ids(), Vec::<i64>::new());
        assert_eq!(told["breaker"]["state"], "forced_open", "{told}");
        operate(&server, "reset");
        assert_eq!(operate(&server, "resume")["paused"], json!(null));
        service.wait_for_accepted(&ids);
    });
}

#[test]
fn an_operator_keeps_the_breaker_open_or_closed() {
    let service = Service::start();
    let server = start(Backend::Sqlite, &service, &[("breaker_consecutive", "1"), ("retry_delays", "10ms,1h")]);
    assert_eq!(operate(&server, "open")["breaker"]["state"], "forced_open");
    let id = server.publish("a", json!({}));
    let explained = server.post("/admin/explain", json!({"event_name": "a"})).data();
    assert_eq!(explained["services"][0]["waits_for"], "its circuit breaker to close", "{explained}");
    assert_eq!(service.ids(), Vec::<i64>::new());
    assert_eq!(operate(&server, "close")["breaker"]["state"], "forced_closed");
    service.wait_for_accepted(&[id]);
    service.answer(500);
    server.publish("b", json!({}));
    service.wait_for(3);
    assert_eq!(told(&server)["breaker"]["state"], "forced_closed", "whatever fails");
    assert_eq!(operate(&server, "reset")["breaker"]["state"], "closed");
    server.publish("c", json!({}));
    eventually("it judges by itself again", || (told(&server)["breaker"]["state"] == "open").then_some(()));
    let names: Vec<Value> =
        server.events("?event_name=$sys.service.*").iter().map(|event| event["event_name"].clone()).collect();
    assert!(
        names.contains(&json!("$sys.service.opened")) && names.contains(&json!("$sys.service.closed")),
        "{names:?}"
    );
}

#[test]
fn gone_pauses_the_service() {
    let service = Service::answering(|_| Answer::Status(410));
    let server = start(Backend::Sqlite, &service, &[]);
    let id = server.publish("a", json!({}));
    let told = eventually("it is paused", || Some(told(&server)).filter(|told| told["state"] == "paused"));
    assert_eq!((&told["paused"], &told["dead"]), (&json!("the service answered 410 Gone"), &json!(0)), "{told}");
    service.answer(200);
    operate(&server, "resume");
    service.wait_for_accepted(&[id]);
}

#[test]
fn what_is_under_way_is_told_apart() {
    let service = Service::answering(|_| Answer::Hang);
    let server = start(Backend::Sqlite, &service, &[("concurrency", "2")]);
    let ids: Vec<i64> = (0..4).map(|n| server.publish("a", json!(n))).collect();
    service.wait_for(2);
    let of = |state: &str| -> Vec<i64> {
        let listed = deliveries(&server, &format!("?state={state}"));
        listed.iter().filter_map(|delivery| delivery["event_id"].as_i64()).collect()
    };
    assert_eq!((of("in_flight"), of("pending")), (vec![ids[1], ids[0]], vec![ids[3], ids[2]]));
    assert_eq!(deliveries(&server, &format!("?event_id={}", ids[0]))[0]["state"], "in_flight");
    let all: Vec<Value> = deliveries(&server, "").iter().map(|delivery| delivery["state"].clone()).collect();
    assert_eq!(all, ["pending", "pending", "in_flight", "in_flight"]);
    service.answer(200);
    service.wait_for_accepted(&ids);
    assert_eq!(service.max_concurrent(), 2);
    eventually("all are delivered", || (of("delivered").len() == 4).then_some(()));
}

#[test]
fn pages_of_deliveries_are_linked() {
    for_each_backend(|backend| {
        let service = Service::start();
        let server = with_two(backend, &service).start();
        let ids: Vec<i64> = (0..7).map(|n| server.publish("a", json!(n))).collect();
        eventually("all are delivered", || (deliveries(&server, "?state=delivered").len() == 14).then_some(()));
        for state in ["?limit=3", "?state=delivered&limit=4", "?service=billing&limit=1"] {
            let mut path = Some(format!("/admin/deliveries{state}"));
            let mut seen = Vec::new();
            while let Some(page) = path {
                let page = server.get(&page);
                seen.extend(
                    page.data().as_array().expect("a list").iter().map(|d| d["event_id"].as_i64().expect("an id")),
                );
                let link = page.header("link").and_then(|link| link.strip_suffix(r#">; rel="next""#));
                path = link.and_then(|link| link.strip_prefix('<')).map(|query| format!("/admin/deliveries{query}"));
            }
            let each = if state.contains("service") { 1 } else { 2 };
            let expected: Vec<i64> = ids.iter().rev().flat_map(|id| std::iter::repeat_n(*id, each)).collect();
            assert_eq!(seen, expected, "{state}");
        }
    });
}

#[test]
fn it_is_explained_whom_an_event_would_reach() {
    let service = Service::start();
    let server = with_two(Backend::Sqlite, &service).start();
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "order.*", "id": 1}));
    let mut other = server.ws();
    other.request(json!({"action": "subscribe", "event_name": "user.>", "id": 1}));
    let explain = |body: Value| server.post("/admin/explain", body).data();
    let paid = explain(json!({"event_name": "order.paid", "payload": 1}));
    let found = |at: usize, field: &str| paid["services"][at][field].clone();
    assert_eq!((found(0, "service"), found(0, "gets"), found(0, "route")), (json!("audit"), json!(true), json!(">")));
    assert_eq!((found(1, "service"), found(1, "waits_for")), (json!("billing"), json!(null)), "{paid}");
    let sessions = &paid["sessions"];
    assert_eq!((&sessions["count"], &sessions["others_count"]), (&json!(1), &json!(1)), "{paid}");
    assert_eq!(sessions["listed"][0]["patterns"], json!(["order.*"]), "{paid}");
    assert_eq!(sessions["others_listed"][0]["why_not"], "no subscription matches", "{paid}");
    let own = explain(json!({"event_name": "order.paid", "source": "billing"}));
    assert_eq!(
        (&own["services"][1]["gets"], &own["services"][1]["why_not"]),
        (&json!(false), &json!("it is the source"))
    );
    let own = explain(json!({"event_name": "user.created"}));
    assert_eq!(own["services"][1]["why_not"], "no route matches", "{own}");
    assert_eq!(server.events(""), Vec::<Value>::new(), "explaining stores nothing");
    assert_eq!(server.post("/admin/explain", json!({"event_name": "a..b"})).error(422)["field"], "event_name");
    assert_eq!(server.post("/admin/explain", json!({"event_name": "a", "wait": 1})).error(422)["field"], "wait");
}

#[test]
fn what_does_not_exist_is_refused_with_what_does() {
    let service = Service::start();
    let server = start(Backend::Sqlite, &service, &[]);
    for path in ["/admin/services/eliza/pause", "/admin/services/eliza"] {
        let method = if path.ends_with("pause") { "POST" } else { "GET" };
        let error = server.request(method, path).send().error(404);
        assert_eq!((&error["code"], &error["known"]), (&json!("service_not_found"), &json!(["billing"])));
    }
    let error = server.post("/admin/services/billing/stop", "").error(404);
    assert_eq!(error["known"], json!(["pause", "resume", "open", "close", "reset"]));
    server.get("/admin/services/billing/pause").error(405);
    for (path, field) in [
        ("/admin/deliveries?service=eliza", "service"),
        ("/admin/deliveries?state=lost", "state"),
        ("/admin/deliveries?limit=0", "limit"),
        ("/admin/deliveries?before=x", "before"),
        ("/admin/deliveries?event_id=1&limit=1", "limit"),
        ("/admin/deliveries?status=dead", "status"),
        ("/admin/jobs?limit=x", "limit"),
        ("/admin/services?x=1", "x"),
    ] {
        assert_eq!(server.get(path).error(422)["field"], field, "{path}");
    }
    assert_eq!(server.get("/admin/deliveries?event_id=7").error(404)["code"], "event_not_found");
    for (path, body, field) in [
        ("/admin/deliveries/redrive", json!({}), "service"),
        ("/admin/deliveries/redrive", json!({"service": "eliza"}), "service"),
        ("/admin/deliveries/redrive", json!({"service": "billing", "dryrun": true}), "dryrun"),
        ("/admin/replay", json!({"service": "billing"}), "from"),
        ("/admin/replay", json!({"from": 1}), "service"),
        ("/admin/replay", json!({"service": "billing", "from": 1, "event_name": "a..b"}), "event_name"),
    ] {
        assert_eq!(server.post(path, &body).error(422)["field"], field, "{body}");
    }
    assert_eq!(server.post("/admin/deliveries/redrive", json!({"event_id": 7})).error(404)["code"], "event_not_found");
    server.post("/admin/replay", "{").error(400);
    server.request("POST", "/admin/replay").header("Content-Type", "text/plain").body("{}").send().error(415);
}

#[test]
fn without_the_token_nobody_operates() {
    let service = Service::start();
    let server = service.configure(Server::builder(), "billing", &[]).backend(Backend::Sqlite);
    let server = server.env("ADMIN_TOKEN", "secret").start();
    for (method, path) in [
        ("GET", "/admin/services"),
        ("POST", "/admin/services/billing/pause"),
        ("GET", "/admin/deliveries"),
        ("POST", "/admin/deliveries/redrive"),
        ("POST", "/admin/replay"),
        ("GET", "/admin/jobs"),
        ("DELETE", "/admin/jobs/1"),
        ("POST", "/admin/explain"),
    ] {
        server.request(method, path).send().error(401);
    }
    let refused = command(&server, &["services"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("EVENT_HANDLER_TOKEN"), "{refused:?}");
    assert!(text(&command(&server, &["services", "--token", "secret"])).contains("billing"));
    // The configured token goes to the configured address.
    let port = server.addr().port().to_string();
    let local = server.spec().env("PORT", port).without("EVENT_HANDLER_URL").arg("services").run();
    assert!(text(&local).contains("billing"), "{local:?}");
}

#[test]
fn no_service_makes_the_process_unready() {
    let mut service = Service::start();
    service.refuse();
    let server = start(
        Backend::Sqlite,
        &service,
        &[("breaker_consecutive", "1"), ("breaker_open_for", "1h"), ("breaker_open_cap", "1h")],
    );
    server.publish("a", json!({}));
    eventually("its breaker is open", || (told(&server)["breaker"]["state"] == "open").then_some(()));
    let ready = eventually("that is known", || {
        let ready = wait_for_status(&server, "/health/ready", 200).json();
        (ready["checks"]["services"][0]["breaker"] == "open").then_some(ready)
    });
    let expected = json!({"service": "billing", "breaker": "open", "paused": false, "pending": 1, "dead": 0});
    assert_eq!(ready["checks"]["services"], json!([expected]));
    service.accept();
    operate(&server, "reset");
    service.wait_for_accepted(&[1]);
}

#[test]
fn the_commands_show_services_and_tell_them_what_to_do() {
    let service = Service::answering(|_| Answer::Status(400));
    let server = start(Backend::Sqlite, &service, HASTY);
    let ids = [server.publish("order.paid", json!({})), server.publish("user.created", json!({}))];
    eventually("both are dead", || (told(&server)["dead"] == 2).then_some(()));
    let shown = command(&server, &["services"]);
    let lines: Vec<&str> = text(&shown).lines().collect();
    assert!(lines[0].starts_with("SERVICE  STATE") && lines[1].starts_with("billing  active"), "{lines:?}");
    assert!(lines[1].contains("closed") && lines[1].ends_with("answered 400"), "{lines:?}");
    assert!(lines[0].contains("OLDEST  NEXT  RATE"), "{lines:?}");
    let paused = command(&server, &["services", "pause", "billing", "--json"]);
    let paused: Value = serde_json::from_str(text(&paused)).expect("one JSON object");
    assert_eq!(paused["paused"], "by an operator");
    assert!(text(&command(&server, &["services", "resume", "billing"])).contains("active"));
    let unknown = command(&server, &["services", "pause", "eliza"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(errors(&unknown).contains("known are billing"), "{unknown:?}");
    assert_eq!(command(&server, &["services", "pause"]).status.code(), Some(2));

    let listed = command(&server, &["dead", "list", "--service", "billing"]);
    let lines: Vec<&str> = text(&listed).lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].contains("user.created") && lines[2].contains("rejected"), "{lines:?}");
    assert_eq!(text(&command(&server, &["dead", "list", "--limit", "1", "--json"])).lines().count(), 1);
    assert_eq!(command(&server, &["dead", "redrive"]).status.code(), Some(2));
    let counted = command(&server, &["dead", "redrive", "--service", "billing", "--dry-run"]);
    assert_eq!(text(&counted), "billing: 2 would be redriven\n");
    service.answer(200);
    let redriven = command(&server, &["dead", "redrive", "--event-name", "order.*", "--event-name", "x"]);
    assert_eq!(text(&redriven), "billing: redriving 1 (job 1)\n");
    service.wait_for_accepted(&ids[..1]);
    let redriven = command(&server, &["dead", "redrive", "--event-id", &ids[1].to_string()]);
    assert_eq!(text(&redriven), "billing: redriving 1 (job 2)\n");
    service.wait_for_accepted(&ids);
    eventually("nothing is dead", || {
        errors(&command(&server, &["dead", "list"])).contains("no delivery").then_some(())
    });
    assert!(errors(&command(&server, &["dead", "redrive", "--service", "billing"])).contains("no such delivery"));
}

#[test]
fn a_slow_answer_is_waited_for() {
    let service = Service::answering(|_| Answer::After(Duration::from_millis(50), Box::new(Answer::Status(204))));
    let server = start(Backend::Sqlite, &service, &[("breaker_slow_call", "20ms"), ("breaker_minimum_calls", "100")]);
    let id = server.publish("a", json!({}));
    service.wait_for_accepted(&[id]);
    let slow = eventually("it counts as slow", || Some(told(&server)).filter(|t| t["breaker"]["slow"] == 1));
    assert_eq!((&slow["breaker"]["failures"], &slow["breaker"]["slow_rate"]), (&json!(0), &json!(100.0)), "{slow}");
}

#[test]
fn deliveries_of_a_key_come_one_after_the_other_over_one_connection() {
    let service = Service::start();
    let server = start(Backend::Sqlite, &service, &[]);
    let events: Vec<Value> = (0..50).map(|n| json!({"event_name": "a", "key": "k", "payload": n})).collect();
    server.post("/publish/batch", json!(events)).data();
    service.wait_for_accepted(&(1..=50).collect::<Vec<_>>());
    assert_eq!(service.accepted(), (1..=50).collect::<Vec<_>>());
    assert_eq!((service.max_concurrent(), service.connections()), (1, 1));
    let came = service.deliveries();
    assert!(came.iter().all(|delivery| delivery.connection == 0));
    assert!(came.is_sorted_by_key(|delivery| delivery.arrived));
}

/// A server whose service `billing` is `service`.
pub fn start(backend: Backend, service: &Service, options: &[(&str, &str)]) -> Server {
    let server = service.configure(Server::builder().backend(backend), "billing", options).start();
    eventually("the service is active", || (told(&server)["state"] == "active").then_some(()));
    server
}

/// Two services at the same place: `audit` gets everything, `billing` a part.
fn with_two(backend: Backend, service: &Service) -> Builder {
    let audit = service.configure(Server::builder().backend(backend), "audit", &[]);
    service.configure(audit, "billing", &[("routes", "order.*,a")])
}

/// What is said of `billing`.
pub fn told(server: &Server) -> Value {
    server.get("/admin/services/billing").data()
}

pub fn operate(server: &Server, command: &str) -> Value {
    server.post(&format!("/admin/services/billing/{command}"), "").data()
}

pub fn deliveries(server: &Server, query: &str) -> Vec<Value> {
    match server.get(&format!("/admin/deliveries{query}")).data() {
        Value::Array(items) => items,
        other => panic!("expected a list, not {other}"),
    }
}

fn command(server: &Server, args: &[&str]) -> Output {
    let builder = server.spec().env("EVENT_HANDLER_URL", format!("http://{}", server.addr()));
    args.iter().fold(builder, |builder, arg| builder.arg(arg)).run()
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_the_event_handler_tells_of_a_service_cannot_loop() {
    let service = Service::answering(|_| Answer::Status(500));
    let options =
        [("routes", "order.>,$sys.>"), ("max_attempts", "2"), ("retry_delays", "10ms"), ("breaker_open_for", "20ms")];
    let options = [&options[..], &[("breaker_open_cap", "20ms")]].concat();
    let server = start(Backend::Sqlite, &service, &options);
    for n in 0..6 {
        server.publish("order.paid", json!({ "n": n }));
    }
    let dead = || server.events("?event_name=order.paid&status=failed").len();
    eventually("what was published is dead", || (dead() == 6).then_some(()));
    // Now there is nothing left to try but its own events. They run out, because what becomes of them is not told.
    eventually("nothing is left to deliver", || (told(&server)["pending"] == 0).then_some(()));
    let own = server.events("?event_name=$sys.%3E&limit=1000");
    assert!(own.iter().any(|event| event["event_name"] == "$sys.service.opened"), "{own:?}");
}

#[test]
fn an_event_that_is_too_large_says_nothing_of_the_service() {
    let service = Service::answering(|_| Answer::Status(500));
    let options =
        [("max_body", "1KiB"), ("breaker_open_for", "50ms"), ("breaker_open_cap", "50ms"), ("retry_delays", "1h")];
    let server = start(Backend::Sqlite, &service, &options);
    for _ in 0..5 {
        server.publish("order.paid", json!({}));
    }
    eventually("it is open", || (told(&server)["breaker"]["state"] != "closed").then_some(()));
    let large = (0..8).map(|_| server.publish("order.paid", json!("x".repeat(2_000)))).collect::<Vec<_>>();
    eventually("all large ones are dead", || (deliveries(&server, "?state=dead").len() == large.len()).then_some(()));
    assert_ne!(told(&server)["breaker"]["state"], "closed");
    assert_eq!(service.deliveries().len(), 5);
}
