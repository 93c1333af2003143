//! What a schema allows, laid flat: one `Shape` for each way through its alternatives.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::{Node, Reference, is_annotation};
use super::number::Decimal;
use super::ranges::{Range, Span, Types};
use super::same::definitely_equal;
use super::work::{TooMuch, Work};
use crate::domain::schema::keywords::Draft;

/// Ways through the alternatives of one schema that are looked at.
const MAX_SHAPES: usize = 64;
/// Pairs of listed values that are compared to find those that two lists share.
const MAX_COMPARED: usize = 10_000;

/// What holds of a value: that it is valid under a schema, or something of our own making.
#[derive(Clone)]
pub(super) enum Part<'a> {
    Valid(Node<'a>),
    /// It is not valid under the schema.
    Invalid(Node<'a>),
    Of(Types),
    /// It is an object with this property.
    Has(&'a str),
}

impl Part<'_> {
    /// Equal for equal parts.
    pub(super) fn identity(&self) -> (u8, usize) {
        match self {
            Self::Valid(node) => (0, node.identity()),
            Self::Invalid(node) => (1, node.identity()),
            Self::Of(types) => (2, types.bits()),
            Self::Has(name) => (3, name.as_ptr().addr()),
        }
    }
}

/// A set of values that holds at least all that are valid in one way: every keyword narrows it that is understood, those
/// that are not leave it as it is.
#[derive(Clone)]
pub(super) struct Shape<'a> {
    /// The schemas under which each value is valid, without those of alternatives that were not taken.
    pub(super) valid: Vec<Node<'a>>,
    pub(super) invalid: Vec<Node<'a>>,
    pub(super) types: Types,
    /// The only values, if they were counted up.
    pub(super) values: Option<Vec<&'a Value>>,
    pub(super) numbers: Range,
    pub(super) multiples: Vec<Decimal>,
    pub(super) length: Span,
    pub(super) patterns: Vec<&'a str>,
    pub(super) items: Span,
    pub(super) unique: bool,
    pub(super) properties: Span,
    pub(super) required: BTreeSet<&'a str>,
    /// Alternatives between which nothing was chosen yet.
    forks: Vec<Vec<Vec<Part<'a>>>>,
}

impl<'a> Shape<'a> {
    fn of_everything() -> Self {
        Self {
            valid: Vec::new(),
            invalid: Vec::new(),
            types: Types::ALL,
            values: None,
            numbers: Range::default(),
            multiples: Vec::new(),
            length: Span::default(),
            patterns: Vec::new(),
            items: Span::default(),
            unique: false,
            properties: Span::default(),
            required: BTreeSet::new(),
            forks: Vec::new(),
        }
    }

