use std::collections::BTreeMap;

use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
use serde_json::Value;

use super::*;
use crate::domain::event::{Event, NewEvent, Timestamp};
use crate::protocol::delivery_request::DeliveryRequest;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::publish::{PublishHeaders, PublishRules};

const RULES: PublishRules = PublishRules { refuse_unknown: true, max_batch: 3, max_event_bytes: 10_000 };
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn binary(headers: &[(&str, &str)], body: &[u8]) -> Result<NewEvent, ApiError> {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    parse_binary(headers, body, &PublishHeaders::default())
}

/// The least that is valid, with more headers.
fn binary_with(more: &[(&str, &str)], body: &[u8]) -> Result<NewEvent, ApiError> {
    let least = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    binary(&[&least[..], more].concat(), body)
}

fn structured(json: &str) -> Result<NewEvent, ApiError> {
    parse_structured(json.as_bytes(), &PublishHeaders::default(), &RULES)
}

/// The least that is valid, with more members.
fn structured_with(more: &str) -> Result<NewEvent, ApiError> {
    structured(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{more}}}"#))
}

fn metadata(event: &NewEvent) -> BTreeMap<String, String> {
    serde_json::from_str(event.metadata.as_deref().expect("metadata")).expect("texts")
}

fn stored(event: NewEvent) -> Event {
    Event::stored(event, 58, Timestamp(1_690_891_200_000_000))
}

fn header<'a>(request: &'a DeliveryRequest, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_str().expect("ASCII"))
}

/// What goes out in binary mode, read in again.
fn round_trip(event: NewEvent) -> NewEvent {
    let request = binary_request(&stored(event));
    let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let headers = headers.filter(|(name, _)| *name != "ce-eventid");
    parse_binary(headers, &request.body, &PublishHeaders::default()).expect("valid")
}

