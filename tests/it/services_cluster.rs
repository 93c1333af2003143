//! Two nodes on one database: one delivers to a service, the other stands by, takes over, and passes commands on.

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use serde_json::{Value, json};

use crate::services::{operate, told};
use crate::support::postgres::Postgres;
use crate::support::server::metric;
use crate::support::{Answer, Server, Service, eventually};

/// Stays open for longer than a test, from the first failure on.
const BRITTLE: &[(&str, &str)] =
    &[("breaker_consecutive", "1"), ("breaker_open_for", "1h"), ("breaker_open_cap", "1h"), ("retry_delays", "10ms")];

#[test]
fn who_takes_over_goes_on_with_the_pause_and_the_breaker_as_they_are() {
    let service = Service::start();
    let [mut holder, standby] = start_two(&service, &[]);
    operate(&holder, "pause");
    operate(&holder, "open");
    becomes(&standby, "standby", json!("by an operator"), "forced_open");
    let ids = [holder.publish("a", json!({})), standby.publish("b", json!({}))];
    holder.kill9();
    becomes(&standby, "paused", json!("by an operator"), "forced_open");
    operate(&standby, "resume");
    becomes(&standby, "active", json!(null), "forced_open");
    assert_eq!(service.ids(), Vec::<i64>::new());
    operate(&standby, "reset");
    service.wait_for_accepted(&ids);
}

#[test]
fn who_takes_over_does_not_pause_what_was_resumed_elsewhere() {
    let service = Service::start();
    let url = Postgres::shared().url();
    let mut holder = node(NAMES[0], &service, &url, &[]);
    becomes(&holder, "active", json!(null), "closed");
    operate(&holder, "pause");
    let standby = node(NAMES[1], &service, &url, &[]);
    becomes(&standby, "standby", json!("by an operator"), "closed");
    operate(&holder, "resume");
    holder.kill9();
    becomes(&standby, "active", json!(null), "closed");
    let id = standby.publish("a", json!({}));
    service.wait_for_accepted(&[id]);
}

#[test]
fn a_command_given_to_a_node_that_stands_by_is_obeyed_by_the_one_that_delivers() {
    let service = Service::start();
    let [mut holder, standby] = start_two(&service, &[]);
    ask(&standby, "pause");
    becomes(&holder, "paused", json!("by an operator"), "closed");
    let id = standby.publish("a", json!({}));
    for (command, breaker) in [("open", "forced_open"), ("close", "forced_closed"), ("reset", "closed")] {
        ask(&standby, command);
        becomes(&holder, "paused", json!("by an operator"), breaker);
    }
    assert_eq!(service.ids(), Vec::<i64>::new());
    ask(&standby, "resume");
    service.wait_for_accepted(&[id]);
    let paused = holder.events("?event_name=$sys.service.paused");
    assert_eq!(paused.len(), 1, "obeyed once, and told of by one node: {paused:?}");
    // What was obeyed is over: nobody obeys it again.
    operate(&holder, "open");
    holder.kill9();
    becomes(&standby, "active", json!(null), "forced_open");
}

#[test]
fn of_two_commands_at_two_nodes_the_later_one_counts() {
    let service = Service::start();
    let [holder, standby] = start_two(&service, &[]);
    for _ in 0..5 {
        ask(&standby, "pause");
        assert_eq!(operate(&holder, "resume")["state"], "active");
    }
    let told = holder.events("?event_name=$sys.service.*");
    let names = told.iter().map(|event| event["event_name"].as_str().expect("a name"));
    let names: Vec<_> = names.filter(|name| *name != "$sys.service.recovered").collect();
    assert_eq!(names, ["$sys.service.paused", "$sys.service.resumed"].repeat(5));
}

#[test]
fn the_figures_of_a_service_are_those_of_the_node_that_delivers() {
    let service = Service::start();
    let [mut holder, standby] = start_two(&service, &[]);
    operate(&holder, "pause");
    for _ in 0..3 {
        standby.publish("a", json!({}));
    }
    let figures = |node: &Server| {
        let pending = metric(node, "event_handler_deliveries_pending{lane=\"normal\",service=\"billing\"} ");
        let closed = metric(node, "event_handler_service_breaker_state{service=\"billing\",state=\"closed\"} ");
        (pending, closed)
    };
    eventually("the holder has counted them", || (figures(&holder) == (3.0, 1.0)).then_some(()));
    assert_eq!((figures(&standby), &told(&standby)["pending"]), ((0.0, 0.0), &json!(0)));
    holder.kill9();
    eventually("they move along", || (figures(&standby) == (3.0, 1.0)).then_some(()));
}

