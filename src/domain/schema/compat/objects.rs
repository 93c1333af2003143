//! What schemas say of the properties of objects, and which properties they name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::{Node, Reference};
use super::pattern::matches;
use super::shape::{Part, Shape};
use super::valid::valid;
use super::work::{TooMuch, Work};

/// A schema for the properties that others have not looked at.
pub(super) struct Rest<'a> {
    /// Those whose `properties` and `patternProperties` have looked at theirs.
    looked: Vec<Node<'a>>,
    pub(super) schema: Node<'a>,
    pub(super) keyword: &'static str,
}

impl<'a> Rest<'a> {
    /// Whether it is asked about a property; nothing if that cannot be said.
    pub(super) fn asks_about(&self, name: &str) -> Option<bool> {
        if self.looked.iter().any(|node| node.called("properties", name).is_some()) {
            return Some(false);
        }
        let verdicts: Vec<_> = self.patterns().iter().map(|pattern| matches(pattern, name)).collect();
        match verdicts.contains(&Some(true)) {
            true => Some(false),
            false if verdicts.contains(&None) => None,
            false => Some(true),
        }
    }

    pub(super) fn patterns(&self) -> Vec<&'a str> {
        self.looked.iter().flat_map(|node| node.named("patternProperties")).map(|(pattern, _)| pattern).collect()
    }

    /// The schema for all that is not named beside it.
    pub(super) fn additional(node: &Node<'a>) -> Option<Self> {
        let keyword = "additionalProperties";
        node.below(keyword).map(|schema| Self { looked: vec![node.clone()], schema, keyword })
    }

    /// The schema for all that no other has looked at: nothing if which ones have depends on the payload.
    pub(super) fn unevaluated(node: &Node<'a>) -> Option<Self> {
        let keyword = "unevaluatedProperties";
        if super::document::is_annotation(keyword, node.document.draft) {
            return None;
        }
        let schema = node.below(keyword)?;
        let looked = looks_always(node)?;
        let is_all = looked.iter().any(|node| node.has("additionalProperties"));
        let is_again = looked[1..].iter().any(|node| node.has(keyword));
        (!is_all && !is_again).then_some(Self { looked, schema, keyword })
    }

    /// All that a schema says of the rest, as far as it can be said.
    pub(super) fn of(node: &Node<'a>) -> impl Iterator<Item = Self> {
        Self::additional(node).into_iter().chain(Self::unevaluated(node))
    }
}

/// The schemas that look at a value whenever one does, if others look at none of its properties.
fn looks_always<'a>(node: &Node<'a>) -> Option<Vec<Node<'a>>> {
    let mut always: Vec<Node<'a>> = Vec::new();
    let mut open = vec![node.clone()];
    while let Some(node) = open.pop() {
        if always.iter().any(|known| known.identity() == node.identity()) {
            continue;
        }
        open.extend(node.list("allOf"));
        match node.reference() {
            Some(Reference::To(target)) => open.push(target),
            Some(Reference::Outside(_)) | None => {}
        }
        let looks = ["properties", "patternProperties", "additionalProperties", "unevaluatedProperties"];
        let may_look = |node: &Node<'a>| leads_elsewhere(node) || looks.iter().any(|keyword| node.has(keyword));
        if leads_elsewhere(&node) || reached(&sometimes(&node)).iter().any(may_look) {
            return None;
        }
        always.push(node);
    }
    Some(always)
}

/// The schemas that look at the same value for some payloads.
fn sometimes<'a>(node: &Node<'a>) -> Vec<Node<'a>> {
    let mut found: Vec<_> = ["anyOf", "oneOf"].iter().flat_map(|keyword| node.list(keyword)).collect();
    found.extend(["if", "then", "else"].iter().filter_map(|keyword| node.below(keyword)));
    let dependent = ["dependentSchemas", "dependencies"].iter().flat_map(|keyword| node.named(keyword));
    found.extend(dependent.map(|(_, schema)| schema));
    found
}

/// All schemas that look at the same value, by whatever way, without those it must not be valid under.
pub(super) fn reached<'a>(nodes: &[Node<'a>]) -> Vec<Node<'a>> {
    let mut found: Vec<Node<'a>> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<_> = nodes.iter().rev().cloned().collect();
    while let Some(node) = open.pop() {
        if !seen.insert(node.identity()) {
            continue;
        }
        open.extend(node.list("allOf"));
        open.extend(sometimes(&node));
        if let Some(Reference::To(target)) = node.reference() {
            open.push(target);
        }
        found.push(node);
    }
    found
}

