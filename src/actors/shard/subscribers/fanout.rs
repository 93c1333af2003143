//! Fan-out of a committed batch to the live subscribers of a shard.
//!
//! For each event, the topics that match it are looked up once. For each topic, the frames of the whole batch are
//! joined once and shared; subscribers with equal filters share too. Each subscriber gets one push. Only subscribers
//! with several subscriptions are handled event by event, because a connection gets a frame once, however many of its
//! patterns match.

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::filtered::Hit;
use super::{Member, Subscribers};
use crate::actors::push_log::PushLog;
use crate::actors::shard::subscriber::{Mode, Subscriber};
use crate::domain::event::EventId;
use crate::domain::filter::Candidates;
use crate::domain::index::TopicId;
use crate::protocol::log_batch::{LogBatch, LogEvent};
use crate::protocol::subscription::Envelope;
use crate::protocol::wire::{Bundle, Wire};
use crate::transport::ShardQueues;

/// What a fan-out has queued.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub frames: u64,
    pub bytes: u64,
}

/// Working memory that is kept between batches.
#[derive(Debug, Default)]
pub struct FanOut {
    /// For each topic, the events of the batch that match it.
    hits: Vec<Vec<u32>>,
    touched: Vec<TopicId>,
    /// The topics of the last event name. Batches tend to repeat names.
    same_name: Vec<TopicId>,
    /// Frames for subscribers with several subscriptions: key of the subscriber, event, and envelope.
    mixed: Vec<(usize, u32, Envelope)>,
    /// The events of the batch that pass filters.
    filtered: Vec<Hit>,
    candidates: Candidates,
}

impl FanOut {
    /// Queues the batch for the live subscribers that want it. Subscribers without room are put into `behind`, and
    /// catch up from `head`, the position before the batch.
    pub fn deliver(
        &mut self,
        batch: &LogBatch,
        head: EventId,
        subscribers: &mut Subscribers,
        room: &Room<'_>,
        behind: &mut Vec<usize>,
    ) -> Tally {
        self.find_topics(batch, subscribers);
        let Subscribers { slots, members, filtered, index: _ } = subscribers;
        let mut target = Target { head, slots, room, behind, tally: Tally::default() };
        for topic in std::mem::take(&mut self.touched) {
            let hits = std::mem::take(&mut self.hits[topic]);
            self.queue(batch, &hits, &members[topic], &mut target);
            self.recycle(topic, hits);
        }
        let mut passed = std::mem::take(&mut self.filtered);
        passed.sort_unstable();
        for same in passed.chunk_by(|a, b| (a.topic, a.filter) == (b.topic, b.filter)) {
            let hits: SmallVec<[u32; 8]> = same.iter().map(|hit| hit.event).collect();
            self.queue(batch, &hits, filtered.members(same[0].topic, same[0].filter), &mut target);
        }
        passed.clear();
        self.filtered = passed;
        self.deliver_mixed(batch, &mut target);
        target.tally
    }

    /// Queues the events at `hits` for the live ones of `members`. For members with other subscriptions, which may
    /// match too, they are noted in `mixed`.
    fn queue(&mut self, batch: &LogBatch, hits: &[u32], members: &[Member], target: &mut Target<'_>) {
        let mut joined = Joined { batch, hits, slots: Default::default() };
        let mut pushes = 0;
        for member in members {
            let subscriber = &mut target.slots[member.slot];
            if !subscriber.is_live() {
                continue;
            }
            let wire = subscriber.connection.wire;
            if subscriber.subscriptions.len() > 1 {
                self.mixed.extend(hits.iter().map(|k| (member.slot, *k, member.envelope)));
            } else if target.room.push(subscriber, joined.frames(wire, member.envelope), hits.len()) {
                pushes += 1;
                target.tally.frames += hits.len() as u64;
                target.tally.bytes += joined.frames(wire, member.envelope).len() as u64;
            } else {
                target.leave_behind(member.slot);
            }
        }
        for k in hits.iter().filter(|_| pushes > 0) {
            target.room.pushes.add(batch.events[*k as usize].event.id, pushes);
        }
    }

