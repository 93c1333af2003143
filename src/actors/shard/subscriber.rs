//! A subscriber of a shard: its connection, its subscriptions, and its position in the log.

use std::rc::Rc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::messages::SessionId;
use crate::actors::connection::{Connection, Tick};
use crate::domain::cursor::{Cursor, EndedWindow, Window, decide};
use crate::domain::event::{Event, EventId};
use crate::domain::filter::{Document, Filter};
use crate::domain::index::{PatternIndex, TopicId};
use crate::domain::pattern::Pattern;
use crate::protocol::subscription::Envelope;

/// How a subscriber gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything up to the shard's head was queued, and fan-out queues the rest.
    Live,
    /// It reads from its cursor on, from recent events or the store, as fast as the connection takes them.
    CatchingUp {
        /// The store is being asked for a page.
        reading: bool,
    },
}

/// One subscription of a subscriber.
#[derive(Debug)]
pub struct Subscription {
    pub topic: TopicId,
    pub envelope: Envelope,
    /// The filter that a payload has to pass, if there is one.
    pub filter: Option<Filter>,
    pub window: Window,
}

/// A subscription that ended while the subscriber was catching up. The events that it has had are not sent again.
#[derive(Debug)]
pub struct Ended {
    pub pattern: Pattern,
    pub filter: Option<Filter>,
    pub window: EndedWindow,
}

/// See the module.
pub struct Subscriber {
    pub session: SessionId,
    pub connection: Rc<Connection>,
    pub subscriptions: Vec<Subscription>,
    /// Its position while it catches up. The position of a live subscriber is the shard's head.
    pub cursor: Cursor,
    pub mode: Mode,
    pub ended: Vec<Ended>,
    /// The tick of the last ping.
    pub pinged: Tick,
    /// Frames pushed so far.
    pub frames: u64,
    pub opened: Instant,
    /// Its share of the jitter of lifetimes, from 0 to 1.
    jitter: f32,
}

impl Subscriber {
    /// A subscriber that has just connected, and has missed no event up to `head`.
    pub fn new(session: SessionId, connection: Rc<Connection>, head: EventId) -> Self {
        let pinged = connection.clock.get();
        Self {
            session,
            connection,
            subscriptions: Vec::new(),
            cursor: Cursor::new(head),
            mode: Mode::Live,
            ended: Vec::new(),
            pinged,
            frames: 0,
            opened: Instant::now(),
            jitter: rand::random(),
        }
    }

    /// The age at which it is closed: `max_age`, and up to a tenth more or less.
    pub fn lifetime(&self, max_age: Duration) -> Duration {
        max_age.mul_f32(0.9 + 0.2 * self.jitter)
    }

    /// Whether fan-out serves it.
    pub fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    /// Fan-out serves it from now on.
    pub fn go_live(&mut self) {
        self.mode = Mode::Live;
        self.ended = Vec::new();
    }

    /// The position up to which everything was queued. `head`: the head of the shard.
    pub fn position(&self, head: EventId) -> EventId {
        if self.is_live() { head } else { self.cursor.position() }
    }

    /// Whether fan-out can serve it from `head` on: no event before is due, and no subscription begins later.
    pub fn may_go_live(&self, head: EventId) -> bool {
        self.cursor.position() >= head && self.subscriptions.iter().all(|s| s.window.from() <= head)
    }

    /// The envelope in which `event` is due to this subscriber, if it is due.
    pub fn due(&self, event: &Event, index: &PatternIndex) -> Option<Envelope> {
        /// With more subscriptions, one walk through the index is cheaper than matching each.
        const FEW: usize = 8;
        let mut matching: SmallVec<[&Subscription; FEW]> = SmallVec::new();
        if self.subscriptions.len() <= FEW {
            let matches = |s: &&Subscription| index.pattern(s.topic).is_some_and(|p| p.matches(&event.name));
            matching.extend(self.subscriptions.iter().filter(matches));
        } else {
            index.for_each_match(&event.name, |topic| matching.extend(self.subscription(topic)));
        }
        let mut ended: SmallVec<[&Ended; FEW]> =
            self.ended.iter().filter(|ended| ended.pattern.matches(&event.name)).collect();
        let filters = || {
            let of_ended = ended.iter().filter_map(|ended| ended.filter.as_ref());
            matching.iter().filter_map(|s| s.filter.as_ref()).chain(of_ended)
        };
        if filters().next().is_some() {
            let document = Document::for_filters(&event.payload, filters());
            let passes = |filter: &Option<Filter>| filter.as_ref().is_none_or(|filter| document.passes(filter));
            matching.retain(|s| passes(&s.filter));
            ended.retain(|ended| passes(&ended.filter));
        }
        let matching = matching.iter().map(|s| (s.window, s.envelope));
        decide(event.id, matching, ended.iter().map(|ended| ended.window))
    }

    /// Whether any of its subscriptions has a filter.
    pub fn has_filters(&self) -> bool {
        self.subscriptions.iter().any(|s| s.filter.is_some())
    }

    /// Its subscription to a topic.
    pub fn subscription(&self, topic: TopicId) -> Option<&Subscription> {
        self.subscriptions.iter().find(|s| s.topic == topic)
    }
}
