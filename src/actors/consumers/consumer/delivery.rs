//! Events to members, and what members say of them.

use super::Consumer;
use super::answers::Answer;
use crate::domain::consumer::{Acked, Delivery, HeldBy, MemberId};
use crate::domain::event::{EventId, Timestamp};
use crate::protocol::consumer::{AckKind, AckRequest, delivery_text, held_up};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::transport::text_frame;

impl Consumer {
    /// Takes back what was not acknowledged in time and, unless `is_finishing`, gives members what they have room for.
    /// `given` is told of each event: the number of the delivery, and whether the session has got it.
    pub fn deliver(&mut self, now: Timestamp, is_finishing: bool, mut given: impl FnMut(EventId, u32, bool)) {
        let Some(holder) = self.lease.holder_mut() else { return };
        let state = &mut holder.state;
        state.expire(now);
        if is_finishing || self.answers.are_too_many() {
            return;
        }
        loop {
            let Some(next) = state.next(now, |member| self.members.has_room(member)) else {
                if state.not_in_flight() == 0 || !self.members.await_room() {
                    break;
                }
                continue;
            };
            let Delivery { member, id, item, delivery } = next;
            self.counts.delivered += 1;
            self.counts.redelivered += u64::from(delivery > 1);
            let frame = text_frame(delivery_text(&item, &self.name, delivery).as_bytes());
            let is_sent = self.members.send_event(member, frame);
            if !is_sent {
                // It is gone; its session's own word is on its way.
                state.requeue(member, id);
                state.leave(member);
            }
            given(id, delivery, is_sent);
        }
    }

    /// What a member says of an event; answered when it is stored.
    pub fn settle(&mut self, member: MemberId, request: &AckRequest, now: Timestamp) -> Result<(), ApiError> {
        let AckRequest { event_id: id, kind, .. } = request;
        let name = &self.name;
        let refuse = |why: &str| {
            ApiError::new(ErrorCode::NotDelivered, format!("event {id} of durable subscription {name:?} {why}"))
        };
        let Some(holder) = self.lease.holder_mut() else {
            return Err(refuse("was not delivered here: another node delivers its events now"));
        };
        let state = &mut holder.state;
        let acknowledged = match kind {
            AckKind::Ack => Err(state.ack(*id)),
            AckKind::AckThrough => state.ack_through(member, *id),
            AckKind::Nack(_) | AckKind::Extend | AckKind::Reject => Ok(0),
        };
        self.counts.acknowledged += match acknowledged {
            Ok(count) => count as u64,
            Err(Acked::Now) => 1,
            Err(Acked::Before) => 0,
            Err(Acked::Unknown) => return Err(refuse("was not delivered")),
        };
        let is_with_member = match kind {
            AckKind::Ack | AckKind::AckThrough => true,
            AckKind::Nack(delay) => state.nack(member, *id, (!delay.is_zero()).then(|| now.plus(*delay))),
            AckKind::Extend => state.extend(member, *id, now),
            AckKind::Reject => state.reject(member, *id),
        };
        if !is_with_member {
            return Err(refuse("is not with this connection: it was never delivered to it, or ack_wait is over"));
        }
        // Also if it was settled before: perhaps not for long enough to be stored.
        let revision = state.revision();
        if let Some(link) = self.members.link(member).cloned() {
            self.answers.push(Answer { link, event_id: *id, kind: *kind, revision });
        }
        Ok(())
    }

    /// Tells members that they have to settle something before they get more, if it is time for that; what it is that
    /// holds them up. `head`: the end of the log.
    pub fn tell_held_up(&mut self, head: EventId, now: Timestamp) -> Option<HeldBy> {
        let progress = self.counts.delivered + self.counts.acknowledged;
        let holder = self.lease.holder_mut()?;
        let by = holder.see_held_up(holder.state.cursor() < head, progress, now)?;
        let state = &holder.state;
        let text = held_up(&self.name, by, state.in_flight(), state.open_bytes());
        self.members.notify(state.busy_members(), &text_frame(text.as_bytes()));
        Some(by)
    }
}
