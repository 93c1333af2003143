//! The subscribers of a shard: their seats, and who of them wants which events.

pub mod fanout;
mod filtered;

use std::collections::BTreeMap;

use slab::Slab;

use self::filtered::FilteredMembers;
use super::messages::{Seated, SubscriberCount};
use super::seat::{Ended, Seat, Subscription};
use crate::domain::cursor::Window;
use crate::domain::filter::Filter;
use crate::domain::index::{PatternIndex, TopicId};
use crate::domain::pattern::Pattern;
use crate::protocol::subscription::Envelope;
use crate::protocol::wire::Wire;

/// Ended subscriptions remembered for a subscriber that is catching up; beyond, an event of theirs may come twice.
const MAX_ENDED: usize = 256;

/// See the module.
#[derive(Default)]
pub struct Subscribers {
    seats: Slab<Seat>,
    index: PatternIndex,
    /// The subscribers of each topic without a filter, by its handle in the index.
    members: Vec<Vec<Member>>,
    filtered: FilteredMembers,
}

/// A seat's place among the subscribers of a topic.
#[derive(Debug, Clone, Copy)]
struct Member {
    seat: usize,
    envelope: Envelope,
}

impl Subscribers {
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// How many patterns somebody subscribes to.
    pub fn patterns(&self) -> usize {
        self.index.len()
    }

    pub fn pattern(&self, topic: TopicId) -> Option<&Pattern> {
        self.index.pattern(topic)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Seat> {
        self.seats.iter().map(|(_, seat)| seat)
    }

    /// All seats, with their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Seat)> {
        self.seats.iter_mut()
    }

    pub fn get(&self, key: usize) -> Option<&Seat> {
        self.seats.get(key)
    }

    pub fn get_mut(&mut self, key: usize) -> Option<&mut Seat> {
        self.seats.get_mut(key)
    }

    /// The seat of this very session, and the patterns that its subscriptions name.
    pub fn with_index(&mut self, seated: Seated) -> Option<(&mut Seat, &PatternIndex)> {
        let seat = self.seats.get_mut(seated.seat).filter(|seat| seat.session == seated.session)?;
        Some((seat, &self.index))
    }

    /// The seat of this very session: another may have its key by now.
    pub fn of(&self, seated: Seated) -> Option<&Seat> {
        self.seats.get(seated.seat).filter(|seat| seat.session == seated.session)
    }

    /// The same, to be changed.
    pub fn of_mut(&mut self, seated: Seated) -> Option<&mut Seat> {
        self.seats.get_mut(seated.seat).filter(|seat| seat.session == seated.session)
    }

    /// Takes a seat in; returns its key.
    pub fn insert(&mut self, seat: Seat) -> usize {
        self.seats.insert(seat)
    }

    /// Removes a seat with all its subscriptions.
    pub fn remove(&mut self, seated: Seated) -> Option<Seat> {
        self.of(seated)?;
        let seat = self.seats.remove(seated.seat);
        for subscription in &seat.subscriptions {
            self.leave_topic(seated.seat, subscription);
        }
        Some(seat)
    }

    /// The topic of `pattern`, if this subscriber has subscribed to it.
    pub fn topic_of(&self, seated: Seated, pattern: &Pattern) -> Option<TopicId> {
        self.of(seated)?.subscription(self.index.topic(pattern)?).map(|subscription| subscription.topic)
    }

    /// Whether the seat has subscribed to this very pattern.
    pub fn has(&self, seat: &Seat, pattern: &Pattern) -> bool {
        self.index.topic(pattern).is_some_and(|topic| seat.subscription(topic).is_some())
    }

    /// Adds a subscription of the seat at `key`.
    pub fn subscribe(
        &mut self,
        key: usize,
        pattern: &Pattern,
        envelope: Envelope,
        filter: Option<Filter>,
        window: Window,
    ) {
        let topic = self.index.insert(pattern);
        if self.members.len() <= topic {
            self.members.resize_with(topic + 1, Vec::new);
        }
        let member = Member { seat: key, envelope };
        match &filter {
            None => self.members[topic].push(member),
            Some(filter) => self.filtered.add(topic, filter, member),
        }
        self.seats[key].subscriptions.push(Subscription { topic, envelope, filter, window });
    }

    /// Ends a subscription; false if there is none. A seat that catches up remembers it.
    pub fn unsubscribe(&mut self, seated: Seated, pattern: &Pattern) -> bool {
        let Some(topic) = self.topic_of(seated, pattern) else { return false };
        let seat = &mut self.seats[seated.seat];
        let Some(place) = seat.subscriptions.iter().position(|s| s.topic == topic) else { return false };
        let subscription = seat.subscriptions.swap_remove(place);
        if !seat.is_live() && seat.ended.len() < MAX_ENDED {
            let (filter, window) = (subscription.filter.clone(), seat.cursor.end(subscription.window));
            seat.ended.push(Ended { pattern: pattern.clone(), filter, window });
        }
        self.leave_topic(seated.seat, &subscription);
        true
    }

    /// The seat at `key` gets the events of `topic` in another envelope from now on.
    pub fn set_envelope(&mut self, key: usize, topic: TopicId, envelope: Envelope) {
        for subscription in self.seats[key].subscriptions.iter_mut().filter(|s| s.topic == topic) {
            subscription.envelope = envelope;
            if let Some(filter) = &subscription.filter {
                self.filtered.set_envelope(topic, filter, key, envelope);
            }
        }
        for member in self.members[topic].iter_mut().filter(|m| m.seat == key) {
            member.envelope = envelope;
        }
    }

    /// How many subscribe to each pattern, with filters or without.
    pub fn counts(&self) -> BTreeMap<Pattern, SubscriberCount> {
        let mut counts = BTreeMap::<_, SubscriberCount>::new();
        for seat in self.iter() {
            for pattern in seat.subscriptions.iter().filter_map(|s| self.index.pattern(s.topic)) {
                let count = counts.entry(pattern.clone()).or_default();
                match seat.connection.wire {
                    Wire::Sse => count.sse += 1,
                    Wire::WebSocket | Wire::Lines => count.websocket += 1,
                }
            }
        }
        counts
    }

    fn leave_topic(&mut self, key: usize, subscription: &Subscription) {
        let members = &mut self.members[subscription.topic];
        if let Some(filter) = &subscription.filter {
            self.filtered.remove(subscription.topic, filter, key);
        } else if let Some(place) = members.iter().rposition(|m| m.seat == key) {
            members.swap_remove(place);
        }
        if self.index.remove(subscription.topic) {
            self.members[subscription.topic] = Vec::new();
        }
    }
}
