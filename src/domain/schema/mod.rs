//! Schemas of payloads: JSON Schema 2020-12, and draft-07 where `$schema` says so.
//!
//! A schema is compiled once (`compile`) and then judges payloads (`judge`). Both are pure, and bounded by steps that are
//! counted, never by time: a verdict depends on the schema and the payload alone. Numbers are compared as they are
//! written. `format` and the keywords of content are annotations.

#[cfg(test)]
mod agreement_tests;
pub mod compat;
mod compile;
mod compiled;
pub mod infer;
mod judge;
pub mod keywords;
mod meta;
mod names;
mod number;
mod regex;
#[cfg(test)]
mod tests;
mod tree;

pub use self::compile::{Invalid, InvalidKind};
pub use self::judge::{Refusal, Violation};

/// A compiled schema.
pub struct Schema(compiled::Compiled);

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn compile(text: &str) -> Result<Self, Invalid> {
        compile::compile(text).map(Self)
    }

    /// Judges a payload, a JSON text.
    ///
    /// # Errors
    /// At most 20 violations, or a key that one object of the payload has twice.
    pub fn judge(&self, payload: &str) -> Result<(), Refusal> {
        judge::judge(&self.0, payload)
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Schema").field("schemas", &self.0.nodes.len()).finish()
    }
}
