//! A delivery as an HTTP request: its body, and headers after the
//! [Standard Webhooks](https://www.standardwebhooks.com) specification.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::delivery_request::{DeliveryRequest, Headers};
use super::envelope::write_envelope;
use super::event_json::{write_key_and_metadata, write_string};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::log::LogId;
use crate::domain::span::TraceContext;

const EVENT_ID: HeaderName = HeaderName::from_static("event-id");
const EVENT_LOG: HeaderName = HeaderName::from_static("event-log");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The prefix of secrets, before their base64.
const ENCODED: &str = "whsec_";
/// Shortest key, in bytes (Standard Webhooks).
const MIN_KEY: usize = 24;

/// What a delivery's request looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryFormat {
    #[serde(rename = "json")]
    Json,
    #[serde(rename = "envelope")]
    Envelope,
    #[serde(rename = "cloudevents-binary")]
    CloudEventsBinary,
    #[serde(rename = "cloudevents-structured")]
    CloudEventsStructured,
}

/// A key that deliveries are signed with.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// Reads a secret: `whsec_` and the base64 of at least 24 bytes. Errors do not repeat it.
    pub fn parse(secret: &str) -> Result<Self, &'static str> {
        const PLAIN: &str = "must begin with \"whsec_\", or receivers cannot verify it; \
                             `event-handler secret encode` makes such a one of plain text from standard input";
        let encoded = secret.strip_prefix(ENCODED).ok_or(PLAIN)?;
        let key = STANDARD.decode(encoded).map_err(|_| "must be base64 after \"whsec_\"")?;
        check_key(&key)?;
        let mac = Hmac::new_from_slice(&key).expect("invariant: HMAC takes keys of any length");
        Ok(Self(mac))
    }

    /// `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`.
    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The secret whose key is these bytes, as [`SigningKey::parse`] and the libraries for Standard Webhooks read it.
pub fn encode_secret(key: &[u8]) -> Result<String, &'static str> {
    if key.starts_with(ENCODED.as_bytes()) {
        return Err("is encoded already");
    }
    check_key(key)?;
    Ok(format!("{ENCODED}{}", STANDARD.encode(key)))
}

fn check_key(key: &[u8]) -> Result<(), &'static str> {
    const SHORT: &str =
        "must be at least 24 bytes; `head -c 32 /dev/urandom | event-handler secret encode` makes a new one";
    if key.len() < MIN_KEY { Err(SHORT) } else { Ok(()) }
}

/// The service that gets a delivery, and the format that it wants.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// Its name.
    pub service: &'a str,
    pub format: DeliveryFormat,
    /// The names that replace sources in [`DeliveryFormat::Envelope`].
    pub sources: &'a BTreeMap<String, String>,
}

/// What makes a request one that the receiver can verify, and can tell from others.
#[derive(Debug, Clone, Copy)]
pub struct Attempted<'a> {
    /// The same at every attempt, in visible ASCII.
    pub id: &'a str,
    /// Of whoever has caused the request.
    pub traceparent: Option<&'a str>,
    pub now: Timestamp,
    /// Of this attempt. Its trace and whether that is recorded count only if it continues no other.
    pub context: TraceContext,
}

/// The request that delivers `event` of `log`, as of `now`, signed once with each of `keys`.
pub fn delivery_request(
    log: LogId,
    event: &Event,
    to: Recipient<'_>,
    keys: &[SigningKey],
    now: Timestamp,
    context: TraceContext,
) -> DeliveryRequest {
    let DeliveryRequest { mut headers, body } = content(log, event, to);
    let id = delivery_id(log, event.id, to.service);
    sign(&mut headers, &body, keys, Attempted { id: &id, traceparent: event.traceparent.as_deref(), now, context });
    headers.push((IDEMPOTENCY_KEY, value(id)));
    DeliveryRequest { headers, body }
}

