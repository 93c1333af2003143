//! Repairs of a service: what differs is delivered again, one entity after the other in the order of keys.

use std::collections::VecDeque;
use std::time::Duration;

use super::check::Difference;
use super::judge::{Asked, Compared, Current, Facts, Judgement};
use super::{Kind, Now};
use crate::domain::entity::{EntityKey, Version};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::rate::{RateLimit, TokenBucket};

/// After so many failures in a row nothing more is sent.
const MAX_FAILED: u32 = 3;

/// What is to be done about a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Deliver the event of this version again.
    Put(Version),
    /// Deliver that it was deleted, by the event of this id.
    Delete(EventId),
    /// Write its value as a new version, if it has this one still.
    Renew(Version),
}

impl Difference {
    /// What is to be done, when the store has `facts` of it now. None: it has changed, or is on its way.
    pub fn repair(&self, facts: &Facts) -> Option<Repair> {
        if facts.current != self.ours || facts.is_on_its_way {
            return None;
        }
        Some(match (self.ours, self.kind) {
            (Current::Present(version), Kind::Ahead) => Repair::Renew(version),
            (Current::Present(version), _) => Repair::Put(version),
            // By its own id the service would take it for older than what it has.
            (Current::Deleted(_), Kind::Ahead) | (Current::Absent, _) => Repair::Delete(self.at),
            (Current::Deleted(version), _) => Repair::Delete(version),
        })
    }
}

/// How a repair went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    Done,
    /// It was not needed any more.
    Dropped,
    /// The service will never take it.
    Refused(String),
    /// All tries have failed.
    Failed(String),
    /// The service takes nothing now, or cannot be reached.
    NotSent(String),
}

/// What the repairs need next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RepairNeed {
    Repair(Difference),
    /// What the store has of the next entities after this key.
    Page {
        after: Option<EntityKey>,
    },
    Wait(Timestamp),
    Done,
}

/// Repairs under way.
#[derive(Debug)]
pub(super) struct Repairs {
    differences: VecDeque<Difference>,
    /// All entities that the service, which has none, did not have when it was asked.
    walk: Option<Walk>,
    ahead: bool,
    bucket: TokenBucket,
    /// Failures in a row.
    failed: u32,
    /// How many were refused or have failed, and why the last one was.
    pub refused: u64,
    pub refusal: Option<String>,
}

#[derive(Debug)]
struct Walk {
    asked: Asked,
    after: Option<EntityKey>,
    has_more: bool,
}

impl Repairs {
    /// Repairs these; and if the service had nothing when it was `asked`, everything. `rate`: most in a second.
    pub fn new(
        differences: VecDeque<Difference>,
        is_empty: Option<Asked>,
        ahead: bool,
        rate: u32,
        now: Timestamp,
    ) -> Self {
        let bucket = TokenBucket::new(RateLimit::per_second(rate, (rate / 20).max(1)), now);
        let walk = is_empty.map(|asked| Walk { asked, after: None, has_more: true });
        Self { differences, walk, ahead, bucket, failed: 0, refused: 0, refusal: None }
    }

    pub fn need(&mut self, now: Timestamp) -> RepairNeed {
        while self.differences.front().is_some_and(|next| next.kind == Kind::Ahead && !self.ahead) {
            self.differences.pop_front();
        }
        match (self.differences.front(), &self.walk) {
            (Some(next), _) => match self.bucket.check(now) {
                Ok(()) => RepairNeed::Repair(next.clone()),
                Err(until) => RepairNeed::Wait(until),
            },
            (None, Some(Walk { after, has_more: true, .. })) => RepairNeed::Page { after: after.clone() },
            (None, _) => RepairNeed::Done,
        }
    }

    /// The store has these entities after the key that was named.
    pub fn page(&mut self, page: Vec<Compared>, has_more: bool, now: Now, settle: Duration) {
        let Some(walk) = &mut self.walk else { return };
        walk.has_more = has_more && !page.is_empty();
        walk.after = page.last().map(|compared| compared.key.clone());
        for compared in page {
            // What the service gets anyway, or has got since, is not repaired.
            if let Judgement::Differs(kind) = compared.judge(walk.asked, now.day, settle, false) {
                let Compared { key, theirs, facts } = compared;
                self.differences.push_back(Difference { key, kind, theirs, ours: facts.current, at: walk.asked.last });
            }
        }
    }

    /// The difference that is needed was repaired, or not. Returns its kind if it is one no more. An error says why
    /// nothing more is sent.
    pub fn repaired(&mut self, how: Repaired, now: Timestamp) -> Result<Option<Kind>, String> {
        if how != Repaired::Dropped {
            // It was there when this was needed.
            let _ = self.bucket.try_take(now);
        }
        self.failed = if matches!(how, Repaired::Failed(_)) { self.failed + 1 } else { 0 };
        let refused = match how {
            Repaired::NotSent(reason) => return Err(reason),
            Repaired::Failed(reason) if self.failed >= MAX_FAILED => return Err(reason),
            Repaired::Failed(reason) | Repaired::Refused(reason) => Some(reason),
            Repaired::Done | Repaired::Dropped => None,
        };
        let kind = self.differences.pop_front().map(|done| done.kind);
        match refused {
            Some(reason) => {
                self.refused += 1;
                self.refusal = Some(reason);
                Ok(None)
            }
            None => Ok(kind),
        }
    }
}
