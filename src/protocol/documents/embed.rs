//! A JSON Schema as a part of a larger document, in which it means the same.
//!
//! References of a schema are relative to the schema, those of a document to the document. So a reference that leads to
//! a place in the schema is rewritten to lead to that place in the document, and what names places otherwise (`$id`,
//! `$anchor`) is left out. A schema whose dynamic references depend on the way that has led to them cannot be rewritten:
//! it stays as it is, as a resource with an `$id` of its own.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use url::Url;

use super::tree::Tree;
use crate::domain::schema::keywords::{Draft, LIST, NAMED, ONE};

/// What names a place in a schema, or says what it is.
const NAMES: &[&str] = &["$anchor", "$dynamicAnchor", "$id", "$schema"];
/// The base of a schema that does not say its own.
const NO_BASE: &str = "schema:/";
/// Deepest schema that is looked into.
const MAX_DEPTH: usize = 100;

/// The draft of a schema.
pub fn draft(schema: &Tree) -> Draft {
    Draft::named(schema.get("$schema").and_then(Tree::text).as_deref())
}

/// Whether the value of a keyword is a schema, or a list of schemas.
fn has_schemas(keyword: &str) -> bool {
    ONE.contains(&keyword) || LIST.contains(&keyword)
}

/// The schema as it is written at the JSON Pointer `place` of a document. `id` names it if it has to keep its own base.
pub fn embed(schema: &Tree, place: &str, id: &str) -> Tree {
    let mut plan = Plan::new(draft(schema));
    let base = Url::parse(NO_BASE).expect("invariant: it is a URL");
    plan.explore(schema, String::new(), String::new(), &base, 0);
    // What a reference leads to may be no schema by its place, and is one all the same.
    let mut at = 0;
    while let Some(reference) = plan.references.get(at) {
        at += 1;
        if let Some(target) = plan.target(reference)
            && !plan.seen.contains_key(&target)
            && let Some(found) = schema.at(&target)
        {
            let (base, resource) = (reference.base.clone(), reference.resource.clone());
            plan.explore(found, target, resource, &base, 1);
        }
    }
    // Where an anchor names more than one place, the way to it decides.
    let is_dynamic = plan.of_dynamic.iter().any(|of| plan.dynamic.get(of).is_some_and(|count| *count > 1));
    if plan.is_beyond || is_dynamic {
        return as_it_is(schema, id);
    }
    plan.rewritten(schema, "", place)
}

/// The schema under a name of its own, unless it has one.
fn as_it_is(schema: &Tree, id: &str) -> Tree {
    let mut own = schema.clone();
    if let Tree::Object(members) = &mut own
        && !members.iter().any(|(name, _)| name == "$id")
    {
        members.insert(0, ("$id".to_owned(), Tree::from(id)));
    }
    own
}

#[derive(Debug, Clone)]
struct Reference {
    base: Url,
    /// The place of the resource that it stands in.
    resource: String,
    text: String,
}

/// What is where in a schema. Places are JSON Pointers.
#[derive(Debug)]
struct Plan {
    draft: Draft,
    /// The place of each resource, by its URI.
    resources: BTreeMap<String, String>,
    /// The place of each anchor, by the place of its resource and its name.
    anchors: BTreeMap<(String, String), String>,
    /// How often a dynamic anchor has each name.
    dynamic: BTreeMap<String, usize>,
    /// The names in dynamic references.
    of_dynamic: Vec<String>,
    references: Vec<Reference>,
    /// The base and the resource of each schema.
    seen: BTreeMap<String, (Url, String)>,
    /// It cannot be rewritten.
    is_beyond: bool,
}

impl Plan {
    fn new(draft: Draft) -> Self {
        Self {
            draft,
            resources: BTreeMap::new(),
            anchors: BTreeMap::new(),
            dynamic: BTreeMap::new(),
            of_dynamic: Vec::new(),
            references: Vec::new(),
            seen: BTreeMap::new(),
            is_beyond: false,
        }
    }