/// `event` of `log` as its recipient wants it, not yet signed.
pub fn content(log: LogId, event: &Event, to: Recipient<'_>) -> DeliveryRequest {
    let Recipient { service: _, format, sources } = to;
    let DeliveryRequest { mut headers, body } = match format {
        DeliveryFormat::Json => json_request(event),
        DeliveryFormat::Envelope => {
            let mut body = Vec::with_capacity(event.payload.len() + 256);
            let source = sources.get(&*event.source).map_or(&*event.source, String::as_str);
            write_envelope(&mut body, log, event, source);
            DeliveryRequest { headers: json_type(), body: body.into() }
        }
        DeliveryFormat::CloudEventsBinary => super::cloud_events::binary_request(event),
        DeliveryFormat::CloudEventsStructured => super::cloud_events::structured_request(event),
    };
    headers.push((EVENT_ID, event.id.into()));
    headers.push((EVENT_LOG, value(log.to_string())));
    DeliveryRequest { headers, body }
}

/// Adds to `headers` what names an attempt and signs it, once with each of `keys`.
pub fn sign(headers: &mut Headers, body: &[u8], keys: &[SigningKey], attempted: Attempted<'_>) {
    let Attempted { id, traceparent, now, context } = attempted;
    let seconds = now.0.div_euclid(1_000_000);
    let signatures: Vec<_> = keys.iter().map(|key| key.sign(id, seconds, body)).collect();
    headers.push((TRACEPARENT, value(child_traceparent(traceparent, context))));
    headers.push((WEBHOOK_TIMESTAMP, seconds.into()));
    if !signatures.is_empty() {
        headers.push((WEBHOOK_SIGNATURE, value(signatures.join(" "))));
    }
    headers.push((WEBHOOK_ID, value(id.to_owned())));
}

/// Names the delivery of an event to a service: the same for every attempt, different for every delivery, also from
/// those of any other log.
pub fn delivery_id(log: LogId, event: EventId, service: &str) -> String {
    format!("evt_{log}_{event}_{service}")
}

/// The `traceparent` of an attempt: a child of the publisher's span, or the root of a new trace.
fn child_traceparent(stored: Option<&str>, context: TraceContext) -> String {
    let mut text = String::with_capacity(55);
    // An id of zeros is not valid.
    let span = context.span.max(1);
    let parent = stored.and_then(|text| Some((text.get(3..35)?, text.get(53..55)?)));
    // Writing to a string cannot fail.
    let _ = match parent {
        Some((trace, flags)) => write!(text, "00-{trace}-{span:016x}-{flags}"),
        None => write!(text, "00-{:032x}-{span:016x}-{:02x}", context.trace.max(1), u8::from(context.is_sampled)),
    };
    text
}