    /// All that is valid in every part, one shape for each way.
    pub(super) fn all(parts: &[Part<'a>], work: &mut Work) -> Result<Vec<Self>, TooMuch> {
        Self::of_everything().with(parts.to_vec(), work)
    }

    /// What of this has the parts too.
    pub(super) fn with(&self, parts: Vec<Part<'a>>, work: &mut Work) -> Result<Vec<Self>, TooMuch> {
        let mut found = Vec::new();
        let mut open = vec![(self.clone(), parts)];
        while let Some((mut shape, parts)) = open.pop() {
            shape.take(parts, work)?;
            if shape.is_plainly_empty() {
                continue;
            }
            match shape.forks.pop() {
                None => found.push(shape),
                Some(alternatives) => {
                    open.extend(alternatives.into_iter().rev().map(|parts| (shape.clone(), parts)));
                }
            }
            if found.len() + open.len() > MAX_SHAPES {
                return Err(TooMuch);
            }
        }
        Ok(found)
    }

    /// Adds parts, and all that follows from them without a choice.
    fn take(&mut self, mut parts: Vec<Part<'a>>, work: &mut Work) -> Result<(), TooMuch> {
        loop {
            while let Some(part) = parts.pop() {
                work.step()?;
                match part {
                    Part::Of(types) => self.types = self.types.and(types),
                    Part::Has(name) => {
                        self.types = self.types.and(Types::OBJECT);
                        self.required.insert(name);
                    }
                    Part::Invalid(node) => self.exclude(node),
                    Part::Valid(node) if self.valid.iter().any(|known| known.identity() == node.identity()) => {}
                    Part::Valid(node) => {
                        self.absorb(&node);
                        self.branch(&node, &mut parts);
                        self.valid.push(node);
                    }
                }
            }
            let follows = self.that_follows_from_properties();
            if follows.is_empty() {
                return Ok(());
            }
            parts = follows;
        }
    }

    /// The schemas that hold because a property is there.
    fn that_follows_from_properties(&mut self) -> Vec<Part<'a>> {
        if !self.types.meets(Types::OBJECT) || self.types.meets(Types::ALL.without(Types::OBJECT)) {
            return Vec::new();
        }
        let mut follow = Vec::new();
        for node in &self.valid {
            let dependent = node.named("dependentSchemas").into_iter();
            let dependent = dependent.chain(dependencies_of_draft_07(node));
            let held = dependent.filter(|(name, _)| self.required.contains(name)).map(|(_, schema)| schema);
            follow.extend(held.filter(|one| self.valid.iter().all(|known| known.identity() != one.identity())));
        }
        let listed = self.valid.iter().flat_map(|node| listed_dependencies(node));
        let listed: Vec<_> =
            listed.filter(|(name, _)| self.required.contains(name)).flat_map(|(_, names)| names).collect();
        let before = self.required.len();
        self.required.extend(listed);
        let mut parts: Vec<_> = follow.into_iter().map(Part::Valid).collect();
        if self.required.len() > before && parts.is_empty() {
            // Once more, for what follows from those.
            parts.push(Part::Of(Types::OBJECT));
        }
        parts
    }

    fn exclude(&mut self, node: Node<'a>) {
        // Of a lone `type` it is known what is left.
        let mut keywords = node.keywords().filter(|(keyword, _)| !is_annotation(keyword, node.document.draft));
        match (keywords.next(), keywords.next()) {
            (Some(("type", types)), None) => self.types = self.types.without(Types::of(types)),
            (None, None) if node.takes_everything() => self.types = Types::NONE,
            _ => self.invalid.push(node),
        }
    }

    /// Narrows by the keywords that ask nothing of parts of the value.
    fn absorb(&mut self, node: &Node<'a>) {
        if let Value::Bool(false) = node.value {
            self.types = Types::NONE;
        }
        let list = |keyword| node.get(keyword).and_then(Value::as_array).into_iter().flatten();
        let decimal = |keyword| node.get(keyword).and_then(Decimal::of);
        if let Some(types) = node.get("type") {
            self.types = self.types.and(Types::of(types));
        }
        if node.has("enum") {
            self.only(list("enum").collect());
        }
        if let Some(value) = node.get("const") {
            self.only(vec![value]);
        }
        for (keyword, excluded) in [("minimum", false), ("exclusiveMinimum", true)] {
            decimal(keyword).into_iter().for_each(|bound| self.numbers.at_least(bound, excluded));
        }
        for (keyword, excluded) in [("maximum", false), ("exclusiveMaximum", true)] {
            decimal(keyword).into_iter().for_each(|bound| self.numbers.at_most(bound, excluded));
        }
        if let Some(step) = decimal("multipleOf") {
            self.multiples.push(step);
            if step.is_integer() {
                self.types = self.types.without(Types::FRACTION);
            }
        }
        self.length.within(node.count("minLength"), node.count("maxLength"));
        self.items.within(node.count("minItems"), node.count("maxItems"));
        self.properties.within(node.count("minProperties"), node.count("maxProperties"));
        self.patterns.extend(node.get("pattern").and_then(Value::as_str));
        self.unique |= node.get("uniqueItems") == Some(&Value::Bool(true));
        self.required.extend(list("required").filter_map(Value::as_str));
    }

