//! A JSON text as a list of its values in the order of the text: read once, without a copy.

mod reader;

use std::borrow::Cow;

use super::names::{Names, UNKNOWN};
use super::number::{self, Number};

/// Arrays and objects in each other that a text may have.
pub(super) const MAX_DEPTH: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    False,
    True,
    Number,
    String,
    Array,
    Object,
}

/// A text in the JSON, or in the buffer of those that were written with escapes.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    /// Its length, doubled; odd if it is in the buffer.
    length: u32,
}

/// A value, with the name that it has in its object.
#[derive(Debug, Clone, Copy)]
struct Value {
    kind: Kind,
    /// The number of its name among those of the schema, or `UNKNOWN`.
    name: u32,
    key: Span,
    /// The text of a string, or the number as it is written.
    text: Span,
    /// Where the next value begins that is not part of this one.
    end: u32,
    /// Elements or members.
    count: u32,
}

const NOTHING: Span = Span { start: 0, length: 0 };

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    Malformed(&'static str),
    TooDeep,
    /// An object, by a JSON Pointer, and what it has twice.
    DuplicateKey(Box<(String, String)>),
}

/// A value by its place in the text; the root is 0.
pub(super) type At = u32;

/// A text that has been read.
pub(super) struct Tree<'t> {
    text: Cow<'t, str>,
    /// Texts that were written with escapes.
    unescaped: String,
    values: Vec<Value>,
}

impl<'t> Tree<'t> {
    /// Reads a text whose names are to be known by their numbers.
    pub(super) fn read(text: impl Into<Cow<'t, str>>, names: &Names) -> Result<Self, Unread> {
        let text = text.into();
        if text.len() > (u32::MAX / 2) as usize {
            return Err(Unread::Malformed("it is too long"));
        }
        let Tree { unescaped, values, .. } = reader::read(&text, names)?;
        Ok(Self { text, unescaped, values })
    }

    /// A text alone, as the value that a name is.
    pub(super) fn of_text(text: &'t str) -> Self {
        let length = text.len() as u32 * 2;
        let value = Value {
            kind: Kind::String,
            name: UNKNOWN,
            key: NOTHING,
            text: Span { start: 0, length },
            end: 1,
            count: 0,
        };
        Self { text: text.into(), unescaped: String::new(), values: vec![value] }
    }

    pub(super) fn kind(&self, at: At) -> Kind {
        self.values[at as usize].kind
    }

    /// Elements or members of an array or object.
    pub(super) fn count(&self, at: At) -> u32 {
        self.values[at as usize].count
    }

    /// Values in this one, itself among them.
    pub(super) fn size(&self, at: At) -> u32 {
        self.values[at as usize].end - at
    }

    pub(super) fn children(&self, at: At) -> Children<'_> {
        Children { values: &self.values, next: at + 1, end: self.values[at as usize].end }
    }

    /// The number of the name that a member has.
    pub(super) fn name(&self, at: At) -> u32 {
        self.values[at as usize].name
    }

    /// The name that a member has.
    pub(super) fn key(&self, at: At) -> &str {
        span(&self.text, &self.unescaped, self.values[at as usize].key)
    }

    /// The text of a string, or a number as it is written.
    pub(super) fn text(&self, at: At) -> &str {
        span(&self.text, &self.unescaped, self.values[at as usize].text)
    }

    pub(super) fn number(&self, at: At) -> Number<'_> {
        number::read(self.text(at)).expect("invariant: numbers are checked when they are read")
    }

    /// The member with a name.
    pub(super) fn member(&self, at: At, key: &str) -> Option<At> {
        self.children(at).find(|child| self.key(*child) == key)
    }

    /// Where a value is, as a JSON Pointer.
    pub(super) fn pointer(&self, to: At) -> String {
        let (mut at, mut pointer) = (0, String::new());
        while at != to {
            let holds_it = |(_, child): &(usize, At)| self.values[*child as usize].end > to;
            let Some((nth, child)) = self.children(at).enumerate().find(holds_it) else { break };
            pointer.push('/');
            match self.kind(at) {
                Kind::Object => pointer.push_str(&escaped(self.key(child))),
                _ => pointer.push_str(&nth.to_string()),
            }
            at = child;
        }
        pointer
    }

    /// The value that a JSON Pointer leads to from another one. `looks` counts the members that were looked at.
    pub(super) fn descend(&self, mut at: At, pointer: &str, looks: &mut u64) -> Option<At> {
        for part in pointer.split('/').skip(1) {
            *looks += u64::from(self.count(at)) + 1;
            at = match self.kind(at) {
                Kind::Object => self.member(at, &part.replace("~1", "/").replace("~0", "~"))?,
                Kind::Array if part == "0" || !part.starts_with(['0', '+']) => {
                    self.children(at).nth(part.parse().ok()?)?
                }
                _ => return None,
            };
        }
        Some(at)
    }

    /// Writes a value so that equal ones, and no others, are written alike: names in order, numbers in one form.
    pub(super) fn write_canonical(&self, at: At, out: &mut Vec<u8>) {
        match self.kind(at) {
            Kind::Null => out.push(b'n'),
            Kind::False => out.push(b'f'),
            Kind::True => out.push(b't'),
            Kind::Number => self.number(at).write_canonical(out),
            Kind::String => write_text(b's', self.text(at), out),
            Kind::Array => {
                out.push(b'[');
                self.children(at).for_each(|child| self.write_canonical(child, out));
                out.push(b']');
            }
            Kind::Object => {
                let mut members: Vec<At> = self.children(at).collect();
                members.sort_unstable_by_key(|member| self.key(*member));
                out.push(b'{');
                for member in members {
                    write_text(b'k', self.key(member), out);
                    self.write_canonical(member, out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Writes a text with its length before it, so that no two texts together look like two others.
fn write_text(kind: u8, text: &str, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}

/// A name as a part of a JSON Pointer.
pub(super) fn escaped(name: &str) -> Cow<'_, str> {
    if name.contains(['~', '/']) { name.replace('~', "~0").replace('/', "~1").into() } else { name.into() }
}

fn span<'a>(text: &'a str, unescaped: &'a str, span: Span) -> &'a str {
    let (start, length) = (span.start as usize, (span.length / 2) as usize);
    let whole = if span.length.is_multiple_of(2) { text } else { unescaped };
    &whole[start..start + length]
}

/// The elements of an array or members of an object.
pub(super) struct Children<'v> {
    values: &'v [Value],
    next: At,
    end: At,
}

impl Iterator for Children<'_> {
    type Item = At;

    fn next(&mut self) -> Option<At> {
        if self.next >= self.end {
            return None;
        }
        let at = self.next;
        self.next = self.values[at as usize].end;
        Some(at)
    }
}
