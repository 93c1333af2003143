//! Which members and elements were looked at: what `unevaluatedProperties` and `unevaluatedItems` leave alone.

use super::Judge;
use crate::domain::schema::compiled::{ArrayRules, Combined, Id, Node, ObjectRules};
use crate::domain::schema::names::UNKNOWN;
use crate::domain::schema::tree::{At, Kind};

/// Whether each child of a value was looked at.
type Marks = Vec<bool>;

impl<'s> Judge<'s, '_> {
    pub(super) fn unevaluated_properties<const TELL: bool>(&mut self, id: Id, schema: Id, at: At) -> bool {
        self.unevaluated::<TELL>(id, "unevaluatedProperties", schema, at)
    }

    pub(super) fn unevaluated_items<const TELL: bool>(&mut self, id: Id, schema: Id, at: At) -> bool {
        self.unevaluated::<TELL>(id, "unevaluatedItems", schema, at)
    }

    fn unevaluated<const TELL: bool>(&mut self, id: Id, keyword: &str, schema: Id, at: At) -> bool {
        if !self.step(u64::from(self.tree.count(at))) {
            return false;
        }
        let mut marks = vec![false; self.tree.count(at) as usize];
        self.mark(self.node(id), at, &mut marks, true);
        for (child, is_marked) in self.tree.children(at).zip(marks) {
            if is_marked {
                continue;
            }
            if self.node(schema).plain.takes_nothing {
                if self.fails::<TELL>(id, keyword, child, |_| "nothing speaks of this".to_owned()) {
                    return false;
                }
            } else if !self.apply::<TELL>(schema, child) && self.is_done::<TELL>() {
                return false;
            }
        }
        true
    }

    /// Marks what a schema that holds has looked at. `is_asking` is whether it is the schema that asks: its own keyword
    /// for what is left over does not count then.
    fn mark(&mut self, node: &'s Node, at: At, marks: &mut Marks, is_asking: bool) {
        if !self.step(1 + u64::from(self.tree.count(at)) / 8) || self.depth == super::MAX_DEPTH {
            self.over = self.over.or(Some("the schema goes too deep into itself"));
            return;
        }
        let Some(deep) = &node.deep else { return };
        self.depth += 1;
        let enters = self.schema.is_dynamic && self.scope.last() != Some(&node.resource);
        if enters {
            self.scope.push(node.resource);
        }
        match self.tree.kind(at) {
            Kind::Object => {
                if let Some(rules) = &deep.object {
                    self.mark_members(rules, at, marks, is_asking);
                }
            }
            _ => {
                if let Some(rules) = &deep.array {
                    self.mark_elements(rules, at, marks, is_asking);
                }
            }
        }
        for combined in &deep.combined {
            self.mark_combined(combined, at, marks);
        }
        if enters {
            self.scope.pop();
        }
        self.depth -= 1;
    }

    fn mark_combined(&mut self, combined: &'s Combined, at: At, marks: &mut Marks) {
        match combined {
            Combined::Ref(target) => self.mark(self.node(*target), at, marks, false),
            Combined::DynamicRef(target, anchor) => {
                let target = self.dynamic_target(*target, *anchor);
                self.mark(self.node(target), at, marks, false);
            }
            Combined::AllOf(all) => all.iter().for_each(|one| self.mark(self.node(*one), at, marks, false)),
            Combined::AnyOf(some) | Combined::OneOf(some) => some.iter().for_each(|one| {
                self.mark_if(*one, at, marks);
            }),
            Combined::Not(_) => {}
            Combined::If(condition, then, otherwise) => {
                let branch = if self.mark_if(*condition, at, marks) { then } else { otherwise };
                if let Some(branch) = branch {
                    self.mark(self.node(*branch), at, marks, false);
                }
            }
        }
    }

    /// Marks what a schema has looked at, if it holds; whether it does.
    fn mark_if(&mut self, id: Id, at: At, marks: &mut Marks) -> bool {
        let holds = self.holds(id, at);
        if holds {
            self.mark(self.node(id), at, marks, false);
        }
        holds
    }

    fn mark_members(&mut self, rules: &'s ObjectRules, at: At, marks: &mut Marks, is_asking: bool) {
        if rules.additional.is_some() || (rules.unevaluated.is_some() && !is_asking) {
            marks.fill(true);
        }
        let tree = self.tree;
        for (member, mark) in tree.children(at).zip(&mut *marks) {
            if *mark {
                continue;
            }
            let name = tree.name(member);
            *mark = name != UNKNOWN && rules.properties.get(name).schema.is_some();
            for (pattern, _) in &rules.patterns {
                *mark = *mark || self.step(pattern.steps(tree.key(member))) && pattern.matches(tree.key(member));
            }
        }
        for (name, schema) in &rules.dependent {
            if self.has_member(*name, at) {
                self.mark(self.node(*schema), at, marks, false);
            }
        }
    }

    fn mark_elements(&mut self, rules: &'s ArrayRules, at: At, marks: &mut Marks, is_asking: bool) {
        if rules.rest.is_some() || (rules.unevaluated.is_some() && !is_asking) {
            marks.fill(true);
        }
        marks.iter_mut().take(rules.first.len()).for_each(|mark| *mark = true);
        let Some((schema, ..)) = rules.contains else { return };
        for (element, mark) in self.tree.children(at).zip(marks) {
            *mark = *mark || self.holds(schema, element);
        }
    }
}
