//! Reads a schema: checks its keywords, finds where its references lead, and makes the nodes that judge.

mod keywords;
mod loops;
mod refs;

use std::collections::HashMap;
use std::sync::Arc;

use self::refs::{Place, Resources};
use super::compiled::{Compiled, Id, Node, Plain};
use super::keywords::{Draft, LIST, NAMED, ONE};
use super::names::{Collected, Names};
use super::regex::{Pattern, Wrong};
use super::tree::{At, Kind, Tree, Unread};

/// Schemas in a schema.
const MAX_NODES: usize = 20_000;
/// Bytes of all compiled patterns together.
const MAX_PATTERNS: usize = 8 << 20;
/// Steps of reading one schema: looks at a member while a reference is followed, values that are listed.
const MAX_STEPS: u64 = 20_000_000;

/// Why a text is no schema that can be judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong, as a JSON Pointer into the schema.
    pub field: String,
    pub message: String,
    pub kind: InvalidKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidKind {
    /// It is no schema, or refers to what is not there.
    Malformed,
    /// It would take too much work to judge by it.
    TooCostly,
}

pub(super) fn compile(text: &str) -> Result<Compiled, Invalid> {
    let tree = Tree::read(text.to_owned(), &Names::default()).map_err(|unread| match unread {
        Unread::Malformed(what) => malformed("", format!("this is not JSON: {what}")),
        Unread::TooDeep => too_costly("", format!("more than {} levels", super::tree::MAX_DEPTH)),
        Unread::DuplicateKey(twice) => {
            let (path, key) = *twice;
            let message = format!("the key `{key}` is there twice");
            malformed(&format!("{path}/{}", super::tree::escaped(&key)), message)
        }
    })?;
    let mut compiler = Compiler {
        resources: Resources::new(tree)?,
        ids: HashMap::new(),
        open: Vec::new(),
        nodes: Vec::new(),
        plain: HashMap::new(),
        names: Collected::default(),
        patterns: HashMap::new(),
        pattern_size: 0,
        is_dynamic: false,
        steps: MAX_STEPS,
    };
    let root = compiler.node(Place { document: 0, at: 0 })?;
    compiler.close()?;
    let anchors = compiler.anchors()?;
    loops::check(&compiler.nodes).map_err(|id| {
        let node = &compiler.nodes[id as usize];
        let place = Place { document: node.document, at: node.at };
        compiler.malformed(place, "it refers to itself without a step into the value".to_owned())
    })?;
    let Compiler { resources, nodes, names, is_dynamic, .. } = compiler;
    let documents = resources.into_trees();
    Ok(Compiled { documents, nodes, root, names: names.finish(), anchors, is_dynamic })
}

fn malformed(field: &str, message: String) -> Invalid {
    Invalid { field: field.to_owned(), message, kind: InvalidKind::Malformed }
}

fn too_costly(field: &str, message: String) -> Invalid {
    Invalid { field: field.to_owned(), message, kind: InvalidKind::TooCostly }
}

struct Compiler {
    resources: Resources,
    /// Nodes by where they stand.
    ids: HashMap<Place, Id>,
    /// Nodes whose keywords are still to be read.
    open: Vec<Id>,
    nodes: Vec<Node>,
    /// By what their keywords say; under the empty text, what a schema says without any.
    plain: HashMap<Vec<u8>, Arc<Plain>>,
    names: Collected,
    patterns: HashMap<Box<str>, Arc<Pattern>>,
    pattern_size: usize,
    is_dynamic: bool,
    steps: u64,
}

impl Compiler {
    /// The node of the schema at a place. Its keywords are read later.
    fn node(&mut self, place: Place) -> Result<Id, Invalid> {
        if let Some(id) = self.ids.get(&place) {
            return Ok(*id);
        }
        if self.nodes.len() == MAX_NODES {
            return Err(too_costly("", format!("more than {MAX_NODES} schemas")));
        }
        let id = self.nodes.len() as Id;
        let resource = self.resources.around(place);
        let plain = self.plain.entry(Vec::new()).or_default().clone();
        self.nodes.push(Node { document: place.document, at: place.at, resource, plain, deep: None });
        self.ids.insert(place, id);
        self.open.push(id);
        Ok(id)
    }

