//! The position of one connection in the log: what it was sent, and what it is still to get.
//!
//! A connection reads the log in id order from one position. A subscription that asks for history moves the
//! position back; what other subscriptions already had there is not sent again.

use super::event::EventId;

/// The part of the log that one subscription asked for and was sent.
///
/// Invariant: `from <= done`. Events in `(from, done]` were sent if they matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: EventId,
    done: EventId,
    /// Which subscription of its connection it is, the first being 1.
    number: u64,
}

/// The window of a subscription that has ended: what it had is not sent again to subscriptions that stood by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedWindow {
    window: Window,
    /// How many subscriptions the connection had opened.
    opened: u64,
}

/// The position of a connection in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    position: EventId,
    opened: u64,
}

impl Cursor {
    /// A connection that has seen nothing after `position`, which must not be beyond the end of the log.
    pub fn new(position: EventId) -> Self {
        Self { position, opened: 0 }
    }

    /// How many subscriptions were opened so far.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Everything up to here has been decided.
    pub fn position(&self) -> EventId {
        self.position
    }

    /// Everything up to `position` has been decided now.
    pub fn advance(&mut self, position: EventId) {
        self.position = self.position.max(position);
    }

    /// Adds a subscription to everything after `start`; `others` are the windows that stand already.
    pub fn open<'a>(&mut self, start: EventId, others: impl Iterator<Item = &'a mut Window>) -> Window {
        if start < self.position {
            for window in others {
                window.done = window.done.max(self.position);
            }
            self.position = start;
        }
        self.opened += 1;
        Window { from: start, done: start, number: self.opened }
    }

    /// Ends a subscription.
    pub fn end(&self, window: Window) -> EndedWindow {
        EndedWindow { window: Window { done: window.done.max(self.position), ..window }, opened: self.opened }
    }
}

impl Window {
    /// Whether the subscription asked for the event `id`, sent or not.
    pub fn covers(&self, id: EventId) -> bool {
        id > self.from
    }

    fn had(&self, id: EventId) -> bool {
        self.from < id && id <= self.done
    }

    /// Where the subscription begins.
    pub fn from(&self) -> EventId {
        self.from
    }
}

/// Decides whether the event `id` is to be sent, given the windows of the subscriptions it matches, standing and
/// ended: not if it was sent before, else with the greatest of the values of those that want it. A subscription opened
/// after another had ended asks anew for what that one had.
pub fn decide<T: Ord>(
    id: EventId,
    matching: impl Iterator<Item = (Window, T)>,
    mut ended: impl Iterator<Item = EndedWindow>,
) -> Option<T> {
    let (mut wanted, mut newest) = (None, 0);
    for (window, value) in matching {
        if window.had(id) {
            return None;
        }
        if window.covers(id) {
            wanted = wanted.max(Some(value));
            newest = newest.max(window.number);
        }
    }
    let was_sent = wanted.is_some() && ended.any(|ended| ended.window.had(id) && ended.opened >= newest);
    if was_sent { None } else { wanted }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Publish(u8),
        /// Subscribe to one of three names, after a share of the log so far.
        Subscribe(u8, Option<u8>),
        Unsubscribe(u8),
        /// Send up to so many log entries.
        Send(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3u8).prop_map(Step::Publish),
            2 => (0..3u8, prop::option::of(any::<u8>())).prop_map(|(n, a)| Step::Subscribe(n, a)),
            1 => (0..3u8).prop_map(Step::Unsubscribe),
            3 => (0..6u8).prop_map(Step::Send),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// For any interleaving: every subscription has every matching event after its start, a frame reaches the
        /// connection once unless its subscription was made anew, and ids only go back when one asks for it.
        #[test]
        fn nothing_is_missed_and_nothing_repeated(steps in prop::collection::vec(step(), 0..80)) {
            let mut log: Vec<u8> = Vec::new();
            let mut cursor = Cursor::new(0);
            let mut windows: BTreeMap<u8, Window> = BTreeMap::new();
            // Since the subscription was made: what it asked for and what it was sent.
            let mut asked: BTreeMap<u8, EventId> = BTreeMap::new();
            let mut sent: BTreeMap<u8, Vec<EventId>> = BTreeMap::new();

            let send = |log: &[u8], cursor: &mut Cursor, windows: &BTreeMap<u8, Window>,
                        sent: &mut BTreeMap<u8, Vec<EventId>>, count: usize| {
                for _ in 0..count {
                    let id = cursor.position() + 1;
                    let Some(name) = usize::try_from(id - 1).ok().and_then(|k| log.get(k)) else { break };
                    let matching = windows.get(name).map(|w| (*w, ())).into_iter();
                    if decide(id, matching, std::iter::empty()).is_some() {
                        sent.entry(*name).or_default().push(id);
                    }
                    cursor.advance(id);
                }
            };
            for step in steps {
                match step {
                    Step::Publish(name) => log.push(name),
                    Step::Subscribe(name, after) => {
                        let end = log.len() as EventId;
                        let start = after.map_or(end, |share| end * i64::from(share) / 255);
                        windows.remove(&name);
                        let window = cursor.open(start, windows.values_mut());
                        windows.insert(name, window);
                        asked.insert(name, start);
                        sent.insert(name, Vec::new());
                    }
                    Step::Unsubscribe(name) => {
                        windows.remove(&name);
                        asked.remove(&name);
                        sent.remove(&name);
                    }
                    Step::Send(count) => send(&log, &mut cursor, &windows, &mut sent, count.into()),
                }
            }
            let all = log.len() + 1;
            send(&log, &mut cursor, &windows, &mut sent, all);
            for (name, start) in asked {
                let expected: Vec<EventId> =
                    (1..=log.len() as EventId).filter(|id| *id > start && log[*id as usize - 1] == name).collect();
                prop_assert_eq!(&sent[&name], &expected, "subscription {}", name);
            }
        }
    }

    #[test]
    fn an_event_two_subscriptions_match_is_sent_once() {
        let mut cursor = Cursor::new(10);
        let mut first = cursor.open(10, std::iter::empty());
        cursor.advance(12);
        let second = cursor.open(5, std::iter::once(&mut first));
        let both = |id| decide(id, [(first, 1), (second, 2)].into_iter(), std::iter::empty());
        assert_eq!(cursor.position(), 5);
        assert_eq!([6, 10, 11, 12, 13].map(both), [Some(2), Some(2), None, None, Some(2)]);
    }

    #[test]
    fn what_an_ended_subscription_had_is_sent_again_only_to_a_newer_one() {
        let mut cursor = Cursor::new(10);
        let mut first = cursor.open(10, std::iter::empty());
        cursor.advance(12);
        let second = cursor.open(5, std::iter::once(&mut first));
        let ended = cursor.end(first);
        let decide_for = |window, id| decide(id, std::iter::once((window, ())), std::iter::once(ended));
        assert_eq!([10, 11, 12, 13].map(|id| decide_for(second, id)), [Some(()), None, None, Some(())]);
        let third = cursor.open(5, std::iter::empty());
        assert_eq!([10, 11, 12, 13].map(|id| decide_for(third, id)), [Some(()); 4]);
    }
}
