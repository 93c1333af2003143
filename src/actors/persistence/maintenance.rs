//! The periodic work of persistence: checking the store and the clock, and removing what is no longer retained.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::registry::ServiceRegistry;
use super::{Persistence, leases};
use crate::actors::clock::{self, now};
use crate::domain::event::{LogBounds, Timestamp};
use crate::domain::follow::Awaited;
use crate::protocol::log_batch::LogBatch;
use crate::storage::{Group, StoreError, StoreErrorKind, StoreUrl, Writer};

/// The longest time between two steps of housekeeping: retention and expired idempotency keys.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// How often deliveries are looked for whose retry is too far off because the clock was wrong.
const BOUNDING_INTERVAL: Duration = Duration::from_secs(60);
/// Most rows that one step removes, since publishes wait behind it.
const HOUSEKEEPING_ROWS: usize = 500;
/// Most free pages of a SQLite file that one step releases, since publishes wait behind it.
const RELEASED_PAGES: u16 = 64;

impl Persistence {
    /// Reads the clock of a database that several nodes share, or else the clock of this machine.
    fn look_at_clock(&mut self) {
        /// An answer that takes longer tells the time too inexactly.
        const PATIENCE: Duration = Duration::from_secs(1);
        let is_set = match self.parts.store.url {
            StoreUrl::Sqlite(_) => clock::look(),
            StoreUrl::Postgres(_) => {
                let asked = clock::steady();
                let mut time = None;
                self.at_writer(|_, writer| {
                    time = writer.time_of_day()?;
                    Ok(())
                });
                let took = clock::steady().since(asked);
                time.filter(|_| took < PATIENCE).is_some_and(|time| clock::told(time, asked.plus(took / 2)))
            }
        };
        if is_set {
            self.next_bounding = Instant::now();
        }
        self.parts.metrics.clock_departure.set(clock::certainty().departure);
    }

    /// Opens or checks the store, and announces events that other processes have committed.
    pub(super) fn tick(&mut self) {
        if matches!(self.parts.store.url, StoreUrl::Sqlite(_)) {
            self.look_at_clock();
        }
        let health = Arc::clone(&self.parts.health);
        let _operation = health.begin();
        let known = self.parts.position.get();
        let Some(bounds) = self.watch.check(&self.parts.position) else { return };
        if matches!(self.parts.store.url, StoreUrl::Postgres(_)) {
            self.look_at_clock();
        }
        if known.is_none() {
            self.at_writer(|_, writer| {
                writer.newest_at()?.into_iter().for_each(clock::compare);
                Ok(())
            });
        }
        self.tell_of_others(known, bounds);
        self.recall();
        self.at_writer(|registry, writer| match registry.routes() {
            None => registry.register(writer, now()),
            Some(_) => registry.resolve_doubt(writer),
        });
        self.go_on_if_set_back();
        let Self { watch, duties, placement, parts, .. } = self;
        if let Ok(writer) = watch.writer()
            && let Err(error) = duties.ask(writer, leases::seeker(&parts.cluster, placement))
        {
            watch.failed(error);
        }
    }

    /// Looks how far the log reaches, since other nodes may have committed something.
    pub(super) fn look_at_log(&mut self) {
        let Some(known) = self.parts.position.get() else { return };
        let mut found = known;
        self.at_writer(|_, writer| {
            found = writer.bounds()?;
            Ok(())
        });
        self.parts.position.set(found);
        if self.tell_of_others(Some(known), found) {
            self.parts.metrics.relay_hints.inc();
        }
    }

    /// Tells everybody if the log goes on beyond what was known; whether it does.
    fn tell_of_others(&mut self, known: Option<LogBounds>, bounds: LogBounds) -> bool {
        let is_new = known.is_none_or(|known| bounds.last > known.last);
        if is_new {
            self.tell_router(LogBatch::new(bounds.last, Vec::new()));
            self.registry.others_have_committed();
            self.registry.wake_all();
        }
        is_new
    }

    /// Other nodes have committed batches that the router has got already.
    pub(super) fn note_relayed(&mut self) {
        self.registry.others_have_committed();
        self.registry.wake_all();
    }

