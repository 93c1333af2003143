//! Whether an envelope that was heard is that of an event of our own log.
//!
//! Its id does not tell which event it is. Where publish/subscribe goes both ways, the ids of what goes out are stored
//! before. What went out before both ways were on, or by an older version, is found by its time: the events are looked at
//! that were stored when the envelope says.

use std::collections::HashSet;
use std::sync::Arc;

use crate::actors::log_position::LogPosition;
use crate::domain::event::Timestamp;
use crate::domain::log::{EventUuid, LogId};
use crate::protocol::envelope::event_uuid;
use crate::protocol::heard::Heard;
use crate::storage::{Reader, Scan, StoreError};

/// So many ids are looked at together, rather than found apart by their times.
const SPAN: i64 = 4096;
/// About the most events that are read at a time, and bytes.
const PAGE: (usize, usize) = (1000, 4 << 20);
/// Microseconds in a millisecond.
const MILLI: i64 = 1000;

/// See the module.
pub struct OwnEvents {
    pub reader: Reader,
    pub position: Arc<LogPosition>,
}

impl OwnEvents {
    /// For each of `heard` whether it is ours, and its event is in the log.
    pub async fn among(&self, heard: &[Heard]) -> Result<Vec<bool>, StoreError> {
        let mut unknown: HashSet<EventUuid> = heard.iter().filter_map(|heard| heard.uuid).collect();
        let mut own = HashSet::new();
        if !unknown.is_empty() {
            own = self.reader.sent(unknown.iter().copied().collect()).await?;
            unknown.retain(|uuid| !own.contains(uuid));
        }
        if let Some(log) = self.position.log_id().filter(|_| !unknown.is_empty()) {
            let unknown_times = heard.iter().filter(|heard| heard.uuid.is_some_and(|uuid| unknown.contains(&uuid)));
            let mut times: Vec<i64> = unknown_times.filter_map(|heard| heard.timestamp).collect();
            times.sort_unstable();
            times.dedup();
            self.look_at(log, &times, |uuid| own.extend(unknown.get(&uuid))).await?;
        }
        Ok(heard.iter().map(|heard| heard.uuid.is_some_and(|uuid| own.contains(&uuid))).collect())
    }

    /// The UUIDs of the events of these milliseconds, which rise: of all from the first to the last if those are few.
    async fn look_at(&self, log: LogId, times: &[i64], mut found: impl FnMut(EventUuid)) -> Result<(), StoreError> {
        let mut parts = vec![times];
        while let Some(times) = parts.pop() {
            let (Some(first), Some(last)) = (times.first(), times.last()) else { continue };
            let since = Timestamp(first.saturating_mul(MILLI));
            let until = Timestamp(last.saturating_mul(MILLI).saturating_add(MILLI - 1));
            let (low, high) = self.reader.ids_between(Some(since), Some(until)).await?;
            if high - low >= SPAN && times.len() > 1 {
                parts.extend(<[_; 2]>::from(times.split_at(times.len() / 2)));
                continue;
            }
            let (mut after, through) = (low - 1, Some(high));
            while after < high {
                let (max_events, max_bytes) = PAGE;
                let page =
                    self.reader.scan(Scan { after, through, patterns: Vec::new(), max_events, max_bytes }).await?;
                page.events.iter().for_each(|event| found(event_uuid(log, event.id)));
                after = page.scanned_through.max(after + 1);
            }
        }
        Ok(())
    }
}
