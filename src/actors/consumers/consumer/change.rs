//! The write that stores the changes of a consumer's state.

use std::time::Duration;

use crate::domain::consumer::{Changes, Dead};
use crate::domain::delivery::DeadReason;
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::protocol::event_json::delivery_dead;
use crate::storage::{ConsumerChange, ConsumerRecord, DeadLetter, DeliveryOutcome, Settled, service_name};

/// The changes as a write, made in the fencing epoch `epoch` at the time `at`.
pub fn change(record: &ConsumerRecord, epoch: i64, changes: &Changes<Event>, at: Timestamp) -> ConsumerChange {
    let (service, name) = (record.service, record.name.as_str());
    let Changes { ack_floor, marks, passed_marks, dead, renewed, revision: _ } = changes;
    let outcome = |(event_id, attempts): &(EventId, u32)| DeliveryOutcome {
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
    let full_name = service_name(name);
    let event = |Dead { id: _, item, deliveries, reason }: &Dead<Event>| {
        delivery_dead(&full_name, Some(name), item, *reason, *deliveries, Some(why(*reason)))
    };
    ConsumerChange {
        service,
        fencing_epoch: epoch,
        ack_floor: *ack_floor,
        marks: marks.clone(),
        passed_marks: passed_marks.clone(),
        dead: dead.iter().map(letter).collect(),
        renewed: renewed.iter().map(outcome).collect(),
        events: dead.iter().filter_map(event).collect(),
    }
}

fn why(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Rejected => "rejected by a member",
        DeadReason::Exhausted => "not acknowledged in any of max_deliver deliveries",
        DeadReason::TooLarge | DeadReason::Cancelled => "given up",
    }
}
