//! The time of day, while the wall clock may be wrong.
//!
//! A wall clock is set by people and daemons; a clock that only counts is not, but does not know the day. So the wall
//! clock is read now and then and held against the counting one.
//!
//! - TD-1: one that departs for less than [`TimeSpans::believe`] changes nothing.
//! - TD-2: one that departs and then goes steadily is believed after that time.
//! - TD-3: what cannot be taken back waits until it has been steady for [`TimeSpans::hold`].
//! - TD-4: small differences are made up for gradually: the time of day goes back only when another clock is believed.

use std::time::Duration;

use super::event::Timestamp;

/// A reading further off than this departs, in microseconds.
const TOLERANCE: i64 = 2_000_000;
/// Of the time passed, the part by which a small difference is made up for.
const SLEW: i64 = 8;
/// A start this long after the newest event is no proof of a wrong clock, but reason enough to wait for a moment.
const LONG_AWAY: Duration = Duration::from_secs(24 * 60 * 60);
/// By how much the dates of events may be ahead of the time of day while it is not sure, and once it is.
const MAX_LEAD: Duration = Duration::from_secs(24 * 60 * 60);
const STEADY_LEAD: Duration = Duration::from_secs(10);

/// How long a clock has to go steadily.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpans {
    /// Until one that departed is believed.
    pub believe: Duration,
    /// Until things are done that cannot be taken back.
    pub hold: Duration,
}

impl Default for TimeSpans {
    fn default() -> Self {
        Self { believe: Duration::from_secs(30), hold: Duration::from_secs(60) }
    }
}

/// What a reading of the wall clock means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Nothing new.
    Steady,
    /// It is off by so many microseconds, from now on.
    Departed(i64),
    /// It is where it was expected again.
    Returned,
    /// From now on this is the time: so many microseconds from what was.
    Believed(i64),
}

/// The time of day: see the module. All instants are those of the monotonic clock.
#[derive(Debug)]
pub struct TimeOfDay {
    spans: TimeSpans,
    /// The time of day at the zero of the counting clock, in microseconds.
    base: i64,
    read_at: Duration,
    departed: Option<Departed>,
    /// Since when it has been steady, if it was not always so.
    steady_since: Option<Duration>,
    /// The clock it started with is as good as any: what departs from it is believed at once.
    is_doubtful: bool,
}

#[derive(Debug, Clone, Copy)]
struct Departed {
    base: i64,
    since: Duration,
}

impl TimeOfDay {
    /// Begins with what the wall clock says.
    pub fn new(wall: Timestamp, at: Duration, spans: TimeSpans) -> Self {
        let base = base_of(wall, at);
        Self { spans, base, read_at: at, departed: None, steady_since: None, is_doubtful: false }
    }

    /// Microseconds to add to those of the counting clock.
    pub fn base(&self) -> i64 {
        self.base
    }

    /// The time of day.
    pub fn now(&self, at: Duration) -> Timestamp {
        Timestamp(self.base.saturating_add(micros(at)))
    }

    /// Takes a reading of the wall clock.
    pub fn read(&mut self, wall: Timestamp, at: Duration) -> Reading {
        let read = base_of(wall, at);
        let off = read.saturating_sub(self.base);
        let passed = micros(at.saturating_sub(std::mem::replace(&mut self.read_at, at)));
        if off.abs() <= TOLERANCE {
            self.base += off.clamp(-passed / SLEW, passed / SLEW);
            if self.departed.take().is_some() {
                self.steady_since = Some(at);
                return Reading::Returned;
            }
            self.is_doubtful &= self.is_held(at);
            return Reading::Steady;
        }
        let goes_on = self.departed.filter(|departed| read.saturating_sub(departed.base).abs() <= TOLERANCE);
        let since = goes_on.map_or(at, |departed| departed.since);
        if self.is_doubtful || at.saturating_sub(since) >= self.spans.believe {
            (self.base, self.departed, self.steady_since) = (read, None, Some(since));
            return Reading::Believed(off);
        }
        self.departed = Some(Departed { base: read, since });
        if goes_on.is_some() { Reading::Steady } else { Reading::Departed(off) }
    }

