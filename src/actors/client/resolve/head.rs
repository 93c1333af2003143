//! The head of an answer, read as leniently as other HTTP clients read it.
//!
//! The HTTP client used here takes at most 96 header lines, no folded line, and no second `Content-Length`. So it gets
//! only the headers that it needs, in plain form, and the rest of a head does not matter.

use std::io::{Error, ErrorKind, Result};

/// The headers that say where an answer ends, whether the connection stays open, and when to try again.
const NEEDED: [&str; 4] = ["connection", "content-length", "retry-after", "transfer-encoding"];

/// Where the head at the beginning of `bytes` ends: after the first empty line. Looks from `from` on.
pub(super) fn end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at).find_map(|at| match &bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// The head in plain form. What is no head is returned as it is.
///
/// # Errors
/// If it has contradicting lengths, since nobody knows then where the answer ends.
pub(super) fn plain(head: &[u8]) -> Result<Vec<u8>> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split_ascii_whitespace();
    let (Some(version), Some(status)) = (words.next(), words.next()) else { return Ok(head.to_vec()) };
    let mut found: [Vec<String>; NEEDED.len()] = Default::default();
    for (name, value) in fields(lines) {
        if let Some(at) = NEEDED.iter().position(|needed| name.eq_ignore_ascii_case(needed)) {
            found[at].push(value);
        }
    }
    let [connection, lengths, retry_after, coding] = found;
    let mut fields = vec![("connection", connection.join(", ")), ("transfer-encoding", coding.join(", "))];
    fields.push(("retry-after", retry_after.into_iter().next().unwrap_or_default()));
    // With both headers, the coding says where the body ends (RFC 9112, section 6.3).
    if coding.is_empty() {
        fields.push(("content-length", one_length(&lengths)?));
    }
    let fields = fields.iter().filter(|(_, value)| !value.is_empty());
    let fields: String = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    Ok(format!("{version} {status} \r\n{fields}\r\n").into_bytes())
}

/// Names and values. A line that begins with white space continues the value before it.
fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(&'a str, String)> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                *value = format!("{value} {}", line.trim()).trim().to_owned();
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim_end(), value.trim().to_owned()));
        }
    }
    fields
}

/// The one length that all values name, however often it is given.
fn one_length(lengths: &[String]) -> Result<String> {
    let mut all = lengths.iter().flat_map(|value| value.split(',')).map(str::trim);
    let first = all.next().unwrap_or_default();
    match all.find(|length| *length != first) {
        None => Ok(first.to_owned()),
        Some(other) => {
            let message = format!("two lengths of one answer: {first:?} and {other:?}");
            Err(Error::new(ErrorKind::InvalidData, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plainly(head: &str) -> String {
        String::from_utf8(plain(head.as_bytes()).expect("a head")).expect("text")
    }

    #[test]
    fn only_what_is_needed_is_left_in_plain_form() {
        let many: String = (0..150).map(|n| format!("X-{n}: \u{e4}\r\n")).collect();
        assert_eq!(plainly(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")), "HTTP/1.1 200 \r\n\r\n");
        assert_eq!(
            plainly("HTTP/1.0 429\nContent-Length : 5\nRETRY-AFTER:\n\t7 \nX: y\n z\nContent-Length: 5, 5\n\n"),
            "HTTP/1.0 429 \r\nretry-after: 7\r\ncontent-length: 5\r\n\r\n"
        );
        assert_eq!(
            plainly("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"),
            "HTTP/1.1 200 \r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert!(plain(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n").is_err());
    }

    #[test]
    fn a_head_ends_with_the_first_empty_line() {
        for (head, expected) in [
            ("a\r\nb\r\n\r\nc", Some(8)),
            ("a\nb\n\nc", Some(5)),
            ("a\n\r\n", Some(4)),
            ("a\r\nb\r\n\r", None),
            ("", None),
        ] {
            assert_eq!(end(head.as_bytes(), 0), expected, "{head:?}");
        }
    }
}
