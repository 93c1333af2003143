//! Arrays: how many elements, which, and whether each is there once.

use super::Judge;
use crate::domain::schema::compiled::{ArrayRules, Id};
use crate::domain::schema::tree::{At, Kind};

/// Texts that are compared in pairs; more are sorted.
const FEW: usize = 8;

impl<'s> Judge<'s, '_> {
    pub(super) fn array<const TELL: bool>(&mut self, id: Id, rules: &'s ArrayRules, at: At) -> bool {
        let length = u64::from(self.tree.count(at));
        if let Some(least) = rules.least.filter(|least| length < *least)
            && self.fails::<TELL>(id, "minItems", at, |_| format!("{length} elements are fewer than {least}"))
        {
            return false;
        }
        if let Some(most) = rules.most.filter(|most| length > *most)
            && self.fails::<TELL>(id, "maxItems", at, |_| format!("{length} elements are more than {most}"))
        {
            return false;
        }
        if !rules.first.is_empty() || rules.rest.is_some() {
            for (place, element) in self.tree.children(at).enumerate() {
                let Some(schema) = rules.first.get(place).copied().or(rules.rest) else { break };
                if !self.apply::<TELL>(schema, element) && self.is_done::<TELL>() {
                    return false;
                }
            }
        }
        if let Some((schema, least, most)) = rules.contains
            && !self.contains::<TELL>(id, schema, (least, most), at)
        {
            return false;
        }
        if rules.is_unique
            && length > 1
            && self.repeats(at)
            && self.fails::<TELL>(id, "uniqueItems", at, |_| "an element is there twice".to_owned())
        {
            return false;
        }
        match rules.unevaluated {
            Some(schema) => self.unevaluated_items::<TELL>(id, schema, at),
            None => true,
        }
    }

    fn contains<const TELL: bool>(&mut self, id: Id, schema: Id, (least, most): (u64, u64), at: At) -> bool {
        if least == 0 && most == u64::MAX {
            return true;
        }
        let mut count = 0;
        for element in self.tree.children(at) {
            count += u64::from(self.holds(schema, element));
            if count > most || (count >= least && most == u64::MAX) {
                break;
            }
        }
        if count < least {
            let keyword = if least == 1 { "contains" } else { "minContains" };
            let words = |_: &Self| format!("{count} elements are as `contains` says, fewer than {least}");
            return !self.fails::<TELL>(id, keyword, at, words);
        }
        let words = |_: &Self| format!("more than {most} elements are as `contains` says");
        count <= most || !self.fails::<TELL>(id, "maxContains", at, words)
    }

    /// Whether an element is there twice.
    fn repeats(&mut self, at: At) -> bool {
        let count = self.tree.count(at) as usize;
        if count <= FEW && self.tree.children(at).all(|element| self.tree.kind(element) == Kind::String) {
            let tree = self.tree;
            let texts = || tree.children(at).map(|element| tree.text(element));
            if !self.goes_over(count * texts().map(str::len).sum::<usize>()) {
                return false;
            }
            return texts().enumerate().any(|(place, text)| texts().take(place).any(|other| other == text));
        }
        if !self.step(u64::from(self.tree.size(at)) * (1 + u64::from(count.ilog2()) / 4)) {
            return false;
        }
        let (mut written, mut ends) = (Vec::new(), Vec::with_capacity(count));
        for element in self.tree.children(at) {
            let begin = written.len();
            self.tree.write_canonical(element, &mut written);
            ends.push((begin, written.len()));
        }
        if !self.goes_over(written.len()) {
            return false;
        }
        ends.sort_unstable_by(|one, other| written[one.0..one.1].cmp(&written[other.0..other.1]));
        ends.windows(2).any(|pair| written[pair[0].0..pair[0].1] == written[pair[1].0..pair[1].1])
    }
}