    fn explore(&mut self, schema: &Tree, place: String, resource: String, base: &Url, depth: usize) {
        let Tree::Object(members) = schema else { return };
        if depth > MAX_DEPTH || self.seen.contains_key(&place) {
            self.is_beyond |= depth > MAX_DEPTH;
            return;
        }
        let text = |name: &str| schema.get(name).and_then(Tree::text);
        // Beside a reference nothing counted in draft 7.
        let is_alone = self.draft == Draft::Seven && text("$ref").is_some();
        let (mut base, mut resource) = (base.clone(), resource);
        if place.is_empty() {
            self.resources.insert(without_fragment(&base), place.clone());
        }
        match text("$id").filter(|_| !is_alone) {
            Some(id) if self.draft == Draft::Seven && id.starts_with('#') => {
                self.anchors.insert((resource.clone(), id[1..].to_owned()), place.clone());
            }
            Some(id) => {
                let Ok(own) = base.join(&id) else {
                    self.is_beyond = true;
                    return;
                };
                // A part in another draft.
                self.is_beyond |= !place.is_empty() && text("$schema").is_some() && draft(schema) != self.draft;
                self.resources.insert(without_fragment(&own), place.clone());
                (base, resource) = (own, place.clone());
            }
            None => {}
        }
        for name in ["$anchor", "$dynamicAnchor"] {
            if let Some(anchor) = text(name) {
                self.anchors.insert((resource.clone(), anchor.clone()), place.clone());
                if name == "$dynamicAnchor" {
                    *self.dynamic.entry(anchor).or_default() += 1;
                }
            }
        }
        for name in ["$ref", "$dynamicRef"] {
            if let Some(text) = text(name) {
                self.references.push(Reference { base: base.clone(), resource: resource.clone(), text });
            }
        }
        self.of_dynamic.extend(text("$dynamicRef").and_then(|text| text.split_once('#').map(|(_, of)| of.to_owned())));
        self.is_beyond |= text("$ref").is_some() && text("$dynamicRef").is_some();
        self.seen.insert(place.clone(), (base.clone(), resource.clone()));
        for (name, value) in members {
            let below = format!("{place}/{}", escaped(name));
            if is_alone && !["$defs", "definitions"].contains(&&**name) {
                continue;
            }
            match value {
                Tree::Array(items) if has_schemas(name) => {
                    for (at, item) in items.iter().enumerate() {
                        self.explore(item, format!("{below}/{at}"), resource.clone(), &base, depth + 1);
                    }
                }
                Tree::Object(_) if has_schemas(name) => {
                    self.explore(value, below, resource.clone(), &base, depth + 1);
                }
                Tree::Object(of) if NAMED.contains(&&**name) => {
                    for (name, schema) in of {
                        let below = format!("{below}/{}", escaped(name));
                        self.explore(schema, below, resource.clone(), &base, depth + 1);
                    }
                }
                _ => {}
            }
        }
    }

    /// The place that a reference leads to; none if it leads out of the schema.
    fn target(&self, Reference { base, resource, text }: &Reference) -> Option<String> {
        let (uri, fragment) = text.split_once('#').unwrap_or((text, ""));
        let resource = match uri.is_empty() {
            true => resource,
            false => self.resources.get(&without_fragment(&base.join(uri).ok()?))?,
        };
        let fragment = percent_decode_str(fragment).decode_utf8().ok()?;
        match fragment.is_empty() || fragment.starts_with('/') {
            true => Some(format!("{resource}{fragment}")),
            false => self.anchors.get(&(resource.clone(), fragment.into_owned())).cloned(),
        }
    }

    /// The same in a document, where what is at `place` in the schema is below `prefix`.
    fn rewritten(&self, tree: &Tree, place: &str, prefix: &str) -> Tree {
        match tree {
            Tree::Leaf(_) => tree.clone(),
            Tree::Array(items) => {
                let item = |(at, item)| self.rewritten(item, &format!("{place}/{at}"), prefix);
                Tree::Array(items.iter().enumerate().map(item).collect())
            }
            Tree::Object(members) => {
                let of_schema = self.seen.get(place);
                let member = |(name, value): &(String, Tree)| {
                    let below = format!("{place}/{}", escaped(name));
                    let Some((base, resource)) = of_schema else {
                        return Some((name.clone(), self.rewritten(value, &below, prefix)));
                    };
                    if NAMES.contains(&&**name) && value.text().is_some() {
                        return None;
                    }
                    let text = value.text().filter(|_| matches!(&**name, "$ref" | "$dynamicRef"));
                    let target = text.map(|text| Reference { base: base.clone(), resource: resource.clone(), text });
                    match target.and_then(|reference| self.target(&reference)) {
                        Some(target) => {
                            let target = format!("#{prefix}{}", in_uri(&target));
                            Some(("$ref".to_owned(), Tree::from(&*target)))
                        }
                        None => Some((name.clone(), self.rewritten(value, &below, prefix))),
                    }
                };
                Tree::Object(members.iter().filter_map(member).collect())
            }
        }
    }
}

