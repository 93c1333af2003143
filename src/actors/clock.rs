//! The time of day.

use std::time::SystemTime;

use crate::domain::event::Timestamp;
use crate::protocol::publish::Scheduling;

/// Now.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// The time of day, which goes neither back nor faster or slower while its owner lives.
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
}

/// What a publish for later needs.
pub fn scheduling() -> Scheduling {
    Scheduling { now: now(), random: rand::random() }
}
