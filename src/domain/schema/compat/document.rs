//! A schema as a document: its draft, its subschemas, and where its references lead.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value};
use url::Url;

use crate::domain::schema::keywords::{Draft, LIST, NAMED, ONE};

/// What references are relative to where a schema has no `$id`.
const NAMELESS: &str = "json-schema:///";

/// A whole schema.
pub(super) struct Document<'a> {
    root: &'a Value,
    pub(super) draft: Draft,
    /// The pointers of what has an `$id`, the root first.
    resources: Vec<(String, Url)>,
    /// Pointers by resource and name.
    anchors: HashMap<(usize, &'a str), String>,
}

/// A schema in a document.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) value: &'a Value,
    pub(super) pointer: Rc<str>,
}

/// Where a `$ref` leads.
pub(super) enum Reference<'a> {
    To(Node<'a>),
    /// Out of the document.
    Outside(&'a str),
}

impl<'a> Document<'a> {
    /// Fails with the pointer of what cannot be compared: a part with another `$schema`.
    pub(super) fn read(root: &'a Value) -> Result<Self, String> {
        let draft = Draft::named(root.get("$schema").and_then(Value::as_str));
        let base = Url::parse(NAMELESS).expect("invariant: a constant");
        let mut document = Self { root, draft, resources: vec![(String::new(), base)], anchors: HashMap::new() };
        let mut open = vec![(root, String::new(), 0)];
        while let Some((schema, pointer, resource)) = open.pop() {
            let resource = document.enter(schema, &pointer, resource)?;
            open.extend(subschemas(schema, &pointer).into_iter().map(|(schema, pointer)| (schema, pointer, resource)));
        }
        Ok(document)
    }

    /// Takes note of the names that a schema has; returns its resource.
    fn enter(&mut self, schema: &'a Value, pointer: &str, mut resource: usize) -> Result<usize, String> {
        if !pointer.is_empty() && schema.get("$schema").is_some_and(|uri| Some(uri) != self.root.get("$schema")) {
            return Err(pointer.to_owned());
        }
        let text = |keyword| schema.get(keyword).and_then(Value::as_str);
        let is_shadowed = self.draft == Draft::Seven && schema.get("$ref").is_some();
        if let Some(id) = text("$id").filter(|_| !is_shadowed) {
            let (id, name) = id.split_once('#').unwrap_or((id, ""));
            if !id.is_empty()
                && let Ok(url) = self.resources[resource].1.join(id)
            {
                match pointer {
                    "" => self.resources[0].1 = url,
                    _ => {
                        resource = self.resources.len();
                        self.resources.push((pointer.to_owned(), url));
                    }
                }
            }
            if !name.is_empty() {
                self.anchors.insert((resource, name), pointer.to_owned());
            }
        }
        for keyword in ["$anchor", "$dynamicAnchor"] {
            if let Some(name) = text(keyword) {
                self.anchors.insert((resource, name), pointer.to_owned());
            }
        }
        Ok(resource)
    }

    pub(super) fn node(&'a self) -> Node<'a> {
        Node { document: self, value: self.root, pointer: "".into() }
    }

    fn at(&'a self, pointer: &str) -> Option<Node<'a>> {
        let value = self.root.pointer(pointer)?;
        Some(Node { document: self, value, pointer: pointer.into() })
    }

    fn resolve(&'a self, from: &str, reference: &str) -> Option<Node<'a>> {
        let is_within =
            |place: &str| from.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let within = self.resources.iter().filter(|(place, _)| is_within(place));
        let (_, base) = within.max_by_key(|(place, _)| place.len())?;
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let target = if uri.is_empty() { base.clone() } else { base.join(uri).ok()? };
        let resource = self.resources.iter().position(|(_, url)| *url == target)?;
        let fragment = percent_encoding::percent_decode_str(fragment).decode_utf8().ok()?;
        match fragment.as_bytes().first() {
            None => self.at(&self.resources[resource].0),
            Some(b'/') => self.at(&format!("{}{fragment}", self.resources[resource].0)),
            Some(_) => self.at(self.anchors.get(&(resource, fragment.as_ref()))?),
        }
    }
}

/// The schemas right below one, with their pointers.
fn subschemas<'a>(schema: &'a Value, pointer: &str) -> Vec<(&'a Value, String)> {
    let mut found = Vec::new();
    let Value::Object(keywords) = schema else { return found };
    for (keyword, value) in keywords {
        let keyword = keyword.as_str();
        match value {
            Value::Array(list) if LIST.contains(&keyword) => {
                found.extend(list.iter().enumerate().map(|(at, one)| (one, format!("{pointer}/{keyword}/{at}"))));
            }
            Value::Object(named) if NAMED.contains(&keyword) => {
                let named = named.iter().filter(|(_, one)| !one.is_array());
                found.extend(named.map(|(name, one)| (one, format!("{pointer}/{keyword}/{}", escaped(name)))));
            }
            Value::Object(_) if ONE.contains(&keyword) => found.push((value, format!("{pointer}/{keyword}"))),
            _ => {}
        }
    }
    found
}

/// A name as a part of a JSON Pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

impl<'a> Node<'a> {
    /// Which schema it is: two nodes are the same one if they have the same identity.
    pub(super) fn identity(&self) -> usize {
        std::ptr::from_ref(self.value).addr()
    }

    /// The keywords that count. In draft-07 a `$ref` hides what stands beside it.
    pub(super) fn keywords(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        let hides = self.hides();
        let keywords = self.value.as_object().into_iter().flat_map(Map::iter);
        keywords
            .map(|(keyword, value)| (keyword.as_str(), value))
            .filter(move |(keyword, _)| !hides || *keyword == "$ref")
    }

    fn hides(&self) -> bool {
        self.document.draft == Draft::Seven && self.value.get("$ref").is_some()
    }

    pub(super) fn get(&self, keyword: &str) -> Option<&'a Value> {
        if self.hides() && keyword != "$ref" { None } else { self.value.as_object()?.get(keyword) }
    }

    pub(super) fn count(&self, keyword: &str) -> Option<u64> {
        count(self.get(keyword)?)
    }

    pub(super) fn has(&self, keyword: &str) -> bool {
        self.get(keyword).is_some()
    }

    /// The schema under a keyword.
    pub(super) fn below(&self, keyword: &str) -> Option<Node<'a>> {
        self.get(keyword).map(|value| self.child(value, format!("{}/{keyword}", self.pointer)))
    }

    /// The schemas in the list under a keyword.
    pub(super) fn list(&self, keyword: &str) -> Vec<Node<'a>> {
        let list = self.get(keyword).and_then(Value::as_array).into_iter().flatten().enumerate();
        list.map(|(at, value)| self.child(value, format!("{}/{keyword}/{at}", self.pointer))).collect()
    }

    /// The schemas under a keyword by name; those that are lists of names (in `dependencies`) are left out.
    pub(super) fn named(&self, keyword: &str) -> Vec<(&'a str, Node<'a>)> {
        let named = self.get(keyword).and_then(Value::as_object).into_iter().flatten();
        let named = named.filter(|(_, value)| !value.is_array());
        named.map(|(name, value)| (name.as_str(), self.entry(keyword, name, value))).collect()
    }

    /// The schema under a keyword that has one name.
    pub(super) fn called(&self, keyword: &str, name: &str) -> Option<Node<'a>> {
        let value = self.get(keyword)?.as_object()?.get(name)?;
        Some(self.entry(keyword, name, value))
    }

    fn entry(&self, keyword: &str, name: &str, value: &'a Value) -> Node<'a> {
        self.child(value, format!("{}/{keyword}/{}", self.pointer, escaped(name)))
    }

    fn child(&self, value: &'a Value, pointer: String) -> Node<'a> {
        Node { document: self.document, value, pointer: pointer.into() }
    }

    /// Where its `$ref` leads.
    pub(super) fn reference(&self) -> Option<Reference<'a>> {
        let reference = self.get("$ref")?.as_str()?;
        let target = self.document.resolve(&self.pointer, reference);
        Some(target.map_or(Reference::Outside(reference), Reference::To))
    }

    /// Whether it takes every value, as can be seen without a look at what it refers to.
    pub(super) fn takes_everything(&self) -> bool {
        match self.value {
            Value::Bool(takes) => *takes,
            _ => self.keywords().all(|(keyword, _)| is_annotation(keyword, self.document.draft)),
        }
    }
}

