//! A schema as it is judged by: one node for each subschema, with its keywords by the kind of value they speak of.

use std::collections::HashSet;
use std::sync::Arc;

use super::names::Names;
use super::number::Step;
use super::regex::Pattern;
use super::tree::{At, Kind, Tree};

/// A node by its place in the list of all.
pub(super) type Id = u32;

/// A compiled schema.
pub(super) struct Compiled {
    /// The schema's own text first, then the meta-schemas that it refers to.
    pub(super) documents: Vec<Tree<'static>>,
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    /// Names of properties in all nodes.
    pub(super) names: Names,
    /// For each resource: its dynamic anchors and where they are.
    pub(super) anchors: Vec<Vec<(u32, Id)>>,
    /// Whether there is a `$dynamicRef` that depends on the way to it.
    pub(super) is_dynamic: bool,
}

/// A schema in the schema. Small, since a payload has many members, and each leads to one.
#[derive(Default)]
pub(super) struct Node {
    /// Where it stands.
    pub(super) document: u32,
    pub(super) at: At,
    /// What its `$id` made it a part of.
    pub(super) resource: u32,
    /// The same one for all nodes that say the same, so that it stays in the processor's cache.
    pub(super) plain: Arc<Plain>,
    pub(super) deep: Option<Box<Deep>>,
}

/// The keywords of a schema that lead to no other schemas.
#[derive(Default)]
pub(super) struct Plain {
    /// It takes nothing: the schema `false`.
    pub(super) takes_nothing: bool,
    pub(super) types: Types,
    /// `const` and `enum`.
    pub(super) listed: Vec<(&'static str, Listed)>,
    pub(super) number: Option<NumberRules>,
    pub(super) string: Option<StringRules>,
}

/// The keywords of a schema about values in values, and those that lead to other schemas.
#[derive(Default)]
pub(super) struct Deep {
    pub(super) array: Option<ArrayRules>,
    pub(super) object: Option<ObjectRules>,
    pub(super) combined: Vec<Combined>,
}

/// A set of types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

/// The names of types, in the order of their bits.
const TYPES: [&str; 7] = ["null", "boolean", "number", "string", "array", "object", "integer"];
const INTEGER: u8 = 1 << 6;

impl Default for Types {
    fn default() -> Self {
        Self::ALL
    }
}

impl Types {
    pub(super) const ALL: Self = Self(0x3f);
    pub(super) const NONE: Self = Self(0);

    /// Those of a name, if it is one.
    pub(super) fn named(name: &str) -> Option<Self> {
        TYPES.iter().position(|known| *known == name).map(|bit| Self(1 << bit))
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn has(self, kind: Kind) -> bool {
        let bit = match kind {
            Kind::Null => 0,
            Kind::False | Kind::True => 1,
            Kind::Number => 2,
            Kind::String => 3,
            Kind::Array => 4,
            Kind::Object => 5,
        };
        self.0 & (1 << bit) != 0
    }

    pub(super) fn has_integers(self) -> bool {
        self.0 & INTEGER != 0
    }

    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        TYPES.into_iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| name)
    }
}

/// The values of a `const` or `enum`.
#[derive(Default)]
pub(super) struct Listed {
    /// In order.
    pub(super) texts: Vec<Box<str>>,
    /// All others, as they are written canonically.
    pub(super) others: HashSet<Box<[u8]>>,
    /// Whether there are arrays or objects among them.
    pub(super) has_compound: bool,
}

/// A number in the schema.
pub(super) struct Bound {
    pub(super) text: Box<str>,
    /// Its value, if it is a short integer.
    pub(super) short: Option<i64>,
}

#[derive(Default)]
pub(super) struct NumberRules {
    pub(super) minimum: Option<Bound>,
    pub(super) exclusive_minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) exclusive_maximum: Option<Bound>,
    pub(super) multiple_of: Option<Step>,
}

#[derive(Default)]
pub(super) struct StringRules {
    pub(super) least: Option<u64>,
    pub(super) most: Option<u64>,
    pub(super) pattern: Option<Arc<Pattern>>,
}

#[derive(Default)]
pub(super) struct ArrayRules {
    pub(super) least: Option<u64>,
    pub(super) most: Option<u64>,
    pub(super) is_unique: bool,
    /// Schemas of the first elements.
    pub(super) first: Vec<Id>,
    /// The schema of all others.
    pub(super) rest: Option<Id>,
    /// With how many there have to be at least and at most.
    pub(super) contains: Option<(Id, u64, u64)>,
    pub(super) unevaluated: Option<Id>,
}

#[derive(Default)]
pub(super) struct ObjectRules {
    pub(super) least: Option<u64>,
    pub(super) most: Option<u64>,
    pub(super) required: Vec<u32>,
    pub(super) properties: Table,
    pub(super) patterns: Vec<(Arc<Pattern>, Id)>,
    pub(super) additional: Option<Id>,
    pub(super) names: Option<Id>,
    /// Names that a name asks for, with the keyword that says so.
    pub(super) asked: Vec<(u32, Vec<u32>)>,
    /// Schemas that a name asks for.
    pub(super) dependent: Vec<(u32, Id)>,
    pub(super) unevaluated: Option<Id>,
}

/// A keyword whose schemas look at the same value.
pub(super) enum Combined {
    Ref(Id),
    /// Where it leads unless an outer resource has the anchor too, and the anchor.
    DynamicRef(Id, u32),
    AllOf(Vec<Id>),
    AnyOf(Vec<Id>),
    OneOf(Vec<Id>),
    Not(Id),
    If(Id, Option<Id>, Option<Id>),
}

/// What is said of a property.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) schema: Option<Id>,
    pub(super) is_required: bool,
}

/// Properties by the number of their name.
#[derive(Default)]
pub(super) struct Table {
    /// The least number.
    first: u32,
    /// From the least number on, if there are few gaps.
    dense: Vec<Entry>,
    /// In order, if there are many.
    sparse: Vec<(u32, Entry)>,
}

impl Table {
    /// `entries` are in the order of their numbers, each of which is there once.
    pub(super) fn new(entries: Vec<(u32, Entry)>) -> Self {
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else { return Self::default() };
        let (first, range) = (*first, (last - first) as usize + 1);
        if range > entries.len() * 4 + 16 {
            return Self { first, dense: Vec::new(), sparse: entries };
        }
        let mut dense = vec![Entry::default(); range];
        for (number, entry) in entries {
            dense[(number - first) as usize] = entry;
        }
        Self { first, dense, sparse: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dense.is_empty() && self.sparse.is_empty()
    }

    pub(super) fn get(&self, number: u32) -> Entry {
        if self.sparse.is_empty() {
            return self.dense.get(number.wrapping_sub(self.first) as usize).copied().unwrap_or_default();
        }
        let found = self.sparse.binary_search_by_key(&number, |(known, _)| *known);
        found.map(|place| self.sparse[place].1).unwrap_or_default()
    }
}
