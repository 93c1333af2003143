//! Repairs: what an entity is now goes to the service once more, or a new version of it into the log.

use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};

use super::asking::not_sent;
use super::keeping::{Hindrance, Keeping, now};
use crate::actors::client::messages::{Answer, Method, NotSent, Request, ask};
use crate::actors::service_slot::Holding;
use crate::domain::entity::{Change, EntityId, Op, Precondition, Version};
use crate::domain::event::{Append, AppendOutcome, Event, NewEvent, OWN_SOURCE};
use crate::domain::priority::Lane;
use crate::domain::sync::{Difference, Repair, Repaired, TypeSync};
use crate::protocol::sync::repair_id;
use crate::protocol::webhook::{Recipient, content};
use crate::storage::{Outcome, SyncEntity, SyncWith, Write};
use crate::telemetry::sync_metrics::{RepairOutcome, SyncMetrics};

/// How long a repair may wait to be sent, with the pauses between its tries.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer that nobody reads.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

const EVENT_REPAIR: HeaderName = HeaderName::from_static("event-repair");

impl Keeping {
    /// Repairs a difference, if it still is one.
    pub(super) async fn repair(
        &self,
        with: &SyncWith,
        (sync, metrics): (&mut TypeSync, &SyncMetrics),
        (difference, run): (Difference, u64),
        holding: &Holding,
    ) -> Result<(), Hindrance> {
        let read = self.parts.reader.sync_entity(with.clone(), difference.key.clone()).await;
        let Some(entity) = read.map_err(|_| Hindrance::Later)? else { return Err(Hindrance::Later) };
        let repair = difference.repair(&entity.facts);
        let how = match repair {
            None => Repaired::Dropped,
            Some(Repair::Renew(version)) => self.renew(with, &difference, entity, version, holding).await?,
            Some(Repair::Put(version)) => {
                let event = current_event(with, &difference, entity, Op::Put, version);
                self.push(&event, run).await?
            }
            Some(Repair::Delete(id)) => {
                let event = current_event(with, &difference, entity, Op::Delete, id);
                self.push(&event, run).await?
            }
        };
        metrics.repaired(match (&how, repair) {
            (Repaired::Done, Some(Repair::Renew(_))) => RepairOutcome::Written,
            (Repaired::Done, _) => RepairOutcome::Delivered,
            (Repaired::Dropped, _) => RepairOutcome::Settled,
            (Repaired::Refused(_) | Repaired::Failed(_) | Repaired::NotSent(_), _) => RepairOutcome::Failed,
        });
        sync.repaired(how, now());
        Ok(())
    }

    /// Writes the value of an entity as a new version, which is delivered as every change is.
    async fn renew(
        &self,
        with: &SyncWith,
        difference: &Difference,
        entity: SyncEntity,
        version: Version,
        holding: &Holding,
    ) -> Result<Repaired, Hindrance> {
        let value = entity.record.and_then(|record| record.value);
        let entity = EntityId { kind: with.kind.clone(), key: difference.key.clone() };
        let change = Change { entity, op: Op::Put, precondition: Precondition::version(version), follows: false };
        let event = NewEvent::change(change, value, OWN_SOURCE);
        let outcomes = self.commit(vec![Write::Append(Append::single(event))], holding).await?;
        Ok(match outcomes.into_iter().next() {
            Some(Outcome::Appended(AppendOutcome::Changed(_) | AppendOutcome::Stored { .. })) => Repaired::Done,
            _ => Repaired::Dropped,
        })
    }

