//! The names that schemas have (`$id`, anchors) and where references lead: within the schema, or to a meta-schema.

use std::collections::HashMap;

use url::Url;

use super::{Invalid, malformed, subschemas};
use crate::domain::schema::keywords::Draft;
use crate::domain::schema::meta;
use crate::domain::schema::names::Names;
use crate::domain::schema::tree::{At, Kind, Tree};

/// What references are relative to where a schema has no `$id`.
const NAMELESS: &str = "json-schema:///";

/// Where a schema stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) document: u32,
    pub(super) at: At,
}

struct Document {
    tree: Tree<'static>,
    draft: Draft,
    /// The resources in it: where each begins and ends, the outer ones first.
    ranges: Vec<(At, At, u32)>,
}

/// What has an `$id`, or is a document.
struct Resource {
    url: Url,
    place: Place,
    anchors: HashMap<String, At>,
    dynamic: Vec<(String, At)>,
}

/// All that references can lead to.
pub(super) struct Resources {
    documents: Vec<Document>,
    resources: Vec<Resource>,
    by_url: HashMap<Url, u32>,
}

/// Where a reference leads.
pub(super) struct Target {
    pub(super) place: Place,
    /// The dynamic anchor that led there.
    pub(super) dynamic: Option<String>,
}

impl Resources {
    pub(super) fn new(tree: Tree<'static>) -> Result<Self, Invalid> {
        let mut resources = Self { documents: Vec::new(), resources: Vec::new(), by_url: HashMap::new() };
        let base = Url::parse(NAMELESS).expect("invariant: a constant");
        resources.add(tree, base)?;
        Ok(resources)
    }

