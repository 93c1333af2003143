//! Objects: which members there are, and what each has to be.

use super::Judge;
use crate::domain::schema::compiled::{Id, ObjectRules};
use crate::domain::schema::names::UNKNOWN;
use crate::domain::schema::tree::{At, Tree};

/// Members that are looked at in one step when a name is searched.
const MEMBERS_A_STEP: u32 = 32;

impl<'s> Judge<'s, '_> {
    pub(super) fn object<const TELL: bool>(&mut self, id: Id, rules: &'s ObjectRules, at: At) -> bool {
        let size = u64::from(self.tree.count(at));
        if let Some(least) = rules.least.filter(|least| size < *least)
            && self.fails::<TELL>(id, "minProperties", at, |_| format!("{size} properties are fewer than {least}"))
        {
            return false;
        }
        if let Some(most) = rules.most.filter(|most| size > *most)
            && self.fails::<TELL>(id, "maxProperties", at, |_| format!("{size} properties are more than {most}"))
        {
            return false;
        }
        if !self.members::<TELL>(id, rules, at) {
            return false;
        }
        if (!rules.asked.is_empty() || !rules.dependent.is_empty()) && !self.dependencies::<TELL>(id, rules, at) {
            return false;
        }
        match rules.unevaluated {
            Some(schema) => self.unevaluated_properties::<TELL>(id, schema, at),
            None => true,
        }
    }

    fn members<const TELL: bool>(&mut self, id: Id, rules: &'s ObjectRules, at: At) -> bool {
        let tree = self.tree;
        let mut required = rules.required.len();
        let looks_at_all = !rules.patterns.is_empty() || rules.additional.is_some() || rules.names.is_some();
        if looks_at_all || !rules.properties.is_empty() {
            for member in tree.children(at) {
                let entry = match tree.name(member) {
                    UNKNOWN => Default::default(),
                    name => rules.properties.get(name),
                };
                required -= usize::from(entry.is_required);
                if let Some(schema) = entry.schema
                    && !self.apply::<TELL>(schema, member)
                    && self.is_done::<TELL>()
                {
                    return false;
                }
                if looks_at_all && !self.other_rules::<TELL>(id, rules, entry.schema.is_some(), member) {
                    return false;
                }
            }
        }
        required == 0 || !self.lacks::<TELL>(id, "required", &rules.required, at)
    }

    /// What is said of a member by a pattern, of those that nothing else speaks of, and of its name.
    fn other_rules<const TELL: bool>(&mut self, id: Id, rules: &'s ObjectRules, is_named: bool, member: At) -> bool {
        let key = self.tree.key(member);
        let mut is_named = is_named;
        for (pattern, schema) in &rules.patterns {
            if !self.step(pattern.steps(key)) {
                return false;
            }
            if pattern.matches(key) {
                is_named = true;
                if !self.apply::<TELL>(*schema, member) && self.is_done::<TELL>() {
                    return false;
                }
            }
        }
        if let Some(schema) = rules.additional.filter(|_| !is_named) {
            if self.node(schema).plain.takes_nothing {
                let words = |judge: &Self| format!("the property \"{}\" is not allowed", judge.tree.key(member));
                if self.fails::<TELL>(id, "additionalProperties", member, words) {
                    return false;
                }
            } else if !self.apply::<TELL>(schema, member) && self.is_done::<TELL>() {
                return false;
            }
        }
        let Some(schema) = rules.names else { return true };
        if !self.step(1) {
            return false;
        }
        let name = Tree::of_text(key);
        let mut judge =
            Judge { depth: self.depth, scope: self.scope.clone(), ..Judge::new(self.schema, &name, self.steps) };
        let holds = judge.holds(schema, 0);
        (self.steps, self.over) = (judge.steps, self.over.or(judge.over));
        let words = |judge: &Self| format!("the name \"{}\" is not allowed", judge.tree.key(member));
        holds || !self.fails::<TELL>(id, "propertyNames", member, words)
    }

    fn dependencies<const TELL: bool>(&mut self, id: Id, rules: &'s ObjectRules, at: At) -> bool {
        for (name, asked) in &rules.asked {
            if self.has_member(*name, at) {
                let keyword = self.keyword_of_dependencies(id, "dependentRequired");
                if self.lacks::<TELL>(id, keyword, asked, at) {
                    return false;
                }
            }
        }
        for (name, schema) in &rules.dependent {
            if self.has_member(*name, at) && !self.apply::<TELL>(*schema, at) && self.is_done::<TELL>() {
                return false;
            }
        }
        true
    }

    fn keyword_of_dependencies(&self, id: Id, newest: &'static str) -> &'static str {
        let node = self.node(id);
        let is_newest = self.schema.documents[node.document as usize].member(node.at, newest).is_some();
        if is_newest { newest } else { "dependencies" }
    }

    /// Whether a member is there.
    pub(super) fn has_member(&mut self, name: u32, at: At) -> bool {
        let tree = self.tree;
        self.step(u64::from(1 + tree.count(at) / MEMBERS_A_STEP))
            && tree.children(at).any(|member| tree.name(member) == name)
    }

    /// Tells which of some names are missing; whether the pass ends with it.
    fn lacks<const TELL: bool>(&mut self, id: Id, keyword: &str, names: &[u32], at: At) -> bool {
        for name in names {
            if !self.has_member(*name, at) {
                let words = |judge: &Self| format!("the property \"{}\" is missing", judge.names().text(*name));
                if self.fails::<TELL>(id, keyword, at, words) {
                    return true;
                }
            }
        }
        false
    }
}
