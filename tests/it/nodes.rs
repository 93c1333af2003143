//! Several nodes as operators see them: `/admin/nodes`, `?node=`, `event-handler nodes`, and the names of nodes.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

use crate::support::command;
use crate::support::postgres::Postgres;
use crate::support::server::wait_for_status;
use crate::support::{Backend, Server, Service, eventually, for_each_backend};

/// What a node signs the requests with that it passes on.
const SIGNATURE: &str = "event-handler-node-signature";

/// A node called `name` on the database at `url`.
fn node(url: &str, name: &str) -> crate::support::server::Builder {
    Server::builder().env("DATABASE_URL", url).env("EVENT_HANDLER__NODE__NAME", name)
}

fn two() -> [Server; 2] {
    let url = Postgres::shared().url();
    let nodes = ["a", "b"].map(|name| node(&url, name).operated("sesame").start());
    eventually("they know each other", || nodes.iter().all(|node| listed(node).len() == 2).then_some(()));
    nodes
}

fn listed(server: &Server) -> Vec<Value> {
    server.get("/admin/nodes").data().as_array().expect("a list").clone()
}

#[test]
fn a_node_says_what_it_is_and_what_it_holds() {
    for_each_backend(|backend| {
        let service = Service::start();
        let builder = Server::builder().backend(backend).env("EVENT_HANDLER__NODE__NAME", "one");
        let server = service.configure(builder, "billing", &[]).start();
        let id = server.publish("a", json!({}));
        let node = eventually("it holds everything", || {
            listed(&server).into_iter().find(|node| node["holds"].as_array().expect("a list").len() == 4)
        });
        assert_eq!(node["holds"], json!(["jobs", "retention", "schedules", "service:billing"]));
        assert_eq!(
            (&node["name"], &node["state"], &node["end_of_log"], &node["lag"]),
            (&json!("one"), &json!("up"), &json!(id), &json!(0))
        );
        assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
        for time in ["started_at", "last_seen"] {
            assert!(node[time].as_str().expect("a time").ends_with('Z'), "{node}");
        }
    });
}

#[test]
fn without_a_name_a_node_is_called_after_its_machine_and_port() {
    let server = Server::start(Backend::Sqlite);
    let name = listed(&server)[0]["name"].as_str().expect("a name").to_owned();
    let (machine, port) = name.rsplit_once(':').expect("two parts");
    assert!(!machine.is_empty(), "{name}");
    assert_eq!(port, server.addr().port().to_string());
}

#[test]
fn a_drained_node_is_seen_by_the_others_and_one_that_ends_is_gone() {
    let [a, mut b] = two();
    b.post("/admin/drain", "").data();
    let state = |name: &str| listed(&a).iter().find(|node| node["name"] == name).map(|node| node["state"].clone());
    eventually("b is draining", || (state("b") == Some(json!("draining"))).then_some(()));
    b.signal_terminate();
    assert_eq!(b.wait_for_exit().code(), Some(0));
    assert_eq!(state("b"), None, "it has left in good order");
    assert_eq!(state("a"), Some(json!("up")));
}

#[test]
fn a_node_that_was_killed_is_lost_until_it_is_back() {
    let [a, mut b] = two();
    b.kill9();
    let state = || listed(&a).iter().find(|node| node["name"] == "b").map(|node| node["state"].clone());
    eventually("b is lost", || (state() == Some(json!("lost"))).then_some(()));
    b.restart();
    eventually("b is back", || (state() == Some(json!("up"))).then_some(()));
}

#[test]
fn any_node_answers_for_any_other() {
    let [a, b] = two();
    let _session = b.ws();
    let sessions = eventually("the session is seen", || {
        let sessions = a.get("/admin/sessions?node=b").data();
        (!sessions.as_array().expect("a list").is_empty()).then_some(sessions)
    });
    let peer = |sessions: &Value| sessions[0]["peer"].clone();
    assert_eq!(peer(&sessions), peer(&b.get("/admin/sessions").data()));
    assert_eq!(a.get("/admin/sessions?node=a").data(), json!([]));
    let all = a.get("/admin/sessions?node=all").data();
    assert_eq!((&all["nodes"]["a"], peer(&all["nodes"]["b"])), (&json!([]), peer(&sessions)));
    let name = |tree: &Value| {
        tree["children"].as_array().expect("children").iter().any(|child| child["details"]["node"] == "b")
    };
    assert!(name(&a.get("/admin/actors?node=b").data()));
    assert!(!name(&a.get("/admin/actors").data()));
    assert_eq!(a.get("/admin/services?node=b").data(), json!([]));
    let unknown = a.get("/admin/actors?node=c").error(404);
    assert_eq!((&unknown["code"], &unknown["known"]), (&json!("node_not_found"), &json!(["a", "b"])));
}

