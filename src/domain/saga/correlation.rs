//! The value that tells which instance of a saga an event is for.

use std::fmt;

use super::json::Json;
use crate::domain::filter::Number;

/// A string, a number or a boolean, of which equal ones have one text: numbers count by their value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Correlation(String);

/// Longest text, in bytes.
const MAX_LENGTH: usize = 1024;

impl Correlation {
    /// Reads a JSON value. None if it is null, an array, an object, or too long.
    pub fn of(json: &str) -> Option<Self> {
        let json = json.trim();
        let text = match json.bytes().next()? {
            b'"' => Json::text(&serde_json::from_str::<String>(json).ok()?).as_str().to_owned(),
            b't' | b'f' => serde_json::from_str::<bool>(json).ok()?.to_string(),
            _ => Number::parse(json)?.to_string(),
        };
        (text.len() <= MAX_LENGTH).then_some(Self(text))
    }

    /// As the store has it.
    pub fn from_store(text: String) -> Self {
        Self(text)
    }

    /// Its JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Correlation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_text() {
        let text = |json: &str| Correlation::of(json).map(|correlation| correlation.to_string());
        for same in ["10", "10.0", "1e1", "100e-1", " 10 "] {
            assert_eq!(text(same).as_deref(), Some("10"), "{same}");
        }
        assert_eq!(text(r#""\u0061""#).as_deref(), Some(r#""a""#));
        assert_eq!([text("-0"), text("0.50"), text("true")], ["0", "0.5", "true"].map(|text| Some(text.to_owned())));
        assert_eq!(text("1e400").as_deref(), Some("1e400"));
        assert_ne!(text("\"10\""), text("10"));
        assert_eq!([text("null"), text("[1]"), text("{}"), text("x")], [None, None, None, None]);
    }
}
