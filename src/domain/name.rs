//! Event names: what an event may be called.

use std::fmt;

use bytestring::ByteString;

/// Longest event name or pattern, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Names beginning with this are the Event Handler's own; publishers cannot use them.
pub const SYSTEM_PREFIX: &str = "$sys.";

/// A valid event name: 1–255 bytes of UTF-8, dot-separated segments, none empty, without
/// control characters, `*`, `>`, `"`, `\`, or white space at either end.
///
/// Such a name needs no escaping inside a JSON string.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventName(ByteString);

impl EventName {
    /// Checks `name` against the rules above.
    pub fn parse(name: impl Into<ByteString>) -> Result<Self, NameError> {
        let name = name.into();
        check_length(&name)?;
        check_text(&name)?;
        if let Some(wildcard) = name.chars().find(|c| matches!(c, '*' | '>')) {
            return Err(NameError::Forbidden(wildcard));
        }
        Ok(Self(name))
    }

    /// A name read back from the store, where only valid names are written.
    pub(crate) fn from_store(name: String) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared text.
    pub fn as_shared(&self) -> &ByteString {
        &self.0
    }

    /// Whether the name belongs to the Event Handler itself.
    pub fn is_system(&self) -> bool {
        self.0.starts_with(SYSTEM_PREFIX)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Why a text is not an event name or a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {MAX_NAME_BYTES} bytes, not {0}")]
    TooLong(usize),
    #[error("must not contain {0:?}")]
    Forbidden(char),
    #[error("must not begin or end with white space")]
    OuterWhitespace,
    #[error("must not have an empty segment (single dots separate segments)")]
    EmptySegment,
    #[error("'*' must stand alone for one whole segment, or behind ':' for the rest of it")]
    PartialStar,
    #[error("'>' must stand alone as the last segment")]
    MisplacedTail,
}

pub(super) fn check_length(name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty),
        n if n > MAX_NAME_BYTES => Err(NameError::TooLong(n)),
        _ => Ok(()),
    }
}

/// The rules that names and patterns share.
pub(super) fn check_text(name: &str) -> Result<(), NameError> {
    if name.is_ascii() { check_ascii(name.as_bytes()) } else { check_unicode(name) }
}

fn check_ascii(name: &[u8]) -> Result<(), NameError> {
    let mut previous = b'.';
    for &byte in name {
        match byte {
            b'"' | b'\\' | 0x7f | 0..0x20 => return Err(NameError::Forbidden(char::from(byte))),
            b'.' if previous == b'.' => return Err(NameError::EmptySegment),
            _ => previous = byte,
        }
    }
    if previous == b'.' {
        return Err(NameError::EmptySegment);
    }
    if name.first() == Some(&b' ') || previous == b' ' {
        return Err(NameError::OuterWhitespace);
    }
    Ok(())
}

fn check_unicode(name: &str) -> Result<(), NameError> {
    if let Some(bad) = name.chars().find(|c| c.is_control() || matches!(c, '"' | '\\')) {
        return Err(NameError::Forbidden(bad));
    }
    if name.trim().len() != name.len() {
        return Err(NameError::OuterWhitespace);
    }
    if name.split('.').any(str::is_empty) {
        return Err(NameError::EmptySegment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_names_of_the_contract() {
        for name in ["user.created", "auction:started", "com.example.bid/v2", "a", "größe.neu", "a b", "$system"] {
            assert_eq!(EventName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
        assert!(EventName::parse("x".repeat(255)).is_ok());
    }

    #[test]
    fn refuses_everything_else_and_says_why() {
        let cases = [
            ("", NameError::Empty),
            ("a.*", NameError::Forbidden('*')),
            ("a.>", NameError::Forbidden('>')),
            ("a\"b", NameError::Forbidden('"')),
            ("a\\b", NameError::Forbidden('\\')),
            ("a\nb", NameError::Forbidden('\n')),
            ("ä\u{85}b", NameError::Forbidden('\u{85}')),
            ("a\u{7f}", NameError::Forbidden('\u{7f}')),
            (" a", NameError::OuterWhitespace),
            ("a ", NameError::OuterWhitespace),
            ("\u{2003}a", NameError::OuterWhitespace),
            (".a", NameError::EmptySegment),
            ("a.", NameError::EmptySegment),
            ("a..b", NameError::EmptySegment),
            (".", NameError::EmptySegment),
            ("ä..b", NameError::EmptySegment),
        ];
        for (name, error) in cases {
            assert_eq!(EventName::parse(name), Err(error), "{name:?}");
        }
        assert_eq!(EventName::parse("x".repeat(256)), Err(NameError::TooLong(256)));
    }

    #[test]
    fn knows_the_systems_own_names() {
        let is_system = |name: &str| EventName::parse(name).map(|n| n.is_system());
        assert_eq!(is_system("$sys.service.opened"), Ok(true));
        assert_eq!(is_system("$system.up"), Ok(false));
    }
}
