//! The official test suite of JSON Schema, as it is kept in `tests/data`: read by the tests of the evaluator and by those of
//! publishing.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Cases that share a schema.
#[derive(Deserialize)]
pub struct Group {
    pub description: String,
    schema: Box<RawValue>,
    pub tests: Vec<Case>,
}

/// An instance, and whether it is valid.
#[derive(Deserialize)]
pub struct Case {
    pub description: String,
    pub data: Box<RawValue>,
    pub valid: bool,
}

/// Groups of the suite that are left out are those that this message refuses, for this reason.
const EXCLUDED: &[(&str, &str)] = &[
    ("`http://localhost:1234/", "nothing outside of the schema is read but the meta-schemas of both drafts"),
    ("neither 2020-12 nor draft-07", "vocabularies of one's own are not supported"),
];

/// The groups of a draft, by file.
pub fn read(text: &str) -> BTreeMap<String, Vec<Group>> {
    serde_json::from_str(text).expect("the suite")
}

/// Whether a group that is refused so is left out.
pub fn is_excluded(refused: &str) -> bool {
    EXCLUDED.iter().any(|(message, _)| refused.contains(message))
}

impl Group {
    /// The schema, which says of which draft it is.
    pub fn schema_text(&self, draft: &str) -> String {
        let mut text = self.schema.get().to_owned();
        if text.starts_with('{') && !text.contains("\"$schema\"") {
            let comma = if text.trim_end().ends_with("{}") { "" } else { "," };
            text.insert_str(1, &format!("\"$schema\":\"{draft}\"{comma}"));
        }
        text
    }
}
