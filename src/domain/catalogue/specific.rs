//! Which of two patterns that match the same name is the more specific one.

use std::cmp::Reverse;

use crate::domain::pattern::{Pattern, stem};

/// The rank of a pattern: of those that match the same name, the least is the most specific. Segments are compared from
/// the left, and the first difference decides: a name before `x:*`, a longer `x:*` before a shorter one, then `*`, then
/// `>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Specificity(Vec<(u8, Reverse<usize>)>);

impl Specificity {
    pub fn of(pattern: &Pattern) -> Self {
        let rank = |segment: &str| match (segment, stem(segment)) {
            (">", _) => (3, Reverse(0)),
            ("*", _) => (2, Reverse(0)),
            (_, Some(stem)) => (1, Reverse(stem.len())),
            _ => (0, Reverse(0)),
        };
        Self(pattern.segments().map(rank).collect())
    }
}
