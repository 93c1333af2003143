//! The state of the whole system: changes that services acknowledge, refuse or do not answer.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::http::{Request, Response};
use crate::support::postgres::Postgres;
use crate::support::server::{Builder, metric};
use crate::support::service::Delivery;
use crate::support::{Answer, Backend, Server, Service, eventually, for_each_backend};

/// Services of a barrier get nothing by their routes.
const UNROUTED: &[(&str, &str)] = &[
    ("routes", "none"),
    ("retry_base", "20ms"),
    ("retry_cap", "50ms"),
    ("max_attempts", "1000"),
    ("breaker_open_for", "50ms"),
    ("breaker_open_cap", "50ms"),
];

pub fn with(builder: Builder, services: &[(&str, &Service)]) -> Builder {
    services.iter().fold(builder, |builder, (name, service)| service.configure(builder, name, UNROUTED))
}

fn start(backend: Backend, services: &[(&str, &Service)]) -> Server {
    with(Server::builder().backend(backend), services).start()
}

pub fn request(server: &Server, body: impl ToString) -> Request {
    server.request("PUT", "/system").bearer(server.admin_token()).json(body)
}

/// Begins a change; returns what is told of it.
pub fn put(server: &Server, body: Value) -> Value {
    accepted(&request(server, body).send())
}

fn accepted(response: &Response) -> Value {
    let answer = response.json();
    assert_eq!((response.status, &answer["status"]), (202, &json!("ok")), "{answer}");
    answer["data"].clone()
}

pub fn state(server: &Server) -> Value {
    server.get("/system").data()
}

pub fn wait_for_state(server: &Server, wanted: &str) -> Value {
    eventually(&format!("the system is {wanted}"), || {
        let seen = state(server);
        (seen["state"] == wanted && seen["waiting_for"] == json!([])).then_some(seen)
    })
}

/// The steps that were told, each as the last part of its name, from, and to.
pub fn steps(server: &Server) -> Vec<String> {
    let step = |event: Value| {
        let (name, payload) = (event["event_name"].as_str().expect("a name").to_owned(), &event["payload"]);
        let text = |field: &str| payload[field].as_str().expect("text").to_owned();
        format!("{} {} {}", name.trim_start_matches("$sys.system."), text("from"), text("to"))
    };
    server.events("?event_name=$sys.system.*&limit=1000").into_iter().map(step).collect()
}

/// The steps that a service has taken, in the order in which they came.
pub fn taken(service: &Service) -> Vec<String> {
    let name = |delivery: &Delivery| delivery.json()["event_name"].as_str().unwrap_or_default().to_owned();
    service.deliveries().iter().filter(|delivery| delivery.is_accepted()).map(name).collect()
}

fn wait_for_taken(service: &Service, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| format!("$sys.system.{name}")).collect();
    eventually(&format!("{names:?} are taken"), || (taken(service) == names).then_some(()));
}

