//! Judges a payload: a quick pass says whether it is valid; only if it is not, a second one collects what is wrong.
//!
//! Both passes are the same code. `TELL` is whether violations are collected: if not, the first one ends the pass. Work
//! is counted in steps; a payload that takes too many is refused.

mod arrays;
mod evaluated;
mod objects;
mod values;

use super::compiled::{Combined, Compiled, Deep, Id, Node};
use super::names::Names;
use super::tree::{At, Kind, Tree, Unread};

/// Violations that are told.
const MAX_VIOLATIONS: usize = 20;
/// Bytes of each text in a violation.
const MAX_TEXT: usize = 1024;
/// Schemas in each other that look at values.
const MAX_DEPTH: u32 = 512;
/// Steps of each pass: a schema that looks at a value is one.
const MAX_STEPS: u64 = 2_000_000;

/// Why a payload is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is not valid.
    Violations(Vec<Violation>),
    /// An object has a key twice, so it is not said which value counts. Each text has at most 1 KiB.
    DuplicateKey {
        /// The object, as a JSON Pointer.
        path: String,
        key: String,
    },
}

/// What is wrong with a payload. Each text has at most 1 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The value, as a JSON Pointer into the payload.
    pub instance_path: String,
    /// The keyword, as a JSON Pointer into the schema.
    pub schema_path: String,
    pub message: String,
}

impl Violation {
    fn new(instance_path: String, schema_path: String, message: String) -> Self {
        Self { instance_path: cut(instance_path), schema_path: cut(schema_path), message: cut(message) }
    }
}

/// A text as it is told.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

pub(super) fn judge(schema: &Compiled, payload: &str) -> Result<(), Refusal> {
    judge_within(schema, payload, MAX_STEPS).1
}

/// Judges with a number of steps; returns as well how many of them the first pass took.
pub(super) fn judge_within(schema: &Compiled, payload: &str, steps: u64) -> (u64, Result<(), Refusal>) {
    let tree = match Tree::read(payload, &schema.names) {
        Ok(tree) => tree,
        Err(Unread::DuplicateKey(twice)) => {
            let (path, key) = *twice;
            return (0, Err(Refusal::DuplicateKey { path: cut(path), key: cut(key) }));
        }
        Err(Unread::Malformed(what)) => return (0, Err(refused(what.to_owned()))),
        Err(Unread::TooDeep) => {
            return (0, Err(refused(format!("it has more than {} levels", super::tree::MAX_DEPTH))));
        }
    };
    let mut judge = Judge::new(schema, &tree, steps);
    if judge.apply::<false>(schema.root, 0) && judge.over.is_none() {
        return (steps - judge.steps, Ok(()));
    }
    let taken = steps - judge.steps;
    if let Some(over) = judge.over {
        return (taken, Err(refused(over.to_owned())));
    }
    let mut teller = Judge::new(schema, &tree, steps);
    teller.apply::<true>(schema.root, 0);
    let mut violations = teller.violations;
    if let Some(over) = teller.over.filter(|_| violations.len() < MAX_VIOLATIONS) {
        violations.push(Violation::new(String::new(), String::new(), format!("there may be more: {over}")));
    }
    (taken, Err(Refusal::Violations(violations)))
}

/// Refuses a payload as a whole.
fn refused(message: String) -> Refusal {
    Refusal::Violations(vec![Violation::new(String::new(), String::new(), message)])
}

/// One pass over a payload.
struct Judge<'s, 't> {
    schema: &'s Compiled,
    tree: &'t Tree<'t>,
    steps: u64,
    depth: u32,
    /// Why the pass has ended before its end. Then what it says is not to be trusted.
    over: Option<&'static str>,
    /// The resources on the way to the schema at hand, if a `$dynamicRef` may ask for them.
    scope: Vec<u32>,
    violations: Vec<Violation>,
}

impl<'s, 't> Judge<'s, 't> {
    fn new(schema: &'s Compiled, tree: &'t Tree<'t>, steps: u64) -> Self {
        Self { schema, tree, steps, depth: 0, over: None, scope: Vec::new(), violations: Vec::new() }
    }

