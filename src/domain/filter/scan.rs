//! Reading JSON text that is known to be valid, without a tree and without recursion over what is skipped.
//!
//! On other text it says `None` or reads something; it never panics.

use std::borrow::Cow;

use memchr::memchr2;

use super::MAX_ELEMENTS;
use super::number::Number;

/// A value that has no parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(Number<'a>),
    Text(Cow<'a, str>),
    /// A string with half a surrogate pair: no text, and equal to nothing a filter can name.
    BrokenText,
}

impl Scalar<'_> {
    pub fn into_owned(self) -> Scalar<'static> {
        match self {
            Self::Null => Scalar::Null,
            Self::Bool(value) => Scalar::Bool(value),
            Self::Number(number) => Scalar::Number(number.into_owned()),
            Self::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
            Self::BrokenText => Scalar::BrokenText,
        }
    }
}

/// A place in a JSON text.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Elements of arrays that may still be kept.
    pub elements: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, elements: MAX_ELEMENTS }
    }

    /// The next byte that is not white space.
    pub fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let blank = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.at += blank;
        rest.get(blank).copied()
    }

    /// Passes `byte` if it is next.
    pub fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Passes `byte`, which has to be next.
    pub fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    /// Passes a string; the inner `None` if it is no text.
    pub fn string(&mut self) -> Option<Option<Cow<'a, str>>> {
        let raw = self.raw_string()?;
        let inner = &raw[1..raw.len() - 1];
        if inner.contains('\\') {
            return Some(serde_json::from_str(raw).ok().map(Cow::Owned));
        }
        Some(Some(Cow::Borrowed(inner)))
    }

    /// Passes a value without parts.
    pub fn scalar(&mut self) -> Option<Scalar<'a>> {
        if self.peek()? == b'"' {
            return Some(self.string()?.map_or(Scalar::BrokenText, Scalar::Text));
        }
        match self.word() {
            "null" => Some(Scalar::Null),
            "true" => Some(Scalar::Bool(true)),
            "false" => Some(Scalar::Bool(false)),
            number => Number::parse(number).map(Scalar::Number),
        }
    }

    /// Passes any value.
    pub fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.raw_string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                _ if self.word().is_empty() => return None,
                _ => {}
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Passes a string; with its quotation marks.
    fn raw_string(&mut self) -> Option<&'a str> {
        self.peek().filter(|byte| *byte == b'"')?;
        let start = self.at;
        let mut end = start + 1;
        loop {
            end += memchr2(b'"', b'\\', self.text.as_bytes().get(end..)?)?;
            if self.text.as_bytes()[end] == b'"' {
                break;
            }
            end += 2;
        }
        self.at = end + 1;
        self.text.get(start..self.at)
    }

    /// Passes a number or a literal.
    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')));
        let word = &rest[..end.unwrap_or(rest.len())];
        self.at += word.len();
        word
    }
}