    /// Of two lists the shorter one alone is kept, if they are too long to be compared.
    fn only(&mut self, values: Vec<&'a Value>) {
        let both = |known: Vec<&'a Value>| {
            if known.len().saturating_mul(values.len()) > MAX_COMPARED {
                return if known.len() <= values.len() { known } else { values.clone() };
            }
            let may_be = |one: &&Value| values.iter().any(|other| definitely_equal(one, other) != Some(false));
            known.into_iter().filter(may_be).collect()
        };
        self.values = Some(match self.values.take() {
            Some(known) => both(known),
            None => values.clone(),
        });
    }

    /// Takes over what holds beside a schema, and the alternatives in it.
    fn branch(&mut self, node: &Node<'a>, parts: &mut Vec<Part<'a>>) {
        if let Some(Reference::To(target)) = node.reference() {
            parts.push(Part::Valid(target));
        }
        parts.extend(node.list("allOf").into_iter().map(Part::Valid));
        parts.extend(node.below("not").map(Part::Invalid));
        let any_of = node.list("anyOf");
        if !any_of.is_empty() {
            self.forks.push(any_of.into_iter().map(|one| vec![Part::Valid(one)]).collect());
        }
        let one_of = node.list("oneOf");
        if !one_of.is_empty() {
            let chosen = |at: usize| {
                let mark = |(other, schema): (usize, &Node<'a>)| match other == at {
                    true => Part::Valid(schema.clone()),
                    false => Part::Invalid(schema.clone()),
                };
                one_of.iter().enumerate().map(mark).collect()
            };
            self.forks.push((0..one_of.len()).map(chosen).collect());
        }
        if let Some(condition) = node.below("if")
            && (node.has("then") || node.has("else"))
        {
            let holds = [Part::Valid(condition.clone())].into_iter().chain(node.below("then").map(Part::Valid));
            let fails = [Part::Invalid(condition)].into_iter().chain(node.below("else").map(Part::Valid));
            self.forks.push(vec![holds.collect(), fails.collect()]);
        }
    }

    /// Takes away the types of which nothing is left; whether nothing is left at all.
    fn is_plainly_empty(&mut self) -> bool {
        if let Some(values) = &mut self.values {
            let types = self.types;
            values.retain(|value| Types::of_value(value).is_none_or(|of| types.meets(of)));
            let of_values = values.iter().map(|value| Types::of_value(value).unwrap_or(Types::NUMBER));
            self.types = self.types.and(of_values.fold(Types::NONE, Types::or));
        }
        if self.numbers.is_empty() {
            self.types = self.types.without(Types::NUMBER);
        }
        if self.steps().any(|step| self.numbers.has_no_multiple(step)) {
            self.types = self.types.without(Types::NUMBER);
        }
        if self.numbers.has_no_multiple(Decimal::ONE) {
            self.types = self.types.without(Types::INTEGER);
        }
        for (of, span) in [(Types::STRING, self.length), (Types::ARRAY, self.items), (Types::OBJECT, self.properties)] {
            if span.is_empty() {
                self.types = self.types.without(of);
            }
        }
        if !self.properties.reaches(self.required.len() as u64) {
            self.types = self.types.without(Types::OBJECT);
        }
        self.types.is_empty()
    }

    /// The steps of which each number is a multiple.
    pub(super) fn steps(&self) -> impl Iterator<Item = Decimal> {
        let whole = (!self.types.meets(Types::FRACTION)).then_some(Decimal::ONE);
        self.multiples.iter().copied().filter(|step| *step > Decimal::ZERO).chain(whole)
    }
}

/// The `dependencies` on schemas, a keyword of draft-07 alone.
fn dependencies_of_draft_07<'a>(node: &Node<'a>) -> Vec<(&'a str, Node<'a>)> {
    match node.document.draft {
        Draft::Seven => node.named("dependencies"),
        Draft::Newest => Vec::new(),
    }
}

/// The properties that have to be there if another one is.
pub(super) fn listed_dependencies<'a>(node: &Node<'a>) -> Vec<(&'a str, Vec<&'a str>)> {
    let keyword = match node.document.draft {
        Draft::Seven => "dependencies",
        Draft::Newest => "dependentRequired",
    };
    let listed = node.get(keyword).and_then(Value::as_object).into_iter().flatten();
    let names = |value: &'a Value| Some(value.as_array()?.iter().filter_map(Value::as_str).collect());
    listed.filter_map(|(name, value)| Some((name.as_str(), names(value)?))).collect()
}
