//! Numbers as they are written, exactly: never by way of a binary fraction.

use std::cmp::Ordering;

/// Digits of an exponent that are read; such numbers are compared like all others, without being written out.
const EXPONENT_DIGITS: usize = 15;
/// Digits of the step of `multipleOf`; the remainders of its multiples fit an integer of the machine.
const STEP_DIGITS: usize = 18;

/// `0.DIGITS × 10^exponent`. Invariant: the digits neither begin nor end in a zero, and zero has none; so equal numbers
/// have equal parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'t> {
    is_negative: bool,
    /// The digits before the point and those behind it: which of them count is `first` and `count`.
    whole: &'t [u8],
    fraction: &'t [u8],
    first: usize,
    count: usize,
    exponent: i64,
}

/// Fails if a text is no number of JSON, or its exponent is absurd.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    const WRONG: Result<(), &str> = Err("a number is written wrongly");
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return WRONG;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return WRONG;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let length = digits(at);
        if length == 0 {
            return WRONG;
        }
        if bytes[at..at + length].trim_ascii_zeros().len() > EXPONENT_DIGITS {
            return Err("the exponent of a number is too large to be judged");
        }
        at += length;
    }
    if at == bytes.len() { Ok(()) } else { WRONG }
}

/// The value of a number that is written as a short integer.
pub(super) fn short(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > 18 {
        return None;
    }
    let mut value = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if is_negative { -value } else { value })
}

trait Zeros {
    /// Without the zeros at its begin.
    fn trim_ascii_zeros(&self) -> &[u8];
}

impl Zeros for [u8] {
    fn trim_ascii_zeros(&self) -> &[u8] {
        let zeros = self.iter().take_while(|byte| **byte == b'0').count();
        &self[zeros..]
    }
}

/// Reads a number that has been checked.
pub(super) fn read(text: &str) -> Option<Number<'_>> {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (whole, fraction) = (whole.as_bytes(), fraction.as_bytes());
    let digits = || whole.iter().chain(fraction);
    let first = digits().take_while(|byte| **byte == b'0').count();
    let last = digits().rev().take_while(|byte| **byte == b'0').count();
    let all = whole.len() + fraction.len();
    if first == all {
        return Some(Number { is_negative: false, whole, fraction, first: 0, count: 0, exponent: 0 });
    }
    let exponent = exponent + whole.len() as i64 - first as i64;
    Some(Number { is_negative, whole, fraction, first, count: all - first - last, exponent })
}

impl Number<'_> {
    fn digits(&self) -> impl Iterator<Item = u8> {
        self.whole.iter().chain(self.fraction).skip(self.first).take(self.count).copied()
    }

    pub(super) fn is_integer(&self) -> bool {
        self.exponent >= self.count as i64
    }

    pub(super) fn is_positive(&self) -> bool {
        !self.is_negative && self.count > 0
    }

    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match number.count {
            0 => 0,
            _ if number.is_negative => -1,
            _ => 1,
        };
        let signs = sign(self).cmp(&sign(other));
        if signs.is_ne() {
            return signs;
        }
        let absolute = self.exponent.cmp(&other.exponent).then_with(|| self.digits().cmp(other.digits()));
        if self.is_negative { absolute.reverse() } else { absolute }
    }

    /// A number of characters, elements or properties; the largest one for what is larger.
    pub(super) fn to_count(self) -> Option<u64> {
        if self.is_negative || !self.is_integer() {
            return None;
        }
        if self.exponent > 19 {
            return Some(u64::MAX);
        }
        let digits = self.digits().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
        let shift = (self.exponent - self.count as i64) as u32;
        Some(u64::try_from(digits * 10_u128.pow(shift)).unwrap_or(u64::MAX))
    }

    /// Equal numbers, and no others, are written alike.
    pub(super) fn write_canonical(&self, out: &mut Vec<u8>) {
        out.push(if self.is_negative { b'-' } else { b'+' });
        out.extend(self.exponent.to_be_bytes());
        out.extend(self.digits());
        out.push(b';');
    }

    /// The step of `multipleOf`; nothing if it has too many digits.
    pub(super) fn to_step(self) -> Option<Step> {
        if self.count > STEP_DIGITS {
            return None;
        }
        let digits = self.digits().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        Some(Step { digits, exponent: self.exponent - self.count as i64 })
    }
}

