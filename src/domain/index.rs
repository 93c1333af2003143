//! The subscription index: which patterns match a name, at a cost that does not depend on how many do not.

use std::collections::HashMap;

use bytestring::ByteString;

use super::name::EventName;
use super::pattern::{Pattern, stem};

/// Stable handle of a pattern in a [`PatternIndex`] while the pattern is in use.
pub type TopicId = usize;

/// A multiset of patterns. Exact names cost one hash look-up; patterns a walk down a trie of segments
/// that only visits branches agreeing with the name.
#[derive(Debug, Default)]
pub struct PatternIndex {
    exact: HashMap<ByteString, TopicId>,
    root: Node,
    topics: slab::Slab<Topic>,
}

#[derive(Debug)]
struct Topic {
    pattern: Pattern,
    uses: usize,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// By what a segment has to begin with; each ends with `:`.
    prefixes: HashMap<Box<str>, Node>,
    star: Option<Box<Node>>,
    /// The pattern that ends here.
    here: Option<TopicId>,
    /// The pattern that ends here with `>`.
    tail: Option<TopicId>,
}

impl PatternIndex {
    /// Adds one use of `pattern` and returns its handle; equal patterns share one.
    pub fn insert(&mut self, pattern: &Pattern) -> TopicId {
        let slot = if pattern.is_exact() {
            self.exact.entry(pattern.as_shared().clone()).or_insert(usize::MAX)
        } else {
            self.root.slot(pattern).get_or_insert(usize::MAX)
        };
        if *slot == usize::MAX {
            *slot = self.topics.insert(Topic { pattern: pattern.clone(), uses: 0 });
        }
        self.topics[*slot].uses += 1;
        *slot
    }

    /// Takes back one use of the pattern behind `id`; true when it was the last.
    ///
    /// # Panics
    /// When `id` is not in use.
    pub fn remove(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id];
        topic.uses -= 1;
        if topic.uses > 0 {
            return false;
        }
        let Topic { pattern, uses: _ } = self.topics.remove(id);
        if pattern.is_exact() {
            self.exact.remove(pattern.as_str());
        } else {
            let segments: Vec<&str> = pattern.segments().collect();
            self.root.remove(&segments);
        }
        true
    }

    /// Calls `found` with the handle of every pattern that matches `name`, each once.
    pub fn for_each_match(&self, name: &EventName, mut found: impl FnMut(TopicId)) {
        if let Some(&id) = self.exact.get(name.as_str()) {
            found(id);
        }
        if self.exact.len() == self.topics.len() {
            return;
        }
        let text = name.as_str();
        if name.is_system() {
            // The first segment must be literal: wildcards do not reach the system's own events.
            let (first, rest) = text.split_once('.').unwrap_or((text, ""));
            if let Some(node) = self.root.children.get(first) {
                node.walk(Some(rest), &mut found);
            }
        } else {
            self.root.walk(Some(text), &mut found);
        }
    }

    /// The handle of `pattern`, if it is in use.
    pub fn topic(&self, pattern: &Pattern) -> Option<TopicId> {
        if pattern.is_exact() {
            return self.exact.get(pattern.as_str()).copied();
        }
        self.root.find(pattern)
    }

    /// The pattern behind `id`, while it is in use.
    pub fn pattern(&self, id: TopicId) -> Option<&Pattern> {
        self.topics.get(id).map(|t| &t.pattern)
    }

    /// Number of different patterns in use.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether no pattern is in use.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }
}