/// The properties that are named at one place of payloads.
pub(super) struct Naming<'a> {
    pub(super) names: BTreeSet<&'a str>,
    /// Whether others count too, because a pattern or a schema for the rest speaks of them.
    pub(super) others: bool,
}

impl<'a> Naming<'a> {
    pub(super) fn of(reached: &[Node<'a>]) -> Self {
        let named = reached.iter().flat_map(|node| node.named("properties")).map(|(name, _)| name);
        Self {
            names: named.chain(reached.iter().flat_map(demanded)).collect(),
            others: reached.iter().any(|node| rest_of_naming(node).next().is_some()),
        }
    }
}

/// The properties that payloads must have, always or if they have another one.
fn demanded<'a>(node: &Node<'a>) -> impl Iterator<Item = &'a str> {
    let required = node.get("required").into_iter();
    let dependent =
        ["dependentRequired", "dependencies"].into_iter().filter_map(|keyword| node.get(keyword)?.as_object());
    let dependent = dependent.flatten().filter(|(_, names)| names.is_array());
    let names = required.chain(dependent.clone().map(|(_, names)| names)).filter_map(Value::as_array).flatten();
    names.filter_map(Value::as_str).chain(dependent.map(|(name, _)| name.as_str()))
}

/// Whether it looks at its values with a schema that is not known: all that one names counts, at every depth.
fn leads_elsewhere(node: &Node<'_>) -> bool {
    node.has("$dynamicRef") || matches!(node.reference(), Some(Reference::Outside(_)))
}

fn rest_of_naming<'a>(node: &Node<'a>) -> impl Iterator<Item = Node<'a>> {
    let unknown = leads_elsewhere(node).then(|| node.clone());
    let patterns = node.named("patternProperties").into_iter().map(|(_, schema)| schema);
    let rest = ["additionalProperties", "unevaluatedProperties"].into_iter().filter_map(|keyword| node.below(keyword));
    unknown
        .into_iter()
        .chain(patterns)
        .chain(rest.filter(|schema| schema.value.is_object() && !schema.takes_everything()))
}

/// Where the properties of a property's value are named.
pub(super) fn naming_of_property<'a>(reached: &[Node<'a>], name: Option<&str>) -> Vec<Node<'a>> {
    let named = |node: &Node<'a>| name.and_then(|name| node.called("properties", name));
    reached.iter().flat_map(|node| named(node).into_iter().chain(rest_of_naming(node))).collect()
}

/// Where the properties of an element are named.
pub(super) fn naming_of_element<'a>(reached: &[Node<'a>]) -> Vec<Node<'a>> {
    let of_node = |node: &Node<'a>| {
        let lists = ["prefixItems", "items"].into_iter().flat_map(|keyword| node.list(keyword));
        let ones = ["items", "additionalItems", "contains", "unevaluatedItems"].into_iter();
        lists
            .chain(ones.filter_map(|keyword| node.below(keyword)).filter(|schema| schema.value.is_object()))
            .collect::<Vec<_>>()
    };
    reached.iter().flat_map(of_node).collect()
}

/// What has to hold of a property of every object of a shape.
pub(super) fn parts_of_property<'a>(shape: &Shape<'a>, name: &str, work: &mut Work) -> Result<Vec<Part<'a>>, TooMuch> {
    let mut parts = Vec::new();
    for node in &shape.valid {
        let patterns = node.named("patternProperties");
        work.steps(1 + patterns.len())?;
        parts.extend(node.called("properties", name).map(Part::Valid));
        parts.extend(
            patterns
                .into_iter()
                .filter(|(pattern, _)| matches(pattern, name) == Some(true))
                .map(|(_, schema)| Part::Valid(schema)),
        );
        let rest = Rest::of(node).filter(|rest| rest.asks_about(name) == Some(true));
        parts.extend(rest.map(|rest| Part::Valid(rest.schema)));
    }
    Ok(parts)
}

/// Whether no object of a shape can have a property of this name, whatever its value.
pub(super) fn is_forbidden(shape: &Shape<'_>, name: &str, work: &mut Work) -> bool {
    let value = Value::from(name);
    let mut schemas = shape.valid.iter().filter_map(|node| node.below("propertyNames"));
    schemas.any(|schema| valid(&value, &schema, work) == Some(false))
}
