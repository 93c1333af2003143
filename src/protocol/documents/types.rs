//! The event types of the catalogue, as both documents have them.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// An event type of the catalogue, as documents show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    /// An event name or a pattern.
    pub name: String,
    pub version: u32,
    /// The JSON Schema of the payload, as JSON.
    pub schema: String,
    pub description: Option<String>,
    pub owner: Option<String>,
    /// Payloads, as JSON.
    pub examples: Vec<String>,
    pub is_deprecated: bool,
}

impl EventType {
    /// Whether it is the type of events of one name.
    pub fn is_name(&self) -> bool {
        !self.name.contains(['*', '>'])
    }
}

/// The schema of an event as an object: of a name or a pattern, with the payload that `payload` refers to.
pub fn event_schema(name: &str, payload: &str) -> Value {
    let named = if name.contains(['*', '>']) {
        json!({ "type": "string", "pattern": expression(name) })
    } else {
        json!({ "const": name })
    };
    json!({
        "type": "object",
        "required": ["event_name", "payload"],
        "properties": { "event_name": named, "payload": { "$ref": payload } },
    })
}

/// A name of components for an event name or a pattern: of letters, digits, `-`, `.` and `_`, and no two alike.
pub fn key_of(name: &str) -> String {
    name.bytes().fold(String::new(), |mut key, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => key.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(key, "_{byte:02X}")),
        }
        key
    })
}

/// A regular expression for the names that a pattern matches.
fn expression(pattern: &str) -> String {
    let segments: Vec<String> = pattern
        .split('.')
        .map(|segment| match segment {
            "*" => "[^.]+".to_owned(),
            ">" => ".+".to_owned(),
            text => {
                let (text, rest) = text.strip_suffix('*').map_or((text, ""), |text| (text, "[^.]*"));
                let escaped = text.chars().fold(String::new(), |mut escaped, c| {
                    if !c.is_alphanumeric()
                        && c.is_ascii()
                        && !matches!(
                            c,
                            '_' | '-'
                                | ':'
                                | ' '
                                | '%'
                                | '&'
                                | '#'
                                | '~'
                                | '@'
                                | '!'
                                | '='
                                | ','
                                | ';'
                                | '<'
                                | '\''
                                | '`'
                        )
                    {
                        escaped.push('\\');
                    }
                    escaped.push(c);
                    escaped
                });
                escaped + rest
            }
        })
        .collect();
    format!("^{}$", segments.join("\\."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expression_of_a_pattern() {
        for (pattern, expected) in [
            (">", "^.+$"),
            ("a.*.b", r"^a\.[^.]+\.b$"),
            ("a.>", r"^a\..+$"),
            ("x(y:*", r"^x\(y:[^.]*$"),
            ("é|", r"^é\|$"),
        ] {
            assert_eq!(expression(pattern), expected, "{pattern}");
        }
    }
}
