//! Spans as the OpenTelemetry protocol (OTLP over HTTP, in JSON) has them.

use std::time::{Duration, SystemTime};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::domain::span::{AttributeValue, Span, SpanKind, TraceContext};

/// The path of the traces below the base URL of a collector.
pub const TRACES_PATH: &str = "/v1/traces";

/// A request with `spans` of the program that `resource` describes.
pub fn export_request(resource: &[(String, String)], spans: &[Span]) -> Vec<u8> {
    let resource: Vec<_> =
        resource.iter().map(|(key, value)| attribute(key, json!({ "stringValue": value }))).collect();
    let spans: Vec<_> = spans.iter().map(span_json).collect();
    let scope = json!({ "name": "event-handler", "version": env!("CARGO_PKG_VERSION") });
    let request = json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": scope, "spans": spans }],
    }] });
    request.to_string().into_bytes()
}

/// How many spans a collector has refused, by the body of its answer of success.
pub fn rejected_spans(body: &str) -> u64 {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    // Numbers of 64 bits are texts in this encoding.
    match &answer["partialSuccess"]["rejectedSpans"] {
        Value::String(text) => text.parse().unwrap_or(0),
        number => number.as_u64().unwrap_or(0),
    }
}

/// Reads `key=value,key=value`, the values percent-encoded, as the variables of OpenTelemetry have it. The reason never
/// repeats the text, which may hold a secret.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (key, value) = item.split_once('=').ok_or("must be KEY=VALUE,KEY=VALUE")?;
            let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| "a value is not UTF-8")?;
            match key.trim() {
                "" => Err("a key is empty"),
                key => Ok((key.to_owned(), value.into_owned())),
            }
        })
        .collect()
}

fn span_json(span: &Span) -> Value {
    let Span { context, parent, name, kind, begin, took, attributes, links, dropped_links, is_error } = span;
    let kind = match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    };
    let attributes: Vec<_> = attributes
        .iter()
        .map(|(key, value)| match value {
            AttributeValue::Text(text) => attribute(key, json!({ "stringValue": text })),
            AttributeValue::Number(number) => attribute(key, json!({ "intValue": number.to_string() })),
        })
        .collect();
    let begin = begin.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut json = json!({
        "traceId": format!("{:032x}", context.trace),
        "spanId": format!("{:016x}", context.span),
        "flags": u8::from(context.is_sampled),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": nanoseconds(begin),
        "endTimeUnixNano": nanoseconds(begin + *took),
        "attributes": attributes,
        "status": if *is_error { json!({ "code": 2 }) } else { json!({}) },
    });
    if let Some(parent) = parent {
        json["parentSpanId"] = format!("{parent:016x}").into();
    }
    if !links.is_empty() {
        json["links"] = links.iter().map(link).collect();
        json["droppedLinksCount"] = (*dropped_links).into();
    }
    json
}

fn link(context: &TraceContext) -> Value {
    let TraceContext { trace, span, is_sampled } = context;
    json!({ "traceId": format!("{trace:032x}"), "spanId": format!("{span:016x}"), "flags": u8::from(*is_sampled) })
}

fn attribute(key: &str, value: Value) -> Value {
    json!({ "key": key, "value": value })
}

fn nanoseconds(time: Duration) -> String {
    time.as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: TraceContext = TraceContext { trace: 0xab, span: 0xcd, is_sampled: true };

    fn exported(span: Span) -> Value {
        let resource = [("service.name".to_owned(), "events".to_owned())];
        serde_json::from_slice(&export_request(&resource, &[span])).expect("JSON")
    }

    /// The shape of the example in the repository opentelemetry-proto.
    #[test]
    fn a_span_is_written_as_the_protocol_has_it() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_544_712_660_300_000_000);
        let parent = TraceContext { span: 0xef, ..CONTEXT };
        let span = Span::ended("publish a.b", SpanKind::Server, (CONTEXT, Some(parent)), (end, Duration::from_secs(1)));
        let request = exported(span.with("messaging.system", "event_handler").with("http.response.status_code", 200));
        let of = &request["resourceSpans"][0];
        let name = json!([{ "key": "service.name", "value": { "stringValue": "events" } }]);
        assert_eq!(
            (&of["resource"]["attributes"], &of["scopeSpans"][0]["scope"]["name"]),
            (&name, &json!("event-handler"))
        );
        assert_eq!(
            of["scopeSpans"][0]["spans"],
            json!([{
                "traceId": "000000000000000000000000000000ab",
                "spanId": "00000000000000cd",
                "parentSpanId": "00000000000000ef",
                "flags": 1,
                "name": "publish a.b",
                "kind": 2,
                "startTimeUnixNano": "1544712659300000000",
                "endTimeUnixNano": "1544712660300000000",
                "attributes": [
                    { "key": "messaging.system", "value": { "stringValue": "event_handler" } },
                    { "key": "http.response.status_code", "value": { "intValue": "200" } },
                ],
                "status": {},
            }])
        );
    }

    #[test]
    fn links_and_errors_are_written() {
        let when = (SystemTime::UNIX_EPOCH, Duration::from_secs(1));
        let span = Span::ended("commit", SpanKind::Internal, (CONTEXT, None), when);
        let request = exported(Span { links: vec![CONTEXT], dropped_links: 3, is_error: true, ..span });
        let span = &request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        let link = json!({ "traceId": "000000000000000000000000000000ab", "spanId": "00000000000000cd", "flags": 1 });
        assert_eq!((&span["links"], &span["droppedLinksCount"]), (&json!([link]), &json!(3)));
        assert_eq!((&span["status"], span.get("parentSpanId")), (&json!({ "code": 2 }), None));
    }

    #[test]
    fn what_a_collector_has_refused_is_read() {
        assert_eq!(rejected_spans(r#"{"partialSuccess":{"rejectedSpans":"5","errorMessage":"x"}}"#), 5);
        assert_eq!(rejected_spans(r#"{"partialSuccess":{"rejectedSpans":5}}"#), 5);
        assert_eq!(["", "{}", "[]", r#"{"partialSuccess":{}}"#].map(rejected_spans), [0; 4]);
    }

    #[test]
    fn pairs_are_percent_encoded() {
        let read = pairs("authorization=Bearer%20a%3Db, deployment.environment.name = prod,,");
        let expected = [("authorization", "Bearer a=b"), ("deployment.environment.name", "prod")];
        assert_eq!(read, Ok(expected.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()));
        assert_eq!(pairs(""), Ok(Vec::new()));
        for bad in ["a", "=b", "a=%ff"] {
            assert!(pairs(bad).is_err(), "{bad}");
        }
    }
}
