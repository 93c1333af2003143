//! The time of day, and a clock for waits.
//!
//! Stored and published times come from [`now`], the time of day as [`TimeOfDay`] judges it: a wall clock that is wrong
//! for a moment does not change it. Waits in memory use [`steady`] or a [`Clock`], which nobody can set.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::domain::event::Timestamp;
use crate::domain::time_of_day::{Reading, TimeOfDay, TimeSpans};
use crate::protocol::publish::Scheduling;

static PROCESS: LazyLock<ProcessTime> = LazyLock::new(|| {
    let time = TimeOfDay::new(wall(), counted(), spans());
    ProcessTime { base: AtomicI64::new(time.base()), state: Mutex::new(State { time, is_told: false }) }
});

struct ProcessTime {
    /// A copy of the base in `state`, which is read without the lock.
    base: AtomicI64,
    state: Mutex<State>,
}

struct State {
    time: TimeOfDay,
    /// The clock of a database is followed.
    is_told: bool,
}

#[cfg(test)]
thread_local! {
    static SIMULATED: std::cell::Cell<Option<Timestamp>> = const { std::cell::Cell::new(None) };
}

/// Until it is called again, it is that time on this thread, by all clocks of this module but [`Clock`].
#[cfg(test)]
pub fn simulate(at: Option<Timestamp>) {
    SIMULATED.set(at);
}

/// The time of day.
pub fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(at) = SIMULATED.get() {
        return at;
    }
    Timestamp(PROCESS.base.load(Ordering::Relaxed).saturating_add(steady().0))
}

/// A clock that only counts, for rates and waits in memory. It does not tell the time of day.
pub fn steady() -> Timestamp {
    #[cfg(test)]
    if let Some(at) = SIMULATED.get() {
        return at;
    }
    Timestamp(i64::try_from(counted().as_micros()).unwrap_or(i64::MAX))
}

/// How sure the time of day is, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Certainty {
    /// Nothing irreversible may be done now, such as trimming.
    pub is_held: bool,
    /// By how much dates of events may be ahead of the time of day.
    pub lead: Duration,
    /// By how many seconds the wall clock is off.
    pub departure: f64,
}

/// How sure the time of day is.
pub fn certainty() -> Certainty {
    let (state, at) = (lock(), counted());
    Certainty {
        is_held: state.time.is_held(at),
        lead: state.time.lead(at),
        departure: state.time.departure() as f64 / 1e6,
    }
}

/// Reads the wall clock; called twice a second. Returns whether the time of day was set.
pub fn look() -> bool {
    let mut state = lock();
    if state.is_told { false } else { take_reading(&mut state, wall(), counted()) }
}

/// A database that several nodes share has told the time. From the first time on no other clock is read. Returns
/// whether the time of day was set.
pub fn told(time: Timestamp, at: Timestamp) -> bool {
    let mut state = lock();
    let at = Duration::from_micros(u64::try_from(at.0).unwrap_or_default());
    if std::mem::replace(&mut state.is_told, true) {
        return take_reading(&mut state, time, at);
    }
    let off = state.time.follow(time, at);
    PROCESS.base.store(state.time.base(), Ordering::Relaxed);
    if off.abs() > 2_000_000 {
        log::warn!(seconds = off as f64 / 1e6; "this machine's clock differs from that of the database, which is followed");
    }
    true
}

/// Compares the time with the newest date in the log, once at the start.
pub fn compare(newest: Timestamp) {
    let mut state = lock();
    let at = counted();
    if state.time.compare(newest, at) {
        log::warn!(newest:% = newest, now:% = state.time.now(at); "the newest event is from another time: trimming and schedules wait until the clock has been steady");
    }
}

fn take_reading(state: &mut State, wall: Timestamp, at: Duration) -> bool {
    let reading = state.time.read(wall, at);
    PROCESS.base.store(state.time.base(), Ordering::Relaxed);
    let seconds = |micros: i64| micros as f64 / 1e6;
    match reading {
        Reading::Steady => return false,
        Reading::Departed(by) => {
            log::warn!(seconds = seconds(by); "the clock was set or is wrong: trimming and schedules wait until it has been steady");
        }
        Reading::Returned => log::info!("the clock is right again"),
        Reading::Believed(by) => log::warn!(seconds = seconds(by); "the clock is steady and believed"),
    }
    matches!(reading, Reading::Believed(_))
}

fn lock() -> MutexGuard<'static, State> {
    PROCESS.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This clock also counts while the machine sleeps, so that waking up is no departure.
#[cfg(target_os = "linux")]
fn counted() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(at.tv_sec).unwrap_or_default(), u32::try_from(at.tv_nsec).unwrap_or_default())
}

#[cfg(not(target_os = "linux"))]
fn counted() -> Duration {
    static BEGIN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    BEGIN.elapsed()
}

fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall = Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX));
    #[cfg(feature = "fault-injection")]
    let wall = Timestamp(wall.0.saturating_add(fault::offset()));
    wall
}

fn spans() -> TimeSpans {
    #[cfg(feature = "fault-injection")]
    return fault::spans();
    #[cfg(not(feature = "fault-injection"))]
    TimeSpans::default()
}

/// A wall clock that tests can set. `EVENT_HANDLER_FAULT_CLOCK` names a file with the seconds by which it is off, and
/// `EVENT_HANDLER_FAULT_CLOCK_STEADY` has the milliseconds after which it counts as steady.
#[cfg(feature = "fault-injection")]
mod fault {
    use super::{Duration, TimeSpans};

    pub fn offset() -> i64 {
        let file = std::env::var_os("EVENT_HANDLER_FAULT_CLOCK");
        let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        text.trim().parse::<i64>().unwrap_or_default() * 1_000_000
    }

    pub fn spans() -> TimeSpans {
        let steady = std::env::var("EVENT_HANDLER_FAULT_CLOCK_STEADY").ok().and_then(|text| text.parse().ok());
        steady.map(Duration::from_millis).map_or_else(TimeSpans::default, |hold| TimeSpans { believe: hold / 2, hold })
    }
}

/// A clock for waits in memory: the time of day at its start, and the time counted since. Setting the time of day does
/// not change it.
pub struct Clock {
    base: Timestamp,
    begin: tokio::time::Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { base: now(), begin: tokio::time::Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        self.base.plus(self.begin.elapsed())
    }

    /// The time of day when this clock shows `at`.
    pub fn time_of_day(&self, at: Timestamp) -> Timestamp {
        Timestamp(at.0.saturating_sub(self.lead()))
    }

    /// Microseconds by which this clock is ahead of the time of day.
    pub fn lead(&self) -> i64 {
        self.now().0.saturating_sub(now().0)
    }
}

/// What is needed to read a publish for later.
pub fn scheduling() -> Scheduling {
    Scheduling { now: now(), random: rand::random() }
}
