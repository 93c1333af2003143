//! Regular expressions of ECMA-262, without what cannot be matched in linear time: look-around and back references.
//!
//! A pattern is translated to the syntax of the `regex` crate, in which most of it means the same.

use regex::{Regex, RegexBuilder};

/// Characters that mean something else than themselves.
const SPECIAL: &[char] = &['\\', '^', '$', '.', '|', '?', '*', '+', '(', ')', '[', ']', '{', '}'];
/// Sizes that a compiled pattern is tried with, in bytes; the first that suffices is what it costs.
const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// Groups in groups.
const MAX_NESTING: u32 = 64;
/// Bytes of a compiled pattern that a step passes over, for each character of the text.
const BYTES_A_STEP: u64 = 16 << 10;
/// What `\s` stands for.
const SPACE: &str = r"\t\n\x0b\f\r \x{a0}\x{feff}\x{2028}\x{2029}\p{Zs}";
const WORD: &str = "0-9A-Za-z_";

/// Why a pattern is not compiled.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It is no pattern, or uses what is not supported.
    Unsupported(String),
    TooLarge,
}

/// A compiled pattern.
pub(super) struct Pattern {
    how: How,
    /// Bytes of the compiled form: what a pass over a text costs for each character at most.
    size: usize,
}

enum How {
    Everything,
    /// A text without special characters, anchored or not.
    Plain {
        starts: bool,
        ends: bool,
        text: Box<str>,
    },
    Regex(Regex),
}

impl Pattern {
    pub(super) fn compile(pattern: &str) -> Result<Self, Wrong> {
        if matches!(pattern, "" | "^" | "$" | ".*" | "^.*") {
            return Ok(Self { how: How::Everything, size: 0 });
        }
        let (starts, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
        let (ends, plain) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
        if !plain.contains(SPECIAL) {
            return Ok(Self { how: How::Plain { starts, ends, text: plain.into() }, size: 0 });
        }
        let translated = translate(pattern).map_err(Wrong::Unsupported)?;
        for size in SIZES {
            let mut builder = RegexBuilder::new(&translated);
            match builder.size_limit(size).dfa_size_limit(size * 4).nest_limit(MAX_NESTING).build() {
                Ok(regex) => return Ok(Self { how: How::Regex(regex), size }),
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(error) => return Err(Wrong::Unsupported(last_line(&error.to_string()))),
            }
        }
        Err(Wrong::TooLarge)
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match &self.how {
            How::Everything => true,
            How::Plain { starts: true, ends: true, text: plain } => text == &**plain,
            How::Plain { starts: true, text: plain, .. } => text.starts_with(&**plain),
            How::Plain { ends: true, text: plain, .. } => text.ends_with(&**plain),
            How::Plain { text: plain, .. } => text.contains(&**plain),
            How::Regex(regex) => regex.is_match(text),
        }
    }

    pub(super) fn takes_everything(&self) -> bool {
        matches!(self.how, How::Everything)
    }

    /// Bytes of the compiled form.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// What one match of a text costs.
    pub(super) fn steps(&self, text: &str) -> u64 {
        1 + text.len() as u64 * (self.size as u64 + 512) / BYTES_A_STEP
    }
}

/// The reason in a message that shows the pattern first.
fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Writes a pattern in the syntax of the `regex` crate.
fn translate(pattern: &str) -> Result<String, String> {
    let mut translator = Translator { rest: pattern, out: String::with_capacity(pattern.len() + 16) };
    translator.pattern()?;
    Ok(translator.out)
}

struct Translator<'p> {
    rest: &'p str,
    out: String,
}

