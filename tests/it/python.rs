//! Clients and libraries in Python that nobody here wrote: httpx and websockets, for which the promise was first made,
//! and the SDKs of CloudEvents and of Standard Webhooks.

use std::io::Write;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::program;
use crate::support::service::Delivery;
use crate::support::{Server, Service, for_each_backend};

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
