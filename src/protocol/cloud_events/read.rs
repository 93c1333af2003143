//! From a CloudEvent to a [`NewEvent`], or an error that names the attribute.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytestring::ByteString;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{BASE64_DATA, CORE, DATA_KEY, LITERALS_KEY, NO_DATA, PREFIX, is_attribute, is_json, is_text};
use crate::domain::event::{Append, Idempotency, NewEvent, Priority, Timestamp};
use crate::protocol::batch::parse_array_of;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::publish::{
    Events, MAX_METADATA_BYTES, MAX_TEXT_BYTES, PublishHeaders, PublishRules, checked_name, checked_text, fingerprint,
    is_traceparent,
};
use crate::protocol::raw_object::{RawObject, without_bom};

/// The attributes by name, without the data.
type Attributes = BTreeMap<String, String>;

/// The payload that the data becomes, and how it represents the data.
struct Data {
    payload: ByteString,
    marker: Option<&'static str>,
}

/// Reads the binary mode: attributes from headers that begin with `ce-`, the data from the body.
pub fn parse_binary<'h>(
    headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    body: &[u8],
    publish: &PublishHeaders<'_>,
) -> Result<NewEvent, ApiError> {
    let mut attributes = Attributes::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if name == "content-type" {
            let text = std::str::from_utf8(value).map_err(|_| invalid("datacontenttype", "must be UTF-8"))?;
            attributes.insert("datacontenttype".into(), text.to_owned());
        } else if let Some(attribute) = name.strip_prefix(PREFIX) {
            if attribute == "datacontenttype" || !is_attribute(attribute) {
                return Err(invalid(attribute, "cannot be given as a header"));
            }
            let text = match attribute {
                "source" => source(value)?,
                _ => decode(attribute, &unquoted(value))?,
            };
            if attributes.insert(attribute.to_owned(), text).is_some() {
                return Err(ApiError::field(ErrorCode::DuplicateField, attribute, "given twice"));
            }
        }
    }
    let media_type = attributes.get("datacontenttype").map(String::as_str);
    let data = binary_data(media_type, body)?;
    event(attributes, data, publish)
}

/// Reads the structured mode: one JSON object with everything.
pub fn parse_structured(
    json: &[u8],
    publish: &PublishHeaders<'_>,
    _rules: &PublishRules,
) -> Result<NewEvent, ApiError> {
    let object = RawObject::parse(json, "body")?;
    object.check(&[], false)?;
    let mut attributes = Attributes::new();
    let mut literals = Vec::new();
    for (name, value) in object.fields() {
        if matches!(name, "data" | "data_base64") || value == "null" {
            continue;
        }
        if !is_attribute(name) {
            return Err(invalid(name, "names of attributes are lower-case letters and digits"));
        }
        if !value.starts_with('"') && !CORE.contains(&name) {
            literals.push(name);
        }
        attributes.insert(name.to_owned(), attribute_text(name, value)?);
    }
    let data = structured_data(&object, attributes.get("datacontenttype").map(String::as_str))?;
    let mut event = event(attributes, data, publish)?;
    // Only then: the modes are two spellings of one event, and headers have no types.
    if !literals.is_empty() {
        keep_as_metadata(&mut event, LITERALS_KEY, &literals.join(" "))?;
    }
    Ok(event)
}

/// Reads the batched mode: a JSON array of structured events, which may be none.
pub fn parse_batch(json: &[u8], publish: &PublishHeaders<'_>, rules: &PublishRules) -> Result<Append, ApiError> {
    let parse = |json: &[u8], publish: &PublishHeaders<'_>, rules: &PublishRules| {
        parse_structured(json, publish, rules).map(|event| Events::from_buf([event]))
    };
    parse_array_of((parse, 0), json, publish, rules)
}

