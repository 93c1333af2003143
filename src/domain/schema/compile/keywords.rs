//! The keywords of one schema, checked and put in their places.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::refs::Place;
use super::{Compiler, Invalid};
use crate::domain::schema::compiled::{
    ArrayRules, Bound, Combined, Deep, Entry, Id, Listed, NumberRules, ObjectRules, Plain, StringRules, Table, Types,
};
use crate::domain::schema::keywords::Draft;
use crate::domain::schema::number::{self, Number};
use crate::domain::schema::tree::Kind;

/// Keywords that are checked for their type alone.
const TEXTS: &[&str] = &[
    "$schema",
    "$id",
    "$anchor",
    "$dynamicAnchor",
    "$comment",
    "title",
    "description",
    "format",
    "contentEncoding",
    "contentMediaType",
];

/// Keywords that lead to no other schemas.
const PLAIN: &[&str] = &[
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxLength",
    "maximum",
    "minLength",
    "minimum",
    "multipleOf",
    "pattern",
    "type",
];

/// The keywords of one schema by their names.
type Keywords = HashMap<String, Place>;

impl Compiler {
    /// Reads the keywords of a node.
    pub(super) fn read(&mut self, id: Id, place: Place) -> Result<(), Invalid> {
        let tree = self.tree(place);
        let keywords: Keywords =
            tree.children(place.at).map(|at| (tree.key(at).to_owned(), Place { at, ..place })).collect();
        self.step(keywords.len() as u64)?;
        let is_newest = self.draft(place) == Draft::Newest;
        let mut combined = Vec::new();
        if let Some(place) = keywords.get("$ref") {
            combined.push(self.reference(*place, false)?);
        }
        if !is_newest && !combined.is_empty() {
            self.nodes[id as usize].deep = Some(Box::new(Deep { combined, ..Deep::default() }));
            return Ok(());
        }
        if let Some(place) = keywords.get("$dynamicRef").filter(|_| is_newest) {
            combined.push(self.reference(*place, true)?);
        }
        for keyword in TEXTS {
            if let Some(place) = keywords.get(*keyword) {
                self.text(*place)?;
            }
        }
        let plain = self.plain(&keywords)?;
        let array = self.array_rules(&keywords, is_newest)?;
        let object = self.object_rules(&keywords, is_newest)?;
        self.combine(&keywords, &mut combined)?;
        for keyword in ["$defs", "definitions"] {
            if let Some(place) = keywords.get(keyword) {
                self.schemas_by_name(*place)?;
            }
        }
        let is_deep = array.is_some() || object.is_some() || !combined.is_empty();
        let node = &mut self.nodes[id as usize];
        node.plain = plain;
        node.deep = is_deep.then(|| Box::new(Deep { array, object, combined }));
        Ok(())
    }

    /// What the keywords say that lead to no other schemas.
    fn plain(&mut self, keywords: &Keywords) -> Result<Arc<Plain>, Invalid> {
        let mut written = Vec::new();
        for keyword in PLAIN {
            let Some(place) = keywords.get(*keyword).copied() else { continue };
            let tree = self.tree(place);
            written.extend(keyword.as_bytes());
            tree.write_canonical(place.at, &mut written);
            // Violations show a number as it is written.
            if tree.kind(place.at) == Kind::Number {
                written.extend(tree.text(place.at).as_bytes());
            }
        }
        if let Some(known) = self.plain.get(&written) {
            return Ok(known.clone());
        }
        let plain = Arc::new(Plain {
            takes_nothing: false,
            types: self.types(keywords)?,
            listed: self.listed(keywords)?,
            number: self.number_rules(keywords)?,
            string: self.string_rules(keywords)?,
        });
        self.plain.insert(written, plain.clone());
        Ok(plain)
    }

    fn reference(&mut self, place: Place, is_dynamic: bool) -> Result<Combined, Invalid> {
        let reference = self.text(place)?;
        let mut looks = 1;
        let target = self.resources.resolve(place, &reference, &mut looks);
        self.step(looks)?;
        let target = target.map_err(|message| self.malformed(place, message))?;
        let id = self.node(target.place)?;
        Ok(match target.dynamic.filter(|_| is_dynamic) {
            Some(anchor) => {
                self.is_dynamic = true;
                Combined::DynamicRef(id, self.names.number(&anchor))
            }
            None => Combined::Ref(id),
        })
    }

