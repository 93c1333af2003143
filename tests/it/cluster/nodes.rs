//! The nodes among each other: names, what each does for all, one order of events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use event_handler::domain::placement::preferred;
use serde_json::json;

use super::checker::assert_kept;
use super::clients::{Clients, read_log};
use super::harness::{Cluster, serve};
use crate::event_types::accept;
use crate::support::postgres::Postgres;
use crate::support::server::metric;
use crate::support::tcp_proxy::Cut;
use crate::support::{Redis, Service, eventually};

/// The services that each node that runs holds.
type Spread = BTreeMap<String, BTreeSet<String>>;

fn spread(cluster: &Cluster, by: &str) -> Option<Spread> {
    let nodes = cluster.node(by).try_nodes()?;
    let is_up = |node: &&serde_json::Value| node["state"] == "up";
    let held = nodes.iter().filter(is_up).map(|node| {
        let holds = node["holds"].as_array().into_iter().flatten().filter_map(|lease| lease.as_str());
        let services = holds.filter(|lease| lease.starts_with("service:")).map(str::to_owned).collect();
        (node["name"].as_str().unwrap_or_default().to_owned(), services)
    });
    Some(held.collect())
}

#[test]
fn services_are_spread_over_the_nodes_and_spread_anew() {
    const SERVICES: usize = 12;
    let service = Service::start();
    let mut cluster = Cluster::start(|node, builder| {
        (0..SERVICES).fold(builder, |builder, number| serve(node, builder, &service, &format!("s{number}"), &[]))
    });
    let settles = |cluster: &Cluster, members: &[&str]| {
        let mut expected: Spread = members.iter().map(|node| ((*node).to_owned(), BTreeSet::new())).collect();
        for lease in (0..SERVICES).map(|number| format!("service:s{number}")) {
            let holder = preferred(&lease, members.iter().copied()).expect("a member");
            expected.get_mut(holder).expect("a member").insert(lease);
        }
        eventually(&format!("{expected:?}"), || spread(cluster, "n1").filter(|now| *now == expected))
    };
    let first = settles(&cluster, &["n1", "n2", "n3"]);
    eprintln!("spread: {:?}", first.values().map(BTreeSet::len).collect::<Vec<_>>());
    assert!(first.values().all(|held| held.len() >= 3), "{first:?}");
    cluster.node_mut("n2").server.kill9();
    let second = settles(&cluster, &["n1", "n3"]);
    for node in ["n1", "n3"] {
        assert!(second[node].is_superset(&first[node]), "what a node that lives holds stays there: {second:?}");
    }
    cluster.node_mut("n2").restart();
    assert_eq!(settles(&cluster, &["n1", "n2", "n3"]), first, "only the one that has come gets any");
}

#[test]
fn a_node_whose_name_is_taken_ends_with_78() {
    let cluster = Cluster::start_on(Postgres::shared(), 1, |_, builder| builder);
    let node = &cluster.nodes[0];
    let generation = node.try_nodes().expect("nodes")[0]["started_at"].clone();
    let other = node.server.spec().run();
    let said = String::from_utf8_lossy(&other.stderr);
    assert_eq!(other.status.code(), Some(78), "{said}");
    assert!(said.contains("node.name") && said.contains("another node is running as"), "{said}");
    let nodes = node.try_nodes().expect("nodes");
    assert_eq!((nodes.len(), &nodes[0]["state"], &nodes[0]["started_at"]), (1, &json!("up"), &generation));
}

#[test]
fn a_restarted_node_takes_its_name_back() {
    let service = Service::start();
    let mut cluster =
        Cluster::start_on(Postgres::shared(), 1, |node, builder| serve(node, builder, &service, "s", &[]));
    assert_eq!(cluster.wait_for_holder("service:s"), "n1");
    let node = &mut cluster.nodes[0];
    let before = node.try_nodes().expect("nodes")[0]["started_at"].clone();
    node.server.kill9();
    let died = Instant::now();
    node.restart();
    let nodes = eventually("it is a member again", || {
        node.try_nodes().filter(|nodes| nodes[0]["state"] == "up" && nodes[0]["started_at"] != before)
    });
    eprintln!("a member again after {:.3?}", died.elapsed());
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    let id = node.publish("a", None);
    service.wait_for_accepted(&[id]);
}

