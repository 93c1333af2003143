//! An event as one line: for people, or as JSON for programs.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::event::{DEFAULT_SOURCE, EventId};

/// The parts of an event, as `/events` and full frames spell it.
#[derive(Deserialize)]
struct Parts<'a> {
    id: EventId,
    #[serde(borrow)]
    event_name: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    created_at: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
}

/// The id of the event in `json`, and its line. Numbers in it stay as they are.
pub fn event_line(json: &str, as_json: bool) -> Result<(EventId, String), serde_json::Error> {
    let Parts { id, event_name, payload, created_at, source, key } = serde_json::from_str(json)?;
    if as_json {
        return Ok((id, one_line(json)));
    }
    let mut line = format!("{id}  {created_at}  {event_name}  {}", one_line(payload.get()));
    if *source != *DEFAULT_SOURCE {
        line.push_str(&format!("  source={source}"));
    }
    if let Some(key) = key {
        line.push_str(&format!("  key={key}"));
    }
    Ok((id, line))
}

/// The same JSON without anything that breaks a line or commands a terminal.
///
/// Line breaks stand only between tokens, other control characters only in strings, where an escape means the same.
pub fn one_line(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let json = "{\"id\":58,\"event_name\":\"a b\",\"payload\":{\n\t\"n\": 1e400, \"t\":\"\u{9b}2J\"},\
                    \"created_at\":\"2023-08-01T12:00:00.000000Z\",\"source\":\"crm\",\"key\":\"k\"}";
        let (id, line) = event_line(json, false).expect("an event");
        let payload = "{  \"n\": 1e400, \"t\":\"\\u009b2J\"}";
        assert_eq!((id, line), (58, format!("58  2023-08-01T12:00:00.000000Z  a b  {payload}  source=crm  key=k")));
        let (_, line) = event_line(json, true).expect("an event");
        let parsed: serde_json::Value = serde_json::from_str(&line.replace("1e400", "1")).expect("JSON");
        assert_eq!((line.lines().count(), &parsed["payload"]["t"]), (1, &"\u{9b}2J".into()));
    }
}
