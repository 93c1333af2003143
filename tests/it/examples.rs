//! The examples for clients, as they stand: nothing is missed when the server is killed and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::program::{Program, command, example, python, root};
use crate::support::{Backend, Server, eventually};

/// Events in each of the three parts of a test: before the kill, while the client is away, after its return.
const PART: u64 = 20;

fn node() -> Command {
    let mut node = command("node");
    // Where Debian has `ws`, for a Node without a WebSocket of its own.
    node.env("NODE_PATH", "/usr/share/nodejs");
    node
}

fn publish_part(server: &Server, part: u64) {
    (part * PART..(part + 1) * PART).for_each(|n| {
        server.publish("example.made", json!({ "n": n }));
        server.publish("other", json!({ "n": n }));
    });
}

/// A server in the same place as `server`, which is killed.
pub fn kill_and_start(mut server: Server) -> Server {
    server.kill9();
    server.spec().env("PORT", server.addr().port()).start()
}

/// The numbers of the events that were printed, at least `count`.
fn numbers(client: &Program, count: u64) -> Vec<u64> {
    let number = |line: &String| {
        let (_, payload) = line.split_once(" example.made ")?;
        serde_json::from_str::<Value>(payload).ok()?["n"].as_u64()
    };
    let lines = client.wait_for_lines(count as usize);
    lines.iter().map(|line| number(line).unwrap_or_else(|| panic!("not an event: {line}"))).collect()
}

fn url(server: &Server) -> String {
    format!("ws://{}/ws", server.addr())
}

fn resumes(script: impl Fn() -> Command) {
    let dir = TempDir::new().expect("a temporary folder");
    let server = Server::start(Backend::Sqlite);
    let start = || Program::start(script().args([&url(&server), "example.*", "position"]).current_dir(dir.path()));
    let subscribed = |line: &str| line.starts_with("subscribed after").then_some(());

    let client = start();
    client.wait_for_word(subscribed);
    publish_part(&server, 0);
    assert_eq!(numbers(&client, PART), (0..PART).collect::<Vec<_>>());
    // What it has printed and not remembered, it would print again.
    let last = server.events("?event_name=example.*&order=desc&limit=1")[0]["id"].to_string();
    eventually("the last event is remembered", || {
        let position = std::fs::read_to_string(dir.path().join("position")).ok()?;
        (position.split_whitespace().next() == Some(&last)).then_some(())
    });
    drop(client); // killed, and away for a while
    publish_part(&server, 1);
    let client = start();
    assert_eq!(numbers(&client, PART), (PART..2 * PART).collect::<Vec<_>>());

    let address = url(&server);
    let server = kill_and_start(server);
    assert_eq!(url(&server), address);
    publish_part(&server, 2);
    assert_eq!(numbers(&client, 2 * PART), (PART..3 * PART).collect::<Vec<_>>());
}

fn works_durably(script: impl Fn() -> Command) {
    let server = Server::start(Backend::Sqlite);
    let start = || Program::start(script().args([&url(&server), "example.*", "examples"]));
    let joined = |line: &str| line.starts_with("everything up to").then_some(());

    let clients = [start(), start()];
    clients.iter().for_each(|client| client.wait_for_word(joined));
    publish_part(&server, 0);
    settled(&server);
    let server = kill_and_start(server);
    publish_part(&server, 1);
    settled(&server);

    let all: BTreeSet<u64> = clients.iter().flat_map(|client| numbers(client, 0)).collect();
    assert_eq!(all, (0..2 * PART).collect(), "at least once");
}

/// Waits until everything that was published is acknowledged.
fn settled(server: &Server) {
    eventually("all is acknowledged", || {
        let durable = server.get("/admin/durables/examples").data();
        (durable["lag"] == 0 && durable["in_flight"] == 0).then_some(())
    });
}

/// Each event is stored once, though the server is killed and started again meanwhile.
fn publishes_once(script: impl Fn() -> Command) {
    const COUNT: usize = 300;
    let server = Server::start(Backend::Sqlite);
    let url = format!("http://{}", server.addr());
    let publisher = Program::start(script().args([url.as_str(), "example.made", &COUNT.to_string()]));
    publisher.wait_for_lines(10);
    let server = kill_and_start(server);
    let printed = publisher.wait_for_lines(COUNT);
    let events = server.events("?after=0&limit=1000");
    let stored: Vec<u64> = events.iter().filter_map(|event| event["payload"]["n"].as_u64()).collect();
    assert_eq!(stored, (0..COUNT as u64).collect::<Vec<_>>());
    let ids: Vec<String> = events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(printed, ids);
}