/// A number of characters, elements or properties: an integer, written with or without a fraction of zeros.
pub(super) fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..1e15).contains(n)).map(|n| n as u64))
}

/// Whether a keyword says nothing about which values are valid. Those that are unknown do not, nor do those that
/// count only beside another one, which asks for them.
pub(super) fn is_annotation(keyword: &str, draft: Draft) -> bool {
    let asserts = match keyword {
        "$ref"
        | "type"
        | "enum"
        | "const"
        | "multipleOf"
        | "maximum"
        | "exclusiveMaximum"
        | "minimum"
        | "exclusiveMinimum"
        | "maxLength"
        | "minLength"
        | "pattern"
        | "items"
        | "maxItems"
        | "minItems"
        | "uniqueItems"
        | "contains"
        | "maxProperties"
        | "minProperties"
        | "required"
        | "properties"
        | "patternProperties"
        | "additionalProperties"
        | "propertyNames"
        | "allOf"
        | "anyOf"
        | "oneOf"
        | "not"
        | "if"
        | "dependencies" => true,
        "additionalItems" => draft == Draft::Seven,
        "prefixItems"
        | "dependentRequired"
        | "dependentSchemas"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "$dynamicRef" => draft == Draft::Newest,
        _ => false,
    };
    !asserts
}
