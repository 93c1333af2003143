//! Catching up: how a subscriber that is behind, and the shard itself, read what they have missed.

use std::rc::Rc;
use std::time::Duration;

use actix::ActorFutureExt;
use actix::prelude::{AsyncContext, Context, WrapFuture};

use super::Shard;
use super::laggards::Laggards;
use super::messages::Place;
use super::subscriber::{Mode, Subscriber};
use crate::actors::push_log::PushLog;
use crate::domain::event::EventId;
use crate::domain::index::PatternIndex;
use crate::protocol::close::CloseReason;
use crate::protocol::log_batch::{LogBatch, LogEvent};
use crate::protocol::wire::Bundle;
use crate::storage::{Scan, ScanPage, StoreError};

/// Events and bytes of one page.
const PAGE_EVENTS: usize = 512;
const PAGE_BYTES: usize = 256 * 1024;
/// Most bytes queued for one subscriber in one turn, so that other subscribers get theirs.
const TURN_BYTES: usize = 64 * 1024;
/// Most bytes of payloads that are filtered for one subscriber in one turn.
const TURN_LOOKS: usize = 1024 * 1024;
/// Pause before a failed read is tried again.
const READ_RETRY: Duration = Duration::from_millis(500);

impl Shard {
    /// Queues the events that a subscriber has missed, as far as its send queue has room. When it has all of them, it
    /// goes live.
    pub(super) fn catch_up(&mut self, key: usize, ctx: &mut Context<Self>) {
        let head = self.head.position();
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if subscriber.connection.send_queue.is_closed() || subscriber.mode != (Mode::CatchingUp { reading: false }) {
            return;
        }
        if subscriber.connection.send_queue.queued_bytes() > self.parts.low_water() {
            self.await_drain(key);
            return;
        }
        if subscriber.subscriptions.is_empty() {
            subscriber.cursor.advance(head);
        }
        let place = Place { session: subscriber.session, slot: key };
        if !self.has_room_to_catch_up() {
            self.laggards.add_without_room(key);
            return;
        }
        let Some((subscriber, index)) = self.subscribers.with_index(place) else { return };
        let Some(events) = self.head.recent().after(subscriber.cursor.position()) else {
            return self.read_page(place, ctx);
        };
        let room = TURN_BYTES.min(self.parts.queue_limit());
        let scanned = queue_due(subscriber, events, index, &self.parts.pushes, room);
        subscriber.cursor.advance(scanned.through.unwrap_or(head));
        self.parts.metrics.caught_up(scanned.frames, scanned.bytes);
        if scanned.through.is_some() {
            self.await_drain(key);
        } else if subscriber.may_go_live(head) {
            subscriber.go_live();
        } else {
            self.laggards.add_early(key);
        }
    }

    /// Has the subscriber continue when it has taken most of what is queued.
    pub(super) fn await_drain(&mut self, key: usize) {
        let low = self.parts.low_water();
        if let Some(subscriber) = self.subscribers.get(key) {
            subscriber.connection.send_queue.arm_drain_notice(key, low);
        }
    }

    /// Continues a few of the subscribers that found the queues of all connections together full.
    pub(super) fn serve_without_room(&mut self, ctx: &mut Context<Self>) {
        for _ in Laggards::turn() {
            if !self.has_room_to_catch_up() {
                return;
            }
            let Some(key) = self.laggards.next_without_room() else { return };
            self.catch_up(key, ctx);
        }
        if self.laggards.begin_turn() {
            let turn = tokio::task::yield_now().into_actor(self);
            ctx.spawn(turn.map(|(), this, ctx| {
                this.laggards.end_turn();
                this.serve_without_room(ctx);
            }));
        }
    }

    /// A single subscriber may always continue: if nothing is queued, no queue can drain and wake it.
    fn has_room_to_catch_up(&self) -> bool {
        self.thread.queues.budget.has_room(TURN_BYTES) || self.thread.queues.budget.used() == 0
    }

