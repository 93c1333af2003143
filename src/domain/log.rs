//! The identity of a log, and what follows when a store turns out to have been set back.
//!
//! - LG-1: of one log, an id names one event for ever. Ids that were given out are not given out again.
//!
//! Whoever has used the log remembers its newest event ([`Seen`]). A store that does not have that event any more was
//! set back: to a backup, to a replica that lacked the last transactions.

use std::fmt;

use super::event::{EventId, NewEvent, Timestamp};

/// Which log it is: a UUID, made with the store. Together with an id it names an event as no other log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(u128);

impl LogId {
    /// A new one, of random bits (RFC 9562, version 4).
    pub fn new(random: u128) -> Self {
        Self::of_version(random, 4)
    }

    /// Reads what `Display` has written, in lower or upper case.
    pub fn parse(text: &str) -> Option<Self> {
        let is_dash = |(place, byte): (usize, u8)| (byte == b'-') == matches!(place, 8 | 13 | 18 | 23);
        if text.len() != 36 || !text.bytes().enumerate().all(is_dash) {
            return None;
        }
        let digits: String = text.split('-').collect();
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(&digits, 16).ok().filter(|_| is_hex).map(Self)
    }

    fn of_version(bits: u128, version: u128) -> Self {
        const VERSION_AND_VARIANT: u128 = 0xf000 << 64 | 0b11 << 62;
        Self(bits & !VERSION_AND_VARIANT | version << 76 | 0b10 << 62)
    }

    /// The bytes of the UUID, as RFC 9562 orders them.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// The UUID of an event: no event of another log has the same (RFC 9562, version 5, of the bytes of the [`LogId`] and the
/// id in decimal).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventUuid(LogId);

impl EventUuid {
    /// The one with this SHA-1.
    pub fn of_sha1(sha1: [u8; 20]) -> Self {
        let [bytes @ .., _, _, _, _] = sha1;
        Self(LogId::of_version(u128::from_be_bytes(bytes), 5))
    }

    /// Reads what `Display` has written, in lower or upper case. None: it is not that of any event.
    pub fn parse(text: &str) -> Option<Self> {
        LogId::parse(text).filter(|uuid| LogId::of_version(uuid.0, 5) == *uuid).map(Self)
    }

    /// The UUID of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(LogId(u128::from_be_bytes(bytes)))
    }

    /// The bytes of the UUID, as RFC 9562 orders them.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }
}

impl fmt::Display for EventUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A UUID in lower case, with dashes.
impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(n) = self;
        let part = |shift: u32, bits: u32| (n >> shift) & ((1 << bits) - 1);
        let parts = [part(96, 32), part(80, 16), part(64, 16), part(48, 16), part(0, 48)];
        write!(f, "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", parts[0], parts[1], parts[2], parts[3], parts[4])
    }
}

/// The newest event that somebody knows of, and of which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub log: LogId,
    pub last: EventId,
    /// When it was stored.
    pub at: Timestamp,
}

/// What a store has, for somebody who has seen something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub log: LogId,
    /// The newest event: id 0 if there is none.
    pub last: EventId,
    pub at: Timestamp,
    /// When the event with the id [`Seen::last`] was stored, if there is one.
    pub at_seen: Option<Timestamp>,
    /// Whether the store lacks that event, and times have once gone back within what it has.
    pub has_turned: bool,
}

impl Found {
    /// What is seen of it now.
    pub fn seen(&self) -> Seen {
        Seen { log: self.log, last: self.last, at: self.at }
    }
}

/// What has become of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one that was seen, with all that was seen.
    GoesOn,
    /// It was set back, and nothing was stored since.
    SetBack,
    /// It was set back, and ids were given again; how many, nobody knows: it is another log from now on.
    Forked,
    /// Another log is in its place.
    Another,
}

/// The name of the event that says that a log was set back.
pub const RESTORED: &str = "$sys.log.restored";

/// Ids that are left out above what was seen: what somebody else has seen beyond that is not given again either.
pub const MARGIN: i64 = 100_000;

/// Compares what was seen with what is there.
pub fn judge(seen: &Seen, found: &Found) -> Verdict {
    if found.log != seen.log {
        return Verdict::Another;
    }
    if found.last < seen.last {
        // What is older than the newest event seen was stored before the log was set back: times rise with ids. Where
        // they once did not, nobody knows.
        return if found.has_turned || found.at > seen.at { Verdict::Forked } else { Verdict::SetBack };
    }
    match found.at_seen {
        Some(at) if at != seen.at => Verdict::Forked,
        // An event that is not there was removed by retention, or left out by somebody who saw the log set back.
        _ => Verdict::GoesOn,
    }
}

/// The id after which a log goes on that was judged so; none if it goes on after its newest event.
pub fn resume_after(seen: &Seen, found: &Found, verdict: Verdict) -> Option<EventId> {
    let is_due = match verdict {
        Verdict::GoesOn => false,
        Verdict::SetBack | Verdict::Forked => true,
        Verdict::Another => found.last < seen.last,
    };
    is_due.then(|| seen.last.max(found.last).saturating_add(MARGIN))
}

