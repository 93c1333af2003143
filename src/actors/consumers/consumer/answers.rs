//! Answers to acknowledgements, which members get when they are stored.

use std::collections::VecDeque;

use crate::actors::consumers::messages::{MemberLink, ToMember};
use crate::domain::consumer::Revision;
use crate::domain::event::EventId;
use crate::protocol::consumer::{AckKind, acked, not_acked};
use crate::protocol::error::ApiError;
use crate::transport::text_frame;

/// Most answers that may wait for the store. With more, members get no events.
const MAX_ANSWERS: usize = 4096;

/// An answer that waits for the store.
#[derive(Debug)]
pub struct Answer {
    /// The member may have left since, and is answered all the same.
    pub link: MemberLink,
    pub event_id: EventId,
    pub kind: AckKind,
    /// The answer is sent when the state of this revision is stored.
    pub revision: Revision,
}

/// The answers of a consumer, in the order of their revisions.
#[derive(Debug, Default)]
pub struct Answers(VecDeque<Answer>);

impl Answers {
    pub fn push(&mut self, answer: Answer) {
        self.0.push_back(answer);
    }

    /// Whether so many wait that members are to get no events.
    pub fn are_too_many(&self) -> bool {
        self.0.len() > MAX_ANSWERS
    }

    /// Sends the answers whose changes are stored (DU-1). Returns how many.
    pub fn tell_stored(&mut self, name: &str, stored: Revision) -> usize {
        let mut told = 0;
        while let Some(answer) = self.0.pop_front_if(|answer| answer.revision <= stored) {
            answer.tell(name, Ok(()));
            told += 1;
        }
        told
    }

    /// Answers with this error whatever waits: its changes are void.
    pub fn void(&mut self, name: &str, error: &ApiError) {
        self.0.drain(..).for_each(|answer| answer.tell(name, Err(error)));
    }
}

impl Answer {
    fn tell(&self, name: &str, result: Result<(), &ApiError>) {
        let Self { link, event_id, kind, revision: _ } = self;
        let text = match result {
            Ok(()) => acked(*event_id, name, *kind),
            Err(error) => not_acked(*event_id, error),
        };
        link.send(ToMember::Answer(text_frame(text.as_bytes())));
    }
}
