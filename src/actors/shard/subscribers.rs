//! The subscribers of a shard, and an index of who wants which events.

pub mod fanout;
mod filtered;

use std::collections::BTreeMap;

use slab::Slab;

use self::filtered::FilteredMembers;
use super::messages::{Place, SubscriberCount};
use super::subscriber::{Ended, Subscriber, Subscription};
use crate::domain::cursor::Window;
use crate::domain::filter::Filter;
use crate::domain::index::{PatternIndex, TopicId};
use crate::domain::pattern::Pattern;
use crate::protocol::subscription::Envelope;
use crate::protocol::wire::Wire;

/// Ended subscriptions remembered for a subscriber that catches up. An event of those beyond may be sent twice.
const MAX_ENDED: usize = 256;

/// See the module.
#[derive(Default)]
pub struct Subscribers {
    slots: Slab<Subscriber>,
    index: PatternIndex,
    /// For each topic, by its handle in the index, the subscribers without a filter.
    members: Vec<Vec<Member>>,
    filtered: FilteredMembers,
}

/// A subscriber of a topic.
#[derive(Debug, Clone, Copy)]
struct Member {
    slot: usize,
    envelope: Envelope,
}

impl Subscribers {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many patterns have subscribers.
    pub fn patterns(&self) -> usize {
        self.index.len()
    }

    pub fn pattern(&self, topic: TopicId) -> Option<&Pattern> {
        self.index.pattern(topic)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Subscriber> {
        self.slots.iter().map(|(_, subscriber)| subscriber)
    }

    /// All subscribers with their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Subscriber)> {
        self.slots.iter_mut()
    }

    pub fn get(&self, key: usize) -> Option<&Subscriber> {
        self.slots.get(key)
    }

    pub fn get_mut(&mut self, key: usize) -> Option<&mut Subscriber> {
        self.slots.get_mut(key)
    }

    /// The subscriber of exactly this session, with the index of patterns.
    pub fn with_index(&mut self, place: Place) -> Option<(&mut Subscriber, &PatternIndex)> {
        let subscriber = self.slots.get_mut(place.slot).filter(|subscriber| subscriber.session == place.session)?;
        Some((subscriber, &self.index))
    }

    /// The subscriber of exactly this session, as another one may have its key by now.
    pub fn of(&self, place: Place) -> Option<&Subscriber> {
        self.slots.get(place.slot).filter(|subscriber| subscriber.session == place.session)
    }

    /// The same, mutable.
    pub fn of_mut(&mut self, place: Place) -> Option<&mut Subscriber> {
        self.slots.get_mut(place.slot).filter(|subscriber| subscriber.session == place.session)
    }

    /// Adds a subscriber, and returns its key.
    pub fn insert(&mut self, subscriber: Subscriber) -> usize {
        self.slots.insert(subscriber)
    }

    /// Removes a subscriber with all its subscriptions.
    pub fn remove(&mut self, place: Place) -> Option<Subscriber> {
        self.of(place)?;
        let subscriber = self.slots.remove(place.slot);
        for subscription in &subscriber.subscriptions {
            self.leave_topic(place.slot, subscription);
        }
        Some(subscriber)
    }

    /// The topic of `pattern`, if the subscriber has subscribed to it.
    pub fn topic_of(&self, place: Place, pattern: &Pattern) -> Option<TopicId> {
        self.of(place)?.subscription(self.index.topic(pattern)?).map(|subscription| subscription.topic)
    }

    /// Whether the subscriber has subscribed to exactly this pattern.
    pub fn has(&self, subscriber: &Subscriber, pattern: &Pattern) -> bool {
        self.index.topic(pattern).is_some_and(|topic| subscriber.subscription(topic).is_some())
    }

    /// Adds a subscription of the subscriber at `key`.
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
        let member = Member { slot: key, envelope };
        match &filter {
            None => self.members[topic].push(member),
            Some(filter) => self.filtered.add(topic, filter, member),
        }
        self.slots[key].subscriptions.push(Subscription { topic, envelope, filter, window });
    }

    /// Ends a subscription; false if there is none. It is remembered if the subscriber is catching up.
    pub fn unsubscribe(&mut self, place: Place, pattern: &Pattern) -> bool {
        let Some(topic) = self.topic_of(place, pattern) else { return false };
        let subscriber = &mut self.slots[place.slot];
        let Some(at) = subscriber.subscriptions.iter().position(|s| s.topic == topic) else { return false };
        let subscription = subscriber.subscriptions.swap_remove(at);
        if !subscriber.is_live() && subscriber.ended.len() < MAX_ENDED {
            let (filter, window) = (subscription.filter.clone(), subscriber.cursor.end(subscription.window));
            subscriber.ended.push(Ended { pattern: pattern.clone(), filter, window });
        }
        self.leave_topic(place.slot, &subscription);
        true
    }

    /// The subscriber at `key` gets the events of `topic` in this envelope from now on.
    pub fn set_envelope(&mut self, key: usize, topic: TopicId, envelope: Envelope) {
        for subscription in self.slots[key].subscriptions.iter_mut().filter(|s| s.topic == topic) {
            subscription.envelope = envelope;
            if let Some(filter) = &subscription.filter {
                self.filtered.set_envelope(topic, filter, key, envelope);
            }
        }
        for member in self.members[topic].iter_mut().filter(|m| m.slot == key) {
            member.envelope = envelope;
        }
    }

    /// The number of subscribers of each pattern, with filters or without.
    pub fn counts(&self) -> BTreeMap<Pattern, SubscriberCount> {
        let mut counts = BTreeMap::<_, SubscriberCount>::new();
        for subscriber in self.iter() {
            for pattern in subscriber.subscriptions.iter().filter_map(|s| self.index.pattern(s.topic)) {
                let count = counts.entry(pattern.clone()).or_default();
                match subscriber.connection.wire {
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
        } else if let Some(at) = members.iter().rposition(|m| m.slot == key) {
            members.swap_remove(at);
        }
        if self.index.remove(subscription.topic) {
            self.members[subscription.topic] = Vec::new();
        }
    }
}
