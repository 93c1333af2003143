//! JSON as text: numbers stay as they were written, and of a large value only what is asked for is read.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// A JSON value as it was written.
#[derive(Clone)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Reads `text`. None if it is no JSON.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// A text.
    pub fn text(text: &str) -> Self {
        Self::of(&text)
    }

    pub(super) fn of(value: &impl Serialize) -> Self {
        Self(serde_json::value::to_raw_value(value).expect("invariant: it has a JSON form"))
    }

    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::deserialize(deserializer).map(Self)
    }
}

/// What is at `path` in the JSON text `json`: member names, and numbers in arrays. None if nothing is.
pub(super) fn find<'a>(json: &'a str, path: &[String]) -> Option<&'a str> {
    path.iter().try_fold(json, |json, step| match json.trim_start().as_bytes().first()? {
        b'{' => {
            let members: HashMap<String, &RawValue> = serde_json::from_str(json).ok()?;
            members.get(step).map(|value| value.get())
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            elements.get(step.parse::<usize>().ok()?).map(|value| value.get())
        }
        _ => None,
    })
}

/// A JSON Pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads `text`: empty, or beginning with `/`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        text.strip_prefix('/')?.split('/').map(unescaped).collect::<Option<_>>().map(Self)
    }

    /// What it points to in `json`.
    pub fn find<'a>(&self, json: &'a str) -> Option<&'a str> {
        find(json, &self.0)
    }
}

/// A tilde stands for itself as `~0`, and a slash as `~1`.
fn unescaped(part: &str) -> Option<String> {
    let mut pieces = part.split('~');
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        text.push(match piece.bytes().next()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        text.push_str(&piece[1..]);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_point() {
        let json = r#" {"a":{"b/c":[1, {"~":1e400}]},"":7} "#;
        let at = |pointer: &str| Pointer::parse(pointer).expect("a pointer").find(json).map(str::to_owned);
        assert_eq!(at("/a/b~1c/1/~0").as_deref(), Some("1e400"));
        assert_eq!(at("/").as_deref(), Some("7"));
        assert_eq!(at("").as_deref(), Some(json));
        for nothing in ["/x", "/a/b~1c/2", "/a/b~1c/x", "/a/b~1c/0/0"] {
            assert_eq!(at(nothing), None, "{nothing}");
        }
        assert_eq!([Pointer::parse("a"), Pointer::parse("/~2"), Pointer::parse("/~")], [None, None, None]);
    }
}
