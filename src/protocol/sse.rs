//! Server-sent events as text: blocks of lines, each block ended by an empty one.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;

use super::event_json::full_frame_text;
use super::frame::Subscribed;
use super::subscription::Envelope;
use crate::domain::event::{Event, EventId};

/// The event that tells a subscriber that its position cannot be resumed from.
pub const GAP: &str = "$sys.stream.gap";

/// Range of the time, in milliseconds, after which a subscriber reconnects whose connection broke off.
pub const RETRY: std::ops::Range<u64> = 1_000..3_000;

/// When a subscriber reconnects that should not: this protocol cannot tell it to stay away.
pub const STAY_AWAY: Duration = Duration::from_secs(600);

/// An event: its id, its name if it is to have one, and its payload or the full envelope as data.
pub fn event_block(event: &Event, envelope: Envelope) -> Bytes {
    let Event { id, name, payload, .. } = event;
    let mut block = BytesMut::with_capacity(name.as_str().len() + payload.len() + 64);
    // Writing to memory cannot fail.
    let _ = writeln!(block, "id: {id}");
    if envelope != Envelope::Unnamed {
        let _ = writeln!(block, "event: {name}");
    }
    match envelope {
        Envelope::Plain => put_data(&mut block, payload),
        Envelope::Full | Envelope::Unnamed => put_data(&mut block, &full_frame_text(event)),
    }
    block.put_u8(b'\n');
    block.freeze()
}

/// The first block: after what time to reconnect, and the position from which to resume if no event has come by then.
///
/// Where the position that was asked for cannot be resumed from, an event says so.
pub fn preamble(retry: Duration, position: EventId, state: Subscribed, envelope: Envelope) -> Bytes {
    let Subscribed { last_id, recovered, earliest_id, log: _ } = state;
    let mut text = format!("retry: {}\nid: {position}\n\n", retry.as_millis());
    if !recovered {
        let payload = format!(r#"{{"recovered":false,"earliest_id":{earliest_id},"last_id":{last_id}}}"#);
        let _ = match envelope {
            Envelope::Plain | Envelope::Full => write!(text, "event: {GAP}\ndata: {payload}\n\n"),
            Envelope::Unnamed => write!(text, "data: {{\"event_name\":\"{GAP}\",\"payload\":{payload}}}\n\n"),
        };
    }
    text.into()
}

/// The first block of a stream that begins with a snapshot: there is nothing to resume from before its end.
pub fn opening(retry: Duration) -> Bytes {
    format!("retry: {}\n\n", retry.as_millis()).into()
}

/// An event that is none of the log, after which `position` is where the subscriber resumes, if it can.
pub fn named_block(position: Option<EventId>, name: &str, data: &str) -> Bytes {
    let mut block = BytesMut::with_capacity(name.len() + data.len() + 48);
    if let Some(id) = position {
        let _ = writeln!(block, "id: {id}");
    }
    let _ = writeln!(block, "event: {name}");
    put_data(&mut block, data);
    block.put_u8(b'\n');
    block.freeze()
}

/// A comment that shows that the connection is alive. `position`, up to which everything was sent, is where a
/// subscriber resumes that has had no event since; a block without data is no event.
pub fn heartbeat(position: Option<EventId>) -> Bytes {
    match position {
        Some(position) => format!(":\nid: {position}\n\n").into(),
        None => Bytes::from_static(b":\n\n"),
    }
}

/// The last block: a comment with the reason, and the time after which to reconnect.
pub fn farewell(why: &str, retry: Duration) -> Bytes {
    format!(": {why}\nretry: {}\n\n", retry.as_millis()).into()
}

/// One line for each line of `text`, whatever ends them: JSON allows every kind of line end where it allows one.
fn put_data(to: &mut BytesMut, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        to.put_slice(b"data: ");
        let end = memchr2(b'\n', b'\r', rest);
        to.put_slice(&rest[..end.unwrap_or(rest.len())]);
        to.put_u8(b'\n');
        let Some(end) = end else { return };
        let width = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + width..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(payload: &str) -> Event {
        Event::plain(58, "user.created", payload)
    }

    #[test]
    fn spells_blocks_as_the_standard_says() {
        let block = event_block(&event("{\"a\":\r\n1,\r\"b\":\n2}"), Envelope::Plain);
        assert_eq!(block, "id: 58\nevent: user.created\ndata: {\"a\":\ndata: 1,\ndata: \"b\":\ndata: 2}\n\n");
        let block = event_block(&event("1"), Envelope::Full);
        assert_eq!(
            block,
            "id: 58\nevent: user.created\ndata: {\"type\":\"event\",\"id\":58,\"event_name\":\"user.created\",\"payload\":1,\
             \"created_at\":\"2023-08-01T12:00:00.000000Z\",\"source\":\"api\",\"key\":null}\n\n"
        );
        let block = event_block(&event("1"), Envelope::Unnamed);
        assert!(
            block.starts_with(b"id: 58\ndata: {\"type\":\"event\",\"id\":58,\"event_name\":\"user.created\","),
            "{block:?}"
        );
        let retry = Duration::from_secs(2);
        let state = Subscribed { last_id: 60, recovered: true, earliest_id: 9, log: None };
        assert_eq!(preamble(retry, 57, state, Envelope::Unnamed), "retry: 2000\nid: 57\n\n");
        let gap = Subscribed { recovered: false, ..state };
        assert_eq!(
            preamble(retry, 8, gap, Envelope::Unnamed),
            "retry: 2000\nid: 8\n\ndata: {\"event_name\":\"$sys.stream.gap\",\"payload\":{\"recovered\":false,\"earliest_id\":9,\"last_id\":60}}\n\n"
        );
        assert_eq!(
            preamble(retry, 8, gap, Envelope::Full),
            "retry: 2000\nid: 8\n\nevent: $sys.stream.gap\ndata: {\"recovered\":false,\"earliest_id\":9,\"last_id\":60}\n\n"
        );
        assert_eq!((heartbeat(Some(7)), heartbeat(None)), (":\nid: 7\n\n".into(), ":\n\n".into()));
        assert_eq!(farewell("draining", Duration::from_millis(250)), ": draining\nretry: 250\n\n");
    }

    proptest! {
        /// Whatever ends its lines, the data that a subscriber puts together is the payload with line feeds.
        #[test]
        fn every_line_of_a_payload_comes(payload in "[ab\r\n]{0,40}") {
            let block = event_block(&event(&payload), Envelope::Plain);
            let text = std::str::from_utf8(&block).expect("UTF-8");
            prop_assert!(!text.contains('\r') && text.ends_with("\n\n"));
            let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            prop_assert_eq!(data.join("\n"), payload.replace("\r\n", "\n").replace('\r', "\n"));
            prop_assert_eq!(text.lines().filter(|line| line.is_empty()).count(), 1);
        }
    }
}