    fn types(&mut self, keywords: &Keywords) -> Result<Types, Invalid> {
        let Some(place) = keywords.get("type").copied() else { return Ok(Types::ALL) };
        const WRONG: &str = "a type is `null`, `boolean`, `number`, `integer`, `string`, `array` or `object`";
        let mut named = vec![place];
        if self.tree(place).kind(place.at) == Kind::Array {
            named = self.elements(place)?;
            self.some(place, &named)?;
        }
        let mut types = Types::NONE;
        for place in named {
            let tree = self.tree(place);
            let name = if tree.kind(place.at) == Kind::String { Types::named(tree.text(place.at)) } else { None };
            let name = name.ok_or_else(|| self.malformed(place, WRONG.to_owned()))?;
            types = types.with(name);
        }
        Ok(types)
    }

    fn listed(&mut self, keywords: &Keywords) -> Result<Vec<(&'static str, Listed)>, Invalid> {
        let mut all = Vec::new();
        for keyword in ["const", "enum"] {
            let Some(place) = keywords.get(keyword).copied() else { continue };
            let values = if keyword == "enum" { self.elements(place)? } else { vec![place] };
            self.step(u64::from(self.tree(place).size(place.at)))?;
            let tree = self.tree(place);
            let mut listed = Listed::default();
            for value in values {
                match tree.kind(value.at) {
                    Kind::String => listed.texts.push(tree.text(value.at).into()),
                    kind => {
                        listed.has_compound |= matches!(kind, Kind::Array | Kind::Object);
                        let mut canonical = Vec::new();
                        tree.write_canonical(value.at, &mut canonical);
                        listed.others.insert(canonical.into());
                    }
                }
            }
            listed.texts.sort_unstable();
            listed.texts.dedup();
            all.push((keyword, listed));
        }
        Ok(all)
    }

    fn number_rules(&mut self, keywords: &Keywords) -> Result<Option<NumberRules>, Invalid> {
        let mut rules = NumberRules::default();
        let mut is_there = false;
        for (keyword, bound) in [
            ("minimum", &mut rules.minimum),
            ("exclusiveMinimum", &mut rules.exclusive_minimum),
            ("maximum", &mut rules.maximum),
            ("exclusiveMaximum", &mut rules.exclusive_maximum),
        ] {
            if let Some(place) = keywords.get(keyword) {
                self.number(*place)?;
                let text = self.tree(*place).text(place.at);
                *bound = Some(Bound { text: text.into(), short: number::short(text) });
                is_there = true;
            }
        }
        if let Some(place) = keywords.get("multipleOf") {
            let number = self.number(*place)?;
            if !number.is_positive() {
                return Err(self.malformed(*place, "the step is greater than zero".to_owned()));
            }
            let step = number.to_step();
            rules.multiple_of =
                Some(step.ok_or_else(|| self.malformed(*place, "the step has at most 18 digits".to_owned()))?);
            is_there = true;
        }
        Ok(is_there.then_some(rules))
    }

    fn string_rules(&mut self, keywords: &Keywords) -> Result<Option<StringRules>, Invalid> {
        let mut rules = StringRules {
            least: self.count(keywords, "minLength")?,
            most: self.count(keywords, "maxLength")?,
            pattern: None,
        };
        if let Some(place) = keywords.get("pattern") {
            let pattern = self.text(*place)?;
            rules.pattern = Some(self.pattern(*place, &pattern)?).filter(|pattern| !pattern.takes_everything());
        }
        let is_there = rules.least.is_some() || rules.most.is_some() || rules.pattern.is_some();
        Ok(is_there.then_some(rules))
    }

