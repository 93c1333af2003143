//! What somebody in this process asks of the service, and waits for: digests of its state, repairs.
//!
//! An ask goes out through the dispatcher as deliveries do. It is kept in memory alone, so it ends with the lease of the
//! service, and with the client.
//!
//! - AK-1: each ask is answered once, whatever happens to the lease, the service or the client.
//! - AK-2: no more than [`MAX_ASKS`] wait or are under way; further ones are refused.

use std::collections::{BTreeMap, HashSet};

use actix::prelude::{Context, Handler};

use super::Client;
use super::messages::{Answer, Ask, AskedCall, Asker, NotSent, Request};
use crate::domain::call::CallId;
use crate::domain::dispatch::{Dispatcher, Offered, PendingWork};
use crate::domain::event::Timestamp;
use crate::domain::work::WorkId;

/// Asks that may wait or be under way.
const MAX_ASKS: usize = 256;
/// Bytes of their bodies, unless there is only one.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: BTreeMap<u64, Open>,
    /// What became of calls.
    answered: Vec<(CallId, Answer)>,
    bytes: usize,
    last: u64,
}

/// An ask that is not answered.
#[derive(Debug)]
struct Open {
    request: Request,
    asker: Asker,
    call: Option<AskedCall>,
    /// It is not sent after this time.
    until: Timestamp,
    /// Since when it is due, on the dispatcher's clock.
    since: Timestamp,
    /// Tries that have failed.
    failed: u32,
    stage: Stage,
    /// What became of the last try.
    last: Option<Answer>,
    /// Some try before may have reached the service, which has not said what became of it.
    is_perhaps_sent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To be offered to the dispatcher once it is due.
    Outside,
    /// The dispatcher has it.
    InHand,
    UnderWay,
}

impl Open {
    fn work(&self, number: u64) -> PendingWork {
        let Request { lane, key, .. } = &self.request;
        PendingWork { id: WorkId::Ask(number), lane: *lane, key: key.clone(), attempt: self.failed, since: self.since }
    }

    /// It is not sent any more: what became of the last try stands.
    fn give_up(mut self, why: NotSent) -> Option<(CallId, Answer)> {
        let answer = self.last.take().unwrap_or(Answer::NotSent(why));
        self.answer(answer)
    }

    /// Answers who has asked; of a call, that is the client.
    fn answer(self, mut answer: Answer) -> Option<(CallId, Answer)> {
        if let Answer::Failed { is_perhaps_sent: is_perhaps_done, .. }
        | Answer::Answered { is_repeat: is_perhaps_done, .. } = &mut answer
        {
            *is_perhaps_done |= self.is_perhaps_sent;
        }
        match self.call {
            Some(call) => Some((call.id, answer)),
            None => {
                self.asker.answer(answer);
                None
            }
        }
    }
}

impl Asks {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes an ask, or refuses it (AK-2).
    pub(super) fn take(&mut self, Ask { request, asker, call }: Ask, now: Timestamp) {
        let bytes = request.body.len();
        if self.open.len() >= MAX_ASKS || self.bytes > 0 && self.bytes + bytes > MAX_BYTES {
            let answer = Answer::NotSent(NotSent::Full);
            return match call {
                Some(call) => self.answered.push((call.id, answer)),
                None => asker.answer(answer),
            };
        }
        self.last += 1;
        self.bytes += bytes;
        let until = now.plus(request.patience);
        let open = Open {
            request,
            asker,
            call,
            until,
            since: now,
            failed: 0,
            stage: Stage::Outside,
            last: None,
            is_perhaps_sent: false,
        };
        self.open.insert(self.last, open);
    }

    /// Gives up those whose time is over, and hands the dispatcher what is due; of each key in the order of asking.
    pub(super) fn offer(&mut self, dispatcher: &mut Dispatcher, now: Timestamp) {
        if self.open.is_empty() {
            return;
        }
        self.give_up(dispatcher, NotSent::OutOfTime, |open| open.until <= now);
        let mut held_back = HashSet::new();
        for (number, open) in &mut self.open {
            if open.stage != Stage::Outside || open.since > now || held_back.contains(&open.request.key) {
                continue;
            }
            match dispatcher.offer(open.work(*number)) {
                Offered::Taken | Offered::Known => open.stage = Stage::InHand,
                Offered::HeldBack => _ = held_back.insert(open.request.key.clone()),
                Offered::Full => return,
            }
        }
    }

