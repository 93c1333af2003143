//! Ingest: the entries of a Redis stream become events.
//!
//! - *IN-1* An entry is acknowledged after its commit, or when it is in the stream of what was refused.
//! - *IN-2* The holder of the lease alone reads, and goes on from the position that is stored with the events. What an
//!   earlier one was given and has not stored comes again, in order.
//! - *IN-3* An entry that is read again is stored once: its id and content are its idempotency key.
//! - *IN-4* One batch is in hand, and none is read while the store is away or the backlog is full.
//! - *IN-5* An entry that is refused in maintenance stops the reading: it, and what comes after it, is read again afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::BusParts;
use super::standing::Standing;
use crate::actors::clock::scheduling;
use crate::actors::follower::tenure::{Candidate, PAUSE, Renewal, Tenure};
use crate::bus::{BusError, Link, Refused, Stream};
use crate::domain::event::{Admission, Append, AppendOutcome};
use crate::domain::ingest::{BatchSize, Entry, EntryId, begin};
use crate::domain::lease::{Fence, LeaseName};
use crate::protocol::error::ApiError;
use crate::protocol::outcome::told;
use crate::protocol::stream_entry::parse_entry;
use crate::runtime::stop::Stop;
use crate::storage::{Outcome, Write};

/// The name of the part.
pub const PART: &str = "ingest";
/// Another one, that fails alone: what was refused cannot be written there.
const DEAD: &str = "ingest of what was refused";
/// How long a read waits for the first entry.
const BLOCK: Duration = Duration::from_millis(500);
/// After what was refused in maintenance, the shortest time until it is read again.
const STOP: Duration = Duration::from_millis(250);
/// The longest time between two looks for entries that nobody acknowledges.
const CLAIM_INTERVAL: Duration = Duration::from_secs(5);

/// What operators are told of it.
#[derive(Debug, Default)]
pub struct Reading {
    is_held: AtomicBool,
    entries: AtomicU64,
    refused: AtomicU64,
    batch_size: AtomicU64,
    is_stopped: AtomicBool,
}

impl Reading {
    pub fn describe(&self) -> Value {
        let Self { is_held, entries, refused, batch_size, is_stopped } = self;
        json!({
            "is_held": is_held.load(Relaxed),
            "entries": entries.load(Relaxed),
            "refused": refused.load(Relaxed),
            "batch_size": batch_size.load(Relaxed),
            "stopped_by_maintenance": is_stopped.load(Relaxed),
        })
    }
}

/// See the module.
pub struct Ingest {
    parts: BusParts,
    stream: Stream,
    candidate: Candidate,
    standing: Standing,
    reading: Arc<Reading>,
    size: BatchSize,
    /// When an entry could not be buried last.
    unburied_at: Option<Instant>,
    /// When an entry was refused in maintenance, if nothing is read since.
    stopped_at: Option<Instant>,
}

/// Which entries are read that were given to somebody before. Those after `start` come as new ones.
struct Earlier {
    start: EntryId,
    /// Own ones after this; none once all were read.
    pending: Option<EntryId>,
    /// Anybody's from this one on.
    claim: EntryId,
    claim_at: Instant,
}

impl Ingest {
    pub fn new(parts: &BusParts, standing: Standing, stop: Stop, reading: Arc<Reading>) -> Self {
        let stream = Stream::new(parts.ingest.clone(), parts.cluster.name());
        let candidate = parts.candidate(LeaseName::ingest(), format!("ingest:{}", stream.name()), stop);
        let (size, unburied_at, stopped_at) = (BatchSize::default(), None, None);
        Self { parts: parts.clone(), stream, candidate, standing, reading, size, unburied_at, stopped_at }
    }

