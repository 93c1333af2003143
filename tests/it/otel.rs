//! Traces of OpenTelemetry: spans at a collector, and what a bad collector costs.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::Builder;
use crate::support::{Answer, Backend, Server, Service, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traced(endpoint: &str) -> Builder {
    Server::builder().backend(Backend::Sqlite).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
}

/// All spans that a collector has taken.
fn spans(collector: &Service) -> Vec<Value> {
    let taken = collector.deliveries().into_iter().filter(|request| request.is_accepted());
    taken
        .flat_map(|request| match request.json()["resourceSpans"][0]["scopeSpans"][0]["spans"].take() {
            Value::Array(spans) => spans,
            other => panic!("no spans: {other}"),
        })
        .collect()
}

fn named(spans: &[Value], name: &str) -> Option<Value> {
    spans.iter().find(|span| span["name"] == name).cloned()
}

fn attribute(span: &Value, key: &str) -> Value {
    let attributes = span["attributes"].as_array().expect("attributes");
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    found.map_or(Value::Null, |attribute| attribute["value"].clone())
}

fn metric(server: &Server, name: &str) -> u64 {
    let answer = server.get("/metrics");
    let line = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().expect("a whole number"))
}

fn dropped(server: &Server, reason: &str) -> u64 {
    metric(server, &format!("event_handler_spans_dropped_total{{reason=\"{reason}\"}}"))
}

#[test]
fn one_trace_joins_publish_commit_push_and_delivery() {
    let (collector, billing) = (Service::start(), Service::start());
    let builder = traced(&collector.url())
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let server = billing.configure(builder, "billing", &[]).start();
    let mut socket = server.ws();
    socket.request(json!({ "action": "subscribe", "event_name": "order.>", "id": 1 }));
    let event = json!({ "event_name": "order.paid", "payload": {} });
    let id = server.request("POST", "/publish").header("traceparent", PARENT).json(&event).send().event_id();
    socket.recv_json();
    let names = ["publish order.paid", "commit", "push order.paid", "deliver billing"];
    let [publish, commit, push, deliver] = eventually("all spans have come", || {
        let spans = spans(&collector);
        let found = names.map(|name| named(&spans, name));
        found.iter().all(Option::is_some).then(|| found.map(Option::unwrap_or_default))
    });
    assert_eq!((&publish["parentSpanId"], &publish["kind"]), (&json!("00f067aa0ba902b7"), &json!(2)));
    for span in [&publish, &commit, &push, &deliver] {
        assert_eq!(span["traceId"], TRACE, "{span}");
        let time = |key: &str| span[key].as_str().and_then(|text| text.parse::<u64>().ok()).expect("a time");
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
    }
    for span in [&commit, &push, &deliver] {
        assert_eq!(span["parentSpanId"], publish["spanId"], "{span}");
    }
    assert_eq!(commit["links"][0]["spanId"], publish["spanId"]);
    let id = json!({ "stringValue": id.to_string() });
    for span in [&publish, &push, &deliver] {
        assert_eq!(attribute(span, "messaging.message.id"), id, "{span}");
    }
    assert_eq!(attribute(&publish, "http.response.status_code"), json!({ "intValue": "200" }));
    assert_eq!(attribute(&push, "event_handler.push.subscribers"), json!({ "intValue": "1" }));
    assert_eq!(attribute(&deliver, "server.address"), json!({ "stringValue": "127.0.0.1" }));
    // The service goes on with the span of the delivery.
    let delivered = billing.wait_for(1).remove(0);
    let expected = format!("00-{TRACE}-{}-01", deliver["spanId"].as_str().expect("an id"));
    assert_eq!(delivered.header("traceparent"), Some(expected.as_str()));
    let request = collector.deliveries().remove(0);
    assert_eq!((request.path.as_str(), request.header("authorization")), ("/v1/traces", Some("Bearer abc")));
    let resource = request.json()["resourceSpans"][0]["resource"].take();
    assert_eq!(attribute(&resource, "service.name"), json!({ "stringValue": "event-handler" }));
    assert_eq!(attribute(&resource, "deployment.environment.name"), json!({ "stringValue": "test" }));
}

