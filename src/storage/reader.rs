//! Reads the store from any thread without blocking it.

mod orchestration;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::access::Identity;
use crate::domain::catalogue::EventType;
use crate::domain::consumer::Mark;
use crate::domain::delivery::EventStatus;
use crate::domain::entity::{Buckets, EntityId, EntityKey, EntityType, Version};
use crate::domain::event::{Event, EventId, LogBounds, ScheduleId, Timestamp};
use crate::domain::log::EventUuid;
use crate::domain::membership::NodeRecord;
use crate::domain::pattern::Pattern;
use crate::domain::routes::ServiceId;
use crate::domain::sync::Compared;
use crate::domain::system::{Answer, System, answer};

use super::catalogue::{self, TypeVersion};
use super::connection::Connection;
use super::consumers::{self, ConsumerRecord};
use super::error::{StoreError, StoreErrorKind};
use super::followers::{self, FollowPage};
use super::options::{Access, StoreOptions};
use super::outbox::{
    self, AttemptRecord, Claim, Claimed, Counting, DeliveryFilter, DeliveryPage, DeliveryRecord, Orphan, ReplayJob,
};
use super::pool::{Failed, Pool};
use super::query::{EventPage, EventQuery, MAX_SLICE, Search};
use super::read_watch::ReadWatch;
use super::replica::Replica;
use super::scan::{self, Scan, ScanPage};
use super::schedules::{self, SchedulePosition, Scheduled};
use super::shared_catalogue::SharedCatalogue;
use super::state::{self, AsOf, DigestQuery, EntityPage, EntityQuery, EntityRecord};
use super::syncs::{self, SyncBacklog, SyncEntity, SyncRecord, SyncWith};
use super::{filter, leases, position, revocations, system};

/// The longest time that one read may take. Each read is a small step, so only a server that hangs exceeds it; the
/// connection is lost until the server comes back.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of read connections; clones share it.
///
/// Reads run on blocking threads, as many at a time as there are connections. A bounded number of others waits; when
/// that is full, a read fails with [`StoreErrorKind::Busy`]. A read whose future was dropped still ends its present
/// step.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

struct Shared {
    primary: Pool,
    /// Where events are read, if the options name one.
    replica: Option<Replica>,
    watch: ReadWatch,
}

impl Reader {
    /// Makes the pools; each connection is opened when it is first needed. Failed reads are reported to `watch`, which
    /// hears nothing of those that the replica could not serve.
    pub fn new(options: StoreOptions, watch: ReadWatch) -> Result<Self, StoreError> {
        let replica = options.replica().map(|options| Replica::new(options, &watch)).transpose()?;
        let patience = (options.connect_timeout, READ_TIMEOUT);
        Ok(Self(Arc::new(Shared { primary: Pool::new(options, Access::Read, patience)?, replica, watch })))
    }

    /// One event and its processing status.
    pub async fn event(&self, id: EventId) -> Result<Option<(Event, EventStatus)>, StoreError> {
        self.read(move |connection| {
            let Some(event) = filter::find(connection, id)? else { return Ok(None) };
            let status = outbox::statuses(connection, &[id])?.remove(&id);
            Ok(Some((event, status.unwrap_or(EventStatus::Processed))))
        })
        .await
    }

    /// A page of events.
    pub async fn query(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        // What selects by status is not in the events alone.
        if let Some(replica) = self.0.replica.as_ref().filter(|_| query.status.is_none())
            && let Some(mut page) = replica.query(&self.0.primary, &query).await
        {
            let ids: Vec<EventId> = page.events.iter().map(|event| event.id).collect();
            page.statuses = self.read(move |connection| outbox::statuses(connection, &ids)).await?;
            return Ok(page);
        }
        let mut search = Search::new(query);
        loop {
            let (page, rest) = self.run(search, |connection, search: &mut Search| search.slice(connection)).await?;
            match page {
                Some(page) => return Ok(page),
                None => search = rest,
            }
        }
    }

    /// The next events of the log after a known position.
    pub async fn scan(&self, scan: Scan) -> Result<ScanPage, StoreError> {
        if let Some(replica) = &self.0.replica
            && let Some(page) = replica.scan(&self.0.primary, &scan).await
        {
            return Ok(page);
        }
        self.read(move |connection| scan::scan(connection, &scan)).await
    }