    fn array_rules(&mut self, keywords: &Keywords, is_newest: bool) -> Result<Option<ArrayRules>, Invalid> {
        let mut rules = ArrayRules {
            least: self.count(keywords, "minItems")?,
            most: self.count(keywords, "maxItems")?,
            ..ArrayRules::default()
        };
        if let Some(place) = keywords.get("uniqueItems") {
            rules.is_unique = match self.tree(*place).kind(place.at) {
                Kind::True => true,
                Kind::False => false,
                _ => return Err(self.malformed(*place, "this is a boolean".to_owned())),
            };
        }
        let lists = |place: &Place| self.tree(*place).kind(place.at) == Kind::Array;
        let items = keywords.get("items").copied();
        if is_newest {
            if let Some(place) = items.filter(lists) {
                return Err(self.malformed(place, "a list of schemas is `prefixItems` in 2020-12".to_owned()));
            }
            if let Some(place) = keywords.get("prefixItems") {
                rules.first = self.schemas(*place)?;
            }
            rules.rest = self.schema(keywords, "items")?;
            rules.unevaluated = self.schema(keywords, "unevaluatedItems")?;
        } else if let Some(place) = items.filter(lists) {
            rules.first = self.schemas_or_none(place)?;
            rules.rest = self.schema(keywords, "additionalItems")?;
        } else {
            rules.rest = self.schema(keywords, "items")?;
        }
        if let Some(contains) = self.schema(keywords, "contains")? {
            let (mut least, mut most) = (1, u64::MAX);
            if is_newest {
                least = self.count(keywords, "minContains")?.unwrap_or(least);
                most = self.count(keywords, "maxContains")?.unwrap_or(most);
            }
            rules.contains = Some((contains, least, most));
        }
        let is_there = rules.least.is_some()
            || rules.most.is_some()
            || rules.is_unique
            || !rules.first.is_empty()
            || rules.rest.is_some()
            || rules.contains.is_some()
            || rules.unevaluated.is_some();
        Ok(is_there.then_some(rules))
    }

    fn object_rules(&mut self, keywords: &Keywords, is_newest: bool) -> Result<Option<ObjectRules>, Invalid> {
        let mut rules = ObjectRules {
            least: self.count(keywords, "minProperties")?,
            most: self.count(keywords, "maxProperties")?,
            ..ObjectRules::default()
        };
        let mut entries = BTreeMap::<u32, Entry>::new();
        if let Some(place) = keywords.get("properties") {
            for (name, schema) in self.schemas_by_name(*place)? {
                let number = self.names.number(&name);
                entries.entry(number).or_default().schema = Some(schema);
            }
        }
        if let Some(place) = keywords.get("required") {
            rules.required = self.numbers_of_names(*place)?;
            for number in &rules.required {
                entries.entry(*number).or_default().is_required = true;
            }
        }
        rules.properties = Table::new(entries.into_iter().collect());
        if let Some(place) = keywords.get("patternProperties") {
            for (pattern, schema) in self.schemas_by_name(*place)? {
                let node = &self.nodes[schema as usize];
                let at = Place { document: node.document, at: node.at };
                rules.patterns.push((self.pattern(at, &pattern)?, schema));
            }
        }
        rules.additional = self.schema(keywords, "additionalProperties")?;
        rules.names = self.schema(keywords, "propertyNames")?;
        if is_newest {
            if let Some(place) = keywords.get("dependentRequired") {
                for member in self.members(*place)? {
                    self.dependency(member, &mut rules, true, false)?;
                }
            }
            if let Some(place) = keywords.get("dependentSchemas") {
                for member in self.members(*place)? {
                    self.dependency(member, &mut rules, false, true)?;
                }
            }
            rules.unevaluated = self.schema(keywords, "unevaluatedProperties")?;
        } else if let Some(place) = keywords.get("dependencies") {
            for member in self.members(*place)? {
                self.dependency(member, &mut rules, true, true)?;
            }
        }
        let is_there = rules.least.is_some()
            || rules.most.is_some()
            || !rules.properties.is_empty()
            || !rules.patterns.is_empty()
            || rules.additional.is_some()
            || rules.names.is_some()
            || !rules.asked.is_empty()
            || !rules.dependent.is_empty()
            || rules.unevaluated.is_some();
        Ok(is_there.then_some(rules))
    }

    /// What a name asks for: other names, or a schema.
    fn dependency(
        &mut self,
        member: Place,
        rules: &mut ObjectRules,
        may_list: bool,
        may_be_schema: bool,
    ) -> Result<(), Invalid> {
        let name = self.tree(member).key(member.at).to_owned();
        let name = self.names.number(&name);
        if may_list && (!may_be_schema || self.tree(member).kind(member.at) == Kind::Array) {
            let asked = self.numbers_of_names(member)?;
            rules.asked.push((name, asked));
        } else {
            rules.dependent.push((name, self.node(member)?));
        }
        Ok(())
    }