    /// Continues the subscribers that wait for an event which was committed but not routed.
    pub(super) fn serve_early_subscribers(&mut self, ctx: &mut Context<Self>) {
        for key in self.laggards.take_early() {
            self.catch_up(key, ctx);
        }
    }

    fn read_page(&mut self, place: Place, ctx: &mut Context<Self>) {
        let head = self.head.position();
        let Some((subscriber, index)) = self.subscribers.with_index(place) else { return };
        subscriber.mode = Mode::CatchingUp { reading: true };
        if !self.reads.begin(place) {
            return;
        }
        let patterns = subscriber.subscriptions.iter().filter_map(|s| index.pattern(s.topic).cloned()).collect();
        let scan = Scan {
            after: subscriber.cursor.position(),
            through: Some(head),
            patterns,
            max_events: PAGE_EVENTS,
            max_bytes: PAGE_BYTES,
        };
        let opened = subscriber.cursor.opened();
        let reader = self.parts.reader.clone();
        let read = async move { reader.scan(scan).await };
        ctx.spawn(read.into_actor(self).map(move |page, this, ctx| this.take_page(place, opened, page, ctx)));
    }

    fn take_page(&mut self, place: Place, opened: u64, page: Result<ScanPage, StoreError>, ctx: &mut Context<Self>) {
        self.reads.end();
        self.serve_waiting_readers(ctx);
        let Some((subscriber, index)) = self.subscribers.with_index(place) else { return };
        subscriber.mode = Mode::CatchingUp { reading: false };
        match page {
            // The subscriber has subscribed meanwhile, perhaps from an earlier position, so the page may lack events.
            Ok(_) if subscriber.cursor.opened() != opened => self.catch_up(place.slot, ctx),
            Ok(page) if page.earliest > subscriber.cursor.position() + 1 && !covers_gap(subscriber, page.earliest) => {
                log::warn!(session = place.session, earliest_id = page.earliest; "session fell behind the retained history");
                subscriber.connection.close_now(CloseReason::BehindHistory);
            }
            Ok(page) => {
                let through = page.scanned_through;
                let events: Vec<LogEvent> = page.events.into_iter().map(LogEvent::from).collect();
                // The page is bounded, so all of it is queued.
                let scanned = queue_due(subscriber, events.iter(), index, &self.parts.pushes, usize::MAX);
                subscriber.cursor.advance(through);
                self.parts.metrics.caught_up(scanned.frames, scanned.bytes);
                self.catch_up(place.slot, ctx);
            }
            Err(error) if error.is_damage() => {
                log::error!(session = place.session, after = subscriber.cursor.position(), error:%; "history cannot be read, closing the client");
                subscriber.connection.close(CloseReason::HistoryUnreadable);
            }
            Err(error) => {
                log::warn!(session = place.session, error:% = error; "catch-up read failed, trying again");
                ctx.run_later(READ_RETRY, move |this, ctx| {
                    if this.subscribers.of(place).is_some() {
                        this.catch_up(place.slot, ctx);
                    }
                });
            }
        }
    }

    fn serve_waiting_readers(&mut self, ctx: &mut Context<Self>) {
        while let Some(next) = self.reads.next() {
            if let Some(subscriber) = self.subscribers.of_mut(next) {
                subscriber.mode = Mode::CatchingUp { reading: false };
                self.catch_up(next.slot, ctx);
            }
        }
    }

    /// Reads the store from the head on, since a batch was missed or another process has committed (RT-2).
    pub(super) fn fill_gap(&mut self, ctx: &mut Context<Self>) {
        if !self.reads.begin_filling() {
            return;
        }
        self.parts.metrics.gaps.inc();
        let after = self.head.position();
        // Nothing is shown that the writer has not seen, so that it would notice if the store lacked it one day.
        let through = Some(self.parts.position.last());
        let scan =
            Scan { after, through, patterns: Vec::new(), max_events: PAGE_EVENTS * 4, max_bytes: PAGE_BYTES * 4 };
        let reader = self.parts.reader.clone();
        let read = async move { reader.scan(scan).await };
        ctx.spawn(read.into_actor(self).map(move |page, this, ctx| this.take_fill(page, ctx)));
    }

