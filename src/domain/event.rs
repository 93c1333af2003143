//! The event: what is published, and what is stored.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytestring::ByteString;
use jiff::SignedDuration;
use jiff::civil::{DateTime, date};
use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::entity::{Change, Unmet};
use super::judgement::{Finding, Judgement};
use super::name::EventName;

/// Position in the log: strictly increasing in commit order, dense, first id 1.
///
/// 0 stands for "before the first event".
pub type EventId = i64;

/// Microseconds since the Unix epoch, UTC; the number is also its form in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

impl Timestamp {
    /// Reads an RFC 3339 instant with any offset of less than a day. What is beyond the year 9999 in UTC is its end.
    pub fn parse(text: &str) -> Option<Self> {
        const DAY_SECONDS: u32 = 24 * 60 * 60;
        let pieces = Pieces::parse(text).ok()?;
        let local = pieces.date().to_datetime(pieces.time()?);
        let offset = pieces.to_numeric_offset().filter(|offset| offset.seconds().unsigned_abs() < DAY_SECONDS)?;
        let at_limit = if offset.is_negative() { DateTime::MAX } else { DateTime::MIN };
        let utc = local.checked_sub(SignedDuration::from_secs(offset.seconds().into())).unwrap_or(at_limit);
        i64::try_from(utc.duration_since(EPOCH).as_micros()).ok().map(Self)
    }

    /// The instant `span` later; the end of time if that is beyond it.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The time passed since `earlier`; nothing if that is not in the past.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        Self::UNIX_EPOCH + Duration::from_micros(u64::try_from(at.0).unwrap_or_default())
    }
}

/// RFC 3339, UTC, ends in `Z`. What is beyond the year 9999 is its end.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(instant) = jiff::Timestamp::from_microsecond(self.0) {
            return write!(f, "{instant:.6}");
        }
        // The last hours of the year 9999 are no instants to `jiff`: elsewhere they are in the year after it.
        let at_limit = if self.0 < 0 { DateTime::MIN } else { DateTime::MAX };
        let utc = EPOCH.checked_add(SignedDuration::from_micros(self.0)).unwrap_or(at_limit);
        write!(f, "{utc:.6}Z")
    }
}

/// Urgency of the deliveries of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(i16)]
pub enum Priority {
    High = 0,
    #[default]
    Normal = 1,
    Low = 2,
}

impl Priority {
    /// All priorities, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }

    /// Reads the number in the store; unknown numbers count as normal.
    pub(crate) fn from_store(number: i16) -> Self {
        Self::ALL.into_iter().find(|p| *p as i16 == number).unwrap_or_default()
    }
}

/// The source of an event that names none.
pub const DEFAULT_SOURCE: ByteString = ByteString::from_static("api");
/// The source of the Event Handler's own events.
pub const OWN_SOURCE: ByteString = ByteString::from_static("event-handler");

/// What a publisher says of an event; valid by construction, not yet stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub name: EventName,
    /// The exact JSON text as it was sent.
    pub payload: ByteString,
    pub source: ByteString,
    pub priority: Priority,
    /// Ordering key: deliveries with the same service and key stay in order.
    pub key: Option<ByteString>,
    /// A JSON object of strings, as text.
    pub metadata: Option<ByteString>,
    /// W3C trace context of the publisher.
    pub traceparent: Option<ByteString>,
    /// Makes a repeated publish of this one event harmless.
    pub idempotency: Option<Idempotency>,
    /// The change of an entity that this event is; the payload is then the value, until the change is decided.
    pub change: Option<Box<Change>>,
}

impl NewEvent {
    /// An event of the Event Handler itself, with a name that begins with `$sys.`.
    pub fn own(name: &str, payload: String) -> Self {
        Self {
            name: EventName::from_store(name.to_owned()),
            payload: payload.into(),
            source: OWN_SOURCE,
            priority: Priority::Normal,
            key: None,
            metadata: None,
            traceparent: None,
            idempotency: None,
            change: None,
        }
    }

    /// The event of a change, with the value in the place of its payload until the change is decided.
    pub fn change(change: Change, value: Option<ByteString>, source: ByteString) -> Self {
        Self {
            name: change.entity.kind.change_name(),
            payload: value.unwrap_or_default(),
            source,
            priority: Priority::Normal,
            key: Some(change.entity.ordering_key()),
            metadata: None,
            traceparent: None,
            idempotency: None,
            change: Some(Box::new(change)),
        }
    }

    /// Whether it is the change that belongs to the event before it.
    pub fn follows(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.follows)
    }

    /// Size in the log, in bytes: what retention by size counts.
    pub fn log_bytes(&self) -> i64 {
        let optional = |text: &Option<ByteString>| text.as_ref().map_or(0, |t| t.len());
        let text = self.name.as_str().len()
            + self.payload.len()
            + self.source.len()
            + optional(&self.key)
            + optional(&self.metadata)
            + optional(&self.traceparent);
        // Row header, id, time, priority, running size and index entry.
        (text + 64) as i64
    }
}

