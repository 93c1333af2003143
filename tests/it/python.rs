//! Clients and libraries in Python that nobody here wrote: httpx and websockets, for which the promise was first made,
//! and the SDKs of CloudEvents and of Standard Webhooks.

use std::io::Write;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::program::{self, Program};
use crate::support::service::Delivery;
use crate::support::{Server, Service, eventually, for_each_backend};

/// Runs a script of `tests/python`; returns what it prints.
pub fn python(script: &str, arguments: &[&str], input: &str) -> String {
    let mut child = program::python()
        .arg(program::root().join("tests/python").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python can be started");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the script reads");
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_reference_clients_publish_and_subscribe() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let text = python("reference_clients.py", &[&server.addr().to_string()], "");
        assert!(text.ends_with("all clients served\n"), "{text}");
    });
}

/// A secret as an operator makes one of a text.
fn encoded(text: &str) -> String {
    let builder = Server::builder().arg("secret").arg("encode");
    let mut child = builder.command();
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program can be started");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

#[test]
fn the_example_of_a_receiver_believes_what_is_signed_with_its_secret_alone() {
    let secret = encoded("a plain text that is long enough\n");
    let start = |secret: &str| {
        let receiver = program::root().join("examples/python/receiver.py");
        let receiver = Program::start(program::python().arg(receiver).arg("127.0.0.1:0").env("SECRET", secret));
        let addr = receiver.wait_for_word(|line| line.strip_prefix("listening on ").map(str::to_owned));
        (receiver, addr)
    };
    let (receiver, addr) = start(&secret);
    let (_deceived, other) = start(&encoded("another plain text, as long as that"));
    let server = Server::builder()
        .env("EVENT_HANDLER__SERVICES__RECEIVER__URL", format!("http://{addr}"))
        .env("EVENT_HANDLER__SERVICES__RECEIVER__SECRET", &secret)
        .env("EVENT_HANDLER__SERVICES__OTHER__URL", format!("http://{other}"))
        .env("EVENT_HANDLER__SERVICES__OTHER__SECRET", &secret)
        .start();
    server.publish("a", json!({"n": 1}));
    let printed = receiver.wait_for_lines(1).remove(0);
    assert!(printed.ends_with(r#" {"n": 1}"#), "{printed}");
    let dead = eventually("the other has refused it", || {
        let dead = server.get("/admin/deliveries?service=other&state=dead").data();
        dead.as_array().is_some_and(|dead| !dead.is_empty()).then_some(dead)
    });
    assert_eq!(dead.as_array().map(Vec::len), Some(1), "{dead}");
    let forged = Request::new(addr.parse().expect("an address"), "POST", "/events").json(json!({"payload": 1})).send();
    assert_eq!(forged.status, 401);
}

#[test]
fn the_sdks_understand_what_is_delivered() {
    const SECRETS: [&str; 2] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
    let formats = ["json", "cloudevents-binary", "cloudevents-structured"];
    let services = formats.map(|_| Service::start());
    let mut builder = Server::builder();
    for (service, format) in services.iter().zip(formats) {
        builder = service.configure(builder, format, &[("format", format), ("secrets", &SECRETS.join(","))]);
    }
    let server = builder.start();
    let printed = python("independent_sdks.py", &["publish", &server.addr().to_string()], "");
    let ids: Vec<i64> = printed.lines().map(|line| line.parse().expect("an id")).collect();
    assert_eq!(ids.len(), 2);
    server.publish("plain", json!([1, 2]));

    let line = |format: &str, delivery: &Delivery| {
        let (headers, body) = (&delivery.headers, STANDARD.encode(&delivery.body));
        json!({ "format": format, "headers": headers, "body": body, "secrets": SECRETS }).to_string() + "\n"
    };
    let mut delivered = Vec::new();
    for (service, format) in services.iter().zip(formats) {
        let mut deliveries = service.wait_for(3);
        deliveries.sort_by_key(|delivery| delivery.event_id);
        delivered.extend(deliveries.iter().map(|delivery| line(format, delivery)));
    }
    let understood = python("independent_sdks.py", &["verify"], &delivered.concat());
    let understood: Vec<Value> = understood.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (json, cloud_events) = understood.split_at(3);
    assert_eq!((&json[0]["payload"], &json[2]["payload"]), (&json!({"price": 1.5, "name": "ä"}), &json!([1, 2])));
    for of_format in cloud_events.chunks(3) {
        for (event, id) in of_format.iter().zip(["sdk-0", "sdk-1"]) {
            let attributes = &event["attributes"];
            assert_eq!(
                (&attributes["id"], &attributes["subject"]),
                (&json!(id), &json!("auction 7, lot 2")),
                "{event}"
            );
            assert_eq!(
                (&attributes["traceid"], &attributes["source"]),
                (&json!("100 %"), &json!("/auctions/1")),
                "{event}"
            );
            assert_eq!(event["data"], json!({"price": 1.5, "name": "ä"}), "{event}");
        }
        assert_eq!(of_format[2]["attributes"]["type"], "plain", "{:?}", of_format[2]);
        assert_eq!(of_format[2]["data"], json!([1, 2]));
    }
}
