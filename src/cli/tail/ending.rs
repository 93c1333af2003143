//! How a connection of `tail` ends, and when the next one is made.

use std::time::Duration;

use awc::ws::CloseReason;

use crate::cli::Failure;

/// The pause before the first attempt to connect again. It doubles up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How a connection ended.
pub enum Ended {
    /// It is made again, after a pause or at once.
    Lost { reason: String, at_once: bool },
    /// The command ends: nobody reads its output any more.
    Unread,
    /// The command fails: connecting again would not help.
    Refused(Failure),
}

/// A connection that is lost for `reason`, and is made again after a pause.
pub fn lost(reason: &str) -> Ended {
    Ended::Lost { reason: reason.to_owned(), at_once: false }
}

/// How the close code asks the subscriber to go on: 4000–4099 stay away, 4200–4299 come back at once.
pub fn closed(reason: Option<CloseReason>) -> Ended {
    let Some(CloseReason { code, description }) = reason else { return lost("closed by the service") };
    let code = u16::from(code);
    let reason = format!("closed by the service: {code} {}", description.unwrap_or_default());
    match code {
        4000..=4099 => Ended::Refused(Failure::Failed(reason)),
        _ => Ended::Lost { reason, at_once: (4200..=4299).contains(&code) },
    }
}

/// The pause before the next attempt. It doubles with each attempt and has jitter, so that many subscribers do not come
/// back at once.
pub fn pause(attempts: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << attempts.min(6)).min(LONGEST_PAUSE);
    longest.mul_f64(rand::random_range(0.5..1.0))
}
