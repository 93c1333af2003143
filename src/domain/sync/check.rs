//! One comparison of a service with the entities of a type: first the digests, then those buckets that differ.
//!
//! What cannot be judged is asked again, later and later, for a bounded time. What is left then is no difference; it is
//! counted, and the check says nothing for certain.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::judge::{Asked, Compared, Current, Judgement};
use super::{Counts, Kind, Now};
use crate::domain::entity::{Buckets, EntityKey, MAX_BUCKETS, Version};
use crate::domain::event::{EventId, Timestamp};

/// Most differences that are held. With more, the check ends before all buckets are compared.
pub const MAX_HELD: usize = 100_000;
/// Buckets of a small type.
const MIN_BUCKETS: u32 = 256;
/// About so many keys are to be in a bucket.
const KEYS_OF_BUCKET: u64 = 256;
/// Differences that are told with their keys.
const SAMPLE: usize = 10;
/// How long it is asked again, beyond the time in which changes of the service itself settle.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first and the longest pause before a bucket is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// An entity that the service does not have as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub key: EntityKey,
    pub kind: Kind,
    /// The version that the service has.
    pub theirs: Option<Version>,
    pub ours: Current,
    /// The end of the log when the service was asked.
    pub at: EventId,
}

/// The digest of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TheirDigest {
    /// The newest event that it says it has applied.
    pub as_of: Option<EventId>,
    pub buckets: Buckets,
}

/// What a check needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckNeed {
    /// The digest of the service, and afterwards that of the store.
    Digest { buckets: u32 },
    /// The entities of a bucket of the service, and what the store has of those that differ.
    Bucket { bucket: u32, buckets: u32 },
    /// What the store has of the next entities after this key, of a service that has none.
    Page { after: Option<EntityKey> },
    /// Nothing until then.
    Wait(Timestamp),
    /// Nothing more.
    Done,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    pub as_of: Option<EventId>,
    pub lag: i64,
    pub counts: Counts,
    pub sample: Vec<Difference>,
    /// In the order of their keys; none if the service has nothing.
    pub differences: VecDeque<Difference>,
    /// The service has nothing: all entities are missing, and are not among the differences.
    pub is_empty: Option<Asked>,
    /// Keys of which something was on its way each time that the service was asked.
    pub unjudged: u64,
    /// Not all buckets were compared, since there are too many differences.
    pub is_cut: bool,
    /// How many buckets differed.
    pub differing: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Check {
    settle: Duration,
    buckets: u32,
    /// None before the first step.
    ends: Option<Timestamp>,
    step: Step,
    /// The buckets to be asked, by when they are due, each with how often it was asked.
    turns: BTreeMap<(Timestamp, u32), u32>,
    found: BTreeMap<u32, Vec<Difference>>,
    suspects: BTreeMap<u32, HashSet<EntityKey>>,
    held: usize,
    max_held: usize,
    verdict: Verdict,
}

#[derive(Debug)]
enum Step {
    Digest { due: Timestamp, round: u32 },
    Buckets,
    Walk { asked: Asked, after: Option<EntityKey>, round: u32 },
    Done,
}

/// How many buckets a type with so many entities has.
fn buckets_for(count: u64) -> u32 {
    let wanted = count.div_ceil(KEYS_OF_BUCKET).next_power_of_two();
    u32::try_from(wanted).unwrap_or(MAX_BUCKETS).clamp(MIN_BUCKETS, MAX_BUCKETS)
}

fn pause(round: u32) -> Duration {
    PAUSES.0.saturating_mul(1 << round.min(16)).min(PAUSES.1)
}

impl Check {
    /// Compares a type of which the store has about `count` entities. `settle`: how long it takes until the service has
    /// what it has changed itself. With `max_held` differences it ends.
    pub fn new(count: u64, settle: Duration, max_held: usize) -> Self {
        Self {
            settle,
            buckets: buckets_for(count),
            ends: None,
            step: Step::Digest { due: Timestamp(0), round: 0 },
            turns: BTreeMap::new(),
            found: BTreeMap::new(),
            suspects: BTreeMap::new(),
            held: 0,
            max_held,
            verdict: Verdict::default(),
        }
    }

    /// What it needs at `now`, by the steady clock.
    pub fn need(&mut self, now: Timestamp) -> CheckNeed {
        self.ends.get_or_insert_with(|| now.plus(self.settle + PATIENCE));
        match &self.step {
            Step::Digest { due, .. } if *due > now => CheckNeed::Wait(*due),
            Step::Digest { .. } => CheckNeed::Digest { buckets: self.buckets },
            Step::Walk { after, .. } => CheckNeed::Page { after: after.clone() },
            Step::Buckets => match self.turns.keys().next() {
                Some((due, bucket)) if *due <= now => CheckNeed::Bucket { bucket: *bucket, buckets: self.buckets },
                Some((due, _)) => CheckNeed::Wait(*due),
                None => CheckNeed::Done,
            },
            Step::Done => CheckNeed::Done,
        }
    }