/// The body of the format "json": the payload goes in as the text it is.
fn json_request(event: &Event) -> DeliveryRequest {
    let Event { id, created_at, name, payload, source, priority: _, key, metadata, traceparent: _ } = event;
    let mut body = Vec::with_capacity(payload.len() + name.as_str().len() + source.len() + 128);
    // Writing to memory cannot fail.
    let _ =
        write!(body, r#"{{"event_name":"{name}","payload":{payload},"id":{id},"created_at":"{created_at}","source":"#);
    write_string(&mut body, source);
    write_key_and_metadata(&mut body, key.as_deref(), metadata.as_deref());
    body.push(b'}');
    DeliveryRequest { headers: json_type(), body: body.into() }
}

fn json_type() -> Headers {
    vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))]
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("invariant: only visible ASCII is put into these headers")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: TraceContext = TraceContext { trace: 0xab, span: 0xcd, is_sampled: true };

    fn log() -> LogId {
        LogId::parse("10e8a1c2-0000-4000-8000-000000000000").expect("valid")
    }

    fn to(service: &str) -> Recipient<'_> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        Recipient { service, format: DeliveryFormat::Json, sources: &NONE }
    }

    fn event() -> Event {
        Event { source: "a \"b\"".into(), ..Event::plain(58, "user.created", r#"{"n": 1e400}"#) }
    }

    fn header<'a>(request: &'a DeliveryRequest, name: &str) -> Option<&'a str> {
        request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_str().expect("ASCII"))
    }

    /// The example of the specification and its reference libraries.
    #[test]
    fn signs_as_the_specification_does() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_what_every_library_can_verify() {
        let reason = |secret: &str| SigningKey::parse(secret).err().unwrap_or_default();
        assert_eq!(reason("whsec_!"), "must be base64 after \"whsec_\"");
        for short in ["whsec_", "whsec_cGxhaW4=", &format!("whsec_{}", STANDARD.encode([7; 23]))] {
            assert!(reason(short).starts_with("must be at least 24 bytes"), "{short}");
        }
        for plain in ["", "a plain text that is long enough", "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(reason(plain).contains("`event-handler secret encode`"), "{plain}");
        }
        let encoded = encode_secret(b"a plain text that is long enough").expect("long enough");
        assert_eq!((encoded.as_str(), reason(&encoded)), ("whsec_YSBwbGFpbiB0ZXh0IHRoYXQgaXMgbG9uZyBlbm91Z2g=", ""));
        assert!(encode_secret(encoded.as_bytes()).is_err() && encode_secret(b"short").is_err());
    }

    #[test]
    fn the_body_has_the_exact_payload() {
        let request = |event: &Event| delivery_request(log(), event, to("s"), &[], Timestamp(0), CONTEXT);
        assert_eq!(
            request(&event()).body,
            r#"{"event_name":"user.created","payload":{"n": 1e400},"id":58,"created_at":"2023-08-01T12:00:00.000000Z","source":"a \"b\""}"#
        );
        let full = Event { key: Some("k".into()), metadata: Some(r#"{"a":"1"}"#.into()), ..event() };
        let body = request(&full).body;
        assert!(body.ends_with(br#","key":"k","metadata":{"a":"1"}}"#), "{body:?}");
    }

    #[test]
    fn headers_name_the_delivery_and_sign_it_with_every_key() {
        let keys = [[1; 24], [2; 24]].map(|key| encode_secret(&key).and_then(|secret| SigningKey::parse(&secret)));
        let keys = keys.map(|key| key.expect("a key"));
        let now = Timestamp(1_690_891_200_999_999);
        let request = delivery_request(log(), &event(), to("billing"), &keys, now, CONTEXT);
        assert_eq!(header(&request, "webhook-id"), Some("evt_10e8a1c2-0000-4000-8000-000000000000_58_billing"));
        assert_eq!(header(&request, "idempotency-key"), Some("evt_10e8a1c2-0000-4000-8000-000000000000_58_billing"));
        assert_eq!(header(&request, "event-id"), Some("58"));
        assert_eq!(header(&request, "event-log"), Some("10e8a1c2-0000-4000-8000-000000000000"));
        assert_eq!(header(&request, "webhook-timestamp"), Some("1690891200"));
        assert_eq!(header(&request, "content-type"), Some("application/json"));
        let signatures = keys
            .map(|key| key.sign("evt_10e8a1c2-0000-4000-8000-000000000000_58_billing", 1_690_891_200, &request.body))
            .join(" ");
        assert_eq!(header(&request, "webhook-signature"), Some(&*signatures));
        let unsigned = delivery_request(log(), &event(), to("billing"), &[], now, CONTEXT);
        assert_eq!(header(&unsigned, "webhook-signature"), None);
    }

    #[test]
    fn a_trace_goes_on_or_begins() {
        let stored = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more";
        for text in [stored, later] {
            let child = child_traceparent(Some(text), CONTEXT);
            assert_eq!(child, "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000cd-00");
        }
        assert_eq!(child_traceparent(None, CONTEXT), "00-000000000000000000000000000000ab-00000000000000cd-01");
        let zeros = TraceContext { trace: 0, span: 0, is_sampled: false };
        assert_eq!(child_traceparent(None, zeros), "00-00000000000000000000000000000001-0000000000000001-00");
    }
}