/// The idempotency key of a CloudEvent: `ce:`, its source, a space, its id; beyond 255 bytes, `ce:sha256:` and the
/// SHA-256 of source, space and id in hexadecimal. A source cannot hold a space, so no two events share a key.
fn idempotency_key(source: &str, id: &str) -> ByteString {
    let key = format!("ce:{source} {id}");
    if key.len() <= MAX_TEXT_BYTES {
        return key.into();
    }
    format!("ce:sha256:{:x}", Sha256::digest(&key["ce:".len()..])).into()
}

fn keep_as_metadata(event: &mut NewEvent, key: &str, value: &str) -> Result<(), ApiError> {
    let text = event.metadata.as_deref().unwrap_or("{}");
    let mut metadata: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    metadata.insert(key.to_owned(), value.to_owned());
    event.metadata = Some(metadata_text(&metadata)?);
    Ok(())
}

fn metadata_text(metadata: &BTreeMap<String, String>) -> Result<ByteString, ApiError> {
    let text = serde_json::to_string(metadata).map_err(|_| invalid("body", "cannot be written as JSON"))?;
    if text.len() > MAX_METADATA_BYTES {
        return Err(invalid("body", &format!("the attributes must have at most {MAX_METADATA_BYTES} bytes")));
    }
    Ok(text.into())
}

fn event(mut attributes: Attributes, data: Data, publish: &PublishHeaders<'_>) -> Result<NewEvent, ApiError> {
    if publish.idempotency_key.is_some() {
        return Err(invalid("Idempotency-Key", "source and id of a CloudEvent are its idempotency key"));
    }
    let version = required(&mut attributes, "specversion")?;
    if version != "1.0" {
        return Err(invalid("specversion", "must be 1.0"));
    }
    let id = required(&mut attributes, "id")?;
    if id.is_empty() || id.chars().any(char::is_control) {
        return Err(invalid("id", "must not be empty, nor contain control characters"));
    }
    let source = required(&mut attributes, "source")?;
    if source.contains(char::is_whitespace) {
        return Err(invalid("source", "must be a URI reference, without white space"));
    }
    let idempotency_key = idempotency_key(&source, &id);
    let source = checked_text("source", source.into())?;
    let name = checked_name("type", required(&mut attributes, "type")?.into())?;
    let key = attributes.remove("subject").map(|text| checked_text("subject", text.into())).transpose()?;
    if attributes.get("time").is_some_and(|time| Timestamp::parse(time).is_none()) {
        return Err(invalid("time", "must be an RFC 3339 time like 2026-01-31T12:00:00Z"));
    }
    let of_event = attributes.get("traceparent").filter(|text| is_traceparent(text)).cloned();
    if of_event.is_some() {
        attributes.remove("traceparent");
    }
    let traceparent = of_event.as_deref().or(publish.traceparent.filter(|text| is_traceparent(text)));
    let traceparent = traceparent.map(ByteString::from);
    attributes.insert("id".into(), id);

    let mut metadata: BTreeMap<String, String> =
        attributes.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)).collect();
    if let Some(marker) = data.marker {
        metadata.insert(DATA_KEY.into(), marker.into());
    }
    let metadata = metadata_text(&metadata)?;
    let mut event = NewEvent {
        name,
        payload: data.payload,
        source,
        priority: Priority::default(),
        key,
        metadata: Some(metadata),
        traceparent,
        idempotency: None,
        change: None,
    };
    let fingerprint = fingerprint(std::slice::from_ref(&event));
    event.idempotency = Some(Idempotency { key: idempotency_key, fingerprint });
    Ok(event)
}

fn required(attributes: &mut Attributes, name: &str) -> Result<String, ApiError> {
    attributes.remove(name).ok_or_else(|| ApiError::field(ErrorCode::MissingField, name, "is required"))
}

fn invalid(attribute: &str, reason: &str) -> ApiError {
    ApiError::field(ErrorCode::InvalidField, attribute, reason)
}