    /// The next events for a follower of the log that has come up to `after`: at most so many, of about so many bytes.
    pub async fn follow(&self, after: EventId, limits: (usize, usize)) -> Result<FollowPage, StoreError> {
        self.read(move |connection| followers::follow(connection, after, limits)).await
    }

    /// Those of `uuids` under which events of the log went out by publish/subscribe, as far as that was
    /// [marked](super::Write::MarkSent).
    pub async fn sent(&self, uuids: Vec<EventUuid>) -> Result<HashSet<EventUuid>, StoreError> {
        self.read(move |connection| followers::sent(connection, &uuids)).await
    }

    /// All nodes that are known, each with the names of the leases that it holds.
    pub async fn nodes(&self) -> Result<Vec<(NodeRecord, Vec<String>)>, StoreError> {
        self.read(leases::holders).await
    }

    /// The oldest and the newest retained id.
    pub async fn bounds(&self) -> Result<LogBounds, StoreError> {
        self.read(position::bounds).await
    }

    /// Open deliveries of a service with their events. The last event may exceed `max_bytes`.
    pub async fn claim(
        &self,
        service: ServiceId,
        claim: Claim,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.read(move |connection| outbox::claim(connection, service, &claim, max_rows, max_bytes)).await
    }

    /// When the first retry of a service after `after` is due.
    pub async fn next_due(&self, service: ServiceId, after: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.read(move |connection| outbox::next_due(connection, service, after)).await
    }

    /// Services with deliveries that are not among `configured`.
    pub async fn orphans(&self, configured: Vec<String>) -> Result<Vec<Orphan>, StoreError> {
        self.read(move |connection| outbox::orphans(connection, &configured)).await
    }

    /// The oldest event with an open delivery to a service.
    pub async fn oldest_open(&self, service: ServiceId) -> Result<Option<Event>, StoreError> {
        self.read(move |connection| match outbox::oldest_open(connection, service)? {
            Some(id) => filter::find(connection, id),
            None => Ok(None),
        })
        .await
    }

    /// A page of deliveries, the newest first.
    pub async fn deliveries(&self, filter: DeliveryFilter) -> Result<DeliveryPage, StoreError> {
        self.read(move |connection| outbox::deliveries(connection, &filter)).await
    }

    /// The deliveries of an event, and their failed attempts.
    pub async fn trace(&self, id: EventId) -> Result<(Vec<DeliveryRecord>, Vec<AttemptRecord>), StoreError> {
        self.read(move |connection| Ok((outbox::deliveries_of(connection, id)?, outbox::attempts(connection, id)?)))
            .await
    }

    /// Replay jobs, the newest first.
    pub async fn replay_jobs(&self, limit: usize) -> Result<Vec<ReplayJob>, StoreError> {
        self.read(move |connection| outbox::replay_jobs(connection, false, limit)).await
    }

    /// One replay job.
    pub async fn replay_job(&self, id: i64) -> Result<Option<ReplayJob>, StoreError> {
        self.read(move |connection| outbox::replay_job(connection, id)).await
    }

    /// Counts the deliveries that a replay job would open. Stops at `max`, or after about `patience`.
    pub async fn count(&self, job: Counting, max: usize, patience: Duration) -> Result<Counting, StoreError> {
        let deadline = Instant::now() + patience;
        let mut counting = job;
        while !counting.is_complete() && counting.count < max && Instant::now() < deadline {
            let slice = move |connection: &mut Connection, counting: &mut Counting| {
                let begun = Instant::now();
                let mut counted = counting.clone();
                while !counted.is_complete() && counted.count < max && begun.elapsed() < MAX_SLICE {
                    counted.step(connection)?;
                }
                Ok(counted)
            };
            counting = self.run(counting, slice).await?.0;
        }
        Ok(counting)
    }

    /// All consumers, in the order of their names.
    pub async fn consumers(&self) -> Result<Vec<ConsumerRecord>, StoreError> {
        self.read(consumers::list).await
    }

    /// The marks that these consumers have for an event above their ack floors.
    pub async fn consumer_marks(
        &self,
        of: Vec<ServiceId>,
        id: EventId,
    ) -> Result<HashMap<ServiceId, Mark>, StoreError> {
        self.read(move |connection| consumers::marks_of(connection, &of, id)).await
    }