#[test]
fn schedules_go_on_when_their_node_dies() {
    const COUNT: usize = 24;
    let mut cluster = Cluster::start(|_, builder| builder);
    let holder = cluster.wait_for_holder("schedules");
    let now = jiff::Timestamp::now();
    for (number, node) in (0..COUNT).zip(cluster.nodes.iter().cycle()) {
        // Some are due while their node lives, and most of them after that.
        let due = now + jiff::SignedDuration::from_millis(500 + 100 * i64::try_from(number).expect("small"));
        let body =
            json!({"event_name": "c.later", "payload": {"tag": format!("{number}")}, "deliver_at": due.to_string()});
        let answer = node.server.post("/publish", body);
        assert!(answer.status == 200 && answer.header("event-id").is_none(), "{answer:?}");
    }
    cluster.node_mut(&holder).server.kill9();
    let died = Instant::now();
    let node = cluster.others(&holder)[0];
    let log = eventually("all of them come", || {
        let log = read_log(node.server.addr());
        (log.len() >= COUNT && node.server.get("/schedules").data() == json!([])).then_some(log)
    });
    eprintln!("all have come {:.3?} after their node had died", died.elapsed());
    let tags: Vec<String> = log.iter().filter_map(|event| event.tag.clone()).collect();
    assert_eq!(tags, (0..COUNT).map(|number| number.to_string()).collect::<Vec<_>>(), "once each, as they are due");
}

#[test]
fn publishes_on_three_nodes_have_one_order() {
    for redis in [None, Some(Redis::start())] {
        let cluster = Cluster::start_with(Postgres::shared(), redis.as_ref(), 3, |_, builder| builder);
        let clients = Clients::start(&cluster, 9, 1);
        clients.wait_for_acknowledged(900);
        let relayed = |verdict: &str| {
            let name = format!("event_handler_relay_received_total{{verdict=\"{verdict}\"}} ");
            cluster.nodes.iter().map(|node| metric(&node.server, &name)).sum::<f64>()
        };
        let [taken, gaps, unproven] = ["taken", "gap", "unproven"].map(relayed);
        eprintln!("by redis: {taken} taken, {gaps} gaps");
        assert!(unproven == 0.0 && (taken > 0.0) == redis.is_some());
        let history = clients.finish(&cluster, &[]);
        let by_node: BTreeSet<&str> = history.publishes.iter().map(|publish| &*publish.node).collect();
        assert_eq!(by_node.len(), 3, "{by_node:?}");
        assert_kept(&history);
    }
}

/// The database gives up a transaction that waits for its client, and so its lock.
#[cfg(feature = "fault-injection")]
#[test]
fn a_node_frozen_in_a_transaction_holds_up_others_for_two_seconds_at_most() {
    use std::thread;
    use std::time::Duration;

    const AT_MOST: Duration = Duration::from_millis(2_000);
    let cluster = Cluster::start_on(Postgres::shared(), 2, |_, builder| builder);
    let [frozen, other] = [&cluster.nodes[0], &cluster.nodes[1]];
    let first = other.publish("c.a", None);
    frozen.arm("stops_within");
    let asked = frozen.server.request("POST", "/publish").json(json!({"event_name": "c.frozen"}));
    let asks = thread::spawn(move || asked.send());
    frozen.wait_until_frozen();
    let begin = Instant::now();
    let answer = other.server.post("/publish", json!({"event_name": "c.b"}));
    let took = begin.elapsed();
    eprintln!("held up for {took:.3?}");
    assert_eq!(answer.event_id(), first + 1, "it was not refused, and nothing of the other was stored");
    assert!(took < AT_MOST, "{took:?}");
    frozen.thaw();
    let refused = asks.join().expect("an answer");
    assert_eq!(refused.error(503)["code"], "store_unavailable");
    let names: Vec<String> = read_log(other.server.addr()).into_iter().map(|event| event.name).collect();
    assert_eq!(names, ["c.a", "c.b"]);
    assert_eq!(frozen.publish("c.c", None), first + 2, "it goes on");
}

