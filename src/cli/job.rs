//! What redrives and replays are answered with.

use serde::Deserialize;

use super::{Failure, output};

/// Of all services that have something to do.
#[derive(Deserialize)]
pub struct Begun {
    dry_run: bool,
    services: Vec<OfService>,
}

#[derive(Deserialize)]
struct OfService {
    service: String,
    count: u64,
    exact: bool,
    job_id: Option<i64>,
}

/// Prints what is `done` (such as "redriven"), a line for each service.
pub fn tell(begun: &Begun, done: &str, nothing: &str) -> Result<(), Failure> {
    if begun.services.is_empty() {
        output::say(format_args!("event-handler: {nothing}"));
    }
    let will_be = if begun.dry_run { "would be" } else { "are being" };
    begun.services.iter().try_for_each(|OfService { service, count, exact, job_id }| {
        let count = format!("{}{count}", if *exact { "" } else { "at least " });
        let job = job_id.map(|job| format!(" (job {job})")).unwrap_or_default();
        output::print(format_args!("{service}: {count} {will_be} {done}{job}"))
    })
}
