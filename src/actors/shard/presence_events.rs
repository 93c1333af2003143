//! `$sys.session.opened` and `$sys.session.closed`, if the configuration asks for them.
//!
//! The shard publishes them once a tick, up to a bound, with the number of those left out. So a storm of connections
//! makes one batch a second. Nothing waits for the commit; if the intake refuses the events, the next tick counts them
//! as left out.

use serde_json::{Value, json};
use smallvec::SmallVec;

use super::Shard;
use super::subscriber::Subscriber;
use crate::domain::event::{Append, NewEvent};

/// Most events of one tick, besides the one with the number of those left out.
const MAX_TOLD: usize = 500;

/// The events of the next tick.
#[derive(Debug, Default)]
pub struct PresenceEvents {
    told: Vec<NewEvent>,
    left_out: u64,
}

impl Shard {
    /// A subscriber has connected.
    pub(super) fn note_opened(&mut self, key: usize) {
        if let Some((generation, subscriber)) = self.parts.presence.zip(self.subscribers.get(key)) {
            let payload = identity(generation, subscriber);
            self.note("$sys.session.opened", payload);
        }
    }

    /// A subscriber has gone.
    pub(super) fn note_closed(&mut self, subscriber: &Subscriber) {
        if let Some(generation) = self.parts.presence {
            let mut payload = identity(generation, subscriber);
            payload["code"] = subscriber.connection.send_queue.close_code().into();
            payload["frames"] = subscriber.frames.into();
            payload["seconds"] = subscriber.opened.elapsed().as_secs().into();
            self.note("$sys.session.closed", payload);
        }
    }

    fn note(&mut self, name: &str, payload: Value) {
        if self.presence_events.told.len() < MAX_TOLD {
            self.presence_events.told.push(NewEvent::own(name, payload.to_string()));
        } else {
            self.presence_events.left_out += 1;
        }
    }

    /// Publishes the events noted since the last tick.
    pub(super) fn publish_presence(&mut self) {
        let PresenceEvents { mut told, left_out } = std::mem::take(&mut self.presence_events);
        if let Some(generation) = self.parts.presence.filter(|_| left_out > 0) {
            let payload = json!({ "generation": generation, "shard": self.thread.number, "count": left_out });
            told.push(NewEvent::own("$sys.session.left_out", payload.to_string()));
        }
        if told.is_empty() {
            return;
        }
        let count = told.len() as u64;
        let append = Append::of(SmallVec::from_vec(told), None);
        let taken = self.thread.intake.enqueue(append).is_ok();
        if !taken {
            self.presence_events.left_out = left_out + count;
        }
    }
}

/// Identifies the session. Numbers of sessions begin anew when the process starts, so its generation belongs to them:
/// the time of its start in microseconds since 1970.
fn identity(generation: i64, subscriber: &Subscriber) -> Value {
    json!({
        "generation": generation,
        "session": subscriber.session,
        "kind": subscriber.connection.wire.kind(),
        "peer": subscriber.connection.peer.map(|peer| peer.to_string()),
    })
}
