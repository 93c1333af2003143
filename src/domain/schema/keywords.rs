//! The drafts of JSON Schema that are read, and the keywords of both below which there are schemas.

/// Keywords whose value is a schema.
pub const ONE: &[&str] = &[
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas.
pub const LIST: &[&str] = &["allOf", "anyOf", "items", "oneOf", "prefixItems"];
/// Keywords whose value has schemas by name.
pub const NAMED: &[&str] =
    &["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// A draft of JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draft {
    /// draft-07
    Seven,
    /// 2020-12, which counts without `$schema`.
    Newest,
}

impl Draft {
    /// The one that a `$schema` names.
    pub fn named(uri: Option<&str>) -> Self {
        if uri.is_some_and(|uri| uri.contains("draft-07")) { Self::Seven } else { Self::Newest }
    }
}
