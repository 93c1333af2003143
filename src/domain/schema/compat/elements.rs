//! Demands on the elements of arrays.

use serde_json::Value;

use super::arrays::{ItemsOf, bounds_of_contains, parts_of_element, places};
use super::document::Node;
use super::include::{Comparer, Findings, Here};
use super::objects::naming_of_element;
use super::rules;
use super::sample;
use super::shape::Part;
use crate::domain::schema::keywords::Draft;

impl Comparer {
    pub(super) fn array<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, keyword: &str) -> Findings {
        let shape = here.shape;
        match keyword {
            // Both are looked at together, under the one that is there first.
            "items" if into.document.draft == Draft::Newest && into.has("prefixItems") => Ok(Vec::new()),
            "items" | "prefixItems" => self.elements(here, into),
            "uniqueItems"
                if into.get(keyword) == Some(&Value::Bool(true)) && !shape.unique && shape.items.reaches(2) =>
            {
                let witnesses = sample::of_twins(shape, !self.strict, &mut self.work);
                let message = "elements may come twice".to_owned();
                Ok(vec![self.found(here, into, keyword, rules::UNIQUE_ITEMS, message, witnesses)])
            }
            "contains" => self.contains(here, into),
            "unevaluatedItems" => self.unless_there(here, into, keyword),
            _ => Ok(Vec::new()),
        }
    }

    fn elements<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>) -> Findings {
        let demanded = ItemsOf::node(into);
        let alike_from = demanded.places().max(places(here.shape));
        let naming = if self.strict { Vec::new() } else { naming_of_element(here.naming) };
        let mut found = Vec::new();
        for place in 0..=alike_from {
            let Some(schema) = demanded.at(place) else { break };
            if !here.shape.items.reaches(place as u64 + 1) {
                break;
            }
            let parts = parts_of_element(here.shape, place);
            if self.none_is_valid(&parts, 0)? {
                break;
            }
            for mut finding in self.below(&parts, &naming, schema)? {
                if schema.value == &Value::Bool(false) {
                    finding.rule = rules::ITEMS_CLOSED;
                    finding.message = format!("no element may stand at place {place}");
                }
                finding.witnesses =
                    sample::around_element(here.shape, place, &finding.witnesses, !self.strict, &mut self.work);
                found.push(finding);
            }
        }
        Ok(found)
    }

    fn contains<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>) -> Findings {
        let Some(schema) = into.below("contains") else { return Ok(Vec::new()) };
        let (least, most) = bounds_of_contains(into);
        let (mut has_least, mut has_most) =
            (least == 0, most.is_none_or(|most| here.shape.items.most.is_some_and(|items| items <= most)));
        for node in &here.shape.valid {
            let Some(known) = node.below("contains") else { continue };
            let (known_least, known_most) = bounds_of_contains(node);
            self.level += 1;
            has_least =
                has_least || known_least >= least && self.is_included(&[Part::Valid(known.clone())], &schema)?;
            let fewer = |known_most: u64| most.is_some_and(|most| known_most <= most);
            has_most = has_most
                || known_most.is_some_and(fewer) && self.is_included(&[Part::Valid(schema.clone())], &known)?;
            self.level -= 1;
        }
        if !has_least && here.shape.items.least >= least {
            has_least = true;
            for place in 0..=places(here.shape) {
                let parts = parts_of_element(here.shape, place);
                self.level += 1;
                has_least = has_least && self.is_included(&parts, &schema)?;
                self.level -= 1;
            }
        }
        if has_least && has_most {
            return Ok(Vec::new());
        }
        let mut finding = self.undecided(Some(here), into, "contains");
        finding.witnesses = sample::of_size(here.shape, !self.strict, most.map(|most| most + 1), &mut self.work);
        Ok(vec![finding])
    }
}
