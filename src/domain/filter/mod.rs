//! Filters on payload fields, in the style of EventBridge patterns.
//!
//! A filter is a JSON object: every field named in it has to hold, a list holds if one of its alternatives does, and
//! an object under a field asks for fields of the object there. An array in a payload holds if one of its elements
//! does; under a nested object, one element has to have all that is asked for.
//!
//! - FL-1 exact: numbers are compared as the decimals they are, however long (`1` is `1.0`, `1e400` is nothing else).
//! - FL-2 bounded: text, depth and conditions of a filter are limited, so a look at a payload costs no more than
//!   reading it once and trying each condition.
//! - FL-3 the last of several fields with one name counts, as it does to most readers of JSON.

mod anchors;
mod canonical;
mod condition;
mod document;
mod number;
mod parse;
mod scan;
mod set;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;

pub use self::anchors::FilterId;
use self::condition::Fields;
use self::document::{Paths, Values, pick};
pub use self::number::Number;
pub use self::set::{Candidates, FilterSet};

/// Longest text of a filter, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;
/// Objects in objects, the filter itself being the first.
pub const MAX_DEPTH: usize = 8;
/// Conditions in one filter.
pub const MAX_CONDITIONS: usize = 256;

/// Elements of arrays that are looked at in one payload; those behind them count as absent.
pub const MAX_ELEMENTS: usize = 1_024;

/// The name under which alternatives stand.
const OR: &str = "$or";

/// A filter, compiled; cheap to clone. Equal if compiled to the same, however it is written.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    json: Box<str>,
    canonical: Box<str>,
    fields: Fields,
    paths: Paths,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FilterError {
    /// Where the mistake is: `filter.price[0].numeric[1]`.
    pub path: String,
    pub message: String,
}

/// A condition that a payload does not fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Of the field, from the filter on: `filter.customer.tier`.
    pub path: String,
    pub reason: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl Filter {
    /// Reads a filter from its JSON text.
    pub fn parse(json: &str) -> Result<Self, FilterError> {
        let (json, fields) = parse::parse(json)?;
        let (canonical, paths) = (canonical::canonical(&fields), fields.paths());
        Ok(Self(Arc::new(Compiled { json, canonical, fields, paths })))
    }

    /// The filter as it was written, without white space.
    pub fn as_json(&self) -> &str {
        &self.0.json
    }

    /// Whether `payload`, a JSON text, passes.
    pub fn matches(&self, payload: &str) -> bool {
        self.0.fields.pass_any(&pick(payload, &[&self.0.paths]))
    }

    /// The first condition that `payload` does not fulfil; none if it passes.
    pub fn first_failure(&self, payload: &str) -> Option<Failure> {
        let values = pick(payload, &[&self.0.paths]);
        let (path, reason) = self.0.fields.first_failure(&values, parse::ROOT)?;
        Some(Failure { path, reason })
    }

    /// How many conditions it has.
    pub fn conditions(&self) -> usize {
        self.0.fields.conditions()
    }

    fn passes(&self, values: &Values<'_>) -> bool {
        self.0.fields.pass_any(values)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.canonical == other.0.canonical
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.canonical.hash(state);
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.json)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.json)
    }
}

/// What several filters look at in one payload, read once.
#[derive(Debug)]
pub struct Document<'a>(Values<'a>);

impl<'a> Document<'a> {
    /// Reads `payload`, a JSON text, for `filters`.
    pub fn for_filters<'f>(payload: &'a str, filters: impl Iterator<Item = &'f Filter>) -> Self {
        let wanted: SmallVec<[&Paths; 8]> = filters.map(|filter| &filter.0.paths).collect();
        Self(pick(payload, &wanted))
    }

    /// Reads `payload`, a JSON text, for `sets`.
    pub fn for_sets<'s>(payload: &'a str, sets: impl Iterator<Item = &'s FilterSet>) -> Self {
        let wanted: SmallVec<[&Paths; 8]> = sets.map(FilterSet::paths).collect();
        Self(pick(payload, &wanted))
    }

    /// Whether it passes `filter`, which has to be one of those that it was read for.
    pub fn passes(&self, filter: &Filter) -> bool {
        filter.passes(&self.0)
    }
}
