//! Deliveries to members, and their acknowledgements.

use super::Consumer;
use super::answers::Answer;
use crate::domain::consumer::{Acked, Delivery, HeldBy, MemberId};
use crate::domain::event::{EventId, Timestamp};
use crate::protocol::consumer::{AckKind, AckRequest, delivery_text, held_up};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::transport::text_frame;

impl Consumer {
    /// Requeues what was not acknowledged in time and, unless `is_finishing`, gives members the events they have room
    /// for. `given` learns of each event: its id, the number of the delivery, and whether the session got it.
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
                // The session is gone; its `Leave` is under way.
                state.requeue(member, id);
                state.leave(member);
            }
            given(id, delivery, is_sent);
        }
    }

    /// Applies what a member says of an event. The answer comes when that is stored.
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
        // An event that was acknowledged before is answered too: that change may not be stored yet.
        let revision = state.revision();
        if let Some(link) = self.members.link(member).cloned() {
            self.answers.push(Answer { link, event_id: *id, kind: *kind, revision });
        }
        Ok(())
    }

    /// If members are held up and it is time to tell them, does so, and returns what holds them up. `head`: the end of
    /// the log.
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
