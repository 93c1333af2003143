//! Proposes a schema from payloads that were seen. Each of them is valid under it; what others look like, it guesses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use url::Url;

/// Names of one object that are told apart; those beyond are taken together.
const MAX_NAMES: usize = 500;
/// Different texts that an enumeration is made of at most.
const MAX_LISTED: usize = 8;
/// How often each text of an enumeration has to be there, on average.
const SEEN_EACH: u64 = 5;
/// Bytes of a text that may be one of an enumeration, or an example.
const MAX_TEXT: usize = 64;
const MAX_EXAMPLES: usize = 3;

/// Proposes a schema. Returns as well how many payloads were left out, because a number or a text in them cannot be held.
pub fn infer<'a>(payloads: impl Iterator<Item = &'a str>) -> (Value, usize) {
    let (mut seen, mut left_out) = (Seen::default(), 0);
    for payload in payloads {
        match serde_json::from_str(payload) {
            Ok(value) => seen.add(&value),
            Err(_) => left_out += 1,
        }
    }
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.append(&mut seen.schema());
    (Value::Object(schema), left_out)
}

/// The values at one place.
#[derive(Default)]
struct Seen {
    nulls: u64,
    booleans: u64,
    integers: u64,
    fractions: u64,
    strings: Strings,
    objects: u64,
    names: BTreeMap<String, (u64, Seen)>,
    /// Values of names beyond those that are told apart.
    others: Option<Box<Seen>>,
    arrays: u64,
    elements: Option<Box<Seen>>,
    examples: Vec<Value>,
}

#[derive(Default)]
struct Strings {
    count: u64,
    /// The different ones, until they are too many or one is too long.
    listed: BTreeSet<String>,
    are_many: bool,
    /// Whether each format has not suited all of them.
    unsuited: [bool; FORMATS.len()],
}

/// Whether a text looks like a format.
type Suits = fn(&str) -> bool;

/// Formats by name.
const FORMATS: [(&str, Suits); 6] = [
    ("date-time", is_date_time),
    ("date", is_date),
    ("uuid", is_uuid),
    ("email", is_email),
    ("ipv4", is_ipv4),
    ("uri", is_uri),
];

impl Seen {
    fn add(&mut self, value: &Value) {
        match value {
            Value::Null => self.nulls += 1,
            Value::Bool(_) => self.booleans += 1,
            Value::Number(number) if number.is_f64() => self.fractions += 1,
            Value::Number(_) => self.integers += 1,
            Value::String(text) => self.strings.add(text),
            Value::Array(elements) => {
                self.arrays += 1;
                let seen = self.elements.get_or_insert_default();
                elements.iter().for_each(|element| seen.add(element));
            }
            Value::Object(members) => {
                self.objects += 1;
                for (name, value) in members {
                    self.add_member(name, value);
                }
            }
        }
        let is_short = match value {
            Value::String(text) => text.len() <= MAX_TEXT,
            _ => value.is_number(),
        };
        if is_short && self.examples.len() < MAX_EXAMPLES && !self.examples.contains(value) {
            self.examples.push(value.clone());
        }
    }

    fn add_member(&mut self, name: &str, value: &Value) {
        if !self.names.contains_key(name) && self.names.len() == MAX_NAMES {
            return self.others.get_or_insert_default().add(value);
        }
        let (count, seen) = self.names.entry(name.to_owned()).or_default();
        *count += 1;
        seen.add(value);
    }

    fn schema(self) -> Map<String, Value> {
        let number = if self.fractions > 0 { "number" } else { "integer" };
        let types: Vec<&str> = [
            (self.nulls, "null"),
            (self.booleans, "boolean"),
            (self.integers + self.fractions, number),
            (self.strings.count, "string"),
            (self.arrays, "array"),
            (self.objects, "object"),
        ]
        .into_iter()
        .filter_map(|(count, name)| (count > 0).then_some(name))
        .collect();
        let mut schema = Map::new();
        let mut put = |keyword: &str, value: Value| {
            schema.insert(keyword.to_owned(), value);
        };
        match types[..] {
            [] => return schema,
            [name] => put("type", json!(name)),
            _ => put("type", json!(types)),
        }
        let listed = self.strings.enumeration().filter(|_| types == ["string"]);
        if let Some(format) = self.strings.format() {
            put("format", json!(format));
        } else if let Some(listed) = &listed {
            put("enum", json!(listed));
        }
        if listed.is_none() && !self.examples.is_empty() {
            put("examples", json!(self.examples));
        }
        if let Some(elements) = self.elements {
            put("items", Value::Object(elements.schema()));
        }
        if self.objects > 0 {
            let always = self.names.iter().filter(|(_, (count, _))| *count == self.objects).map(|(name, _)| name);
            let required: Vec<&String> = always.collect();
            if !required.is_empty() {
                put("required", json!(required));
            }
            let properties = self.names.into_iter().map(|(name, (_, seen))| (name, Value::Object(seen.schema())));
            put("properties", Value::Object(properties.collect()));
        }
        if let Some(others) = self.others {
            put("additionalProperties", Value::Object(others.schema()));
        }
        schema
    }
}

impl Strings {
    fn add(&mut self, text: &str) {
        self.count += 1;
        for ((_, suits), unsuited) in FORMATS.iter().zip(&mut self.unsuited) {
            *unsuited = *unsuited || !suits(text);
        }
        if !self.are_many {
            self.are_many = text.len() > MAX_TEXT;
            self.listed.insert(text.to_owned());
            self.are_many |= self.listed.len() > MAX_LISTED;
        }
    }