    /// The names of all services that were ever registered, and of consumers.
    pub async fn service_names(&self) -> Result<BTreeMap<ServiceId, String>, StoreError> {
        self.read(outbox::names).await
    }

    /// Waiting schedules in the order in which they are due.
    pub async fn schedules(&self, after: Option<SchedulePosition>, limit: usize) -> Result<Vec<Scheduled>, StoreError> {
        self.read(move |connection| schedules::list(connection, after, limit)).await
    }

    /// A waiting schedule.
    pub async fn schedule(&self, id: ScheduleId) -> Result<Option<Scheduled>, StoreError> {
        self.read(move |connection| schedules::find(connection, id)).await
    }

    /// One entity, or what is known of its deletion.
    pub async fn entity(&self, id: EntityId) -> Result<Option<EntityRecord>, StoreError> {
        self.read(move |connection| state::entity(connection, &id)).await
    }

    /// All types of entities, each with how many there are.
    pub async fn entity_types(&self) -> Result<Vec<(EntityType, i64)>, StoreError> {
        self.read(state::types).await
    }

    /// The first type after `after` that has entities.
    pub async fn next_type(&self, after: Option<EntityType>) -> Result<Option<EntityType>, StoreError> {
        self.read(move |connection| state::next_type(connection, after.as_ref())).await
    }

    /// What is known of each of these entities, in their order: of as many as have about `max_bytes` of values.
    pub async fn records(
        &self,
        ids: Vec<EntityId>,
        max_bytes: usize,
    ) -> Result<Vec<(EntityId, Option<EntityRecord>)>, StoreError> {
        self.read(move |connection| state::records(connection, &ids, max_bytes)).await
    }

    /// A page of the entities of a type.
    pub async fn entities(&self, query: EntityQuery) -> Result<EntityPage, StoreError> {
        self.read(move |connection| state::page(connection, &query)).await
    }

    /// The digests of all buckets of a type.
    pub async fn digest(&self, query: DigestQuery) -> Result<AsOf<Buckets>, StoreError> {
        self.read(move |connection| state::digest(connection, &query)).await
    }

    /// The entities of one bucket, each with its version.
    pub async fn bucket(&self, query: DigestQuery, bucket: u32) -> Result<AsOf<Vec<(String, EventId)>>, StoreError> {
        self.read(move |connection| state::bucket(connection, &query, bucket)).await
    }

    /// All event types in the order of their names.
    pub async fn event_types(&self) -> Result<Vec<EventType>, StoreError> {
        self.read(catalogue::list).await
    }

    /// Has `shared` know what is stored, for decisions that no transaction makes again.
    pub async fn learn_catalogue(&self, shared: &SharedCatalogue) -> Result<(), StoreError> {
        let known = shared.get();
        let base = Arc::clone(&known);
        let read = self.read(move |connection| catalogue::current(connection, Arc::clone(&base))).await?;
        shared.learn(&known, read);
        Ok(())
    }

    /// The event type of this name, also if it was deleted.
    pub async fn event_type(&self, name: Pattern) -> Result<Option<EventType>, StoreError> {
        self.read(move |connection| catalogue::find(connection, &name)).await
    }

    /// The versions of its schema, the oldest first, or the one that is asked for.
    pub async fn type_versions(&self, name: Pattern, only: Option<u32>) -> Result<Vec<TypeVersion>, StoreError> {
        self.read(move |connection| catalogue::versions(connection, &name, only)).await
    }

    /// The digests of the files of this name that were put.
    pub async fn type_files(&self, name: Pattern) -> Result<Vec<String>, StoreError> {
        self.read(move |connection| catalogue::files(connection, &name)).await
    }

    /// The state of the whole system.
    pub async fn system(&self) -> Result<System, StoreError> {
        self.read(system::read).await
    }

    /// What services have said of a change of that state, of which this event told them; by their names.
    pub async fn system_answers(&self, event: EventId) -> Result<Vec<(String, Answer)>, StoreError> {
        self.read(move |connection| {
            let names = outbox::names(connection)?;
            let deliveries = outbox::deliveries_of(connection, event)?;
            let said = |delivery: DeliveryRecord| {
                let said = answer(delivery.state, delivery.reason.as_deref(), delivery.http_status)?;
                Some((names.get(&delivery.service)?.clone(), said))
            };
            Ok(deliveries.into_iter().filter_map(said).collect())
        })
        .await
    }