#[test]
fn a_change_waits_for_the_slowest_service_of_its_barrier() {
    for_each_backend(|backend| {
        let (quick, other, slow) = (Service::start(), Service::start(), Service::answering(|_| Answer::Hang));
        let server = start(backend, &[("quick", &quick), ("other", &other), ("slow", &slow)]);
        let first = state(&server);
        let keys: Vec<_> = first.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["reason", "since", "state", "transition", "waiting_for"]);
        assert_eq!(
            (&first["state"], &first["transition"], &first["reason"]),
            (&json!("running"), &json!(null), &json!(null))
        );
        let asked = json!({"state": "maintenance", "reason": "an upgrade", "barrier": ["slow", "quick", "other"]});
        let told = put(&server, asked);
        assert_eq!((&told["state"], &told["since"]), (&json!("running"), &first["since"]));
        assert_eq!((&told["reason"], &told["waiting_for"]), (&json!("an upgrade"), &json!(["slow", "quick", "other"])));
        let transition = told["transition"].clone();
        let waits = || (state(&server)["waiting_for"] == json!(["slow"])).then(|| state(&server));
        let waiting = eventually("only the slow one is waited for", waits);
        assert_eq!((&waiting["state"], &waiting["transition"]), (&json!("running"), &transition));
        let refused = request(&server, json!({"state": "running"})).send().error(409);
        assert_eq!((&refused["code"], &refused["transition"]), (&json!("system_changing"), &transition));
        slow.answer(204);
        let seen = wait_for_state(&server, "maintenance");
        assert_eq!((&seen["transition"], &seen["reason"]), (&transition, &json!("an upgrade")));
        for service in [&quick, &other, &slow] {
            wait_for_taken(service, &["changing", "changed"]);
        }
        assert_eq!(steps(&server), ["changing running maintenance", "changed running maintenance"]);
        let events = server.events("?event_name=$sys.system.*");
        for event in &events {
            assert_eq!((&event["payload"]["transition"], &event["key"]), (&transition, &json!("system")));
            assert_eq!(event["priority"], "high", "{event}");
        }
        assert_eq!(metric(&server, r#"event_handler_system_state{state="maintenance"} "#), 1.0);
        assert_eq!(server.get("/health/ready").json()["checks"]["system"], json!({"state": "maintenance"}));
        assert_eq!(server.get("/health").text(), r#"{"status":"ok"}"#);
        let same = put(&server, json!({"state": "maintenance", "barrier": ["quick"]}));
        assert_eq!((&same, steps(&server).len()), (&seen, 2), "it is so already");
    });
}

#[test]
fn one_refusal_takes_a_change_back_and_who_had_acknowledged_is_told() {
    for_each_backend(|backend| {
        let (willing, busy) = (Service::start(), Service::start());
        let first = std::sync::atomic::AtomicBool::new(true);
        busy.behave(move |_| match first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            true => Answer::Status(429),
            false => Answer::Hang,
        });
        let server = start(backend, &[("willing", &willing), ("busy", &busy)]);
        let told = put(&server, json!({"state": "draining", "barrier": ["willing", "busy"]}));
        let waits = || (state(&server)["waiting_for"] == json!(["busy"])).then_some(());
        eventually("429 is no answer, and the other one has acknowledged", waits);
        busy.behave(|delivery| match delivery.json()["event_name"] == "$sys.system.changing" {
            true => Answer::Status(409),
            false => Answer::Status(200),
        });
        wait_for_taken(&willing, &["changing", "reverted"]);
        wait_for_taken(&busy, &["reverted"]);
        let reverted = server.events("?event_name=$sys.system.reverted").remove(0)["payload"].take();
        for (field, value) in [
            ("transition", told["transition"].clone()),
            ("from", json!("running")),
            ("to", json!("draining")),
            ("cause", json!("veto")),
            ("service", json!("busy")),
            ("http_status", json!(409)),
        ] {
            assert_eq!(reverted[field], value, "{field} of {reverted}");
        }
        let seen = state(&server);
        assert_eq!(
            (&seen["state"], &seen["transition"], &seen["waiting_for"]),
            (&json!("running"), &json!(null), &json!([]))
        );
    });
}

#[test]
fn what_is_not_acknowledged_in_time_is_taken_back_or_made() {
    for_each_backend(|backend| {
        // It would take everything but what comes first.
        let silent = Service::answering(|delivery| match delivery.json()["event_name"] == "$sys.system.changing" {
            true => Answer::Status(503),
            false => Answer::Status(200),
        });
        let willing = Service::start();
        let server = start(backend, &[("willing", &willing), ("silent", &silent)]);
        let mut asked = json!({"state": "maintenance", "barrier": ["willing", "silent"], "timeout": "400ms"});
        put(&server, asked.clone());
        wait_for_taken(&willing, &["changing", "reverted"]);
        let reverted = server.events("?event_name=$sys.system.reverted").remove(0)["payload"].take();
        assert_eq!((&reverted["cause"], &reverted["missing"]), (&json!("timeout"), &json!(["silent"])));
        assert_eq!(state(&server)["state"], "running");
        asked["on_timeout"] = json!("proceed");
        put(&server, asked);
        wait_for_state(&server, "maintenance");
        let changed = server.events("?event_name=$sys.system.changed").remove(0)["payload"].take();
        assert_eq!(changed["missing"], json!(["silent"]));
        wait_for_taken(&willing, &["changing", "reverted", "changing", "changed"]);
        // What comes late comes in order: nothing overtakes what was not taken.
        silent.answer(200);
        wait_for_taken(&silent, &["changing", "reverted", "changing", "changed"]);
    });
}

#[test]
fn what_cannot_be_asked_for_is_told_by_field() {
    let service = Service::start();
    let server = start(Backend::Sqlite, &[("quick", &service)]);
    for (body, field) in [
        (json!({"state": "degraded"}), "state"),
        (json!({"state": "maintenance", "barrier": ["quick", "eliza"]}), "barrier"),
        (json!({"state": "maintenance", "barrier": ["quick", "quick"]}), "barrier"),
        (json!({"state": "maintenance", "timeout": "forever"}), "timeout"),
        (json!({"state": "maintenance", "on_timeout": "hope"}), "on_timeout"),
        (json!({"state": "maintenance", "force": true}), "force"),
        (json!({}), "state"),
    ] {
        let error = request(&server, &body).send().error(422);
        assert_eq!(error["field"], field, "{body}");
    }
    // Nobody but operators changes it, however open the data plane is.
    server.request("PUT", "/system").json(json!({"state": "maintenance"})).send().error(401);
    assert_eq!(steps(&server), [] as [&str; 0]);
    assert_eq!(server.request("DELETE", "/system").send().error(405)["code"], "method_not_allowed");
}

#[test]
fn a_change_goes_on_after_the_process_was_killed_in_the_middle() {
    for_each_backend(|backend| {
        let (quick, slow) = (Service::start(), Service::answering(|_| Answer::Hang));
        let mut server = start(backend, &[("quick", &quick), ("slow", &slow)]);
        let transition =
            put(&server, json!({"state": "maintenance", "barrier": ["quick", "slow"]}))["transition"].take();
        eventually("one has acknowledged", || (state(&server)["waiting_for"] == json!(["slow"])).then_some(()));
        server.kill9();
        slow.answer(200);
        server.restart();
        let seen = wait_for_state(&server, "maintenance");
        assert_eq!(seen["transition"], transition);
        server.kill9();
        server.restart();
        assert_eq!(state(&server), seen, "it outlives restarts");
        assert_eq!(steps(&server), ["changing running maintenance", "changed running maintenance"], "it ended once");
        // What was taken just before a kill may come again, under its id.
        eventually("it is told in order", || {
            let id = |delivery: &Delivery| delivery.header("webhook-id").map(str::to_owned);
            let mut came = quick.deliveries();
            came.dedup_by_key(|delivery| id(delivery));
            let names: Vec<_> = came.iter().map(|delivery| delivery.json()["event_name"].clone()).collect();
            (names == ["$sys.system.changing", "$sys.system.changed"]).then_some(())
        });
        let due = json!({"state": "running", "barrier": ["slow"], "timeout": "300ms"});
        slow.behave(|_| Answer::Hang);
        put(&server, due);
        server.kill9();
        server.restart();
        eventually("it is taken back in the end", || {
            steps(&server).contains(&"reverted maintenance running".to_owned()).then_some(())
        });
        assert_eq!(state(&server)["state"], "maintenance");
    });
}

fn node(name: &str, url: &str, services: &[(&str, &Service)]) -> Server {
    let builder = Server::builder().env("DATABASE_URL", url).env("EVENT_HANDLER__NODE__NAME", name);
    with(builder.operated("the operator's token"), services).start()
}

fn holds(server: &Server, name: &str) -> bool {
    let nodes = server.get("/admin/nodes").data();
    let node = nodes.as_array().expect("a list").iter().find(|node| node["name"] == name).cloned().unwrap_or_default();
    node["holds"].as_array().is_some_and(|held| held.contains(&json!("system")))
}

#[test]
fn another_node_goes_on_when_the_one_that_decides_is_killed() {
    let (quick, slow) = (Service::start(), Service::answering(|_| Answer::Hang));
    let url = Postgres::shared().url();
    let services = [("quick", &quick), ("slow", &slow)];
    let mut nodes = ["one", "two"].map(|name| node(name, &url, &services));
    let transition = put(&nodes[0], json!({"state": "maintenance", "barrier": ["quick", "slow"]}))["transition"].take();
    for node in &nodes {
        eventually("both say so", || (state(node)["waiting_for"] == json!(["slow"])).then_some(()));
        assert_eq!(request(node, json!({"state": "running"})).send().error(409)["code"], "system_changing");
    }
    let holder = eventually("one of them decides", || (0..2).find(|at| holds(&nodes[0], ["one", "two"][*at])));
    nodes[holder].kill9();
    slow.answer(200);
    let other = &nodes[1 - holder];
    let seen = wait_for_state(other, "maintenance");
    assert_eq!(seen["transition"], transition);
    assert_eq!(steps(other), ["changing running maintenance", "changed running maintenance"]);
    nodes[holder].restart();
    assert_eq!(state(&nodes[holder]), seen);
    // Of two who ask at once, one is heard; what is put at one node is seen at the other at once.
    let answers = std::thread::scope(|scope| {
        let ask =
            |node| scope.spawn(move || request(node, json!({"state": "running", "barrier": ["slow"]})).send().status);
        let asked: Vec<_> = nodes.iter().map(ask).collect();
        asked.into_iter().map(|asked| asked.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(answers.contains(&202), "{answers:?}");
    wait_for_state(&nodes[0], "running");
    assert_eq!(state(&nodes[1])["state"], "running");
    assert_eq!(steps(&nodes[1]).len(), 4);
}

#[test]
fn a_node_that_has_drained_with_all_others_begins_anew() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        put(&server, json!({"state": "draining"}));
        eventually("it drains", || (server.get("/health/ready").json()["checks"]["draining"] == true).then_some(()));
        server.kill9();
        server.restart();
        assert_eq!(wait_for_state(&server, "running")["reason"], "all nodes have ended");
        server.publish("a", json!({}));
    });
}

/// One that was frozen as the holder finds it decided, and decides nothing anew.
#[test]
fn a_node_that_was_frozen_while_it_decided_changes_nothing() {
    let slow = Service::answering(|_| Answer::Hang);
    let url = Postgres::shared().url();
    let nodes = ["one", "two"].map(|name| node(name, &url, &[("slow", &slow)]));
    let asked = json!({"state": "maintenance", "barrier": ["slow"], "timeout": "4s"});
    put(&nodes[0], asked);
    let holder = eventually("one of them decides", || (0..2).find(|at| holds(&nodes[0], ["one", "two"][*at])));
    let (frozen, other) = (&nodes[holder], &nodes[1 - holder]);
    frozen.signal(Signal::STOP);
    eventually("it is taken back", || (steps(other).len() == 2).then_some(()));
    put(other, json!({"state": "draining"}));
    put(other, json!({"state": "running"}));
    frozen.signal(Signal::CONT);
    wait_for_state(frozen, "running");
    eventually("it is a member again", || {
        let nodes = frozen.get("/admin/nodes").data();
        nodes.as_array().expect("a list").iter().all(|node| node["state"] == "up").then_some(())
    });
    let told = [
        "changing running maintenance",
        "reverted running maintenance",
        "changing running draining",
        "changed running draining",
        "changing draining running",
        "changed draining running",
    ];
    assert_eq!(steps(other), told);
}

#[test]
fn in_draining_every_node_drains_until_it_is_running_or_all_have_ended() {
    let service = Service::start();
    let url = Postgres::shared().url();
    let mut nodes = ["one", "two"].map(|name| node(name, &url, &[("quick", &service)]));
    let mut ws = nodes[1].ws();
    ws.barrier();
    put(&nodes[0], json!({"state": "draining", "barrier": ["quick"]}));
    let drains = |node: &Server, drains: bool| {
        eventually("every node does so", || {
            (node.get("/health/ready").json()["checks"]["draining"] == drains).then_some(())
        });
    };
    nodes.iter().for_each(|node| drains(node, true));
    assert_eq!(ws.recv_close().0.map(|close| u16::from(close.code)), Some(4200));
    let refused = nodes[1].post("/publish", json!({"event_name": "a"})).error(503);
    assert_eq!(refused["code"], "draining");
    put(&nodes[1], json!({"state": "running", "barrier": ["quick"]}));
    nodes.iter().for_each(|node| drains(node, false));
    nodes[0].publish("a", json!({}));
    // One that comes while others drain does so too.
    put(&nodes[0], json!({"state": "draining"}));
    nodes.iter().for_each(|node| drains(node, true));
    nodes[1].terminate();
    nodes[1].restart();
    drains(&nodes[1], true);
    nodes[1].terminate();
    nodes[0].terminate();
    nodes[0].restart();
    drains(&nodes[0], false);
    assert_eq!(wait_for_state(&nodes[0], "running")["reason"], "all nodes have ended");
    assert_eq!(steps(&nodes[0]).last().map(String::as_str), Some("changed draining running"));
    // Those that are killed leave their memberships behind for a while.
    nodes[1].restart();
    put(&nodes[0], json!({"state": "draining"}));
    nodes.iter().for_each(|node| drains(node, true));
    nodes.iter_mut().for_each(Server::kill9);
    nodes.iter_mut().for_each(Server::restart);
    nodes.iter().for_each(|node| drains(node, false));
    wait_for_state(&nodes[1], "running");
}