    fn combine(&mut self, keywords: &Keywords, combined: &mut Vec<Combined>) -> Result<(), Invalid> {
        if let Some(place) = keywords.get("allOf") {
            combined.push(Combined::AllOf(self.schemas(*place)?));
        }
        if let Some(place) = keywords.get("anyOf") {
            combined.push(Combined::AnyOf(self.schemas(*place)?));
        }
        if let Some(place) = keywords.get("oneOf") {
            combined.push(Combined::OneOf(self.schemas(*place)?));
        }
        if let Some(not) = self.schema(keywords, "not")? {
            combined.push(Combined::Not(not));
        }
        let (then, otherwise) = (self.schema(keywords, "then")?, self.schema(keywords, "else")?);
        if let Some(condition) = self.schema(keywords, "if")? {
            combined.push(Combined::If(condition, then, otherwise));
        }
        Ok(())
    }

    fn text(&self, place: Place) -> Result<String, Invalid> {
        let tree = self.tree(place);
        match tree.kind(place.at) {
            Kind::String => Ok(tree.text(place.at).to_owned()),
            _ => Err(self.malformed(place, "this is a string".to_owned())),
        }
    }

    fn number(&self, place: Place) -> Result<Number<'_>, Invalid> {
        let tree = self.tree(place);
        match tree.kind(place.at) {
            Kind::Number => Ok(tree.number(place.at)),
            _ => Err(self.malformed(place, "this is a number".to_owned())),
        }
    }

    fn count(&self, keywords: &Keywords, keyword: &str) -> Result<Option<u64>, Invalid> {
        let Some(place) = keywords.get(keyword).copied() else { return Ok(None) };
        let count = self.number(place)?.to_count();
        count.map(Some).ok_or_else(|| self.malformed(place, "this is an integer that is not negative".to_owned()))
    }

    fn elements(&self, place: Place) -> Result<Vec<Place>, Invalid> {
        let tree = self.tree(place);
        match tree.kind(place.at) {
            Kind::Array => Ok(tree.children(place.at).map(|at| Place { at, ..place }).collect()),
            _ => Err(self.malformed(place, "this is an array".to_owned())),
        }
    }

    fn members(&self, place: Place) -> Result<Vec<Place>, Invalid> {
        let tree = self.tree(place);
        match tree.kind(place.at) {
            Kind::Object => Ok(tree.children(place.at).map(|at| Place { at, ..place }).collect()),
            _ => Err(self.malformed(place, "this is an object".to_owned())),
        }
    }

    fn some(&self, place: Place, listed: &[Place]) -> Result<(), Invalid> {
        if listed.is_empty() { Err(self.malformed(place, "this is not empty".to_owned())) } else { Ok(()) }
    }

    fn numbers_of_names(&mut self, place: Place) -> Result<Vec<u32>, Invalid> {
        let mut numbers = Vec::new();
        for name in self.elements(place)? {
            let name = self.text(name)?;
            numbers.push(self.names.number(&name));
        }
        self.step(numbers.len() as u64)?;
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    fn schema(&mut self, keywords: &Keywords, keyword: &str) -> Result<Option<Id>, Invalid> {
        keywords.get(keyword).map(|place| self.node(*place)).transpose()
    }

    /// The schemas of a list that is not empty.
    fn schemas(&mut self, place: Place) -> Result<Vec<Id>, Invalid> {
        let schemas = self.schemas_or_none(place)?;
        if schemas.is_empty() { Err(self.malformed(place, "this is not empty".to_owned())) } else { Ok(schemas) }
    }

    fn schemas_or_none(&mut self, place: Place) -> Result<Vec<Id>, Invalid> {
        self.elements(place)?.into_iter().map(|schema| self.node(schema)).collect()
    }

    fn schemas_by_name(&mut self, place: Place) -> Result<Vec<(String, Id)>, Invalid> {
        let mut named = Vec::new();
        for member in self.members(place)? {
            let name = self.tree(member).key(member.at).to_owned();
            named.push((name, self.node(member)?));
        }
        Ok(named)
    }
}
