//! Many filters at once, at a cost that follows how many may pass.

use std::collections::HashMap;

use slab::Slab;

use super::anchors::{Anchors, FilterId, Key, forget};
use super::condition::{Condition, Fields, Test};
use super::document::{Object, Paths, Value, Values};
use super::{Document, Filter};

/// A multiset of filters; equal ones share a handle.
///
/// Each filter is anchored at one field that it cannot pass without: by the values or prefixes that it asks for
/// there, which are looked up in a hash table, or else by the presence of the field. Only filters whose anchor holds
/// are tried.
#[derive(Debug, Default)]
pub struct FilterSet {
    ids: HashMap<Filter, FilterId>,
    filters: Slab<Entry>,
    paths: Paths,
    /// Those that can pass whatever fields there are.
    unanchored: Vec<FilterId>,
}

#[derive(Debug)]
struct Entry {
    filter: Filter,
    uses: usize,
    anchor: Option<Anchor>,
}

/// Where a filter is found.
#[derive(Debug)]
struct Anchor {
    path: Vec<Box<str>>,
    keys: Vec<Key>,
}

/// Working memory of [`FilterSet::for_each_passing`].
#[derive(Debug, Default)]
pub struct Candidates(Vec<FilterId>);

impl FilterSet {
    /// Adds one use of `filter` and returns its handle.
    pub fn insert(&mut self, filter: &Filter) -> FilterId {
        if let Some(&id) = self.ids.get(filter) {
            self.filters[id].uses += 1;
            return id;
        }
        filter.0.fields.for_each_path(&mut Vec::new(), &mut |path| self.paths.add(path));
        let anchor = self.choose_anchor(&filter.0.fields);
        let id = self.filters.insert(Entry { filter: filter.clone(), uses: 1, anchor: None });
        match &anchor {
            Some(anchor) => self.anchors(anchor).add(&anchor.keys, id),
            None => self.unanchored.push(id),
        }
        self.filters[id].anchor = anchor;
        self.ids.insert(filter.clone(), id);
        id
    }

    /// Takes back one use of the filter behind `id`; true when it was the last.
    ///
    /// # Panics
    /// When `id` is not in use.
    pub fn remove(&mut self, id: FilterId) -> bool {
        self.filters[id].uses -= 1;
        if self.filters[id].uses > 0 {
            return false;
        }
        let Entry { filter, anchor, uses: _ } = self.filters.remove(id);
        match anchor {
            Some(anchor) => self.anchors(&anchor).remove(&anchor.keys, id),
            None => forget(&mut self.unanchored, id),
        }
        self.ids.remove(&filter);
        filter.0.fields.for_each_path(&mut Vec::new(), &mut |path| self.paths.remove(path));
        true
    }

    /// The handle of `filter`, if it is in use.
    pub fn id(&self, filter: &Filter) -> Option<FilterId> {
        self.ids.get(filter).copied()
    }

    /// Whether no filter is in use.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Calls `found` with every filter that `document` passes, each once. The document has to be read for this set.
    pub fn for_each_passing(
        &self,
        document: &Document<'_>,
        Candidates(candidates): &mut Candidates,
        mut found: impl FnMut(FilterId),
    ) {
        candidates.clear();
        candidates.extend_from_slice(&self.unanchored);
        for object in document.0.iter().filter_map(Value::object) {
            probe_fields(&self.paths, object, candidates);
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates.iter().filter(|id| self.filters[**id].filter.passes(&document.0)).for_each(|id| found(*id));
    }

    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    fn anchors(&mut self, anchor: &Anchor) -> &mut Anchors {
        let path: Vec<&str> = anchor.path.iter().map(|name| &**name).collect();
        let node = self.paths.find(&path).expect("invariant: the paths of a filter in use are there");
        node.anchors.get_or_insert_default()
    }

    /// The most selective field: looked up by value if possible, and where the fewest others are found so far.
    fn choose_anchor(&mut self, fields: &Fields) -> Option<Anchor> {
        let mut possible = Vec::new();
        possible_anchors(fields, &mut Vec::new(), &mut possible);
        possible.into_iter().min_by_key(|anchor| self.anchors(anchor).load(&anchor.keys))
    }
}

fn possible_anchors<'a>(fields: &'a Fields, path: &mut Vec<&'a str>, possible: &mut Vec<Anchor>) {
    for field in &fields.fields {
        path.push(&field.name);
        match &field.test {
            Test::Nested(fields) => possible_anchors(fields, path, possible),
            Test::OneOf(conditions) if conditions.iter().any(|c| matches!(c, Condition::Exists(false))) => {}
            Test::OneOf(conditions) => {
                let keys = conditions.iter().map(|condition| match condition {
                    Condition::Equals(value) => Some(Key::Equals(value.clone())),
                    Condition::Prefix(prefix) => Some(Key::Prefix(prefix.clone())),
                    _ => None,
                });
                let keys = keys.collect::<Option<_>>().unwrap_or_else(|| vec![Key::Present]);
                possible.push(Anchor { path: path.iter().map(|name| (*name).into()).collect(), keys });
            }
        }
        path.pop();
    }
}