    fn take_fill(&mut self, page: Result<ScanPage, StoreError>, ctx: &mut Context<Self>) {
        self.reads.end_filling();
        match page {
            Ok(mut page) => {
                let (through, head) = (page.scanned_through, self.head.position());
                if page.earliest > head + 1 {
                    // Retention has removed events that the shard had not read.
                    log::warn!(shard = self.thread.number, head, earliest_id = page.earliest; "shard fell behind the retained history");
                    self.close_live(page.earliest, CloseReason::BehindHistory);
                }
                // Batches after the head may have been routed while the page was read.
                let missed: Vec<_> =
                    std::mem::take(&mut page.events).into_iter().filter(|event| event.id > head).collect();
                if !missed.is_empty() {
                    self.deliver(LogBatch::new(head, missed), ctx);
                }
                if through > self.head.position() {
                    // The last events of the page were trimmed meanwhile.
                    self.skip_to(through);
                }
                if self.parts.position.last() > self.head.position() {
                    self.fill_gap(ctx);
                }
            }
            // The subscribers are closed. The shard continues with new events.
            Err(error) if error.is_damage() => {
                let (head, last) = (self.head.position(), self.parts.position.last());
                log::error!(shard = self.thread.number, after = head, through = last, error:%; "a gap cannot be read, closing the clients");
                self.close_live(last + 1, CloseReason::HistoryUnreadable);
                if last > head {
                    self.skip_to(last);
                }
            }
            Err(error) => log::warn!(shard = self.thread.number, error:% = error; "reading a gap failed, trying again"),
        }
    }

    /// Moves the head to `id`, whatever lies before it.
    pub(super) fn skip_to(&mut self, id: EventId) {
        self.polls.wake_all();
        self.head.skip_to(id);
    }

    /// Closes the live subscribers that may miss events between the head and `earliest`: a gap is never silent.
    fn close_live(&self, earliest: EventId, reason: CloseReason) {
        for subscriber in
            self.subscribers.iter().filter(|subscriber| subscriber.is_live() && !covers_gap(subscriber, earliest))
        {
            subscriber.connection.close_now(reason);
        }
    }
}

/// Whether all subscriptions of this subscriber begin at `earliest` or later.
fn covers_gap(subscriber: &Subscriber, earliest: EventId) -> bool {
    subscriber.subscriptions.iter().all(|s| s.window.from() + 1 >= earliest)
}

struct Scanned {
    frames: u64,
    bytes: u64,
    /// The last decided event, if there was no room for more; `None` when all events were decided.
    through: Option<EventId>,
}

/// Queues the `events` that are due to the subscriber, until `room` bytes are queued.
fn queue_due<'a>(
    subscriber: &mut Subscriber,
    events: impl Iterator<Item = &'a LogEvent>,
    index: &PatternIndex,
    pushes: &PushLog,
    room: usize,
) -> Scanned {
    let send_queue = Rc::clone(&subscriber.connection.send_queue);
    // A page from the store is bounded already.
    let mut looks = if subscriber.has_filters() && room < usize::MAX { TURN_LOOKS } else { usize::MAX };
    let room = room.saturating_sub(send_queue.queued_bytes());
    let mut scanned = Scanned { frames: 0, bytes: 0, through: None };
    let wire = subscriber.connection.wire;
    let mut joined = Bundle::new(wire);
    let mut last = subscriber.cursor.position();
    for event in events {
        if looks == 0 {
            scanned.through = Some(last);
            break;
        }
        looks = looks.saturating_sub(event.event.payload.len().max(1));
        if let Some(envelope) = subscriber.due(&event.event, index) {
            let frame = event.frame(wire, envelope);
            if !joined.is_empty() && joined.len() + frame.len() > room {
                scanned.through = Some(last);
                break;
            }
            joined.add(frame);
            pushes.add(event.event.id, 1);
            scanned.frames += 1;
        }
        last = event.event.id;
    }
    subscriber.frames += scanned.frames;
    let joined = joined.finish();
    scanned.bytes = joined.len() as u64;
    send_queue.push(joined);
    scanned
}
