//! The client of a service and the service itself: attempts at calls as [`CallHistory`](crate::domain::call::CallHistory)
//! judges them, and as CL-6 has them stored.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::world::World;
use crate::domain::call::{Attempted, CallEnd, CallHistory, CallId, CallKind, Judged};
use crate::domain::lease::LeaseName;
use crate::storage::{CallOutcome, CallSettled, ClaimedCall, EndedCall, Outcome, Write};

/// What the client has in memory. It is on one node, and another may take its place.
#[derive(Default)]
pub struct Client {
    pub at: usize,
    /// Calls that were handed over when they were made.
    handed: Vec<ClaimedCall>,
    /// Attempts that the service has answered, or not, and that have not ended.
    under_way: Vec<UnderWay>,
    /// Calls that have ended, of which nobody knows.
    ended: Vec<Ended>,
    /// Those that are with who follows calls.
    handed_over: Option<(oneshot::Receiver<()>, Vec<Ended>)>,
    /// Clients of before, which wait for theirs.
    former: Vec<oneshot::Receiver<()>>,
}

struct UnderWay {
    call: ClaimedCall,
    attempted: Attempted,
}

struct Ended {
    call: ClaimedCall,
    outcome: CallOutcome,
}

impl Client {
    fn knows(&self) -> BTreeSet<CallId> {
        let under_way = self.under_way.iter().map(|under_way| &under_way.call);
        let handed_over = self.handed_over.iter().flat_map(|(_, ended)| ended);
        let ended = self.ended.iter().chain(handed_over).map(|ended| &ended.call);
        self.handed.iter().chain(under_way).chain(ended).map(|call| call.id).collect()
    }
}

/// Whose call it is, and of which step.
fn of(call: &ClaimedCall) -> (String, String) {
    let (step, _) = call.call.tag.rsplit_once('/').expect("a tag");
    (call.call.owner.clone(), step.to_owned())
}

/// What the client had in memory is lost, and what has become of it nobody knows.
pub fn killed(world: &mut World<'_>) {
    let mut client = std::mem::take(&mut world.client);
    client.handed.extend(world.place.slot.take_handed());
    let marked = client.handed.into_iter().filter(|call| call.is_marked);
    let under_way = client.under_way.into_iter().map(|under_way| under_way.call);
    let handed_over = client.handed_over.into_iter().flat_map(|(_, ended)| ended);
    let ended = client.ended.into_iter().chain(handed_over).map(|ended| ended.call);
    let calls = marked.chain(under_way).chain(ended);
    world.truth.unclear.extend(calls.filter(|call| call.call.policy.kind == CallKind::Action).map(|call| of(&call)));
    world.client.at = client.at;
}

/// A client on the other node takes the place of this one, which waits for what it has handed over.
pub fn fail_over(world: &mut World<'_>) {
    let handed_over = world.client.handed_over.take().map(|(stored, ended)| {
        world.client.ended.extend(ended);
        stored
    });
    let former = std::mem::take(&mut world.client.former).into_iter().chain(handed_over).collect();
    killed(world);
    world.client = Client { at: 1 - world.client.at, former, ..Client::default() };
    let place = &mut world.place;
    let fence = place.ledger().take_lease(LeaseName::service("s"), Some(&place.client_fence));
    place.client_fence = fence;
}

