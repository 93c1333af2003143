//! Reads the store from any thread without blocking it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::domain::access::Identity;
use crate::domain::consumer::Mark;
use crate::domain::delivery::EventStatus;
use crate::domain::event::{Event, EventId, LogBounds, ScheduleId, Timestamp};
use crate::domain::membership::NodeRecord;
use crate::domain::routes::ServiceId;

use super::connection::Connection;
use super::consumers::{self, ConsumerRecord};
use super::error::{StoreError, StoreErrorKind};
use super::options::{Access, StoreOptions};
use super::outbox::{
    self, AttemptRecord, Claim, Claimed, Counting, DeliveryFilter, DeliveryPage, DeliveryRecord, Orphan, ReplayJob,
};
use super::query::{EventPage, EventQuery, Search};
use super::read_watch::ReadWatch;
use super::scan::{self, Scan, ScanPage};
use super::schedules::{self, SchedulePosition, Scheduled};
use super::{filter, leases, position, revocations};

/// How many reads may wait for each connection.
const WAITING_PER_READER: usize = 64;
/// The longest time that one read may take. Each read is a small step, so only a server that hangs exceeds it; the
/// connection is lost until the server comes back.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the shutdown waits for reads under way.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);
/// After this time a long search lets other reads go first.
const MAX_SLICE: Duration = Duration::from_millis(20);

/// A pool of read connections; clones share it.
///
/// Reads run on blocking threads, as many at a time as there are connections. A bounded number of others waits; when
/// that is full, a read fails with [`StoreErrorKind::Busy`]. A read whose future was dropped still ends its present
/// step.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

struct Shared {
    options: StoreOptions,
    slots: r2d2::Pool<Slots>,
    /// One permit for each read that runs.
    running: Arc<Semaphore>,
    /// One permit for each read that runs or waits.
    admitted: Arc<Semaphore>,
    /// Raised when a connection fails. Connections of earlier generations are closed, because they probably lead to the
    /// same dead server.
    generation: AtomicU64,
    watch: ReadWatch,
}

impl Reader {
    /// Makes the pool; each connection is opened when it is first needed. Failed reads are reported to `watch`.
    pub fn new(options: StoreOptions, watch: ReadWatch) -> Result<Self, StoreError> {
        let readers = options.readers.max(1);
        let slots = r2d2::Pool::builder()
            .max_size(readers)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .max_lifetime(None)
            .build(Slots)
            .map_err(|error| StoreError::new(StoreErrorKind::Internal, error.to_string()))?;
        Ok(Self(Arc::new(Shared {
            slots,
            running: Arc::new(Semaphore::new(readers as usize)),
            admitted: Arc::new(Semaphore::new(readers as usize * (1 + WAITING_PER_READER))),
            generation: AtomicU64::new(0),
            watch,
            options,
        })))
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
        let mut search = Search::new(query);
        loop {
            let slice = move |connection: &mut Connection, search: &mut Search| {
                let begun = Instant::now();
                loop {
                    let page = search.step(connection)?;
                    if page.is_some() || begun.elapsed() > MAX_SLICE {
                        return Ok(page);
                    }
                }
            };
            let (page, rest) = self.run(search, slice).await?;
            match page {
                Some(page) => return Ok(page),
                None => search = rest,
            }
        }
    }