/// An idempotency key with the fingerprint of what it was first used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose key it is, if not of those without a token, [`KEY_SCOPE_END`], and the key itself.
    pub key: ByteString,
    /// Equal fingerprints mean "the same request again".
    pub fingerprint: [u8; 16],
}

/// Ends the scope of a key. Neither keys nor names have control characters.
const KEY_SCOPE_END: char = '\u{1f}';
/// Begins the key of what has come by publish/subscribe. No kind of a publisher is called so.
const HEARD: &str = "pubsub:";

impl Idempotency {
    /// The key `key` of the publisher called `name`, among those of its `kind`.
    pub fn scoped_key(kind: &str, name: &str, key: &str) -> ByteString {
        format!("{KEY_SCOPE_END}{kind}:{name}{KEY_SCOPE_END}{key}").into()
    }

    /// The key of an entry of a stream that has none of its own: another entry, or another content, is another key. No
    /// key of a publisher is equal, with a scope or without.
    pub fn entry_key(stream: &str, entry: impl fmt::Display, fingerprint: [u8; 16]) -> ByteString {
        let content = u128::from_be_bytes(fingerprint);
        format!("{KEY_SCOPE_END}stream:{stream}:{entry}:{content:032x}").into()
    }

    /// The key of an event that has come by publish/subscribe, whose envelope has an id with this digest. No key of a
    /// publisher is equal.
    pub fn heard_key(digest: [u8; 16]) -> ByteString {
        format!("{KEY_SCOPE_END}{HEARD}{:032x}", u128::from_be_bytes(digest)).into()
    }

    /// Whether its event has come by publish/subscribe.
    pub fn is_heard(key: &str) -> bool {
        key.strip_prefix(KEY_SCOPE_END).is_some_and(|scope| scope.starts_with(HEARD))
    }

    /// The key without its scope, if it has one.
    pub fn bare_key(key: &str) -> Option<&str> {
        key.strip_prefix(KEY_SCOPE_END)?.split_once(KEY_SCOPE_END).map(|(_, key)| key)
    }
}

/// One publish request: its events are stored together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub events: SmallVec<[NewEvent; 1]>,
    /// Covers the whole request (a batch under one key); single events carry their own.
    pub idempotency: Option<Idempotency>,
    /// Its one event is appended later.
    pub schedule: Option<Schedule>,
    pub admission: Admission,
    /// What the catalogue says of it; none if it is not from outside.
    pub judgement: Option<Judgement>,
}

/// Whether a publish request can be refused because of the state of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    /// It is not from outside: it was accepted before, or it is the Event Handler's own.
    #[default]
    Always,
    Judged,
    /// If it is refused, so is what comes after it in its list, so that the order is kept.
    InOrder,
}

/// When an event is to be appended to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    pub id: ScheduleId,
    pub due_at: Timestamp,
}

/// Names a schedule; equal for a repeated request under one idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScheduleId(pub u128);

impl ScheduleId {
    /// Reads what `Display` has written.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sch_").filter(|digits| digits.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(Self).filter(|id| id.to_string() == text)
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sch_{:032x}", self.0)
    }
}

impl Append {
    /// A request of one event.
    pub fn single(event: NewEvent) -> Self {
        Self::of(SmallVec::from_buf([event]), None)
    }

    /// A request of these events, under one idempotency key if there is one.
    pub fn of(events: SmallVec<[NewEvent; 1]>, idempotency: Option<Idempotency>) -> Self {
        Self { events, idempotency, schedule: None, admission: Admission::Always, judgement: None }
    }

    /// A request of one event, for later.
    pub fn scheduled(event: NewEvent, schedule: Schedule) -> Self {
        Self { schedule: Some(schedule), ..Self::single(event) }
    }

    /// Memory it holds while it waits, in bytes.
    pub fn bytes(&self) -> usize {
        self.events.iter().map(|e| e.log_bytes() as usize).sum()
    }
}

/// What became of one [`Append`] once its transaction was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Stored now. Without replays the ids run from `first_id` to `last_id` without a gap.
    Stored {
        first_id: EventId,
        last_id: EventId,
        /// How many of its events had been stored earlier under the same idempotency key.
        replayed: u32,
    },
    /// Stored now, with changes of entities.
    Changed(Box<Changed>),
    /// All of it had been stored earlier under the same idempotency keys.
    Replayed { first_id: EventId, last_id: EventId },
    /// Kept until it is due; `replayed` if that was so before.
    Scheduled { id: ScheduleId, replayed: bool },
    /// The event at `index` reuses an idempotency key for something else; nothing of the request was stored.
    KeyReused { index: usize },
    /// Changes of entities are not to be made: the index of each among the events, and why. Nothing of the request was
    /// stored.
    Unmet(Box<[(usize, Unmet)]>),
    /// The system is in maintenance, and refuses such an event; nothing of the request was stored.
    Maintenance,
    /// The catalogue refuses events: the index of each, and why. Nothing of the request was stored.
    Refused(Box<[(usize, Finding)]>),
    /// Stored, though the catalogue finds something.
    Observed { outcome: Box<AppendOutcome>, findings: Box<[Finding]> },
    /// The store cannot hold what an event of it says; nothing of the request was stored.
    Unstorable,
}

