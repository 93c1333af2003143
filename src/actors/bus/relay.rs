//! The relay by Redis: batches that this node has committed go to the other nodes, and theirs come.
//!
//! - *RL-1* A batch is shown only if a node on the same store has sealed it, and if it continues what is known of the
//!   log. Whatever else comes is a hint at most: the store is read.
//! - *RL-2* A batch is sent after its commit, and no commit waits for it: what cannot be sent is dropped, and the other
//!   nodes find the gap.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::BusParts;
use super::standing::Standing;
use crate::actors::clock::steady;
use crate::actors::persistence::messages::{EventsCommitted, LookDue, NoteRelayed, RelayBatch};
use crate::actors::relay::Looks;
use crate::bus::{BusError, Link, Subscription};
use crate::domain::log::Seen;
use crate::domain::relay::{Verdict, Window};
use crate::protocol::log_batch::LogBatch;
use crate::protocol::relay::{RelayKey, Relayed};
use crate::runtime::address::Undelivered;
use crate::runtime::stop::Stop;

/// The name of the part.
pub const PART: &str = "relay";
/// Batches that may wait to be sent, and the memory that they may take.
const MAX_WAITING: usize = 1024;
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Batches that are sent at a time.
const MAX_SENT: usize = 64;
/// How often it is looked whether the log is still the same.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a batch is looked at again that waits for what precedes it.
const RECHECK: Duration = Duration::from_millis(1);

/// Batches that wait to be sent. While they cannot be sent there are none, because the other nodes read the store.
#[derive(Default)]
pub struct Outgoing {
    waiting: RefCell<Waiting>,
    has_come: Notify,
    sent: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    is_open: bool,
    batches: VecDeque<RelayBatch>,
    bytes: usize,
}

impl Outgoing {
    /// Takes a batch; whether there was room for it.
    pub fn push(&self, batch: RelayBatch) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let bytes = batch.batch.memory();
        let has_room = waiting.batches.len() < MAX_WAITING && waiting.bytes + bytes <= MAX_WAITING_BYTES;
        let takes = waiting.is_open && (has_room || waiting.batches.is_empty());
        if takes {
            waiting.bytes += bytes;
            waiting.batches.push_back(batch);
            self.has_come.notify_one();
        } else {
            self.dropped.fetch_add(1, Relaxed);
        }
        takes
    }

    fn set_open(&self, is_open: bool) {
        *self.waiting.borrow_mut() = Waiting { is_open, ..Waiting::default() };
    }

    /// The next batches, when there are some.
    async fn take(&self) -> Vec<RelayBatch> {
        loop {
            {
                let mut waiting = self.waiting.borrow_mut();
                let count = waiting.batches.len().min(MAX_SENT);
                let taken: Vec<_> = waiting.batches.drain(..count).collect();
                waiting.bytes -= taken.iter().map(|taken| taken.batch.memory()).sum::<usize>();
                if !taken.is_empty() {
                    return taken;
                }
            }
            self.has_come.notified().await;
        }
    }

    pub fn describe(&self) -> Value {
        let waiting = self.waiting.borrow();
        json!({
            "is_connected": waiting.is_open,
            "waiting": waiting.batches.len(),
            "sent": self.sent.load(Relaxed),
            "dropped": self.dropped.load(Relaxed),
        })
    }
}

/// See the module.
pub struct Relay {
    parts: BusParts,
    looks: Looks,
    standing: Standing,
    stop: Stop,
    outgoing: Rc<Outgoing>,
    is_note_due: Arc<AtomicBool>,
}

impl Relay {
    pub fn new(parts: &BusParts, looks: Looks, (standing, stop): (Standing, Stop), outgoing: Rc<Outgoing>) -> Self {
        Self { parts: parts.clone(), looks, standing, stop, outgoing, is_note_due: Arc::default() }
    }

    /// Sends and receives until it is to stop, or Redis fails.
    pub async fn run(&self) -> Result<(), BusError> {
        loop {
            let work = self.relay();
            let Some(ended) = self.stop.or(work).await else { return Ok(()) };
            ended?;
        }
    }

    /// For as long as the log is the same.
    async fn relay(&self) -> Result<(), BusError> {
        let key = self.key().await;
        let (redis, channel) = (&self.parts.redis, key.channel());
        let (subscription, link) = tokio::try_join!(redis.subscribe(&channel), redis.connect())?;
        let _open = Open::begin(&self.outgoing, &self.looks);
        self.standing.up(PART);
        // What was sent before is read from the store.
        self.looks.look();
        tokio::select! {
            ended = self.receive(subscription, &key) => ended,
            ended = self.send(link, &channel) => ended,
        }
    }

