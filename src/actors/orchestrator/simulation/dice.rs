//! Chance, of which a seed is all there is, and the sagas that it makes.

use serde_json::{Value, json};

use crate::domain::saga::Definition;
use crate::storage::StoredDefinition;

/// A small generator: xorshift64*.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    /// A place among so many.
    pub fn at(&mut self, count: usize) -> usize {
        usize::try_from(self.roll(count as u64)).expect("a place")
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

/// A saga called `name` with steps of all kinds.
pub fn some_saga(dice: &mut Dice, name: &str) -> (StoredDefinition, Definition) {
    let (mut steps, mut count, mut has_pivot) = (Vec::new(), 0, false);
    for _ in 0..=dice.roll(3) {
        if dice.one_in(4) {
            let branches: Vec<Vec<Value>> = (0..2)
                .map(|_| {
                    let branch = (0..=dice.roll(2)).map(|_| {
                        count += 1;
                        some_step(dice, name, count, has_pivot)
                    });
                    branch.collect()
                })
                .collect();
            steps.push(json!({ "parallel": branches }));
            continue;
        }
        count += 1;
        let mut step = some_step(dice, name, count, has_pivot);
        if !has_pivot && dice.one_in(5) {
            step["pivot"] = true.into();
            has_pivot = true;
        }
        steps.push(step);
    }
    let on_duplicate = ["ignore", "queue", "queue", "needs_operator"][dice.at(4)];
    let mut saga = json!({
        "name": name, "version": 1, "trigger": { "event": format!("begin.{name}") }, "correlation": "/id",
        "on_duplicate": on_duplicate, "steps": steps,
    });
    if dice.one_in(4) {
        saga["deadline"] = "100s".into();
        saga["on_deadline"] = ["compensate", "needs_operator"][dice.at(2)].into();
    }
    let text = saga.to_string();
    let definition = Definition::parse(&text, |_| true).unwrap_or_else(|error| panic!("{error}: {text}"));
    (StoredDefinition { saga: name.to_owned(), version: 1, text }, definition)
}

fn some_step(dice: &mut Dice, saga: &str, n: usize, is_after_pivot: bool) -> Value {
    let name = format!("s{n}");
    let mut step = match dice.roll(7) {
        0 => json!({ "wait": "10s" }),
        1 => json!({ "publish": { "event": format!("told.{saga}.{name}"), "payload": { "of": "${saga.id}" } } }),
        _ => json!({ "call": { "service": "s", "path": format!("/{name}"), "body": "${trigger.payload}" } }),
    };
    let does_call = step.get("call").is_some();
    if dice.one_in(3) {
        step["await"] =
            json!({ "event": format!("reply.{saga}.{name}"), "success": { "ok": [true] }, "timeout": "60s" });
        if dice.one_in(3) {
            step["await"]["match"] = json!({ "/of": "${saga.id}" });
        } else {
            step["await"]["correlation"] = "/id".into();
        }
        if dice.one_in(2) {
            step["await"]["failure"] = json!({ "ok": [false] });
        }
    }
    step["name"] = name.into();
    if does_call && dice.one_in(3) {
        step["probe"] = json!({ "path": "/probe", "timeout": "20s" });
    }
    if does_call {
        step["retry"] = json!({ "max_attempts": dice.roll(3) + 1 });
    }
    if dice.one_in(6) {
        step["on_failure"] = ["continue", "needs_operator"][dice.at(2)].into();
    }
    if dice.one_in(6) {
        step["on_unknown"] = "needs_operator".into();
    }
    if !is_after_pivot && dice.roll(3) > 0 {
        let body = if dice.one_in(3) { json!("${steps.SELF.response.n}") } else { json!(1) };
        step["compensate"] = json!({ "call": { "service": "s", "path": "/undo", "body": body } });
    }
    if dice.one_in(8) {
        step["when"] = json!({ "trigger": { "payload": { "id": [dice.roll(2)] } } });
    }
    step
}
