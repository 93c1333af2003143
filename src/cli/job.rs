//! What redrives and replays are answered with.

use serde::Deserialize;

use super::{Failure, output};

/// Of all services that have something to do.
#[derive(Deserialize)]
pub struct Begun {
    services: Vec<OfService>,
}

#[derive(Deserialize)]
struct OfService {
    service: String,
    count: u64,
    exact: bool,
    job_id: Option<i64>,
}

/// Prints a line for each service: what is `doing` (such as "redriving"), or what would be `done`.
pub fn tell(begun: &Begun, [doing, done]: [&str; 2], nothing: &str) -> Result<(), Failure> {
    if begun.services.is_empty() {
        output::say(format_args!("event-handler: {nothing}"));
    }
    begun.services.iter().try_for_each(|OfService { service, count, exact, job_id }| {
        let count = format!("{}{count}", if *exact { "" } else { "at least " });
        match job_id {
            Some(job) => output::print(format_args!("{service}: {doing} {count} (job {job})")),
            None => output::print(format_args!("{service}: {count} would be {done}")),
        }
    })
}