/// One member of a class, or what an escape stands for.
enum Atom {
    One(char),
    /// The inside of a class, and whether it is the others that are meant.
    Set(&'static str, bool),
    /// `\p{…}`, as it is written.
    Property(String),
}

impl Translator<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn take(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn pattern(&mut self) -> Result<(), String> {
        // Whether a quantifier may follow.
        let mut repeats = false;
        while let Some(next) = self.next() {
            match next {
                '\\' => repeats = self.escape()?,
                '[' => {
                    self.class()?;
                    repeats = true;
                }
                '.' => {
                    self.out.push_str(r"[^\n\r\x{2028}\x{2029}]");
                    repeats = true;
                }
                '(' => {
                    self.group()?;
                    repeats = false;
                }
                '|' | '^' | '$' => {
                    self.out.push(next);
                    repeats = false;
                }
                ')' => {
                    self.out.push(next);
                    repeats = true;
                }
                '*' | '+' | '?' => {
                    self.quantifier(repeats, &next.to_string())?;
                    repeats = false;
                }
                '{' => match self.counted() {
                    Some(counted) => {
                        self.quantifier(repeats, &counted)?;
                        repeats = false;
                    }
                    None => {
                        self.out.push_str(r"\{");
                        repeats = true;
                    }
                },
                other => {
                    self.literal(other);
                    repeats = true;
                }
            }
        }
        Ok(())
    }

    fn quantifier(&mut self, repeats: bool, quantifier: &str) -> Result<(), String> {
        if !repeats {
            return Err(format!("there is nothing that `{quantifier}` repeats"));
        }
        self.out.push_str(quantifier);
        if self.take("?") {
            self.out.push('?');
        }
        Ok(())
    }

    /// `{2}`, `{2,}` or `{2,3}`, from behind its brace.
    fn counted(&mut self) -> Option<String> {
        let (inside, rest) = self.rest.split_once('}')?;
        let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if least.is_empty() || !are_digits(least) || !are_digits(most) {
            return None;
        }
        self.rest = rest;
        Some(format!("{{{inside}}}"))
    }

    fn group(&mut self) -> Result<(), String> {
        if ["?=", "?!", "?<=", "?<!"].iter().any(|look| self.rest.starts_with(look)) {
            return Err("look-around is not supported".to_owned());
        }
        if self.take("?:") {
            self.out.push_str("(?:");
        } else if self.take("?<") {
            // Nothing refers to a group, so its name is nothing to keep.
            let (name, rest) = self.rest.split_once('>').ok_or("a group without the end of its name")?;
            let is_of_names = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
            if name.is_empty() || name.starts_with(|c: char| c.is_numeric()) || !name.chars().all(is_of_names) {
                return Err(format!("{name:?} is no name of a group"));
            }
            self.rest = rest;
            self.out.push_str("(?:");
        } else if self.rest.starts_with('?') {
            return Err("modifiers of groups are not supported".to_owned());
        } else {
            self.out.push_str("(?:");
        }
        Ok(())
    }

    /// What follows a backslash outside a class; whether a quantifier may follow.
    fn escape(&mut self) -> Result<bool, String> {
        if self.take("b") {
            self.out.push_str(r"(?-u:\b)");
            return Ok(false);
        }
        if self.take("B") {
            self.out.push_str(r"(?-u:\B)");
            return Ok(false);
        }
        if self.rest.starts_with(|next: char| next == 'k' || ('1'..='9').contains(&next)) {
            return Err("back references are not supported".to_owned());
        }
        match self.atom()? {
            Atom::One(one) => self.literal(one),
            Atom::Set(set, others) => self.out.push_str(&format!("[{}{set}]", if others { "^" } else { "" })),
            Atom::Property(property) => self.out.push_str(&property),
        }
        Ok(true)
    }

    /// What follows a backslash, in a class or not.
    fn atom(&mut self) -> Result<Atom, String> {
        let next = self.next().ok_or("a backslash at the end")?;
        Ok(match next {
            'd' => Atom::Set("0-9", false),
            'D' => Atom::Set("0-9", true),
            'w' => Atom::Set(WORD, false),
            'W' => Atom::Set(WORD, true),
            's' => Atom::Set(SPACE, false),
            'S' => Atom::Set(SPACE, true),
            't' => Atom::One('\t'),
            'n' => Atom::One('\n'),
            'v' => Atom::One('\u{b}'),
            'f' => Atom::One('\u{c}'),
            'r' => Atom::One('\r'),
            '0' if !self.rest.starts_with(|next: char| next.is_ascii_digit()) => Atom::One('\0'),
            'c' => match self.next() {
                Some(letter) if letter.is_ascii_alphabetic() => Atom::One((letter as u8 % 32) as char),
                _ => return Err(r"a letter is expected after `\c`".to_owned()),
            },
            'x' => {
                Atom::One(self.hexadecimal(2).and_then(char::from_u32).ok_or(r"two digits are expected after `\x`")?)
            }
            'u' => Atom::One(self.unicode()?),
            'p' | 'P' => {
                let inside = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let (property, rest) = inside.ok_or(r"a property in braces is expected after `\p`")?;
                self.rest = rest;
                Atom::Property(format!(r"\{next}{{{property}}}"))
            }
            other if !other.is_ascii_alphanumeric() => Atom::One(other),
            other => return Err(format!(r"the escape `\{other}` is not supported")),
        })
    }

    fn hexadecimal(&mut self, digits: usize) -> Option<u32> {
        let text = self.rest.get(..digits).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        self.rest = &self.rest[digits..];
        u32::from_str_radix(text, 16).ok()
    }

    fn unicode(&mut self) -> Result<char, String> {
        const WRONG: &str = r"a character is expected after `\u`";
        if self.take("{") {
            let (digits, rest) = self.rest.split_once('}').ok_or(WRONG)?;
            self.rest = rest;
            let code = u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
            return code.and_then(char::from_u32).ok_or_else(|| WRONG.to_owned());
        }
        let unit = self.hexadecimal(4).ok_or(WRONG)?;
        if !(0xd800..0xe000).contains(&unit) {
            return char::from_u32(unit).ok_or_else(|| WRONG.to_owned());
        }
        let low = if self.take(r"\u") { self.hexadecimal(4) } else { None };
        let low = low.filter(|low| unit < 0xdc00 && (0xdc00..0xe000).contains(low));
        let code = low.map(|low| 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
        code.and_then(char::from_u32).ok_or_else(|| "half of a surrogate pair is not supported".to_owned())
    }

    fn literal(&mut self, one: char) {
        if one.is_ascii_punctuation() && !matches!(one, '<' | '>') {
            self.out.push('\\');
        }
        self.out.push(one);
    }

    fn class(&mut self) -> Result<(), String> {
        const OPEN: &str = "a class is not closed";
        let negated = self.take("^");
        if self.take("]") {
            self.out.push_str(if negated { r"[\x{0}-\x{10ffff}]" } else { r"[^\x{0}-\x{10ffff}]" });
            return Ok(());
        }
        self.out.push_str(if negated { "[^" } else { "[" });
        while !self.take("]") {
            let first = self.member().map_err(|error| error.unwrap_or_else(|| OPEN.to_owned()))?;
            let ranges = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            if !ranges {
                self.write(first);
                continue;
            }
            self.take("-");
            let last = self.member().map_err(|error| error.unwrap_or_else(|| OPEN.to_owned()))?;
            let (Atom::One(first), Atom::One(last)) = (first, last) else {
                return Err("a range between what is no single character".to_owned());
            };
            self.literal(first);
            self.out.push('-');
            self.literal(last);
        }
        self.out.push(']');
        Ok(())
    }

    /// A member of a class; no message if there is none.
    fn member(&mut self) -> Result<Atom, Option<String>> {
        match self.next().ok_or(None)? {
            '\\' if self.take("b") => Ok(Atom::One('\u{8}')),
            '\\' => self.atom().map_err(Some),
            other => Ok(Atom::One(other)),
        }
    }

    fn write(&mut self, member: Atom) {
        match member {
            Atom::One(one) => self.literal(one),
            Atom::Set(set, false) => self.out.push_str(set),
            Atom::Set(set, true) => self.out.push_str(&format!("[^{set}]")),
            Atom::Property(property) => self.out.push_str(&property),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_ecma_262() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^\w$", "é", false),
            (r"^\W$", "é", true),
            (r"^\s$", "\u{feff}", true),
            (r"^[\s]$", "\u{2003}", true),
            (r"^\S$", "\u{85}", true),
            (r"^.$", "\u{2028}", false),
            (r"^.$", "𝒳", true),
            (r"^a$", "a\n", false),
            (r"^[^]$", "\n", true),
            (r"[]", "a", false),
            (r"^[[&&~-]+$", "[&~-", true),
            (r"^[\d-]+$", "1-2", true),
            (r"^[a-c\-]+$", "a-c", true),
            (r"^\cA\x41\u0042\u{43}$", "\u{1}ABC", true),
            (r"^\ud83d\ude00$", "😀", true),
            (r"^\p{Lu}\P{Lu}$", "Éé", true),
            (r"^(?<year>\d{4})-(?:0[1-9]|1[0-2])$", "2026-11", true),
            (r"^a{1,2}?b{x$", "aab{x", true),
            (r"^\/a\.b$", "/a.b", true),
            (r"\bfoo\b", "a foo b", true),
            (r"^[a-z]:\*$", "x:*", true),
            (r"a#b c", "xa#b c", true),
            ("^x-", "x-a", true),
            ("x", "axb", true),
        ] {
            let compiled = Pattern::compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error:?}"));
            assert_eq!(compiled.matches(text), matches, "{pattern} {text:?}");
        }
    }

    #[test]
    fn what_is_not_linear_or_no_pattern_is_refused() {
        for pattern in [
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            r"(a)\1",
            r"(?<n>a)\k<n>",
            "(?i)a",
            "(?<a(b>c)",
            "(?<>a)",
            "(?<1>a)",
            "a**",
            "*a",
            "(",
            ")",
            "[a",
            r"\",
            r"\Z",
            r"\a",
            r"\p{Nope}",
            "[b-a]",
            r"[a-\d]",
            r"\ud800",
            r"\00",
            "a{2,1}",
            "(a{999}){999}",
            "a++",
        ] {
            assert!(Pattern::compile(pattern).is_err(), "{pattern}");
        }
    }
}
