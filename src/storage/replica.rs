//! A streaming replica of PostgreSQL, which serves what may be read there.
//!
//! *RD-2* A read that a replica serves lacks no event that was committed, on whichever node, before the read began. So
//! each read first learns how far the primary's log goes. Only events are read there, which never change; whatever else
//! is true of them is read from the primary. So is what the replica does not have yet, and everything while it cannot be
//! read or does not have the primary's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connection::Connection;
use super::error::{StoreError, StoreErrorKind};
use super::identity::{self, LogExtent};
use super::options::{Access, StoreOptions};
use super::pool::{Failed, Pool};
use super::query::{EventPage, EventQuery, Search};
use super::read_watch::ReadWatch;
use super::scan::{self, Scan, ScanPage};
use crate::domain::event::LogBounds;
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// How long a replica may take for one step, and be waited for. Then the primary is read.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a replica that has been level may be waited for until it is so again. Streaming takes a millisecond or two.
const LEVELLING: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Replica {
    pool: Pool,
    /// How far the replica was when it was last asked.
    last: AtomicI64,
    /// Whether it had all that was needed of it when it was last asked.
    is_level: Arc<AtomicBool>,
    primary: PrimaryExtent,
    health: Arc<StoreHealth>,
    metrics: Arc<Metrics>,
}

impl Replica {
    /// It is not asked before the first [`look`](Self::look).
    pub fn new(options: StoreOptions, watch: &ReadWatch) -> Result<Self, StoreError> {
        let (health, metrics) = (watch.health(), watch.metrics());
        health.replica.set_connecting();
        let pool = Pool::new(options, Access::Replica, (PATIENCE, PATIENCE))?;
        let (last, is_level) = (AtomicI64::new(0), Arc::default());
        Ok(Self { pool, last, is_level, primary: PrimaryExtent::default(), health, metrics })
    }

    /// A page without the statuses of its events; none if the primary is to be read.
    pub async fn query(&self, primary: &Pool, query: &EventQuery) -> Option<EventPage> {
        let extent = self.begin(primary).await?;
        let LogBounds { earliest, last } = extent.bounds;
        // With both cursors nothing beyond them counts.
        let through = query.before.filter(|_| query.after.is_some()).map_or(last, |before| last.min(before - 1));
        let has_all = move |found: LogBounds| found.earliest >= earliest && found.last >= through;
        let mut search = Search::up_to(last, query.clone());
        loop {
            let slice = |connection: &mut Connection, search: &mut Search, _| search.slice(connection);
            let (page, rest) = self.ask(extent, (has_all, LEVELLING), search, slice).await?;
            match page {
                Some(page) => return Some(self.served(page)),
                None => search = rest,
            }
        }
    }

    /// The next events, perhaps not as many as the primary has; none if the primary is to be read.
    pub async fn scan(&self, primary: &Pool, scan: &Scan) -> Option<ScanPage> {
        let next = scan.after.saturating_add(1);
        // Who is nearly live would only lose time.
        if self.last.load(Ordering::Relaxed) < next {
            return self.missed("behind");
        }
        let extent = self.begin(primary).await?;
        let through = scan.through.map_or(extent.bounds.last, |through| through.min(extent.bounds.last));
        let work = move |connection: &mut Connection, scan: &mut Scan, found: LogBounds| {
            scan::scan(connection, &Scan { through: Some(through.min(found.last)), ..scan.clone() })
        };
        let has_some = move |found: LogBounds| found.last >= next;
        let (page, _) = self.ask(extent, (has_some, Duration::ZERO), scan.clone(), work).await?;
        Some(self.served(page))
    }

