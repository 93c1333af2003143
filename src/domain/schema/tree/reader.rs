//! Reads a JSON text, and notes the place of each value.

use std::borrow::Cow;
use std::cell::RefCell;

use super::{At, Children, Kind, MAX_DEPTH, NOTHING, Span, Tree, Unread, Value, span};
use crate::domain::schema::names::{Names, UNKNOWN};
use crate::domain::schema::number;

/// Unknown names of one object that are compared in pairs; more are sorted.
const FEW: usize = 8;

thread_local! {
    /// By number of a name: the object that had it last. Kept so that no payload costs an allocation of it.
    static SEEN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// The values of a text, without the text itself.
pub(super) fn read(text: &str, names: &Names) -> Result<Tree<'static>, Unread> {
    let values = Vec::with_capacity(text.len() / 16 + 4);
    let tree = Tree { text: Cow::Borrowed(""), unescaped: String::new(), values };
    let mut reader = Reader { text, at: 0, tree, names, open: Vec::new(), unknown: Vec::new() };
    SEEN.with_borrow_mut(|seen| {
        seen.clear();
        seen.resize(names.len(), 0);
        reader.document(seen)
    })?;
    Ok(reader.tree)
}

struct Reader<'r> {
    text: &'r str,
    at: usize,
    tree: Tree<'static>,
    names: &'r Names,
    /// Arrays and objects that have begun and not ended.
    open: Vec<At>,
    /// Members of the object at hand whose names the schema does not know.
    unknown: Vec<At>,
}

const ENDS: Unread = Unread::Malformed("the text ends too early");

