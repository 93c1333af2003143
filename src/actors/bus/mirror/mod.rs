//! The mirror of all entities in Redis: a follower of the log, whose position stands in Redis beside the data (MI-2).
//!
//! A page of the log says which entities have changed; what is written is read from the store then (MI-1), so it does not
//! matter how often it is done, or how late. Beside that, a new mirror is filled in the order of types and keys, and an
//! old one is compared with the store from time to time: both in small steps, between which the log is followed.
//!
//! The position that the store has is how far the mirror is known to have come: what retention waits for.

mod check;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;

use self::check::Check;
use super::BusParts;
use super::standing::Standing;
use crate::actors::follower::{Fold, Follower, Following};
use crate::bus::mirror::{self, MirrorBatch, MirrorEntry, Written};
use crate::bus::{BusError, Link};
use crate::domain::entity::{EntityId, EntityType};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::lease::{Fence, LeaseName};
use crate::domain::log::RESTORED;
use crate::domain::mirror::{FOLLOWER, Rebuild, Stand, Todo, resume};
use crate::protocol::mirror::mirror_text;
use crate::runtime::stop::Stop;
use crate::storage::{EntityQuery, EntityRecord, FollowPage, Reader, Write};

/// The name of the part.
pub const PART: &str = "mirror";
/// Another one, that fails alone: keys of entities are in use for something else.
const KEYS: &str = "mirror keys";
/// Most entities that are read and written at once, and about the most bytes of values.
const STEP: (usize, usize) = (512, 1 << 20);

/// How often it is looked whether the mirror is still there, whatever happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What operators are told of it.
#[derive(Debug, Default)]
pub struct Mirroring {
    /// Notified when there may be events.
    pub wake: Arc<Notify>,
    following: Arc<Following>,
    doing: AtomicU8,
    written: AtomicU64,
    mended: AtomicU64,
}

const DOING: [&str; 3] = ["following", "filling", "comparing"];

impl Mirroring {
    pub fn describe(&self) -> Value {
        let Self { wake: _, following, doing, written, mended } = self;
        let mut described = following.describe();
        described["doing"] = following.is_held().then(|| DOING[usize::from(doing.load(Relaxed)) % 3]).into();
        described["written"] = written.load(Relaxed).into();
        described["mended"] = mended.load(Relaxed).into();
        described
    }
}

/// See the module.
pub struct Mirror {
    follower: Follower,
    keeper: Keeper,
}

impl Mirror {
    pub fn new(parts: &BusParts, standing: Standing, stop: Stop, mirroring: Arc<Mirroring>) -> Self {
        let follower = Follower {
            candidate: parts.candidate(LeaseName::mirror(), FOLLOWER.to_owned(), stop),
            reader: parts.reader.clone(),
            log: Arc::clone(&parts.position),
            store: Arc::clone(&parts.health.store),
            wake: Arc::clone(&mirroring.wake),
            following: Arc::clone(&mirroring.following),
            metrics: Arc::clone(&parts.metrics),
        };
        let check_at = Instant::now() + parts.mirror.check_every.get();
        Self { follower, keeper: Keeper { parts: parts.clone(), standing, mirroring, tenure: None, check_at } }
    }

    /// Keeps the mirror until it is to stop, or Redis fails.
    pub async fn run(&mut self) -> Result<(), BusError> {
        let ended = self.follower.run(&mut self.keeper).await;
        self.keeper.tenure = None;
        ended
    }
}

struct Keeper {
    parts: BusParts,
    standing: Standing,
    mirroring: Arc<Mirroring>,
    tenure: Option<Tenure>,
    /// When the mirror is compared with the store. A comparison that was cut off is made soon, and not too soon.
    check_at: Instant,
}

/// What the writer of the mirror has.
struct Tenure {
    link: Link,
    /// Its name in Redis, unlike that of any other.
    writer: String,
    /// What stands there.
    stand: Stand,
    check: Check,
    /// When there is more to do beside following the log.
    step_at: Instant,
    look_at: Instant,
}

impl Fold for Keeper {
    type Error = BusError;

