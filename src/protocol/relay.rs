//! Committed batches as nodes on one store tell them each other by way of Redis.
//!
//! A message is a line of text with the ids and a seal, and then the events: a JSON array with an array for each. Without
//! events it says only how far the log reaches.

use bytestring::ByteString;

use super::log_batch::LogBatch;
use super::seal::Seal;
use crate::domain::event::{Event, EventId, Priority, Timestamp};
use crate::domain::log::LogId;
use crate::domain::name::EventName;
use crate::domain::relay::Span;
use crate::domain::secret::Secret;

/// Of what a message begins with; another version may write something else.
const VERSION: &str = "1";
/// About how many bytes of events are in one message. One that is larger goes without its event.
pub const MAX_BYTES: usize = 256 * 1024;
/// JSON may take several bytes for one. Longer messages are not looked at.
const MAX_MESSAGE: usize = 8 * MAX_BYTES;

/// A written event: everything but the id, in the order of `Event::stored`.
type Written<'a> = (i64, &'a str, &'a str, &'a str, i16, Option<&'a str>, Option<&'a str>, Option<&'a str>);
type Read = (i64, String, ByteString, ByteString, i16, Option<ByteString>, Option<ByteString>, Option<ByteString>);

/// By what the nodes on one store know each other's batches.
///
/// It is that of a log and of one run of the database server: what was committed before the server was replaced, by a
/// replica or a backup, may be gone, and is not shown on the word of another node.
pub struct RelayKey {
    log: LogId,
    seal: Option<Seal>,
}

impl RelayKey {
    /// Of the log `log` with the key `key`, in what `server` says of the database server.
    pub fn new(key: &Secret, log: LogId, server: &str) -> Self {
        Self { log, seal: Seal::new(key, &format!("relay {log} {server}")) }
    }

    pub fn log(&self) -> LogId {
        self.log
    }

    /// The channel of Redis.
    pub fn channel(&self) -> String {
        format!("event-handler:{}:relay", self.log)
    }

    /// The messages for a batch, in order.
    pub fn write(&self, batch: &LogBatch) -> Vec<Vec<u8>> {
        let Some(seal) = &self.seal else { return Vec::new() };
        let (mut messages, mut rest, mut prev) = (Vec::new(), &batch.events[..], batch.prev);
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|event| {
                bytes += event.event.memory();
                bytes <= MAX_BYTES
            });
            let (fits, too_large) = match fits.count() {
                0 => (0, 1),
                fits => (fits, 0),
            };
            let written: Vec<Written<'_>> = rest[..fits].iter().map(|event| written(&event.event)).collect();
            let last = prev + (fits + too_large) as EventId;
            let ids = format!("{prev} {last}");
            let body = if fits == 0 { Vec::new() } else { serde_json::to_vec(&written).unwrap_or_default() };
            let seal = seal.of(&[ids.as_bytes(), b"\n", &body]);
            let mut message = format!("{VERSION} {ids} {seal}\n").into_bytes();
            message.extend(body);
            messages.push(message);
            (rest, prev) = (&rest[fits + too_large..], last);
        }
        messages
    }
}

/// A message that came, of which only the ids were read yet.
#[derive(Debug, Clone, Copy)]
pub struct Relayed<'a> {
    pub span: Span,
    seal: &'a str,
    body: &'a [u8],
}

impl<'a> Relayed<'a> {
    /// None if it is no message of this version.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let end = memchr::memchr(b'\n', &message[..message.len().min(256)]).filter(|_| message.len() <= MAX_MESSAGE)?;
        let mut words = std::str::from_utf8(&message[..end]).ok()?.split(' ');
        words.next().filter(|version| *version == VERSION)?;
        let (prev, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let seal = words.next().filter(|_| words.next().is_none())?;
        Some(Self { span: Span::new(prev, last)?, seal, body: &message[end + 1..] })
    }

    /// Its events, which are none if it was too large. `None` if it does not come from a node on the same store.
    pub fn open(&self, key: &RelayKey) -> Option<Vec<Event>> {
        let Self { span: Span { prev, last }, seal, body } = *self;
        let ids = format!("{prev} {last}");
        if !key.seal.as_ref()?.holds(&[ids.as_bytes(), b"\n", body], seal) {
            return None;
        }
        if body.is_empty() {
            return Some(Vec::new());
        }
        let read: Vec<Read> = serde_json::from_slice(body).ok()?;
        (i64::try_from(read.len()) == Ok(last - prev)).then(|| read.into_iter().zip(prev + 1..).map(event).collect())
    }
}