/// Makes attempts at some of the calls that were handed over or are due. Whether there was any.
pub async fn begin(world: &mut World<'_>) -> bool {
    let place = &world.place;
    world.client.handed.extend(place.slot.take_handed());
    let known = world.client.knows();
    let due = place.reader.due_calls(place.service, world.now, Default::default(), 256).await.expect("read");
    let due = due.into_iter().filter(|call| !known.contains(&call.id));
    let due: Vec<_> = std::mem::take(&mut world.client.handed).into_iter().chain(due).collect();
    let has_any = !due.is_empty();
    for call in due {
        if world.place.ledger().is_killed || world.dice.one_in(3) {
            // It is no loss if it is not: the store has it.
            if call.is_marked && !call.history.may_be_done {
                world.client.handed.push(call);
            }
            continue;
        }
        if call.call.expires_at.is_some_and(|expires| expires <= world.now) {
            let settled = CallSettled::Ended { end: call.history.expired(), answer: None };
            settle(world, call, settled, None);
        } else if call.is_marked && !call.history.may_be_done && world.dice.one_in(4) {
            // Its breaker has opened meanwhile.
            let again = CallSettled::Again(world.now);
            settle(world, call, again, None);
        } else if call.is_marked {
            attempt(world, call);
        } else {
            let is_unclear = call.call.policy.kind == CallKind::Action;
            match commit(world, vec![Write::BeginCalls(vec![call.id])]) {
                // Nobody knows whether it was sent.
                None if is_unclear => drop(world.truth.unclear.insert(of(&call))),
                None => {}
                Some(outcomes) if outcomes == [Outcome::Begun(vec![call.id])] => attempt(world, call),
                Some(_) => {}
            }
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
    world.client.under_way.push(UnderWay { call, attempted });
}

/// An attempt ends, whichever, or what has ended comes on. Whether there was anything.
pub async fn end(world: &mut World<'_>) -> bool {
    if world.client.handed_over.is_some() {
        look(world).await;
    } else if !world.client.ended.is_empty() && world.dice.one_in(2) {
        hand_over(world);
    } else if !world.client.under_way.is_empty() {
        let at = world.dice.at(world.client.under_way.len());
        let UnderWay { mut call, attempted } = world.client.under_way.remove(at);
        let jitter = world.dice.roll(1000) as f64 / 1000.0;
        let settled = match call.history.attempted(&call.call.policy, attempted, jitter) {
            Judged::Again(wait) | Judged::PutOff(wait) => CallSettled::Again(world.now.plus(wait)),
            Judged::Ended(end) => {
                let is_done = matches!(end, CallEnd::Done | CallEnd::Accepted);
                CallSettled::Ended { end, answer: is_done.then(|| r#"{"n":1}"#.to_owned()) }
            }
        };
        let status = if let Attempted::Answered { status, .. } = attempted { Some(status) } else { None };
        settle(world, call, settled, status);
    } else {
        return !world.client.ended.is_empty();
    }
    true
}

fn settle(world: &mut World<'_>, call: ClaimedCall, settled: CallSettled, http_status: Option<u16>) {
    let is_done = matches!(settled, CallSettled::Ended { end: CallEnd::Done | CallEnd::Accepted, .. });
    let error = (!is_done).then(|| "it has failed".to_owned());
    let is_over = matches!(settled, CallSettled::Ended { .. });
    let (id, history, finished_at) = (call.id, call.history, world.now);
    let outcome = CallOutcome { id, history, finished_at, http_status, error, settled };
    let ended = Ended { call, outcome };
    if is_over { world.client.ended.push(ended) } else { store(world, vec![ended]) }
}

/// Hands over how calls have ended, if somebody on this node follows them.
fn hand_over(world: &mut World<'_>) {
    let ended = std::mem::take(&mut world.client.ended);
    let told = ended.iter().map(|ended| told(&ended.call, &ended.outcome)).collect();
    match world.call_ends().hand(world.place.client_fence.clone(), told) {
        Some(stored) => world.client.handed_over = Some((stored, ended)),
        None => store(world, ended),
    }
}

fn told(call: &ClaimedCall, outcome: &CallOutcome) -> EndedCall {
    let CallOutcome { id, history: CallHistory { attempts, .. }, finished_at, http_status, error, settled } = outcome;
    let CallSettled::Ended { end, answer } = settled else { panic!("it has not ended") };
    EndedCall {
        place: 0,
        id: *id,
        owner: call.call.owner.clone(),
        tag: call.call.tag.clone(),
        end: *end,
        attempts: *attempts,
        http_status: *http_status,
        answer: answer.clone(),
        error: error.clone(),
        ended_at: *finished_at,
    }
}

/// Looks whether what was handed over is stored. If nobody does, the client stores it itself, and its patience is short.
pub async fn look(world: &mut World<'_>) {
    let Some((mut stored, ended)) = world.client.handed_over.take() else { return };
    match stored.try_recv() {
        Ok(()) => {
            let ledger = world.place.ledger();
            let is_open = |ended: &Ended| ledger.open_calls.contains_key(&ended.call.id);
            assert!(!ended.iter().any(is_open), "what is said to be stored is");
        }
        Err(TryRecvError::Empty) if world.dice.roll(4) > 0 => world.client.handed_over = Some((stored, ended)),
        Err(_) => {
            drop(stored);
            store(world, ended);
        }
    }
}

fn store(world: &mut World<'_>, ended: Vec<Ended>) {
    let outcomes = ended.iter().map(|ended| ended.outcome.clone()).collect();
    if commit(world, vec![Write::SettleCalls(outcomes)]).is_some() {
        world.call_ends().set_stored();
    } else {
        world.client.ended.extend(ended);
    }
}

fn commit(world: &mut World<'_>, writes: Vec<Write>) -> Option<Vec<Outcome>> {
    world.place.ledger().commit(vec![world.place.client_fence.clone()], writes)
}
