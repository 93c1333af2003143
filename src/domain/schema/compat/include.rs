//! Whether all that is valid under one schema is valid under another.
//!
//! The other schema is a list of demands, and each has to hold of every value: so each is looked at alone, against all
//! that is known of the values. What is known may be too little (then values count that are not valid), never too much;
//! so what is found to be included is.
//!
//! Schemas that refer to themselves are assumed to include each other while it is looked whether they do, but only below
//! the place where that was asked: payloads are finite, so such an assumption is about a smaller payload.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::Value;

use super::document::{Node, Reference};
use super::objects::reached;
use super::ranges::Types;
use super::rules::{self, Rule};
use super::same::same;
use super::sample;
use super::shape::{Part, Shape};
use super::valid::{valid, valid_under};
use super::work::{TooMuch, Work};

/// A demand that does not hold of every value.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    /// Into the new schema.
    pub(super) path: String,
    pub(super) keyword: String,
    pub(super) rule: Rule,
    pub(super) message: String,
    /// Whether it is known, even without a witness.
    pub(super) is_decided: bool,
    /// Payloads that may show it.
    pub(super) witnesses: Vec<Value>,
}

/// Witnesses of one finding that are tried.
const MAX_WITNESSES: usize = 24;

/// What is known of the values at one place.
#[derive(Clone, Copy)]
pub(super) struct Here<'a, 's> {
    pub(super) shape: &'s Shape<'a>,
    /// The schemas that look at the place, by whatever way: they name the properties that count.
    pub(super) naming: &'s [Node<'a>],
}

type Question = (Vec<(u8, usize)>, Vec<usize>, usize, bool);

pub(super) struct Comparer {
    pub(super) work: Work,
    /// Whether properties count that no schema names.
    pub(super) strict: bool,
    /// Whether the demands are those of the new schema.
    pub(super) backward: bool,
    /// Values in values, to the place that is looked at.
    pub(super) level: usize,
    assumed: HashMap<Question, usize>,
    /// Where the new schema is looked at, if the demands are those of the old one.
    beside: Rc<str>,
}

pub(super) type Findings = Result<Vec<Finding>, TooMuch>;

impl Comparer {
    pub(super) fn new(strict: bool, backward: bool) -> Self {
        Self { work: Work::new(), strict, backward, level: 0, assumed: HashMap::new(), beside: "".into() }
    }