    /// Reads until it is to stop, or Redis fails. Whatever is doubtful begins anew from what is stored.
    pub async fn run(&mut self) -> Result<(), BusError> {
        let stop = self.candidate.stop.clone();
        loop {
            self.reading.is_held.store(false, Relaxed);
            // Another node reads: all is well here.
            let elsewhere = || self.standing.up(PART);
            let Some(held) = self.candidate.wait(|| self.parts.may_take(), elsewhere).await else { return Ok(()) };
            let redis = self.parts.redis.clone();
            let links = async { tokio::try_join!(redis.connect(), redis.connect()) };
            let Some(links) = stop.or(links).await else { return Ok(()) };
            if self.follow(held, links?).await?.is_none() || stop.or(tokio::time::sleep(PAUSE)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads as the holder of the lease, for as long as it is that and the store takes what is read. None: it is to stop.
    async fn follow(
        &mut self,
        mut held: Tenure,
        (mut reader, mut commands): (Link, Link),
    ) -> Result<Option<()>, BusError> {
        let stop = self.candidate.stop.clone();
        let position = held.position.as_deref().and_then(EntryId::parse);
        let start = begin(position, self.stream.last(&mut commands).await?);
        self.stream.place_group(&mut commands, start).await?;
        log::info!(stream = self.stream.name(), after:% = start; "reading a redis stream");
        self.standing.up(PART);
        self.reading.is_held.store(true, Relaxed);
        let claim_at = Instant::now() + self.claim_interval();
        let mut earlier = Earlier { start, pending: Some(EntryId::ZERO), claim: EntryId::ZERO, claim_at };
        loop {
            match self.candidate.renew(&mut held).await {
                Some(Renewal::Held) => {}
                Some(Renewal::Wanted) => return Ok(self.candidate.hand_over(held).await),
                Some(Renewal::Lost) => return Ok(Some(())),
                None => return Ok(None),
            }
            if self.stopped_at.is_some() && !self.is_stopped() {
                // What was given and not stored comes again.
                return Ok(Some(()));
            }
            if self.stopped_at.is_some() || !self.parts.may_take() || !self.candidate.may_act(&held) {
                self.size = BatchSize::default();
                if stop.or(tokio::time::sleep(PAUSE)).await.is_none() {
                    return Ok(None);
                }
                continue;
            }
            // It is brought to its end: what Redis has given out would be in nobody's hands.
            let (entries, is_new) = self.read(&mut reader, &mut earlier).await.inspect_err(|_| self.size.failed())?;
            self.size.came(entries.len(), entries.iter().map(Entry::bytes).sum());
            self.reading.batch_size.store(self.size.get() as u64, Relaxed);
            if !entries.is_empty() && self.take(entries, is_new, &held.fence, &mut commands).await?.is_none() {
                return Ok(Some(()));
            }
        }
    }

    /// Whether nothing is read because of maintenance.
    fn is_stopped(&mut self) -> bool {
        self.stopped_at = self.stopped_at.filter(|at| at.elapsed() < STOP || self.parts.system.is_in_maintenance());
        self.reading.is_stopped.store(self.stopped_at.is_some(), Relaxed);
        self.stopped_at.is_some()
    }

    /// The next entries, and whether nobody was given them before.
    async fn read(&self, link: &mut Link, earlier: &mut Earlier) -> Result<(Vec<Entry>, bool), BusError> {
        let count = self.size.get();
        if let Some(after) = earlier.pending {
            let mut entries = self.stream.read_pending(link, after, count).await?;
            earlier.pending = entries.last().map(|entry| entry.id).filter(|last| *last < earlier.start);
            entries.retain(|entry| entry.id <= earlier.start);
            return Ok((entries, false));
        }
        if Instant::now() >= earlier.claim_at {
            let (next, entries) = self.stream.claim(link, earlier.claim, count).await?;
            earlier.claim = next;
            if next == EntryId::ZERO {
                earlier.claim_at = Instant::now() + self.claim_interval();
                // Whatever could not be buried was claimed and tried again since.
                if self.unburied_at.is_some_and(|at| at.elapsed() > 3 * self.parts.ingest.claim_after.get()) {
                    self.standing.up(DEAD);
                }
            }
            return Ok((entries, false));
        }
        Ok((self.stream.read_new(link, count, BLOCK).await?, true))
    }

    /// How often entries are looked for that nobody acknowledges.
    fn claim_interval(&self) -> Duration {
        CLAIM_INTERVAL.min(self.parts.ingest.claim_after.get() / 2)
    }

    /// Stores what can be an event, and acknowledges it. None: it is not known to be stored.
    async fn take(
        &mut self,
        entries: Vec<Entry>,
        is_new: bool,
        fence: &Fence,
        link: &mut Link,
    ) -> Result<Option<()>, BusError> {
        let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
        let last = ids.last().copied().filter(|_| is_new);
        let (mut appends, mut stored, mut done, mut refused) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            if entry.fields.is_empty() {
                done.push(entry.id);
                self.count("gone", 1);
                continue;
            }
            match parse_entry(&entry, self.stream.name(), &self.parts.rules, scheduling) {
                Ok(append) => {
                    let judgement = Some(self.parts.catalogue.with(|catalogue| catalogue.judge(&append)));
                    appends.push(Append { admission: Admission::InOrder, judgement, ..append });
                    stored.push(entry);
                }
                Err(error) => refused.push(refusal(entry, &error)),
            }
        }
        let Some(outcomes) = self.commit(appends, last, fence).await else { return Ok(None) };
        let (mut new, mut repeated) = (0, 0);
        let stop = outcomes.iter().position(|outcome| *outcome == AppendOutcome::Maintenance).map(|at| stored[at].id);
        for (entry, outcome) in stored.into_iter().zip(outcomes).take_while(|(entry, _)| Some(entry.id) != stop) {
            let error = match outcome {
                outcome if outcome.appends() || outcome.schedules() => {
                    new += 1;
                    done.push(entry.id);
                    continue;
                }
                AppendOutcome::Replayed { .. } | AppendOutcome::Scheduled { .. } => {
                    repeated += 1;
                    done.push(entry.id);
                    continue;
                }
                refusing => told(refusing, false).err(),
            };
            refused.extend(error.map(|error| refusal(entry, &error)));
        }
        if let Some(stop) = stop {
            done.retain(|id| *id < stop);
            refused.retain(|refused: &Refused| refused.entry.id < stop);
            let before = ids.into_iter().rfind(|id| *id < stop).filter(|_| is_new);
            if self.commit(Vec::new(), before, fence).await.is_none() {
                return Ok(None);
            }
            log::info!(stream = self.stream.name(), entry:% = stop; "the system is in maintenance: reading has stopped at an entry that is refused");
            self.stopped_at = Some(Instant::now());
            self.reading.is_stopped.store(true, Relaxed);
        }
        self.count("stored", new);
        self.count("repeated", repeated);
        done.extend(self.bury(&refused, link).await?);
        self.stream.acknowledge(link, &done).await?;
        self.reading.entries.fetch_add(done.len() as u64, Relaxed);
        Ok(Some(()))
    }

    /// Stores the events and how far they go, in one transaction; one outcome for each.
    async fn commit(&self, appends: Vec<Append>, last: Option<EntryId>, fence: &Fence) -> Option<Vec<AppendOutcome>> {
        let _room = self.parts.backlog.occupy(&appends);
        let count = appends.len();
        let moved =
            |last: EntryId| Write::MovePosition { name: self.candidate.position.clone(), position: last.to_string() };
        let writes: Vec<Write> = appends.into_iter().map(Write::Append).chain(last.map(moved)).collect();
        if writes.is_empty() {
            return Some(Vec::new());
        }
        let Some(answer) = self.parts.persistence.commit_all(Some(fence.clone()), writes) else {
            // Its mailbox is full, or it is about to be restarted.
            tokio::time::sleep(PAUSE).await;
            return None;
        };
        // After a failure, what was stored is found by its position and its keys.
        let outcomes: Vec<_> = answer.await.ok()?.ok()?.into_iter().filter_map(Outcome::appended).collect();
        // Fewer: another node has the lease, and nothing of it was written.
        (outcomes.len() == count).then_some(outcomes)
    }

    /// Writes down what was refused. Returns what is there; the rest stays pending, and is tried again when it is
    /// claimed.
    async fn bury(&mut self, refused: &[Refused], link: &mut Link) -> Result<Vec<EntryId>, BusError> {
        let mut buried = Vec::with_capacity(refused.len());
        if refused.is_empty() {
            return Ok(buried);
        }
        let mut failure = None;
        for (refused, answer) in refused.iter().zip(self.stream.bury(link, refused).await?) {
            match answer {
                Ok(()) => buried.push(refused.entry.id),
                Err(error) => failure = Some(error),
            }
        }
        self.count("refused", buried.len() as u64);
        self.reading.refused.fetch_add(buried.len() as u64, Relaxed);
        if let Some(error) = failure {
            self.unburied_at = Some(Instant::now());
            self.standing.down(DEAD, &error);
        } else {
            self.standing.up(DEAD);
        }
        Ok(buried)
    }

    fn count(&self, outcome: &str, entries: u64) {
        self.parts.metrics.ingested.with_label_values(&[outcome]).inc_by(entries);
    }
}

fn refusal(entry: Entry, error: &ApiError) -> Refused {
    log::debug!(entry:% = entry.id, code = error.code().as_str(); "an entry of the redis stream cannot be an event");
    Refused { entry, code: error.code().as_str(), message: error.message().to_owned() }
}
