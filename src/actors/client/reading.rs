//! What a client reads from the store, and when it reads again.

use std::time::Duration;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};

use super::claims::Moment;
use super::{Client, STORE_RETRY, TICK_INTERVAL};
use crate::actors::clock::now;
use crate::domain::event::Timestamp;
use crate::storage::{Claimed, StoreError};

/// A page of claims ends with the event by which its size reaches this.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Whether the store can be read, and when the next round through the due deliveries begins.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The last read of a page of claims failed.
    has_failed: bool,
    next: Option<(Timestamp, SpawnHandle)>,
    /// When the next known retry is due that is not in hand.
    next_due: Option<Timestamp>,
}

impl Rounds {
    pub(super) fn can_read(&self) -> bool {
        !self.has_failed
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.next_due
    }

    /// A retry is due at this time.
    pub(super) fn expect_due(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |known| known.min(due)));
    }
}

impl Client {
    /// Reads the next page of claims, if there is room and none is under way.
    pub(super) fn read(&mut self, ctx: &mut Context<Self>) {
        let Some(service) = self.kept.id() else { return };
        let Some(read) = self.claims.next_read(&self.dispatcher, now()) else { return };
        let reader = self.parts.reader.clone();
        let max_rows = read.max_rows;
        let rows = async move { reader.claim(service, read.claim, max_rows, PAGE_BYTES).await };
        ctx.spawn(rows.into_actor(self).map(move |rows, this, ctx| this.take_page(rows, max_rows, ctx)));
    }

    fn take_page(&mut self, rows: Result<Vec<Claimed>, StoreError>, max_rows: usize, ctx: &mut Context<Self>) {
        let had_failed = std::mem::replace(&mut self.rounds.has_failed, rows.is_err());
        match rows {
            Ok(rows) => {
                // A page with fewer rows and bytes than asked for is the last one.
                let bytes: usize = rows.iter().map(|row| row.event.memory()).sum();
                let is_whole = rows.len() < max_rows && bytes < PAGE_BYTES;
                let moment = Moment { now: now(), lead: self.clock.lead() };
                if let Some(through) = self.claims.take(rows, is_whole, &mut self.dispatcher, moment) {
                    self.await_next_due(through, ctx);
                }
                self.pump(ctx);
            }
            Err(error) => {
                if !had_failed {
                    log::warn!(service = self.name(), error:%; "what is to be delivered cannot be read, trying again");
                }
                ctx.run_later(STORE_RETRY, |this, ctx| {
                    this.claims.failed();
                    this.pump(ctx);
                });
            }
        }
    }

    /// Begins another round when the first retry is due that is not yet due at `through`.
    fn await_next_due(&mut self, through: Timestamp, ctx: &mut Context<Self>) {
        let Some(service) = self.kept.id() else { return };
        let reader = self.parts.reader.clone();
        let next = async move { reader.next_due(service, through).await };
        ctx.spawn(next.into_actor(self).map(|next, this, ctx| match next {
            Ok(None) => this.rounds.next_due = None,
            Ok(Some(due)) => {
                this.rounds.next_due = Some(due);
                this.begin_round_at(due, ctx);
            }
            Err(_) => this.begin_round_at(now().plus(STORE_RETRY), ctx),
        }));
    }

    /// Begins another round at `due`, unless an earlier one is planned.
    pub(super) fn begin_round_at(&mut self, due: Timestamp, ctx: &mut Context<Self>) {
        // The tick begins a round anyway, so nothing later need be planned.
        let due = due.min(now().plus(TICK_INTERVAL * 2));
        if let Some((earlier, timer)) = self.rounds.next.take() {
            if earlier <= due {
                self.rounds.next = Some((earlier, timer));
                return;
            }
            ctx.cancel_future(timer);
        }
        let timer = ctx.run_later(due.since(now()), |this, ctx| {
            this.rounds.next = None;
            this.claims.begin_round();
            this.pump(ctx);
        });
        self.rounds.next = Some((due, timer));
    }

    /// Observes how long the oldest open delivery has waited.
    pub(super) fn observe_oldest(&self, ctx: &mut Context<Self>) {
        let Some(service) = self.kept.id().filter(|_| self.lease.is_held()) else {
            return self.metrics.oldest(Duration::ZERO);
        };
        let reader = self.parts.reader.clone();
        let oldest = async move { reader.oldest_open(service).await };
        ctx.spawn(oldest.into_actor(self).map(|oldest, this, _| {
            if let Ok(oldest) = oldest {
                let age = oldest.map(|event| now().since(event.created_at));
                this.metrics.oldest(age.unwrap_or_default());
            }
        }));
    }
}
