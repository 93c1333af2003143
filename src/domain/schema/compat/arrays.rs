//! What schemas say of the elements of arrays, in the words of either draft.

use serde_json::Value;

use super::document::Node;
use super::shape::{Part, Shape};
use crate::domain::schema::keywords::Draft;

/// What one schema says of elements by their place.
pub(super) struct ItemsOf<'a> {
    first: Vec<Node<'a>>,
    rest: Option<Node<'a>>,
}

impl<'a> ItemsOf<'a> {
    pub(super) fn node(node: &Node<'a>) -> Self {
        let is_list = node.get("items").is_some_and(Value::is_array);
        let (first, rest) = match node.document.draft {
            Draft::Seven if is_list => ("items", "additionalItems"),
            Draft::Seven => ("", "items"),
            Draft::Newest => ("prefixItems", "items"),
        };
        Self { first: node.list(first), rest: node.below(rest) }
    }

    pub(super) fn at(&self, place: usize) -> Option<&Node<'a>> {
        self.first.get(place).or(self.rest.as_ref())
    }

    /// Places that have a schema of their own.
    pub(super) fn places(&self) -> usize {
        self.first.len()
    }
}

/// What has to hold of an element of every array of a shape.
pub(super) fn parts_of_element<'a>(shape: &Shape<'a>, place: usize) -> Vec<Part<'a>> {
    shape.valid.iter().filter_map(|node| ItemsOf::node(node).at(place).cloned()).map(Part::Valid).collect()
}

/// The place from which on all elements of a shape's arrays are alike.
pub(super) fn places(shape: &Shape<'_>) -> usize {
    shape.valid.iter().map(|node| ItemsOf::node(node).places()).max().unwrap_or(0)
}

/// How many elements have to be as a `contains` says.
pub(super) fn bounds_of_contains(node: &Node<'_>) -> (u64, Option<u64>) {
    match node.document.draft {
        Draft::Seven => (1, None),
        // What is not understood is more than any array has.
        Draft::Newest if node.has("minContains") => {
            (node.count("minContains").unwrap_or(u64::MAX), node.count("maxContains"))
        }
        Draft::Newest => (1, node.count("maxContains")),
    }
}
