//! Whether a new version of a schema is compatible with the old one: a question about all payloads, not about texts.
//!
//! `backward`: every payload that is valid under the old schema is valid under the new one. `forward`: the reverse.
//! Unless the comparison is strict, only payloads count all of whose properties are named by the schema they were written
//! for, at every depth; so an optional property may be added. A property is named by `properties`, `required` or
//! `dependentRequired` of any schema that looks at its object, also in an alternative that was not taken; what a pattern,
//! a schema for all other properties or one that is not known (`$dynamicRef`) speaks of counts as named too.
//!
//! - CP-1 sound: what is found compatible is. What cannot be decided is not compatible, by the rule `not_decided`, which
//!   says what it is that stands in the way.
//! - CP-2 a witness proves it: each is judged under both versions before it is given.
//! - CP-3 bounded: work is counted in steps, so the answer depends on the schemas alone.
//! - CP-4 annotations (`description`, `default`, `format`, …) and the order of things never matter.
//!
//! The new schema is taken as a list of demands (`include`), the old one as what is known of its payloads (`shape`).
//! Decided are both drafts, references and recursion, types, numbers, lengths, sizes, enumerations, properties, elements,
//! dependencies, and alternatives of which each takes what one of the old ones took. Patterns are compared as texts;
//! `not`, `contains` and `if` as far as one schema includes the other; `unevaluatedItems` and `$dynamicRef` as texts.

mod arrays;
mod document;
mod elements;
mod empty;
mod include;
mod names;
mod number;
mod objects;
mod pattern;
mod properties;
mod ranges;
mod rules;
mod same;
mod sample;
mod scalar;
mod shape;
#[cfg(test)]
mod tests;
mod valid;
mod work;

use serde_json::Value;

use self::document::{Document, Node};
use self::include::{Comparer, Finding};
use self::number::rounded;
use self::shape::Part;

/// Which payloads have to be valid under which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compatibility {
    /// Those of the old one under the new one: who reads the new version understands what is stored.
    #[default]
    Backward,
    /// Those of the new one under the old one: who still reads the old version understands what is new.
    Forward,
    /// Both.
    Full,
    /// None.
    None,
}

/// Why a version is not compatible.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// A JSON Pointer into the new schema.
    pub path: String,
    /// The rule that is broken, by its name in the API.
    pub rule: &'static str,
    /// What is the matter, in words.
    pub message: String,
    /// A payload that is valid under the version it was written for and not under the other one.
    pub witness: Option<Value>,
}

/// What is between two versions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// Why they are not compatible, if only payloads count all of whose properties are named. None: they are.
    pub reasons: Vec<Reason>,
    /// The same, if all payloads count.
    pub strict_reasons: Vec<Reason>,
}

/// Reasons that are given.
const MAX_REASONS: usize = 100;

/// Compares two versions of a schema by their JSON texts; both have to be valid ones.
pub fn compare_texts(old: &str, new: &str, how: Compatibility) -> Comparison {
    if old == new || how == Compatibility::None {
        return Comparison::default();
    }
    let read = |text| serde_json::from_str::<Value>(text);
    match (rounded(new).or_else(|| rounded(old)), read(old), read(new)) {
        (None, Ok(old), Ok(new)) => compare(&old, &new, how),
        (Some(number), ..) => undecided("", &format!("the number {number}, which is not reckoned with exactly,")),
        (None, ..) => undecided("", "a schema that is not understood"),
    }
}

/// Whether two JSON texts of schemas say the same, as can be seen without a comparison of what they mean.
pub fn is_same(old: &str, new: &str) -> bool {
    let read = |text| serde_json::from_str::<Value>(text).ok().filter(|_| rounded(text).is_none());
    old == new || read(old).is_some_and(|old| Some(old) == read(new))
}

/// Compares two versions of a schema; both have to be valid ones, without numbers that were rounded.
pub(super) fn compare(old: &Value, new: &Value, how: Compatibility) -> Comparison {
    let mut comparison = Comparison::default();
    if old == new {
        return comparison;
    }
    let (old, new) = match (Document::read(old), Document::read(new)) {
        (Ok(old), Ok(new)) => (old, new),
        (_, Err(pointer)) => return undecided(&pointer, "another `$schema`"),
        (Err(_), _) => return undecided("", "another `$schema` in the old version"),
    };
    let (old, new) = (old.node(), new.node());
    for (strict, reasons) in [(false, &mut comparison.reasons), (true, &mut comparison.strict_reasons)] {
        if matches!(how, Compatibility::Backward | Compatibility::Full) {
            reasons.extend(reasons_of(&old, &new, strict, true));
        }
        if matches!(how, Compatibility::Forward | Compatibility::Full) {
            reasons.extend(reasons_of(&new, &old, strict, false));
        }
    }
    comparison
}

fn undecided(path: &str, what: &str) -> Comparison {
    let message = format!("not decided: {what} at {}", if path.is_empty() { "the root" } else { path });
    let reason = Reason { path: path.to_owned(), rule: rules::NOT_DECIDED.0, message, witness: None };
    Comparison { reasons: vec![reason.clone()], strict_reasons: vec![reason] }
}

/// Why not all that is valid under one schema is so under the other.
fn reasons_of<'a>(from: &Node<'a>, into: &Node<'a>, strict: bool, backward: bool) -> Vec<Reason> {
    let mut comparer = Comparer::new(strict, backward);
    let found = comparer.include(&[Part::Valid(from.clone())], std::slice::from_ref(from), into);
    let Ok(found) = found else {
        return undecided("", "the comparison is too much work").reasons;
    };
    let mut reasons: Vec<Reason> = Vec::new();
    for finding in found {
        let reason = reason(finding, from, into, backward);
        if !reasons.iter().any(|known| known.path == reason.path && known.rule == reason.rule) {
            reasons.push(reason);
        }
        if reasons.len() == MAX_REASONS {
            break;
        }
    }
    reasons
}

fn reason(finding: Finding, from: &Node<'_>, into: &Node<'_>, backward: bool) -> Reason {
    let Finding { path, keyword, rule, message, is_decided, witnesses } = finding;
    let mut work = work::Work::new();
    let mut shows = |payload: &Value| {
        valid::valid(payload, from, &mut work) == Some(true) && valid::valid(payload, into, &mut work) == Some(false)
    };
    let witness = witnesses.into_iter().find(|payload| shows(payload));
    if !is_decided && witness.is_none() {
        let what = if keyword.is_empty() { "what is there".to_owned() } else { format!("`{keyword}`") };
        let path_shown = if path.is_empty() { "the root" } else { &path };
        let message = format!("not decided: {what} at {path_shown}");
        return Reason { path, rule: rules::NOT_DECIDED.0, message, witness };
    }
    let rule = if backward { rule.0 } else { rule.1 };
    Reason { path, rule, message, witness }
}
