//! Demands on numbers and strings, and on how many elements and properties there are.

use serde_json::Value;

use super::document::{Node, count};
use super::include::{Comparer, Findings, Here};
use super::number::Decimal;
use super::pattern;
use super::ranges::{Range, Span, Types};
use super::rules::{self, Rule};
use super::sample;
use super::shape::Shape;

impl Comparer {
    pub(super) fn scalar<'a>(
        &mut self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &str,
        value: &'a Value,
    ) -> Findings {
        let types = here.shape.types;
        match keyword {
            "maximum" | "exclusiveMaximum" | "minimum" | "exclusiveMinimum" if types.meets(Types::NUMBER) => {
                self.bound(here, into, keyword, value)
            }
            "multipleOf" if types.meets(Types::NUMBER) => self.multiple(here, into, value),
            "maxLength" | "minLength" if types.meets(Types::STRING) => {
                self.span(here, into, keyword, here.shape.length, [rules::MIN_LENGTH, rules::MAX_LENGTH])
            }
            "maxItems" | "minItems" if types.meets(Types::ARRAY) => {
                self.span(here, into, keyword, here.shape.items, [rules::MIN_ITEMS, rules::MAX_ITEMS])
            }
            "maxProperties" | "minProperties" if types.meets(Types::OBJECT) => {
                let span = self.span_of_properties(here);
                self.span(here, into, keyword, span, [rules::MIN_PROPERTIES, rules::MAX_PROPERTIES])
            }
            "pattern" if types.meets(Types::STRING) => self.pattern(here, into, value),
            _ => Ok(Vec::new()),
        }
    }

    fn bound<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, keyword: &str, value: &Value) -> Findings {
        let Some(bound) = Decimal::of(value) else { return Ok(vec![self.undecided(Some(here), into, keyword)]) };
        let (is_upper, excluded) = (keyword.ends_with("aximum"), keyword.starts_with("exclusive"));
        // A lower bound is an upper one of the numbers mirrored at zero.
        let (range, limit) = match is_upper {
            true => (here.shape.numbers, bound),
            false => (here.shape.numbers.mirrored(), bound.negated()),
        };
        if is_within(here.shape, range, limit, excluded) {
            return Ok(Vec::new());
        }
        let is_whole = !here.shape.types.meets(Types::FRACTION);
        let beyond = sample::numbers_beyond(here.shape, range, limit, is_whole);
        let witnesses = beyond.into_iter().map(|number| if is_upper { number } else { number.negated() });
        let witnesses: Vec<_> = witnesses.filter_map(Decimal::to_json).collect();
        let rule = if is_upper { rules::MAXIMUM } else { rules::MINIMUM };
        Ok(vec![self.found(
            here,
            into,
            keyword,
            rule,
            format!("`{keyword}` {value} does not allow all that may come"),
            witnesses,
        )])
    }

    fn multiple<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, value: &Value) -> Findings {
        let Some(step) = Decimal::of(value).filter(|step| *step > Decimal::ZERO) else {
            return Ok(vec![self.undecided(Some(here), into, "multipleOf")]);
        };
        if here.shape.steps().any(|known| known.is_multiple_of(step)) {
            return Ok(Vec::new());
        }
        let witnesses = self.samples(here.shape)?;
        let message = format!("not all that may come is a multiple of {value}");
        Ok(vec![self.found(here, into, "multipleOf", rules::MULTIPLE_OF, message, witnesses)])
    }

    fn span<'a>(
        &mut self,
        here: Here<'a, '_>,
        into: &Node<'a>,
        keyword: &str,
        span: Span,
        [of_least, of_most]: [Rule; 2],
    ) -> Findings {
        let Some(limit) = into.get(keyword).and_then(count) else {
            return Ok(vec![self.undecided(Some(here), into, keyword)]);
        };
        let is_upper = keyword.starts_with("max");
        if if is_upper { span.most.is_some_and(|most| most <= limit) } else { span.least >= limit } {
            return Ok(Vec::new());
        }
        let witnesses = sample::of_size(here.shape, !self.strict, is_upper.then_some(limit + 1), &mut self.work);
        let rule = if is_upper { of_most } else { of_least };
        Ok(vec![self.found(
            here,
            into,
            keyword,
            rule,
            format!("`{keyword}` {limit} does not allow all that may come"),
            witnesses,
        )])
    }

    fn pattern<'a>(&mut self, here: Here<'a, '_>, into: &Node<'a>, value: &'a Value) -> Findings {
        let Some(text) = value.as_str() else { return Ok(Vec::new()) };
        if pattern::takes_everything(text) || here.shape.patterns.contains(&text) {
            return Ok(Vec::new());
        }
        let mut finding = self.undecided(Some(here), into, "pattern");
        finding.message = format!("`pattern` {text} does not allow all that may come");
        finding.witnesses = self.samples(here.shape)?;
        finding.is_decided =
            here.shape.patterns.is_empty() && here.shape.length.least == 0 && here.shape.invalid.is_empty();
        Ok(vec![finding])
    }
}

/// Whether all numbers of a shape, whose upper bounds are those of `range`, lie below a limit.
fn is_within(shape: &Shape<'_>, range: Range, limit: Decimal, excluded: bool) -> bool {
    let below = |number: Decimal| if excluded { number < limit } else { number <= limit };
    let by_bound = range.most.is_some_and(|(most, outside)| below(most) || most == limit && outside);
    by_bound || shape.steps().any(|step| range.largest(step).is_some_and(below))
}
