//! Replay jobs: redrives and replays of many deliveries, a bounded step at a time.

use diesel::dsl::sql;
use diesel::sql_types::Bool;
use diesel::{ExpressionMethods as _, JoinOnDsl as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::delivery::DeliveryState;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;
use crate::domain::priority::Lane;
use crate::domain::routes::{Route, Routes, ServiceId};
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::{StoreError, StoreErrorKind};
use crate::storage::position;
use crate::storage::scan::{self, Scan};
use crate::storage::schema::{deliveries, delivery_jobs, events};

/// Open deliveries of replay jobs for one service, at most. So few hardly delay live traffic.
const MAX_OPEN: i64 = 256;
/// Bytes of events that one step reads, at most.
const STEP_BYTES: usize = 4 * 1024 * 1024;
/// Rows that one step of a count reads, at most.
const COUNT_ROWS: usize = 256;

/// What a replay job delivers again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayJobKind {
    /// Dead deliveries.
    Redrive,
    /// Events, whether they were delivered before or not.
    Replay,
}

impl ReplayJobKind {
    /// The name in the store and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Replay => "replay",
        }
    }
}

/// The state of a replay job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayJobState {
    Running,
    Done,
    Cancelled,
}

impl ReplayJobState {
    /// The name in the store and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A replay job that is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReplayJob {
    pub kind: ReplayJobKind,
    pub service: ServiceId,
    /// Events that match any of these; all events if empty.
    pub patterns: Vec<Pattern>,
    /// Inclusive.
    pub from: EventId,
    /// Inclusive.
    pub through: EventId,
}

/// A replay job as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayJob {
    pub id: i64,
    pub job: NewReplayJob,
    /// The next event to look at. It is beyond `job.through` when the job is done.
    pub next_id: EventId,
    /// Deliveries made open again so far.
    pub touched: i64,
    pub state: ReplayJobState,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Stores a new job, which ends with the present end of the log. Returns its number.
pub(in crate::storage) fn start_replay_job(
    connection: &mut Connection,
    job: &NewReplayJob,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let through = job.through.min(position::bounds(connection)?.last);
    create_replay_job(connection, &NewReplayJob { through, ..job.clone() }, now)
}

/// Stores a new job. Returns its number.
pub(super) fn create_replay_job(
    connection: &mut Connection,
    job: &NewReplayJob,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let last = delivery_jobs::table.select(delivery_jobs::id).order(delivery_jobs::id.desc()).limit(1);
    let last: Option<i64> = on_backend!(connection, c => last.first(c).optional())?;
    let id = last.unwrap_or(0) + 1;
    let texts: Vec<&str> = job.patterns.iter().map(Pattern::as_str).collect();
    let patterns =
        serde_json::to_string(&texts).map_err(|error| StoreError::new(StoreErrorKind::Internal, error.to_string()))?;
    let row = (
        delivery_jobs::id.eq(id),
        delivery_jobs::kind.eq(job.kind.as_str()),
        delivery_jobs::service.eq(job.service),
        delivery_jobs::patterns.eq(patterns),
        delivery_jobs::next_id.eq(job.from),
        delivery_jobs::through_id.eq(job.through),
        delivery_jobs::state.eq(ReplayJobState::Running.as_str()),
        delivery_jobs::created_at.eq(now.0),
        delivery_jobs::updated_at.eq(now.0),
    );
    on_backend!(connection, c => diesel::insert_into(delivery_jobs::table).values(row).execute(c))?;
    Ok(id)
}

/// Stops a running job; deliveries that it has opened stay open. Returns whether it was running.
pub(in crate::storage) fn cancel_replay_job(
    connection: &mut Connection,
    id: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let running = delivery_jobs::table.find(id).filter(delivery_jobs::state.eq(ReplayJobState::Running.as_str()));
    let update = diesel::update(running)
        .set((delivery_jobs::state.eq(ReplayJobState::Cancelled.as_str()), delivery_jobs::updated_at.eq(now.0)));
    Ok(on_backend!(connection, c => update.execute(c))? > 0)
}

type Row = (i64, String, ServiceId, String, i64, i64, i64, String, i64, i64);

/// Finds a job by its number.
pub(in crate::storage) fn replay_job(connection: &mut Connection, id: i64) -> Result<Option<ReplayJob>, StoreError> {
    let query = delivery_jobs::table.find(id);
    let row: Option<Row> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(row.map(read))
}

