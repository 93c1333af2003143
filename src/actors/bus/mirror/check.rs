//! Compares the mirror with the store, and mends it.
//!
//! First everything in Redis is looked at once, for a digest of each type as the store has it too. Then entities are
//! judged one by one in the buckets that differ, or in which something has changed meanwhile: those of the store, and
//! those of Redis.

use std::time::{Duration, Instant};

use super::{Keeper, MirrorEntry, STEP, entry};
use crate::actors::bus::mirror::KEYS;
use crate::bus::{BusError, mirror};
use crate::domain::entity::{EntityId, EntityKey, EntityType};
use crate::domain::mirror::{Flaw, Held, Stand, Stored, Suspects, Tally, Todo, flaw};
use crate::storage::{AsOf, DigestQuery};

/// Pause before the next comparison after one that could not be made, or has found keys in use for something else.
pub(super) const AGAIN: Duration = Duration::from_secs(60);
/// The most changes that are undone for a digest as of the position of the mirror.
const MAX_UNDO: usize = 100_000;

/// A comparison that is being made.
#[derive(Debug, Default)]
pub struct Check {
    stage: Stage,
    suspects: Suspects,
    mended: u64,
    blocked: u64,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Begin,
    /// Adds up what Redis has, from this cursor on; then, without one, compares the types with the store.
    Tally(Option<u64>, Tally),
    /// Judges the entities that the store has in suspect buckets: these are left of the bucket.
    Mend(Option<(EntityType, u32, u32)>, Vec<EntityId>),
    /// Judges those that Redis has in them, from this cursor on.
    Sweep(u64),
}

impl Check {
    /// The entity was changed meanwhile.
    pub fn changed(&mut self, id: &EntityId) {
        if let Stage::Tally(_, tally) = &mut self.stage {
            tally.changed(id);
        }
    }
}

impl Keeper {
    /// Does the next step. Returns how many entities were looked at.
    pub(super) async fn compare(&mut self) -> Result<Option<usize>, BusError> {
        let Some(tenure) = &mut self.tenure else { return Ok(None) };
        let reader = &self.parts.reader;
        match &mut tenure.check.stage {
            Stage::Begin => {
                let Ok(types) = reader.entity_types().await else { return Ok(None) };
                tenure.check.stage = Stage::Tally(Some(0), Tally::new(types));
                Ok(Some(1))
            }
            Stage::Tally(place @ Some(_), tally) => {
                let cursor = place.unwrap_or_default();
                let (next, ids) = mirror::scan(&mut tenure.link, cursor, STEP.0).await?;
                for (id, held) in ids.iter().zip(mirror::held(&mut tenure.link, &ids).await?) {
                    match held {
                        Held::Version(version) => tally.found(id, version),
                        Held::Strange | Held::Foreign => tally.changed(id),
                        Held::Nothing => {}
                    }
                }
                *place = Some(next).filter(|next| *next != 0);
                Ok(Some(STEP.0))
            }
            Stage::Tally(None, tally) => {
                let Some((kind, buckets)) = tally.next() else {
                    let is_equal = tenure.check.suspects.is_empty();
                    tenure.check.stage = Stage::Mend(None, Vec::new());
                    return if is_equal { self.finish().await } else { Ok(Some(1)) };
                };
                let query =
                    DigestQuery { kind: kind.clone(), as_of: tenure.stand.position, buckets, max_undo: MAX_UNDO };
                match reader.digest(query).await {
                    Ok(AsOf::At(_, stored)) => {
                        tally.compare(&kind, &stored, &mut tenure.check.suspects);
                        Ok(Some(buckets as usize))
                    }
                    Ok(AsOf::Beyond(_) | AsOf::Trimmed(_)) => {
                        tenure.check = Check::default();
                        self.check_at = Instant::now() + AGAIN;
                        Ok(Some(STEP.0))
                    }
                    Err(_) => Ok(None),
                }
            }
            Stage::Mend(at, left) if left.is_empty() => {
                let Some((kind, buckets, bucket)) = tenure.check.suspects.next(at.as_ref()) else {
                    tenure.check.stage = Stage::Sweep(0);
                    return Ok(Some(1));
                };
                let query = DigestQuery { kind: kind.clone(), as_of: None, buckets, max_undo: MAX_UNDO };
                let Ok(AsOf::At(_, found)) = reader.bucket(query, bucket).await else { return Ok(None) };
                let of = |key| EntityId { kind: kind.clone(), key: EntityKey::from_store(key) };
                *left = found.into_iter().map(|(key, _)| of(key)).collect();
                *at = Some((kind.clone(), buckets, bucket));
                Ok(Some(1))
            }
            Stage::Mend(_, left) => {
                let ids = left.split_off(left.len().saturating_sub(STEP.0));
                self.judge(ids).await
            }
            Stage::Sweep(cursor) => {
                let (next, mut ids) = mirror::scan(&mut tenure.link, *cursor, STEP.0).await?;
                *cursor = next;
                ids.retain(|id| tenure.check.suspects.has(id));
                ids.sort_unstable();
                // A server may tell of a key twice.
                ids.dedup();
                if self.judge(ids).await?.is_none() {
                    return Ok(None);
                }
                if next == 0 { self.finish().await } else { Ok(Some(STEP.0)) }
            }
        }
    }

