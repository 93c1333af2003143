//! Instances that cannot be replayed: nobody but an operator can do anything with them.

use crate::domain::event::{Append, Timestamp};
use crate::domain::saga::{Entry, Fact, InstanceEnd, State};
use crate::storage::{SagaStanding, SagaTransition, StoredSaga, Write};

/// Sets one aside for an operator, with its timers and calls silenced. None if it is set aside, or has ended.
pub fn set_aside(stored: StoredSaga, reason: &str, now: Timestamp) -> Option<Vec<Write>> {
    let state = stored.record.standing.state;
    let is_due = state.is_live() && state != State::NeedsOperator;
    let fact = Fact::NeedsOperator { reason: reason.to_owned() };
    is_due.then(|| writes(stored, (State::NeedsOperator, "needs_operator"), fact, Some(reason), now))
}

/// Ends one.
pub fn abort(stored: StoredSaga, now: Timestamp) -> Vec<Write> {
    writes(stored, (State::Aborted, "aborted"), Fact::Finished { end: InstanceEnd::Aborted }, None, now)
}

fn writes(
    stored: StoredSaga,
    (state, told): (State, &str),
    fact: Fact,
    reason: Option<&str>,
    now: Timestamp,
) -> Vec<Write> {
    let origin = stored.record.saga.origin;
    let was = stored.record.standing;
    let standing = SagaStanding {
        state,
        holds: was.holds && state.is_live(),
        updated_at: now,
        due_at: None,
        length: was.length + 1,
        ..was
    };
    let entries = vec![Entry { at: now, fact }];
    let id = origin.id.clone();
    let event = super::making::event(&origin, told, state, None, reason);
    let (new, is_alone, from, awaits) = (None, false, was.length, Vec::new());
    let step = SagaTransition { id: id.clone(), new, is_alone, from, standing, entries, awaits };
    let save = Write::SaveSagas { steps: vec![step], ended: Vec::new() };
    vec![save, Write::CancelCalls { owner: id, tag: None }, Write::Append(Append::single(event))]
}
