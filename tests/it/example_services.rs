//! The example that plays four services, as the README tells of it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::program::example;
use crate::support::{Server, eventually};

/// Runs until it is dropped.
pub struct Example {
    child: Child,
    control: SocketAddr,
    /// Those that make a server deliver to the services.
    pub variables: Vec<(String, String)>,
}

impl Example {
    /// The services publish to this server.
    pub fn start(server: SocketAddr) -> Self {
        let mut child = example("services")
            .arg("0")
            .env("EVENT_HANDLER_URL", format!("http://{server}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example is built with the tests");
        let mut variables = Vec::new();
        for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
            let line = line.expect("text");
            if let Some((name, value)) = line.strip_prefix("export ").and_then(|line| line.split_once('=')) {
                variables.push((name.to_owned(), value.to_owned()));
            } else if let Some(url) = line.strip_prefix("# control: http://") {
                return Self { child, control: url.parse().expect("an address"), variables };
            }
        }
        panic!("the example ended: {:?}", child.wait());
    }

    pub fn switch(&self, service: &str, mode: &str) {
        let answer = Request::new(self.control, "POST", &format!("/{service}/{mode}")).send();
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub fn report(&self) -> Value {
        Request::new(self.control, "GET", "/").send().json()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn four_services_get_everything_whatever_befalls_them() {
    let example = Example::start(SocketAddr::from(([127, 0, 0, 1], 9)));
    let fast = [("RETRY_DELAYS", "20ms,20ms,20ms,20ms,20ms,20ms"), ("BREAKER_OPEN_FOR", "100ms"), ("TIMEOUT", "300ms")];
    let mut builder = Server::builder();
    for (name, value) in &example.variables {
        builder = builder.env(name, value);
    }
    for (key, value) in fast {
        builder = builder.env(&format!("EVENT_HANDLER__DELIVERY__{key}"), value);
    }
    // Enough attempts for all that goes wrong here.
    let server = builder
        .env("EVENT_HANDLER__DELIVERY__RETRY_DELAYS", ["100ms"; 99].join(","))
        .env("EVENT_HANDLER__DELIVERY__MAX_ATTEMPTS", 100)
        .start();
    for (service, mode) in [("stream-manager", "error"), ("eliza", "refuse"), ("shape-l2", "hang")] {
        example.switch(service, mode);
    }
    for n in 0..20 {
        server.publish("auction.bid", json!({ "n": n }));
    }
    eventually("the healthy one has them", || (example.report()["auction-manager"]["events"] == 20).then_some(()));
    assert_eq!(example.report()["eliza"]["events"], 0);
    for service in ["stream-manager", "eliza", "shape-l2"] {
        example.switch(service, "ok");
    }
    eventually("all have them", || {
        let report = example.report();
        report.as_object().is_some_and(|all| all.values().all(|one| one["events"] == 20)).then_some(())
    });
    eventually("it is known everywhere", || (server.events("?status=processed&limit=1000").len() == 20).then_some(()));
}
