//! Whether one value is valid under a schema, as far as it can be said without regular expressions: what a list of
//! values is compared by. The judge of payloads is elsewhere; this one looks at parts of schemas and may say nothing.

use serde_json::Value;

use super::document::{Node, Reference, count};
use super::number::Decimal;
use super::pattern::matches;
use super::ranges::Types;
use super::same::definitely_equal;
use super::shape::listed_dependencies;
use super::work::Work;
use crate::domain::schema::keywords::Draft;

/// Schemas in schemas and values in values that are gone into.
const MAX_DEPTH: usize = 64;

/// Values of an enumeration that are compared in one step.
const COMPARED_A_STEP: usize = 16;

/// Whether a value is valid; nothing if it cannot be said.
pub(super) fn valid(value: &Value, node: &Node<'_>, work: &mut Work) -> Option<bool> {
    Looker { work, depth: 0 }.valid(value, node)
}

/// Whether a value is valid under one keyword of a schema (and those that belong to it).
pub(super) fn valid_under(keyword: &str, value: &Value, node: &Node<'_>, work: &mut Work) -> Option<bool> {
    Looker { work, depth: 0 }.keyword(keyword, value, node)
}

struct Looker<'w> {
    work: &'w mut Work,
    depth: usize,
}

/// All hold, or one does not, or it cannot be said.
fn all(each: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut so_far = Some(true);
    for one in each {
        match one {
            Some(false) => return Some(false),
            Some(true) => {}
            None => so_far = None,
        }
    }
    so_far
}

fn any(each: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    all(each.into_iter().map(|one| one.map(|holds| !holds))).map(|none| !none)
}

