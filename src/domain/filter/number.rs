//! Numbers as they are written: compared exactly, whatever their length.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// A JSON number, exactly: `0.DIGITS × 10^magnitude`.
///
/// Invariant: neither the first nor the last digit is zero, so equal numbers are equal values. Zero has no digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Number<'a> {
    is_negative: bool,
    magnitude: i64,
    digits: Cow<'a, str>,
}

/// Where magnitudes end. Numbers beyond are all the same to us, and larger (or closer to zero) than any in a filter.
const LAST_MAGNITUDE: i64 = i64::MAX / 4;
/// Largest magnitude of a number in a filter, either way.
pub(super) const MAX_MAGNITUDE: i64 = 1_000_000_000;

impl<'a> Number<'a> {
    /// Reads `text`, which has to be a JSON number.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (is_negative, unsigned) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let (digits, point) = if fraction.is_empty() {
            (Cow::Borrowed(whole), whole.len() as i64)
        } else if whole.is_empty() {
            let digits = fraction.trim_start_matches('0');
            (Cow::Borrowed(digits), digits.len() as i64 - fraction.len() as i64)
        } else {
            (Cow::Owned([whole, fraction].concat()), whole.len() as i64)
        };
        let digits = match digits {
            Cow::Borrowed(digits) => Cow::Borrowed(digits.trim_end_matches('0')),
            owned => owned,
        };
        if digits.is_empty() {
            return Some(Self { is_negative: false, magnitude: 0, digits });
        }
        let magnitude = (point + exponent).clamp(-LAST_MAGNITUDE, LAST_MAGNITUDE);
        Some(Self { is_negative, magnitude, digits })
    }

    /// Whether a filter may name it.
    pub fn is_ordinary(&self) -> bool {
        self.magnitude.abs() <= MAX_MAGNITUDE
    }

    pub fn into_owned(self) -> Number<'static> {
        let Self { is_negative, magnitude, digits } = self;
        Number { is_negative, magnitude, digits: Cow::Owned(digits.into_owned()) }
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }
}

/// Exponents too long for any computer count as the largest.
fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.trim_start_matches(['+', '-']);
    if digits.is_empty() || text.len() > digits.len() + 1 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let size = digits.parse::<i64>().map_or(LAST_MAGNITUDE * 2, |size| size.min(LAST_MAGNITUDE * 2));
    Some(if text.starts_with('-') { -size } else { size })
}

/// Equal numbers have one text, which is JSON.
impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Of as many digits before the point, or zeros behind it, no number is written with an exponent.
        const PLAIN: i64 = 21;
        let Self { is_negative, magnitude, digits } = self;
        let length = digits.len() as i64;
        f.write_str(if *is_negative { "-" } else { "" })?;
        match *magnitude {
            _ if digits.is_empty() => f.write_str("0"),
            m if !(-PLAIN..=PLAIN).contains(&m) => write!(f, "{digits}e{}", m - length),
            m if m <= 0 => write!(f, "0.{}{digits}", "0".repeat(m.unsigned_abs() as usize)),
            m if m >= length => write!(f, "{digits}{}", "0".repeat((m - length) as usize)),
            m => write!(f, "{}.{}", &digits[..m as usize], &digits[m as usize..]),
        }
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = || self.magnitude.cmp(&other.magnitude).then_with(|| self.digits.cmp(&other.digits));
        self.sign().cmp(&other.sign()).then_with(|| if self.is_negative { size().reverse() } else { size() })
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number<'_> {
        Number::parse(text).expect("a number")
    }

    #[test]
    fn equal_numbers_are_equal_however_they_are_written() {
        for same in [
            &["1", "1.0", "10e-1", "0.1E+1", "1e0", "0.0001e4"][..],
            &["0", "-0", "0.0", "0e400", "-0e-9"],
            &["-12.5", "-125e-1", "-0.125e2", "-12.50"],
            &["1e400", "10e399", "0.1e401"],
            &["12345678901234567890123", "12345678901234567890123.0", "1.2345678901234567890123e22"],
        ] {
            for (a, b) in same.iter().flat_map(|a| same.iter().map(move |b| (a, b))) {
                assert_eq!(number(a), number(b), "{a} {b}");
            }
        }
    }

    #[test]
    fn equal_numbers_have_one_text() {
        for (texts, shown) in [
            (&["1", "10e-1"][..], "1"),
            (&["-0.0"], "0"),
            (&["-125e-1", "-12.50"], "-12.5"),
            (&["1e400", "10e399"], "1e400"),
            (&["0.00120"], "0.0012"),
            (&["1e-30"], "1e-30"),
            (&["1e20"], "100000000000000000000"),
            (&["12345678901234567890123"], "12345678901234567890123e0"),
        ] {
            for text in texts {
                assert_eq!(number(text).to_string(), shown);
                assert_eq!(number(shown), number(text), "it reads as the same");
            }
        }
    }

    #[test]
    fn nothing_is_rounded() {
        let rising = [
            "-1e99999999999999999999",
            "-1e401",
            "-1e400",
            "-12345678901234567891",
            "-12345678901234567890",
            "-1",
            "-0.1",
            "-1e-400",
            "0",
            "1e-401",
            "1e-400",
            "0.1",
            "0.1000000000000000000001",
            "9007199254740992",
            "9007199254740993",
            "18446744073709551616",
            "18446744073709551617",
            "1e400",
            "1.1e400",
            "1e401",
            "1e99999999999999999999",
        ];
        for (k, pair) in rising.windows(2).enumerate() {
            assert!(number(pair[0]) < number(pair[1]), "{k}: {pair:?}");
        }
        assert!(number("1e400").is_ordinary() && !number("1e99999999999").is_ordinary());
    }

    #[test]
    fn other_texts_are_no_numbers() {
        for text in ["", "-", "a", "1a", "1e", "1e+", "1e+-1", ".5", "1.2.3", "--1", "NaN"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_integers_and_their_decimals(a in -2000i128..2000, b in -2000i128..2000, shift in 0usize..4) {
            let text = |n: i128| format!("{n}{}e-{shift}", "0".repeat(shift));
            prop_assert_eq!(number(&text(a)).cmp(&number(&b.to_string())), a.cmp(&b));
            let scaled = |n: i128| format!("{}{}.{:03}", if n < 0 { "-" } else { "" }, n.abs() / 1000, n.abs() % 1000);
            prop_assert_eq!(number(&scaled(a)).cmp(&number(&scaled(b))), a.cmp(&b));
        }
    }
}