#[test]
fn a_publish_over_a_websocket_begins_a_trace() {
    let (collector, billing) = (Service::start(), Service::start());
    let server = billing.configure(traced(&collector.url()), "billing", &[]).start();
    let mut socket = server.ws();
    let publish = json!({ "action": "publish", "event_name": "a", "payload": {}, "id": 1 });
    let answer = socket.request(publish);
    let names = ["publish a", "commit", "deliver billing"];
    let [publish, commit, deliver] = eventually("all spans have come", || {
        let spans = spans(&collector);
        let found = names.map(|name| named(&spans, name));
        found.iter().all(Option::is_some).then(|| found.map(Option::unwrap_or_default))
    });
    assert_eq!(attribute(&publish, "messaging.message.id"), json!({ "stringValue": answer["event_id"].to_string() }));
    assert_eq!(publish["parentSpanId"], Value::Null);
    for span in [&commit, &deliver] {
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&publish["traceId"], &publish["spanId"]));
    }
}

#[test]
fn what_is_not_sampled_goes_on_as_it_came_and_is_not_recorded() {
    let (collector, billing) = (Service::start(), Service::start());
    let server = billing.configure(traced(&collector.url()), "billing", &[]).start();
    let unsampled = PARENT.replace("b7-01", "b7-00");
    let event = json!({ "event_name": "a", "payload": {} });
    server.request("POST", "/publish").header("traceparent", &unsampled).json(&event).send().event_id();
    assert_eq!(server.events("")[0]["traceparent"], unsampled.as_str());
    let first = billing.wait_for(1).remove(0);
    assert!(
        first.header("traceparent").is_some_and(|text| text.starts_with(&unsampled[..36]) && text.ends_with("-00"))
    );
    server.publish("b", json!({}));
    eventually("the second one is recorded", || named(&spans(&collector), "publish b"));
    assert!(named(&spans(&collector), "publish a").is_none());
}

#[test]
fn a_batch_that_is_refused_for_now_is_sent_again_and_a_failed_delivery_is_an_error() {
    let collector = Service::answering(|request| match request.order {
        0 => Answer::Full(503, vec!["retry-after: 0".into()], String::new()),
        _ => Answer::Status(200),
    });
    let billing = Service::answering(|_| Answer::Status(500));
    let server = billing.configure(traced(&collector.url()), "billing", &[]).start();
    server.publish("a", json!({}));
    let deliver = eventually("the delivery is recorded", || named(&spans(&collector), "deliver billing"));
    assert_eq!(
        (&deliver["status"], attribute(&deliver, "error.type")),
        (&json!({ "code": 2 }), json!({ "stringValue": "500" }))
    );
    assert!(named(&spans(&collector), "publish a").is_some());
    assert_eq!(dropped(&server, "collector"), 0);
}

#[test]
fn a_collector_that_hangs_costs_spans_and_no_publish() {
    let collector = Service::answering(|_| Answer::Hang);
    let server = traced(&collector.url()).start();
    let events: Vec<Value> = (0..1000).map(|n| json!({ "event_name": "a", "payload": n })).collect();
    server.post("/publish/batch", Value::from(events)).data();
    collector.wait_for(1);
    // Two spans each: the queue and a batch do not hold so many.
    let begin = Instant::now();
    for _ in 0..1500 {
        server.publish("a", json!({}));
    }
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert!(dropped(&server, "queue_full") > 0);
    assert_eq!(metric(&server, "event_handler_spans_exported_total"), 0);
}

#[test]
fn without_a_collector_publishes_go_on_and_spans_are_counted_as_dropped() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut server = traced(&format!("http://{free}")).start();
    server.publish("a", json!({}));
    eventually("the spans are given up", || (dropped(&server, "collector") >= 2).then_some(()));
    server.publish("a", json!({}));
    let begin = Instant::now();
    assert!(server.terminate().success());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn the_last_spans_are_sent_at_the_end() {
    let collector = Service::start();
    let mut server = traced(&collector.url()).start();
    server.publish("last", json!({}));
    assert!(server.terminate().success());
    let spans = spans(&collector);
    assert!(named(&spans, "publish last").is_some() && named(&spans, "commit").is_some(), "{spans:?}");
}
