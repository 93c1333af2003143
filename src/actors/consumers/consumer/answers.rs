//! Members who are told what has become of their words once it is stored.

use std::collections::VecDeque;

use crate::actors::consumers::messages::{MemberLink, ToMember};
use crate::domain::consumer::Revision;
use crate::domain::event::EventId;
use crate::protocol::consumer::{AckKind, acked, not_acked};
use crate::protocol::error::ApiError;
use crate::transport::text_frame;

/// Answers that wait for the store: with more, nothing is sent to members.
const MAX_ANSWERS: usize = 4096;

/// Who is told once it is stored.
#[derive(Debug)]
pub struct Answer {
    /// Also to who has left since.
    pub link: MemberLink,
    pub event_id: EventId,
    pub kind: AckKind,
    /// Told when everything up to this is stored.
    pub revision: Revision,
}

/// Members who wait until something is stored.
#[derive(Debug, Default)]
pub struct Answers(VecDeque<Answer>);

impl Answers {
    pub fn push(&mut self, answer: Answer) {
        self.0.push_back(answer);
    }

    /// Whether more wait than may before anything else is sent to members.
    pub fn are_too_many(&self) -> bool {
        self.0.len() > MAX_ANSWERS
    }

    /// Answers what is stored (DU-1); returns how many.
    pub fn tell_stored(&mut self, name: &str, stored: Revision) -> usize {
        let mut told = 0;
        while let Some(answer) = self.0.pop_front_if(|answer| answer.revision <= stored) {
            answer.tell(name, Ok(()));
            told += 1;
        }
        told
    }

    /// Nothing of what was said and not answered holds.
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
