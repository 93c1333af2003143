//! The parts of a payload that filters look at, read in one pass over its text.

use std::borrow::Cow;
use std::collections::HashMap;

use smallvec::SmallVec;

use super::anchors::Anchors;
use super::scan::{Scalar, Scanner};

/// The fields that filters look at, as a tree of names; counted, so that what was added can be taken back.
#[derive(Debug, Default)]
pub(super) struct Paths {
    pub children: HashMap<Box<str>, Paths>,
    uses: usize,
    /// Filters that a [`super::FilterSet`] finds here.
    pub anchors: Option<Box<Anchors>>,
}

impl Paths {
    /// One more use of `path`.
    pub fn add(&mut self, path: &[&str]) {
        let mut node = self;
        for name in path {
            node = node.children.entry((*name).into()).or_default();
            node.uses += 1;
        }
    }

    /// One use of `path` less.
    pub fn remove(&mut self, path: &[&str]) {
        let [name, rest @ ..] = path else { return };
        if let Some(child) = self.children.get_mut(*name) {
            child.uses -= 1;
            if child.uses == 0 {
                self.children.remove(*name);
            } else {
                child.remove(rest);
            }
        }
    }

    /// The node at the end of `path`, if it is in use.
    pub fn find(&mut self, path: &[&str]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, name| node.children.get_mut(*name))
    }
}

/// All values of a field: the elements of an array, and of arrays in it, or the one value that it has.
pub(super) type Values<'a> = SmallVec<[Value<'a>; 1]>;

/// A value, as far as filters look at it.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Scalar(Scalar<'a>),
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    pub fn object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            Self::Scalar(_) => None,
        }
    }
}

/// Those fields of an object that filters look at.
#[derive(Debug, Default)]
pub(super) struct Object<'a> {
    /// Sorted by name, each once.
    pub fields: Vec<(Cow<'a, str>, Values<'a>)>,
}

impl<'a> Object<'a> {
    pub fn get(&self, name: &str) -> Option<&Values<'a>> {
        let at = self.fields.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        Some(&self.fields[at].1)
    }
}

/// What filters look at in `payload`; what is not JSON has nothing.
pub(super) fn pick<'a>(payload: &'a str, wanted: &[&Paths]) -> Values<'a> {
    values(&mut Scanner::new(payload), wanted).unwrap_or_default()
}

/// Recursion is bounded by the depth of `wanted`: arrays in arrays are passed in one loop.
fn values<'a>(scan: &mut Scanner<'a>, wanted: &[&Paths]) -> Option<Values<'a>> {
    let mut found = Values::new();
    let mut depth = 0usize;
    loop {
        while scan.take(b'[') {
            depth += 1;
        }
        match scan.peek()? {
            b']' => {}
            byte => {
                let value = match byte {
                    b'{' => Value::Object(object(scan, wanted)?),
                    _ => Value::Scalar(scan.scalar()?),
                };
                // What is no element is always kept.
                if depth == 0 || scan.elements > 0 {
                    scan.elements = scan.elements.saturating_sub(usize::from(depth > 0));
                    found.push(value);
                }
            }
        }
        while depth > 0 && scan.take(b']') {
            depth -= 1;
        }
        if depth == 0 {
            return Some(found);
        }
        scan.expect(b',')?;
    }
}

/// Of fields with the same name the last one counts.
fn object<'a>(scan: &mut Scanner<'a>, wanted: &[&Paths]) -> Option<Object<'a>> {
    if wanted.iter().all(|node| node.children.is_empty()) {
        scan.skip()?;
        return Some(Object::default());
    }
    scan.expect(b'{')?;
    let mut fields = Vec::new();
    let mut ended = scan.take(b'}');
    while !ended {
        let name = scan.string()?;
        scan.expect(b':')?;
        let inner: SmallVec<[&Paths; 4]> =
            wanted.iter().filter_map(|node| node.children.get(name.as_deref()?)).collect();
        match name {
            Some(name) if !inner.is_empty() => fields.push((name, values(scan, &inner)?)),
            _ => scan.skip()?,
        }
        ended = !scan.take(b',');
        // Only its own: that of an empty object has been taken.
        ended.then(|| scan.take(b'}'));
    }
    // Stable, and what comes later is met first.
    fields.reverse();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields.dedup_by(|later, first| later.0 == first.0);
    Some(Object { fields })
}