impl AppendOutcome {
    /// Whether events were appended.
    pub fn appends(&self) -> bool {
        match self {
            Self::Stored { .. } | Self::Changed(_) => true,
            Self::Observed { outcome, .. } => outcome.appends(),
            _ => false,
        }
    }

    /// Whether an event is kept for later that was not before.
    pub fn schedules(&self) -> bool {
        match self {
            Self::Scheduled { replayed, .. } => !replayed,
            Self::Observed { outcome, .. } => outcome.schedules(),
            _ => false,
        }
    }
}

/// What became of a request that changes entities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The id of each event of the request, in order; of one that had been stored earlier, its id then.
    pub ids: Vec<EventId>,
    /// How many changes were made.
    pub changes: u32,
    /// The version before the last change; none if the entity was not there.
    pub previous: Option<EventId>,
    pub at: Timestamp,
    /// How many of its events had been stored earlier under the same idempotency key.
    pub replayed: u32,
}

/// A stored event; never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    pub created_at: Timestamp,
    pub name: EventName,
    /// The exact JSON text as it was sent.
    pub payload: ByteString,
    pub source: ByteString,
    pub priority: Priority,
    pub key: Option<ByteString>,
    pub metadata: Option<ByteString>,
    pub traceparent: Option<ByteString>,
}

impl Event {
    /// The stored form of `new` at position `id`.
    pub fn stored(new: NewEvent, id: EventId, created_at: Timestamp) -> Self {
        let NewEvent { name, payload, source, priority, key, metadata, traceparent, idempotency: _, change: _ } = new;
        Self { id, created_at, name, payload, source, priority, key, metadata, traceparent }
    }

    /// Memory it holds, in bytes, roughly.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.name.as_str().len() + self.payload.len()
    }
}

/// The retained part of the log: ids `earliest..=last` can be read. `earliest > last` when it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogBounds {
    pub earliest: EventId,
    pub last: EventId,
}

#[cfg(test)]
impl NewEvent {
    /// An event for tests that says nothing but its name and payload.
    pub fn plain(name: &str, payload: &str) -> Self {
        Self {
            name: EventName::parse(name.to_owned()).expect("a valid name"),
            payload: payload.into(),
            source: DEFAULT_SOURCE,
            priority: Priority::Normal,
            key: None,
            metadata: None,
            traceparent: None,
            idempotency: None,
            change: None,
        }
    }
}

#[cfg(test)]
impl Event {
    /// An event for tests that says nothing but its name and payload, of noon on the first of August 2023.
    pub fn plain(id: EventId, name: &str, payload: &str) -> Self {
        Self::stored(NewEvent::plain(name, payload), id, Timestamp(1_690_891_200_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_utc() {
        let time = Timestamp::parse("2023-08-01T14:00:00.25+02:00").map(|t| t.to_string());
        assert_eq!(time.as_deref(), Some("2023-08-01T12:00:00.250000Z"));
        for text in ["yesterday", "2023-08-01", "2023-08-01T14:00:00", "2023-08-01T14:00:00+25:00"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_day_that_can_be_written_is_told_as_it_is() {
        for (text, told) in [
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000Z"),
            ("9999-12-30T22:00:00.999999Z", "9999-12-30T22:00:00.999999Z"),
            ("9999-12-31T23:59:59.999999+23:59", "9999-12-31T00:00:59.999999Z"),
            ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z"),
            ("1969-12-31T23:00:00-00:30", "1969-12-31T23:30:00.000000Z"),
        ] {
            let time = Timestamp::parse(text).expect("a time");
            assert_eq!(time.to_string(), told, "{text}");
            assert_eq!(Timestamp::parse(told), Some(time));
        }
        assert_eq!(Timestamp(i64::MAX).to_string(), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn timestamps_saturate() {
        let (early, late) = (Timestamp(1_000), Timestamp(3_500));
        assert_eq!(late.since(early), Duration::from_micros(2_500));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.plus(Duration::from_micros(2_500)), late);
        assert_eq!(early.plus(Duration::MAX), Timestamp(i64::MAX));
    }

    #[test]
    fn priorities_survive_wire_and_store() {
        for priority in Priority::ALL {
            assert_eq!(Priority::parse(priority.as_str()), Some(priority));
            assert_eq!(Priority::from_store(priority as i16), priority);
        }
    }
}
