//! `$sys.session.opened` and `$sys.session.closed`, where the configuration asks for them.
//!
//! They are told once a beat, at most so many, and how many more there were: a storm of connections is one batch a
//! second, whatever its force. Nothing waits for them; what the store refuses is told as a number next time.

use serde_json::{Value, json};
use smallvec::SmallVec;

use super::Shard;
use super::seat::Seat;
use crate::domain::event::{Append, NewEvent};

/// Most events told in one beat, besides the one that tells how many are left out.
const MAX_TOLD: usize = 500;

/// What is to be told with the next beat.
#[derive(Debug, Default)]
pub struct Comings {
    told: Vec<NewEvent>,
    left_out: u64,
}

impl Shard {
    /// A client has come.
    pub(super) fn note_opened(&mut self, key: usize) {
        if let Some((generation, seat)) = self.parts.presence.zip(self.subscribers.get(key)) {
            let payload = identity(generation, seat);
            self.note("$sys.session.opened", payload);
        }
    }

    /// A client is gone.
    pub(super) fn note_closed(&mut self, seat: &Seat) {
        if let Some(generation) = self.parts.presence {
            let mut payload = identity(generation, seat);
            payload["code"] = seat.connection.outbox.close_code().into();
            payload["frames"] = seat.frames.into();
            payload["seconds"] = seat.opened.elapsed().as_secs().into();
            self.note("$sys.session.closed", payload);
        }
    }

    fn note(&mut self, name: &str, payload: Value) {
        if self.comings.told.len() < MAX_TOLD {
            self.comings.told.push(NewEvent::own(name, payload.to_string()));
        } else {
            self.comings.left_out += 1;
        }
    }

    /// Publishes what has been noted since the last beat.
    pub(super) fn tell_comings(&mut self) {
        let Comings { mut told, left_out } = std::mem::take(&mut self.comings);
        if let Some(generation) = self.parts.presence.filter(|_| left_out > 0) {
            let payload = json!({ "generation": generation, "shard": self.thread.number, "count": left_out });
            told.push(NewEvent::own("$sys.session.left_out", payload.to_string()));
        }
        if told.is_empty() {
            return;
        }
        let count = told.len() as u64;
        let append = Append { events: SmallVec::from_vec(told), idempotency: None, schedule: None };
        let taken = self.thread.intake.enqueue(append).is_ok();
        if !taken {
            self.comings.left_out = left_out + count;
        }
    }
}

/// Who it is: sessions are numbered anew when the process starts, which is its generation, in microseconds since 1970.
fn identity(generation: i64, seat: &Seat) -> Value {
    json!({
        "generation": generation,
        "session": seat.session,
        "kind": seat.connection.wire.kind(),
        "peer": seat.connection.peer.map(|peer| peer.to_string()),
    })
}
