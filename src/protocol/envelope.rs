//! The envelope in which the services of the auction system speak of events:
//! `{"id","timestamp","type","source","version":"1.0.0","data"}`, compact, in this order.

use std::io::Write as _;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::event_json::write_string;
use super::raw_object::RawObject;
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::log::{EventUuid, LogId};
use crate::domain::name::EventName;

/// An event of this name would come on the channel of all events, and nobody could tell which it is: it goes neither out
/// nor in by publish/subscribe.
pub const ALL: &str = "all";

/// Appends the envelope of `event`, as one of `source`.
///
/// Its `id` is the same whenever the event is sent, and unlike that of any other event of any log. `data` is an object
/// in any case: a payload that is none goes in as its `value`.
pub fn write_envelope(out: &mut Vec<u8>, log: LogId, event: &Event, source: &str) {
    let Event { id, created_at, name, payload, .. } = event;
    let (uuid, ms) = (event_uuid(log, *id), created_at.0.div_euclid(1_000));
    // Writing to memory cannot fail.
    let _ = write!(out, r#"{{"id":"{uuid}","timestamp":{ms},"type":"{name}","source":"#);
    write_string(out, source);
    out.extend_from_slice(br#","version":"1.0.0","data":"#);
    if payload.trim_start().starts_with('{') {
        write_compact(out, payload);
        if is_change_of_state(name) && !has_version(payload) {
            let comma = if out.ends_with(b"{}") { "" } else { "," };
            out.pop();
            let _ = write!(out, r#"{comma}"version":{id}}}"#);
        }
    } else {
        out.extend_from_slice(br#"{"value":"#);
        write_compact(out, payload);
        out.push(b'}');
    }
    out.push(b'}');
}

/// The dead letter of a delivery whose event is in `envelope`: `{"event":…,"error":{"message","stack","timestamp"}}`.
pub fn dead_letter(envelope: &[u8], message: &str, at: Timestamp) -> Vec<u8> {
    let mut out = [br#"{"event":"#, envelope, br#","error":{"message":"#].concat();
    write_string(&mut out, message);
    // With milliseconds, as its readers write it themselves.
    let at = Timestamp(at.0 - at.0.rem_euclid(1_000)).to_string().replace("000Z", "Z");
    let _ = write!(out, r#","stack":"","timestamp":"{at}"}}}}"#);
    out
}

/// The UUID of an event in its envelope.
pub fn event_uuid(log: LogId, id: EventId) -> EventUuid {
    let name = [&log.to_bytes()[..], id.to_string().as_bytes()].concat();
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, &name);
    let sha1 = sha1.as_ref().try_into().expect("invariant: SHA-1 has twenty bytes");
    EventUuid::of_sha1(sha1)
}

/// `state.TYPE.changed`: its version is the id of the event.
fn is_change_of_state(name: &EventName) -> bool {
    let kind = name.as_str().strip_prefix("state.").and_then(|rest| rest.strip_suffix(".changed"));
    kind.is_some_and(|kind| !kind.contains('.'))
}

fn has_version(payload: &str) -> bool {
    RawObject::parse(payload.as_bytes(), "payload").is_ok_and(|object| object.raw("version").is_some())
}

/// Appends `json` without the white space between its tokens, and with its characters as UTF-8 where they need no escape.
fn write_compact(out: &mut Vec<u8>, json: &str) {
    let (mut is_text, mut rest) = (false, json.as_bytes());
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'\\' if is_text => match unescape(after) {
                Some((char, length)) => {
                    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                    rest = &after[length..];
                }
                None => {
                    out.push(b'\\');
                    out.extend(after.first());
                    rest = after.get(1..).unwrap_or_default();
                }
            },
            b' ' | b'\t' | b'\n' | b'\r' if !is_text => {}
            _ => {
                is_text ^= *byte == b'"';
                out.push(*byte);
            }
        }
    }
}

/// The character for which an escape stands, of which the backslash was read, and the length of the rest of the escape.
/// None if the character can only be written by an escape.
fn unescape(escape: &[u8]) -> Option<(char, usize)> {
    if escape.first() == Some(&b'/') {
        return Some(('/', 1));
    }
    let unit = |at: usize| {
        let digits = escape.get(at..at + 5)?.strip_prefix(b"u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let first = unit(0)?;
    // The second half of a pair has a backslash of its own.
    let second = unit(6).filter(|_| escape.get(5) == Some(&b'\\'));
    let char = char::decode_utf16([first].into_iter().chain(second)).next()?.ok()?;
    let is_free = !matches!(char, '\0'..='\x1f' | '"' | '\\');
    is_free.then_some((char, if char.len_utf16() == 2 { 11 } else { 5 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> LogId {
        LogId::parse("6ba7b810-9dad-41d1-80b4-00c04fd430c8").expect("valid")
    }

    fn enveloped(name: &'static str, payload: &str) -> String {
        let event = Event {
            created_at: Timestamp(1_690_891_200_123_999),
            key: Some("k".into()),
            ..Event::plain(58, name, payload)
        };
        let mut out = Vec::new();
        write_envelope(&mut out, log(), &event, "EVENT_\"HANDLER");
        String::from_utf8(out).expect("UTF-8")
    }

    /// The ids are those of another implementation: `uuid5` of Python.
    #[test]
    fn an_event_has_the_uuid_of_its_log_and_id() {
        assert_eq!(event_uuid(log(), 58).to_string(), "cab95958-9776-5244-9f67-681d30e9912e");
        assert_eq!(event_uuid(log(), i64::MAX).to_string(), "e9ce12d3-e8c1-5018-89f1-9f8763b6b787");
    }

    #[test]
    fn the_envelope_is_compact_and_its_data_an_object() {
        let around = |data: &str| {
            let id = event_uuid(log(), 58);
            format!(
                r#"{{"id":"{id}","timestamp":1690891200123,"type":"lot:won","source":"EVENT_\"HANDLER","version":"1.0.0","data":{data}}}"#
            )
        };
        for (payload, data) in [
            (r#"{ "a b" : [1e400,  "x \" \\" , "ä"] }"#, r#"{"a b":[1e400,"x \" \\","ä"]}"#),
            ("{ }", "{}"),
            ("[1, 2]", r#"{"value":[1,2]}"#),
            (" null", r#"{"value":null}"#),
            (r#"" a ""#, r#"{"value":" a "}"#),
            // As its readers write it themselves: what needs no escape has none.
            (r#"{"\u00e4":"\u20AC \ud83d\ude00\/\u0041"}"#, r#"{"ä":"€ 😀/A"}"#),
            (r#"["\u0000\u001f\u0022\u005c\n\\u0041", 1]"#, r#"{"value":["\u0000\u001f\u0022\u005c\n\\u0041",1]}"#),
            (r#"["\ud83d", "\ud83d\u0041", "\ude00\\"]"#, r#"{"value":["\ud83d","\ud83dA","\ude00\\"]}"#),
        ] {
            assert_eq!(enveloped("lot:won", payload), around(data));
        }
    }

    #[test]
    fn a_dead_letter_has_its_envelope_and_the_reason() {
        let letter = |us| String::from_utf8(dead_letter(b"{}", "a \"b\"", Timestamp(us))).expect("UTF-8");
        let around =
            |at: &str| format!(r#"{{"event":{{}},"error":{{"message":"a \"b\"","stack":"","timestamp":"{at}"}}}}"#);
        assert_eq!(letter(1_690_891_200_123_999), around("2023-08-01T12:00:00.123Z"));
        assert_eq!(letter(1_690_891_200_000_000), around("2023-08-01T12:00:00.000Z"));
    }

    #[test]
    fn the_change_of_a_state_has_its_version() {
        let data = |name, payload| enveloped(name, payload).split_once(r#""data":"#).expect("data").1.to_owned();
        assert_eq!(data("state.auction.changed", r#"{"op": "put"}"#), r#"{"op":"put","version":58}}"#);
        assert_eq!(data("state.auction.changed", "{}"), r#"{"version":58}}"#);
        assert_eq!(data("state.auction.changed", r#"{"version":7}"#), r#"{"version":7}}"#);
        assert_eq!(data("state.a.b.changed", "{}"), "{}}");
        assert_eq!(data("state.changed", "{}"), "{}}");
    }
}
