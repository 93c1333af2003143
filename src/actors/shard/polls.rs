//! Long polls: requests that wait for events of certain names. Events of other names cost them nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::prelude::{Context, Handler, MessageResult};
use slab::Slab;
use tokio::sync::oneshot;

use super::Shard;
use crate::actors::shard::messages::{AwaitEvent, CancelPoll, PollId};
use crate::domain::index::{PatternIndex, TopicId};
use crate::domain::name::EventName;
use crate::protocol::log_batch::LogBatch;

/// Numbers are unique in this process. A request cancels its poll late, when another poll may have its place.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The requests that wait. Each is woken once, and then removed.
#[derive(Debug, Default)]
pub struct LongPolls {
    index: PatternIndex,
    /// For each topic, by its handle in the index, the places of the polls that wait for it.
    waiting: Vec<Vec<usize>>,
    polls: Slab<Poll>,
}

#[derive(Debug)]
struct Poll {
    number: u64,
    topics: Vec<TopicId>,
    wake: oneshot::Sender<()>,
}

impl LongPolls {
    pub fn len(&self) -> usize {
        self.polls.len()
    }

    fn add(&mut self, AwaitEvent { patterns, wake }: AwaitEvent) -> PollId {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let mut topics: Vec<_> = patterns.iter().map(|pattern| self.index.insert(pattern)).collect();
        topics.sort_unstable();
        let place = self.polls.insert(Poll { number, topics: Vec::new(), wake });
        for topic in &topics {
            if self.waiting.len() <= *topic {
                self.waiting.resize_with(topic + 1, Vec::new);
            }
            self.waiting[*topic].push(place);
        }
        self.polls[place].topics = topics;
        PollId { place, number }
    }

    /// Wakes the polls that wait for one of the events.
    pub fn wake(&mut self, batch: &LogBatch) {
        let mut previous: Option<&EventName> = None;
        for event in &batch.events {
            if self.polls.is_empty() {
                return;
            }
            let name = &event.event.name;
            if previous.replace(name) == Some(name) {
                continue;
            }
            let mut topics = Vec::new();
            self.index.for_each_match(name, |topic| topics.push(topic));
            for topic in topics {
                for place in std::mem::take(&mut self.waiting[topic]) {
                    self.remove(place, Some(topic));
                }
            }
        }
    }

    /// Wakes all polls, as there may be something for each, or no use in waiting.
    pub fn wake_all(&mut self) {
        for poll in std::mem::take(self).polls {
            // The request may have gone.
            let _ = poll.1.wake.send(());
        }
    }

    fn cancel(&mut self, PollId { place, number }: PollId) {
        if self.polls.get(place).is_some_and(|poll| poll.number == number) {
            self.remove(place, None);
        }
    }

    /// Removes and wakes the poll at `place`. It has been removed from those that wait for `done` already.
    fn remove(&mut self, place: usize, done: Option<TopicId>) {
        let Some(Poll { topics, wake, .. }) = self.polls.try_remove(place) else { return };
        for topic in topics {
            if Some(topic) != done
                && let Some(at) = self.waiting[topic].iter().position(|waiting| *waiting == place)
            {
                self.waiting[topic].swap_remove(at);
            }
            self.index.remove(topic);
        }
        let _ = wake.send(());
    }
}

impl Handler<AwaitEvent> for Shard {
    type Result = MessageResult<AwaitEvent>;

    fn handle(&mut self, poll: AwaitEvent, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.polls.add(poll))
    }
}

impl Handler<CancelPoll> for Shard {
    type Result = ();

    fn handle(&mut self, CancelPoll(id): CancelPoll, _: &mut Context<Self>) {
        self.polls.cancel(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Event;
    use crate::domain::pattern::Pattern;

    fn batch(names: &[&str]) -> std::sync::Arc<LogBatch> {
        let event = |(id, name): (i64, &&str)| Event::plain(id, name, "1");
        LogBatch::new(0, (1..).zip(names).map(event).collect())
    }

    fn add(polls: &mut LongPolls, patterns: &[&str]) -> (PollId, oneshot::Receiver<()>) {
        let (wake, woken) = oneshot::channel();
        let patterns = patterns.iter().map(|text| Pattern::parse(text.to_string()).expect("valid")).collect();
        (polls.add(AwaitEvent { patterns, wake }), woken)
    }

    /// A request cancels its poll after it was woken, perhaps after a restart of the shard.
    #[test]
    fn a_poll_of_before_is_not_taken_for_a_later_one_in_its_place() {
        let mut polls = LongPolls::default();
        let (woken, _) = add(&mut polls, &["a"]);
        polls.wake_all();
        let (next, mut waits) = add(&mut polls, &["a"]);
        assert_eq!(woken.place, next.place);
        polls.cancel(woken);
        assert_eq!(waits.try_recv(), Err(oneshot::error::TryRecvError::Empty));

        let mut restarted = LongPolls::default();
        let (_, mut waits) = add(&mut restarted, &["a"]);
        restarted.cancel(woken);
        restarted.cancel(next);
        assert_eq!(waits.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    }

    #[test]
    fn each_is_woken_once_by_what_it_waits_for() {
        let mut polls = LongPolls::default();
        let (_, mut exact) = add(&mut polls, &["a.b"]);
        let (_, mut both) = add(&mut polls, &["a.*", "a.b", "c"]);
        let (left, mut gone) = add(&mut polls, &["a.b"]);
        let (_, mut rare) = add(&mut polls, &["rare"]);
        polls.cancel(left);
        polls.cancel(left);
        gone.try_recv().expect("let go");
        polls.wake(&batch(&["other", "a.b", "a.b", "a.c"]));
        exact.try_recv().expect("woken");
        both.try_recv().expect("woken");
        assert!(rare.try_recv().is_err());
        assert_eq!((polls.len(), polls.index.len()), (1, 1));
        polls.wake_all();
        rare.try_recv().expect("woken");
        assert!(polls.index.is_empty());
    }
}
