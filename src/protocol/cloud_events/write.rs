//! From a stored [`Event`] to a CloudEvent.

use std::borrow::Cow;
use std::collections::BTreeMap;

use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{BASE64_DATA, CORE, DATA_KEY, LITERALS_KEY, NO_DATA, PREFIX, STRUCTURED, is_attribute, is_json};
use crate::domain::event::Event;
use crate::protocol::delivery_request::DeliveryRequest;
use crate::protocol::event_json::write_string;

/// What a header value must not hold as it is (CloudEvents HTTP binding, 3.1.3.2).
const IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// What cannot be in a URI reference.
const NOT_IN_URI: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// The data, in the shape that both modes begin with.
enum Data<'a> {
    None,
    Json(&'a str),
    /// A JSON string that stands for text of another type.
    Text(&'a str),
    /// A JSON string that stands for bytes, in base64.
    Base64(&'a str),
}

/// The binary mode: attributes as headers, data as the body.
pub fn binary_request(event: &Event) -> DeliveryRequest {
    let metadata = metadata(event);
    let attributes = attributes(event, &metadata);
    let mut media_type = None;
    let mut headers = Vec::with_capacity(attributes.len() + 8);
    for (name, value) in &attributes {
        if *name == "datacontenttype" {
            media_type = HeaderValue::from_str(value).ok();
            continue;
        }
        let encoded = utf8_percent_encode(value, IN_HEADER).to_string();
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(format!("{PREFIX}{name}")), HeaderValue::try_from(encoded))
        {
            headers.push((name, value));
        }
    }
    let unquoted = |json: &str| serde_json::from_str::<String>(json).unwrap_or_default();
    let (body, default_type) = match data(event, &metadata) {
        Data::None => (Bytes::new(), None),
        // Shared with the event, not copied.
        Data::Json(_) => (event.payload.as_bytes().clone(), Some("application/json")),
        Data::Text(json) => (unquoted(json).into(), Some("text/plain")),
        Data::Base64(json) => {
            (STANDARD.decode(unquoted(json)).unwrap_or_default().into(), Some("application/octet-stream"))
        }
    };
    if let Some(media_type) = media_type.or(default_type.map(HeaderValue::from_static)) {
        headers.push((CONTENT_TYPE, media_type));
    }
    DeliveryRequest { headers, body }
}

/// The structured mode: one JSON object with everything; JSON data goes in as the text it is.
pub fn structured_request(event: &Event) -> DeliveryRequest {
    let metadata = metadata(event);
    let literals: Vec<&str> = metadata.get(LITERALS_KEY).map_or("", String::as_str).split(' ').collect();
    let mut body = Vec::with_capacity(event.payload.len() + 512);
    for (name, value) in &attributes(event, &metadata) {
        body.push(if body.is_empty() { b'{' } else { b',' });
        write_string(&mut body, name);
        body.push(b':');
        if !CORE.contains(name) && literals.contains(name) && is_literal(value) {
            body.extend_from_slice(value.as_bytes());
        } else {
            write_string(&mut body, value);
        }
    }
    let member = match data(event, &metadata) {
        Data::None => None,
        Data::Json(json) | Data::Text(json) => Some(("data", json)),
        Data::Base64(json) => Some(("data_base64", json)),
    };
    if let Some((name, json)) = member {
        body.extend_from_slice(format!(r#","{name}":{json}"#).as_bytes());
    }
    body.push(b'}');
    DeliveryRequest { headers: vec![(CONTENT_TYPE, HeaderValue::from_static(STRUCTURED))], body: body.into() }
}

/// Whether `text` is the JSON of a boolean or an integer: anybody may have written the metadata.
fn is_literal(text: &str) -> bool {
    matches!(text, "true" | "false") || text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

fn metadata(event: &Event) -> BTreeMap<String, String> {
    let text = event.metadata.as_deref().unwrap_or("{}");
    serde_json::from_str(text).unwrap_or_default()
}

/// All attributes, each once: those of the event, those kept in its metadata, then other metadata whose keys can be
/// names of extensions.
fn attributes<'a>(event: &'a Event, metadata: &'a BTreeMap<String, String>) -> Vec<(&'a str, Cow<'a, str>)> {
    let kept = |name: &str| metadata.get(&format!("{PREFIX}{name}")).map(|text| Cow::Borrowed(text.as_str()));
    let mut attributes: Vec<(&str, Cow<'_, str>)> = vec![
        ("specversion", "1.0".into()),
        ("id", kept("id").unwrap_or_else(|| event.id.to_string().into())),
        ("source", utf8_percent_encode(&event.source, NOT_IN_URI).into()),
        ("type", event.name.as_str().into()),
        ("time", kept("time").unwrap_or_else(|| event.created_at.to_string().into())),
        ("eventid", event.id.to_string().into()),
    ];
    attributes.extend(event.key.as_deref().map(|key| ("subject", key.into())));
    attributes.extend(event.traceparent.as_deref().map(|text| ("traceparent", text.into())));
    // An event that came as a CloudEvent without this attribute leaves without it.
    let default_type = || metadata.get("ce-id").is_none().then(|| "application/json".into());
    attributes.extend(kept("datacontenttype").or_else(default_type).map(|text| ("datacontenttype", text)));
    attributes.extend(kept("dataschema").map(|text| ("dataschema", text)));
    let own = metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)));
    let other = metadata.iter().map(|(key, value)| (key.as_str(), value));
    for (name, value) in own.chain(other) {
        if is_attribute(name) && !CORE.contains(&name) && attributes.iter().all(|(other, _)| *other != name) {
            attributes.push((name, value.into()));
        }
    }
    attributes
}

fn data<'a>(event: &'a Event, metadata: &BTreeMap<String, String>) -> Data<'a> {
    let payload: &str = &event.payload;
    let is_string = payload.starts_with('"');
    match metadata.get(DATA_KEY).map(String::as_str) {
        Some(NO_DATA) => Data::None,
        Some(BASE64_DATA) if is_string => Data::Base64(payload),
        _ if is_string && !is_json(metadata.get("ce-datacontenttype").map(String::as_str)) => Data::Text(payload),
        _ => Data::Json(payload),
    }
}