    /// The service has answered with its digest, after which the store had `ours` and the log ended with `last`. An
    /// error says why the answer cannot be right.
    pub fn digest(
        &mut self,
        asked: Asked,
        theirs: TheirDigest,
        ours: &Buckets,
        last: EventId,
    ) -> Result<(), &'static str> {
        let TheirDigest { as_of, buckets: theirs } = theirs;
        if as_of.is_some_and(|as_of| as_of > last) {
            return Err("as_of is beyond the end of the log");
        }
        let Step::Digest { round, .. } = self.step else { return Ok(()) };
        // Only a service that has nothing has no digest at all.
        if theirs.count == 0 && theirs.sums.iter().any(|sum| *sum != 0) {
            return Err("a digest of no entities is not zero");
        }
        let differing: Vec<u32> =
            (0..).zip(theirs.sums.iter().zip(&ours.sums)).filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
        if differing.is_empty() && theirs.count != ours.count {
            return Err("the count is not that of the digest");
        }
        self.verdict.as_of = as_of;
        self.verdict.lag = last - as_of.unwrap_or(0);
        self.verdict.differing = differing.len();
        if theirs.count == 0 && ours.count > 0 {
            self.step = Step::Walk { asked, after: None, round };
            return Ok(());
        }
        let better = buckets_for(theirs.count.max(ours.count));
        if better > self.buckets && !differing.is_empty() {
            self.buckets = better;
            return Ok(());
        }
        self.turns = differing.into_iter().map(|bucket| ((Timestamp(0), bucket), 0)).collect();
        self.step = Step::Buckets;
        Ok(())
    }

    /// The service has answered with the entities of the bucket that is needed; of those that differ the store has what
    /// `compared` says.
    pub fn bucket(&mut self, asked: Asked, compared: Vec<Compared>, now: Now) {
        let Some(((_, bucket), round)) = self.turns.pop_first() else { return };
        let earlier = self.suspects.remove(&bucket).unwrap_or_default();
        let replaced = self.found.remove(&bucket).map_or(0, |found| found.len());
        self.held -= earlier.len() + replaced;
        let (mut found, mut suspects, mut waiting) = (Vec::new(), HashSet::new(), 0);
        for compared in compared {
            match compared.judge(asked, now.day, self.settle, earlier.contains(&compared.key)) {
                Judgement::Equal => {}
                Judgement::NotYet => waiting += 1,
                Judgement::Suspect => {
                    suspects.insert(compared.key);
                    waiting += 1;
                }
                Judgement::Differs(kind) => found.push(difference(compared, kind, asked)),
            }
        }
        self.held += found.len() + suspects.len();
        if !found.is_empty() {
            self.found.insert(bucket, found);
        }
        if !suspects.is_empty() {
            self.suspects.insert(bucket, suspects);
        }
        let due = now.steady.plus(pause(round));
        if waiting > 0 && self.ends.is_some_and(|ends| due <= ends) {
            self.turns.insert((due, bucket), round + 1);
        } else {
            self.verdict.unjudged += waiting;
        }
        if self.held >= self.max_held && !self.turns.is_empty() {
            self.verdict.is_cut = true;
            // What is only suspected so far is still looked at once more: it may be all there is.
            self.turns.retain(|(_, bucket), _| self.suspects.contains_key(bucket));
        }
    }

    /// The store has these entities after the key that was named, of which the service has none. `has_more`: and others.
    pub fn page(&mut self, page: Vec<Compared>, has_more: bool, now: Now) {
        let Step::Walk { asked, after, round } = &mut self.step else { return };
        let asked = *asked;
        *after = page.last().map(|compared| compared.key.clone());
        for compared in page {
            match compared.judge(asked, now.day, self.settle, false) {
                Judgement::Differs(kind) => {
                    self.verdict.counts.add(kind, 1);
                    if self.verdict.sample.len() < SAMPLE {
                        self.verdict.sample.push(difference(compared, kind, asked));
                    }
                }
                Judgement::NotYet | Judgement::Suspect => self.verdict.unjudged += 1,
                Judgement::Equal => {}
            }
        }
        if has_more {
            return;
        }
        let due = now.steady.plus(pause(*round));
        let Verdict { counts, unjudged, .. } = &self.verdict;
        if counts.total() == 0 && *unjudged > 0 && self.ends.is_some_and(|ends| due <= ends) {
            self.step = Step::Digest { due, round: *round + 1 };
            self.verdict.unjudged = 0;
            return;
        }
        self.verdict.is_empty = (counts.total() > 0).then_some(asked);
        self.step = Step::Done;
    }

    /// What it has found, once nothing more is needed.
    pub fn into_verdict(self) -> Verdict {
        let Self { mut verdict, found, .. } = self;
        let mut differences: Vec<Difference> = found.into_values().flatten().collect();
        differences.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        differences.iter().for_each(|difference| verdict.counts.add(difference.kind, 1));
        if verdict.sample.is_empty() {
            verdict.sample = differences.iter().take(SAMPLE).cloned().collect();
        }
        verdict.differences = differences.into();
        verdict
    }
}

fn difference(Compared { key, theirs, facts }: Compared, kind: Kind, asked: Asked) -> Difference {
    Difference { key, kind, theirs, ours: facts.current, at: asked.last }
}