    /// When [`Self::offer`] has something to do even if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let waiting = self.open.values().filter(|open| open.stage != Stage::UnderWay);
        let due = |open: &Open| match open.stage {
            Stage::Outside => open.until.min(open.since),
            _ => open.until,
        };
        waiting.map(due).min()
    }

    /// Gives up what is not under way, and meets the condition.
    fn give_up(&mut self, dispatcher: &mut Dispatcher, why: NotSent, is_over: impl Fn(&Open) -> bool) {
        let over = |open: &Open| open.stage != Stage::UnderWay && is_over(open);
        let numbers: Vec<u64> = self.open.iter().filter(|(_, open)| over(open)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(open) = self.remove(number) else { continue };
            dispatcher.withdraw(&open.work(number));
            self.answered.extend(open.give_up(why));
        }
    }

    /// Gives up the calls that are not under way.
    pub(super) fn give_up_calls(&mut self, dispatcher: &mut Dispatcher) {
        self.give_up(dispatcher, NotSent::NotHere, |open| open.call.is_some());
    }

    /// Gives up all that is not under way.
    pub(super) fn give_up_all(&mut self, dispatcher: &mut Dispatcher, why: NotSent) {
        self.give_up(dispatcher, why, |_| true);
    }

    pub(super) fn get(&self, number: u64) -> Option<&Request> {
        self.open.get(&number).map(|open| &open.request)
    }

    /// How often it was tried, with the try under way.
    pub(super) fn made(&self, number: u64) -> u32 {
        self.open.get(&number).map_or(1, |open| open.failed + 1)
    }

    /// It is sent; if it is a call, once the store knows it.
    pub(super) fn is_sent(&mut self, number: u64) -> Option<AskedCall> {
        let open = self.open.get_mut(&number)?;
        open.stage = Stage::UnderWay;
        open.asker.tried();
        let call = open.call?;
        // Before another attempt it may be cancelled.
        open.call = Some(AskedCall { is_marked: false, ..call });
        Some(call)
    }

    /// The dispatcher has it in hand again; `last` is what became of the try, if it came to anything.
    pub(super) fn put_off(&mut self, number: u64, last: Option<Answer>) {
        self.ended(number, Stage::InHand, last);
    }

    /// The dispatcher has given it back untried.
    pub(super) fn released(&mut self, number: u64) {
        self.ended(number, Stage::Outside, None);
    }

    /// It is tried again at `due`.
    pub(super) fn try_again(&mut self, number: u64, due: Timestamp, last: Answer) {
        if let Some(open) = self.ended(number, Stage::Outside, Some(last)) {
            open.failed += 1;
            open.since = due;
        }
    }

    fn ended(&mut self, number: u64, stage: Stage, last: Option<Answer>) -> Option<&mut Open> {
        let open = self.open.get_mut(&number)?;
        open.stage = stage;
        open.is_perhaps_sent |= match last {
            Some(Answer::Failed { is_perhaps_sent, .. }) => is_perhaps_sent,
            // Of those that are tried again, 429 alone says that nothing was done.
            Some(Answer::Answered { status, is_repeat, .. }) => is_repeat || status != 429,
            Some(Answer::NotSent(_)) | None => false,
        };
        open.last = last.or_else(|| open.last.take());
        Some(open)
    }

    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
        if let Some(open) = self.remove(number) {
            self.answered.extend(open.answer(answer));
        }
    }

    /// What became of calls since the last time.
    pub(super) fn take_answered(&mut self) -> Vec<(CallId, Answer)> {
        std::mem::take(&mut self.answered)
    }

    /// Whether a try that fails now is tried again at `due`.
    pub(super) fn may_wait_until(&self, number: u64, due: Timestamp) -> bool {
        self.open.get(&number).is_some_and(|open| open.request.is_retried && due < open.until)
    }

    fn remove(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.bytes -= open.request.body.len();
        Some(open)
    }
}

impl Client {
    /// Hands the dispatcher what was asked, or says why that is not sent from here.
    pub(super) fn offer_asks(&mut self) {
        let why = match (self.drained.is_empty(), self.kept.id().is_some() && self.lease.is_held()) {
            (false, _) => NotSent::Ended,
            (true, false) => NotSent::NotHere,
            (true, true) => return self.asks.offer(&mut self.dispatcher, self.clock.now()),
        };
        self.asks.give_up_all(&mut self.dispatcher, why);
    }
}

impl Handler<Ask> for Client {
    type Result = ();

    fn handle(&mut self, ask: Ask, ctx: &mut Context<Self>) {
        self.asks.take(ask, self.clock.now());
        self.pump(ctx);
    }
}

#[cfg(test)]
#[path = "asks_tests.rs"]
mod tests;
