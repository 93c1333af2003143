//! Amounts of money, which are decimal texts such as `12.50`: no program rounds them, and they are compared exactly.

use serde_json::Value;

/// Digits behind the point that an amount may have, as in the event types.
const MAX_FRACTION: usize = 18;

/// Of two amounts the greater one is the one with more digits before the point, then with the greater ones there, then
/// with the greater ones behind it. So the order of the fields is that of the amounts.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount<'a> {
    whole_digits: usize,
    whole: &'a str,
    /// Without zeros at its end: 1.5 is 1.50.
    fraction: &'a str,
}

impl<'a> Amount<'a> {
    /// Nothing, if the value is not a decimal text.
    pub fn of(value: &'a Value) -> Option<Self> {
        let text = value.as_str()?;
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        let is_whole = is_number(whole) && (whole == "0" || !whole.starts_with('0'));
        let is_fraction = fraction.is_none_or(|digits| is_number(digits) && digits.len() <= MAX_FRACTION);
        (is_whole && is_fraction).then(|| Self {
            whole_digits: whole.len(),
            whole,
            fraction: fraction.unwrap_or_default().trim_end_matches('0'),
        })
    }
}