    /// Mends those of these entities that differ from the store. Returns how many were looked at.
    async fn judge(&mut self, ids: Vec<EntityId>) -> Result<Option<usize>, BusError> {
        let count = ids.len();
        let Some(tenure) = &mut self.tenure else { return Ok(None) };
        let (stand, position) = (tenure.stand.clone(), tenure.stand.position.unwrap_or_default());
        let held = mirror::held(&mut tenure.link, &ids).await?;
        let (mut rest, mut helds) = (&ids[..], held.into_iter());
        while !rest.is_empty() {
            let Ok(records) = self.parts.reader.records(rest.to_vec(), STEP.1).await else { return Ok(None) };
            rest = &rest[records.len()..];
            let mut entries: Vec<MirrorEntry> = Vec::new();
            for ((id, record), held) in records.into_iter().zip(&mut helds) {
                let stored =
                    record.as_ref().map(|record| Stored { version: record.version, is_there: record.value.is_some() });
                let Some(flaw) = flaw(held, stored, position) else { continue };
                self.found(flaw);
                if flaw != Flaw::Blocked {
                    entries.push(entry(id, record, position));
                }
            }
            if !entries.is_empty() && self.write(entries, stand.clone(), true).await?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(count.max(1)))
    }

    fn found(&mut self, flaw: Flaw) {
        let Some(check) = self.tenure.as_mut().map(|tenure| &mut tenure.check) else { return };
        match (flaw, &check.stage) {
            // It was counted when those of the store were judged.
            (Flaw::Blocked, Stage::Sweep(_)) => return,
            (Flaw::Blocked, _) => check.blocked += 1,
            _ => check.mended += 1,
        }
        self.parts.metrics.mirror_mended.with_label_values(&[flaw.as_str()]).inc();
    }

    /// The mirror is equal to the store by now.
    async fn finish(&mut self) -> Result<Option<usize>, BusError> {
        let Some(tenure) = &mut self.tenure else { return Ok(None) };
        let Check { mended, blocked, .. } = std::mem::take(&mut tenure.check);
        self.check_at =
            Instant::now() + self.parts.mirror.check_every.get().min(if blocked > 0 { AGAIN } else { Duration::MAX });
        if mended + blocked > 0 {
            log::info!(mended, blocked; "the mirror in redis has differed from the store");
            self.mirroring.mended.fetch_add(mended, std::sync::atomic::Ordering::Relaxed);
        }
        match blocked {
            0 => self.standing.up(KEYS),
            blocked => self.standing.down(KEYS, &BusError::wrong_type(blocked)),
        }
        let stand = Stand { todo: Todo::Nothing, ..tenure.stand.clone() };
        if stand == tenure.stand {
            return Ok(Some(1));
        }
        Ok(self.write(Vec::new(), stand, true).await?.map(|()| 1))
    }
}
