//! Durations, sizes and whole numbers: how they are written and which range is allowed.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds.
pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// Bytes.
pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const PIB: u64 = 1 << 50;

/// A duration, written as text with a unit: `"250ms"`, `"30s"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }

    pub(super) const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let span = humantime::parse_duration(text);
        span.map(Self).map_err(|_| format!("must be a duration such as \"250ms\", \"30s\" or \"7d\", not {text:?}"))
    }
}

/// In the largest unit that divides it: `90s` is `90s`, `120s` is `2m`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u128, &str); 6] = [
            (86_400_000_000_000, "d"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let (size, unit) = UNITS.into_iter().find(|(size, _)| nanos.is_multiple_of(*size)).unwrap_or((1, "ns"));
        write!(f, "{}{unit}", nanos / size)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A number of bytes, written as text with a unit (`"64KiB"`, `"1MB"`) or as a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes, as what memory is counted in.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.parse::<ByteSize>() {
            Ok(size) => Ok(Self(size.as_u64())),
            Err(_) => Err(format!("must be a size such as \"64KiB\" or \"1MiB\", or a number of bytes, not {text:?}")),
        }
    }
}

/// In the largest binary unit that divides it: `1048576` is `1MiB`, `1000` is `1000B`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 5] = [(50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        let (shift, unit) = UNITS.into_iter().find(|(shift, _)| fits(*shift)).unwrap_or((0, "B"));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a duration of `MIN` to `MAX` milliseconds.
pub(super) fn span<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
    let span = Span::parse(&String::deserialize(from)?).map_err(D::Error::custom)?;
    between(Span::from_millis(MIN), span, Span::from_millis(MAX)).map_err(D::Error::custom)
}

/// Like [`span`]; empty is none.
pub(super) fn optional_span<'de, const MIN: u64, const MAX: u64, D>(from: D) -> Result<Option<Span>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(from)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let span = Span::parse(&text).map_err(D::Error::custom)?;
    between(Span::from_millis(MIN), span, Span::from_millis(MAX)).map(Some).map_err(D::Error::custom)
}

/// Reads a size of `MIN` to `MAX` bytes.
pub(super) fn size<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
    let size = Size::parse(&String::deserialize(from)?).map_err(D::Error::custom)?;
    between(Size(MIN), size, Size(MAX)).map_err(D::Error::custom)
}

/// Reads a size of up to `MAX` bytes; empty or 0 is none.
pub(super) fn optional_size<'de, const MAX: u64, D>(from: D) -> Result<Option<Size>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(from)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let size = Size::parse(&text).and_then(|size| between(Size(0), size, Size(MAX))).map_err(D::Error::custom)?;
    Ok(Some(size).filter(|size| size.bytes() > 0))
}

/// Reads a whole number of `MIN` to `MAX`, which must fit `T`.
pub(super) fn whole<'de, const MIN: i64, const MAX: i64, T, D>(from: D) -> Result<T, D::Error>
where
    T: TryFrom<i64>,
    D: Deserializer<'de>,
{
    let number = between(MIN, i64::deserialize(from)?, MAX).map_err(D::Error::custom)?;
    T::try_from(number).map_err(|_| D::Error::custom(format!("{number} is too large here")))
}

/// Reads a number of `MIN` to `MAX`.
pub(super) fn number<'de, const MIN: u32, const MAX: u32, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    between(f64::from(MIN), f64::deserialize(from)?, f64::from(MAX)).map_err(D::Error::custom)
}

/// Like [`whole`] from 0 to the largest number; 0 is none.
pub(super) fn optional_whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let number: u64 = whole::<0, { i64::MAX }, _, _>(from)?;
    Ok(Some(number).filter(|number| *number > 0))
}

pub(super) fn between<T: PartialOrd + fmt::Display>(min: T, value: T, max: T) -> Result<T, String> {
    // What cannot be compared (NaN) is within no range.
    if min <= value && value <= max { Ok(value) } else { Err(format!("must be between {min} and {max}, not {value}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        let cases = [
            ("250ms", 250_000_000, "250ms"),
            ("30s", 30_000_000_000, "30s"),
            (" 90 s ", 90_000_000_000, "90s"),
            ("1m 30s", 90_000_000_000, "90s"),
            ("120s", 120_000_000_000, "2m"),
            ("7d", 604_800_000_000_000, "7d"),
            ("0s", 0, "0s"),
            ("1500us", 1_500_000, "1500us"),
            ("3ns", 3, "3ns"),
        ];
        for (text, nanos, shown) in cases {
            let span = Span::parse(text).unwrap();
            assert_eq!((span.get().as_nanos(), span.to_string().as_str()), (nanos, shown), "{text:?}");
            assert_eq!(Span::parse(shown), Ok(span));
        }
        for text in ["", "30", "-1s", "soon", "99999999999999999999s"] {
            let reason = format!("must be a duration such as \"250ms\", \"30s\" or \"7d\", not {text:?}");
            assert_eq!(Span::parse(text), Err(reason));
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        let cases = [
            ("0", 0, "0B"),
            ("1000", 1000, "1000B"),
            ("1024", 1024, "1KiB"),
            ("64 KiB", 65_536, "64KiB"),
            ("1.5MiB", 1_572_864, "1536KiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("1GiB", 1 << 30, "1GiB"),
        ];
        for (text, bytes, shown) in cases {
            let size = Size::parse(text).unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown), "{text:?}");
            assert_eq!(Size::parse(shown), Ok(size));
        }
        for text in ["", "-1", "big", "1 XiB"] {
            let reason = format!("must be a size such as \"64KiB\" or \"1MiB\", or a number of bytes, not {text:?}");
            assert_eq!(Size::parse(text), Err(reason));
        }
    }
}