/// The jobs, the newest first. With `running`, only those that run.
pub(in crate::storage) fn replay_jobs(
    connection: &mut Connection,
    running: bool,
    limit: usize,
) -> Result<Vec<ReplayJob>, StoreError> {
    let query = delivery_jobs::table.order(delivery_jobs::id.desc()).limit(limit as i64);
    let rows: Vec<Row> = if running {
        let query = query.filter(delivery_jobs::state.eq(ReplayJobState::Running.as_str()));
        on_backend!(connection, c => query.load(c))?
    } else {
        on_backend!(connection, c => query.load(c))?
    };
    Ok(rows.into_iter().map(read).collect())
}

fn read((id, kind, service, patterns, next_id, through, touched, state, created_at, updated_at): Row) -> ReplayJob {
    let texts: Vec<String> = serde_json::from_str(&patterns).unwrap_or_default();
    let kind = if kind == ReplayJobKind::Redrive.as_str() { ReplayJobKind::Redrive } else { ReplayJobKind::Replay };
    let states = [ReplayJobState::Running, ReplayJobState::Cancelled];
    ReplayJob {
        id,
        job: NewReplayJob {
            kind,
            service,
            patterns: texts.into_iter().filter_map(|text| Pattern::parse(text).ok()).collect(),
            from: next_id,
            through,
        },
        next_id,
        touched,
        state: states.into_iter().find(|s| s.as_str() == state).unwrap_or(ReplayJobState::Done),
        created_at: Timestamp(created_at),
        updated_at: Timestamp(updated_at),
    }
}

/// How many deliveries one step of a job has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Renewed {
    /// All of them.
    pub open: i64,
    /// Those of them that were dead before.
    pub dead: i64,
}

/// Opens a bounded number of deliveries again. Returns `None` if too many of earlier steps are still open.
///
/// A replay leaves out events that the service's own route does not allow. The transaction must hold the writer's lock.
pub(in crate::storage) fn replay_step(
    connection: &mut Connection,
    job: &ReplayJob,
    routes: &Routes,
    now: Timestamp,
) -> Result<Option<Renewed>, StoreError> {
    let service = job.job.service;
    let open = deliveries::table
        .filter(sql::<Bool>("state = 1 AND state <> 2 AND lane = 3"))
        .filter(deliveries::service.eq(service))
        .count();
    let open: i64 = on_backend!(connection, c => open.get_result(c))?;
    let room = usize::try_from(MAX_OPEN - open).unwrap_or(0);
    if room == 0 {
        return Ok(None);
    }
    let (found, next_id) = find(connection, &job.job, routes.of(service), room)?;
    let mut renewed = Renewed::default();
    for (event_id, key) in found {
        if let Some(was) = renew(connection, service, event_id, key, job.job.kind, now)? {
            renewed.open += 1;
            renewed.dead += i64::from(was == Some(DeliveryState::Dead));
        }
    }
    let state = if next_id > job.job.through { ReplayJobState::Done } else { ReplayJobState::Running };
    let running = delivery_jobs::table.find(job.id).filter(delivery_jobs::state.eq(ReplayJobState::Running.as_str()));
    let update = diesel::update(running).set((
        delivery_jobs::next_id.eq(next_id),
        delivery_jobs::touched.eq(delivery_jobs::touched + renewed.open),
        delivery_jobs::state.eq(state.as_str()),
        delivery_jobs::updated_at.eq(now.0),
    ));
    on_backend!(connection, c => update.execute(c))?;
    Ok(Some(renewed))
}

type Found = Vec<(EventId, Option<String>)>;

/// The next deliveries that `job` would open, and the id after which it goes on.
fn find(
    connection: &mut Connection,
    job: &NewReplayJob,
    route: Option<&Route>,
    max_rows: usize,
) -> Result<(Found, EventId), StoreError> {
    match job.kind {
        ReplayJobKind::Redrive => dead(connection, job, max_rows),
        ReplayJobKind::Replay => matching(connection, job, route, max_rows),
    }
}

/// A count, under way, of the deliveries that a job would open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    /// The part of the job that was not counted yet.
    pub job: NewReplayJob,
    /// A replay does not count events that this route does not allow.
    pub route: Option<Route>,
    pub count: usize,
}

impl Counting {
    /// A count that has not begun.
    pub fn new(job: NewReplayJob, route: Option<Route>) -> Self {
        Self { job, route, count: 0 }
    }

    /// Whether `count` covers the whole job.
    pub fn is_complete(&self) -> bool {
        self.job.from > self.job.through
    }