impl Looker<'_> {
    fn valid(&mut self, value: &Value, node: &Node<'_>) -> Option<bool> {
        if let Value::Bool(takes) = node.value {
            return Some(*takes);
        }
        if self.depth > MAX_DEPTH || self.work.step().is_err() {
            return None;
        }
        self.depth += 1;
        let verdict = all(node.keywords().map(|(keyword, _)| self.keyword(keyword, value, node)));
        self.depth -= 1;
        verdict
    }

    fn keyword(&mut self, keyword: &str, value: &Value, node: &Node<'_>) -> Option<bool> {
        if super::document::is_annotation(keyword, node.document.draft) {
            return Some(true);
        }
        let asked = node.get(keyword)?;
        match keyword {
            "$ref" => match node.reference()? {
                Reference::To(target) => self.valid(value, &target),
                Reference::Outside(_) => None,
            },
            "type" => Some(Types::of(asked).meets(Types::of_value(value)?)),
            "const" => definitely_equal(asked, value),
            "enum" => self.is_listed(value, asked.as_array()?),
            "$dynamicRef" => None,
            "allOf" => all(node.list(keyword).iter().map(|one| self.valid(value, one))),
            "anyOf" => any(node.list(keyword).iter().map(|one| self.valid(value, one))),
            "oneOf" => {
                let verdicts: Vec<_> = node.list(keyword).iter().map(|one| self.valid(value, one)).collect();
                let count = |of| verdicts.iter().filter(|verdict| **verdict == of).count();
                match (count(Some(true)), count(None)) {
                    (2.., _) | (0, 0) => Some(false),
                    (1, 0) => Some(true),
                    _ => None,
                }
            }
            "not" => self.valid(value, &node.below(keyword)?).map(|holds| !holds),
            "if" => {
                let branch = if self.valid(value, &node.below(keyword)?)? { "then" } else { "else" };
                node.below(branch).map_or(Some(true), |branch| self.valid(value, &branch))
            }
            _ => match value {
                Value::Number(_) => number(keyword, value, asked),
                Value::String(text) => string(keyword, text, asked),
                Value::Array(elements) => self.array(keyword, elements, node),
                Value::Object(_) => self.object(keyword, value, node),
                Value::Null | Value::Bool(_) => Some(true),
            },
        }
    }

    fn is_listed(&mut self, value: &Value, listed: &[Value]) -> Option<bool> {
        (0..listed.len()).step_by(COMPARED_A_STEP).try_for_each(|_| self.work.step()).ok()?;
        match (listed.contains(value), value) {
            (true, _) => Some(true),
            (false, Value::String(_) | Value::Null | Value::Bool(_)) => Some(false),
            _ => any(listed.iter().map(|one| definitely_equal(one, value))),
        }
    }

    fn array(&mut self, keyword: &str, elements: &[Value], node: &Node<'_>) -> Option<bool> {
        let asked = node.get(keyword)?;
        let length = elements.len() as u64;
        match keyword {
            "minItems" => Some(length >= count(asked)?),
            "maxItems" => Some(length <= count(asked)?),
            "uniqueItems" if *asked == Value::Bool(true) => {
                let mut pairs = elements
                    .iter()
                    .enumerate()
                    .flat_map(|(at, one)| elements[..at].iter().map(move |other| (one, other)));
                if elements.len() > 100 {
                    return None;
                }
                any(pairs.by_ref().map(|(one, other)| definitely_equal(one, other))).map(|repeats| !repeats)
            }
            "prefixItems" | "items" | "additionalItems" => {
                let items = super::arrays::ItemsOf::node(node);
                all(elements.iter().enumerate().map(|(at, one)| match items.at(at) {
                    Some(schema) => self.valid(one, schema),
                    None => Some(true),
                }))
            }
            "contains" => {
                let schema = node.below(keyword)?;
                let verdicts: Vec<_> = elements.iter().map(|one| self.valid(one, &schema)).collect();
                let count = |of| verdicts.iter().filter(|verdict| **verdict == of).count() as u64;
                let (sure, unsure) = (count(Some(true)), count(None));
                let (least, most) = super::arrays::bounds_of_contains(node);
                if sure > most.unwrap_or(u64::MAX) || sure + unsure < least {
                    return Some(false);
                }
                (sure >= least && most.is_none_or(|most| sure + unsure <= most)).then_some(true)
            }
            "unevaluatedItems" => None,
            _ => Some(true),
        }
    }

    fn object(&mut self, keyword: &str, value: &Value, node: &Node<'_>) -> Option<bool> {
        let asked = node.get(keyword)?;
        let members = value.as_object()?;
        let size = members.len() as u64;
        match keyword {
            "minProperties" => Some(size >= count(asked)?),
            "maxProperties" => Some(size <= count(asked)?),
            "required" => {
                Some(asked.as_array()?.iter().filter_map(Value::as_str).all(|name| members.contains_key(name)))
            }
            "properties" => all(members.iter().map(|(name, one)| match node.called(keyword, name) {
                Some(schema) => self.valid(one, &schema),
                None => Some(true),
            })),
            "patternProperties" => {
                let patterns = node.named(keyword);
                self.work.steps(members.len() * patterns.len()).ok()?;
                let pairs =
                    members.iter().flat_map(|(name, one)| patterns.iter().map(move |pattern| (name, one, pattern)));
                all(pairs.map(|(name, one, (pattern, schema))| match matches(pattern, name) {
                    Some(false) => Some(true),
                    Some(true) => self.valid(one, schema),
                    None => self.valid(one, schema).filter(|holds| *holds),
                }))
            }
            "additionalProperties" => {
                let (schema, patterns) = (node.below(keyword)?, node.named("patternProperties"));
                let named = |name: &str| node.called("properties", name).is_some();
                self.work.steps(members.len() * patterns.len()).ok()?;
                all(members.iter().filter(|(name, _)| !named(name)).map(|(name, one)| {
                    match any(patterns.iter().map(|(pattern, _)| matches(pattern, name))) {
                        Some(true) => Some(true),
                        Some(false) => self.valid(one, &schema),
                        None => self.valid(one, &schema).filter(|holds| *holds),
                    }
                }))
            }
            "propertyNames" => {
                let schema = node.below(keyword)?;
                all(members.keys().map(|name| self.valid(&Value::from(name.as_str()), &schema)))
            }
            "dependentSchemas" | "dependencies" | "dependentRequired" => {
                let mut schemas = Vec::new();
                if keyword != "dependentRequired" {
                    schemas = node.named(keyword);
                }
                let listed = listed_dependencies(node).into_iter().filter(|_| keyword != "dependentSchemas");
                let listed = listed.filter(|(name, _)| members.contains_key(*name));
                let lists = listed.map(|(_, names)| names.iter().all(|name| members.contains_key(*name)));
                let lists: Vec<_> = lists.map(Some).collect();
                let held = schemas.iter().filter(|(name, _)| members.contains_key(*name));
                let verdict = all(held.map(|(_, schema)| self.valid(value, schema)).chain(lists));
                let is_foreign = keyword == "dependencies" && node.document.draft == Draft::Newest;
                verdict.filter(|holds| *holds || !is_foreign)
            }
            "unevaluatedProperties" => None,
            _ => Some(true),
        }
    }
}

fn number(keyword: &str, value: &Value, asked: &Value) -> Option<bool> {
    let both = || Some((Decimal::of(value)?, Decimal::of(asked)?));
    match keyword {
        "minimum" => both().map(|(value, bound)| value >= bound),
        "exclusiveMinimum" => both().map(|(value, bound)| value > bound),
        "maximum" => both().map(|(value, bound)| value <= bound),
        "exclusiveMaximum" => both().map(|(value, bound)| value < bound),
        "multipleOf" => both().map(|(value, step)| value.is_multiple_of(step)),
        _ => Some(true),
    }
}

fn string(keyword: &str, text: &str, asked: &Value) -> Option<bool> {
    match keyword {
        "minLength" => Some(text.chars().count() as u64 >= count(asked)?),
        "maxLength" => Some(text.chars().count() as u64 <= count(asked)?),
        "pattern" => matches(asked.as_str()?, text),
        _ => Some(true),
    }
}