    pub(super) fn tree(&self, document: u32) -> &Tree<'static> {
        &self.documents[document as usize].tree
    }

    pub(super) fn draft(&self, document: u32) -> Draft {
        self.documents[document as usize].draft
    }

    pub(super) fn into_trees(self) -> Vec<Tree<'static>> {
        self.documents.into_iter().map(|document| document.tree).collect()
    }

    /// The resource that a place is in.
    pub(super) fn around(&self, place: Place) -> u32 {
        let ranges = &self.documents[place.document as usize].ranges;
        // They are in the order of their begins; the last one that has begun and not ended is the innermost.
        let begun = ranges.partition_point(|(begin, _, _)| *begin <= place.at);
        let innermost = ranges[..begun].iter().rev().find(|(_, end, _)| *end > place.at);
        innermost.map_or(0, |(_, _, resource)| *resource)
    }

    /// The dynamic anchors of each resource.
    pub(super) fn dynamic_anchors(&self) -> Vec<Vec<(String, Place)>> {
        let of = |resource: &Resource| {
            let place = |at: At| Place { document: resource.place.document, at };
            resource.dynamic.iter().map(|(name, at)| (name.clone(), place(*at))).collect()
        };
        self.resources.iter().map(of).collect()
    }

    /// Reads the names in a document.
    fn add(&mut self, tree: Tree<'static>, base: Url) -> Result<(), Invalid> {
        let document = self.documents.len() as u32;
        let is_own = document == 0;
        let text = |at: At, keyword: &str| {
            let value = tree.member(at, keyword).filter(|value| tree.kind(*value) == Kind::String);
            value.map(|value| tree.text(value))
        };
        let declared = if tree.kind(0) == Kind::Object { text(0, "$schema") } else { None };
        let draft = Draft::named(declared);
        if let Some(uri) = declared.filter(|uri| is_own && !is_known(uri)) {
            return Err(malformed("/$schema", format!("`{uri}` is neither 2020-12 nor draft-07")));
        }
        let root = self.resources.len() as u32;
        self.resources.push(Resource {
            url: base,
            place: Place { document, at: 0 },
            anchors: HashMap::new(),
            dynamic: Vec::new(),
        });
        let mut ranges = vec![(0, tree.size(0), root)];
        let mut open = vec![(0, root)];
        while let Some((at, around)) = open.pop() {
            if tree.kind(at) != Kind::Object {
                continue;
            }
            let mut resource = around;
            let field = |keyword: &str| {
                if is_own { format!("{}/{keyword}", tree.pointer(at)) } else { String::new() }
            };
            if at != 0 && text(at, "$schema").is_some_and(|uri| Draft::named(Some(uri)) != draft) {
                return Err(malformed(&field("$schema"), "a part of another draft".to_owned()));
            }
            let is_hidden = draft == Draft::Seven && tree.member(at, "$ref").is_some();
            if let Some(id) = text(at, "$id").filter(|_| !is_hidden) {
                let (id, name) = id.split_once('#').unwrap_or((id, ""));
                if draft == Draft::Newest && !name.is_empty() {
                    return Err(malformed(&field("$id"), "an `$id` has no fragment".to_owned()));
                }
                if !id.is_empty() {
                    let url = self.resources[around as usize].url.join(id);
                    let url = url.map_err(|error| malformed(&field("$id"), format!("no URI: {error}")))?;
                    if at == 0 {
                        self.resources[root as usize].url = url;
                    } else {
                        resource = self.resources.len() as u32;
                        ranges.push((at, at + tree.size(at), resource));
                        self.resources.push(Resource {
                            url,
                            place: Place { document, at },
                            anchors: HashMap::new(),
                            dynamic: Vec::new(),
                        });
                    }
                    let url = self.resources[resource as usize].url.clone();
                    if self.by_url.insert(url, resource).is_some() && at != 0 {
                        return Err(malformed(&field("$id"), "two schemas have this `$id`".to_owned()));
                    }
                }
                if !name.is_empty() {
                    self.resources[resource as usize].anchors.insert(name.to_owned(), at);
                }
            }
            let anchors: &[&str] = if draft == Draft::Newest { &["$anchor", "$dynamicAnchor"] } else { &[] };
            for keyword in anchors {
                let Some(name) = text(at, keyword) else { continue };
                let of = &mut self.resources[resource as usize];
                if of.anchors.insert(name.to_owned(), at).is_some_and(|other| other != at) {
                    return Err(malformed(&field(keyword), "two schemas have this anchor".to_owned()));
                }
                if *keyword == "$dynamicAnchor" {
                    of.dynamic.push((name.to_owned(), at));
                }
            }
            open.extend(subschemas(&tree, at, draft).into_iter().map(|child| (child, resource)));
        }
        ranges.sort_unstable();
        let url = self.resources[root as usize].url.clone();
        self.by_url.insert(url, root);
        self.documents.push(Document { tree, draft, ranges });
        Ok(())
    }

    /// Where a reference at a place leads. Fails with the reason; `looks` counts the members that were looked at.
    pub(super) fn resolve(&mut self, from: Place, reference: &str, looks: &mut u64) -> Result<Target, String> {
        let base = &self.resources[self.around(from) as usize].url;
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let url = if uri.is_empty() { base.clone() } else { base.join(uri).map_err(|error| error.to_string())? };
        let resource = self.resource(&url).ok_or_else(|| format!("`{url}` is outside of the schema"))?;
        let Resource { place, anchors, dynamic, .. } = &self.resources[resource as usize];
        let fragment = percent_encoding::percent_decode_str(fragment).decode_utf8();
        let fragment = fragment.map_err(|_| "the fragment is not UTF-8".to_owned())?;
        let at = match fragment.as_bytes().first() {
            None => Some(place.at),
            Some(b'/') => self.documents[place.document as usize].tree.descend(place.at, &fragment, looks),
            Some(_) => anchors.get(&*fragment).copied(),
        };
        let at = at.ok_or_else(|| format!("`{reference}` leads to nothing"))?;
        let is_dynamic = dynamic.iter().any(|(name, place)| *name == *fragment && *place == at);
        let dynamic = is_dynamic.then(|| fragment.into_owned());
        Ok(Target { place: Place { document: place.document, at }, dynamic })
    }

    fn resource(&mut self, url: &Url) -> Option<u32> {
        if let Some(resource) = self.by_url.get(url) {
            return Some(*resource);
        }
        let text = meta::schema(url.as_str())?;
        let tree = Tree::read(text, &Names::default()).expect("invariant: meta-schemas are JSON");
        self.add(tree, url.clone()).expect("invariant: meta-schemas are schemas");
        self.by_url.get(url).copied()
    }
}

/// Whether a `$schema` names a draft that is read.
fn is_known(uri: &str) -> bool {
    let uri = uri.strip_suffix('#').unwrap_or(uri);
    let uri = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")).unwrap_or(uri);
    matches!(uri, "json-schema.org/draft/2020-12/schema" | "json-schema.org/draft-07/schema")
}
