//! The time of day.

use std::time::SystemTime;

use crate::domain::event::Timestamp;
use crate::protocol::publish::Scheduling;

/// Now.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// What a publish for later needs.
pub fn scheduling() -> Scheduling {
    Scheduling { now: now(), random: rand::random() }
}