/// The ids that a log has left out because it was set back. Whoever has seen an event under one of them has seen what is
/// gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The newest event that the store had.
    pub last: EventId,
    /// The last id that was left out.
    pub end: EventId,
}

impl Gap {
    /// Whether the id is one of them.
    pub fn has(&self, id: EventId) -> bool {
        self.last < id && id <= self.end
    }
}

/// A log that goes on after it was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Its identity from now on.
    pub log: LogId,
    /// The identity under which it was known, if that was another.
    pub previous: Option<LogId>,
    /// The newest event that the store had.
    pub last: EventId,
    /// The newest event that was known.
    pub known: EventId,
    /// The next event has the id after this.
    pub after: EventId,
}

impl Restored {
    /// What follows from `seen` and `found`; a log that forked is called `new` from now on. None: the log goes on.
    pub fn decide(seen: &Seen, found: &Found, new: LogId) -> Option<Self> {
        let verdict = judge(seen, found);
        let after = resume_after(seen, found, verdict)?;
        let log = if verdict == Verdict::Forked { new } else { found.log };
        let previous = Some(seen.log).filter(|previous| *previous != log);
        Some(Self { log, previous, last: found.last, known: seen.last, after })
    }

    /// What follows from the word of an operator that a log, `found` as it is, was restored: it is called `new`.
    pub fn declared(seen: Option<&Seen>, found: &Found, new: LogId) -> Self {
        let known = seen.map_or(0, |seen| seen.last).max(found.last);
        let previous = seen.map_or(found.log, |seen| seen.log);
        Self { log: new, previous: Some(previous), last: found.last, known, after: known.saturating_add(MARGIN) }
    }

    /// `$sys.log.restored`, the first event after it.
    pub fn event(&self) -> NewEvent {
        let Self { log, previous, last, known, after } = self;
        let previous = previous.map_or("null".to_owned(), |previous| format!("\"{previous}\""));
        let first = after + 1;
        let payload = format!(
            r#"{{"log_id":"{log}","previous_log_id":{previous},"last_id":{last},"known_last_id":{known},"first_id":{first}}}"#
        );
        NewEvent::own(RESTORED, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LogId = LogId(0xaaaa);
    const B: LogId = LogId(0xbbbb);

    #[test]
    fn a_gap_has_the_ids_that_were_left_out() {
        let gap = Gap { last: 10, end: 15 };
        assert_eq!([10, 11, 14, 15, 16].map(|id| gap.has(id)), [false, true, true, true, false]);
    }

    #[test]
    fn an_identity_is_a_uuid() {
        let id = LogId::new(u128::MAX);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(LogId::new(0).to_string(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(LogId::parse(&id.to_string()), Some(id));
        assert_eq!(LogId::parse(&id.to_string().to_uppercase()), Some(id));
        assert_eq!(id.to_bytes()[..2], [0xff, 0xff]);
        for bad in [
            "",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "ffffffffffffff4fffbfff-ffffffffff-ff",
            "+fffffff-ffff-4fff-bfff-ffffffffffff",
        ] {
            assert_eq!(LogId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_log_that_lacks_what_was_seen_was_set_back() {
        let seen = Seen { log: A, last: 20, at: Timestamp(200) };
        let judged = |log, last, at, at_seen: Option<i64>| {
            let found = Found { log, last, at: Timestamp(at), at_seen: at_seen.map(Timestamp), has_turned: last == 12 };
            let verdict = judge(&seen, &found);
            (verdict, resume_after(&seen, &found, verdict))
        };
        assert_eq!(judged(A, 20, 200, Some(200)), (Verdict::GoesOn, None));
        assert_eq!(judged(A, 25, 250, Some(200)), (Verdict::GoesOn, None));
        assert_eq!(judged(A, 25, 250, None), (Verdict::GoesOn, None), "trimmed");
        assert_eq!(judged(A, 10, 100, None), (Verdict::SetBack, Some(20 + MARGIN)));
        assert_eq!(judged(A, 19, 200, None), (Verdict::SetBack, Some(20 + MARGIN)), "of one batch");
        assert_eq!(judged(A, 0, 0, None), (Verdict::SetBack, Some(20 + MARGIN)), "emptied");
        assert_eq!(judged(A, 12, 100, None), (Verdict::Forked, Some(20 + MARGIN)), "a clock was set back");
        assert_eq!(judged(A, 15, 300, None), (Verdict::Forked, Some(20 + MARGIN)));
        assert_eq!(judged(A, 25, 300, Some(290)), (Verdict::Forked, Some(25 + MARGIN)));
        assert_eq!(judged(B, 10, 300, None), (Verdict::Another, Some(20 + MARGIN)));
        assert_eq!(judged(B, 25, 300, Some(290)), (Verdict::Another, None));
    }
}