#[test]
fn binary_mode_is_taken_apart() {
    let event = binary(
        &[
            ("ce-specversion", "1.0"),
            ("Ce-Id", "a 1"),
            ("ce-source", "https://example.com/auctions"),
            ("ce-type", "auction.started"),
            ("ce-subject", "auction%207 %E2%82%AC"),
            ("ce-time", "2026-01-31T12:00:00.5+01:00"),
            ("ce-dataschema", "https://example.com/schema"),
            ("ce-traceparent", TRACEPARENT),
            ("ce-comment", r#""say \"hi\" %25""#),
            ("content-type", "application/json; charset=utf-8"),
            ("host", "x"),
        ],
        b" {\"n\": 1e400} ",
    );
    let event = event.expect("valid");
    assert_eq!((event.name.as_str(), &*event.source), ("auction.started", "https://example.com/auctions"));
    assert_eq!((&*event.payload, event.key.as_deref()), (r#"{"n": 1e400}"#, Some("auction 7 €")));
    assert_eq!(event.traceparent.as_deref(), Some(TRACEPARENT));
    let idempotency = event.idempotency.as_ref().expect("a key");
    assert_eq!(&*idempotency.key, "ce:https://example.com/auctions a 1");
    let kept = [
        ("ce-comment", "say \"hi\" %"),
        ("ce-datacontenttype", "application/json; charset=utf-8"),
        ("ce-dataschema", "https://example.com/schema"),
        ("ce-id", "a 1"),
        ("ce-time", "2026-01-31T12:00:00.5+01:00"),
    ];
    assert_eq!(metadata(&event), kept.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn structured_mode_is_taken_apart() {
    let event = structured(&format!(
        r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"k","count":7,"on":true,"no":null,
            "traceparent":"{TRACEPARENT}","datacontenttype":"application/json","data":[1.50, {{"z":1,"a":2}}]}}"#
    ));
    let event = event.expect("valid");
    assert_eq!((&*event.payload, event.key.as_deref()), (r#"[1.50, {"z":1,"a":2}]"#, Some("k")));
    let kept = metadata(&event);
    assert_eq!((kept["ce-count"].as_str(), kept["ce-on"].as_str(), kept.get("ce-no")), ("7", "true", None));
    assert_eq!(event.traceparent.as_deref(), Some(TRACEPARENT));
}

/// Decoded when that leaves a URI reference; else it was one before.
#[test]
fn a_source_that_was_not_encoded_is_taken_as_it_was_sent() {
    for (sent, source) in [
        ("/x%20y", "/x%20y"),
        ("/x%2520y", "/x%20y"),
        ("\"/x%20y\"", "/x%20y"),
        ("/caf%C3%A9", "/caf%C3%A9"),
        ("/caf\u{e9}", "/caf\u{e9}"),
        ("/a%2Fb", "/a/b"),
        ("/%FF", "/%FF"),
        ("/100%", "/100%"),
        ("https://example.com/a?b=%7Bc%7D#d", "https://example.com/a?b=%7Bc%7D#d"),
    ] {
        let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", sent), ("ce-type", "t")];
        let event = binary(&headers, b"").expect("valid");
        assert_eq!(&*event.source, source, "{sent}");
        if source.is_ascii() && source != "/100%" {
            assert_eq!(&*round_trip(event).source, source, "{sent}");
        }
    }
}

#[test]
fn extensions_keep_their_types_in_structured_mode() {
    let event = structured_with(r#","count":-7,"on":true,"text":"true","number":"7""#).expect("valid");
    let json: Value = serde_json::from_slice(&structured_request(&stored(event.clone())).body).expect("JSON");
    assert_eq!((&json["count"], &json["on"]), (&(-7).into(), &true.into()));
    assert_eq!((&json["text"], &json["number"]), (&"true".into(), &"7".into()));
    assert_eq!(json.get("as-literals"), None);
    let request = binary_request(&stored(event.clone()));
    assert_eq!((header(&request, "ce-count"), header(&request, "ce-on")), (Some("-7"), Some("true")));
    assert_eq!(header(&request, "ce-as-literals"), None);
    // The modes are two spellings of one event.
    let headers = [("ce-count", "-7"), ("ce-on", "true"), ("ce-text", "true"), ("ce-number", "7")];
    let same = binary_with(&headers, b"").expect("valid");
    assert_eq!(same.idempotency, event.idempotency);
    // Metadata that somebody else wrote does not make the JSON invalid.
    let forged = r#"{"ce-id":"1","ce-as-literals":"x y specversion id","ce-x":"}","ce-y":"007"}"#;
    let event = Event { metadata: Some(forged.into()), ..stored(event) };
    let json: Value = serde_json::from_slice(&structured_request(&event).body).expect("JSON");
    assert_eq!((&json["x"], &json["y"], &json["id"]), (&"}".into(), &"007".into(), &"1".into()));
}

#[test]
fn headers_of_careless_clients_are_understood() {
    let headers: [(&str, &[u8]); 6] = [
        ("ce-specversion", b"1.0"),
        ("ce-id", b"1"),
        ("ce-source", b"/s"),
        ("ce-type", b"t"),
        ("ce-subject", b"\xe4 100%"),
        ("ce-ext", "\u{e4} %zz".as_bytes()),
    ];
    let event = parse_binary(headers.into_iter(), b"", &PublishHeaders::default()).expect("valid");
    assert_eq!((event.key.as_deref(), metadata(&event)["ce-ext"].as_str()), (Some("\u{e4} 100%"), "\u{e4} %zz"));
}

#[test]
fn data_becomes_json() {
    let payload = |kind: &str, body: &[u8]| {
        let event = binary_with(&[("content-type", kind)], body).expect("valid");
        (event.payload.to_string(), metadata(&event).remove(DATA_KEY))
    };
    let base64 = |text: &str| (text.to_owned(), Some(BASE64_DATA.to_owned()));
    assert_eq!(payload("application/vnd.x+json", b"1"), ("1".into(), None));
    assert_eq!(payload("text/plain", b"a \"b\""), (r#""a \"b\"""#.into(), None));
    assert_eq!(payload("application/xml", b"<a/>"), (r#""<a/>""#.into(), None));
    assert_eq!(payload("text/plain", b"\xff"), base64(r#""/w==""#));
    assert_eq!(payload("image/png", b"abc"), base64(r#""YWJj""#));
    assert_eq!(payload("image/png", b""), ("null".into(), Some(NO_DATA.to_owned())));
    let payload = |more: &str| structured_with(more).expect("valid").payload.to_string();
    assert_eq!(payload(r#","data_base64":"YWJj""#), r#""YWJj""#);
    assert_eq!(payload(r#","datacontenttype":"text/plain","data":"\u00e4\/""#), "\"\u{e4}/\"");
    assert_eq!(payload(r#","data":"\u00e4\/""#), r#""\u00e4\/""#);
    assert_eq!(payload(""), "null");
    assert_eq!(payload(r#","data":null"#), "null");
}

#[test]
fn errors_name_the_attribute() {
    let refusal = |result: Result<NewEvent, ApiError>| {
        let error = result.expect_err("refused");
        (error.code(), error.details().get("field").and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    let invalid = |attribute: &str| (ErrorCode::InvalidField, attribute.to_owned());
    for attribute in ["specversion", "id", "source", "type"] {
        let all = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        let without: Vec<_> = all.into_iter().filter(|(name, _)| name[3..] != *attribute).collect();
        assert_eq!(refusal(binary(&without, b"")), (ErrorCode::MissingField, attribute.to_owned()));
    }
    for (headers, attribute) in [
        ([("ce-specversion", "0.3"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")], "specversion"),
        ([("ce-specversion", "1.0"), ("ce-id", ""), ("ce-source", "/s"), ("ce-type", "t")], "id"),
        ([("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "a b"), ("ce-type", "t")], "source"),
        ([("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "\u{e4}%20b"), ("ce-type", "t")], "source"),
        ([("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", ""), ("ce-type", "t")], "source"),
        ([("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "a..b")], "type"),
    ] {
        assert_eq!(refusal(binary(&headers, b"")), invalid(attribute));
    }
    let with = |name, value| refusal(binary_with(&[(name, value)], b""));
    assert_eq!(with("ce-time", "yesterday"), invalid("time"));
    assert_eq!(with("ce-subject", ""), invalid("subject"));
    assert_eq!(with("ce-my-ext", "x"), invalid("my-ext"));
    assert_eq!(with("ce-data", "x"), invalid("data"));
    assert_eq!(with("ce-datacontenttype", "x"), invalid("datacontenttype"));
    assert_eq!(with("ce-ext", "%FF"), invalid("ext"));
    assert_eq!(with("ce-id", "2"), (ErrorCode::DuplicateField, "id".to_owned()));
    let with = |more| refusal(structured_with(more));
    assert_eq!(with(r#","myExt":1"#), invalid("myExt"));
    assert_eq!(with(r#","ext":1.5"#), invalid("ext"));
    assert_eq!(with(r#","ext":{}"#), invalid("ext"));
    assert_eq!(with(r#","data":1,"data_base64":"""#), invalid("data_base64"));
    assert_eq!(with(r#","data_base64":"!""#), invalid("data_base64"));
    assert_eq!(with(r#","id":"2""#), (ErrorCode::DuplicateField, "id".to_owned()));
    assert_eq!(refusal(binary_with(&[], b"{")).0, ErrorCode::MalformedJson);
    assert_eq!(refusal(structured("[]")), invalid("body"));
    let reserved = structured(r#"{"specversion":"1.0","id":"1","source":"/s","type":"$sys.x"}"#);
    assert_eq!(refusal(reserved), (ErrorCode::ReservedName, "type".to_owned()));
    let keyed = PublishHeaders { idempotency_key: Some("k"), ..PublishHeaders::default() };
    let error = parse_structured(br#"{"specversion":"1.0"}"#, &keyed, &RULES);
    assert_eq!(refusal(error), invalid("Idempotency-Key"));
    let large = format!(r#","ext":"{}""#, "x".repeat(20_000));
    assert_eq!(with(&large), invalid("body"));
}

#[test]
fn long_idempotency_keys_are_digests() {
    let key = |id: &str| {
        let json = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t"}}"#);
        structured(&json).expect("valid").idempotency.expect("a key").key
    };
    let longest = "x".repeat(255 - "ce:/s ".len());
    assert_eq!(key(&longest).len(), 255);
    let digest = key(&format!("{longest}x"));
    assert!(digest.starts_with("ce:sha256:") && digest.len() == 74, "{digest}");
    assert_ne!(digest, key(&format!("{longest}y")));
}

#[test]
fn a_batch_lists_every_bad_event() {
    let good = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;
    let headers = PublishHeaders::default();
    let batch = parse_batch(format!("[{good},{good}]").as_bytes(), &headers, &RULES).expect("valid");
    assert_eq!(batch.events.len(), 2);
    assert_eq!(parse_batch(b"\xef\xbb\xbf[]", &headers, &RULES).expect("valid").events.len(), 0);
    let error = parse_batch(format!("[{good},{{}}]").as_bytes(), &headers, &RULES).expect_err("refused");
    assert_eq!((error.code(), &error.details()["errors"][0]["index"]), (ErrorCode::InvalidBatch, &1.into()));
    assert_eq!(error.details()["errors"][0]["field"], "specversion");
}

#[test]
fn plain_events_go_out_as_cloud_events() {
    let event = Event {
        source: "auction manager".into(),
        key: Some("k".into()),
        metadata: Some(r#"{"tenant":"größe","not-a-name":"x"}"#.into()),
        traceparent: Some(TRACEPARENT.into()),
        payload: "{\"n\": 1e400}".into(),
        ..stored(structured_with("").expect("valid"))
    };
    let request = binary_request(&event);
    assert_eq!(request.body, "{\"n\": 1e400}");
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "58"),
        ("ce-eventid", "58"),
        ("ce-source", "auction%2520manager"),
        ("ce-type", "t"),
        ("ce-time", "2023-08-01T12:00:00.000000Z"),
        ("ce-subject", "k"),
        ("ce-tenant", "gr%C3%B6%C3%9Fe"),
        ("ce-traceparent", TRACEPARENT),
        ("content-type", "application/json"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    assert_eq!(request.headers.len(), 10);
    let request = structured_request(&event);
    assert_eq!(header(&request, "content-type"), Some(STRUCTURED));
    let text = std::str::from_utf8(&request.body).expect("UTF-8");
    let expected = format!(
        r#"{{"specversion":"1.0","id":"58","source":"auction%20manager","type":"t","time":"2023-08-01T12:00:00.000000Z","eventid":"58","subject":"k","traceparent":"{TRACEPARENT}","datacontenttype":"application/json","tenant":"größe","data":{{"n": 1e400}}}}"#
    );
    assert_eq!(text, expected);
}

#[test]
fn what_came_as_a_cloud_event_leaves_as_the_same() {
    for (kind, body) in [
        (Some("application/json"), &b"{\"n\": 1e400}"[..]),
        (None, b"\"text\""),
        (Some("text/plain; charset=utf-8"), b"a \"b\" \xe2\x82\xac"),
        (Some("text/plain"), b"\xff\x00"),
        (Some("application/octet-stream"), b"\x00\x01\xfe"),
        (Some("application/json"), b""),
        (None, b""),
    ] {
        let mut headers = vec![("ce-subject", "k"), ("ce-time", "2026-01-31T12:00:00Z"), ("ce-ext", "a%25b")];
        headers.extend(kind.map(|kind| ("content-type", kind)));
        let event = binary_with(&headers, body).expect("valid");
        let request = binary_request(&stored(event.clone()));
        assert_eq!((request.body.as_ref(), header(&request, "ce-id")), (body, Some("1")), "{kind:?}");
        // A body must say what it is; nothing said means JSON.
        if kind.is_some() || body.is_empty() {
            assert_eq!(round_trip(event.clone()).fingerprintless(), event.clone().fingerprintless());
        }
        let json = structured_request(&stored(event.clone())).body;
        let mut back = parse_structured(&json, &PublishHeaders::default(), &RULES).expect("valid");
        let mut kept = metadata(&back);
        assert_eq!(kept.remove("ce-eventid").as_deref(), Some("58"));
        assert_eq!(kept, metadata(&event), "{kind:?}");
        back.metadata = event.metadata.clone();
        assert_eq!(back.fingerprintless(), event.fingerprintless(), "{kind:?}");
    }
}

proptest! {
    #[test]
    fn attributes_survive_any_text(subject in text(), extension in text(), body in any::<Vec<u8>>()) {
        let json = serde_json::json!({
            "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": subject, "ext": extension,
            "data_base64": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &body),
        });
        let event = structured(&json.to_string()).expect("valid");
        let request = binary_request(&stored(event.clone()));
        prop_assert_eq!(request.body.as_ref(), &body[..]);
        let back = round_trip(event.clone());
        prop_assert_eq!(&back.key, &event.key);
        prop_assert_eq!(metadata(&back).remove("ce-ext"), Some(extension));
    }
}

fn text() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,20}".prop_map(|text| text)
}

impl NewEvent {
    /// Without what depends on the spelling of metadata.
    fn fingerprintless(mut self) -> Self {
        if let Some(idempotency) = &mut self.idempotency {
            idempotency.fingerprint = [0; 16];
        }
        self
    }
}
