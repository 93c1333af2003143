//! JSON objects whose values stay text until their field is known.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::error::{ApiError, ErrorCode};

/// The fields of a JSON object, in order, each value as its exact text.
#[derive(Debug)]
pub struct RawObject<'a> {
    fields: SmallVec<[(Cow<'a, str>, &'a RawValue); 8]>,
}

/// JSON text without the byte order mark that some programs write before it.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

impl<'a> RawObject<'a> {
    /// Reads one JSON object. Anything else is [`ErrorCode::MalformedJson`] or, if it is valid JSON,
    /// [`ErrorCode::InvalidField`] of `what`.
    pub fn parse(json: &'a [u8], what: &str) -> Result<Self, ApiError> {
        let json = without_bom(json);
        serde_json::from_slice(json).map_err(|error| {
            let is_json = || serde_json::from_slice::<&RawValue>(json).is_ok();
            if error.is_data() && is_json() {
                ApiError::field(ErrorCode::InvalidField, what, "must be a JSON object")
            } else {
                ApiError::new(ErrorCode::MalformedJson, format!("not valid JSON: {error}"))
            }
        })
    }

    /// Of these fields, each with the JSON text of its value.
    pub fn of(fields: impl Iterator<Item = (&'a str, &'a RawValue)>) -> Self {
        Self { fields: fields.map(|(name, value)| (Cow::Borrowed(name), value)).collect() }
    }

    /// Refuses fields given twice and, when `strict`, fields not in `known`.
    pub fn check(&self, known: &[&str], strict: bool) -> Result<(), ApiError> {
        if strict && let Some((name, _)) = self.fields.iter().find(|(name, _)| !known.contains(&&**name)) {
            return Err(ApiError::unknown(ErrorCode::UnknownField, name, known));
        }
        match self.repeated() {
            Some(name) => Err(ApiError::field(ErrorCode::DuplicateField, name, "given twice")),
            None => Ok(()),
        }
    }

    /// A field that is given twice. Takes linear time, however many fields there are.
    pub fn repeated<'s>(&'s self) -> Option<&'s str> {
        let mut names = self.fields.iter().map(|(name, _)| &**name).enumerate();
        let mut seen = HashSet::new();
        let mut is_repeated = |&(k, name): &(usize, &'s str)| match self.fields.spilled() {
            true => !seen.insert(name),
            false => self.fields[..k].iter().any(|(earlier, _)| earlier == name),
        };
        names.find(|field| is_repeated(field)).map(|(_, name)| name)
    }

    /// All fields, each value as its exact text.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.fields.iter().map(|(name, value)| (&**name, value.get()))
    }

    /// The exact text of a field's value.
    pub fn raw(&self, field: &str) -> Option<&'a str> {
        self.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.get())
    }

    /// A string field; absent and `null` are the same.
    pub fn text(&self, field: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
        match self.raw(field) {
            None | Some("null") => Ok(None),
            Some(raw) => match serde_json::from_str::<Text<'a>>(raw) {
                Ok(Text(text)) => Ok(Some(text)),
                Err(_) => Err(ApiError::field(ErrorCode::InvalidField, field, "must be a string")),
            },
        }
    }

    /// A string field that must be there.
    pub fn required_text(&self, field: &str) -> Result<Cow<'a, str>, ApiError> {
        self.text(field)?.ok_or_else(|| ApiError::field(ErrorCode::MissingField, field, "is required"))
    }
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawObject<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = SmallVec::new();
                while let Some(Text(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(RawObject { fields })
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A string, borrowed from the input where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;

        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrowing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(json: &str) -> ErrorCode {
        RawObject::parse(json.as_bytes(), "body").expect_err("refused").code()
    }

    #[test]
    fn keeps_the_exact_text_of_values() {
        let json = r#"{"a": {"b":1e400, "a":[12345678901234567890123]} ,"t":"x\u0041"}"#;
        let object = RawObject::parse(json.as_bytes(), "body").expect("an object");
        assert_eq!(object.raw("a"), Some(r#"{"b":1e400, "a":[12345678901234567890123]}"#));
        assert_eq!(object.text("t").expect("a string").as_deref(), Some("xA"));
        assert_eq!(object.text("absent"), Ok(None));
    }

    #[test]
    fn tells_malformed_from_misplaced() {
        assert_eq!(code("{"), ErrorCode::MalformedJson);
        assert_eq!(code(""), ErrorCode::MalformedJson);
        assert_eq!(code("{}{}"), ErrorCode::MalformedJson);
        assert_eq!(code("[1]"), ErrorCode::InvalidField);
        assert_eq!(code("\"text\""), ErrorCode::InvalidField);
        assert_eq!(code("[1"), ErrorCode::MalformedJson);
    }

    #[test]
    fn survives_deep_nesting() {
        let json = format!(r#"{{"payload":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let object = RawObject::parse(json.as_bytes(), "body").expect("an object");
        assert_eq!(object.raw("payload").map(str::len), Some(200_000));
    }

    #[test]
    fn refuses_unknown_and_repeated_fields() {
        let check = |json: &str, strict| {
            let object = RawObject::parse(json.as_bytes(), "body").expect("an object");
            object.check(&["a", "b"], strict).map_err(|e| e.code())
        };
        assert_eq!(check(r#"{"a":1,"c":2}"#, true), Err(ErrorCode::UnknownField));
        assert_eq!(check(r#"{"a":1,"c":2}"#, false), Ok(()));
        assert_eq!(check(r#"{"a":1,"a":2}"#, true), Err(ErrorCode::DuplicateField));
        let many: Vec<String> = (0..100_000).map(|k| format!(r#""{k}":0"#)).collect();
        assert_eq!(check(&format!("{{{}}}", many.join(",")), false), Ok(()));
        assert_eq!(check(&format!(r#"{{{},"7":1}}"#, many.join(",")), false), Err(ErrorCode::DuplicateField));
    }
}
