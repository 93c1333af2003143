//! Templates: JSON in whose texts `${…}` stands for a value that is known only later.
//!
//! A text that is one `${…}` alone becomes the value itself; elsewhere the value is put into the text. What was filled in
//! is not looked at again. `$${` is a plain `${`.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::json::find;

/// What is not encoded in a segment of a path (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest text that a template becomes, in bytes: far more than what may be sent.
const MAX_FILLED: usize = 32 << 20;

/// A text with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Plain(String),
    Hole(Vec<String>),
}

/// A JSON value whose texts have holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// Without any.
    Fixed(String),
    Text(Text),
    Array(Vec<Template>),
    Object(Vec<(String, Template)>),
}

/// Why a template cannot be filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfilled(pub String);

impl Text {
    /// Reads `text`. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                plain.push_str(&rest[..at - 1]);
                plain.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            plain.push_str(&rest[..at]);
            let (path, after) =
                rest[at + 2..].split_once('}').ok_or_else(|| format!("{text:?} lacks a closing brace"))?;
            let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
            if path.iter().any(String::is_empty) {
                return Err(format!("{text:?} has an empty name between its braces"));
            }
            if !plain.is_empty() {
                parts.push(Part::Plain(std::mem::take(&mut plain)));
            }
            parts.push(Part::Hole(path));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Plain(plain));
        }
        Ok(Self(parts))
    }

    /// What stands for the holes.
    pub fn paths(&self) -> impl Iterator<Item = &[String]> {
        self.0.iter().filter_map(|part| if let Part::Hole(path) = part { Some(&path[..]) } else { None })
    }

    /// Filled with what is in `scope`, a JSON object.
    pub fn fill(&self, scope: &str) -> Result<String, Unfilled> {
        self.filled(scope, |value| value.to_owned())
    }

    /// Whether nothing has to be filled in.
    pub fn is_plain(&self) -> bool {
        self.paths().next().is_none()
    }

    /// As [`Self::fill`], as the key of an event: what may be published as one.
    pub fn fill_key(&self, scope: &str) -> Result<String, Unfilled> {
        self.has_values(scope, "key")?;
        let key = self.fill(scope)?;
        match key.chars().any(char::is_control) {
            _ if key.is_empty() => Err(Unfilled("a key must not be empty".to_owned())),
            true => Err(Unfilled("a key must not contain control characters".to_owned())),
            false => Ok(key),
        }
    }

    /// As [`Self::fill`], each value as one segment of a path. None of the segments may be a step through the path, nor be
    /// empty because of what was filled in.
    pub fn fill_path(&self, scope: &str) -> Result<String, Unfilled> {
        self.has_values(scope, "segment of a path")?;
        // Stands for an empty value; no other part has one.
        const NOTHING: char = '\0';
        let path = self.filled(scope, |value| match value {
            "" => NOTHING.to_string(),
            _ => utf8_percent_encode(value, SEGMENT).to_string(),
        })?;
        if let Some(segment) = dot_segment(&path.replace(NOTHING, "")) {
            return Err(Unfilled(format!("{segment:?} cannot be a segment of a path")));
        }
        let is_emptied = |segment: &str| !segment.is_empty() && segment.chars().all(|part| part == NOTHING);
        if segments(&path).any(is_emptied) {
            return Err(Unfilled("a segment of a path must not be empty".to_owned()));
        }
        Ok(path.replace(NOTHING, ""))
    }

    /// Calls `found` for the parts that are written out.
    pub fn for_each_plain(&self, mut found: impl FnMut(&str)) {
        self.0.iter().for_each(|part| {
            if let Part::Plain(plain) = part {
                found(plain)
            }
        });
    }

    /// Fails if null stands for a hole.
    fn has_values(&self, scope: &str, what: &str) -> Result<(), Unfilled> {
        for path in self.paths() {
            if look_up(scope, path)?.trim() == "null" {
                return Err(Unfilled(format!("${{{}}} is null, and no {what}", path.join("."))));
            }
        }
        Ok(())
    }

    fn filled(&self, scope: &str, with: impl Fn(&str) -> String) -> Result<String, Unfilled> {
        self.0.iter().try_fold(String::new(), |mut text, part| {
            match part {
                Part::Plain(plain) => text.push_str(plain),
                Part::Hole(path) => text.push_str(&with(&unquoted(look_up(scope, path)?))),
            }
            bounded(&text)?;
            Ok(text)
        })
    }

    fn fill_json(&self, scope: &str, out: &mut String) -> Result<(), Unfilled> {
        match &self.0[..] {
            [Part::Hole(path)] => out.push_str(look_up(scope, path)?.trim()),
            _ => {
                let _ = write!(out, "{}", serde_json::Value::from(self.fill(scope)?));
            }
        }
        Ok(())
    }
}

fn bounded(filled: &str) -> Result<(), Unfilled> {
    let is_bounded = filled.len() <= MAX_FILLED;
    if is_bounded { Ok(()) } else { Err(Unfilled(format!("it becomes longer than {MAX_FILLED} bytes"))) }
}

fn look_up<'a>(scope: &'a str, path: &[String]) -> Result<&'a str, Unfilled> {
    find(scope, path).ok_or_else(|| Unfilled(format!("${{{}}} is not there", path.join("."))))
}