#[test]
fn a_node_that_is_not_to_be_reached_is_said_to_be_so() {
    let [a, mut b] = two();
    b.kill9();
    assert_eq!(a.get("/admin/actors?node=b").error(503)["code"], "node_unreachable");
    let all = a.get("/admin/services?node=all").data();
    assert_eq!(all["nodes"]["a"], json!([]));
    assert_eq!(all["nodes"]["b"]["error"]["code"], "node_unreachable");
}

#[test]
fn a_request_is_passed_on_once() {
    let url = Postgres::shared().url();
    let a = node(&url, "a").operated("sesame").start();
    let elsewhere = format!("http://{}", a.addr());
    let b = node(&url, "b").operated("sesame").env("EVENT_HANDLER__NODE__URL", &elsewhere).start();
    eventually("they know each other", || (listed(&a).len() == 2).then_some(()));
    let refused = a.get("/admin/actors?node=b").error(503);
    assert_eq!(refused["code"], "node_unreachable");
    let all = a.get("/admin/services?node=all").data();
    assert_eq!((&all["nodes"]["a"], &all["nodes"]["b"]["error"]["code"]), (&json!([]), &json!("node_unreachable")));
    drop(b);
}

#[test]
fn a_node_is_asked_whatever_its_admin_token_is() {
    let url = Postgres::shared().url();
    let a = node(&url, "a").operated("sesame").start();
    let b = node(&url, "b").operated("another").start();
    eventually("they know each other", || (listed(&a).len() == 2).then_some(()));
    assert_eq!(a.get("/admin/services?node=b").data(), json!([]));
    drop(b);
}

#[test]
fn who_is_no_node_is_told_no_token_and_not_believed() {
    let url = Postgres::shared().url();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let elsewhere = format!("http://{}", listener.local_addr().expect("an address"));
    let a = node(&url, "a").operated("sesame").start();
    let _b = node(&url, "b").operated("sesame").env("EVENT_HANDLER__NODE__URL", &elsewhere).start();
    eventually("they know each other", || (listed(&a).len() == 2).then_some(()));
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            head.push(byte[0]);
        }
        // As a node answers, but for its signature.
        let body = r#"{"status":"ok","message":"success","data":[]}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).expect("an open connection");
        String::from_utf8(head).expect("text").to_lowercase()
    });
    let refused = a.get("/admin/actors?node=b");
    assert_eq!(refused.error(503)["code"], "node_unreachable");
    assert!(refused.text().contains("none of a node"), "{}", refused.text());
    let heard = heard.join().expect("no panic");
    assert!(heard.starts_with("get /admin/actors?node=b ") && heard.contains(SIGNATURE), "{heard}");
    assert!(!heard.contains("sesame") && !heard.contains("authorization"), "{heard}");
}

#[test]
fn a_signature_that_no_node_has_made_opens_nothing() {
    for_each_backend(|backend| {
        let server = Server::builder().backend(backend).operated("sesame").start();
        wait_for_status(&server, "/health/ready", 200);
        for signature in ["", "0,AAAA", "1900000000,AAAA"] {
            let request = server.request("GET", "/admin/services").header(SIGNATURE, signature);
            assert_eq!(request.send().error(401)["code"], "unauthorized", "{signature:?}");
        }
    });
}

#[test]
fn the_command_line_lists_nodes() {
    let [a, _b] = two();
    let output = command::run(&a, &["nodes"]);
    let said = command::text(&output);
    let names: Vec<_> = said.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(names, ["NODE", "a", "b"], "{said}");
}
