//! What becomes of events, on its way to the store.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use serde_json::json;
use tokio::sync::oneshot;

use super::Durables;
use super::consumer::Consumer;
use super::messages::{MemberLink, ToMember};
use crate::actors::clock::now;
use crate::actors::persistence::messages::{AppendFailure, SettleDeliveries};
use crate::domain::delivery::DeadReason;
use crate::domain::durable::{Changes, Dead};
use crate::domain::event::{Event, EventId, NewEvent};
use crate::domain::priority::Lane;
use crate::protocol::durable::{Word, not_settled, settled};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{DeadLetter, DurableChange, Settled, Settlement, service_name};
use crate::transport::text_frame;

/// Between two transactions of one durable subscription: what is said meanwhile shares the next.
const SAVE_PAUSE: Duration = Duration::from_millis(1);
/// After a failure of the store.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Who is told once it is stored.
#[derive(Debug)]
pub struct Answer {
    /// Also to who has left since.
    pub link: MemberLink,
    pub event_id: EventId,
    pub word: Word,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stored,
    /// Stored or not, nobody knows.
    Failed,
    /// Not stored, and never to be.
    Void,
}

/// A transaction under way.
#[derive(Debug)]
pub struct Saving {
    changes: Changes<Event>,
    pub answers: Vec<Answer>,
    life: u64,
}

impl Consumer {
    fn tell(&self, answer: &Answer, result: Result<(), &ApiError>) {
        let Answer { link, event_id, word } = answer;
        let text = match result {
            Ok(()) => settled(*event_id, &self.name, *word),
            Err(error) => not_settled(*event_id, error),
        };
        link.send(ToMember::Answer(text_frame(text.as_bytes())));
    }

    pub(super) fn tell_all(&self, answers: &[Answer], result: Result<(), &ApiError>) {
        answers.iter().for_each(|answer| self.tell(answer, result));
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
        let Some(consumer) = self.consumers.get_mut(name).filter(|consumer| consumer.saving.is_none()) else { return };
        let Some(durable) = &mut consumer.durable else { return };
        let is_due = durable.has_changes() || all && durable.is_dirty();
        if !is_due {
            let answers = std::mem::take(&mut consumer.answers);
            return consumer.tell_all(&answers, Ok(()));
        }
        if consumer.is_resting {
            return;
        }
        let changes = durable.take_changes();
        let message = message(consumer, &changes);
        let (reply, answer) = oneshot::channel();
        consumer.saving = Some(Saving { changes, answers: std::mem::take(&mut consumer.answers), life: consumer.life });
        let (settlements, durable_change, events) = message;
        let sent = self.store.settle.try_send(SettleDeliveries {
            settlements,
            changes: Vec::new(),
            durables: vec![durable_change],
            events,
            reply,
        });
        let name = Arc::clone(&consumer.name);
        let stored = async move {
            match sent {
                Ok(()) => match answer.await {
                    Ok(Ok(())) => End::Stored,
                    Ok(Err(AppendFailure::Void)) => End::Void,
                    Ok(Err(_)) | Err(_) => End::Failed,
                },
                Err(_) => End::Failed,
            }
        };
        ctx.spawn(stored.into_actor(self).map(move |end, this, ctx| this.saved(&name, end, ctx)));
    }

    fn saved(&mut self, name: &Arc<str>, end: End, ctx: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(Saving { changes, answers, life }) = consumer.saving.take() else { return };
        consumer.saves += 1;
        if end == End::Void {
            // Another node holds it, or an operator has moved it: what is so is asked of the store.
            consumer.tell_all(&answers, Err(&moved()));
            if life == consumer.life {
                consumer.replace(None, self.next_life);
                self.next_life += 1;
            }
            return self.hold(name, ctx);
        }
        if end == End::Stored {
            let has_renewed = !changes.renewed.is_empty();
            for Dead { id, deliveries, reason, .. } in &changes.dead {
                let reason = reason.as_str();
                log::warn!(service = service_name(name), id, attempts = deliveries, reason; "delivery is dead");
            }
            self.parts.metrics.durable_dead.inc_by(changes.dead.len() as u64);
            self.parts.metrics.durable_settled.inc_by(answers.len() as u64);
            consumer.tell_all(&answers, Ok(()));
            consumer.is_resting = true;
            let rested = Arc::clone(name);
            ctx.run_later(SAVE_PAUSE, move |this, ctx| {
                if let Some(consumer) = this.consumers.get_mut(&rested) {
                    consumer.is_resting = false;
                    this.pump(&rested, ctx);
                }
            });
            if has_renewed {
                self.claim_renewed(name, ctx);
            }
            return self.pump(name, ctx);
        }
        // Stored or not: it is written once more, unless that is void.
        match consumer.durable.as_mut().filter(|_| life == consumer.life) {
            Some(durable) => {
                durable.restore(changes);
                consumer.answers.splice(..0, answers);
            }
            None => consumer.tell_all(&answers, Err(&moved())),
        }
        let name = Arc::clone(name);
        ctx.run_later(STORE_RETRY, move |this, ctx| this.pump(&name, ctx));
    }

    /// Lets go of one that nobody is a member of, once all is stored.
    pub(super) fn retire(&mut self, name: &str) {
        let is_idle = |consumer: &Consumer| {
            let is_saved = consumer.durable.as_ref().is_none_or(|durable| !durable.is_dirty());
            consumer.members.is_empty() && consumer.saving.is_none() && is_saved
        };
        if self.consumers.get(name).is_some_and(is_idle) {
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

type Message = (Vec<Settlement>, DurableChange, Vec<NewEvent>);

fn message(consumer: &Consumer, changes: &Changes<Event>) -> Message {
    let at = now();
    let (service, name) = (consumer.record.service, &*consumer.name);
    let Changes { floor, marks, forget, dead, renewed } = changes;
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
    let change = DurableChange {
        service,
        epoch: consumer.record.epoch,
        floor: *floor,
        marks: marks.clone(),
        forget: forget.clone(),
        dead: dead.iter().map(letter).collect(),
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
    (renewed.iter().map(settlement).collect(), change, events.collect())
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
