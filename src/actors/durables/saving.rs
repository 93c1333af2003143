//! What becomes of events, on its way to the store.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use serde_json::json;

use super::Durables;
use super::consumer::Consumer;
use super::messages::{MemberLink, ToMember};
use crate::actors::clock::now;
use crate::actors::persistence::messages::CommitWrites;
use crate::domain::delivery::DeadReason;
use crate::domain::durable::{Changes, Dead, Durable, Revision};
use crate::domain::event::{Event, EventId, NewEvent};
use crate::domain::priority::Lane;
use crate::protocol::durable::{Word, not_settled, settled};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{DeadLetter, DurableChange, Outcome, Settled, Settlement, Write, service_name};
use crate::telemetry::faults::{self, FaultPoint};
use crate::transport::text_frame;

/// Between two transactions of one durable subscription: what is said meanwhile shares the next.
const SAVE_PAUSE: Duration = Duration::from_millis(1);
/// When the writer's mailbox is full.
const MAILBOX_RETRY: Duration = Duration::from_millis(20);
/// After a failure of the store.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Who is told once it is stored.
#[derive(Debug)]
pub struct Answer {
    /// Also to who has left since.
    pub link: MemberLink,
    pub event_id: EventId,
    pub word: Word,
    /// Told when everything up to this is stored.
    pub revision: Revision,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stored,
    /// Not stored: the writer has too much to do.
    NotSent,
    /// Stored or not, nobody knows.
    Failed,
    /// Not stored, and never to be.
    Void,
}

/// A transaction under way.
#[derive(Debug)]
pub struct Saving {
    changes: Changes<Event>,
    life: u64,
    epoch: i64,
}

impl Saving {
    /// Whether it says how this event ended, one that is dead or was made anew.
    pub fn ends(&self, id: EventId) -> bool {
        self.changes.dead.iter().any(|dead| dead.id == id)
            || self.changes.renewed.iter().any(|(renewed, _)| *renewed == id)
    }
}

impl Consumer {
    fn tell(&self, answer: &Answer, result: Result<(), &ApiError>) {
        let Answer { link, event_id, word, revision: _ } = answer;
        let text = match result {
            Ok(()) => settled(*event_id, &self.name, *word),
            Err(error) => not_settled(*event_id, error),
        };
        link.send(ToMember::Answer(text_frame(text.as_bytes())));
    }

    /// Answers what is stored (DU-1); returns how many.
    fn tell_stored(&mut self) -> usize {
        let Some(stored) = self.durable.as_ref().map(Durable::stored) else { return 0 };
        let mut told = 0;
        while let Some(answer) = self.answers.pop_front_if(|answer| answer.revision <= stored) {
            self.tell(&answer, Ok(()));
            told += 1;
        }
        told
    }

    /// Nothing of what was said and not answered holds.
    pub(super) fn void(&mut self, error: &ApiError) {
        let void = std::mem::take(&mut self.answers);
        void.iter().for_each(|answer| self.tell(answer, Err(error)));
    }
}

impl Durables {
    /// Stores what has to be stored soon; of one without members, everything.
    pub(super) fn save(&mut self, name: &str, ctx: &mut Context<Self>) {
        let is_last = self.is_finishing || self.consumers.get(name).is_some_and(|c| c.members.is_empty());
        self.save_if(name, is_last, ctx);
    }

    /// The same, or everything if `all`.
    pub(super) fn save_if(&mut self, name: &str, all: bool, ctx: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        self.parts.metrics.durable_settled.inc_by(consumer.tell_stored() as u64);
        let Some(durable) = consumer.durable.as_mut().filter(|_| consumer.saving.is_none()) else { return };
        let is_due = durable.has_changes() || all && durable.is_dirty();
        if !is_due || consumer.is_resting {
            return;
        }
        assert!(!faults::strikes(FaultPoint::DurablesDieBefore), "injected fault in durables");
        let changes = durable.take_changes();
        let change = change(consumer, &changes);
        consumer.saving = Some(Saving { changes, life: consumer.life, epoch: consumer.record.epoch });
        let (message, outcome) = CommitWrites::one(Write::ChangeDurable(change));
        let is_sent = !faults::strikes(FaultPoint::MailboxFull) && self.store.commit.try_send(message).is_ok();
        let name = Arc::clone(&consumer.name);
        let stored = async move {
            if !is_sent {
                return End::NotSent;
            }
            match outcome.await {
                Ok(Outcome::Void) => End::Void,
                Ok(_) => End::Stored,
                Err(_) => End::Failed,
            }
        };
        ctx.spawn(stored.into_actor(self).map(move |end, this, ctx| this.saved(&name, end, ctx)));
    }

