//! A node in a network of its own, from which no packet arrives any more and to which none does: nobody is told, and only
//! the time-outs of the kernels and of the node end what stands.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use event_handler::domain::placement::preferred;
use serde_json::{Value, json};

use super::harness::node_on;
use crate::databases::number;
use crate::support::http::Connection;
use crate::support::postgres::Postgres;
use crate::support::server::Builder;
use crate::support::{Server, Service, eventually};

/// Within which a node is replaced, with a second more for a machine that is busy.
const REPLACED_WITHIN: Duration = Duration::from_secs(6);
/// Within which the sessions of a silent node are gone: 5 s, and some more for a machine that is busy.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(9);

/// A network namespace for a node, and another one between it and this one, that passes packets on, or drops them.
struct Network {
    /// The namespaces: of the node, and between.
    node: String,
    between: String,
    /// `10.a.b`, the beginning of all addresses.
    net: String,
}

impl Network {
    /// Fails where network namespaces are not permitted; the reason.
    fn make() -> Result<Self, String> {
        let number = std::process::id();
        let (node, between) = (format!("eh{number}n"), format!("eh{number}b"));
        let network = Self { node, between, net: format!("10.{}.{}", 128 + number / 256 % 64, number % 256) };
        let Self { node, between, net } = &network;
        let outside = format!("eh{number}o");
        ip(&format!("netns add {node}"))?;
        ip(&format!("netns add {between}"))?;
        ip(&format!("link add {outside} type veth peer name outer netns {between}"))?;
        for command in [
            format!("link add inner netns {between} type veth peer name own netns {node}"),
            format!("addr add {net}.1/30 dev {outside}"),
            format!("link set {outside} up"),
            format!("-n {between} addr add {net}.2/30 dev outer"),
            format!("-n {between} link set outer up"),
            format!("-n {between} addr add {net}.5/30 dev inner"),
            format!("-n {between} link set inner up"),
            format!("-n {node} addr add {net}.6/30 dev own"),
            format!("-n {node} link set own up"),
            format!("-n {node} link set lo up"),
            format!("-n {node} route add default via {net}.5"),
            format!("route add {net}.4/30 via {net}.2"),
        ] {
            ip(&command).expect("whoever may make a network may configure it");
        }
        network.passes(true)?;
        Ok(network)
    }

    /// Whether packets are passed on. If not, they are dropped.
    fn passes(&self, passes: bool) -> Result<(), String> {
        let set = format!("echo {} > /proc/sys/net/ipv4/ip_forward", u8::from(passes));
        run(&["netns", "exec", &self.between, "sh", "-c", &set])
    }

    /// Where the node is.
    fn inside(&self) -> String {
        format!("{}.6", self.net)
    }

    /// Where this side is.
    fn outside(&self) -> String {
        format!("{}.1", self.net)
    }

    /// What the node answers to somebody beside it: the status, and the body.
    fn get(&self, server: &Server, path: &str) -> (String, Value) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.node, "curl", "-sS", "-m", "5", "-w", "\n%{http_code}"])
            .args(["-H", &format!("Authorization: Bearer {}", server.admin_token().unwrap_or_default())])
            .arg(format!("http://{}{path}", server.addr()))
            .output()
            .expect("run curl");
        let text = String::from_utf8(output.stdout).expect("text");
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.to_owned(), serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.between] {
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

fn ip(command: &str) -> Result<(), String> {
    run(&command.split(' ').collect::<Vec<_>>())
}

fn run(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

#[test]
fn a_node_whose_packets_are_dropped_is_replaced_and_forgotten_and_comes_back() {
    let network = match Network::make() {
        Ok(network) => network,
        Err(reason) => return eprintln!("LEFT OUT, since no network can be made here: {reason}"),
    };
    let postgres = Postgres::start_at(Some(network.outside()));
    let url = postgres.url();
    let service = Service::start();
    let names = (0..).map(|number| format!("s{number}"));
    let of_far = |name: &String| preferred(&format!("service:{name}"), ["far", "near"].into_iter()) == Some("far");
    let name = names.into_iter().find(of_far).expect("a name");
    let node = |node: &str, url: &str| service.configure(node_on(node, url), &name, &[("routes", "b")]);

    let elsewhere: &[&str] = &["ip", "netns", "exec", &network.node];
    let far_url = url.replacen("127.0.0.1", &network.outside(), 1);
    let far: Builder = node("far", &far_url).env("HOST", network.inside()).launched_by(elsewhere);
    let far = far.start();
    let holder_by = |server: &Server| {
        let nodes = server.request("GET", "/admin/nodes").try_send().ok()?.data();
        let lease = json!(format!("service:{name}"));
        let holds = |node: &&Value| node["holds"].as_array().is_some_and(|held| held.contains(&lease));
        nodes.as_array()?.iter().find(holds).map(|node| node["name"].clone())
    };
    let near = node("near", &url).start();
    eventually("far delivers", || holder_by(&near).filter(|holder| holder == "far"));
    let sessions = format!("SELECT count(*) AS n FROM pg_stat_activity WHERE client_addr = '{}'", network.inside());
    assert!(number(&url, &sessions) > 1, "far has sessions of its own");

    // Publishes are under way at both, until one is not answered at once.
    let mut ids = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut ids = Vec::new();
            let publish = far.request("POST", "/publish").json(json!({"event_name": "a"}));
            let mut connection = Connection::open_patient(far.addr(), Duration::from_secs(1)).expect("a connection");
            while let Ok(answer) = connection.send(&publish) {
                ids.push(answer.event_id());
            }
            ids
        });
        near.publish("a", json!(0));
        network.passes(false).expect("a network");
        publishing.join().expect("a publisher")
    });
    let begin = Instant::now();
    ids.push(near.publish("b", json!(1)));
    let waited = begin.elapsed();
    eventually("near delivers", || holder_by(&near).filter(|holder| holder == "near"));
    let replaced = begin.elapsed();
    eventually("far has no sessions", || (number(&url, &sessions) == 0).then_some(()));
    let forgotten = begin.elapsed();
    eprintln!("dropped: next publish after {waited:?}, replaced after {replaced:?}, forgotten after {forgotten:?}");
    assert!(replaced < REPLACED_WITHIN, "{replaced:?}");
    assert!(forgotten < FORGOTTEN_WITHIN, "{forgotten:?}");
    service.wait_for_accepted(&ids[ids.len() - 1..]);

    // Far knows by itself that it holds nothing any more.
    eventually("far is not ready", || (network.get(&far, "/health/ready").0 == "503").then_some(()));
    let (_, actors) = network.get(&far, "/admin/actors");
    let children = actors["data"]["children"].as_array().expect("actors");
    let membership = children.iter().find(|child| child["name"] == "membership").expect("the membership");
    assert_eq!(membership["details"]["may_act"], false, "{membership}");

    network.passes(true).expect("a network");
    eventually("far is a member again", || {
        let nodes = near.get("/admin/nodes").data();
        nodes.as_array()?.iter().find(|node| node["name"] == "far" && node["state"] == "up").map(|_| ())
    });
    eventually("far delivers again", || holder_by(&near).filter(|holder| holder == "far"));
    ids.push(far.publish("a", json!(2)));
    let stored: Vec<i64> =
        near.events("?limit=1000").iter().map(|event| event["id"].as_i64().expect("an id")).collect();
    assert!(ids.iter().all(|id| stored.contains(id)), "what was answered is stored");
}