    /// From now on another clock is read, which knows better: it is believed at once. By how much it differs.
    pub fn follow(&mut self, wall: Timestamp, at: Duration) -> i64 {
        let off = base_of(wall, at).saturating_sub(self.base);
        (self.base, self.departed, self.read_at) = (self.base.saturating_add(off), None, at);
        off
    }

    /// Compares the time with the newest date in the log. Whether that makes it doubtful.
    pub fn compare(&mut self, newest: Timestamp, at: Duration) -> bool {
        let now = self.now(at);
        if newest.since(now) <= STEADY_LEAD && now.since(newest) <= LONG_AWAY {
            return false;
        }
        (self.steady_since, self.is_doubtful) = (Some(at), true);
        true
    }

    /// Whether what cannot be taken back has to wait (TD-3).
    pub fn is_held(&self, at: Duration) -> bool {
        !self.is_steady_for(self.spans.hold, at)
    }

    /// By how much dates of events may be ahead of it. Beyond that they go back.
    pub fn lead(&self, at: Duration) -> Duration {
        if self.is_steady_for(self.spans.believe, at) { STEADY_LEAD } else { MAX_LEAD }
    }

    /// By how many microseconds the wall clock was off when it was read last.
    pub fn departure(&self) -> i64 {
        self.departed.map_or(0, |departed| departed.base.saturating_sub(self.base))
    }

    fn is_steady_for(&self, span: Duration, at: Duration) -> bool {
        self.departed.is_none() && self.steady_since.is_none_or(|since| at.saturating_sub(since) >= span)
    }
}

fn micros(at: Duration) -> i64 {
    i64::try_from(at.as_micros()).unwrap_or(i64::MAX)
}

