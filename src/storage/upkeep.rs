//! What a log needs now and then, a small step at a time.

use std::time::Duration;

use crate::domain::event::Timestamp;
use crate::domain::routes::{Routes, ServiceId};

use super::compact;
use super::connection::Connection;
use super::error::StoreError;
use super::outbox::{self, Renewed};
use super::retention::{self, RetentionPolicy, Trimmed};
use super::writer::Writer;

impl Writer {
    /// One step of each running job; the services for which deliveries were made anew, with how many.
    pub fn step_jobs(&mut self, routes: &Routes, now: Timestamp) -> Result<Vec<(ServiceId, Renewed)>, StoreError> {
        const MAX_RUNNING: usize = 64;
        let running = self.with(|connection| outbox::jobs(connection, true, MAX_RUNNING))?;
        let mut stepped = Vec::new();
        for job in running {
            if let Some(renewed) = self.transact(|connection| outbox::replay_step(connection, &job, routes, now))? {
                stepped.push((job.job.service, renewed));
            }
        }
        Ok(stepped)
    }

    /// Brings what waits for longer than it can, because the clock was wrong when it was stored, back to `now`: at most
    /// `max_rows` of each kind. `longest` is how long deliveries to each service may wait.
    pub fn bound_waits(
        &mut self,
        longest: &[(ServiceId, Duration)],
        now: Timestamp,
        max_rows: usize,
    ) -> Result<(), StoreError> {
        self.with(|connection| {
            retention::bound_keys(connection, now, max_rows)?;
            outbox::bound_waits(connection, longest, now, max_rows)
        })
    }

    /// Removes up to `max_rows` of the oldest events that `policy` does not keep; never the newest event.
    /// Nor an event that is still to be delivered to a registered service.
    pub fn trim(&mut self, policy: &RetentionPolicy, now: Timestamp, max_rows: usize) -> Result<Trimmed, StoreError> {
        let services = std::mem::take(&mut self.services);
        let trimmed = self.with(|connection| retention::trim(connection, policy, &services, now, max_rows));
        self.services = services;
        trimmed
    }

    /// Gives up to `max_pages` pages that nothing is stored in back to the file system; whether more are to go.
    pub fn release_pages(&mut self, max_pages: u16) -> Result<bool, StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(file) => compact::release_pages(file, max_pages),
            Connection::Postgres(_) => Ok(false),
        })
    }

    /// Forgets up to `max_rows` idempotency keys that are older than the window; returns how many.
    pub fn prune_idempotency(&mut self, now: Timestamp, max_rows: usize) -> Result<usize, StoreError> {
        let before = self.keys_since(now);
        self.with(|connection| retention::prune_keys(connection, before, max_rows))
    }
}
