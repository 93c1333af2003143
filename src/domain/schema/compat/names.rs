//! Demands on which properties there are together, and on their names.

use serde_json::Value;

use super::document::Node;
use super::include::{Comparer, Findings, Here};
use super::objects::{Naming, Rest, parts_of_property};
use super::ranges::Types;
use super::rules;
use super::sample;
use super::shape::{Part, Shape, listed_dependencies};
use super::work::TooMuch;

impl Comparer {
    pub(super) fn names<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>) -> Findings {
        let Some(schema) = into.below("propertyNames") else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for name in self.told_apart(here) {
            let verdict = super::valid::valid(&Value::from(name), &schema, &mut self.work);
            if verdict == Some(true) || !self.may_come(here, name)? {
                continue;
            }
            let parts = parts_of_property(here.shape, name, &mut self.work)?;
            if self.none_is_valid(&parts, 0)? {
                continue;
            }
            let shapes = here.shape.with(vec![Part::Has(name)], &mut self.work)?;
            let values = sample::of_parts(&parts, !self.strict, 0, &mut self.work);
            let witnesses = sample::around_property(&shapes, name, &values, !self.strict, &mut self.work);
            let message = format!("`propertyNames` does not allow `{name}`");
            let mut finding = self.found(here, into, "propertyNames", rules::PROPERTY_NAMES, message, witnesses);
            finding.is_decided = verdict.is_some();
            found.push(finding);
        }
        // Names that are not told apart: all that the old schema lets through.
        let counts = self.strict || Naming::of(here.naming).others;
        let rests = here.shape.valid.iter().flat_map(Rest::of);
        let is_closed =
            rests.into_iter().any(|rest| rest.schema.value == &Value::Bool(false) && rest.patterns().is_empty());
        if counts && !is_closed {
            let known = here.shape.valid.iter().filter_map(|node| node.below("propertyNames")).map(Part::Valid);
            let parts: Vec<_> = known.chain([Part::Of(Types::STRING)]).collect();
            self.level += 1;
            let is_included = self.is_included(&parts, &schema);
            self.level -= 1;
            if !is_included? {
                let names = sample::of_parts(&parts, false, 0, &mut self.work);
                let witnesses = sample::with_names(here.shape, &names, !self.strict, &mut self.work);
                let message = "`propertyNames` does not allow all names that may come".to_owned();
                found.push(self.found(here, into, "propertyNames", rules::PROPERTY_NAMES, message, witnesses));
            }
        }
        Ok(found)
    }

    pub(super) fn dependencies<'a>(
        &mut self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &str,
        open: &mut Vec<usize>,
    ) -> Findings {
        let mut found = Vec::new();
        let lists = match keyword {
            "dependentSchemas" => Vec::new(),
            "dependentRequired" => listed_dependencies(into),
            _ => lists_in(into, keyword),
        };
        for (name, demanded) in lists {
            for shape in self.that_have(here, name)? {
                for missing in demanded.iter().filter(|demanded| !shape.required.contains(*demanded)) {
                    let witnesses = sample::without_property(&shape, missing, !self.strict, &mut self.work);
                    let message = format!("`{missing}` may be missing where `{name}` is there");
                    found.push(self.found(here, into, keyword, rules::DEPENDENCY, message, witnesses));
                }
            }
        }
        let schemas = if keyword == "dependentRequired" { Vec::new() } else { into.named(keyword) };
        for (name, schema) in schemas {
            for shape in self.that_have(here, name)? {
                let here = Here { shape: &shape, ..here };
                let of_schema = self.demands(here, &schema, open)?;
                if !of_schema.is_empty() && !self.is_empty(&shape)? {
                    found.extend(of_schema);
                }
            }
        }
        Ok(found)
    }

    /// The objects that have a property.
    fn that_have<'a>(&mut self, here: Here<'a, '_>, name: &'a str) -> Result<Vec<Shape<'a>>, TooMuch> {
        if !self.may_come(here, name)? {
            return Ok(Vec::new());
        }
        let parts = parts_of_property(here.shape, name, &mut self.work)?;
        if self.none_is_valid(&parts, 0)? {
            return Ok(Vec::new());
        }
        here.shape.with(vec![Part::Has(name)], &mut self.work)
    }
}

fn lists_in<'a>(node: &Node<'a>, keyword: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let listed = node.get(keyword).and_then(Value::as_object).into_iter().flatten();
    let names = |value: &'a Value| Some(value.as_array()?.iter().filter_map(Value::as_str).collect());
    listed.filter_map(|(name, value)| Some((name.as_str(), names(value)?))).collect()
}