fn without_fragment(uri: &Url) -> String {
    let mut uri = uri.clone();
    uri.set_fragment(None);
    uri.to_string()
}

/// A name as a part of a JSON Pointer.
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A JSON Pointer as the fragment of a URI.
fn in_uri(pointer: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'$')
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    percent_encoding::utf8_percent_encode(pointer, KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(schema: &str) -> String {
        embed(&Tree::parse(schema).expect("JSON"), "/c/X", "urn:x").to_string()
    }

    #[test]
    fn references_lead_to_where_the_schema_is() {
        for (schema, expected) in [
            (
                r##"{"$ref":"#/$defs/a","$defs":{"a":{"type":"string"}}}"##,
                r##"{"$ref":"#/c/X/$defs/a","$defs":{"a":{"type":"string"}}}"##,
            ),
            (r##"{"properties":{"next":{"$ref":"#"}}}"##, r##"{"properties":{"next":{"$ref":"#/c/X"}}}"##),
            // By an anchor, and by an inner `$id`.
            (
                r##"{"$ref":"#a","$defs":{"b":{"$anchor":"a","maximum":1e400}}}"##,
                r##"{"$ref":"#/c/X/$defs/b","$defs":{"b":{"maximum":1e400}}}"##,
            ),
            (
                r##"{"$id":"http://h/r","$ref":"s#/$defs/d","$defs":{"b":{"$id":"s","$ref":"#/$defs/d","$defs":{"d":true}}}}"##,
                r##"{"$ref":"#/c/X/$defs/b/$defs/d","$defs":{"b":{"$ref":"#/c/X/$defs/b/$defs/d","$defs":{"d":true}}}}"##,
            ),
            // What is data, and properties with the names of keywords.
            (r##"{"const":{"$ref":"#/x","$id":"y"}}"##, r##"{"const":{"$ref":"#/x","$id":"y"}}"##),
            (
                r##"{"properties":{"$ref":{"$ref":"#"},"$id":{"type":"string"}}}"##,
                r##"{"properties":{"$ref":{"$ref":"#/c/X"},"$id":{"type":"string"}}}"##,
            ),
            // Odd names.
            (
                r##"{"$ref":"#/$defs/a~1b%25%20c","$defs":{"a/b% c":{"$ref":"#"}}}"##,
                r##"{"$ref":"#/c/X/$defs/a~1b%25%20c","$defs":{"a/b% c":{"$ref":"#/c/X"}}}"##,
            ),
            // A target that is a schema by being one.
            (
                r##"{"$ref":"#/x/y","x":{"y":{"$ref":"#/x/z"},"z":{"$ref":"#"}}}"##,
                r##"{"$ref":"#/c/X/x/y","x":{"y":{"$ref":"#/c/X/x/z"},"z":{"$ref":"#/c/X"}}}"##,
            ),
            // What leads out of it.
            (
                r##"{"$ref":"https://json-schema.org/draft/2020-12/schema"}"##,
                r##"{"$ref":"https://json-schema.org/draft/2020-12/schema"}"##,
            ),
            // A dynamic reference with one place to lead to.
            (
                r##"{"$dynamicAnchor":"n","properties":{"c":{"$dynamicRef":"#n"}}}"##,
                r##"{"properties":{"c":{"$ref":"#/c/X"}}}"##,
            ),
            ("true", "true"),
            ("false", "false"),
            // Draft 7.
            (
                r##"{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#/definitions/a","definitions":{"a":{"$id":"#k"}}}"##,
                r##"{"$ref":"#/c/X/definitions/a","definitions":{"a":{}}}"##,
            ),
        ] {
            assert_eq!(embedded(schema), expected, "{schema}");
        }
    }

    #[test]
    fn what_depends_on_the_way_to_it_stays_as_it_is() {
        let schema = r##"{"$defs":{"a":{"$id":"a","$dynamicAnchor":"n"},"b":{"$id":"b","$dynamicAnchor":"n"}},"$ref":"a","properties":{"c":{"$dynamicRef":"#n"}}}"##;
        assert_eq!(embedded(schema), format!(r#"{{"$id":"urn:x",{}"#, &schema[1..]));
        let mut deep = "true".to_owned();
        for _ in 0..MAX_DEPTH + 2 {
            deep = format!(r#"{{"not":{deep}}}"#);
        }
        assert!(embedded(&deep).starts_with(r#"{"$id":"urn:x","not":"#));
    }
}