/// `digits × 10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Invariant: not a multiple of ten.
    digits: u64,
    exponent: i64,
}

impl Step {
    pub(super) fn divides(self, number: &Number<'_>) -> bool {
        let shift = number.exponent - number.count as i64 - self.exponent;
        if number.count == 0 {
            return true;
        }
        // The number has a digit that the step cannot reach: its last one is not zero.
        if shift < 0 || self.digits == 0 {
            return false;
        }
        let module = u128::from(self.digits);
        let rest = number.digits().fold(0, |rest, digit| (rest * 10 + u128::from(digit - b'0')) % module);
        (rest * power_of_ten(shift as u64, module)).is_multiple_of(module)
    }
}

/// The remainder of a power of ten.
fn power_of_ten(mut exponent: u64, module: u128) -> u128 {
    let (mut power, mut square) = (1 % module, 10 % module);
    while exponent > 0 {
        if exponent % 2 == 1 {
            power = power * square % module;
        }
        square = square * square % module;
        exponent /= 2;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number<'_> {
        check(text).unwrap();
        read(text).unwrap()
    }

    #[test]
    fn numbers_are_compared_exactly() {
        let ordered = [
            "-1e999999999",
            "-1e20",
            "-1.5",
            "-1",
            "-1e-999999999",
            "0",
            "1e-300",
            "0.1",
            "0.2",
            "1",
            "1.5",
            "15",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.5",
            "1e20",
            "1e999999999",
            "1.1e999999999",
        ];
        for pair in ordered.windows(2) {
            assert_eq!(number(pair[0]).cmp(&number(pair[1])), Ordering::Less, "{pair:?}");
            assert_eq!(number(pair[1]).cmp(&number(pair[0])), Ordering::Greater, "{pair:?}");
        }
        for (one, other) in [("1.0", "1"), ("100", "1e2"), ("-0.0", "0"), ("0.00120", "12e-4"), ("0e5", "0")] {
            assert_eq!(number(one).cmp(&number(other)), Ordering::Equal);
            let canonical = |text| {
                let mut out = Vec::new();
                number(text).write_canonical(&mut out);
                out
            };
            assert_eq!(canonical(one), canonical(other), "{one} {other}");
        }
    }

    #[test]
    fn multiples_are_exact() {
        for (text, step, is_multiple) in [
            ("0.3", "0.1", true),
            ("1e300", "3", false),
            ("1e300", "2", true),
            ("7", "0.5", true),
            ("0.05", "0.1", false),
            ("0", "7", true),
            ("-21", "7", true),
            ("1e999999999999999", "0.000001", true),
            ("9007199254740993", "2", false),
            ("12391239123", "1e-8", true),
            ("123456789012345678901234567890", "90", true),
        ] {
            assert_eq!(number(step).to_step().unwrap().divides(&number(text)), is_multiple, "{text} of {step}");
        }
    }

    #[test]
    fn what_is_written_wrongly_is_no_number() {
        for text in ["", "-", "01", "1.", ".5", "1e", "1e+", "1.5.2", "+1", "1-2", "1e1234567890123456"] {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(number("10.0").is_integer() && !number("10.5").is_integer() && number("1e3").is_integer());
        assert_eq!(number("2.0").to_count(), Some(2));
        assert_eq!(number("1e30").to_count(), Some(u64::MAX));
        assert_eq!(number("18446744073709551616").to_count(), Some(u64::MAX));
        assert_eq!(number("-1").to_count(), None);
        assert_eq!(number("0").to_count(), Some(0));
    }
}
