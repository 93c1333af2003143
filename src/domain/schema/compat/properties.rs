//! Demands on the properties of objects.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::Node;
use super::include::{Comparer, Finding, Findings, Here};
use super::objects::{self, Naming, Rest, naming_of_property, parts_of_property};
use super::pattern::matches;
use super::ranges::Span;
use super::rules;
use super::sample;
use super::shape::Part;
use super::work::TooMuch;

/// Names that are gathered in one step.
const NAMES_A_STEP: usize = 16;

impl Comparer {
    pub(super) fn object<'a>(
        &mut self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &str,
        open: &mut Vec<usize>,
    ) -> Findings {
        match keyword {
            "required" => self.required(here, into),
            "properties" => {
                let mut found = Vec::new();
                for (name, schema) in into.named(keyword) {
                    found.extend(self.property(here, name, &schema, None)?);
                }
                Ok(found)
            }
            "patternProperties" => self.by_pattern(here, into),
            "additionalProperties" => match Rest::additional(into) {
                Some(rest) => self.rest(here, into, &rest),
                None => Ok(Vec::new()),
            },
            "unevaluatedProperties" => match Rest::unevaluated(into) {
                Some(rest) => self.rest(here, into, &rest),
                None => self.unless_there(here, into, keyword),
            },
            "propertyNames" => self.names(here, into),
            "dependentRequired" | "dependentSchemas" | "dependencies" => self.dependencies(here, into, keyword, open),
            _ => Ok(Vec::new()),
        }
    }

    fn required<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>) -> Findings {
        let mut found = Vec::new();
        let names = into.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for name in names.filter(|name| !here.shape.required.contains(name)) {
            let witnesses = sample::without_property(here.shape, name, !self.strict, &mut self.work);
            found.push(self.found(
                here,
                into,
                "required",
                rules::REQUIRED,
                format!("`{name}` may be missing"),
                witnesses,
            ));
        }
        Ok(found)
    }

    /// One property, if it may come. `closed`: the keyword that speaks of it, if it is not named where that stands.
    fn property<'a>(
        &mut self,
        here: Here<'a, '_>,
        name: &'a str,
        schema: &Node<'a>,
        closed: Option<(&Node<'a>, &'static str)>,
    ) -> Findings {
        if !self.may_come(here, name)? {
            return Ok(Vec::new());
        }
        let parts = parts_of_property(here.shape, name, &mut self.work)?;
        let naming = if self.strict { Vec::new() } else { naming_of_property(here.naming, Some(name)) };
        let mut found = self.below(&parts, &naming, schema)?;
        if found.is_empty() || self.none_is_valid(&parts, 0)? {
            return Ok(Vec::new());
        }
        let shapes = here.shape.with(vec![Part::Has(name)], &mut self.work)?;
        for finding in &mut found {
            finding.witnesses =
                sample::around_property(&shapes, name, &finding.witnesses, !self.strict, &mut self.work);
            if let (Some((into, keyword)), &Value::Bool(false)) = (closed, schema.value) {
                let message = format!("`{name}` is not allowed");
                let witnesses = std::mem::take(&mut finding.witnesses);
                *finding = self.found(here, into, keyword, rules::PROPERTY_REMOVED, message, witnesses);
            }
        }
        Ok(found)
    }

    /// Whether objects that count have a property.
    pub(super) fn may_come<'a>(&mut self, here: Here<'a, '_>, name: &'a str) -> Result<bool, TooMuch> {
        if !self.strict {
            let naming = Naming::of(here.naming);
            self.work.steps(naming.names.len() / NAMES_A_STEP)?;
            if !naming.others && !naming.names.contains(name) {
                return Ok(false);
            }
        }
        Ok(!objects::is_forbidden(here.shape, name, &mut self.work))
    }

    /// All names that are told apart at one place.
    pub(super) fn told_apart<'a>(&self, here: Here<'a, '_>) -> BTreeSet<&'a str> {
        let named = here.shape.valid.iter().flat_map(|node| node.named("properties")).map(|(name, _)| name);
        let all = named.chain(here.shape.required.iter().copied());
        all.chain(Naming::of(here.naming).names).collect()
    }

    fn by_pattern<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>) -> Findings {
        let names = self.told_apart(here);
        let mut found = Vec::new();
        for (pattern, schema) in into.named("patternProperties") {
            for name in &names {
                let verdict = matches(pattern, name);
                if verdict != Some(false) {
                    let of_name = self.property(here, name, &schema, None)?.into_iter();
                    found.extend(
                        of_name
                            .map(|finding| Finding { is_decided: finding.is_decided && verdict.is_some(), ..finding }),
                    );
                }
            }
            let of_old = |node: &Node<'a>| node.called("patternProperties", pattern);
            let mut parts: Vec<_> = here.shape.valid.iter().filter_map(of_old).map(Part::Valid).collect();
            let rests = here.shape.valid.iter().flat_map(Rest::of).filter(|rest| rest.patterns().is_empty());
            parts.extend(rests.map(|rest| Part::Valid(rest.schema)));
            found.extend(self.others(here, &parts, &schema, &names)?);
        }
        Ok(found)
    }

    /// The properties that a schema does not name.
    fn rest<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, rest: &Rest<'a>) -> Findings {
        let names = self.told_apart(here);
        let mut found = Vec::new();
        for name in &names {
            let verdict = rest.asks_about(name);
            if verdict != Some(false) {
                let of_name = self.property(here, name, &rest.schema, Some((into, rest.keyword)))?.into_iter();
                found.extend(
                    of_name.map(|finding| Finding { is_decided: finding.is_decided && verdict.is_some(), ..finding }),
                );
            }
        }
        let named_here = rest.patterns();
        let rests: Vec<_> = here.shape.valid.iter().flat_map(Rest::of).collect();
        // A name that is not told apart, and that no pattern beside `rest` matches: no old one does either, or one does.
        let mut ways = vec![rests.iter().map(|rest| Part::Valid(rest.schema.clone())).collect::<Vec<_>>()];
        let patterns: BTreeSet<_> = here
            .shape
            .valid
            .iter()
            .flat_map(|node| node.named("patternProperties"))
            .map(|(pattern, _)| pattern)
            .collect();
        for pattern in patterns.into_iter().filter(|pattern| !named_here.contains(pattern)) {
            let of_pattern = here.shape.valid.iter().filter_map(|node| node.called("patternProperties", pattern));
            let open = rests.iter().filter(|rest| rest.patterns().iter().all(|pattern| named_here.contains(pattern)));
            ways.push(of_pattern.chain(open.map(|rest| rest.schema.clone())).map(Part::Valid).collect());
        }
        for parts in ways {
            let of_others = self.others(here, &parts, &rest.schema, &names)?.into_iter();
            found.extend(of_others.map(|finding| match rest.schema.value {
                Value::Bool(_) => {
                    let message = "properties that are not named are not allowed".to_owned();
                    self.found(here, into, rest.keyword, rules::CLOSED, message, finding.witnesses)
                }
                _ => finding,
            }));
        }
        Ok(found)
    }

    /// The properties that are not told apart.
    fn others<'a>(
        &mut self,
        here: Here<'a, '_>,
        parts: &[Part<'a>],
        schema: &Node<'a>,
        names: &BTreeSet<&'a str>,
    ) -> Findings {
        if !self.strict && !Naming::of(here.naming).others {
            return Ok(Vec::new());
        }
        let is_counted_up =
            |node: &Node<'a>| node.below("propertyNames").is_some_and(|names| names.has("enum") || names.has("const"));
        let named_all = |node: &&Node<'a>| {
            let names_of = node.below("propertyNames").map(|schema| {
                let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
                listed.chain(schema.get("const")).filter_map(Value::as_str).all(|name| names.contains(name))
            });
            is_counted_up(node) && names_of == Some(true)
        };
        if here.shape.valid.iter().any(|node| named_all(&node)) || self.none_is_valid(parts, 0)? {
            return Ok(Vec::new());
        }
        let naming = if self.strict { Vec::new() } else { naming_of_property(here.naming, None) };
        let mut found = self.below(parts, &naming, schema)?;
        for finding in &mut found {
            finding.witnesses =
                sample::around_others(here.shape, names, &finding.witnesses, !self.strict, &mut self.work);
        }
        Ok(found)
    }

    /// How many properties the objects have that count.
    pub(super) fn span_of_properties(&mut self, here: Here<'_, '_>) -> Span {
        let mut span = here.shape.properties;
        span.least = span.least.max(here.shape.required.len() as u64);
        let naming = Naming::of(here.naming);
        if !self.strict && !naming.others {
            let named = naming.names.len() as u64;
            span.most = Some(span.most.map_or(named, |most| most.min(named)));
        }
        let closed = here.shape.valid.iter().find(|node| {
            node.get("additionalProperties") == Some(&Value::Bool(false)) && !node.has("patternProperties")
        });
        if let Some(node) = closed {
            let named = node.named("properties").len() as u64;
            span.most = Some(span.most.map_or(named, |most| most.min(named)));
        }
        span
    }
}