fn base_of(wall: Timestamp, at: Duration) -> i64 {
    wall.0.saturating_sub(micros(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 60 * 60 * 1_000_000;

    /// A wall clock and a counting one, read twice a second.
    struct Clocks {
        time: TimeOfDay,
        at: Duration,
        /// By how much the wall clock is off.
        off: i64,
        seen: Vec<Reading>,
    }

    /// What the time really is at an instant of the counting clock.
    fn truth(at: Duration) -> Timestamp {
        Timestamp(1_800_000_000_000_000 + micros(at))
    }

    impl Clocks {
        fn start(off: i64) -> Self {
            let at = Duration::from_secs(1_000);
            let wall = Timestamp(truth(at).0 + off);
            Self { time: TimeOfDay::new(wall, at, TimeSpans::default()), at, off, seen: Vec::new() }
        }

        fn run(&mut self, seconds: u64) {
            for _ in 0..seconds * 2 {
                self.at += Duration::from_millis(500);
                let reading = self.time.read(Timestamp(truth(self.at).0 + self.off), self.at);
                if reading != Reading::Steady {
                    self.seen.push(reading);
                }
            }
        }

        /// By how many days the time of day is off.
        fn off_by(&self) -> i64 {
            (self.time.now(self.at).0 - truth(self.at).0) / DAY
        }

        fn is_held(&self) -> bool {
            self.time.is_held(self.at)
        }
    }

    #[test]
    fn a_moment_of_a_wrong_clock_changes_nothing_and_holds_back_for_a_minute() {
        for off in [400 * DAY, -400 * DAY] {
            let mut clocks = Clocks::start(0);
            clocks.run(10);
            assert!(!clocks.is_held());
            clocks.off = off;
            clocks.run(3);
            assert_eq!((clocks.off_by(), clocks.is_held()), (0, true));
            assert_eq!(clocks.time.departure(), off);
            clocks.off = 0;
            clocks.run(55);
            assert_eq!((clocks.off_by(), clocks.is_held()), (0, true));
            clocks.run(6);
            assert!(!clocks.is_held());
            assert_eq!(clocks.seen, [Reading::Departed(off), Reading::Returned]);
        }
    }

    #[test]
    fn a_clock_that_was_set_is_believed_within_a_minute_and_acted_on_after_it() {
        let mut clocks = Clocks::start(400 * DAY);
        clocks.run(600);
        assert_eq!(clocks.off_by(), 400);
        clocks.off = 0;
        clocks.run(29);
        assert_eq!(clocks.off_by(), 400);
        clocks.run(3);
        assert_eq!((clocks.off_by(), clocks.is_held()), (0, true));
        assert_eq!(clocks.time.lead(clocks.at), STEADY_LEAD);
        clocks.run(30);
        assert!(!clocks.is_held());
        assert_eq!(clocks.seen, [Reading::Departed(-400 * DAY), Reading::Believed(-400 * DAY)]);
    }

    #[test]
    fn a_clock_that_does_not_go_steadily_is_never_believed() {
        let mut clocks = Clocks::start(0);
        for days in 1..20 {
            clocks.off = days * DAY;
            clocks.run(20);
            assert_eq!((clocks.off_by(), clocks.is_held()), (0, true));
        }
    }

    #[test]
    fn a_clock_that_the_log_contradicts_at_the_start_is_doubted() {
        // Long after the newest event: perhaps nothing ran, perhaps the clock is wrong.
        let mut clocks = Clocks::start(400 * DAY);
        assert!(clocks.time.compare(truth(clocks.at), clocks.at));
        assert!(clocks.is_held());
        clocks.run(3);
        clocks.off = 0;
        clocks.run(1);
        assert_eq!((clocks.off_by(), clocks.is_held()), (0, true));
        clocks.run(61);
        assert!(!clocks.is_held());
        // What was dated then is ahead of the time.
        let mut clocks = Clocks::start(0);
        assert!(clocks.time.compare(Timestamp(truth(clocks.at).0 + 400 * DAY), clocks.at));
        assert_eq!(clocks.time.lead(clocks.at), MAX_LEAD);
        clocks.run(61);
        assert_eq!((clocks.is_held(), clocks.time.lead(clocks.at)), (false, STEADY_LEAD));
        // Nothing is wrong with a night's rest.
        let mut clocks = Clocks::start(0);
        assert!(!clocks.time.compare(Timestamp(truth(clocks.at).0 - DAY / 2), clocks.at));
        assert!(!clocks.is_held());
    }

    #[test]
    fn small_differences_are_made_up_for_without_going_back() {
        let mut clocks = Clocks::start(0);
        clocks.off = -1_500_000;
        let mut last = clocks.time.now(clocks.at);
        for _ in 0..30 {
            clocks.run(1);
            let now = clocks.time.now(clocks.at);
            assert!(now > last);
            last = now;
        }
        assert_eq!(last.0 - truth(clocks.at).0, -1_500_000);
        assert_eq!(clocks.seen, []);
    }

    #[test]
    fn a_clock_that_goes_too_fast_departs() {
        let mut clocks = Clocks::start(0);
        for _ in 0..60 {
            clocks.off += 1_000_000;
            clocks.run(1);
        }
        assert!(matches!(clocks.seen[..], [Reading::Departed(_), ..]), "{:?}", clocks.seen);
        assert!(clocks.is_held());
    }

    #[test]
    fn a_clock_that_knows_better_is_followed_at_once() {
        let mut clocks = Clocks::start(-3 * DAY);
        assert_eq!(clocks.time.follow(truth(clocks.at), clocks.at), 3 * DAY);
        clocks.off = 0;
        clocks.run(1);
        assert_eq!((clocks.off_by(), clocks.is_held(), clocks.seen.len()), (0, false, 0));
    }
}