/// A node that knows less than its subscriber has to ask the store, and does not guess while it cannot.
#[test]
fn a_subscriber_that_knows_more_than_its_node_is_not_told_that_it_misses_something() {
    let cluster = Cluster::start_on(Postgres::shared(), 2, |_, builder| builder);
    let [behind, other] = [&cluster.nodes[0], &cluster.nodes[1]];
    let first = other.publish("c.a", None);
    eventually("it knows of it", || (behind.server.events("").len() == 1).then_some(()));
    behind.link.cut(Cut::Rst);
    let second = other.publish("c.b", None);
    let mut ws = behind.server.ws();
    let ask = json!({"action": "subscribe", "event_name": "c.>", "after": second, "envelope": "full", "id": 1});
    let refused = ws.request(ask.clone());
    assert_eq!(
        (&refused["type"], &refused["error"]["code"]),
        (&json!("error"), &json!("store_unavailable")),
        "{refused}"
    );
    let mut durable = ask.clone();
    durable["durable"] = json!("d");
    assert_eq!(ws.request(durable)["error"]["code"], "store_unavailable");
    behind.server.request("GET", &format!("/events/stream?after={second}")).send().error(503);
    behind.link.heal();
    let reply = eventually("it is told when the store can be read", || {
        let reply = ws.request(ask.clone());
        (reply["type"] == "subscribed").then_some(reply)
    });
    assert_eq!(reply["recovered"], true, "{reply}");
    let third = other.publish("c.c", None);
    assert_eq!((first + 1, ws.recv_json()["id"].as_i64()), (second, Some(third)), "and nothing comes again");
}

/// What only one node knows of a type is asked of it; one that does not answer is named.
#[test]
fn who_uses_a_type_is_known_of_all_nodes() {
    let cluster = Cluster::start_on(Postgres::shared(), 2, |_, builder| builder);
    cluster.wait_for_members(2);
    let [asked, other] = [&cluster.nodes[0], &cluster.nodes[1]];
    accept(&asked.server, "c.*", json!({"schema": {"required": ["a"]}, "mode": "observe"}));
    let mut socket = other.server.ws();
    socket.request(json!({"id": 1, "action": "subscribe", "event_name": "c.>"}));
    for node in [asked, other, other] {
        node.publish("c.made", None);
    }
    let usage = || asked.server.get("/event-types/c.%2A/usage").data();
    let receivers = json!([{"kind": "subscriber", "name": "c.>"}]);
    let all = usage();
    assert_eq!(
        (&all["violations"], &all["receivers"], &all["unreachable"]),
        (&json!(3), &receivers, &json!([])),
        "{all}"
    );
    let alone = |node: &str| asked.try_admin(&format!("/admin/event-types/c.%2A/usage?node={node}"));
    assert_eq!(alone("n2"), Some(json!({"receivers": receivers, "violations": 2})));
    let each = alone("all").expect("an answer");
    assert_eq!(each["nodes"]["n1"], json!({"receivers": [], "violations": 1}), "{each}");
    let patterns = asked.try_admin("/admin/subscriptions?node=n2").expect("an answer");
    assert_eq!(patterns[0]["event_name"], "c.>");
    other.freeze();
    let rest = usage();
    assert_eq!(
        (&rest["violations"], &rest["receivers"], &rest["unreachable"]),
        (&json!(1), &json!([]), &json!(["n2"])),
        "{rest}"
    );
}