impl Reader<'_> {
    fn document(&mut self, seen: &mut [u32]) -> Result<(), Unread> {
        self.space();
        self.value(UNKNOWN, NOTHING, 0, seen)?;
        self.space();
        if self.at < self.text.len() { Err(Unread::Malformed("there is more after the value")) } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, name: u32, key: Span, depth: usize, seen: &mut [u32]) -> Result<(), Unread> {
        let place = self.tree.values.len();
        let mut value = Value { kind: Kind::Null, name, key, text: NOTHING, end: place as u32 + 1, count: 0 };
        match self.peek().ok_or(ENDS)? {
            b'"' => {
                value.kind = Kind::String;
                value.text = self.string()?;
            }
            b'{' | b'[' if depth == MAX_DEPTH => return Err(Unread::TooDeep),
            b'{' => {
                value.kind = Kind::Object;
                self.tree.values.push(value);
                self.open.push(place as At);
                return self.object(place, depth, seen);
            }
            b'[' => {
                value.kind = Kind::Array;
                self.tree.values.push(value);
                self.open.push(place as At);
                return self.array(place, depth, seen);
            }
            b'-' | b'0'..=b'9' => {
                value.kind = Kind::Number;
                value.text = self.number()?;
            }
            _ => {
                let rest = &self.text.as_bytes()[self.at..];
                let word = [("null", Kind::Null), ("true", Kind::True), ("false", Kind::False)];
                let word = word.iter().find(|(word, _)| rest.starts_with(word.as_bytes()));
                let (word, kind) = word.ok_or(Unread::Malformed("a value is expected"))?;
                self.at += word.len();
                value.kind = *kind;
            }
        }
        self.tree.values.push(value);
        Ok(())
    }

    fn array(&mut self, place: usize, depth: usize, seen: &mut [u32]) -> Result<(), Unread> {
        self.at += 1;
        self.space();
        let mut count = 0;
        if self.peek() == Some(b']') {
            self.at += 1;
            self.close(place, count);
            return Ok(());
        }
        loop {
            self.value(UNKNOWN, NOTHING, depth + 1, seen)?;
            count += 1;
            if !self.goes_on(b']')? {
                break;
            }
        }
        self.close(place, count);
        Ok(())
    }

    fn object(&mut self, place: usize, depth: usize, seen: &mut [u32]) -> Result<(), Unread> {
        self.at += 1;
        self.space();
        let mut count = 0;
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.close(place, count);
            return Ok(());
        }
        let (mut last, mut is_ascending) = (UNKNOWN, true);
        loop {
            if self.peek() != Some(b'"') {
                return Err(Unread::Malformed("a name is expected"));
            }
            let next = last.wrapping_add(1);
            let (key, name) = self.name(next)?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(Unread::Malformed("a colon is expected"));
            }
            self.at += 1;
            self.space();
            is_ascending &= name != UNKNOWN && name >= next;
            last = name;
            self.value(name, key, depth + 1, seen)?;
            count += 1;
            if !self.goes_on(b'}')? {
                break;
            }
        }
        self.close(place, count);
        // Known names in their order are each there once.
        if is_ascending { Ok(()) } else { self.check_names(place as u32, seen) }
    }

    /// The name of a member, and its number. The one that is likely is compared as it is written.
    fn name(&mut self, likely: u32) -> Result<(Span, u32), Unread> {
        let start = self.at + 1;
        if let Some(length) = self.names.length_at(&self.text.as_bytes()[start..], likely) {
            self.at = start + length + 1;
            return Ok((Span { start: start as u32, length: length as u32 * 2 }, likely));
        }
        let key = self.string()?;
        Ok((key, self.names.find(span(self.text, &self.tree.unescaped, key))))
    }

    fn close(&mut self, place: usize, count: u32) {
        self.open.pop();
        let end = self.tree.values.len() as u32;
        let value = &mut self.tree.values[place];
        value.end = end;
        value.count = count;
    }

    /// Whether there is another element or member.
    fn goes_on(&mut self, end: u8) -> Result<bool, Unread> {
        self.space();
        let next = self.peek().ok_or(ENDS)?;
        self.at += 1;
        match next {
            b',' => {
                self.space();
                Ok(true)
            }
            _ if next == end => Ok(false),
            _ => Err(Unread::Malformed("a comma is expected")),
        }
    }

    /// Fails if a name is there twice in an object that has been read.
    fn check_names(&mut self, object: At, seen: &mut [u32]) -> Result<(), Unread> {
        self.unknown.clear();
        let values = &self.tree.values;
        let children = Children { values, next: object + 1, end: values[object as usize].end };
        let mut twice = None;
        for member in children {
            match values[member as usize].name {
                UNKNOWN => self.unknown.push(member),
                name => {
                    let last = std::mem::replace(&mut seen[name as usize], object + 1);
                    if last == object + 1 {
                        twice = Some(member);
                        break;
                    }
                }
            }
        }
        let (text, unescaped) = (self.text, &self.tree.unescaped);
        let key = |member: &At| span(text, unescaped, values[*member as usize].key);
        let unknown = &mut self.unknown;
        if unknown.len() > FEW {
            unknown.sort_unstable_by_key(|member| (key(member), *member));
            let pair = unknown.windows(2).filter(|pair| key(&pair[0]) == key(&pair[1])).map(|pair| pair[1]).min();
            twice = twice.or(pair);
        } else {
            let has_before = |at: &usize| unknown[..*at].iter().any(|other| key(other) == key(&unknown[*at]));
            twice = twice.or_else(|| (0..unknown.len()).find(has_before).map(|at| unknown[at]));
        }
        let Some(twice) = twice else { return Ok(()) };
        let key = key(&twice).to_owned();
        Err(Unread::DuplicateKey(Box::new((self.path_to(object), key))))
    }

    /// Where an object is. Those around it are still open.
    fn path_to(&mut self, object: At) -> String {
        let end = self.tree.values.len() as u32;
        for around in &self.open {
            self.tree.values[*around as usize].end = end;
        }
        let tree = Tree {
            text: Cow::Borrowed(self.text),
            unescaped: std::mem::take(&mut self.tree.unescaped),
            values: std::mem::take(&mut self.tree.values),
        };
        tree.pointer(object)
    }

    fn string(&mut self) -> Result<Span, Unread> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut at = start;
        // A loop over words of eight bytes: most texts are short, and a search by vectors takes longer to begin.
        loop {
            match bytes.get(at..at + 8) {
                Some(word) => {
                    let word = u64::from_le_bytes(word.try_into().expect("invariant: eight bytes"));
                    let found = special(word);
                    if found == 0 {
                        at += 8;
                        continue;
                    }
                    at += (found.trailing_zeros() / 8) as usize;
                }
                None => {
                    while bytes.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
                        at += 1;
                    }
                }
            }
            return match bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    Ok(Span { start: start as u32, length: ((at - start) as u32) * 2 })
                }
                Some(b'\\') => self.escaped(start, at),
                Some(_) => Err(Unread::Malformed("a control character in a string")),
                None => Err(ENDS),
            };
        }
    }

    /// A string from where its first escape is.
    fn escaped(&mut self, start: usize, escape: usize) -> Result<Span, Unread> {
        let bytes = self.text.as_bytes();
        let begins = self.tree.unescaped.len();
        let (mut from, mut at) = (start, escape);
        loop {
            match bytes.get(at).ok_or(ENDS)? {
                b'"' => break,
                b'\\' => {
                    self.tree.unescaped.push_str(&self.text[from..at]);
                    at = self.escape(at + 1)?;
                    from = at;
                }
                0..=0x1f => return Err(Unread::Malformed("a control character in a string")),
                _ => at += 1,
            }
        }
        self.tree.unescaped.push_str(&self.text[from..at]);
        self.at = at + 1;
        let length = (self.tree.unescaped.len() - begins) as u32;
        Ok(Span { start: begins as u32, length: length * 2 + 1 })
    }

    /// Takes what follows a backslash; returns where it ends.
    fn escape(&mut self, at: usize) -> Result<usize, Unread> {
        const WRONG: Unread = Unread::Malformed("an unknown escape in a string");
        let character = match self.text.as_bytes().get(at).ok_or(ENDS)? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit(at + 1).ok_or(WRONG)?;
                let follows = self.text.as_bytes().get(at + 5..at + 7) == Some(b"\\u");
                let low = if follows { self.unit(at + 7) } else { None };
                let (code, end) = match (unit, low) {
                    (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) => {
                        (0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00), at + 11)
                    }
                    _ => (unit, at + 5),
                };
                // It stands for no character, so that rules of texts say nothing on it.
                let half = Unread::Malformed("half of a surrogate pair in a string");
                self.tree.unescaped.push(char::from_u32(code).ok_or(half)?);
                return Ok(end);
            }
            _ => return Err(WRONG),
        };
        self.tree.unescaped.push(character);
        Ok(at + 1)
    }

    fn unit(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 4)?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    }

    fn number(&mut self) -> Result<Span, Unread> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut end = start + 1;
        while bytes.get(end).is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
            end += 1;
        }
        self.at = end;
        number::check(&self.text[start..end]).map_err(Unread::Malformed)?;
        Ok(Span { start: start as u32, length: ((end - start) as u32) * 2 })
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The high bits of those bytes (the first of them is exact) that are a quote, a backslash or a control character.
fn special(word: u64) -> u64 {
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let backslash = zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    quote | backslash | control
}