    /// What is found of values one level deeper.
    pub(super) fn below<'a>(&mut self, from: &[Part<'a>], naming: &[Node<'a>], into: &Node<'a>) -> Findings {
        self.level += 1;
        let found = self.include(from, naming, into);
        self.level -= 1;
        found
    }

    /// Whether all that is valid under some parts is valid under a schema, whichever properties it has.
    pub(super) fn is_included<'a>(&mut self, from: &[Part<'a>], into: &Node<'a>) -> Result<bool, TooMuch> {
        let was_strict = std::mem::replace(&mut self.strict, true);
        let found = self.include(from, &[], into);
        self.strict = was_strict;
        Ok(found?.is_empty())
    }

    pub(super) fn include<'a>(&mut self, from: &[Part<'a>], naming: &[Node<'a>], into: &Node<'a>) -> Findings {
        self.work.step()?;
        if into.takes_everything() {
            return Ok(Vec::new());
        }
        let mut parts: Vec<_> = from.iter().map(Part::identity).collect();
        let naming = if self.strict { Vec::new() } else { reached(naming) };
        let mut names: Vec<_> = naming.iter().map(Node::identity).collect();
        parts.sort_unstable();
        names.sort_unstable();
        let question = (parts, names, into.identity(), self.strict);
        match self.assumed.get(&question) {
            Some(level) if *level < self.level => return Ok(Vec::new()),
            Some(_) => return Ok(vec![self.undecided(None, into, "$ref")]),
            None => {}
        }
        let of_other = from.iter().find_map(|part| match part {
            Part::Valid(node) if !std::ptr::eq(node.document, into.document) => Some(node.pointer.clone()),
            _ => None,
        });
        let outside = self.beside.clone();
        self.beside = of_other.unwrap_or_else(|| outside.clone());
        self.assumed.insert(question.clone(), self.level);
        let found = self.include_each(from, &naming, into);
        self.beside = outside;
        self.assumed.remove(&question);
        found
    }

    fn include_each<'a>(&mut self, from: &[Part<'a>], naming: &[Node<'a>], into: &Node<'a>) -> Findings {
        let Ok(shapes) = Shape::all(from, &mut self.work) else {
            self.work.step()?;
            return Ok(vec![self.undecided(None, into, "")]);
        };
        let mut found = Vec::new();
        for shape in &shapes {
            found.extend(self.unless_empty(Here { shape, naming }, into)?);
        }
        Ok(found)
    }

    /// What is found, unless there are no such values.
    fn unless_empty<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>) -> Findings {
        let found = self.demands(here, into, &mut Vec::new())?;
        if !found.is_empty() && self.is_empty(here.shape)? {
            return Ok(Vec::new());
        }
        Ok(found)
    }

    /// `open`: the schemas whose demands are being looked at.
    pub(super) fn demands<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, open: &mut Vec<usize>) -> Findings {
        self.work.step()?;
        if into.takes_everything() || here.shape.valid.iter().any(|node| same(node, into, &mut self.work.left)) {
            return Ok(Vec::new());
        }
        if let Value::Bool(_) = into.value {
            let witnesses = self.samples(here.shape)?;
            return Ok(vec![self.found(
                here,
                into,
                "",
                rules::FORBIDDEN,
                "nothing is allowed here".to_owned(),
                witnesses,
            )]);
        }
        if open.contains(&into.identity()) {
            return Ok(vec![self.undecided(Some(here), into, "$ref")]);
        }
        open.push(into.identity());
        let mut found = Vec::new();
        for (keyword, value) in into.keywords() {
            found.extend(match &here.shape.values {
                Some(values) if !matches!(keyword, "$ref" | "allOf") => self.values(here, values, into, keyword)?,
                _ => self.demand(here, into, keyword, value, open)?,
            });
        }
        open.pop();
        Ok(found)
    }

    /// Each of the values that are possible, under one keyword.
    fn values<'a>(&mut self, here: Here<'a, '_>, values: &[&'a Value], into: &Node<'a>, keyword: &str) -> Findings {
        let mut found = Vec::new();
        for value in values {
            self.work.step()?;
            let verdict = valid_under(keyword, value, into, &mut self.work);
            if verdict == Some(true) || self.is_not_of(value, here.shape) {
                continue;
            }
            let witnesses = vec![(*value).clone()];
            let message = format!("{} is refused by `{keyword}`", shown(value));
            let mut finding = self.found(here, into, keyword, rules::of_keyword(keyword), message, witnesses);
            finding.is_decided = verdict.is_some();
            found.push(finding);
        }
        Ok(found)
    }

    /// Whether a value is known not to be one of a shape.
    pub(super) fn is_not_of<'a>(&mut self, value: &Value, shape: &Shape<'a>) -> bool {
        shape.valid.iter().any(|node| valid(value, node, &mut self.work) == Some(false))
            || shape.invalid.iter().any(|node| valid(value, node, &mut self.work) == Some(true))
    }

    fn demand<'a>(
        &mut self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &'a str,
        value: &'a Value,
        open: &mut Vec<usize>,
    ) -> Findings {
        if super::document::is_annotation(keyword, into.document.draft) {
            return Ok(Vec::new());
        }
        match keyword {
            "$ref" => match into.reference() {
                Some(Reference::To(target)) => self.demands(here, &target, open),
                _ => self.unless_there(here, into, keyword),
            },
            "allOf" => {
                let mut found = Vec::new();
                for one in into.list(keyword) {
                    found.extend(self.demands(here, &one, open)?);
                }
                Ok(found)
            }
            "anyOf" | "oneOf" => self.alternatives(here, into, keyword, open),
            "not" => self.negation(here, into),
            "if" => self.condition(here, into, open),
            "type" => self.types(here, into, value),
            "$dynamicRef" => self.unless_there(here, into, keyword),
            "enum" | "const" => {
                let rule = if keyword == "enum" { rules::ENUM } else { rules::CONST };
                let witnesses = self.samples(here.shape)?;
                Ok(vec![self.found(
                    here,
                    into,
                    keyword,
                    rule,
                    format!("`{keyword}` does not list all that may come"),
                    witnesses,
                )])
            }
            _ => {
                let mut found = self.scalar(here, into, keyword, value)?;
                if here.shape.types.meets(Types::ARRAY) {
                    found.extend(self.array(here, into, keyword)?);
                }
                if here.shape.types.meets(Types::OBJECT) {
                    found.extend(self.object(here, into, keyword, open)?);
                }
                Ok(found)
            }
        }
    }

    fn types<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, value: &Value) -> Findings {
        let refused = here.shape.types.without(Types::of(value));
        if refused.is_empty() {
            return Ok(Vec::new());
        }
        let mut witnesses = Vec::new();
        for shape in here.shape.with(vec![Part::Of(refused)], &mut self.work)? {
            if !self.is_empty(&shape)? {
                witnesses.extend(self.samples(&shape)?);
            }
        }
        let message = format!("`type` does not allow {}", refused.names());
        Ok(vec![self.found(here, into, "type", rules::TYPE, message, witnesses)])
    }

    /// A demand that is met only by the same one.
    pub(super) fn unless_there<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, keyword: &str) -> Findings {
        let has_same = |node: &&Node<'a>| match (node.get(keyword), into.get(keyword)) {
            (Some(one), Some(other)) => {
                keyword == "$ref" && one == other && one.as_str().is_some_and(|to| to.contains(':'))
            }
            _ => false,
        };
        if here.shape.valid.iter().find(has_same).is_some() {
            return Ok(Vec::new());
        }
        let mut finding = self.undecided(Some(here), into, keyword);
        finding.witnesses = self.samples(here.shape)?;
        Ok(vec![finding])
    }

    /// `anyOf` and `oneOf`: each type by itself, since the alternatives are often one type each.
    fn alternatives<'a>(
        &mut self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &str,
        open: &mut Vec<usize>,
    ) -> Findings {
        let branches = into.list(keyword);
        if keyword == "anyOf" {
            for branch in &branches {
                if self.demands(here, branch, open)?.is_empty() {
                    return Ok(Vec::new());
                }
            }
        }
        let mut found = Vec::new();
        for (of, _) in Types::EACH.iter().filter(|(of, _)| here.shape.types.meets(*of)) {
            for shape in here.shape.with(vec![Part::Of(*of)], &mut self.work)? {
                let here = Here { shape: &shape, ..here };
                found.extend(self.alternatives_of_one_type(here, into, keyword, &branches, open)?);
            }
        }
        Ok(found)
    }

    fn alternatives_of_one_type<'a>(
        &mut self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &str,
        branches: &[Node<'a>],
        open: &mut Vec<usize>,
    ) -> Findings {
        let (mut possible, mut witnesses) = (Vec::new(), Vec::new());
        for branch in branches {
            if !self.are_disjoint(here.shape, branch)? {
                let found = self.demands(here, branch, open)?;
                if keyword == "anyOf" && found.is_empty() {
                    return Ok(Vec::new());
                }
                witnesses.extend(found.iter().flat_map(|finding| finding.witnesses.iter().cloned()));
                possible.push(found);
            }
        }
        if possible.len() == 1 {
            return Ok(possible.pop().unwrap_or_default());
        }
        if self.is_empty(here.shape)? {
            return Ok(Vec::new());
        }
        witnesses.extend(self.samples(here.shape)?);
        let message = format!("no single branch of `{keyword}` takes all that may come");
        let mut finding = self.found(here, into, keyword, rules::of_keyword(keyword), message, witnesses);
        finding.is_decided = possible.is_empty();
        Ok(vec![finding])
    }

    fn negation<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>) -> Findings {
        let Some(schema) = into.below("not") else { return Ok(Vec::new()) };
        if self.are_disjoint(here.shape, &schema)? {
            return Ok(Vec::new());
        }
        let mut finding = self.undecided(Some(here), into, "not");
        finding.rule = rules::NOT;
        finding.witnesses = self.samples(here.shape)?;
        for shape in here.shape.with(vec![Part::Valid(schema)], &mut self.work)? {
            finding.witnesses.extend(self.samples(&shape)?);
        }
        Ok(vec![finding])
    }

    fn condition<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, open: &mut Vec<usize>) -> Findings {
        let Some(condition) = into.below("if") else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (part, keyword) in [(Part::Valid(condition.clone()), "then"), (Part::Invalid(condition), "else")] {
            let Some(branch) = into.below(keyword) else { continue };
            for shape in here.shape.with(vec![part], &mut self.work)? {
                let here = Here { shape: &shape, ..here };
                let of_branch = self.demands(here, &branch, open)?;
                if !of_branch.is_empty() && !self.is_empty(&shape)? {
                    found.extend(of_branch);
                }
            }
        }
        Ok(found)
    }

    /// Whether no value of a shape is valid under a schema, as far as it is known.
    fn are_disjoint<'a>(&mut self, shape: &Shape<'a>, schema: &Node<'a>) -> Result<bool, TooMuch> {
        for both in shape.with(vec![Part::Valid(schema.clone())], &mut self.work)? {
            if !self.is_empty(&both)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn samples<'a>(&mut self, shape: &Shape<'a>) -> Result<Vec<Value>, TooMuch> {
        Ok(sample::of_shape(shape, !self.strict, 0, &mut self.work))
    }

    /// A demand that does not hold.
    pub(super) fn found<'a>(
        &self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &str,
        rule: Rule,
        message: String,
        mut witnesses: Vec<Value>,
    ) -> Finding {
        witnesses.truncate(MAX_WITNESSES);
        let path = self.place(Some(here), into, keyword);
        Finding { path, keyword: keyword.to_owned(), rule, message, is_decided: true, witnesses }
    }

    pub(super) fn undecided<'a>(&self, here: Option<Here<'a, '_>>, into: &Node<'a>, keyword: &str) -> Finding {
        let path = self.place(here, into, keyword);
        let rule = match rules::of_keyword(keyword) {
            rules::OTHER => rules::NOT_DECIDED,
            rule => rule,
        };
        let message = format!("`{keyword}` refuses a payload");
        Finding { path, keyword: keyword.to_owned(), rule, message, is_decided: false, witnesses: Vec::new() }
    }

    /// Where the new schema says it, or stands beside what the old one says.
    fn place<'a>(&self, here: Option<Here<'a, '_>>, into: &Node<'a>, keyword: &str) -> String {
        let at = |node: &Node<'a>| match keyword {
            "" => node.pointer.to_string(),
            _ => format!("{}/{keyword}", node.pointer),
        };
        if self.backward {
            return at(into);
        }
        let other = |node: &&Node<'a>| !std::ptr::eq(node.document, into.document);
        let known = here.iter().flat_map(|here| &here.shape.valid);
        let with_it = known.filter(other).find(|node| node.has(keyword));
        with_it.map_or_else(|| self.beside.to_string(), at)
    }
}

/// A value, short enough for a message.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
