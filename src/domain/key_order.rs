//! Ordering keys: of the deliveries that one service has in hand, one for each key at a time, in the order of ids.
//!
//! A key whose delivery failed is parked until that delivery comes again. All others go on (KO-3).

use std::collections::{BTreeSet, HashMap};

use bytestring::ByteString;

use super::event::EventId;
use super::work::WorkId;

/// What becomes of a delivery that asks to be taken in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// The first of its key: it may be sent.
    Ready,
    /// Comes after others of its key that are in hand.
    Behind,
    /// Not taken: an earlier one of its key has to come first, or too many of the key (of asks, another one) are in
    /// hand.
    HeldBack,
}

/// The keys in hand.
///
/// KO-1: of a key one at most is ready. KO-2: of a key, none is admitted that is later than one that failed or was held
/// back, until that has come again; and those that wait become ready in the order of their ids. KO-4: an ask goes after
/// the deliveries that are in hand when it comes, and before all others; it holds back none, since it may not come
/// again.
#[derive(Debug)]
pub struct KeyOrder {
    lines: HashMap<ByteString, Line>,
    /// How many of one key may wait.
    limit: usize,
}

#[derive(Debug, Default)]
struct Line {
    ready: Option<WorkId>,
    /// The deliveries that wait.
    waiting: BTreeSet<WorkId>,
    /// An ask that waits, and the last delivery that goes before it.
    ask: Option<(EventId, WorkId)>,
    /// The earliest that has to come again before any later one.
    held: Option<WorkId>,
}

impl Line {
    fn is_over(&self) -> bool {
        self.ready.is_none() && self.waiting.is_empty() && self.ask.is_none() && self.held.is_none()
    }

    fn admit_ask(&mut self, id: WorkId) -> Admitted {
        if self.ask.is_some() || self.ready.is_some_and(WorkId::is_ask) {
            return Admitted::HeldBack;
        }
        let Some(ready) = self.ready else {
            self.ready = Some(id);
            return Admitted::Ready;
        };
        let last = self.waiting.last().copied().unwrap_or(ready);
        self.ask = Some((if let WorkId::Delivery(last) = last { last } else { EventId::MIN }, id));
        Admitted::Behind
    }

    /// Takes out the next of those that wait.
    fn pop(&mut self) -> Option<WorkId> {
        let first = self.waiting.first().copied();
        let ask = self.ask.take_if(|(after, _)| first.is_none_or(|first| first > WorkId::Delivery(*after)));
        ask.map(|(_, id)| id).or_else(|| self.waiting.pop_first())
    }

    fn hold(&mut self, id: WorkId) {
        self.held = Some(self.held.map_or(id, |held| held.min(id)));
    }
}

impl KeyOrder {
    /// Lets up to `limit` deliveries, and an ask, wait behind the one that is ready, for each key.
    pub fn new(limit: usize) -> Self {
        Self { lines: HashMap::new(), limit }
    }

    /// Takes one in hand, if its turn within the key allows it.
    pub fn admit(&mut self, id: WorkId, key: &ByteString) -> Admitted {
        let line = self.lines.entry(key.clone()).or_default();
        if line.held.is_some_and(|held| id > held) {
            return Admitted::HeldBack;
        }
        if id.is_ask() {
            return line.admit_ask(id);
        }
        if line.ready.is_some() && line.waiting.len() >= self.limit {
            line.hold(id);
            return Admitted::HeldBack;
        }
        line.held = line.held.filter(|held| *held != id);
        if line.ready.is_some() {
            line.waiting.insert(id);
            return Admitted::Behind;
        }
        line.ready = Some(id);
        Admitted::Ready
    }

    /// Admits none of `key` that is later than the delivery `id`, which could not be taken in hand, until that has come
    /// again.
    pub fn hold(&mut self, id: WorkId, key: &ByteString) {
        debug_assert!(!id.is_ask(), "KO-4");
        self.lines.entry(key.clone()).or_default().hold(id);
    }

    /// The ready one of `key` is settled; the next becomes ready.
    pub fn finish(&mut self, key: &ByteString) -> Option<WorkId> {
        let line = self.lines.get_mut(key)?;
        line.ready = line.pop();
        let next = line.ready;
        self.drop_if_over(key);
        next
    }

    /// An ask of `key` that is not under way leaves. Returns what becomes ready by that.
    pub fn leave(&mut self, id: WorkId, key: &ByteString) -> Option<WorkId> {
        let line = self.lines.get_mut(key)?;
        if line.ready == Some(id) {
            return self.finish(key);
        }
        line.ask.take_if(|(_, ask)| *ask == id);
        None
    }

    /// The ready delivery of `key` failed and will come again: those behind it are given back, in the order of ids.
    pub fn fail(&mut self, key: &ByteString) -> Vec<WorkId> {
        let Some(line) = self.lines.get_mut(key) else { return Vec::new() };
        if let Some(failed) = line.ready.take() {
            line.hold(failed);
        }
        let ask = line.ask.take().map(|(_, id)| id);
        let released = std::mem::take(&mut line.waiting).into_iter().chain(ask).collect();
        self.drop_if_over(key);
        released
    }

