use super::*;
use crate::domain::event::*;
use crate::domain::pattern::Pattern;
#[derive(Clone)]
pub struct Reader;
pub struct Scan { pub after: EventId, pub through: Option<EventId>, pub patterns: Vec<Pattern>, pub max_events: usize, pub max_bytes: usize }
pub struct ScanPage { pub events: Vec<Event>, pub scanned_through: EventId, pub earliest: EventId }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order { Asc, Desc }
pub struct EventQuery { pub patterns: Vec<Pattern>, pub after: Option<EventId>, pub before: Option<EventId>, pub since: Option<Timestamp>, pub until: Option<Timestamp>, pub source: Option<String>, pub key: Option<String>, pub limit: usize, pub order: Order }
pub struct EventPage { pub events: Vec<Event>, pub has_more_before: bool, pub has_more_after: bool }
impl Reader {
    pub fn new(_: StoreOptions) -> Result<Self, StoreError> { Ok(Self) }
    pub async fn event(&self, _: EventId) -> Result<Option<Event>, StoreError> { Ok(None) }
    pub async fn query(&self, _: EventQuery) -> Result<EventPage, StoreError> { Ok(EventPage{events: vec![], has_more_before: false, has_more_after: false}) }
    pub async fn scan(&self, s: Scan) -> Result<ScanPage, StoreError> { Ok(ScanPage{events: vec![], scanned_through: s.through.unwrap_or(s.after), earliest: 1}) }
}
