//! `deploy/compose.cluster.yaml`, as far as it can be tried without an engine: its HAProxy in front of three real nodes.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;
use tempfile::TempDir;

use super::harness::{Cluster, serve};
use crate::databases::number;
use crate::support::http::Request;
use crate::support::program::{Program, command};
use crate::support::sse::EventStream;
use crate::support::ws::Socket;
use crate::support::{Service, eventually};

const COMPOSE: &str = include_str!("../../../deploy/compose.cluster.yaml");
const HAPROXY: &str = include_str!("../../../deploy/haproxy.cfg");
const PROMETHEUS: &str = include_str!("../../../deploy/prometheus.yml");
const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// HAProxy as it is deployed, in front of these nodes.
fn haproxy(nodes: &[SocketAddr], dir: &Path) -> (Program, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    drop(listener);
    let mut config = HAPROXY.to_owned();
    let mut place = |deployed: &str, here: &str| {
        assert!(config.contains(deployed), "{deployed}");
        config = config.replace(deployed, here);
    };
    place("    bind :4300\n", &format!("    bind {addr}\n"));
    for (name, node) in NODES.iter().zip(nodes) {
        place(&format!("server {name} {name}:4300\n"), &format!("server {name} {node}\n"));
    }
    fs::write(dir.join("haproxy.cfg"), config).expect("a writable folder");
    let debian = Path::new("/usr/sbin/haproxy");
    let mut command = command(if debian.exists() { debian } else { Path::new("haproxy") });
    let haproxy = Program::start(command.arg("-db").arg("-f").arg(dir.join("haproxy.cfg")));
    eventually("haproxy answers", || {
        Request::new(addr, "GET", "/health/ready").try_send().ok().filter(|answer| answer.status == 200)
    });
    (haproxy, addr)
}

#[test]
fn haproxy_as_deployed_hides_that_a_node_drains_or_dies() {
    let dir = TempDir::new().expect("a temporary folder");
    let service = Service::start();
    let mut cluster = Cluster::start(|node, builder| serve(node, builder, &service, "s", &[]));
    let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.server.addr()).collect();
    let (_haproxy, addr) = haproxy(&nodes, dir.path());

    let mut ws = Socket::connect(addr, "/ws", &[]).expect("an upgrade");
    let reply = ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    assert_eq!(reply["type"], "subscribed", "{reply}");
    let mut stream = EventStream::open(addr, "/events/stream?event_name=a&after=0", &[]);
    let id = Request::new(addr, "POST", "/publish").json(json!({"event_name": "a"})).send().event_id();
    let frame = ws.recv_json();
    assert_eq!((&frame["event_name"], stream.event().0), (&json!("a"), id), "{frame}");

    let (is_over, ids) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let publish = |publisher: usize| {
        for number in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("{publisher}-{number}");
            let publish = Request::new(addr, "POST", "/publish").header("Idempotency-Key", &key);
            let answer = publish.json(json!({"event_name": "b", "payload": key})).send();
            assert_eq!(answer.status, 200, "{key}: {}", answer.text());
            ids.lock().expect("no panic").push(answer.event_id());
        }
    };
    let goes_on = |count: usize| {
        let goal = ids.lock().expect("no panic").len() + count;
        eventually("publishes go on", || (ids.lock().expect("no panic").len() >= goal).then_some(()));
    };
    let comes_in = |what: &str| {
        let mut ws = Socket::connect(addr, "/ws", &[]).expect("an upgrade");
        let reply = ws.request(json!({"action": "subscribe", "event_name": what, "id": 1}));
        assert_eq!(reply["type"], "subscribed", "{reply}");
        let mut stream = EventStream::open(addr, &format!("/events/stream?event_name={what}&after=0"), &[]);
        let id = Request::new(addr, "POST", "/publish")
            .header("Idempotency-Key", what)
            .json(json!({"event_name": what}))
            .send()
            .event_id();
        let frame = ws.recv_json();
        assert_eq!((&frame["event_name"], stream.event().0), (&json!(what), id), "{frame}");
    };
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..4).map(|number| scope.spawn(move || publish(number))).collect();
        goes_on(100);
        cluster.node("n1").server.post("/admin/drain", "").data();
        goes_on(300);
        comes_in("drained");
        cluster.node_mut("n2").server.kill9();
        goes_on(300);
        comes_in("killed");
        is_over.store(true, Ordering::Relaxed);
        publishers.into_iter().for_each(|publisher| publisher.join().expect("each publish is answered with 200"));
    });
    let mut ids = ids.into_inner().expect("no panic");
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "an id was given twice");
    service.wait_for_accepted(&ids);
    let stored = number(&cluster.url, "SELECT count(*) AS n FROM event_handler.events WHERE name = 'b'");
    assert_eq!(stored, i64::try_from(ids.len()).expect("a count"), "none is stored twice");
}

#[test]
fn the_composition_of_a_cluster_names_the_same_nodes_everywhere() {
    for node in NODES {
        for (file, text, part) in [
            ("compose.cluster.yaml", COMPOSE, format!("\n  {node}:\n    <<: *node\n")),
            ("compose.cluster.yaml", COMPOSE, format!("EVENT_HANDLER__NODE__NAME: {node}\n")),
            ("compose.cluster.yaml", COMPOSE, format!("EVENT_HANDLER__NODE__URL: http://{node}:4300\n")),
            ("haproxy.cfg", HAPROXY, format!("server {node} {node}:4300\n")),
            ("prometheus.yml", PROMETHEUS, format!("\"{node}:4300\"")),
        ] {
            assert!(text.contains(&part), "{part:?} is not in deploy/{file}");
        }
    }
    for part in [
        r#""${LISTEN:-127.0.0.1}:4300:4300""#,
        r#""127.0.0.1:9090:9090""#,
        "ADMIN_TOKEN: ${ADMIN_TOKEN:?is not set}",
        r#"test: ["CMD", "event-handler", "health", "--ready"]"#,
        "source: ./haproxy.cfg\n",
        "source: ./prometheus.yml\n",
        r#""--maxmemory-policy", "noeviction""#,
    ] {
        assert!(COMPOSE.contains(part), "{part} is not in deploy/compose.cluster.yaml");
    }
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus.yml");
    let verdict = Command::new("promtool").args(["check", "config"]).arg(config).output();
    let verdict = verdict.expect("promtool is installed (Debian: prometheus)");
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));
    // Where there is an engine, it knows best.
    let is_here =
        Command::new("docker").args(["compose", "version"]).output().is_ok_and(|output| output.status.success());
    if is_here {
        let compose = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose.cluster.yaml");
        let mut docker = Command::new("docker");
        docker.arg("compose").arg("-f").arg(compose).args(["config", "--quiet"]);
        let verdict = docker.env("POSTGRES_PASSWORD", "x").env("ADMIN_TOKEN", "x").output().expect("run docker");
        assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));
    }
}