    fn format(&self) -> Option<&'static str> {
        let suited = FORMATS.iter().zip(self.unsuited).find(|(_, unsuited)| !unsuited);
        suited.filter(|_| self.count > 0).map(|((name, _), _)| *name)
    }

    /// The texts, if they are few and came often.
    fn enumeration(&self) -> Option<&BTreeSet<String>> {
        let is_often = self.count >= self.listed.len() as u64 * SEEN_EACH;
        (!self.are_many && is_often && self.format().is_none() && self.count > 0).then_some(&self.listed)
    }
}

/// Whether a text has the form of another one, in which `0` stands for a digit and `h` for a hexadecimal one.
fn has_form(text: &str, form: &str) -> bool {
    let suits = |(byte, form): (u8, u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b'h' => byte.is_ascii_hexdigit(),
        _ => byte == form,
    };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(suits)
}

fn is_date(text: &str) -> bool {
    has_form(text, "0000-00-00")
}

fn is_date_time(text: &str) -> bool {
    let (Some(begin), Some(rest)) = (text.get(..19), text.get(19..)) else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    has_form(begin, "0000-00-00T00:00:00") && (zone == "Z" || has_form(zone, "+00:00") || has_form(zone, "-00:00"))
}

fn is_uuid(text: &str) -> bool {
    has_form(text, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh")
}

fn is_email(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.contains(['@', ' ', '"']);
    text.split_once('@').is_some_and(|(name, host)| is_part(name) && is_part(host) && host.contains('.'))
}

fn is_ipv4(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok()
}

fn is_uri(text: &str) -> bool {
    text.contains("://") && Url::parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::Schema;
    use super::*;

    fn of(payloads: &[Value]) -> Value {
        let texts: Vec<String> = payloads.iter().map(Value::to_string).collect();
        let (schema, left_out) = infer(texts.iter().map(String::as_str));
        assert_eq!(left_out, 0);
        let compiled = Schema::compile(&schema.to_string()).unwrap();
        for text in &texts {
            assert_eq!(compiled.judge(text), Ok(()), "{schema}");
        }
        let Value::Object(mut schema) = schema else { unreachable!() };
        assert!(schema.remove("$schema").is_some());
        Value::Object(schema)
    }

    #[test]
    fn types_required_names_formats_and_enumerations_are_proposed() {
        let payloads: Vec<Value> = (0..20)
            .map(|number| {
                let mut payload = json!({
                    "id": format!("00000000-0000-4000-8000-0000000000{number:02}"),
                    "at": format!("2026-11-29T00:00:{number:02}.5Z"),
                    "state": if number % 2 == 0 { "open" } else { "closed" },
                    "amount": if number == 7 { json!(1.5) } else { json!(1) },
                    "lines": [{"count": 1}, {"count": 2, "note": null}],
                });
                if number == 3 {
                    payload["note"] = json!("seldom");
                }
                payload
            })
            .collect();
        assert_eq!(
            of(&payloads),
            json!({
                "type": "object",
                "required": ["amount", "at", "id", "lines", "state"],
                "properties": {
                    "id": {"type": "string", "format": "uuid", "examples": [
                        "00000000-0000-4000-8000-000000000000",
                        "00000000-0000-4000-8000-000000000001",
                        "00000000-0000-4000-8000-000000000002",
                    ]},
                    "at": {"type": "string", "format": "date-time", "examples": [
                        "2026-11-29T00:00:00.5Z", "2026-11-29T00:00:01.5Z", "2026-11-29T00:00:02.5Z",
                    ]},
                    "state": {"type": "string", "enum": ["closed", "open"]},
                    "amount": {"type": "number", "examples": [1, 1.5]},
                    "note": {"type": "string", "examples": ["seldom"]},
                    "lines": {"type": "array", "items": {
                        "type": "object",
                        "required": ["count"],
                        "properties": {"count": {"type": "integer", "examples": [1, 2]}, "note": {"type": "null"}},
                    }},
                },
            })
        );
    }

    #[test]
    fn what_differs_is_taken_together() {
        assert_eq!(of(&[]), json!({}));
        assert_eq!(
            of(&[json!(null), json!(true), json!([])]),
            json!({"type": ["null", "boolean", "array"], "items": {}})
        );
        let many: Value =
            (0..600).map(|number| (format!("name{number:03}"), json!(number))).collect::<Map<_, _>>().into();
        let schema = of(&[many]);
        assert_eq!(schema["properties"].as_object().unwrap().len(), MAX_NAMES);
        assert_eq!(schema["additionalProperties"]["type"], "integer");
        assert_eq!(of(&[json!("a@b.c"), json!("x")])["format"], Value::Null);
    }

    #[test]
    fn formats_are_known_by_their_form() {
        for (format, text) in [
            ("date-time", "2026-11-29T04:00:00+01:00"),
            ("date", "2026-11-29"),
            ("email", "a.b@example.org"),
            ("ipv4", "127.0.0.1"),
            ("uri", "https://example.org/a"),
        ] {
            assert_eq!(of(&[json!(text)])["format"], format, "{text}");
        }
        for text in ["2026-11-29T04:00:00", "2026-11-29T04:00:00.Z", "é026-11-29T04:00:0", "@", "12"] {
            assert_eq!(of(&[json!(text)])["format"], Value::Null, "{text}");
        }
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let (schema, left_out) = infer(["1", "1e400", r#""\ud800""#, "2"].into_iter());
        assert_eq!((&schema["type"], left_out), (&json!("integer"), 2));
    }
}