    /// That of the log, once the store was opened.
    async fn key(&self) -> Arc<RelayKey> {
        loop {
            match self.parts.position.relay_key() {
                Some(key) => return key,
                None => tokio::time::sleep(RECHECK).await,
            }
        }
    }

    async fn send(&self, mut link: Link, channel: &str) -> Result<(), BusError> {
        loop {
            let mut commands = redis::pipe();
            for RelayBatch { batch, key } in self.outgoing.take().await {
                for message in key.write(&batch) {
                    commands.cmd("PUBLISH").arg(channel).arg(message);
                }
            }
            for answer in link.ask_all(&commands).await? {
                answer?;
                self.outgoing.sent.fetch_add(1, Relaxed);
                self.parts.metrics.relay_sent.with_label_values(&["sent"]).inc();
            }
        }
    }

    /// Until the log has another identity, and so another channel.
    async fn receive(&self, mut subscription: Subscription, of: &RelayKey) -> Result<(), BusError> {
        let mut window = Window::default();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = subscription.next() => {
                    self.take(&mut window, &message?);
                    // All that has come, or else more could come in each turn than is taken.
                    while let Some(message) = subscription.next().now_or_never() {
                        self.take(&mut window, &message?);
                    }
                }
                () = tokio::time::sleep(RECHECK), if window.is_waiting() => {
                    self.route(&mut window);
                    if window.expire(steady()) {
                        self.gap();
                    }
                }
                _ = looks.tick() => if self.parts.position.log_id() != Some(of.log()) {
                    return Ok(());
                },
            }
        }
    }

    fn take(&self, window: &mut Window<Opened>, message: &[u8]) {
        let position = &self.parts.position;
        let Some(message) = Relayed::parse(message) else { return self.count("unproven") };
        // Own ones are known too.
        if message.span.last <= position.last() {
            return self.count("known");
        }
        // The key is that of now: a batch of an earlier run of the server may be gone.
        let Some(key) = position.relay_key() else { return self.count("unproven") };
        let Some(events) = message.open(&key) else { return self.count("unproven") };
        let Some(newest) = events.last() else {
            self.count("hint");
            return self.looks.look();
        };
        let seen = Seen { log: key.log(), last: newest.id, at: newest.created_at };
        let opened = Opened { batch: LogBatch::new(message.span.prev, events), seen, key };
        match window.offer(position.last(), message.span, opened, steady()) {
            Verdict::Kept => self.route(window),
            Verdict::Known => self.count("known"),
            Verdict::Gap => self.gap(),
        }
    }

    /// Gives the router what continues the log.
    fn route(&self, window: &mut Window<Opened>) {
        let position = &self.parts.position;
        while let Some((span, Opened { batch, seen, key })) = window.next(position.last()) {
            // While it waited, the log may have become another one.
            if position.relay_key().is_none_or(|now| !Arc::ptr_eq(&now, &key)) {
                self.gap();
                continue;
            }
            // Whatever becomes of the store, the id is not given out again.
            position.saw(seen);
            if !position.follow(span) {
                if span.last > position.last() {
                    self.gap();
                }
                continue;
            }
            self.count("taken");
            if self.parts.router.tell(EventsCommitted(batch)) == Err(Undelivered::Full) {
                self.parts.metrics.mailbox_full.with_label_values(&["router"]).inc();
            }
            if let Some(due) = LookDue::begin(&self.is_note_due) {
                let _ = self.parts.persistence.tell(NoteRelayed(due));
            }
        }
    }

    fn gap(&self) {
        self.count("gap");
        self.looks.look();
    }

    fn count(&self, verdict: &str) {
        self.parts.metrics.relay_received.with_label_values(&[verdict]).inc();
    }
}

/// A batch that a node on the same store has sealed.
struct Opened {
    batch: Arc<LogBatch>,
    seen: Seen,
    /// Under which it was opened.
    key: Arc<RelayKey>,
}

/// Batches can be sent, and come, until it is dropped.
struct Open<'a>(&'a Outgoing, &'a Looks);

impl<'a> Open<'a> {
    fn begin(outgoing: &'a Outgoing, looks: &'a Looks) -> Self {
        outgoing.set_open(true);
        looks.set_relayed(true);
        Self(outgoing, looks)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set_open(false);
        self.1.set_relayed(false);
    }
}
