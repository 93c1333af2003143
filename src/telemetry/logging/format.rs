//! The formats of log lines: a JSON object or readable text. Each record is exactly one line, whatever its message
//! contains.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use log::{Level, Record};
use serde::Serializer as _;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Json,
    Text { color: bool },
}

/// Width of the target in text, in columns. A longer target pushes the message to the right.
const TARGET_COLUMNS: usize = 18;

/// Writes `record` as one line, newline included.
pub(super) fn write_line(style: Style, out: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
    match style {
        Style::Json => write_json(out, jiff::Timestamp::now(), record),
        Style::Text { color } => write_text(out, jiff::Timestamp::now(), record, color),
    }
}

/// A log line that tells how many lines were dropped.
pub(super) fn dropped_notice(style: Style, count: u64) -> Vec<u8> {
    let mut line = Vec::new();
    let fields = [("count", count)];
    let written = write_line(
        style,
        &mut line,
        &Record::builder()
            .level(Level::Warn)
            .target(module_path!())
            .args(format_args!("log lines dropped"))
            .key_values(&fields.as_slice())
            .build(),
    );
    written.expect("invariant: writing to memory cannot fail");
    line
}

/// Writes `ts`, `level`, `target` and `msg`, and then the fields of the record in the same object.
pub(super) fn write_json(out: &mut impl Write, time: jiff::Timestamp, record: &Record<'_>) -> io::Result<()> {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    write!(out, "{{\"ts\":\"{time:.6}\",\"level\":\"{level}\",\"target\":")?;
    json(out, |to| to.serialize_str(record.target()))?;
    out.write_all(b",\"msg\":")?;
    json(out, |to| to.collect_str(record.args()))?;
    record.key_values().visit(&mut JsonFields(out)).map_err(io::Error::other)?;
    out.write_all(b"}\n")
}

/// Writes one value as JSON.
fn json<W: Write>(
    out: &mut W,
    value: impl FnOnce(&mut serde_json::Serializer<&mut W>) -> serde_json::Result<()>,
) -> io::Result<()> {
    value(&mut serde_json::Serializer::new(out)).map_err(io::Error::from)
}

struct JsonFields<'a, W>(&'a mut W);

impl<'kvs, W: Write> VisitSource<'kvs> for JsonFields<'_, W> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.write_all(b",")?;
        match key.as_str() {
            taken @ ("ts" | "level" | "target" | "msg") => write!(self.0, "\"{taken}_\"")?,
            free => json(self.0, |to| to.serialize_str(free))?,
        }
        self.0.write_all(b":")?;
        value.visit(JsonValue(self.0))
    }
}

struct JsonValue<'a, W>(&'a mut W);

impl<'v, W: Write> VisitValue<'v> for JsonValue<'_, W> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        Ok(json(self.0, |to| to.collect_str(&value))?)
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        Ok(self.0.write_all(b"null")?)
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        Ok(write!(self.0, "{value}")?)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        Ok(write!(self.0, "{value}")?)
    }

    fn visit_u128(&mut self, value: u128) -> Result<(), Error> {
        Ok(write!(self.0, "{value}")?)
    }

    fn visit_i128(&mut self, value: i128) -> Result<(), Error> {
        Ok(write!(self.0, "{value}")?)
    }

    /// JSON has neither infinities nor NaN, so they become null.
    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        Ok(json(self.0, |to| to.serialize_f64(value))?)
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        Ok(write!(self.0, "{value}")?)
    }

    fn visit_str(&mut self, value: &str) -> Result<(), Error> {
        Ok(json(self.0, |to| to.serialize_str(value))?)
    }
}

/// Writes the time, level, target and message, and then the fields as `key=value`.
pub(super) fn write_text(
    out: &mut impl Write,
    time: jiff::Timestamp,
    record: &Record<'_>,
    color: bool,
) -> io::Result<()> {
    const DIM: &str = "\x1b[2m";
    const RESET: &str = "\x1b[0m";
    let level_color = match record.level() {
        Level::Error => "\x1b[1;31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[34m",
        Level::Trace => DIM,
    };
    let [tint, dim, reset] = if color { [level_color, DIM, RESET] } else { [""; 3] };
    let target = record.target().strip_prefix("event_handler::").unwrap_or(record.target());
    let target = Escaped(&target, false);
    let (level, message) = (record.level(), Escaped(record.args(), false));
    write!(out, "{dim}{time:.3}{reset} {tint}{level:<5}{reset} {dim}{:<TARGET_COLUMNS$}{reset} ", target.to_string())?;
    write!(out, "{message}")?;
    record.key_values().visit(&mut TextFields { out, dim, reset }).map_err(io::Error::other)?;
    out.write_all(b"\n")
}

struct TextFields<'a, W> {
    out: &'a mut W,
    dim: &'static str,
    reset: &'static str,
}

impl<'kvs, W: Write> VisitSource<'kvs> for TextFields<'_, W> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let Self { out, dim, reset } = self;
        let value = value.to_string();
        let needs_quotes = value.is_empty() || value.contains([' ', '"', '=', '\\']);
        write!(out, " {dim}{}={reset}{}", Escaped(&key, false), Escaped(&value, needs_quotes))?;
        Ok(())
    }
}

/// A text with control characters escaped, so that no message can forge a line or send commands to a terminal. The flag
/// adds quotes.
struct Escaped<'a, T: ?Sized>(&'a T, bool);

impl<T: fmt::Display + ?Sized> fmt::Display for Escaped<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text, quoted) = *self;
        if !quoted {
            return write!(Escaping { to: f, quoted }, "{text}");
        }
        f.write_char('"')?;
        write!(Escaping { to: &mut *f, quoted }, "{text}")?;
        f.write_char('"')
    }
}

struct Escaping<'a, 'f> {
    to: &'a mut fmt::Formatter<'f>,
    quoted: bool,
}

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let quoted = self.quoted;
        let is_plain = |c: char| !(c.is_control() || quoted && matches!(c, '"' | '\\'));
        let mut rest = text;
        while let Some(at) = rest.find(|c| !is_plain(c)) {
            let (plain, special) = rest.split_at(at);
            self.to.write_str(plain)?;
            let mut chars = special.chars();
            chars.next().map_or(Ok(()), |c| write!(self.to, "{}", c.escape_default()))?;
            rest = chars.as_str();
        }
        self.to.write_str(rest)
    }
}