    fn node(&self, id: Id) -> &'s Node {
        &self.schema.nodes[id as usize]
    }

    fn names(&self) -> &'s Names {
        &self.schema.names
    }

    /// Counts steps; false if there were not enough left.
    fn step(&mut self, steps: u64) -> bool {
        match self.steps.checked_sub(steps) {
            Some(left) => {
                self.steps = left;
                true
            }
            None => {
                self.steps = 0;
                self.over = Some("it takes too much work to judge");
                false
            }
        }
    }

    /// Takes note of a violation; whether the pass ends with it.
    #[cold]
    fn fails<const TELL: bool>(
        &mut self,
        id: Id,
        keyword: &str,
        at: At,
        message: impl FnOnce(&Self) -> String,
    ) -> bool {
        if TELL && !self.is_done::<TELL>() {
            let node = self.node(id);
            let mut schema_path = self.schema.documents[node.document as usize].pointer(node.at);
            if !keyword.is_empty() {
                schema_path = format!("{schema_path}/{keyword}");
            }
            let violation = Violation::new(self.tree.pointer(at), schema_path, message(self));
            self.violations.push(violation);
        }
        self.is_done::<TELL>()
    }

    /// Whether nothing more is to be found out once there is a violation.
    fn is_done<const TELL: bool>(&self) -> bool {
        !TELL || self.violations.len() >= MAX_VIOLATIONS || self.over.is_some()
    }

    /// Whether a value is valid, without telling why not.
    fn holds(&mut self, id: Id, at: At) -> bool {
        self.apply::<false>(id, at)
    }

    /// Judges a value by a schema. When violations are told, the answer is not to be used.
    fn apply<const TELL: bool>(&mut self, id: Id, at: At) -> bool {
        if !self.step(1) {
            return false;
        }
        let node = self.node(id);
        let (plain, kind) = (&*node.plain, self.tree.kind(at));
        if !plain.types.has(kind) && !self.is_integer(plain, at) {
            let _ = self.fails::<TELL>(id, "type", at, |judge| judge.type_message(plain, at));
            return false;
        }
        if plain.takes_nothing {
            let _ = self.fails::<TELL>(id, "", at, |_| "nothing is allowed here".to_owned());
            return false;
        }
        if !plain.listed.is_empty() && !self.listed::<TELL>(id, plain, at) {
            return false;
        }
        match kind {
            Kind::Number => {
                if let Some(rules) = &plain.number
                    && !self.number::<TELL>(id, rules, at)
                {
                    return false;
                }
            }
            Kind::String => {
                if let Some(rules) = &plain.string
                    && !self.string::<TELL>(id, rules, at)
                {
                    return false;
                }
            }
            _ => {}
        }
        match &node.deep {
            Some(deep) => self.apply_deep::<TELL>(id, node.resource, deep, kind, at),
            None => true,
        }
    }

    /// The keywords that have schemas of their own.
    fn apply_deep<const TELL: bool>(&mut self, id: Id, resource: u32, deep: &'s Deep, kind: Kind, at: At) -> bool {
        if self.depth == MAX_DEPTH {
            self.over = Some("the schema goes too deep into itself");
            return false;
        }
        self.depth += 1;
        let enters = self.schema.is_dynamic && self.scope.last() != Some(&resource);
        if enters {
            self.scope.push(resource);
        }
        let mut holds =
            deep.combined.iter().all(|combined| self.combined::<TELL>(id, combined, at) || !self.is_done::<TELL>());
        if holds
            && kind == Kind::Array
            && let Some(rules) = &deep.array
        {
            holds = self.array::<TELL>(id, rules, at);
        }
        if holds
            && kind == Kind::Object
            && let Some(rules) = &deep.object
        {
            holds = self.object::<TELL>(id, rules, at);
        }
        if enters {
            self.scope.pop();
        }
        self.depth -= 1;
        holds
    }

    fn combined<const TELL: bool>(&mut self, id: Id, combined: &'s Combined, at: At) -> bool {
        match combined {
            Combined::Ref(target) => self.apply::<TELL>(*target, at),
            Combined::DynamicRef(target, anchor) => {
                let target = self.dynamic_target(*target, *anchor);
                self.apply::<TELL>(target, at)
            }
            Combined::AllOf(all) => all.iter().all(|one| self.apply::<TELL>(*one, at) || !self.is_done::<TELL>()),
            Combined::AnyOf(any) => {
                any.iter().any(|one| self.holds(*one, at))
                    || !self.fails::<TELL>(id, "anyOf", at, |_| format!("none of the {} schemas holds", any.len()))
            }
            Combined::OneOf(one_of) => {
                let mut count = 0;
                for one in one_of {
                    count += usize::from(self.holds(*one, at));
                    if count > 1 {
                        break;
                    }
                }
                count == 1
                    || !self.fails::<TELL>(id, "oneOf", at, |_| match count {
                        0 => format!("none of the {} schemas holds", one_of.len()),
                        _ => "more than one of the schemas holds".to_owned(),
                    })
            }
            Combined::Not(not) => {
                !self.holds(*not, at)
                    || !self.fails::<TELL>(id, "not", at, |_| "the schema that must not hold does".to_owned())
            }
            Combined::If(condition, then, otherwise) => {
                let branch = if self.holds(*condition, at) { then } else { otherwise };
                branch.is_none_or(|branch| self.apply::<TELL>(branch, at))
            }
        }
    }

    /// The schema that has the anchor in the outermost resource on the way here.
    fn dynamic_target(&self, target: Id, anchor: u32) -> Id {
        let in_resource =
            |resource: &u32| self.schema.anchors[*resource as usize].iter().find(|(name, _)| *name == anchor);
        self.scope.iter().find_map(in_resource).map_or(target, |(_, id)| *id)
    }
}
