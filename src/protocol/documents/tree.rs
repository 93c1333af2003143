//! JSON whose numbers stay the text that they are, and whose members stay in order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// A JSON value.
#[derive(Debug, Clone)]
pub enum Tree {
    Object(Vec<(String, Tree)>),
    Array(Vec<Tree>),
    /// Anything else, as it was written.
    Leaf(Box<RawValue>),
}

impl Tree {
    /// Reads JSON; none if it is none.
    pub fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    pub fn object<const N: usize>(members: [(&str, Self); N]) -> Self {
        Self::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Leaf(leaf) => serde_json::from_str(leaf.get()).ok(),
            _ => None,
        }
    }

    /// What is at a JSON Pointer.
    pub fn at(&self, pointer: &str) -> Option<&Self> {
        let mut at = self;
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            at = match at {
                Self::Object(_) => at.get(&part)?,
                Self::Array(items) => items.get(part.parse::<usize>().ok()?)?,
                Self::Leaf(_) => return None,
            };
        }
        Some(at)
    }

    /// The members of what is at `path`, which are made if they are not there.
    pub fn members(&mut self, path: &[&str]) -> &mut Vec<(String, Self)> {
        if !matches!(self, Self::Object(_)) {
            *self = Self::Object(Vec::new());
        }
        let Self::Object(members) = self else { unreachable!("it was made an object") };
        let Some((name, rest)) = path.split_first() else { return members };
        let at = members.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            members.push(((*name).to_owned(), Self::Object(Vec::new())));
            members.len() - 1
        });
        members[at].1.members(rest)
    }
}

impl From<Value> for Tree {
    fn from(value: Value) -> Self {
        match value {
            Value::Object(members) => Self::Object(members.into_iter().map(|(k, v)| (k, v.into())).collect()),
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            leaf => Self::Leaf(serde_json::value::to_raw_value(&leaf).expect("invariant: a value is JSON")),
        }
    }
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Value::from(text).into()
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
            Self::Array(items) => serializer.collect_seq(items),
            Self::Leaf(leaf) => leaf.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match raw.get().as_bytes().first() {
            Some(b'{') => serde_json::from_str(raw.get()).map(|Members(members)| Self::Object(members)),
            Some(b'[') => serde_json::from_str(raw.get()).map(Self::Array),
            _ => return Ok(Self::Leaf(raw)),
        }
        .map_err(D::Error::custom)
    }
}

/// The members of an object, in order.
struct Members(Vec<(String, Tree)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