    /// Delivers `event` again.
    async fn push(&self, event: &Event, run: u64) -> Result<Repaired, Hindrance> {
        let config = &self.service.config;
        let log = self.parts.position.log_id().ok_or(Hindrance::Later)?;
        let to = Recipient { service: &config.name, format: config.options.format, sources: &config.sources };
        let mut request = content(log, event, to);
        request.headers.push((EVENT_REPAIR, HeaderValue::from_static("true")));
        let key = event.key.clone().unwrap_or_default();
        let request = Request {
            method: Method::Post,
            path: None,
            headers: request.headers,
            body: request.body,
            id: repair_id(log, run, &config.name, &key, event.id),
            traceparent: event.traceparent.clone(),
            key: Some(key),
            lane: Lane::Replay,
            patience: PATIENCE,
            max_answer_bytes: MAX_ANSWER_BYTES,
            is_retried: true,
        };
        Ok(match ask(&self.service.client, request).await {
            Answer::Answered { status: 200..=299, .. } => Repaired::Done,
            Answer::Answered { status: status @ (408 | 425 | 429 | 500..), .. } => {
                Repaired::Failed(format!("the service answered {status}"))
            }
            Answer::Answered { status, .. } => Repaired::Refused(format!("the service answered {status}")),
            Answer::Failed { kind, message, .. } => Repaired::Failed(format!("{kind}: {message}")),
            Answer::NotSent(NotSent::TooLarge) => Repaired::Refused("it is longer than the service accepts".to_owned()),
            Answer::NotSent(why) => Repaired::NotSent(not_sent(why)?.to_owned()),
        })
    }
}

/// The event that has made the entity what it is; made from the entity, if the log has it no more.
fn current_event(with: &SyncWith, difference: &Difference, entity: SyncEntity, op: Op, version: Version) -> Event {
    let id = EntityId { kind: with.kind.clone(), key: difference.key.clone() };
    let (name, key) = (id.kind.change_name(), id.ordering_key());
    let SyncEntity { facts: _, record, event } = entity;
    if let Some(event) = event.filter(|event| event.id == version && event.name == name) {
        return event;
    }
    let (value, created_at) = record.map_or((None, now().day), |record| (record.value, record.updated_at));
    // What was before is not known; a deletion names what the service has.
    let previous = if op == Op::Delete { difference.theirs } else { None };
    let change = Change { entity: id, op, precondition: Precondition::default(), follows: false };
    let payload = change.payload(previous, value.as_deref().unwrap_or("null"));
    let new = NewEvent { payload, key: Some(key), ..NewEvent::change(change, None, OWN_SOURCE) };
    Event::stored(new, version, created_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entity::{EntityKey, EntityType};
    use crate::domain::event::Timestamp;
    use crate::domain::sync::{Current, Facts, Kind};
    use crate::storage::EntityRecord;

    #[test]
    fn an_event_that_the_log_has_no_more_is_made_from_the_entity() {
        let key = EntityKey::parse("k").expect("a key");
        let kind = EntityType::parse("lot").expect("a type");
        let with = SyncWith { service: 1, own_sources: Vec::new(), kind };
        let facts =
            Facts { current: Current::Present(7), own_change_at: None, is_on_its_way: false, answered_at: None };
        let value = Some("{\"a\": 1e400}".into());
        let record = EntityRecord { key: key.clone(), version: 7, value, updated_at: Timestamp(5) };
        let difference =
            Difference { key: key.clone(), kind: Kind::Stale, theirs: Some(3), ours: Current::Present(7), at: 9 };
        let entity = SyncEntity { facts, record: Some(record), event: None };
        let event = current_event(&with, &difference, entity, Op::Put, 7);
        assert_eq!((event.id, event.created_at, event.name.as_str()), (7, Timestamp(5), "state.lot.changed"));
        assert_eq!(event.key.as_deref(), Some("lot:k"));
        let payload = r#"{"type":"lot","key":"k","op":"put","previous_version":null,"value":{"a": 1e400}}"#;
        assert_eq!(&*event.payload, payload);

        let absent = SyncEntity { facts: Facts { current: Current::Absent, ..facts }, record: None, event: None };
        let deleted = current_event(&with, &difference, absent, Op::Delete, 9);
        let payload = r#"{"type":"lot","key":"k","op":"delete","previous_version":3}"#;
        assert_eq!((deleted.id, &*deleted.payload), (9, payload));
    }
}
