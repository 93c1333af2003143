//! Who publishes events, and who operates sagas.

use serde_json::json;

use super::world::World;
use crate::domain::event::{Append, EventId, NewEvent};
use crate::domain::saga::{OnDuplicate, State, Verb};
use crate::storage::Write;

/// Correlation values of each saga.
const VALUES: u64 = 2;

impl World<'_> {
    fn publish(&mut self, name: &str, payload: &serde_json::Value) -> EventId {
        let append = Append::single(NewEvent::plain(name, &payload.to_string()));
        let mut ledger = self.place.ledger();
        ledger.apply(Vec::new(), vec![Write::Append(append)]);
        ledger.log_end
    }

    pub fn trigger(&mut self) {
        let (saga, value) = (self.dice.at(self.definitions.len()), self.dice.roll(VALUES));
        let name = format!("begin.{}", self.definitions[saga].name);
        let begins_always = self.definitions[saga].on_duplicate != OnDuplicate::Ignore;
        let id = self.publish(&name, &json!({ "id": value }));
        self.triggers.insert(id, begins_always);
    }

    /// A reply to any step of any instance, or of one that does not exist; perhaps twice.
    pub fn some_reply(&mut self) {
        let saga = self.dice.at(self.definitions.len());
        let step = self.dice.at(self.definitions[saga].steps.len());
        let name = format!("reply.{}.{}", self.definitions[saga].name, self.definitions[saga].steps[step].name);
        let of = self.place.ledger().which(|_| true);
        let of = if of.is_empty() { String::new() } else { of[self.dice.at(of.len())].clone() };
        let payload = json!({ "id": self.dice.roll(VALUES), "of": of, "ok": self.dice.roll(4) > 0 });
        for _ in 0..1 + self.dice.roll(4) / 3 {
            self.publish(&name, &payload);
        }
    }

    pub async fn operator(&mut self) {
        if self.dice.one_in(6) {
            return self.begin_by_hand().await;
        }
        let all = self.place.ledger().which(|_| true);
        if all.is_empty() {
            return;
        }
        let id = all[self.dice.at(all.len())].clone();
        let verb = match self.dice.roll(12) {
            0 => Verb::Compensate,
            1 if self.dice.one_in(2) => Verb::Abort,
            2 | 3 => Verb::Pause,
            4..=6 => Verb::Resume,
            7 | 8 => Verb::Skip { result: None },
            _ => Verb::Retry,
        };
        // What was decided may be stored after others have decided.
        let delays = self.late.is_none() && self.dice.one_in(3);
        self.place.ledger().delays = delays;
        let _ = self.desk.operate(&id, verb, "because").await;
        if delays {
            let mut ledger = self.place.ledger();
            ledger.delays = false;
            let late = ledger.delayed.take();
            drop(ledger);
            self.late = late;
        }
    }

    async fn begin_by_hand(&mut self) {
        let saga = self.definitions[self.dice.at(self.definitions.len())].name.clone();
        let key = format!("{saga}/{}", self.dice.roll(2));
        let payload = json!({ "id": self.dice.roll(VALUES) }).to_string().into();
        if let Ok(Some(id)) = self.desk.start(&saga, payload, Some(key.clone())).await {
            let before = self.by_hand.insert(key, id);
            assert_eq!(before, None, "the same key begins one");
        }
    }

    /// An operator sees to what nobody else can bring on, but not for ever. Whether there was anything.
    pub async fn help(&mut self) -> bool {
        let (paused, stuck, has_queued) = {
            let ledger = self.place.ledger();
            let paused = ledger.which(|standing| standing.is_paused && standing.state.is_live());
            let stuck = ledger.which(|standing| standing.state == State::NeedsOperator);
            let has_queued = !ledger.which(|standing| standing.state == State::Queued).is_empty();
            (paused, stuck, has_queued)
        };
        let goes_on = !paused.is_empty() || !stuck.is_empty() && (has_queued || self.helped < 3);
        if paused.is_empty() {
            self.helped += 1;
        }
        let helped = if paused.is_empty() { stuck } else { paused.clone() };
        for id in helped.iter().filter(|_| goes_on) {
            let verb = match (paused.is_empty(), self.helped) {
                (false, _) => Verb::Resume,
                (true, 4..) => Verb::Abort,
                (true, _) if self.dice.one_in(2) => continue,
                (true, _) => {
                    [Verb::Retry, Verb::Retry, Verb::Skip { result: None }, Verb::Compensate][self.dice.at(4)].clone()
                }
            };
            // It may be killed meanwhile; then they are helped the next time.
            let _ = self.desk.operate(id, verb, "at the end").await;
            self.after_a_kill();
        }
        goes_on
    }
}