    /// Takes the mirror over. It goes on where Redis says, or begins at the end of the log and is filled.
    async fn begin(&mut self, _: Option<EventId>, reader: &Reader) -> Result<Option<EventId>, BusError> {
        self.tenure = None;
        let Some(log) = self.parts.position.log_id() else { return Ok(None) };
        let mut link = self.parts.redis.connect().await?;
        // A server that hangs takes the connection, and would do later whatever was sent in vain.
        link.ping().await?;
        if !self.parts.cluster.may_act() {
            return Ok(None);
        }
        let writer = format!("{:032x}", rand::random::<u128>());
        let stand = mirror::take_over(&mut link, &writer).await?;
        let Ok(bounds) = reader.bounds().await else { return Ok(None) };
        let now = Instant::now();
        self.check_at = self.check_at.max(now + check::AGAIN.min(self.parts.mirror.check_every.get()));
        let resumed = resume(&stand, log, bounds);
        self.tenure = Some(Tenure { link, writer, stand, check: Check::default(), step_at: now, look_at: now });
        match resumed {
            Ok(after) => Ok(Some(after)),
            Err(reason) => {
                self.told_of(reason);
                let stand = Stand { log: Some(log), position: Some(bounds.last), todo: Todo::Fill(None) };
                Ok(self.write(Vec::new(), stand, true).await?.map(|()| bounds.last))
            }
        }
    }

    /// Writes what the entities are by now that a page has changed. Nothing is written to the store but the position.
    async fn fold(&mut self, page: &FollowPage, _: &Fence) -> Result<Option<Vec<Write>>, BusError> {
        let Some(tenure) = &mut self.tenure else { return Ok(None) };
        let mut changed: Vec<EntityId> = page.events.iter().filter_map(changed).collect();
        changed.sort_unstable();
        changed.dedup();
        changed.iter().for_each(|id| tenure.check.changed(id));
        let is_being_built = tenure.stand.todo != Todo::Nothing;
        let mut stand = Stand { position: Some(page.through), ..tenure.stand.clone() };
        let is_set_back = page.events.iter().any(|event| event.name.as_str() == RESTORED);
        if is_set_back || page.missed > 0 {
            (stand.todo, tenure.check) = (Todo::Fill(None), Check::default());
            self.told_of(if is_set_back { Rebuild::SetBack } else { Rebuild::Trimmed });
        }
        Ok(self.put(&changed, stand, is_being_built).await?.map(|()| Vec::new()))
    }

    async fn beside(&mut self, _: &Fence, _: Timestamp) -> Result<Option<Duration>, BusError> {
        let now = Instant::now();
        let Some(tenure) = &mut self.tenure else { return Ok(None) };
        if now >= tenure.look_at {
            tenure.look_at = now + LOOK_INTERVAL;
            let stand = tenure.stand.clone();
            if self.write(Vec::new(), stand, true).await?.is_none() {
                return Ok(None);
            }
        }
        let Some(tenure) = &self.tenure else { return Ok(None) };
        let is_due = now >= tenure.step_at;
        let (doing, looked_at) = match &tenure.stand.todo {
            Todo::Nothing if now < self.check_at => {
                self.mirroring.doing.store(0, Relaxed);
                return Ok(Some(self.check_at - now));
            }
            Todo::Fill(after) => {
                let after = after.clone();
                (1, if is_due { self.fill(after).await? } else { Some(0) })
            }
            Todo::Nothing | Todo::Compare => (2, if is_due { self.compare().await? } else { Some(0) }),
        };
        self.mirroring.doing.store(doing, Relaxed);
        let (Some(looked_at), Some(tenure)) = (looked_at, &mut self.tenure) else { return Ok(None) };
        if is_due {
            tenure.step_at = now + Duration::from_secs_f64(looked_at as f64 / f64::from(self.parts.mirror.rate));
        }
        Ok(Some(tenure.step_at.saturating_duration_since(Instant::now())))
    }

    fn calm(&self) {
        self.standing.up(PART);
        if !self.mirroring.following.is_held() {
            self.standing.up(KEYS);
        }
    }
}

impl Keeper {
    fn told_of(&self, reason: Rebuild) {
        log::info!(reason = reason.as_str(); "the mirror in redis is filled anew");
        self.parts.metrics.mirror_rebuilt.with_label_values(&[reason.as_str()]).inc();
    }

