//! Types, listed values, numbers and strings.

use std::cmp::Ordering;

use super::Judge;
use crate::domain::schema::compiled::{Bound, Id, Listed, NumberRules, Plain, StringRules};
use crate::domain::schema::number;
use crate::domain::schema::tree::{At, Kind};

/// Listed texts that are looked at one after the other; more are searched.
const FEW: usize = 8;
/// Bytes of a text or number that are gone over in one step.
const BYTES_A_STEP: usize = 64;
/// Bytes of a value that a message shows.
const SHOWN: usize = 100;

impl<'s> Judge<'s, '_> {
    /// Whether a value is an integer, and integers are allowed.
    pub(super) fn is_integer(&mut self, plain: &Plain, at: At) -> bool {
        if !plain.types.has_integers() || self.tree.kind(at) != Kind::Number {
            return false;
        }
        let text = self.tree.text(at);
        self.goes_over(text.len()) && is_integer(text)
    }

    /// Counts the steps of going over so many bytes; false if there were not enough left. A short text costs none.
    pub(super) fn goes_over(&mut self, bytes: usize) -> bool {
        bytes < BYTES_A_STEP || self.step((bytes / BYTES_A_STEP) as u64)
    }

    pub(super) fn type_message(&self, plain: &Plain, at: At) -> String {
        let is = match self.tree.kind(at) {
            Kind::Null => "null",
            Kind::False | Kind::True => "a boolean",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::Array => "an array",
            Kind::Object => "an object",
        };
        let wanted: Vec<_> = plain.types.names().collect();
        format!("this is {is}, not {}", wanted.join(" or "))
    }

    pub(super) fn listed<const TELL: bool>(&mut self, id: Id, plain: &'s Plain, at: At) -> bool {
        for (keyword, listed) in &plain.listed {
            let has = self.has(listed, at);
            if !has && self.fails::<TELL>(id, keyword, at, |_| "this is none of the values that are allowed".to_owned())
            {
                return false;
            }
        }
        true
    }

    fn has(&mut self, listed: &Listed, at: At) -> bool {
        match self.tree.kind(at) {
            Kind::String => {
                let (text, texts) = (self.tree.text(at), &listed.texts);
                if !self.goes_over(text.len()) {
                    return false;
                }
                if texts.len() <= FEW {
                    return texts.iter().any(|one| **one == *text);
                }
                texts.binary_search_by(|one| (**one).cmp(text)).is_ok()
            }
            Kind::Array | Kind::Object if !listed.has_compound => false,
            _ if listed.others.is_empty() => false,
            _ => {
                let Some(canonical) = self.canonical(at) else { return false };
                listed.others.contains(&*canonical)
            }
        }
    }

    /// A value as it is written canonically; nothing if that is too much work.
    fn canonical(&mut self, at: At) -> Option<Vec<u8>> {
        let mut canonical = Vec::new();
        if !self.step(u64::from(self.tree.size(at))) {
            return None;
        }
        self.tree.write_canonical(at, &mut canonical);
        self.goes_over(canonical.len()).then_some(canonical)
    }

    pub(super) fn number<const TELL: bool>(&mut self, id: Id, rules: &'s NumberRules, at: At) -> bool {
        let text = self.tree.text(at);
        if !self.goes_over(text.len()) {
            return false;
        }
        let short = number::short(text);
        let bounds: [(&Option<Bound>, &str, bool, Ordering, &str); 4] = [
            (&rules.minimum, "minimum", true, Ordering::Greater, "less than"),
            (&rules.exclusive_minimum, "exclusiveMinimum", false, Ordering::Greater, "not greater than"),
            (&rules.maximum, "maximum", true, Ordering::Less, "greater than"),
            (&rules.exclusive_maximum, "exclusiveMaximum", false, Ordering::Less, "not less than"),
        ];
        for (bound, keyword, may_equal, wanted, words) in bounds {
            let Some(bound) = bound else { continue };
            let order = compare(text, short, bound);
            if !(order == wanted || may_equal && order.is_eq())
                && self.fails::<TELL>(id, keyword, at, |_| format!("{} is {words} {}", cut(text), bound.text))
            {
                return false;
            }
        }
        if let Some(step) = rules.multiple_of
            && !step.divides(&self.tree.number(at))
            && self.fails::<TELL>(id, "multipleOf", at, |_| format!("{} is not a multiple of the step", cut(text)))
        {
            return false;
        }
        true
    }

    pub(super) fn string<const TELL: bool>(&mut self, id: Id, rules: &'s StringRules, at: At) -> bool {
        let text = self.tree.text(at);
        if (rules.least.is_some() || rules.most.is_some()) && !self.goes_over(text.len()) {
            return false;
        }
        if !has_size(text.len() as u64, rules) {
            let length = text.chars().count() as u64;
            if let Some(least) = rules.least.filter(|least| length < *least)
                && self.fails::<TELL>(id, "minLength", at, |_| format!("{length} characters are fewer than {least}"))
            {
                return false;
            }
            if let Some(most) = rules.most.filter(|most| length > *most)
                && self.fails::<TELL>(id, "maxLength", at, |_| format!("{length} characters are more than {most}"))
            {
                return false;
            }
        }
        if let Some(pattern) = &rules.pattern {
            if !self.step(pattern.steps(text)) {
                return false;
            }
            if !pattern.matches(text)
                && self.fails::<TELL>(id, "pattern", at, |_| format!("\"{}\" does not match the pattern", cut(text)))
            {
                return false;
            }
        }
        true
    }
}

/// Whether a text of so many bytes has as many characters as it is to have, whatever they are: each has 1 to 4 bytes.
fn has_size(bytes: u64, rules: &StringRules) -> bool {
    rules.least.is_none_or(|least| least <= bytes.div_ceil(4)) && rules.most.is_none_or(|most| bytes <= most)
}

/// A text as a message shows it.
fn cut(text: &str) -> String {
    match text.floor_char_boundary(SHOWN) {
        end if end < text.len() => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

fn is_integer(text: &str) -> bool {
    number::short(text).is_some() || number::read(text).is_some_and(|number| number.is_integer())
}

fn compare(text: &str, short: Option<i64>, bound: &Bound) -> Ordering {
    if let (Some(number), Some(bound)) = (short, bound.short) {
        return number.cmp(&bound);
    }
    match (number::read(text), number::read(&bound.text)) {
        (Some(number), Some(bound)) => number.cmp(&bound),
        _ => unreachable!("invariant: numbers are checked when they are read"),
    }
}
