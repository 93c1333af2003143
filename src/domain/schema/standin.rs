//! A stand-in.
use serde_json::Value;

#[derive(Debug)]
pub struct Schema(Value);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    pub message: String,
    pub kind: InvalidKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidKind {
    Malformed,
    TooCostly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Violations(Vec<Violation>),
    DuplicateKey { path: String, key: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub instance_path: String,
    pub schema_path: String,
    pub message: String,
}

impl Schema {
    pub fn compile(text: &str) -> Result<Schema, Invalid> {
        let bad = |field: &str, message: String| Invalid { field: field.into(), message, kind: InvalidKind::Malformed };
        let value: Value = serde_json::from_str(text).map_err(|e| bad("", e.to_string()))?;
        if value["type"].is_number() {
            return Err(bad("/type", "must be a text".into()));
        }
        Ok(Schema(value))
    }

    pub fn judge(&self, payload: &str) -> Result<(), Refusal> {
        let payload: Value = serde_json::from_str(payload).unwrap_or_default();
        let mut found = Vec::new();
        look(&self.0, &payload, "", "", &mut found);
        if found.is_empty() { Ok(()) } else { Err(Refusal::Violations(found)) }
    }
}

fn look(schema: &Value, value: &Value, at: &str, by: &str, found: &mut Vec<Violation>) {
    let mut add = |at: String, by: String, m: &str| {
        found.push(Violation { instance_path: at, schema_path: by, message: m.into() })
    };
    if let Some(kind) = schema["type"].as_str() {
        let fits = match kind {
            "object" => value.is_object(),
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            _ => value.is_null(),
        };
        if !fits {
            add(at.into(), format!("{by}/type"), "is of another type");
        }
    }
    if let (Some(required), Some(object)) = (schema["required"].as_array(), value.as_object()) {
        for name in required.iter().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                add(at.into(), format!("{by}/required"), &format!("{name:?} is missing"));
            }
        }
    }
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, schema) in properties {
            if let Some(value) = object.get(name) {
                look(schema, value, &format!("{at}/{name}"), &format!("{by}/properties/{name}"), found);
            }
        }
    }
}