/// A node that is stopped waits for the answer of one service; the other one goes on elsewhere meanwhile.
#[test]
fn a_slow_service_of_a_node_that_is_stopped_holds_up_no_other() {
    let (slow, quick) = (Service::answering(|_| Answer::Hang), Service::start());
    let url = Postgres::shared().url();
    let [mut stopped, other] = NAMES.map(|name| {
        let builder = Server::builder().env("DATABASE_URL", &url).env("EVENT_HANDLER__NODE__NAME", name);
        let builder = slow.configure(builder.operated("sesame"), "billing", &[("timeout", "20s")]);
        let server = quick.configure(builder, "audit", &[]).start();
        eventually("both services are held", || {
            let nodes = server.get("/admin/nodes").data();
            nodes[nodes.as_array().expect("a list").len() - 1]["holds"]
                .to_string()
                .contains("service:billing")
                .then_some(())
        });
        server
    });
    let id = other.publish("a", json!({}));
    quick.wait_for_accepted(&[id]);
    eventually("the slow one has it", || (!slow.deliveries().is_empty()).then_some(()));
    stopped.signal_terminate();
    let id = other.publish("a", json!({}));
    quick.wait_for_accepted(&[id]);
    let nodes = other.get("/admin/nodes").data();
    let held = |name: &str| {
        let mut nodes = nodes.as_array().expect("a list").iter();
        nodes.find(|node| node["name"] == name).map(|node| node["holds"].to_string()).unwrap_or_default()
    };
    assert!(held(NAMES[0]).contains("service:billing") && held(NAMES[1]).contains("service:audit"), "{nodes}");
    slow.behave(|_| Answer::Status(200));
    stopped.kill9();
}

#[test]
fn what_a_node_has_published_just_before_it_left_is_counted() {
    let service = Service::start();
    let [holder, mut standby] = start_two(&service, &[]);
    operate(&holder, "pause");
    for _ in 0..3 {
        standby.publish("a", json!({}));
    }
    assert!(standby.terminate().success());
    eventually("the holder has counted them", || (told(&holder)["pending"] == 3).then_some(()));
}

#[test]
fn a_command_changes_nothing_but_what_it_says() {
    let service = Service::start();
    service.answer(500);
    let [mut holder, standby] = start_two(&service, BRITTLE);
    holder.publish("a", json!({}));
    becomes(&holder, "active", json!(null), "open");
    ask(&standby, "pause");
    becomes(&holder, "paused", json!("by an operator"), "open");
    holder.kill9();
    becomes(&standby, "paused", json!("by an operator"), "open");
}

#[test]
fn a_command_that_nobody_has_obeyed_is_obeyed_by_who_takes_over() {
    let service = Service::start();
    let url = Postgres::shared().url();
    let mut holder = PgConnection::establish(&url).expect("connected");
    // The lock of the first service is that which a node takes.
    let mut first = node(NAMES[0], &service, &url, &[]);
    becomes(&first, "active", json!(null), "closed");
    let seen = "CREATE TEMP TABLE seen AS SELECT classid::bigint AS class FROM pg_locks \
                WHERE locktype = 'advisory' AND objsubid = 2 AND objid = 1 \
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    holder.batch_execute(seen).expect("seen");
    first.kill9();
    let lock = "SELECT pg_advisory_lock((class - (class >> 31 << 32))::int, 1) FROM seen";
    holder.batch_execute(lock).expect("locked");
    let standby = node(NAMES[1], &service, &url, &[]);
    becomes(&standby, "standby", json!(null), "closed");
    let id = standby.publish("a", json!({}));
    for command in ["open", "pause", "close", "pause"] {
        ask(&standby, command);
    }
    becomes(&standby, "standby", json!(null), "closed");
    drop(holder);
    becomes(&standby, "paused", json!("by an operator"), "forced_closed");
    assert_eq!(service.ids(), Vec::<i64>::new());
    operate(&standby, "resume");
    service.wait_for_accepted(&[id]);
}

/// A node that delivers to `service`, and one that stands by.
fn start_two(service: &Service, options: &[(&str, &str)]) -> [Server; 2] {
    let url = Postgres::shared().url();
    let holder = node(NAMES[0], service, &url, options);
    becomes(&holder, "active", json!(null), "closed");
    let standby = node(NAMES[1], service, &url, options);
    becomes(&standby, "standby", json!(null), "closed");
    [holder, standby]
}

/// The two nodes that a test has. The first is to hold the service by their names, so that it keeps it.
const NAMES: [&str; 2] = ["c", "a"];

fn node(name: &str, service: &Service, url: &str, options: &[(&str, &str)]) -> Server {
    let builder = Server::builder().env("DATABASE_URL", url).env("EVENT_HANDLER__NODE__NAME", name);
    service.configure(builder, "billing", options).start()
}

/// Waits until the node says so of the service.
fn becomes(node: &Server, state: &str, paused: Value, breaker: &str) {
    let expected = [json!(state), paused, json!(breaker)];
    eventually(&format!("{expected:?}"), || {
        let told = told(node);
        let is = [told["state"].clone(), told["paused"].clone(), told["breaker"]["state"].clone()];
        (is == expected).then_some(())
    });
}

/// Tells a node that stands by.
fn ask(standby: &Server, command: &str) {
    let answer = standby.post(&format!("/admin/services/billing/{command}"), "");
    assert_eq!(answer.status, 202, "{answer:?}");
    let told = answer.json();
    let expected = "Service 'billing': left to the node that delivers to it, which obeys within seconds.";
    assert_eq!((&told["message"], &told["data"]["state"]), (&json!(expected), &json!("standby")));
}