fn probe_fields(paths: &Paths, object: &Object<'_>, candidates: &mut Vec<FilterId>) {
    for (name, values) in &object.fields {
        if let Some(node) = paths.children.get(&**name) {
            probe(node, values, candidates);
        }
    }
}

fn probe(node: &Paths, values: &Values<'_>, candidates: &mut Vec<FilterId>) {
    if let Some(anchors) = &node.anchors {
        candidates.extend_from_slice(&anchors.present);
    }
    for value in values {
        match (value, &node.anchors) {
            (Value::Object(object), _) => probe_fields(node, object, candidates),
            (Value::Scalar(scalar), Some(anchors)) => anchors.probe(scalar, candidates),
            (Value::Scalar(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(json: &str) -> Filter {
        Filter::parse(json).expect("a filter")
    }

    #[test]
    fn a_set_tries_only_what_may_pass() {
        let mut set = FilterSet::default();
        let ids: Vec<_> =
            (0..10_000).map(|n| set.insert(&filter(&format!(r#"{{"type":["a"],"user":["u{n}"]}}"#)))).collect();
        let ranges: Vec<_> =
            (0..100).map(|n| set.insert(&filter(&format!(r#"{{"amount":[{{"numeric":[">",{n}]}}]}}"#)))).collect();
        let prefixes: Vec<_> =
            (0..1000).map(|n| set.insert(&filter(&format!(r#"{{"path":[{{"prefix":"/{n}/"}}]}}"#)))).collect();
        let payload = r#"{"type":"a","user":"u77","path":"/7/x"}"#;
        let mut candidates = Candidates::default();
        let mut found = Vec::new();
        let document = Document::for_sets(payload, std::iter::once(&set));
        set.for_each_passing(&document, &mut candidates, |id| found.push(id));
        assert_eq!(found, [ids[77], prefixes[7]]);
        assert!(candidates.0.len() <= 3, "{} candidates", candidates.0.len());
        found.clear();
        let document = Document::for_sets(r#"{"amount":2}"#, std::iter::once(&set));
        set.for_each_passing(&document, &mut candidates, |id| found.push(id));
        assert_eq!(found, ranges[..2]);
    }

    #[test]
    fn a_set_leaves_nothing_behind() {
        let mut set = FilterSet::default();
        let filters = [
            r#"{"a":1,"b":{"c":[{"prefix":"x"}]}}"#,
            r#"{"b":{"c":[{"exists":false}]}}"#,
            r#"{"a":[1,{"prefix":"y"}],"$or":[{"a":2},{"d":3}]}"#,
            r#"{"b":{"c":[{"numeric":["<",3]}]}}"#,
        ];
        let ids: Vec<_> = filters.iter().chain(&filters).map(|json| set.insert(&filter(json))).collect();
        assert_eq!(ids[..4], ids[4..]);
        let removed: Vec<_> = ids.iter().map(|id| set.remove(*id)).collect();
        assert_eq!(removed, [false, false, false, false, true, true, true, true]);
        assert!(set.is_empty() && set.ids.is_empty() && set.paths.children.is_empty() && set.unanchored.is_empty());
    }
}
