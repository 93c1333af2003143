//! Types, ranges of numbers, and how many.

use serde_json::Value;

use super::number::Decimal;

/// A set of JSON's types; whole numbers and fractions are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(2);
    pub(super) const INTEGER: Self = Self(4);
    pub(super) const FRACTION: Self = Self(8);
    pub(super) const STRING: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);
    pub(super) const NUMBER: Self = Self(4 | 8);
    pub(super) const ALL: Self = Self(127);
    pub(super) const NONE: Self = Self(0);
    /// Each type alone, with the name that tells it best.
    pub(super) const EACH: [(Self, &'static str); 7] = [
        (Self::NULL, "null"),
        (Self::BOOLEAN, "boolean"),
        (Self::INTEGER, "integer"),
        (Self::FRACTION, "number"),
        (Self::STRING, "string"),
        (Self::ARRAY, "array"),
        (Self::OBJECT, "object"),
    ];

    /// What a `type` allows.
    pub(super) fn of(keyword: &Value) -> Self {
        let one = |name: &Value| match name.as_str() {
            Some("null") => Self::NULL,
            Some("boolean") => Self::BOOLEAN,
            Some("integer") => Self::INTEGER,
            Some("number") => Self::NUMBER,
            Some("string") => Self::STRING,
            Some("array") => Self::ARRAY,
            Some("object") => Self::OBJECT,
            _ => Self::NONE,
        };
        match keyword {
            Value::Array(names) => names.iter().map(one).fold(Self::NONE, Self::or),
            name => one(name),
        }
    }

    /// The type of a value. Nothing for a number that cannot be told.
    pub(super) fn of_value(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
            Value::Number(_) if Decimal::of(value)?.is_integer() => Self::INTEGER,
            Value::Number(_) => Self::FRACTION,
        })
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn meets(self, other: Self) -> bool {
        !self.and(other).is_empty()
    }

    pub(super) fn bits(self) -> usize {
        self.0.into()
    }

    /// The types in words.
    pub(super) fn names(self) -> String {
        let whole_only = !self.meets(Self::FRACTION);
        let told = |(of, _): &&(Self, &str)| self.meets(*of) && (*of != Self::INTEGER || whole_only);
        Self::EACH.iter().filter(told).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// Where numbers lie: bounds, and whether the bound itself is outside.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Range {
    pub(super) least: Option<(Decimal, bool)>,
    pub(super) most: Option<(Decimal, bool)>,
}

impl Range {
    pub(super) fn at_least(&mut self, bound: Decimal, excluded: bool) {
        let is_tighter =
            |(least, was_excluded): (Decimal, bool)| bound > least || bound == least && excluded && !was_excluded;
        if self.least.is_none_or(is_tighter) {
            self.least = Some((bound, excluded));
        }
    }

    pub(super) fn at_most(&mut self, bound: Decimal, excluded: bool) {
        let is_tighter =
            |(most, was_excluded): (Decimal, bool)| bound < most || bound == most && excluded && !was_excluded;
        if self.most.is_none_or(is_tighter) {
            self.most = Some((bound, excluded));
        }
    }

    /// The largest multiple of `step` within the upper bound. Nothing without a bound.
    pub(super) fn largest(self, step: Decimal) -> Option<Decimal> {
        let (most, excluded) = self.most?;
        match most.down_to(step)? {
            multiple if multiple == most && excluded => multiple.plus(step.negated()),
            multiple => Some(multiple),
        }
    }

    /// The smallest multiple of `step` within the lower bound.
    pub(super) fn smallest(self, step: Decimal) -> Option<Decimal> {
        self.mirrored().largest(step).map(Decimal::negated)
    }

    pub(super) fn mirrored(self) -> Self {
        let negated = |(bound, excluded): (Decimal, bool)| (bound.negated(), excluded);
        Self { least: self.most.map(negated), most: self.least.map(negated) }
    }

    pub(super) fn is_empty(self) -> bool {
        let (Some((least, above)), Some((most, below))) = (self.least, self.most) else { return false };
        least > most || least == most && (above || below)
    }

    pub(super) fn has_no_multiple(self, step: Decimal) -> bool {
        matches!((self.smallest(step), self.largest(step)), (Some(least), Some(most)) if least > most)
    }
}

/// How many.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    pub(super) least: u64,
    pub(super) most: Option<u64>,
}

impl Span {
    pub(super) fn within(&mut self, least: Option<u64>, most: Option<u64>) {
        self.least = self.least.max(least.unwrap_or(0));
        self.most = [self.most, most].into_iter().flatten().min();
    }

    pub(super) fn is_empty(self) -> bool {
        self.most.is_some_and(|most| self.least > most)
    }

    pub(super) fn reaches(self, count: u64) -> bool {
        self.most.is_none_or(|most| count <= most)
    }
}
