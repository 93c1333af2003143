//! Snapshots: a subscriber gets all entities of a type, and from then on their changes.
//!
//! SN-1: the changes begin after the end of the log as it was before the first page was read. So nothing is missed, and
//! what changed meanwhile may come twice: the greater version counts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::Addr;

use crate::actors::connection::Connection;
use crate::actors::log_position::LogPosition;
use crate::actors::shard::Shard;
use crate::actors::shard::messages::{CloseSubscription, OpenSubscription, Place};
use crate::domain::entity::{EntityId, EntityType};
use crate::domain::event::EventId;
use crate::domain::pattern::Pattern;
use crate::protocol::close::CloseReason;
use crate::protocol::error::ApiError;
use crate::protocol::snapshot;
use crate::protocol::subscription::{Envelope, RequestId, Start};
use crate::protocol::wire::Bundle;
use crate::storage::{EntityQuery, EntityRecord, Reader};
use crate::telemetry::metrics::Metrics;

/// Entities and bytes of one page.
const PAGE_ENTITIES: usize = 512;
const PAGE_BYTES: usize = 256 * 1024;
/// Pause before a failed read is tried again.
const READ_RETRY: Duration = Duration::from_millis(500);

/// Who takes a snapshot of what.
pub struct Snapshot {
    pub kind: EntityType,
    /// Echoed at the end.
    pub id: Option<RequestId>,
    pub place: Place,
    pub connection: Rc<Connection>,
    pub shard: Addr<Shard>,
    pub position: Arc<LogPosition>,
    pub reader: Reader,
    pub metrics: Arc<Metrics>,
    /// It goes on when at most so many bytes are queued.
    pub low_water: usize,
    /// Whether the subscriber has to be told that what it has is no longer of use.
    pub replaces: bool,
}

impl Snapshot {
    /// Sends the entities, and subscribes to what follows. It ends early with the connection.
    pub async fn run(mut self) -> Result<(), ApiError> {
        let _counted = Counted::begin(&self.metrics);
        loop {
            let wire = self.connection.wire;
            if self.replaces {
                self.connection.send_queue.push(snapshot::begin(wire));
            }
            let as_of = self.position.bounds()?.last;
            if !self.send().await {
                return Ok(());
            }
            self.connection.send_queue.push(snapshot::end(wire, self.id.as_ref(), as_of, self.position.log_id()));
            if self.subscribe(as_of).await? {
                return Ok(());
            }
            // The log no longer reaches back that far: the snapshot has taken too long.
            self.replaces = true;
        }
    }

    /// Queues the entities, as there is room. False if the connection has ended.
    async fn send(&self) -> bool {
        let Self { kind, connection, low_water, .. } = self;
        let mut after = None;
        loop {
            let page = EntityQuery {
                kind: kind.clone(),
                prefix: String::new(),
                after: after.take(),
                limit: PAGE_ENTITIES,
                max_bytes: PAGE_BYTES,
            };
            if connection.send_queue.queued_bytes() > *low_water {
                connection.send_queue.feeding().pause_until(*low_water);
                connection.send_queue.may_feed().await;
            }
            if connection.send_queue.is_closed() {
                return false;
            }
            let page = loop {
                match self.reader.entities(page.clone()).await {
                    Ok(page) => break page,
                    Err(error) if error.is_damage() => {
                        log::error!(session = self.place.session, error:%; "state cannot be read, closing the client");
                        connection.close(CloseReason::HistoryUnreadable);
                        return false;
                    }
                    Err(error) => {
                        log::debug!(session = self.place.session, error:%; "reading state failed, trying again");
                        tokio::time::sleep(READ_RETRY).await;
                    }
                }
                if connection.send_queue.is_closed() {
                    return false;
                }
            };
            let mut bundle = Bundle::new(connection.wire);
            for EntityRecord { key, version, value, .. } in &page.entities {
                let id = EntityId { kind: kind.clone(), key: key.clone() };
                let value = value.as_deref().unwrap_or("null");
                bundle.add(&snapshot::entity(connection.wire, &id, *version, value));
            }
            connection.send_queue.push(bundle.finish());
            self.metrics.snapshot_entities.inc_by(page.entities.len() as u64);
            after = page.entities.last().map(|last| last.key.to_string());
            if !page.has_more {
                return true;
            }
        }
    }

    /// Subscribes to the changes after `as_of`; false if some of them are no longer kept.
    async fn subscribe(&self, as_of: EventId) -> Result<bool, ApiError> {
        let pattern = Pattern::from(self.kind.change_name());
        let open = OpenSubscription {
            place: self.place,
            id: None,
            pattern: pattern.clone(),
            envelope: Envelope::Full,
            filter: None,
            start: Start::After(as_of),
            log_end: as_of,
        };
        // Without a shard the connection has ended.
        let Ok(opened) = self.shard.send(open).await else { return Ok(true) };
        if opened?.is_none_or(|state| state.recovered) {
            return Ok(true);
        }
        let close = CloseSubscription { place: self.place, id: None, pattern };
        let _ = self.shard.send(close).await;
        Ok(false)
    }
}

/// A snapshot counts for as long as it is being sent.
struct Counted(Arc<Metrics>);

impl Counted {
    fn begin(metrics: &Arc<Metrics>) -> Self {
        metrics.snapshots.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.snapshots.dec();
    }
}