    fn find_topics(&mut self, batch: &LogBatch, subscribers: &Subscribers) {
        let mut previous: Option<&LogEvent> = None;
        for (k, event) in (0u32..).zip(&batch.events) {
            if previous.is_none_or(|p| p.event.name != event.event.name) {
                self.same_name.clear();
                subscribers.index.for_each_match(&event.event.name, |topic| self.same_name.push(topic));
            }
            previous = Some(event);
            for &topic in &self.same_name {
                if self.hits.len() <= topic {
                    self.hits.resize_with(topic + 1, Vec::new);
                }
                if self.hits[topic].is_empty() {
                    self.touched.push(topic);
                }
                self.hits[topic].push(k);
            }
            let Self { same_name, candidates, filtered: passed, .. } = self;
            subscribers.filtered.try_event(same_name, k, &event.event.payload, candidates, passed);
        }
    }

    fn recycle(&mut self, topic: TopicId, mut hits: Vec<u32>) {
        /// A batch of thousands is rare, so its memory is released.
        const KEPT: usize = 64;
        if hits.capacity() <= KEPT {
            hits.clear();
            self.hits[topic] = hits;
        }
    }

    fn deliver_mixed(&mut self, batch: &LogBatch, target: &mut Target<'_>) {
        self.mixed.sort_unstable();
        for of_subscriber in self.mixed.chunk_by(|a, b| a.0 == b.0) {
            let key = of_subscriber[0].0;
            let wire = target.slots[key].connection.wire;
            // Of one event the greatest envelope is last, and that one is sent.
            let due = || {
                of_subscriber.chunk_by(|a, b| a.1 == b.1).filter_map(|same| same.last()).map(|(_, k, envelope)| {
                    let event = &batch.events[*k as usize];
                    event.frame(wire, *envelope)
                })
            };
            let count = due().count();
            let frames = Bundle::of(wire, due());
            if target.room.push(&mut target.slots[key], &frames, count) {
                for of_event in of_subscriber.chunk_by(|a, b| a.1 == b.1) {
                    target.room.pushes.add(batch.events[of_event[0].1 as usize].event.id, 1);
                }
                target.tally.frames += count as u64;
                target.tally.bytes += frames.len() as u64;
            } else {
                target.leave_behind(key);
            }
        }
        self.mixed.clear();
    }
}

/// The subscribers that a fan-out reaches.
struct Target<'a> {
    /// The position before the batch.
    head: EventId,
    slots: &'a mut Slab<Subscriber>,
    room: &'a Room<'a>,
    behind: &'a mut Vec<usize>,
    tally: Tally,
}

impl Target<'_> {
    fn leave_behind(&mut self, key: usize) {
        let subscriber = &mut self.slots[key];
        subscriber.cursor.advance(self.head);
        subscriber.mode = Mode::CatchingUp { reading: false };
        self.behind.push(key);
    }
}

/// The bounds of what may be queued.
#[derive(Clone, Copy)]
pub struct Room<'a> {
    pub queues: &'a ShardQueues,
    /// Most bytes queued for one connection.
    pub per_connection: usize,
    pub pushes: &'a PushLog,
}

impl Room<'_> {
    /// Queues `frames` if the bounds of the subscriber and of all subscribers allow it. A subscriber with an empty
    /// queue may have one push of any size, unless the bound of all is reached.
    pub fn push(&self, subscriber: &mut Subscriber, frames: &Bytes, count: usize) -> bool {
        let send_queue = &subscriber.connection.send_queue;
        let queued = send_queue.queued_bytes();
        let fits = queued == 0 || queued + frames.len() <= self.per_connection;
        if !fits || !(self.queues.budget.has_room(frames.len()) || (queued == 0 && self.queues.budget.used() == 0)) {
            return false;
        }
        send_queue.push(frames.clone());
        subscriber.frames += count as u64;
        true
    }
}

/// The frames of one topic's events, joined when they are first needed.
struct Joined<'a> {
    batch: &'a LogBatch,
    hits: &'a [u32],
    slots: [[Option<Bytes>; Envelope::COUNT]; Wire::COUNT],
}

impl Joined<'_> {
    fn frames(&mut self, wire: Wire, envelope: Envelope) -> &Bytes {
        self.slots[wire as usize][envelope as usize].get_or_insert_with(|| {
            Bundle::of(wire, self.hits.iter().map(|k| self.batch.events[*k as usize].frame(wire, envelope)))
        })
    }
}
