//! A node that dies, falls silent or is frozen is replaced, and changes nothing when it comes back.

use std::time::{Duration, Instant};

use serde_json::json;

use super::checker::assert_kept;
use super::clients::{posts, read_log};
use super::harness::{Cluster, Node, serve};
use super::history::{History, Outcome, Post, ServiceHistory};
use crate::durable::Member;
use crate::support::service::Delivery;
use crate::support::{Answer, Service, eventually};

/// Within which a node is replaced, with a second more for a machine that is busy.
const REPLACED_WITHIN: Duration = Duration::from_secs(6);

/// Retries come after the test, and no breaker opens.
const ONCE: &[(&str, &str)] = &[
    ("concurrency", "4"),
    ("timeout", "1m"),
    ("retry_delays", r#"["1h"]"#),
    ("breaker_failure_rate", "100"),
    ("breaker_minimum_calls", "100"),
    ("breaker_consecutive", "0"),
];

/// Three nodes that deliver to `service`, under the name `s`.
fn cluster(service: &Service, options: &[(&str, &str)]) -> Cluster {
    Cluster::start(|node, builder| serve(node, builder, service, "s", options))
}

/// The node that delivers to `s`, and one that does not.
fn holder_and_other(cluster: &Cluster) -> (String, &Node) {
    let holder = cluster.wait_for_holder("service:s");
    let other = cluster.others(&holder)[0];
    (holder, other)
}

/// Has requests of `holder` wait, and fails those of others, so that the store keeps whose answer counts.
fn hang_for(service: &Service, holder: &str) {
    let path = format!("/{holder}");
    service.behave(move |delivery| match delivery {
        Delivery { path: by, .. } if *by == path => Answer::Hang,
        Delivery { order, .. } => Answer::Full(500, Vec::new(), format!("post #{order}")),
    });
}

fn of_node(posts: &[Post], node: &str) -> usize {
    posts.iter().filter(|post| post.node == node).count()
}

/// Waits until every event of `ids` was posted by another node than `holder`, and that the store has counted this.
fn wait_until_replaced(cluster: &Cluster, service: &Service, holder: &str, ids: &[i64]) -> Vec<Outcome> {
    let path = format!("/{holder}");
    service.wait_until("another node delivers", |deliveries| {
        let came = |id| deliveries.iter().any(|delivery| delivery.event_id == id && delivery.path != path);
        ids.iter().all(|id| came(*id))
    });
    eventually("the outcomes of the other node are stored", || {
        let outcomes = cluster.outcomes("s");
        let is_counted = |id: &i64| outcomes.iter().any(|outcome| outcome.id == *id && outcome.failed.len() == 1);
        ids.iter().all(is_counted).then_some(outcomes)
    })
}

/// That nothing has changed since `outcomes`, and each of these is the answer to a post of another node than `holder`.
fn assert_unchanged(cluster: &Cluster, service: &Service, holder: &str, outcomes: &[Outcome], begin: Instant) {
    let posts = posts(service, begin);
    let now = cluster.outcomes("s");
    for outcome in outcomes {
        let same = now.iter().find(|now| now.id == outcome.id).expect("a delivery");
        assert!(!same.is_delivered && same.attempts == 1, "the answer to {holder} counts: {same}");
        let counted = same.failed[0].2.expect("the number of a post");
        assert_ne!(posts[counted].node, holder, "{same}");
    }
    let outcomes = now.into_iter().filter(|now| outcomes.iter().any(|outcome| outcome.id == now.id)).collect();
    let service = ServiceHistory { name: "s".to_owned(), wants: "-".to_owned(), posts, outcomes };
    assert_kept(&History { services: vec![service], ..History::default() });
}

#[test]
fn a_dead_nodes_services_are_taken_over() {
    const SERVICES: usize = 8;
    let service = Service::start();
    let mut cluster = Cluster::start(|node, builder| {
        (0..SERVICES).fold(builder, |builder, number| serve(node, builder, &service, &format!("s{number}"), &[]))
    });
    let first = cluster.nodes[0].publish("a", None);
    let came = |deliveries: &[Delivery], id| deliveries.iter().filter(|delivery| delivery.event_id == id).count();
    service.wait_until("all services have it", |deliveries| came(deliveries, first) >= SERVICES);
    // Some are not held by who holds this one, and go on meanwhile.
    let holder = cluster.wait_for_holder("service:s0");
    cluster.node_mut(&holder).server.kill9();
    let died = Instant::now();
    let id = cluster.others(&holder)[0].publish("a", None);
    service.wait_until("all services have it", |deliveries| came(deliveries, id) >= SERVICES);
    let took = died.elapsed();
    eprintln!("taken over after {took:.3?}");
    assert!(took < REPLACED_WITHIN, "{took:?}");
}

#[test]
fn a_frozen_node_is_replaced_and_changes_nothing_when_it_wakes() {
    let (begin, service) = (Instant::now(), Service::start());
    let cluster = cluster(&service, ONCE);
    let (holder, other) = holder_and_other(&cluster);
    hang_for(&service, &holder);
    // Four are under way, and four wait for their turn at the node.
    let ids: Vec<i64> = (0..8).map(|_| other.publish("a", None)).collect();
    service.wait_for(4);
    cluster.node(&holder).freeze();
    let frozen = Instant::now();
    let outcomes = wait_until_replaced(&cluster, &service, &holder, &ids);
    eprintln!("replaced after {:.3?}", frozen.elapsed());
    // The answers that it has waited for are there when it wakes.
    service.answer(200);
    let made = of_node(&posts(&service, begin), &holder);
    cluster.node(&holder).thaw();
    cluster.wait_for_members(3);
    let id = cluster.node(&holder).publish("a", None);
    service.wait_for_accepted(&[id]);
    assert_eq!(of_node(&posts(&service, begin), &holder), made, "it posts though it is replaced");
    assert_unchanged(&cluster, &service, &holder, &outcomes, begin);
}

/// The node looks whether it may act before it asks for a transaction, and is frozen between the two.
#[cfg(feature = "fault-injection")]
#[test]
fn what_a_holder_had_begun_to_write_when_it_was_frozen_is_void() {
    let (begin, service) = (Instant::now(), Service::start());
    let cluster = cluster(&service, ONCE);
    let (holder, other) = holder_and_other(&cluster);
    hang_for(&service, &holder);
    let ids = [other.publish("a", None)];
    service.wait_for(1);
    cluster.node(&holder).arm("stops_before");
    let path = format!("/{holder}");
    service.behave(move |delivery| match delivery {
        Delivery { path: by, .. } if *by == path => Answer::Status(200),
        Delivery { order, .. } => Answer::Full(500, Vec::new(), format!("post #{order}")),
    });
    cluster.node(&holder).wait_until_frozen();
    let outcomes = wait_until_replaced(&cluster, &service, &holder, &ids);
    cluster.node(&holder).thaw();
    let is_void = |node: &Node| node.server.log_text().contains("the lease of a service is lost");
    eventually("it has made its transaction", || {
        let is_over = is_void(cluster.node(&holder)) || cluster.outcomes("s")[0].is_delivered;
        is_over.then_some(())
    });
    assert_unchanged(&cluster, &service, &holder, &outcomes, begin);
}

#[test]
fn a_node_whose_link_is_swallowed_is_replaced() {
    let (begin, service) = (Instant::now(), Service::start());
    let cluster = cluster(&service, ONCE);
    let (holder, other) = holder_and_other(&cluster);
    hang_for(&service, &holder);
    let ids: Vec<i64> = (0..4).map(|_| other.publish("a", None)).collect();
    service.wait_for(4);
    cluster.node(&holder).link.swallow();
    let silent = Instant::now();
    // It is answered at once, and what it writes then is on its way until the link is well again.
    let path = format!("/{holder}");
    service.behave(move |delivery| match delivery {
        Delivery { path: by, .. } if *by == path => Answer::Status(200),
        Delivery { order, .. } => Answer::Full(500, Vec::new(), format!("post #{order}")),
    });
    let outcomes = wait_until_replaced(&cluster, &service, &holder, &ids);
    let took = silent.elapsed();
    eprintln!("replaced after {took:.3?}");
    assert!(took < REPLACED_WITHIN, "{took:?}");
    cluster.node(&holder).link.heal();
    cluster.wait_for_members(3);
    service.answer(200);
    let id = cluster.node(&holder).publish("a", None);
    service.wait_for_accepted(&[id]);
    assert_unchanged(&cluster, &service, &holder, &outcomes, begin);
}

#[test]
fn a_pause_and_a_breaker_move_along() {
    let service = Service::start();
    service.answer(500);
    let brittle =
        [("breaker_consecutive", "1"), ("breaker_open_for", "1h"), ("breaker_open_cap", "1h"), ("retry_base", "10ms")];
    let cluster = cluster(&service, &brittle);
    let (holder, other) = holder_and_other(&cluster);
    let id = other.publish("a", None);
    let shows = |node: &Node, state: &str, paused: serde_json::Value, breaker: &str| {
        eventually(&format!("{} shows {state}, {paused}, {breaker}", node.name), || {
            let told = node.service("s");
            let is = [&told["state"], &told["paused"], &told["breaker"]["state"]];
            (is == [&json!(state), &paused, &json!(breaker)]).then_some(())
        });
    };
    shows(cluster.node(&holder), "active", json!(null), "open");
    other.operate("s", "pause");
    shows(cluster.node(&holder), "paused", json!("by an operator"), "open");
    cluster.node(&holder).freeze();
    let next = eventually("another node delivers", || other.holder_of("service:s").filter(|next| *next != holder));
    shows(cluster.node(&next), "paused", json!("by an operator"), "open");
    // Who was replaced follows, and passes on what it is told.
    cluster.node(&holder).thaw();
    cluster.wait_for_members(3);
    service.answer(200);
    shows(cluster.node(&holder), "standby", json!("by an operator"), "open");
    cluster.node(&holder).operate("s", "reset");
    shows(cluster.node(&next), "paused", json!("by an operator"), "closed");
    assert_eq!(service.accepted(), [] as [i64; 0]);
    cluster.node(&holder).operate("s", "resume");
    service.wait_for_accepted(&[id]);
}

#[test]
fn a_standby_has_no_phantom_backlog() {
    let service = Service::start();
    let quick = [
        ("breaker_consecutive", "2"),
        ("breaker_open_for", "1s"),
        ("breaker_open_cap", "1s"),
        ("breaker_slow_start", "0s"),
        ("retry_base", "10ms"),
        ("retry_cap", "50ms"),
        ("max_attempts", "1000"),
    ];
    let mut cluster = cluster(&service, &quick);
    let (holder, other) = holder_and_other(&cluster);
    let (other, ids) = (other.name.clone(), (0..20).map(|_| other.publish("a", None)).collect::<Vec<_>>());
    service.wait_for_accepted(&ids);
    let pending = |node: &Node| node.service("s")["pending"].as_i64().expect("a number");
    assert_eq!(pending(cluster.node(&other)), 0, "of what it has published");
    eventually("the holder has stored all", || (pending(cluster.node(&holder)) == 0).then_some(()));

    // Taken over while nothing waits, and once more while something does.
    cluster.node_mut(&holder).server.kill9();
    let second =
        eventually("it is taken over", || cluster.node(&other).holder_of("service:s").filter(|next| *next != holder));
    eventually("it delivers", || (cluster.node(&second).service("s")["state"] == "active").then_some(()));
    assert_eq!(pending(cluster.node(&second)), 0);
    service.answer(500);
    let third = cluster.others(&holder).into_iter().find(|node| node.name != second).expect("a third").name.clone();
    let ids: Vec<i64> = (0..5).map(|_| cluster.node(&third).publish("a", None)).collect();
    let breaker = |node: &Node| node.service("s")["breaker"]["state"].clone();
    eventually("the breaker opens", || (breaker(cluster.node(&second)) == "open").then_some(()));
    // The state is stored with the event that tells of it.
    eventually("it is told", || {
        let told = cluster.node(&third).server.events("?event_name=$sys.service.opened");
        (!told.is_empty()).then_some(())
    });
    cluster.node_mut(&second).server.kill9();
    let last = cluster.node(&third);
    eventually("it is taken over", || (last.service("s")["state"] == "active").then_some(()));
    assert!(pending(last) >= 5, "{}", last.service("s"));
    service.answer(200);
    service.wait_for_accepted(&ids);
    eventually("nothing waits", || (pending(last) == 0).then_some(()));
    let told = eventually("it has recovered", || {
        let told = read_log(last.server.addr());
        told.iter().any(|event| event.name == "$sys.service.recovered").then_some(told)
    });
    let place = |name: &str| told.iter().rposition(|event| event.name == name);
    assert!(place("$sys.service.closed") < place("$sys.service.recovered"), "{told:?}");
    assert_eq!(told.iter().filter(|event| event.name == "$sys.service.recovered").count(), 1, "{told:?}");
}

#[test]
fn members_at_a_frozen_node_get_nothing_that_was_acknowledged_elsewhere() {
    let cluster = Cluster::start(|_, builder| builder);
    let [frozen, other] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut behind = Member::join(&frozen.server, "d", json!({"ack_wait": "1h"}));
    let first: Vec<i64> = (0..4).map(|_| other.publish("a.b", None)).collect();
    assert_eq!([(); 4].map(|()| behind.next().0).to_vec(), first);
    let mut member = Member::join(&other.server, "d", json!({"ack_wait": "1h"}));
    frozen.freeze();
    // What it says meanwhile is there when the node wakes.
    behind.ws.send(json!({"action": "nack", "id": first[0]}));
    behind.ws.send(json!({"action": "ack", "id": first[1]}));
    let second: Vec<i64> = (0..4).map(|_| other.publish("a.b", None)).collect();
    for expected in first.iter().chain(&second) {
        assert_eq!(member.next().0, *expected);
        member.ack(*expected);
    }
    frozen.thaw();
    cluster.wait_for_members(3);
    let last = frozen.publish("a.b", None);
    assert_eq!(member.next().0, last, "one node gives out the events");
    let told: Vec<serde_json::Value> =
        behind.ws.barrier().iter().map(|frame| serde_json::from_str(frame).expect("JSON")).collect();
    assert!(!told.iter().any(|frame| frame["type"] == "event" || frame["type"] == "acked"), "{told:?}");
    let shown = other.try_admin("/admin/durables/d").expect("a consumer");
    assert_eq!(shown["floor"], json!(second[3]), "{shown}");
}
