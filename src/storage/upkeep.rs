//! Maintenance of the store, in small steps.

use std::time::Duration;

use crate::domain::event::Timestamp;
use crate::domain::lease::Fence;
use crate::domain::routes::{Routes, ServiceId};

use super::compact;
use super::connection::Connection;
use super::error::StoreError;
use super::leases;
use super::outbox::{self, Renewed};
use super::retention::{self, RetentionPolicy, Trimmed};
use super::state;
use super::writer::Writer;

impl Writer {
    /// One step of each running job, by who has the lease of `fence`; the services for which deliveries were made anew,
    /// with how many.
    pub fn step_replay_jobs(
        &mut self,
        fence: &Fence,
        routes: &Routes,
        now: Timestamp,
    ) -> Result<Vec<(ServiceId, Renewed)>, StoreError> {
        const MAX_RUNNING: usize = 64;
        let running = self.with(|connection| outbox::replay_jobs(connection, true, MAX_RUNNING))?;
        let mut stepped = Vec::new();
        for job in running {
            let renewed = self.transact(|connection| match leases::is_current(connection, fence)? {
                true => outbox::replay_step(connection, &job, routes, now),
                false => Ok(None),
            })?;
            if let Some(renewed) = renewed {
                stepped.push((job.job.service, renewed));
            }
        }
        Ok(stepped)
    }

    /// Shortens waits that a wrong clock has made too long, at most `max_rows` of each kind. `longest` says how long
    /// deliveries to each service may wait.
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

    /// Forgets up to `max_rows` of the entities that were deleted before `before`. Returns how many.
    pub fn forget_deleted(&mut self, before: Timestamp, max_rows: usize) -> Result<usize, StoreError> {
        self.with(|connection| state::forget_deleted(connection, before, max_rows))
    }

    /// Removes up to `max_rows` of the oldest events that `policy` does not keep. The newest event and events with open
    /// deliveries to a registered service always stay.
    pub fn trim(&mut self, policy: &RetentionPolicy, now: Timestamp, max_rows: usize) -> Result<Trimmed, StoreError> {
        let services = std::mem::take(&mut self.services);
        let trimmed = self.with(|connection| retention::trim(connection, policy, &services, now, max_rows));
        self.services = services;
        trimmed
    }

    /// Returns up to `max_pages` free pages to the file system. Returns whether more pages can be released.
    pub fn release_pages(&mut self, max_pages: u16) -> Result<bool, StoreError> {
        self.with(|connection| match connection {
            Connection::Sqlite(file) => compact::release_pages(file, max_pages),
            Connection::Postgres(_) => Ok(false),
        })
    }

    /// Removes up to `max_rows` idempotency keys that are older than the window. Returns how many it has removed.
    pub fn prune_idempotency(&mut self, now: Timestamp, max_rows: usize) -> Result<usize, StoreError> {
        let before = self.keys_since(now);
        self.with(|connection| retention::prune_keys(connection, before, max_rows))
    }
}
