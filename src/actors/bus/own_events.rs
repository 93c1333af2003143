//! Whether an envelope that was heard is that of an event of our own log.
//!
//! Its id does not tell which event it is, only whether it is that of a given one. So the events are looked at that were
//! stored when the envelope says, or, where it does not say when, the newest of its name.

use std::collections::HashSet;
use std::sync::Arc;

use crate::actors::log_position::LogPosition;
use crate::domain::event::{Event, Timestamp};
use crate::domain::log::LogId;
use crate::domain::pattern::Pattern;
use crate::protocol::envelope::event_uuid;
use crate::protocol::heard::Heard;
use crate::storage::{EventQuery, Order, Reader, Scan, StoreError};

/// So many ids are looked at together, rather than found apart by their times.
const SPAN: i64 = 4096;
/// How many of the newest events of a name are looked at.
const NEWEST: usize = 1000;
/// About the most bytes that are read at a time.
const MAX_BYTES: usize = 4 << 20;

/// See the module.
pub struct OwnEvents {
    pub reader: Reader,
    pub position: Arc<LogPosition>,
}

/// Microseconds in a millisecond.
const MILLI: i64 = 1000;

impl OwnEvents {
    /// For each of `heard` whether it is ours, and its event is in the log.
    pub async fn among(&self, heard: &[Heard]) -> Result<Vec<bool>, StoreError> {
        let uuids: HashSet<&str> = heard.iter().filter_map(|heard| heard.uuid.as_deref()).collect();
        let Some(log) = self.position.log_id().filter(|_| !uuids.is_empty()) else {
            return Ok(vec![false; heard.len()]);
        };
        let mut looking = Looking { reader: &self.reader, log, uuids, found: HashSet::new() };
        let mut times: Vec<i64> = candidates(heard).filter_map(|heard| heard.timestamp).collect();
        times.sort_unstable();
        times.dedup();
        looking.at(&times).await?;
        let names: HashSet<_> = candidates(heard).filter(|h| h.timestamp.is_none()).map(|h| &h.event.name).collect();
        for name in names {
            let pattern = Pattern::parse(name.as_shared().clone()).ok();
            looking.newest(pattern.into_iter().collect()).await?;
        }
        let found = looking.found;
        Ok(heard.iter().map(|heard| heard.uuid.as_ref().is_some_and(|uuid| found.contains(uuid))).collect())
    }
}

fn candidates(heard: &[Heard]) -> impl Iterator<Item = &Heard> {
    heard.iter().filter(|heard| heard.uuid.is_some())
}

struct Looking<'a> {
    reader: &'a Reader,
    log: LogId,
    uuids: HashSet<&'a str>,
    found: HashSet<String>,
}

impl Looking<'_> {
    /// Looks at the events of these milliseconds, which rise: at all from the first to the last if those are few.
    async fn at(&mut self, times: &[i64]) -> Result<(), StoreError> {
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
                let scan = Scan { after, through, patterns: Vec::new(), max_events: NEWEST, max_bytes: MAX_BYTES };
                let page = self.reader.scan(scan).await?;
                self.look(&page.events);
                after = page.scanned_through.max(after + 1);
            }
        }
        Ok(())
    }

    async fn newest(&mut self, patterns: Vec<Pattern>) -> Result<(), StoreError> {
        let query = EventQuery { patterns, order: Order::Desc, limit: NEWEST, ..EventQuery::default() };
        let page = self.reader.query(query).await?;
        self.look(&page.events);
        Ok(())
    }

    fn look(&mut self, events: &[Event]) {
        let uuids = events.iter().map(|event| event_uuid(self.log, event.id));
        self.found.extend(uuids.filter(|uuid| self.uuids.contains(&**uuid)));
    }
}
