//! Numbers as they are written, exactly: what bounds and multiples are decided with.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Digits that a number may have; 10 to this power, ten times over, fits the integers that are reckoned with.
const MAX_DIGITS: usize = 30;
/// Largest power of ten, either way.
const MAX_EXPONENT: i32 = 2_000;
/// Digits that survive the way through a binary fraction.
const EXACT_DIGITS: usize = 15;

/// The first number of a JSON text that is not read as it is written, if there is one.
pub(super) fn rounded(json: &str) -> Option<&str> {
    let mut rest = json;
    loop {
        rest = &rest[rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?..];
        if let Some(text) = rest.strip_prefix('"') {
            let mut is_escaped = false;
            let end = text.find(|c| {
                let ends = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            });
            rest = &text[end? + 1..];
            continue;
        }
        let (number, after) = rest.split_at(rest.find(|c| !"0123456789+-.eE".contains(c)).unwrap_or(rest.len()));
        let read = serde_json::from_str(number).ok().and_then(|value| Decimal::of(&value));
        if read.is_none() || read != Decimal::parse(number) {
            return Some(number);
        }
        rest = after;
    }
}

/// `mantissa × 10^exponent`. Invariant: the mantissa does not end in a zero (and zero has exponent 0), so that equal
/// numbers are equal values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    mantissa: i128,
    exponent: i32,
}

impl Decimal {
    pub(super) const ZERO: Self = Self { mantissa: 0, exponent: 0 };
    pub(super) const ONE: Self = Self { mantissa: 1, exponent: 0 };

    /// Nothing for a value that is no number, or one too long to be reckoned with, or that may have been rounded.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let Value::Number(number) = value else { return None };
        let read = Self::parse(&number.to_string())?;
        let is_exact = !number.is_f64() || read.digits() <= EXACT_DIGITS;
        is_exact.then_some(read)
    }

    /// Nothing for a text with more digits than are reckoned with.
    fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let fraction = fraction.trim_end_matches('0');
        let digits = [whole, fraction].concat();
        if digits.len() > MAX_DIGITS || exponent.abs() > MAX_EXPONENT {
            return None;
        }
        Some(Self::new(digits.parse().ok()?, exponent - fraction.len() as i32))
    }

    fn new(mut mantissa: i128, mut exponent: i32) -> Self {
        if mantissa == 0 {
            return Self::ZERO;
        }
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        Self { mantissa, exponent }
    }

    fn digits(self) -> usize {
        self.mantissa.unsigned_abs().checked_ilog10().map_or(1, |log| log as usize + 1)
    }

    pub(super) fn is_integer(self) -> bool {
        self.exponent >= 0
    }

    pub(super) fn is_multiple_of(self, step: Self) -> bool {
        if step.mantissa == 0 || self.mantissa == 0 {
            return self.mantissa == 0;
        }
        let shift = self.exponent - step.exponent;
        if shift >= 0 {
            let rest = (0..shift).fold(self.mantissa % step.mantissa, |rest, _| rest * 10 % step.mantissa);
            return rest == 0;
        }
        let scaled = power(shift.unsigned_abs()).and_then(|power| step.mantissa.checked_mul(power));
        scaled.is_some_and(|scaled| self.mantissa % scaled == 0)
    }

    pub(super) fn negated(self) -> Self {
        Self { mantissa: -self.mantissa, ..self }
    }

    pub(super) fn tenth(self) -> Self {
        Self::new(self.mantissa, self.exponent - 1)
    }

    /// Nothing if the sum has too many digits.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let scaled = |number: Self| {
            let shift = (number.exponent - exponent).unsigned_abs();
            number.mantissa.checked_mul(power(shift)?)
        };
        let sum = Self::new(scaled(self)?.checked_add(scaled(other)?)?, exponent);
        (sum.digits() <= MAX_DIGITS).then_some(sum)
    }

    /// The largest multiple of `step` that is not larger.
    pub(super) fn down_to(self, step: Self) -> Option<Self> {
        let exponent = self.exponent.min(step.exponent);
        let scaled = |number: Self| number.mantissa.checked_mul(power((number.exponent - exponent).unsigned_abs())?);
        let (number, step) = (scaled(self)?, scaled(step)?);
        Some(Self::new(number - number.checked_rem_euclid(step)?, exponent))
    }

    pub(super) fn to_json(self) -> Option<Value> {
        let Self { mantissa, exponent } = self;
        if exponent >= 0
            && let Some(whole) = power(exponent.unsigned_abs()).and_then(|power| mantissa.checked_mul(power))
            && let Ok(whole) = i64::try_from(whole)
        {
            return Some(Value::from(whole));
        }
        let number: Number = serde_json::from_str(&format!("{mantissa}e{exponent}")).ok()?;
        let value = Value::Number(number);
        (Self::of(&value) == Some(self)).then_some(value)
    }
}

fn power(exponent: u32) -> Option<i128> {
    10_i128.checked_pow(exponent)
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.mantissa.signum().cmp(&other.mantissa.signum());
        if signs.is_ne() || self.mantissa == 0 {
            return signs;
        }
        let magnitude = |number: &Self| number.digits() as i32 + number.exponent;
        let of_magnitudes = magnitude(self).cmp(&magnitude(other));
        let absolute = of_magnitudes.then_with(|| {
            // Of one magnitude: the digits behind the shorter one are zeros, and none has more than fit.
            let scaled = |number: &Self, by: &Self| {
                let shift = (number.exponent - by.exponent).max(0).unsigned_abs();
                number.mantissa.abs().saturating_mul(power(shift).unwrap_or(i128::MAX))
            };
            scaled(self, other).cmp(&scaled(other, self))
        });
        if self.mantissa < 0 { absolute.reverse() } else { absolute }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_compared_exactly() {
        let ordered = ["-1e20", "-1.5", "-1", "0", "1e-300", "0.1", "0.2", "1", "1.5", "15", "1e20", "1e300"];
        for pair in ordered.windows(2) {
            assert!(number(pair[0]) < number(pair[1]), "{pair:?}");
            assert!(number(pair[1]) > number(pair[0]), "{pair:?}");
        }
        assert_eq!(number("1.0"), number("1"));
        assert_eq!(number("100"), number("1e2"));
        assert_eq!(number("-0.0"), Decimal::ZERO);
    }

    #[test]
    fn multiples_are_exact() {
        for (number_text, step, is_multiple) in [
            ("0.3", "0.1", true),
            ("1e300", "3", false),
            ("1e300", "2", true),
            ("7", "0.5", true),
            ("0.05", "0.1", false),
        ] {
            assert_eq!(number(number_text).is_multiple_of(number(step)), is_multiple, "{number_text} of {step}");
        }
        assert_eq!(number("7.3").down_to(number("0.5")), Some(number("7")));
        assert_eq!(number("-7.3").down_to(number("5")), Some(number("-10")));
    }

    #[test]
    fn what_may_have_been_rounded_is_not_reckoned_with() {
        assert_eq!(Decimal::of(&json!(9_007_199_254_740_993_i64)), Some(number("9007199254740993")));
        assert_eq!(Decimal::of(&serde_json::from_str("9007199254740993.5").unwrap()), None);
        assert_eq!(number("0.25").to_json(), Some(json!(0.25)));
        assert_eq!(number("12e3").to_json(), Some(json!(12_000)));
    }
}
