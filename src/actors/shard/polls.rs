//! Long polls: requests that wait for an event of certain names. What matches none of them costs them nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::prelude::{Context, Handler, MessageResult};
use slab::Slab;
use tokio::sync::oneshot;

use super::Shard;
use crate::actors::shard::messages::{AwaitEvent, CancelPoll, PollId};
use crate::domain::index::{PatternIndex, TopicId};
use crate::domain::name::EventName;
use crate::protocol::log_batch::LogBatch;

/// Numbers of polls are unique in this process: a request gives its poll up late, when another may have its place.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Those that wait; each is woken once, and is gone then.
#[derive(Debug, Default)]
pub struct LongPolls {
    index: PatternIndex,
    /// The places of those who wait for each topic, by its handle in the index.
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
    /// How many wait.
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

    /// Wakes those who wait for one of the events.
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

    /// Wakes all: there may be something, or there will not be.
    pub fn wake_all(&mut self) {
        for poll in std::mem::take(self).polls {
            // Who does not listen any more need not be woken.
            let _ = poll.1.wake.send(());
        }
    }

    fn cancel(&mut self, PollId { place, number }: PollId) {
        if self.polls.get(place).is_some_and(|poll| poll.number == number) {
            self.remove(place, None);
        }
    }

    /// Removes and wakes the poll at `place`, which is not among those who wait for `done` any more.
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

    /// Its request gives it up after it was woken, and maybe after the shard was started anew.
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
