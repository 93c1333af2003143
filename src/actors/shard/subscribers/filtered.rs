//! The subscribers with filters. Whether an event passes a filter is decided once for all subscribers with that filter.
//!
//! A payload is parsed at most once, and only if a subscriber to its name has a filter.

use std::collections::HashMap;

use super::Member;
use crate::domain::filter::{Candidates, Document, Filter, FilterId, FilterSet};
use crate::domain::index::TopicId;
use crate::protocol::subscription::Envelope;

/// The subscribers with filters, by topic.
#[derive(Debug, Default)]
pub struct FilteredMembers {
    topics: HashMap<TopicId, FilteredTopic>,
}

#[derive(Debug, Default)]
struct FilteredTopic {
    filters: FilterSet,
    /// The subscribers of each filter, by its handle.
    members: Vec<Vec<Member>>,
}

/// An event of a batch passes a filter. The order keeps the events of one filter together, in their own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub topic: TopicId,
    pub filter: FilterId,
    /// The index of the event in the batch.
    pub event: u32,
}

impl FilteredMembers {
    pub fn add(&mut self, topic: TopicId, filter: &Filter, member: Member) {
        let FilteredTopic { filters, members } = self.topics.entry(topic).or_default();
        let id = filters.insert(filter);
        if members.len() <= id {
            members.resize_with(id + 1, Vec::new);
        }
        members[id].push(member);
    }

    pub fn remove(&mut self, topic: TopicId, filter: &Filter, slot: usize) {
        let Some(FilteredTopic { filters, members }) = self.topics.get_mut(&topic) else { return };
        let Some(id) = filters.id(filter) else { return };
        let Some(at) = members[id].iter().rposition(|member| member.slot == slot) else { return };
        members[id].swap_remove(at);
        if filters.remove(id) {
            members[id] = Vec::new();
        }
        if filters.is_empty() {
            self.topics.remove(&topic);
        }
    }

    pub fn set_envelope(&mut self, topic: TopicId, filter: &Filter, slot: usize, envelope: Envelope) {
        let Some(FilteredTopic { filters, members }) = self.topics.get_mut(&topic) else { return };
        let Some(id) = filters.id(filter) else { return };
        members[id].iter_mut().filter(|member| member.slot == slot).for_each(|member| member.envelope = envelope);
    }

    /// The subscribers of `topic` with this filter.
    pub fn members(&self, topic: TopicId, filter: FilterId) -> &[Member] {
        self.topics.get(&topic).and_then(|of| of.members.get(filter)).map_or(&[], |members| members)
    }

    /// Adds to `hits` the filters of `topics` that `payload` passes. `event` is its index in the batch.
    pub fn try_event(
        &self,
        topics: &[TopicId],
        event: u32,
        payload: &str,
        candidates: &mut Candidates,
        hits: &mut Vec<Hit>,
    ) {
        if self.topics.is_empty() {
            return;
        }
        let concerned = || topics.iter().filter_map(|topic| Some((*topic, &self.topics.get(topic)?.filters)));
        if concerned().next().is_none() {
            return;
        }
        let document = Document::for_sets(payload, concerned().map(|(_, filters)| filters));
        for (topic, filters) in concerned() {
            filters.for_each_passing(&document, candidates, |filter| hits.push(Hit { topic, filter, event }));
        }
    }
}