impl Node {
    fn slot(&mut self, pattern: &Pattern) -> &mut Option<TopicId> {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                ">" => return &mut node.tail,
                "*" => node.star.get_or_insert_default(),
                _ => match stem(segment) {
                    Some(stem) => node.prefixes.entry(stem.into()).or_default(),
                    None => node.children.entry(segment.into()).or_default(),
                },
            };
        }
        &mut node.here
    }

    fn find(&self, pattern: &Pattern) -> Option<TopicId> {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                ">" => return node.tail,
                "*" => node.star.as_deref()?,
                _ => match stem(segment) {
                    Some(stem) => node.prefixes.get(stem)?,
                    None => node.children.get(segment)?,
                },
            };
        }
        node.here
    }

    /// Calls `found` for every pattern below this node that matches the segments in `rest`.
    fn walk(&self, rest: Option<&str>, found: &mut impl FnMut(TopicId)) {
        let Some(rest) = rest else {
            self.here.into_iter().for_each(found);
            return;
        };
        self.tail.into_iter().for_each(&mut *found);
        if self.star.is_none() && self.children.is_empty() && self.prefixes.is_empty() {
            return;
        }
        let (segment, rest) = match rest.split_once('.') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        if let Some(child) = self.children.get(segment) {
            child.walk(rest, found);
        }
        if !self.prefixes.is_empty() {
            let stems = memchr::memchr_iter(b':', segment.as_bytes()).map(|colon| &segment[..=colon]);
            stems.filter_map(|stem| self.prefixes.get(stem)).for_each(|prefix| prefix.walk(rest, found));
        }
        if let Some(star) = &self.star {
            star.walk(rest, found);
        }
    }

    /// Removes the pattern spelled by `segments` and every node that becomes empty.
    fn remove(&mut self, segments: &[&str]) {
        match segments {
            [] => self.here = None,
            [">"] => self.tail = None,
            ["*", rest @ ..] => {
                let emptied = self.star.as_mut().is_some_and(|child| {
                    child.remove(rest);
                    child.is_empty()
                });
                if emptied {
                    self.star = None;
                }
            }
            [segment, rest @ ..] => {
                let (nodes, name) = match stem(segment) {
                    Some(stem) => (&mut self.prefixes, stem),
                    None => (&mut self.children, *segment),
                };
                let emptied = nodes.get_mut(name).is_some_and(|child| {
                    child.remove(rest);
                    child.is_empty()
                });
                if emptied {
                    nodes.remove(name);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.prefixes.is_empty()
            && self.star.is_none()
            && self.here.is_none()
            && self.tail.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matching(index: &PatternIndex, name: &EventName) -> Vec<Pattern> {
        let mut found = Vec::new();
        index.for_each_match(name, |id| found.push(index.pattern(id).expect("in use").clone()));
        found.sort();
        found
    }

    fn segment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "c", "$sys", "a:", "a:x", "a:b:", "a:b:x"])
    }

    fn name() -> impl Strategy<Value = EventName> {
        prop::collection::vec(segment(), 1..5).prop_map(|s| EventName::parse(s.join(".")).expect("a valid name"))
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let segment = prop_oneof![3 => segment(), 1 => Just("*"), 1 => Just("a:*"), 1 => Just("a:b:*")];
        (prop::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(mut segments, tail)| {
            if tail || segments.is_empty() {
                segments.push(">");
            }
            Pattern::parse(segments.join(".")).expect("a valid pattern")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// The index finds exactly what matching every pattern one by one finds, also after removals.
        #[test]
        fn agrees_with_the_naive_matcher(
            patterns in prop::collection::vec((pattern(), any::<bool>()), 0..40),
            names in prop::collection::vec(name(), 1..20),
        ) {
            let mut index = PatternIndex::default();
            let mut kept = Vec::new();
            let ids: Vec<_> = patterns.iter().map(|(p, _)| index.insert(p)).collect();
            for ((pattern, keep), id) in patterns.iter().zip(ids) {
                if *keep {
                    kept.push(pattern.clone());
                } else {
                    index.remove(id);
                }
            }
            kept.sort();
            kept.dedup();
            prop_assert_eq!(index.len(), kept.len());
            for (pattern, _) in &patterns {
                let found = index.topic(pattern).and_then(|id| index.pattern(id));
                prop_assert_eq!(found, kept.contains(pattern).then_some(pattern));
            }
            for name in &names {
                let naive: Vec<_> = kept.iter().filter(|p| p.matches(name)).cloned().collect();
                prop_assert_eq!(matching(&index, name), naive);
            }
        }
    }

    #[test]
    fn leaves_nothing_behind() {
        let mut index = PatternIndex::default();
        let patterns = ["a.*.b", "a.>", "x.y", ">", "*", "a:*", "a:b:*.c"];
        let ids = patterns.map(|p| index.insert(&Pattern::parse(p).expect("a valid pattern")));
        for id in ids {
            assert!(index.remove(id));
        }
        assert!(index.is_empty() && index.exact.is_empty() && index.root.is_empty());
    }
}