    /// Looks whether the log has the event that Redis remembers.
    pub(super) fn recall(&mut self) {
        let Some(seen) = self.recalled else { return };
        let mut is_done = false;
        self.at_writer(|_, writer| {
            writer.recall(seen)?;
            is_done = true;
            Ok(())
        });
        self.recalled = self.recalled.filter(|_| !is_done);
    }

    /// Goes on after a set-back, if the store is known to have been set back.
    pub(super) fn go_on_if_set_back(&mut self) {
        if self.watch.writer().is_ok_and(|writer| writer.is_set_back()) {
            self.go_on_after_set_back();
        }
    }

    /// The store lacks events that are known. A commit says so, before anything is published; if it fails, the next tick
    /// tries again.
    fn go_on_after_set_back(&mut self) {
        // Numbers that were known before the set-back are wrong.
        self.registry.doubt();
        let _ = self.write(&mut Group::default());
        self.at_writer(|registry, writer| registry.resolve_doubt(writer));
    }

    /// Does `work` on the writer if the store works.
    pub(super) fn at_writer(&mut self, work: impl FnOnce(&mut ServiceRegistry, &mut Writer) -> Result<(), StoreError>) {
        if let Ok(writer) = self.watch.writer()
            && let Err(error) = work(&mut self.registry, writer)
        {
            self.watch.failed(error);
        }
    }

    /// Makes one step of housekeeping, and another after `pause` if free pages were released.
    pub(super) fn housekeeping(&mut self, pause: Duration) {
        self.next_housekeeping = Instant::now() + HOUSEKEEPING_INTERVAL;
        match self.housekeeping_step(pause) {
            Ok(Some(pause)) => self.next_housekeeping = Instant::now() + pause,
            Ok(None) => {}
            Err(error) if error.kind == StoreErrorKind::Busy => {}
            Err(error) => drop(self.watch.failed(error)),
        }
    }

    /// Makes one step. Returns in what time another one is due, if it is.
    fn housekeeping_step(&mut self, pause: Duration) -> Result<Option<Duration>, StoreError> {
        let _operation = self.parts.health.begin();
        let Ok(writer) = self.watch.writer() else {
            return Ok(None);
        };
        let mut more = false;
        let cluster = &self.parts.cluster;
        let mut waits_for = None;
        if self.duties.retention.fence(cluster).is_some() && !clock::certainty().is_held {
            if Instant::now() >= self.next_bounding {
                self.next_bounding = Instant::now() + BOUNDING_INTERVAL;
                writer.bound_waits(&self.registry.longest_waits(), now(), HOUSEKEEPING_ROWS)?;
            }
            more |= writer.prune_idempotency(now(), HOUSEKEEPING_ROWS)? >= HOUSEKEEPING_ROWS;
            let kept = i64::try_from(self.parts.tombstone_ttl.as_micros()).unwrap_or(i64::MAX);
            let forgotten = writer.forget_deleted(Timestamp(now().0.saturating_sub(kept)), HOUSEKEEPING_ROWS)?;
            more |= forgotten >= HOUSEKEEPING_ROWS;
            if self.parts.retention.has_limits() {
                let trimmed = writer.trim(&self.parts.retention, now(), HOUSEKEEPING_ROWS)?;
                if trimmed.removed > 0 {
                    self.parts.metrics.trimmed.inc_by(trimmed.removed as u64);
                    let bounds = writer.bounds()?;
                    self.parts.position.set(bounds);
                }
                more |= trimmed.more_due;
                waits_for = trimmed.waits_for;
            }
        }
        if self.parts.health.retention_waits_for(waits_for) {
            match waits_for.map(Awaited::as_str) {
                Some(follower) => log::warn!(follower; "retention waits until the oldest events were read"),
                None => log::info!("retention waits for nobody"),
            }
        }
        for awaited in Awaited::ALL {
            let waits = self.parts.metrics.retention_waits.with_label_values(&[awaited.as_str()]);
            waits.set((waits_for == Some(awaited)).into());
        }
        self.registry.look_at_schedules(writer)?;
        if let Some(fence) = self.duties.jobs.fence(cluster) {
            more |= self.registry.step_jobs(writer, fence, now())?;
        }
        if more {
            return Ok(Some(Duration::ZERO));
        }
        Ok(writer.release_pages(RELEASED_PAGES)?.then_some(pause))
    }
}
