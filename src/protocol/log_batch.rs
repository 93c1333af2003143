//! A committed batch on its way to subscribers: encoded once per encoding, shared by all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::event_json::{full_frame_text, plain_frame_text};
use super::sse;
use super::subscription::Envelope;
use super::wire::Wire;
use crate::domain::event::{Event, EventId};
use crate::transport::text_frame;

/// Consecutive events of the log, in id order.
#[derive(Debug)]
pub struct LogBatch {
    /// The last id before this batch: whoever has seen up to here misses nothing by taking it next.
    pub prev: EventId,
    pub events: Vec<LogEvent>,
    /// How many shards have passed it on.
    passed_on: AtomicUsize,
}

impl LogBatch {
    /// A batch that follows the event `prev`.
    pub fn new(prev: EventId, events: Vec<Event>) -> Arc<Self> {
        let events = events.into_iter().map(LogEvent::from).collect();
        Arc::new(Self { prev, events, passed_on: AtomicUsize::new(0) })
    }

    /// Counts a shard that has passed the batch on. Returns true for the last of so many.
    pub fn passed_on(&self, shards: usize) -> bool {
        self.passed_on.fetch_add(1, Ordering::AcqRel) + 1 == shards
    }

    /// The last id of the batch; `prev` when it is empty.
    pub fn last(&self) -> EventId {
        self.events.last().map_or(self.prev, |e| e.event.id)
    }

    /// Memory it holds with one frame per event, in bytes, roughly.
    pub fn memory(&self) -> usize {
        self.events.iter().map(|e| e.event.memory() + e.event.payload.len() + 64).sum()
    }
}

/// An event with its frames, made when first needed.
#[derive(Debug)]
pub struct LogEvent {
    pub event: Event,
    plain: OnceLock<Bytes>,
    full: OnceLock<Bytes>,
    /// For each envelope; few events have readers of this kind.
    sse: OnceLock<Box<[OnceLock<Bytes>; Envelope::COUNT]>>,
}

impl LogEvent {
    /// The event on a connection of its own: a WebSocket frame, header included, or a block of server-sent events.
    pub fn frame(&self, wire: Wire, envelope: Envelope) -> &Bytes {
        match (wire, envelope) {
            (Wire::WebSocket | Wire::Lines, Envelope::Plain) => {
                self.plain.get_or_init(|| text_frame(plain_frame_text(&self.event).as_bytes()))
            }
            (Wire::WebSocket | Wire::Lines, Envelope::Full | Envelope::Unnamed) => {
                self.full.get_or_init(|| text_frame(full_frame_text(&self.event).as_bytes()))
            }
            (Wire::Sse, envelope) => self.sse.get_or_init(Box::default)[envelope as usize]
                .get_or_init(|| sse::event_block(&self.event, envelope)),
        }
    }
}

impl From<Event> for LogEvent {
    fn from(event: Event) -> Self {
        Self { event, plain: OnceLock::new(), full: OnceLock::new(), sse: OnceLock::new() }
    }
}
