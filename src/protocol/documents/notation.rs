//! The short form in which schemas are written down: see `schemas.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What precedes the description of a type.
const ABOUT: &str = " -- ";

/// The file of schemas.
#[derive(Debug, Deserialize)]
pub struct Schemas {
    scalar: BTreeMap<String, Value>,
    answer: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    request: BTreeMap<String, BTreeMap<String, String>>,
}

impl Schemas {
    /// All schemas as JSON Schemas, by name.
    pub fn expand(&self) -> Map<String, Value> {
        let answers = self.answer.iter().map(|(name, fields)| (name.clone(), object(fields, false)));
        let requests = self.request.iter().map(|(name, fields)| (name.clone(), object(fields, true)));
        let scalars = self.scalar.iter().map(|(name, schema)| (name.clone(), schema.clone()));
        scalars.chain(answers).chain(requests).collect()
    }
}

fn object(fields: &BTreeMap<String, String>, is_request: bool) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    let mut schema = json!({ "type": "object" });
    for (name, text) in fields {
        match (name.as_str(), name.strip_suffix('?')) {
            ("about", _) => schema["description"] = text.as_str().into(),
            ("*", _) => schema["additionalProperties"] = true.into(),
            (_, Some(name)) => {
                let text = if is_request { nullable(text) } else { text.clone() };
                properties.insert(name.to_owned(), described(&text));
            }
            (name, None) => {
                properties.insert(name.to_owned(), described(text));
                required.push(name);
            }
        }
    }
    schema["properties"] = properties.into();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if is_request {
        schema["additionalProperties"] = false.into();
    }
    schema
}

/// The same type, or null.
fn nullable(text: &str) -> String {
    let (kind, about) = text.split_once(ABOUT).unwrap_or((text, ""));
    if about.is_empty() { format!("{kind}|null") } else { format!("{kind}|null{ABOUT}{about}") }
}

/// The JSON Schema of a type and its description.
pub fn described(text: &str) -> Value {
    let (kind, about) = text.split_once(ABOUT).unwrap_or((text, ""));
    let mut schema = schema(kind);
    if !about.is_empty() {
        schema["description"] = about.into();
    }
    schema
}

/// The JSON Schema of a type.
///
/// # Panics
/// When the text is none: it is part of the program.
pub fn schema(text: &str) -> Value {
    let (schema, rest) = union(text.trim());
    assert!(rest.is_empty(), "invariant: {text:?} is a type");
    schema
}

fn union(text: &str) -> (Value, &str) {
    let (first, mut rest) = list(text);
    let mut of = vec![first];
    while let Some(more) = rest.strip_prefix('|') {
        let (next, left) = list(more);
        of.push(next);
        rest = left;
    }
    (any_of(of), rest)
}

fn any_of(mut of: Vec<Value>) -> Value {
    let is_any = |schema: &Value| schema.as_object().is_some_and(Map::is_empty);
    if of.iter().any(is_any) {
        return json!({});
    }
    if of.len() == 1 {
        return of.remove(0);
    }
    match (alone(&of, "const"), alone(&of, "type")) {
        (Some(literals), _) => json!({ "enum": literals }),
        (_, Some(types)) if types.iter().all(|kind| kind.is_string()) => json!({ "type": types }),
        _ => json!({ "anyOf": of }),
    }
}

/// The values of `key`, if every schema has that and nothing else.
fn alone<'a>(of: &'a [Value], key: &str) -> Option<Vec<&'a Value>> {
    of.iter()
        .map(|schema| schema.get(key).filter(|_| schema.as_object().is_some_and(|schema| schema.len() == 1)))
        .collect()
}

fn list(text: &str) -> (Value, &str) {
    let (mut schema, mut rest) = single(text);
    while let Some(more) = rest.strip_prefix("[]") {
        schema = json!({ "type": "array", "items": schema });
        rest = more;
    }
    (schema, rest)
}

fn single(text: &str) -> (Value, &str) {
    if let Some(rest) = text.strip_prefix('\'') {
        let (literal, rest) = rest.split_once('\'').expect("invariant: a literal ends");
        return (json!({ "const": literal }), rest);
    }
    if let Some(rest) = text.strip_prefix('(') {
        let (schema, rest) = union(rest);
        return (schema, rest.strip_prefix(')').expect("invariant: a parenthesis is closed"));
    }
    if let Some(rest) = text.strip_prefix('{') {
        let (schema, rest) = union(rest);
        let rest = rest.strip_prefix('}').expect("invariant: a brace is closed");
        return (json!({ "type": "object", "additionalProperties": schema }), rest);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let schema = match name {
        "id" => json!({ "type": "integer", "format": "int64", "minimum": 0 }),
        "natural" => json!({ "type": "integer", "minimum": 0 }),
        "text" => json!({ "type": "string" }),
        "time" => json!({ "type": "string", "format": "date-time" }),
        "uuid" => json!({ "type": "string", "format": "uuid" }),
        "integer" | "number" | "boolean" | "object" | "null" => json!({ "type": name }),
        "any" => json!({}),
        name => json!({ "$ref": format!("#/components/schemas/{name}") }),
    };
    (schema, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_a_schema() {
        let event = json!({ "$ref": "#/components/schemas/Event" });
        for (text, expected) in [
            ("text", json!({ "type": "string" })),
            ("text|null", json!({ "type": ["string", "null"] })),
            ("'a'|'b'", json!({ "enum": ["a", "b"] })),
            ("'a'", json!({ "const": "a" })),
            ("Event[]", json!({ "type": "array", "items": event })),
            ("Event|null", json!({ "anyOf": [event, { "type": "null" }] })),
            (
                "(text|null)[][]",
                json!({ "type": "array", "items": { "type": "array", "items": { "type": ["string", "null"] } } }),
            ),
            ("{text}", json!({ "type": "object", "additionalProperties": { "type": "string" } })),
            ("any|null", json!({})),
        ] {
            assert_eq!(schema(text), expected, "{text}");
        }
        assert_eq!(described("any -- Whatever."), json!({ "description": "Whatever." }));
    }

    #[test]
    fn optional_fields_of_requests_may_be_null_and_others_not() {
        let fields = |fields: &[(&str, &str)]| fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let fields: BTreeMap<_, _> = fields(&[("a", "text"), ("b?", "natural -- How many."), ("about", "It.")]);
        let request = object(&fields, true);
        assert_eq!(request["required"], json!(["a"]));
        assert_eq!(request["description"], "It.");
        assert_eq!(request["additionalProperties"], false);
        assert_eq!(request["properties"]["b"]["description"], "How many.");
        assert_eq!(request["properties"]["b"]["anyOf"][1], json!({ "type": "null" }));
        assert!(object(&fields, false).get("additionalProperties").is_none());
    }
}