fn written(event: &Event) -> Written<'_> {
    let Event { id: _, created_at, name, payload, source, priority, key, metadata, traceparent } = event;
    (
        created_at.0,
        name.as_str(),
        payload,
        source,
        *priority as i16,
        key.as_deref(),
        metadata.as_deref(),
        traceparent.as_deref(),
    )
}

fn event((read, id): (Read, EventId)) -> Event {
    let (created_at, name, payload, source, priority, key, metadata, traceparent) = read;
    Event {
        id,
        created_at: Timestamp(created_at),
        name: EventName::from_store(name),
        payload,
        source,
        priority: Priority::from_store(priority),
        key,
        metadata,
        traceparent,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn key(server: &str) -> RelayKey {
        RelayKey::new(&Secret::new("k"), LogId::new(1), server)
    }

    fn batch(payloads: &[String]) -> Arc<LogBatch> {
        let events = payloads.iter().zip(8..).map(|(payload, id)| Event::plain(id, "a.b", payload));
        LogBatch::new(7, events.collect())
    }

    fn opened(message: &[u8], key: &RelayKey) -> Option<(Span, Vec<Event>)> {
        let message = Relayed::parse(message)?;
        Some((message.span, message.open(key)?))
    }

    #[test]
    fn batches_come_as_they_went_in_parts_that_follow_each_other() {
        let large = format!("\"{}\"", "x".repeat(MAX_BYTES));
        let some = format!("\"\u{1F600}\\n\\\"{}\"", "y".repeat(MAX_BYTES / 3));
        let batch = batch(&[some.clone(), "1".into(), some.clone(), some.clone(), large, "2".into()]);
        let parts = key("s").write(&batch).iter().map(|m| opened(m, &key("s")).expect("opened")).collect::<Vec<_>>();
        let spans: Vec<_> = parts.iter().map(|(span, events)| (span.prev, span.last, events.len())).collect();
        assert_eq!(spans, [(7, 10, 3), (10, 11, 1), (11, 12, 0), (12, 13, 1)]);
        let came: Vec<Event> = parts.into_iter().flat_map(|(_, events)| events).collect();
        let went = batch.events.iter().map(|event| &event.event).filter(|event| event.id != 12);
        assert!(came.iter().eq(went));
    }

    #[test]
    fn every_field_of_an_event_comes_through() {
        let mut event = Event::plain(8, "a.b", "{}");
        event.priority = Priority::Low;
        (event.source, event.key) = ("s".into(), Some("k".into()));
        (event.metadata, event.traceparent) = (Some(r#"{"m":"1"}"#.into()), Some("00-1".into()));
        let messages = key("s").write(&LogBatch::new(7, vec![event.clone()]));
        assert_eq!(opened(&messages[0], &key("s")).expect("opened").1, [event]);
    }

    #[test]
    fn what_no_node_on_the_store_has_said_is_not_opened() {
        let said = &key("s").write(&batch(&["1".into(), "2".into()]))[0];
        assert!(opened(said, &key("s")).is_some());
        assert!(opened(said, &key("another run of the server")).is_none());
        assert!(opened(said, &RelayKey::new(&Secret::new("l"), LogId::new(1), "s")).is_none());
        assert!(opened(said, &RelayKey::new(&Secret::new("k"), LogId::new(2), "s")).is_none());
        assert!(opened(said, &RelayKey::new(&Secret::default(), LogId::new(1), "s")).is_none());
        for place in 0..said.len() {
            let mut forged = said.clone();
            forged[place] ^= 1;
            assert!(opened(&forged, &key("s")).is_none(), "byte {place}");
        }
        for text in ["", "1", "1 7 9 x", "1 9 7 x\n", "1 7 9 x\n", "1 7 9 x y\n", "2 7 9 x\n", "1 -1 9 x\n"] {
            assert!(opened(text.as_bytes(), &key("s")).is_none(), "{text}");
        }
    }
}