    /// Writes the next entities of a mirror that is being filled. Returns how many.
    async fn fill(&mut self, after: Option<EntityId>) -> Result<Option<usize>, BusError> {
        let Some(tenure) = &self.tenure else { return Ok(None) };
        let mut stand = tenure.stand.clone();
        let (limit, max_bytes) = STEP;
        let query = |kind, after| EntityQuery { kind, prefix: String::new(), after, limit, max_bytes };
        let reader = &self.parts.reader;
        let (mut kind, mut found) = (None, Vec::new());
        if let Some(EntityId { kind: of, key }) = after {
            let Ok(page) = reader.entities(query(of.clone(), Some(key.to_string()))).await else { return Ok(None) };
            (kind, found) = (Some(of), page.entities);
        }
        if found.is_empty() {
            let Ok(next) = reader.next_type(kind).await else { return Ok(None) };
            kind = next;
            if let Some(kind) = &kind {
                let Ok(page) = reader.entities(query(kind.clone(), None)).await else { return Ok(None) };
                found = page.entities;
            }
        }
        let count = found.len();
        let Some(kind) = kind else {
            stand.todo = Todo::Compare;
            return Ok(self.write(Vec::new(), stand, true).await?.map(|()| 0));
        };
        let Some(last) = found.last() else { return Ok(Some(0)) };
        stand.todo = Todo::Fill(Some(EntityId { kind: kind.clone(), key: last.key.clone() }));
        let of =
            |record: EntityRecord| entry(EntityId { kind: kind.clone(), key: record.key.clone() }, Some(record), 0);
        Ok(self.write(found.into_iter().map(of).collect(), stand, true).await?.map(|()| count))
    }

    /// Writes what the store has of these entities, and in the end `stand`.
    async fn put(&mut self, mut ids: &[EntityId], stand: Stand, replaces: bool) -> Result<Option<()>, BusError> {
        loop {
            let step = ids[..ids.len().min(STEP.0)].to_vec();
            let Ok(records) = self.parts.reader.records(step, STEP.1).await else { return Ok(None) };
            ids = &ids[records.len()..];
            let through = stand.position.unwrap_or(0);
            let entries = records.into_iter().map(|(id, record)| entry(id, record, through)).collect();
            let Some(tenure) = &self.tenure else { return Ok(None) };
            let after = if ids.is_empty() { &stand } else { &tenure.stand };
            if self.write(entries, after.clone(), replaces).await?.is_none() || ids.is_empty() {
                return Ok(self.tenure.as_ref().map(drop));
            }
        }
    }

    /// Writes these. None: it may not act, or the mirror is gone.
    async fn write(&mut self, entries: Vec<MirrorEntry>, stand: Stand, replaces: bool) -> Result<Option<()>, BusError> {
        // A process that was frozen may have lost the lease.
        let Some(tenure) = self.tenure.as_mut().filter(|_| self.parts.cluster.may_act()) else { return Ok(None) };
        let count = entries.len() as u64;
        let before = tenure.stand.position;
        let batch = MirrorBatch { writer: &tenure.writer, before, stand: &stand, replaces, entries };
        match mirror::write(&mut tenure.link, &batch).await? {
            Written::Done { blocked } => {
                tenure.stand = stand;
                if blocked > 0 {
                    self.standing.down(KEYS, &BusError::wrong_type(blocked as u64));
                }
                self.mirroring.written.fetch_add(count, Relaxed);
                self.parts.metrics.mirror_written.inc_by(count);
                Ok(Some(()))
            }
            Written::Gone => {
                self.tenure = None;
                Ok(None)
            }
            Written::Displaced => Err(BusError::displaced("the mirror")),
        }
    }
}

/// The entity that an event has changed, if it has changed one.
fn changed(event: &Event) -> Option<EntityId> {
    let kind = EntityType::of_change(&event.name)?;
    let key = event.key.as_deref()?.strip_prefix(kind.as_str())?.strip_prefix(':')?;
    crate::domain::mirror::entity(kind.as_str(), key)
}

/// What is to stand for an entity. One that nothing is known of was deleted, by the event `through` at the latest.
fn entry(id: EntityId, record: Option<EntityRecord>, through: EventId) -> MirrorEntry {
    match record {
        None => MirrorEntry { id, version: through, text: None },
        Some(EntityRecord { version, value, updated_at, .. }) => {
            MirrorEntry { id, version, text: value.map(|value| mirror_text(version, &value, updated_at)) }
        }
    }
}
