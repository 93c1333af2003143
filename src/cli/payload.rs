//! The payload of an event, from the arguments or from standard input.

use std::io::{IsTerminal as _, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;

use super::{Failure, output};

/// If standard input stays open for longer than this, a message says that it is being read.
const QUIET_WAIT: Duration = Duration::from_secs(3);

/// The payload, byte for byte. `-`, and no argument at all where standard input is no terminal, read it from there;
/// none where there is nothing.
pub fn read(argument: Option<&str>) -> Result<Option<Box<RawValue>>, Failure> {
    let text = match argument {
        None if std::io::stdin().is_terminal() => return Ok(None),
        None => standard_input()?,
        Some("-") => return parse(&standard_input()?, "on standard input").map(Some),
        Some(text) => return parse(text, "given").map(Some),
    };
    if text.trim().is_empty() { Ok(None) } else { parse(&text, "on standard input").map(Some) }
}

fn standard_input() -> Result<String, Failure> {
    let is_read = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_read);
    std::thread::spawn(move || {
        std::thread::sleep(QUIET_WAIT);
        if !seen.load(Ordering::Relaxed) {
            output::say("event-handler: reading the payload from standard input, up to its end");
        }
    });
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    is_read.store(true, Ordering::Relaxed);
    read.map_err(|error| Failure::Failed(format!("cannot read the payload from standard input: {error}")))?;
    Ok(text)
}

/// A byte order mark is skipped, as the service skips it.
fn parse(text: &str, place: &str) -> Result<Box<RawValue>, Failure> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|error| {
        Failure::Usage(format!(
            "the payload {place} is not JSON: {error}\nA text needs its quotes too: '\"like this\"'."
        ))
    })
}