    /// How far each service agrees with each type of entities that it was compared with.
    pub async fn syncs(&self) -> Result<Vec<SyncRecord>, StoreError> {
        self.read(syncs::list).await
    }

    /// What is to be known before a service is compared.
    pub async fn sync_backlog(&self, with: SyncWith) -> Result<SyncBacklog, StoreError> {
        self.read(move |connection| syncs::backlog(connection, &with)).await
    }

    /// What the store has of the entities of a bucket, among so many, that are not as a service says it has them.
    pub async fn sync_bucket(
        &self,
        with: SyncWith,
        bucket: (u32, u32),
        theirs: Vec<(EntityKey, Version)>,
    ) -> Result<Vec<Compared>, StoreError> {
        self.read(move |connection| syncs::compare(connection, &with, bucket, &theirs)).await
    }

    /// What the store has of the next entities after a key, for a service that has none; and whether there are others.
    pub async fn sync_page(
        &self,
        with: SyncWith,
        after: Option<EntityKey>,
        limit: usize,
    ) -> Result<(Vec<Compared>, bool), StoreError> {
        self.read(move |connection| syncs::compare_page(connection, &with, after.as_ref(), limit)).await
    }

    /// What an entity is now, for a repair of a service.
    pub async fn sync_entity(&self, with: SyncWith, key: EntityKey) -> Result<Option<SyncEntity>, StoreError> {
        self.read(move |connection| syncs::entity(connection, &with, &key)).await
    }

    /// Everybody whom an operator has revoked.
    pub async fn revocations(&self) -> Result<HashSet<Identity>, StoreError> {
        self.read(revocations::all).await
    }

    /// The first id dated at or after `since`, and the last one dated at or before `until`. If dates went back in the
    /// log, other dates may lie between them.
    pub async fn ids_between(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<(EventId, EventId), StoreError> {
        self.read(move |connection| {
            let log = position::bounds(connection)?;
            let (ids, _) = position::dated(connection, log, since, until)?;
            Ok((ids.low, ids.high))
        })
        .await
    }

    /// Waits shortly for reads under way and closes the connections. A later read would open another one.
    pub async fn close(&self) {
        self.0.primary.close().await;
        if let Some(replica) = &self.0.replica {
            replica.close().await;
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run((), move |connection, ()| work(connection)).await.map(|(done, ())| done)
    }

    /// Reads the primary; see [`Pool::run`].
    async fn run<S: Send + 'static, T: Send + 'static>(
        &self,
        state: S,
        work: impl Fn(&mut Connection, &mut S) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, S), StoreError> {
        let Shared { primary, watch, .. } = &*self.0;
        primary.run(state, work).await.map_err(|Failed { error, again }| {
            match again {
                _ if error.kind == StoreErrorKind::Busy => {}
                Some((mut state, work)) => {
                    watch.failed(&error, move |connection| work(connection, &mut state).map(drop));
                }
                None => watch.failed(&error, |connection| position::bounds(connection).map(drop)),
            }
            error
        })
    }

    /// Repeats the read that has failed, if there is one. To be called periodically, so that the store counts as
    /// readable again.
    pub async fn retry_failed(&self) {
        let Shared { primary, watch, .. } = &*self.0;
        let Some(mut failed) = watch.take_failed() else { return };
        let permits = match primary.admit().await {
            Ok(permits) => permits,
            Err(busy) => return watch.retried(failed, Err(busy)),
        };
        let (primary, watch) = (primary.clone(), watch.clone());
        let tried = actix_rt::task::spawn_blocking(move || {
            let _permits = permits;
            let outcome = primary.attempt(&mut failed);
            watch.retried(failed, outcome);
        });
        // It fails only by a panic, which the panic hook logs.
        let _ = tried.await;
    }

    /// Looks whether the replica can be read and how far it is. To be called periodically; does nothing without one.
    pub async fn look_at_replica(&self) {
        if let Some(replica) = &self.0.replica {
            replica.look(&self.0.primary).await;
        }
    }
}