    /// Looks whether the replica can be read and how far it is.
    pub async fn look(&self, primary: &Pool) {
        // While the primary is away, nothing is read from the replica either.
        let Some(extent) = self.primary.learn(primary).await else { return };
        match self.pool.run((), |connection, ()| identity::extent(connection)).await {
            Ok((found, ())) if found.is_of(&extent) => {
                let last = found.bounds.last;
                let lag = (extent.bounds.last - last).max(0);
                self.last.store(last, Ordering::Relaxed);
                self.is_level.fetch_or(lag == 0, Ordering::Relaxed);
                self.metrics.replica_up.set(1);
                self.metrics.replica_lag.set(lag);
                if self.health.replica.set_up(lag) {
                    log::info!(last_id = last, lag_events = lag; "the replica of the store is read");
                }
            }
            Ok(_) => self.failed(&another_log()),
            Err(Failed { error, .. }) if error.kind == StoreErrorKind::Busy => {}
            Err(Failed { error, .. }) => self.failed(&error),
        }
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// How far the log goes that a read must see. None: the replica is not to be asked.
    async fn begin(&self, primary: &Pool) -> Option<LogExtent> {
        if !self.health.replica.is_up() {
            return self.missed("down");
        }
        match self.primary.learn(primary).await {
            None => self.missed("primary_away"),
            extent => extent,
        }
    }

    /// Does `work` on a connection that has the primary's log and of it what is needed, perhaps within the given time;
    /// `work` is also given how far it goes there.
    async fn ask<S: Send + 'static, T: Send + 'static>(
        &self,
        primary: LogExtent,
        (has_needed, patience): (impl Fn(LogBounds) -> bool + Send + 'static, Duration),
        state: S,
        work: impl Fn(&mut Connection, &mut S, LogBounds) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<(T, S)> {
        let is_level = Arc::clone(&self.is_level);
        // Each time: the connection may be another one, to another replica.
        let look_and_work = move |connection: &mut Connection, state: &mut S| {
            let begun = Instant::now();
            loop {
                let found = identity::extent(connection)?;
                if !found.is_of(&primary) {
                    return Err(another_log());
                }
                let (last, is_there) = (found.bounds.last, has_needed(found.bounds));
                if is_there {
                    is_level.store(true, Ordering::Relaxed);
                    return Ok((last, Some(work(connection, state, found.bounds)?)));
                }
                if begun.elapsed() >= patience || !is_level.load(Ordering::Relaxed) {
                    is_level.store(false, Ordering::Relaxed);
                    return Ok((last, None));
                }
                std::thread::sleep(LEVELLING / 10);
            }
        };
        match self.pool.run(state, look_and_work).await {
            Ok(((last, done), state)) => {
                self.last.store(last, Ordering::Relaxed);
                match done {
                    Some(done) => Some((done, state)),
                    None => self.missed("behind"),
                }
            }
            Err(Failed { error, .. }) if error.kind == StoreErrorKind::Busy => self.missed("busy"),
            Err(Failed { error, .. }) => {
                self.failed(&error);
                self.missed("failed")
            }
        }
    }

    /// It is not asked until it can be read again.
    fn failed(&self, error: &StoreError) {
        self.metrics.replica_up.set(0);
        if self.health.replica.set_down(error.as_last_error()) {
            log::warn!(reason = error.kind.as_str(), error:%; "the replica of the store cannot be read, the primary is");
        }
    }

    fn served<T>(&self, page: T) -> T {
        self.metrics.replica_reads.with_label_values(&["served"]).inc();
        page
    }

    fn missed<T>(&self, outcome: &str) -> Option<T> {
        self.metrics.replica_reads.with_label_values(&[outcome]).inc();
        None
    }
}

fn another_log() -> StoreError {
    StoreError::new(StoreErrorKind::Unusable, "it has another log than the primary: name a replica of that one")
}

/// How far the primary's log goes. Who begins to ask while others do shares the next question with them: the answer to
/// one that is under way may be older than what its reader must see.
#[derive(Default)]
struct PrimaryExtent {
    /// How many have asked.
    asked: AtomicU64,
    answer: Mutex<Answer>,
}

/// An answer of the primary; none if it gave none.
#[derive(Default)]
struct Answer {
    /// Those who had asked before the question began.
    covers: u64,
    extent: Option<LogExtent>,
}

impl PrimaryExtent {
    async fn learn(&self, primary: &Pool) -> Option<LogExtent> {
        let place = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answer = self.answer.lock().await;
        if answer.covers <= place {
            let covers = self.asked.load(Ordering::SeqCst);
            let question = primary.run((), |connection, ()| identity::extent(connection));
            let extent = timeout(PATIENCE, question).await.ok().and_then(Result::ok).map(|(extent, ())| extent);
            *answer = Answer { covers, extent };
        }
        answer.extent
    }
}