    /// Counts a bounded number of rows.
    pub(in crate::storage) fn step(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        let (found, next_id) = find(connection, &self.job, self.route.as_ref(), COUNT_ROWS)?;
        self.count += found.len();
        self.job.from = next_id;
        Ok(())
    }
}

/// The next dead deliveries of the job, and the id after which it goes on.
fn dead(connection: &mut Connection, job: &NewReplayJob, max_rows: usize) -> Result<(Found, EventId), StoreError> {
    let mut found: Vec<(i64, Option<String>, String)> = Vec::new();
    for lane in Lane::ALL {
        let query = deliveries::table
            .inner_join(events::table.on(events::id.eq(deliveries::event_id)))
            .filter(sql::<Bool>("deliveries.state = 3 AND deliveries.state <> 2"))
            .filter(deliveries::service.eq(job.service))
            .filter(deliveries::lane.eq(lane as i16))
            .filter(deliveries::event_id.ge(job.from))
            .filter(deliveries::event_id.le(job.through))
            .order(deliveries::event_id)
            .limit(max_rows as i64)
            .select((deliveries::event_id, deliveries::key, events::name));
        let rows: Vec<(i64, Option<String>, String)> = on_backend!(connection, c => query.load(c))?;
        found.extend(rows);
    }
    found.sort_unstable_by_key(|(id, ..)| *id);
    let next_id = match found.get(max_rows) {
        Some((id, ..)) => *id,
        None if found.len() == max_rows => found.last().map_or(job.through, |(id, ..)| *id) + 1,
        None => job.through.saturating_add(1),
    };
    found.truncate(max_rows);
    let patterns = &job.patterns;
    let wanted = |name: &str| {
        let name = EventName::from_store(name.to_owned());
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&name))
    };
    let found = found.into_iter().filter(|(_, _, name)| wanted(name)).map(|(id, key, _)| (id, key)).collect();
    Ok((found, next_id))
}

/// The next events of the job, and the id after which it goes on.
fn matching(
    connection: &mut Connection,
    job: &NewReplayJob,
    route: Option<&Route>,
    max_rows: usize,
) -> Result<(Found, EventId), StoreError> {
    let page = scan::scan(
        connection,
        &Scan {
            after: job.from - 1,
            through: Some(job.through),
            patterns: if job.patterns.is_empty() {
                Pattern::parse(">".to_owned()).into_iter().collect()
            } else {
                job.patterns.clone()
            },
            max_events: max_rows,
            max_bytes: STEP_BYTES,
        },
    )?;
    // If the log ends before the job does, the job is done.
    let ended = page.events.is_empty() && page.scanned_through < job.from;
    let next_id = if ended { job.through.saturating_add(1) } else { page.scanned_through + 1 };
    let wanted = page.events.into_iter().filter(|event| route.is_none_or(|route| route.allows_replay_of(event)));
    Ok((wanted.map(|event| (event.id, event.key.map(String::from))).collect(), next_id))
}

/// Opens one delivery again. Returns its former state, if it existed, or `None` if it was open or a redrive did not
/// find it.
fn renew(
    connection: &mut Connection,
    service: ServiceId,
    event_id: EventId,
    key: Option<String>,
    kind: ReplayJobKind,
    now: Timestamp,
) -> Result<Option<Option<DeliveryState>>, StoreError> {
    let was = deliveries::table.find((event_id, service)).select(deliveries::state);
    let was: Option<i16> = on_backend!(connection, c => was.first(c).optional())?;
    let was = was.and_then(DeliveryState::from_store);
    let anew = (
        deliveries::state.eq(DeliveryState::Retrying as i16),
        deliveries::lane.eq(Lane::Replay as i16),
        deliveries::due_at.eq(now.0),
    );
    match (was, kind) {
        (Some(DeliveryState::Waiting | DeliveryState::Retrying), _) | (None, ReplayJobKind::Redrive) => {
            return Ok(None);
        }
        (Some(DeliveryState::Delivered | DeliveryState::Dead), _) => {
            let settled = deliveries::table.find((event_id, service));
            let update = diesel::update(settled).set((anew, deliveries::spent.eq(deliveries::attempts)));
            on_backend!(connection, c => update.execute(c))?;
        }
        (None, ReplayJobKind::Replay) => {
            let row =
                (deliveries::event_id.eq(event_id), deliveries::service.eq(service), deliveries::key.eq(key), anew);
            on_backend!(connection, c => diesel::insert_into(deliveries::table).values(row).execute(c))?;
        }
    }
    Ok(Some(was))
}