    /// The next events of the log after a known position.
    pub async fn scan(&self, scan: Scan) -> Result<ScanPage, StoreError> {
        self.read(move |connection| scan::scan(connection, &scan)).await
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
        let readers = self.0.slots.max_size();
        if let Ok(Ok(_all)) = timeout(CLOSE_TIMEOUT, self.0.running.acquire_many(readers)).await {
            let slots: Vec<_> = (0..readers).filter_map(|_| self.0.slots.get().ok()).collect();
            slots.into_iter().for_each(|mut slot| drop(slot.take()));
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run((), move |connection, ()| work(connection)).await.map(|(done, ())| done)
    }

    /// Runs `work` on a connection and returns `state` with its result. `work` is repeated on a new connection if the
    /// first one was dead, so a failed attempt must leave `state` unchanged.
    async fn run<S: Send + 'static, T: Send + 'static>(
        &self,
        mut state: S,
        work: impl Fn(&mut Connection, &mut S) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, S), StoreError> {
        let permits = self.admit().await?;
        let shared = Arc::clone(&self.0);
        let task = actix_rt::task::spawn_blocking(move || {
            // The permits are kept to the end of the read, even if nobody awaits its result.
            let _permits = permits;
            match shared.attempt(|connection| work(connection, &mut state)) {
                Ok(done) => Ok((done, state)),
                Err(error) => {
                    shared.watch.failed(&error, move |connection| work(connection, &mut state).map(drop));
                    Err(error)
                }
            }
        });
        match timeout(READ_TIMEOUT, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(StoreError::new(StoreErrorKind::Internal, error.to_string())),
            Err(_) => {
                let error = StoreError::new(StoreErrorKind::Unavailable, "a read of the store has timed out");
                self.0.watch.failed(&error, |connection| position::bounds(connection).map(drop));
                Err(error)
            }
        }
    }

    /// Repeats the read that has failed, if there is one. To be called periodically, so that the store counts as
    /// readable again.
    pub async fn retry_failed(&self) {
        let watch = self.0.watch.clone();
        let Some(mut failed) = watch.take_failed() else { return };
        let permits = match self.admit().await {
            Ok(permits) => permits,
            Err(busy) => return watch.retried(failed, Err(busy)),
        };
        let shared = Arc::clone(&self.0);
        let tried = actix_rt::task::spawn_blocking(move || {
            let _permits = permits;
            let outcome = shared.attempt(&mut failed);
            watch.retried(failed, outcome);
        });
        // It fails only by a panic, which the panic hook logs.
        let _ = tried.await;
    }

    async fn admit(&self) -> Result<[OwnedSemaphorePermit; 2], StoreError> {
        let busy = |message| StoreError::new(StoreErrorKind::Busy, message);
        let admitted = Arc::clone(&self.0.admitted).try_acquire_owned();
        let admitted = admitted.map_err(|_| busy("too many reads are waiting for the store"))?;
        let running = Arc::clone(&self.0.running).acquire_owned();
        match timeout(self.0.options.connect_timeout, running).await {
            Ok(Ok(running)) => Ok([admitted, running]),
            _ => Err(busy("other reads have kept all connections busy for too long")),
        }
    }
}

impl Shared {
    /// Runs `work`, and once more on a new connection if the pooled one turns out to be dead.
    fn attempt<T>(&self, mut work: impl FnMut(&mut Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let slots = self.slots.get();
        let mut slot = slots.map_err(|error| StoreError::new(StoreErrorKind::Internal, error.to_string()))?;
        let generation = self.generation.load(Ordering::Relaxed);
        if let Some((mut connection, made)) = slot.take()
            && made == generation
            && connection.verify().is_ok()
        {
            match work(&mut connection) {
                Err(error) if error.kind == StoreErrorKind::Unavailable => {
                    self.generation.fetch_max(generation + 1, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
                Ok(done) => {
                    *slot = Some((connection, made));
                    return Ok(done);
                }
            }
        }
        let generation = self.generation.load(Ordering::Relaxed);
        let mut connection = Connection::open(&self.options, Access::Read)?;
        let done = work(&mut connection)?;
        *slot = Some((connection, generation));
        Ok(done)
    }
}

/// A place for a connection and its generation.
///
/// The pool manages places and not connections: r2d2 would retry a failing connect until its own timeout, and hide the
/// error.
struct Slots;

impl r2d2::ManageConnection for Slots {
    type Connection = Option<(Connection, u64)>;
    type Error = std::convert::Infallible;

    fn connect(&self) -> Result<Self::Connection, Self::Error> {
        Ok(None)
    }

    fn is_valid(&self, _: &mut Self::Connection) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Self::Connection) -> bool {
        false
    }
}