/// The value of an attribute in a header, still percent-encoded, without the quotation marks that may be around it.
/// Some publishers send text as it is, in UTF-8 or, as HTTP once had it, in Latin-1.
fn unquoted(value: &[u8]) -> Cow<'_, str> {
    let latin = || Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect());
    let text: Cow<'_, str> = std::str::from_utf8(value).map_or_else(|_| latin(), Cow::Borrowed);
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => unescape(inner).into(),
        None => text,
    }
}

/// One round of percent-decoding, as the HTTP binding has it (3.1.3.2).
fn decode(attribute: &str, text: &str) -> Result<String, ApiError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| invalid(attribute, "must be UTF-8 when percent-decoded"))
}

/// A source that many publishers send as the URI reference that it is, without encoding it for the header: where
/// decoding it leaves none, it is taken as it was sent.
fn source(value: &[u8]) -> Result<String, ApiError> {
    let sent = unquoted(value);
    match decode("source", &sent) {
        Ok(decoded) if is_uri_reference(&decoded) || !is_uri_reference(&sent) => Ok(decoded),
        Err(error) if !is_uri_reference(&sent) => Err(error),
        Ok(_) | Err(_) => Ok(sent.into_owned()),
    }
}

/// Whether `text` has only what a URI reference may have (RFC 3986, section 2).
fn is_uri_reference(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_encoded = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    !bytes.is_empty()
        && bytes.iter().enumerate().all(|(at, byte)| match byte {
            b'%' => is_encoded(at),
            byte => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(byte),
        })
}

/// The content of a quoted string: a backslash stands before what is meant literally.
fn unescape(inner: &str) -> String {
    let mut chars = inner.chars();
    std::iter::from_fn(|| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    })
    .collect()
}

/// The value of an attribute in JSON: text, or an integer or boolean as text.
fn attribute_text(name: &str, json: &str) -> Result<String, ApiError> {
    match serde_json::from_str(json) {
        Ok(Value::String(text)) => Ok(text),
        Ok(Value::Bool(_)) => Ok(json.to_owned()),
        Ok(Value::Number(number)) if number.is_i64() => Ok(json.to_owned()),
        _ => Err(invalid(name, "must be a string, an integer or a boolean")),
    }
}

fn binary_data(media_type: Option<&str>, body: &[u8]) -> Result<Data, ApiError> {
    if body.is_empty() {
        return Ok(no_data());
    }
    if is_json(media_type) {
        let json: &RawValue = serde_json::from_slice(without_bom(body))
            .map_err(|error| ApiError::new(ErrorCode::MalformedJson, format!("not valid JSON: {error}")))?;
        return Ok(Data { payload: json.get().into(), marker: None });
    }
    match std::str::from_utf8(body) {
        Ok(text) if media_type.is_some_and(is_text) => Ok(Data { payload: json_string(text), marker: None }),
        _ => Ok(Data { payload: json_string(&STANDARD.encode(body)), marker: Some(BASE64_DATA) }),
    }
}

fn structured_data(object: &RawObject<'_>, media_type: Option<&str>) -> Result<Data, ApiError> {
    let Some(encoded) = object.text("data_base64")? else {
        let Some(json) = object.raw("data").filter(|json| *json != "null") else {
            return Ok(no_data());
        };
        // Text of another type than JSON has one spelling, in whichever mode it came.
        let text = (!is_json(media_type)).then(|| object.text("data").ok().flatten()).flatten();
        let payload = text.map_or_else(|| json.into(), |text| json_string(&text));
        return Ok(Data { payload, marker: None });
    };
    if object.raw("data").is_some() {
        return Err(invalid("data_base64", "cannot stand beside data"));
    }
    STANDARD.decode(encoded.as_bytes()).map_err(|_| invalid("data_base64", "must be base64"))?;
    Ok(Data { payload: json_string(&encoded), marker: Some(BASE64_DATA) })
}

fn no_data() -> Data {
    Data { payload: ByteString::from_static("null"), marker: Some(NO_DATA) }
}

fn json_string(text: &str) -> ByteString {
    Value::from(text).to_string().into()
}