/// A segment that clients and servers remove as a step through the path, however its dots are written (RFC 3986 section
/// 5.2.4; the URL standard takes `%2e` for a dot there).
fn dot_segment(path: &str) -> Option<&str> {
    segments(path).find(|segment| matches!(&*segment.to_ascii_lowercase().replace("%2e", "."), "." | ".."))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split(['?', '#']).next().into_iter().flat_map(|path| path.split(['/', '\\']))
}

/// A text without its quotes, and anything else as it is written.
fn unquoted(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|_| json.trim().to_owned())
}

impl Template {
    /// Reads a JSON value. The error says what is wrong with one of its texts.
    pub fn parse(value: &serde_json::Value) -> Result<Self, String> {
        use serde_json::Value;
        let template = match value {
            Value::String(text) => Self::Text(Text::parse(text)?),
            Value::Array(elements) => Self::Array(elements.iter().map(Self::parse).collect::<Result<_, _>>()?),
            Value::Object(members) => {
                let member = |(name, value): (&String, &Value)| Ok((name.clone(), Self::parse(value)?));
                Self::Object(members.iter().map(member).collect::<Result<_, String>>()?)
            }
            fixed => Self::Fixed(fixed.to_string()),
        };
        Ok(template)
    }

    /// Calls `found` for what stands for each hole.
    pub fn for_each_path(&self, found: &mut impl FnMut(&[String])) {
        match self {
            Self::Fixed(_) => {}
            Self::Text(text) => text.paths().for_each(found),
            Self::Array(elements) => elements.iter().for_each(|element| element.for_each_path(found)),
            Self::Object(members) => members.iter().for_each(|(_, member)| member.for_each_path(found)),
        }
    }

    /// The JSON text of it, filled with what is in `scope`, a JSON object.
    pub fn fill(&self, scope: &str) -> Result<String, Unfilled> {
        let mut out = String::new();
        self.write(scope, &mut out)?;
        Ok(out)
    }

    fn write(&self, scope: &str, out: &mut String) -> Result<(), Unfilled> {
        match self {
            Self::Fixed(json) => out.push_str(json),
            Self::Text(text) => text.fill_json(scope, out)?,
            Self::Array(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    element.write(scope, out)?;
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (name, member)) in members.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    let _ = write!(out, "{}:", serde_json::Value::from(&**name));
                    member.write(scope, out)?;
                }
                out.push('}');
            }
        }
        bounded(out)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SCOPE: &str =
        r#"{"trigger":{"payload":{"id":"a/1","price":1.10,"tags":["x","${saga.id}"],"on":true}},"saga":{"id":"7"}}"#;

    #[test]
    fn values_keep_their_type_and_their_digits() {
        let body = json!({
            "price": "${trigger.payload.price}", "text": "for ${trigger.payload.price} each", "all": "${trigger.payload.tags}",
            "one": "${trigger.payload.tags.0}", "plain": "$${saga.id} costs $5", "fixed": [1, null, "${trigger.payload.on}"],
        });
        let filled = Template::parse(&body).expect("a template").fill(SCOPE).expect("all is there");
        assert!(filled.contains(r#""price":1.10,"#), "{filled}");
        let filled: serde_json::Value = serde_json::from_str(&filled).expect("JSON");
        let expected = json!({
            "price": 1.10, "text": "for 1.10 each", "all": ["x", "${saga.id}"], "one": "x",
            "plain": "${saga.id} costs $5", "fixed": [1, null, true],
        });
        assert_eq!(filled, expected, "what was filled in is not a template");
    }

    #[test]
    fn a_value_is_one_segment_of_a_path() {
        let path = |text: &str| {
            Text::parse(text).expect("a text").fill_path(r#"{"a":"x/../y ?","b":"..","c":7,"dot":".","no":""}"#)
        };
        assert_eq!(path("/t/${a}/${c}").as_deref(), Ok("/t/x%2F..%2Fy%20%3F/7"));
        for steps in ["/t/${b}", "/t/.${dot}", "/t/${dot}?n=1", "/t/%2e${dot}/x", "/${c}/../x"] {
            assert!(path(steps).is_err(), "{steps}");
        }
        for emptied in ["/t/${no}", "/t/${no}/x", "/${no}${no}?n=1"] {
            assert!(path(emptied).is_err(), "{emptied}");
        }
        assert_eq!(path("/t//a${no}/?n=${no}").as_deref(), Ok("/t//a/?n="));
        assert_eq!(path("/t/${b}.json?of=/../").as_deref(), Ok("/t/...json?of=/../"));
        assert_eq!(path("/t/${d.e}"), Err(Unfilled("${d.e} is not there".to_owned())));
    }

    #[test]
    fn a_template_becomes_only_so_long() {
        let scope = json!({ "trigger": "x".repeat(1 << 20) }).to_string();
        let holes = |count: usize| Template::parse(&json!(vec!["${trigger}"; count])).expect("a template");
        assert!(holes(20).fill(&scope).is_ok());
        assert!(holes(40).fill(&scope).is_err_and(|unfilled| unfilled.0.contains("longer")));
        let text = Text::parse(&"${trigger}".repeat(40)).expect("a text");
        assert!(text.fill(&scope).is_err_and(|unfilled| unfilled.0.contains("longer")));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert!(Text::parse("${a").is_err() && Text::parse("${}").is_err() && Text::parse("${a..b}").is_err());
    }
}
