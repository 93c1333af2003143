//! The client of a service and the service itself: attempts at calls as [`CallHistory`](crate::domain::call::CallHistory)
//! judges them, and as CL-6 has them stored.

use std::time::Duration;

use super::world::World;
use crate::domain::call::{Attempted, CallEnd, CallKind, Judged};
use crate::storage::{CallOutcome, CallSettled, ClaimedCall, Outcome, Write};

/// An attempt that the service has answered, or not, and of which the store does not know yet.
pub struct UnderWay {
    call: ClaimedCall,
    attempted: Attempted,
}

impl UnderWay {
    /// Whose call it is, and of which step.
    pub fn of(&self) -> (String, String) {
        of(&self.call)
    }
}

fn of(call: &ClaimedCall) -> (String, String) {
    let (step, _) = call.call.tag.rsplit_once('/').expect("a tag");
    (call.call.owner.clone(), step.to_owned())
}

/// Makes attempts at some of the calls that are due. Whether there was any.
pub async fn begin(world: &mut World<'_>) -> bool {
    let place = &world.place;
    let due = place.reader.due_calls(place.service, world.now, Default::default(), 256).await.expect("read");
    let is_free = |call: &ClaimedCall| world.under_way.iter().all(|other| other.call.id != call.id);
    let due: Vec<_> = due.into_iter().filter(is_free).collect();
    let has_any = !due.is_empty();
    for call in due {
        if world.dice.one_in(3) {
            continue;
        }
        let (id, at) = (call.id, world.now);
        if call.call.expires_at.is_some_and(|expires| expires <= at) {
            let settled = CallSettled::Ended { end: call.history.expired(), answer: None };
            settle(world, &call, settled, None);
        } else {
            if !call.history.may_be_done {
                let is_unclear = call.call.policy.kind == CallKind::Action;
                let begun = world.place.ledger().commit(None, vec![Write::BeginCalls(vec![id])]);
                match begun {
                    // Nobody knows whether it was sent.
                    None if is_unclear => drop(world.truth.unclear.insert(of(&call))),
                    None => {}
                    Some(outcomes) if outcomes == [Outcome::Changed(true)] => attempt(world, call),
                    Some(_) => continue,
                }
            } else {
                attempt(world, call);
            }
        }
        if world.place.ledger().is_killed {
            break;
        }
    }
    has_any
}

/// The service gets it, or does not.
fn attempt(world: &mut World<'_>, call: ClaimedCall) {
    let of = of(&call);
    let answered = |status| Attempted::Answered { status, retry_after: None, is_whole: true };
    let later = Some(Duration::from_secs(1));
    let is_done = world.truth.done.contains(&of);
    let roll = world.dice.roll(14);
    let attempted = match (&call.call.policy.kind, roll) {
        (_, 0) => Attempted::Failed { is_perhaps_sent: false },
        (_, 1) => Attempted::Failed { is_perhaps_sent: true },
        (_, 2) => answered(500),
        (_, 3) => Attempted::Answered { status: 503, retry_after: later, is_whole: true },
        (_, 4) => Attempted::Answered { status: 429, retry_after: later, is_whole: true },
        (_, 5) => Attempted::Answered { status: 200, retry_after: None, is_whole: false },
        (CallKind::Probe, 6..) => answered(if is_done { 200 } else { 404 }),
        (_, 6) => answered(202),
        (_, 7 | 8) => answered(409),
        (CallKind::Compensation { .. }, 9) => answered(410),
        _ => answered(200),
    };
    if call.call.policy.kind == CallKind::Action {
        let (does, is_unclear) = match attempted {
            Attempted::Answered { status: 200..=299, is_whole, .. } => (true, !is_whole),
            Attempted::Answered { status: 500 | 503, .. } | Attempted::Failed { is_perhaps_sent: true } => {
                (world.dice.one_in(2), true)
            }
            _ => (false, false),
        };
        if does {
            world.truth.done.insert(of.clone());
        }
        if is_unclear {
            world.truth.unclear.insert(of);
        }
    }
    world.under_way.push(UnderWay { call, attempted });
}

/// An attempt ends, whichever. Whether there was one.
pub fn end(world: &mut World<'_>) -> bool {
    if world.under_way.is_empty() {
        return false;
    }
    let at = world.dice.at(world.under_way.len());
    let UnderWay { mut call, attempted } = world.under_way.remove(at);
    let jitter = world.dice.roll(1000) as f64 / 1000.0;
    let settled = match call.history.attempted(&call.call.policy, attempted, jitter) {
        Judged::Again(wait) | Judged::PutOff(wait) => CallSettled::Again(world.now.plus(wait)),
        Judged::Ended(end) => {
            let is_done = matches!(end, CallEnd::Done | CallEnd::Accepted);
            CallSettled::Ended { end, answer: is_done.then(|| r#"{"n":1}"#.to_owned()) }
        }
    };
    let status = if let Attempted::Answered { status, .. } = attempted { Some(status) } else { None };
    settle(world, &call, settled, status);
    if world.place.ledger().is_killed && call.call.policy.kind == CallKind::Action {
        world.truth.unclear.insert(of(&call));
    }
    true
}

fn settle(world: &mut World<'_>, call: &ClaimedCall, settled: CallSettled, http_status: Option<u16>) {
    let is_done = matches!(settled, CallSettled::Ended { end: CallEnd::Done | CallEnd::Accepted, .. });
    let error = (!is_done).then(|| "it has failed".to_owned());
    let (id, history, finished_at) = (call.id, call.history, world.now);
    let outcome = CallOutcome { id, history, finished_at, http_status, error, settled };
    world.place.ledger().commit(None, vec![Write::SettleCalls(vec![outcome])]);
}