    /// Reads the keywords of all nodes that are open, and of those that this opens.
    fn close(&mut self) -> Result<(), Invalid> {
        while let Some(id) = self.open.pop() {
            let place = Place { document: self.nodes[id as usize].document, at: self.nodes[id as usize].at };
            match self.tree(place).kind(place.at) {
                Kind::True => {}
                Kind::False => {
                    self.nodes[id as usize].plain = Arc::new(Plain { takes_nothing: true, ..Plain::default() });
                }
                Kind::Object => {
                    self.read(id, place)?;
                    self.read_others(place)?;
                }
                _ => return Err(self.malformed(place, "a schema is an object or a boolean".to_owned())),
            }
        }
        Ok(())
    }

    /// Makes nodes of the schemas that nothing leads to so far, such as definitions: they are to be valid as well.
    fn read_others(&mut self, place: Place) -> Result<(), Invalid> {
        for found in subschemas(self.tree(place), place.at, self.draft(place)) {
            self.node(Place { at: found, ..place })?;
        }
        Ok(())
    }

    /// For each resource its dynamic anchors.
    fn anchors(&mut self) -> Result<Vec<Vec<(u32, Id)>>, Invalid> {
        let mut all = Vec::new();
        for dynamic in self.resources.dynamic_anchors() {
            let anchors = dynamic.into_iter().map(|(name, place)| Ok((self.names.number(&name), self.node(place)?)));
            all.push(anchors.collect::<Result<_, Invalid>>()?);
        }
        self.close()?;
        Ok(all)
    }

    fn tree(&self, place: Place) -> &Tree<'static> {
        self.resources.tree(place.document)
    }

    fn draft(&self, place: Place) -> Draft {
        self.resources.draft(place.document)
    }

    fn step(&mut self, steps: u64) -> Result<(), Invalid> {
        let left = self.steps.checked_sub(steps);
        self.steps = left.ok_or_else(|| too_costly("", "the schema takes too much work to read".to_owned()))?;
        Ok(())
    }

    fn malformed(&self, place: Place, message: String) -> Invalid {
        // What is wrong in a meta-schema would be so for its own sake; it has no place in the schema.
        let field = if place.document == 0 { self.tree(place).pointer(place.at) } else { String::new() };
        Invalid { field, message, kind: InvalidKind::Malformed }
    }

    fn pattern(&mut self, place: Place, pattern: &str) -> Result<Arc<Pattern>, Invalid> {
        if let Some(known) = self.patterns.get(pattern) {
            return Ok(known.clone());
        }
        let costly =
            |message: &str| Invalid { kind: InvalidKind::TooCostly, ..self.malformed(place, message.to_owned()) };
        let compiled = Pattern::compile(pattern).map_err(|wrong| match wrong {
            Wrong::Unsupported(message) => self.malformed(place, message),
            Wrong::TooLarge => costly("the regular expression is too large"),
        })?;
        let size = self.pattern_size + compiled.size();
        if size > MAX_PATTERNS {
            return Err(costly("the regular expressions are too large together"));
        }
        self.pattern_size = size;
        let compiled = Arc::new(compiled);
        self.patterns.insert(pattern.into(), compiled.clone());
        Ok(compiled)
    }
}

/// The schemas right below one.
fn subschemas(tree: &Tree<'_>, at: At, draft: Draft) -> Vec<At> {
    let mut found = Vec::new();
    if tree.kind(at) != Kind::Object {
        return found;
    }
    for value in tree.children(at) {
        let keyword = tree.key(value);
        match tree.kind(value) {
            Kind::Array if LIST.contains(&keyword) => found.extend(tree.children(value)),
            Kind::Object if NAMED.contains(&keyword) => {
                let lists_names = |child: &At| keyword == "dependencies" && tree.kind(*child) == Kind::Array;
                if keyword != "dependencies" || draft == Draft::Seven {
                    found.extend(tree.children(value).filter(|child| !lists_names(child)));
                }
            }
            Kind::Object if ONE.contains(&keyword) => found.push(value),
            _ => {}
        }
    }
    found
}