    /// Waits no longer for what failed or was held back: it has ended otherwise, or the store sees to the order.
    pub fn unblock(&mut self, key: &ByteString) {
        if let Some(line) = self.lines.get_mut(key) {
            line.held = None;
            self.drop_if_over(key);
        }
    }

    /// Lets go of everything that waits, and of what is ready but not under way.
    pub fn withdraw(&mut self, under_way: impl Fn(WorkId) -> bool) {
        self.lines.retain(|_, line| {
            line.waiting.clear();
            line.ask = None;
            line.ready = line.ready.filter(|id| under_way(*id));
            !line.is_over()
        });
    }

    /// How many keys are in hand or parked.
    pub fn keys(&self) -> usize {
        self.lines.len()
    }

    fn drop_if_over(&mut self, key: &ByteString) {
        if self.lines.get(key).is_some_and(Line::is_over) {
            self.lines.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn id(number: i64) -> WorkId {
        WorkId::Delivery(number)
    }

    fn key(number: u8) -> ByteString {
        ByteString::from(number.to_string())
    }

    #[test]
    fn a_failing_key_parks_only_itself() {
        let (sick, well) = (key(0), key(1));
        let mut order = KeyOrder::new(8);
        let admitted =
            [(1, &sick), (2, &sick), (3, &well), (4, &sick), (5, &well)].map(|(number, k)| order.admit(id(number), k));
        use Admitted::{Behind, HeldBack, Ready};
        assert_eq!(admitted, [Ready, Behind, Ready, Behind, Behind]);
        assert_eq!(order.fail(&sick), [2, 4].map(id));
        assert_eq!(order.finish(&well), Some(id(5)));
        assert_eq!([6, 1, 6].map(|number| order.admit(id(number), &sick)), [HeldBack, Ready, Behind]);
        assert_eq!([order.finish(&sick), order.finish(&sick), order.finish(&well)], [Some(id(6)), None, None]);
        assert_eq!(order.keys(), 0);
    }

    #[test]
    fn a_key_with_too_many_holds_back_the_rest_in_order() {
        let hot = key(0);
        let mut order = KeyOrder::new(1);
        use Admitted::{Behind, HeldBack, Ready};
        assert_eq!([1, 2, 3].map(|number| order.admit(id(number), &hot)), [Ready, Behind, HeldBack]);
        assert_eq!([order.finish(&hot), order.finish(&hot)], [Some(id(2)), None]);
        assert_eq!([4, 3, 4].map(|number| order.admit(id(number), &hot)), [HeldBack, Ready, Behind]);
    }

    #[test]
    fn a_parked_key_can_be_forgotten() {
        let sick = key(0);
        let mut order = KeyOrder::new(1);
        order.admit(id(1), &sick);
        order.fail(&sick);
        order.unblock(&sick);
        assert_eq!((order.keys(), order.admit(id(2), &sick)), (0, Admitted::Ready));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Of what the store has for the key, the first that is not in hand.
        Admit(u8),
        Finish(u8),
        Fail(u8),
        Withdraw,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3u8).prop_map(Step::Admit),
            3 => (0..3u8).prop_map(Step::Finish),
            1 => (0..3u8).prop_map(Step::Fail),
            1 => Just(Step::Withdraw),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Against a store that offers each key's open deliveries in the order of ids: they finish exactly in that
        /// order, one at a time, whatever happens to other keys.
        #[test]
        fn each_key_is_in_order(steps in prop::collection::vec(step(), 0..200), limit in 0..4usize) {
            let mut order = KeyOrder::new(limit);
            let mut in_hand: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
            let mut done: BTreeMap<u8, i64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Admit(k) => {
                        let mine = in_hand.entry(k).or_default();
                        let next = mine.last().or(done.get(&k)).map_or(1, |last| last + 1);
                        match order.admit(id(next), &key(k)) {
                            Admitted::Ready => prop_assert!(mine.is_empty()),
                            Admitted::Behind => prop_assert!((1..=limit).contains(&mine.len())),
                            Admitted::HeldBack => {
                                prop_assert_eq!(mine.len(), limit + 1);
                                continue;
                            }
                        }
                        mine.push(next);
                        prop_assert_eq!(order.admit(id(next + 2), &key(9)) == Admitted::Ready, true);
                        order.finish(&key(9));
                    }
                    Step::Finish(k) => {
                        let mine = in_hand.entry(k).or_default();
                        if !mine.is_empty() {
                            done.insert(k, mine.remove(0));
                            prop_assert_eq!(order.finish(&key(k)), mine.first().copied().map(id));
                        }
                    }
                    Step::Fail(k) => {
                        let mine = std::mem::take(in_hand.entry(k).or_default());
                        if let Some((failed, followers)) = mine.split_first() {
                            let followers: Vec<WorkId> = followers.iter().copied().map(id).collect();
                            prop_assert_eq!(order.fail(&key(k)), followers);
                            prop_assert_eq!(order.admit(id(failed + 1), &key(k)), Admitted::HeldBack);
                        }
                    }
                    Step::Withdraw => {
                        order.withdraw(|_| false);
                        in_hand.clear();
                    }
                }
            }
        }
    }
}