/// From the root of the repository, where nothing may be left that git would see.
#[test]
fn the_examples_leave_nothing_behind() {
    let listed = |folder: &Path| -> BTreeSet<String> {
        let names = std::fs::read_dir(folder).expect("a folder").flatten();
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let dir = TempDir::new().expect("a temporary folder");
    let server = Server::start(Backend::Sqlite);
    for (script, said) in
        [(script(python(), "python/resume.py"), "subscribed"), (script(node(), "node/resume.mjs"), "subscribed")]
    {
        let mut script = script;
        let client = Program::start(script.args([&url(&server), ">"]).current_dir(dir.path()));
        client.wait_for_word(|line| line.starts_with(said).then_some(()));
        server.publish("a", json!(1));
        client.wait_for_lines(1);
        eventually("the position is kept", || dir.path().join("data/position.txt").exists().then_some(()));
    }
    assert_eq!(listed(dir.path()), BTreeSet::from(["data".to_owned()]));
}

#[test]
fn the_python_publisher_stores_each_event_once() {
    publishes_once(|| script(python(), "python/publish.py"));
}

#[test]
fn the_node_publisher_stores_each_event_once() {
    publishes_once(|| script(node(), "node/publish.mjs"));
}

fn script(interpreter: Command, path: &str) -> Command {
    let mut interpreter = interpreter;
    interpreter.arg(root().join("examples").join(path));
    interpreter
}

#[test]
fn the_python_client_resumes() {
    resumes(|| script(python(), "python/resume.py"));
}

#[test]
fn the_python_worker_misses_nothing() {
    works_durably(|| script(python(), "python/durable.py"));
}

#[test]
fn the_node_client_resumes() {
    resumes(|| script(node(), "node/resume.mjs"));
}

#[test]
fn the_node_worker_misses_nothing() {
    works_durably(|| script(node(), "node/durable.mjs"));
}

/// What a cache has printed: by key the value of each entity, since it began.
fn cached(client: &Program) -> Option<BTreeMap<String, Value>> {
    let (mut entities, mut is_whole) = (BTreeMap::new(), false);
    for line in client.wait_for_lines(0) {
        match serde_json::from_str::<Value>(&line) {
            Ok(change) => {
                let key = change["key"].as_str().expect("a key").to_owned();
                match change.get("value") {
                    Some(value) => drop(entities.insert(key, value.clone())),
                    None => drop(entities.remove(&key)),
                }
            }
            Err(_) if line == "from the beginning" => (entities, is_whole) = (BTreeMap::new(), false),
            Err(_) => is_whole = true,
        }
    }
    is_whole.then_some(entities)
}

/// Changes more auctions than the log of a small one keeps.
pub fn change(server: &Server, part: usize) {
    for n in 0..30 {
        let path = format!("/state/auction/k{}", (n * 7 + part) % 20);
        let status = match (n + part) % 4 {
            0 => server.request("DELETE", &path).send().status,
            _ => server.request("PUT", &path).json(json!([part, n])).send().status,
        };
        assert!(matches!(status, 200 | 201 | 404), "{status}");
    }
}

/// All auctions with their values.
pub fn stored(server: &Server) -> BTreeMap<String, Value> {
    let data = server.get("/state/auction?limit=1000").data();
    let entities = data["entities"].as_array().expect("a list").iter();
    entities.map(|entity| (entity["key"].as_str().expect("a key").to_owned(), entity["value"].clone())).collect()
}

fn caches(script: impl Fn() -> Command) {
    let is_equal = |server: &Server, client: &Program| {
        let stored = stored(server);
        eventually("the cache is equal", || (cached(client)? == stored).then_some(()));
    };
    let server = Server::builder().env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 40).start();
    change(&server, 0);
    let client = Program::start(script().args([&url(&server), "auction"]));
    is_equal(&server, &client);
    change(&server, 1);
    is_equal(&server, &client);
    let server = kill_and_start(server);
    change(&server, 2);
    is_equal(&server, &client);
}

#[test]
fn a_cache_in_javascript_is_always_equal() {
    caches(|| script(node(), "node/cache.mjs"));
}

#[test]
fn a_cache_in_python_is_always_equal() {
    caches(|| script(python(), "python/cache.py"));
}

/// The digest in every language is that of the server, whatever the keys are.
fn digests(script: impl Fn() -> Command) {
    let server = Server::start(Backend::Sqlite);
    let mut lines = String::new();
    for key in ["a1", "ü", "\u{1f980}", "a b", "%2F", "\"", "k".repeat(255).as_str()] {
        let path =
            format!("/state/t/{}", percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC));
        server.request("PUT", &path).json(json!(1)).send();
        let version = server.request("PUT", &path).json(json!(2)).send().data()["version"].clone();
        lines += &format!("{}\n", json!({ "key": key, "version": version }));
    }
    for buckets in [1, 16, 256] {
        let mut digest = script();
        let mut digest =
            digest.arg(buckets.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        digest.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("read");
        let said = digest.wait_with_output().expect("ended").stdout;
        let said: Value = serde_json::from_slice(&said).expect("a digest");
        let data = server.get(&format!("/state/t/digest?buckets={buckets}")).data();
        assert_eq!(said, json!({ "count": data["count"], "buckets": data["buckets"] }));
    }
}

#[test]
fn the_digest_in_python_is_that_of_the_server() {
    digests(|| script(python(), "python/digest.py"));
}

#[test]
fn the_digest_in_javascript_is_that_of_the_server() {
    digests(|| script(node(), "node/digest.mjs"));
}

#[test]
fn the_digest_in_rust_is_that_of_the_server() {
    digests(|| example("digest"));
}
