//! Whether two schemas are the same but for what never matters: annotations, and the order of what has none.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::{Node, Reference, is_annotation};
use super::number::Decimal;

/// Keywords that count only beside another one; [`is_annotation`] knows them not.
const BESIDE: &[&str] = &["then", "else", "minContains", "maxContains", "$dynamicAnchor"];

/// The pairs of schemas that are taken for the same while it is looked whether they are, and the work that is left.
pub(super) struct Sameness<'s> {
    assumed: BTreeSet<(usize, usize)>,
    steps: &'s mut u64,
}

/// Whether the same values are valid under both, as far as can be seen by laying them side by side. References are
/// followed; a schema that refers to itself is the same as one that does so in the same places.
pub(super) fn same(one: &Node<'_>, other: &Node<'_>, steps: &mut u64) -> bool {
    one.document.draft == other.document.draft && Sameness { assumed: BTreeSet::new(), steps }.schemas(one, other)
}

impl Sameness<'_> {
    fn schemas(&mut self, one: &Node<'_>, other: &Node<'_>) -> bool {
        if *self.steps == 0 {
            return false;
        }
        *self.steps -= 1;
        if !self.assumed.insert((one.identity(), other.identity())) {
            return true;
        }
        match (one.value, other.value) {
            (Value::Object(_), Value::Object(_)) => {
                let (ours, theirs) = (counting(one), counting(other));
                ours == theirs && ours.into_iter().all(|keyword| self.keyword(keyword, one, other))
            }
            (Value::Bool(one), Value::Bool(other)) => one == other,
            _ => false,
        }
    }

    fn keyword(&mut self, keyword: &str, one: &Node<'_>, other: &Node<'_>) -> bool {
        let (Some(ours), Some(theirs)) = (one.get(keyword), other.get(keyword)) else { return false };
        match keyword {
            // What it means depends on the way that led here.
            "$dynamicRef" => false,
            "$ref" => match (one.reference(), other.reference()) {
                (Some(Reference::To(one)), Some(Reference::To(other))) => self.schemas(&one, &other),
                (Some(Reference::Outside(one)), Some(Reference::Outside(other))) => one == other && one.contains(':'),
                _ => false,
            },
            "required" | "type" | "enum" => {
                let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                let (ours, theirs) = (list(ours), list(theirs));
                if ours == theirs {
                    return true;
                }
                let cost = ours.len() as u64 * theirs.len() as u64 / 16;
                *self.steps = self.steps.saturating_sub(cost);
                let within =
                    |some: &[Value], all: &[Value]| some.iter().all(|one| all.iter().any(|other| equal(one, other)));
                ours.len() == theirs.len() && *self.steps > 0 && within(&ours, &theirs) && within(&theirs, &ours)
            }
            "properties" | "patternProperties" | "dependentSchemas" | "dependencies" => {
                self.by_name(keyword, one, other)
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => self.lists(keyword, one, other),
            "items" if ours.is_array() => self.lists(keyword, one, other),
            "items"
            | "additionalItems"
            | "additionalProperties"
            | "contains"
            | "propertyNames"
            | "not"
            | "if"
            | "then"
            | "else"
            | "unevaluatedItems"
            | "unevaluatedProperties" => match (one.below(keyword), other.below(keyword)) {
                (Some(one), Some(other)) => self.schemas(&one, &other),
                _ => false,
            },
            _ => equal(ours, theirs),
        }
    }

    fn by_name(&mut self, keyword: &str, one: &Node<'_>, other: &Node<'_>) -> bool {
        let (Some(ours), Some(theirs)) = (one.get(keyword).and_then(Value::as_object), other.get(keyword)) else {
            return false;
        };
        let is_same = |(name, value): (&String, &Value)| match (one.called(keyword, name), other.called(keyword, name))
        {
            (Some(_), Some(other)) if value.is_array() => equal(value, other.value),
            (Some(one), Some(other)) => self.schemas(&one, &other),
            _ => false,
        };
        theirs.as_object().is_some_and(|theirs| theirs.len() == ours.len()) && ours.iter().all(is_same)
    }

    fn lists(&mut self, keyword: &str, one: &Node<'_>, other: &Node<'_>) -> bool {
        let (ours, theirs) = (one.list(keyword), other.list(keyword));
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(one, other)| self.schemas(one, other))
    }
}

/// The keywords of a schema that matter.
fn counting<'a>(node: &Node<'a>) -> BTreeSet<&'a str> {
    let draft = node.document.draft;
    let counts = |keyword: &str| !is_annotation(keyword, draft) || BESIDE.contains(&keyword);
    node.keywords().map(|(keyword, _)| keyword).filter(|keyword| counts(keyword)).collect()
}

/// Whether two values are equal in JSON Schema's sense: numbers by what they are worth. Those that may have been rounded
/// are not.
pub(super) fn equal(one: &Value, other: &Value) -> bool {
    definitely_equal(one, other) == Some(true)
}

/// Nothing if it cannot be said.
pub(super) fn definitely_equal(one: &Value, other: &Value) -> Option<bool> {
    let all = |mut pairs: Box<dyn Iterator<Item = Option<bool>> + '_>| {
        pairs.try_fold(Some(true), |so_far, next| match next {
            Some(false) => Err(()),
            Some(true) => Ok(so_far),
            None => Ok(None),
        })
    };
    let compared = match (one, other) {
        (Value::Number(_), Value::Number(_)) => return Some(Decimal::of(one)? == Decimal::of(other)?),
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            all(Box::new(ours.iter().zip(theirs).map(|(one, other)| definitely_equal(one, other))))
        }
        (Value::Object(ours), Value::Object(theirs)) if ours.len() == theirs.len() => {
            let same = |(name, one)| theirs.get(name).map_or(Some(false), |other| definitely_equal(one, other));
            all(Box::new(ours.iter().map(same)))
        }
        _ => return Some(one == other),
    };
    compared.unwrap_or(Some(false))
}