    fn saved(&mut self, name: &Arc<str>, end: End, ctx: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(Saving { changes, life, epoch }) = consumer.saving.take() else { return };
        assert!(!faults::strikes(FaultPoint::DurablesDieAfter), "injected fault in durables");
        // Of an earlier machine: what was said to it is answered, and nothing is left to do about it.
        let Some(durable) = consumer.durable.as_mut().filter(|_| life == consumer.life) else {
            return self.pump(name, ctx);
        };
        match end {
            End::Stored => {
                durable.confirm(changes.revision);
                if consumer.is_claiming {
                    let renewed = changes.renewed.iter().map(|(id, _)| *id);
                    consumer.ended_meanwhile.extend(renewed.chain(changes.dead.iter().map(|dead| dead.id)));
                }
                for Dead { id, deliveries, reason, .. } in &changes.dead {
                    let reason = reason.as_str();
                    log::warn!(service = service_name(name), id, attempts = deliveries, reason; "delivery is dead");
                }
                self.parts.metrics.durable_dead.inc_by(changes.dead.len() as u64);
                let has_renewed = !changes.renewed.is_empty();
                self.rest(name, SAVE_PAUSE, ctx);
                if has_renewed {
                    self.claim_renewed(name, ctx);
                }
                self.pump(name, ctx);
            }
            End::Void if epoch == consumer.record.epoch && !consumer.is_asking => {
                // Another node holds it, or an operator has moved it: what is so is asked of the store.
                consumer.replace(None, self.next_life);
                self.next_life += 1;
                self.hold(name, ctx);
            }
            End::NotSent | End::Failed | End::Void => {
                // Stored or not: it is written once more, unless that is void. What is void in an epoch that has passed
                // may be good in the next one, if that is of this process too: the store is asked just now.
                durable.restore(changes);
                self.rest(name, if end == End::Failed { STORE_RETRY } else { MAILBOX_RETRY }, ctx);
            }
        }
    }

    /// Sends nothing of it to the store for so long.
    fn rest(&mut self, name: &Arc<str>, pause: Duration, ctx: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        consumer.is_resting = true;
        let (rested, life) = (Arc::clone(name), consumer.life);
        ctx.run_later(pause, move |this, ctx| {
            if let Some(consumer) = this.consumers.get_mut(&rested).filter(|consumer| consumer.life == life) {
                consumer.is_resting = false;
                this.pump(&rested, ctx);
            }
        });
    }

    /// Lets go of one that nobody is a member of, once all is stored.
    pub(super) fn retire(&mut self, name: &str) {
        let is_idle = |consumer: &Consumer| {
            let is_saved = consumer.durable.as_ref().is_none_or(|durable| !durable.is_dirty());
            consumer.members.is_empty() && consumer.saving.is_none() && is_saved
        };
        let is_opening = self.opening.iter().any(|opening| opening == name);
        if !is_opening && self.consumers.get(name).is_some_and(is_idle) {
            self.forget(name);
        }
        self.tell_if_finished();
    }

    /// Answers who waits for the end, if this is it.
    pub(super) fn tell_if_finished(&mut self) {
        let is_saved = |consumer: &Consumer| {
            consumer.saving.is_none() && consumer.durable.as_ref().is_none_or(|durable| !durable.is_dirty())
        };
        if self.is_finishing && self.consumers.values().all(is_saved) {
            for finished in self.finished.drain(..) {
                let _ = finished.send(());
            }
        }
    }
}

fn change(consumer: &Consumer, changes: &Changes<Event>) -> DurableChange {
    let at = now();
    let (service, name) = (consumer.record.service, &*consumer.name);
    let Changes { floor, marks, forget, dead, renewed, revision: _ } = changes;
    let settlement = |(event_id, attempts): &(EventId, u32)| Settlement {
        service,
        event_id: *event_id,
        lane: Lane::Replay,
        attempts: *attempts,
        finished_at: at,
        took: Duration::ZERO,
        http_status: None,
        reason: None,
        answer: None,
        settled: Settled::Delivered,
    };
    let letter = |dead: &Dead<Event>| DeadLetter {
        event_id: dead.id,
        lane: dead.item.priority.into(),
        key: dead.item.key.as_ref().map(ToString::to_string),
        deliveries: dead.deliveries,
        reason: dead.reason,
        error: why(dead.reason).to_owned(),
        at,
    };
    // Those of the Event Handler's own events could go on for ever.
    let foreign = dead.iter().filter(|dead| !dead.item.name.is_system());
    let events = foreign.map(|dead| {
        let payload = json!({
            "service": service_name(name),
            "durable": name,
            "event_id": dead.id,
            "event_name": dead.item.name.as_str(),
            "key": dead.item.key.as_deref(),
            "reason": dead.reason.as_str(),
            "attempts": dead.deliveries,
            "error": why(dead.reason),
        });
        NewEvent::own("$sys.delivery.dead", payload.to_string())
    });
    DurableChange {
        service,
        epoch: consumer.record.epoch,
        floor: *floor,
        marks: marks.clone(),
        forget: forget.clone(),
        dead: dead.iter().map(letter).collect(),
        renewed: renewed.iter().map(settlement).collect(),
        events: events.collect(),
    }
}

/// To whom has said something of an event in an earlier life.
pub(super) fn moved() -> ApiError {
    ApiError::new(ErrorCode::NotDelivered, "the durable subscription was moved, or is at another node now")
}

fn why(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Rejected => "rejected by a member",
        DeadReason::Exhausted => "not acknowledged in any of max_deliver deliveries",
        DeadReason::TooLarge | DeadReason::Cancelled => "given up",
    }
}
