//! Sagas in a world where everything goes wrong: services refuse, hang, answer late or twice, replies come early, late,
//! again or never, operators interfere, and whatever is told to the machine is told twice.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::domain::call::CallEnd;
use crate::domain::event::Timestamp;

/// So many worlds. `SAGA_SEED` makes it one.
const WORLDS: u64 = 100_000;

/// Whether the step is known to be done from then on.
fn is_success_of(entry: &Entry, of: StepIndex) -> bool {
    match &entry.fact {
        Fact::Ended { step, end: StepEnd::Succeeded, .. } => *step == of,
        Fact::Decided { decision: Decision::Skip { steps, .. }, .. } => steps.contains(&of),
        _ => false,
    }
}

/// A small generator, so that a seed is all there is to a world.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

fn some_step(dice: &mut Dice, n: usize, is_after_pivot: bool) -> Value {
    let name = format!("s{n}");
    let mut step = match dice.roll(6) {
        0 => json!({ "wait": "10s" }),
        1 => json!({ "publish": { "event": "told.it", "payload": { "of": "${saga.id}" } } }),
        _ => json!({ "call": { "service": "x", "path": format!("/{name}"), "body": "${trigger.payload}" } }),
    };
    let does_call = step.get("call").is_some();
    step["name"] = name.into();
    if dice.one_in(3) {
        step["await"] =
            json!({ "event": "reply.*", "correlation": "/id", "success": { "ok": [true] }, "timeout": "60s" });
        if dice.one_in(2) {
            step["await"]["failure"] = json!({ "ok": [false] });
        }
    }
    if does_call && dice.one_in(3) {
        step["probe"] = json!({ "path": "/probe", "timeout": "20s" });
    }
    if dice.one_in(6) {
        step["on_failure"] = ["continue", "needs_operator"][dice.roll(2) as usize].into();
    }
    if dice.one_in(6) {
        step["on_unknown"] = "needs_operator".into();
    }
    if !is_after_pivot && dice.roll(3) > 0 {
        let body = if dice.one_in(3) { json!("${steps.SELF.response.n}") } else { json!(1) };
        step["compensate"] = json!({ "call": { "service": "x", "path": "/undo", "body": body } });
    }
    if dice.one_in(8) {
        step["when"] = json!({ "trigger": { "payload": { "id": [dice.roll(2) + 1] } } });
    }
    step
}

fn some_saga(dice: &mut Dice) -> Definition {
    let (mut steps, mut count, mut pivot_at) = (Vec::new(), 0, None);
    for _ in 0..=dice.roll(4) {
        if dice.one_in(4) {
            let branches: Vec<Vec<Value>> = (0..2)
                .map(|_| {
                    let branch = (0..=dice.roll(2)).map(|_| {
                        count += 1;
                        some_step(dice, count, pivot_at.is_some())
                    });
                    branch.collect()
                })
                .collect();
            steps.push(json!({ "parallel": branches }));
            continue;
        }
        count += 1;
        let mut step = some_step(dice, count, pivot_at.is_some());
        if pivot_at.is_none() && dice.one_in(4) {
            step["pivot"] = true.into();
            pivot_at = Some(count);
        }
        steps.push(step);
    }
    let mut saga = json!({
        "name": "some", "version": 1, "trigger": { "event": "begin" }, "correlation": "/id", "steps": steps,
    });
    if dice.one_in(3) {
        saga["deadline"] = "100s".into();
        saga["on_deadline"] = ["compensate", "needs_operator"][dice.roll(2) as usize].into();
    }
    Definition::parse(&saga.to_string(), |_| true).unwrap_or_else(|error| panic!("{error}: {saga}"))
}

/// What is under way outside of the machine.
#[derive(Debug, Clone)]
enum UnderWay {
    Call { step: StepIndex, operation: Operation },
    Probe { step: StepIndex },
}

struct World {
    dice: Dice,
    saga: Definition,
    instance: Instance,
    journal: Vec<Entry>,
    under_way: Vec<UnderWay>,
    now: Timestamp,
    log_end: i64,
    /// Whether the step has happened, as only this world knows.
    has_happened: BTreeSet<StepIndex>,
    /// Nobody can say whether it has: an attempt got lost, or a reply said that it failed.
    is_doubtful: BTreeSet<StepIndex>,
    /// The first request of each call, which every later one has to equal.
    requests: BTreeMap<(StepIndex, Operation), Request>,
    undoing: Vec<StepIndex>,
    told: Vec<Told>,
}

impl World {
    fn new(seed: u64) -> Self {
        let dice = |seed: u64| Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // Some worlds have the same saga, since reading it takes longer than a run.
        let saga = some_saga(&mut dice(seed / 8 + 1));
        let mut dice = dice(seed);
        dice.roll(2);
        let origin = Origin {
            id: "i".to_owned(),
            saga: "some".to_owned(),
            version: 1,
            correlation: Correlation::of("1").expect("a value"),
            trigger: r#"{"payload":{"id":1}}"#.into(),
        };
        let instance = Instance::new(origin, &saga, Timestamp(0));
        Self {
            dice,
            saga,
            instance,
            journal: Vec::new(),
            under_way: Vec::new(),
            now: Timestamp(0),
            log_end: 10,
            has_happened: BTreeSet::new(),
            is_doubtful: BTreeSet::new(),
            requests: BTreeMap::new(),
            undoing: Vec::new(),
            told: Vec::new(),
        }
    }

    fn tell(&mut self, input: Input) {
        let (phase, length) = (self.instance.phase, self.instance.length);
        let Ok(outcome) = decide(&self.saga, &mut self.instance, input, (self.now, self.log_end)) else {
            assert_eq!(self.instance.length, length, "who is refused changes nothing");
            return;
        };
        if matches!(phase, Phase::Ended(_)) {
            assert_eq!(self.instance.phase, phase, "SG-4");
        }
        for entry in outcome.entries {
            self.journal.push(entry.clone());
            self.check(&entry);
        }
        for effect in outcome.effects {
            self.effect(effect);
        }
    }

    /// The journal is the only state, as it is stored.
    fn replay(&self) {
        let stored: Vec<_> = self.journal.iter().map(|entry| serde_json::to_string(entry).expect("JSON")).collect();
        let read: Vec<_> = stored.iter().map(|text| serde_json::from_str(text).expect("an entry")).collect();
        assert_eq!(read, self.journal);
        let origin = self.instance.origin.clone();
        assert_eq!(Instance::replay(origin, &self.saga, Timestamp(0), &read), self.instance);
    }

    fn check(&mut self, entry: &Entry) {
        match &entry.fact {
            // What it waited for may have come.
            Fact::Begun { step, .. } if matches!(self.saga.steps[*step].work, Work::Wait(_)) => {
                self.is_doubtful.insert(*step);
            }
            // Nobody else knows whether the operator has done it by hand.
            Fact::Decided { decision: Decision::Skip { steps, .. }, .. } => self.is_doubtful.extend(steps),
            Fact::Undoing { step } => {
                let is_known_not = !self.has_happened.contains(step) && !self.is_doubtful.contains(step);
                assert!(!is_known_not, "SG-1: {step} has not happened");
                let place = |step: &StepIndex| self.instance.order.iter().position(|begun| begun == step);
                let is_after = self.undoing.last().is_none_or(|last| place(step) <= place(last));
                assert!(is_after, "SG-1: {step} is undone after {:?}", self.undoing);
                let has_succeeded = |pivot| self.journal.iter().any(|entry| is_success_of(entry, pivot));
                assert!(!self.saga.pivot().is_some_and(has_succeeded), "SG-3: {step} is undone after the pivot");
                self.undoing.push(*step);
            }
            Fact::Finished { end: InstanceEnd::Compensated } => {
                for step in &self.has_happened {
                    let has_undo = self.saga.steps[*step].undo.is_some();
                    let state = self.instance.steps[*step].state;
                    assert!(!has_undo || state == StepState::Compensated, "step {step} is {state:?}");
                }
            }
            Fact::Finished { end: InstanceEnd::Completed } => {
                for (step, record) in self.saga.steps.iter().zip(&self.instance.steps) {
                    let is_well = match record.state {
                        StepState::Succeeded | StepState::Skipped => true,
                        StepState::Failed => step.on_failure == OnFailure::Continue,
                        _ => false,
                    };
                    assert!(is_well, "{}: {:?}", step.name, record.state);
                }
            }
            _ => {}
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Call { step, operation, request, .. } => {
                let is_under_way = |other: &UnderWay| matches!(other, UnderWay::Call { step: s, .. } if *s == step);
                assert!(!self.under_way.iter().any(is_under_way), "one call of a step at a time");
                if operation == Operation::Action {
                    let has_succeeded = |entry: &Entry| matches!(entry.fact, Fact::Ended { step: s, end: StepEnd::Succeeded, .. } if s == step);
                    assert!(!self.journal.iter().any(has_succeeded), "what is acknowledged is not called again");
                }
                let first = self.requests.entry((step, operation)).or_insert_with(|| request.clone());
                assert_eq!(*first, request);
                self.under_way.push(UnderWay::Call { step, operation });
            }
            Effect::Probe { step, .. } => {
                let is_its = |other: &UnderWay| matches!(other, UnderWay::Probe { step: s } if *s == step);
                assert!(!self.under_way.iter().any(is_its), "one probe of a step at a time");
                self.under_way.push(UnderWay::Probe { step });
            }
            Effect::Publish { step, .. } => drop(self.has_happened.insert(step)),
            Effect::Silence => self.under_way.clear(),
            Effect::Withdraw { step } => {
                let is_its = |other: &UnderWay| matches!(other, UnderWay::Probe { step: s } if *s == step);
                assert!(self.under_way.iter().any(is_its), "a probe is withdrawn that is under way");
                self.under_way.retain(|other| !is_its(other));
            }
            Effect::Hurry => {}
            Effect::Tell { what, .. } => self.told.push(what),
        }
    }

    /// Something happens.
    fn turn(&mut self) {
        self.log_end += 1;
        match self.dice.roll(10) {
            0 => self.some_reply(),
            1 => {
                self.now = self.now.plus(std::time::Duration::from_secs(self.dice.roll(40)));
                self.tell(Input::Due(self.now));
            }
            2 if self.dice.one_in(6) => self.operator(),
            _ => self.answer(),
        }
    }

    fn answer(&mut self) {
        if self.under_way.is_empty() {
            // Time is all that can bring it on.
            self.now = self.instance.due().unwrap_or(self.now).max(self.now);
            return self.tell(Input::Due(self.now));
        }
        let at = self.dice.roll(self.under_way.len() as u64) as usize;
        let input = match self.under_way.remove(at) {
            UnderWay::Call { step, operation } => self.end_of_call(step, operation),
            UnderWay::Probe { step } => {
                let answer = match (self.dice.roll(3), self.has_happened.contains(&step)) {
                    (0, _) => ProbeAnswer::Unclear,
                    (_, true) => ProbeAnswer::Done(Some(Json::of(&json!({ "n": 1 })))),
                    (_, false) => {
                        if self.instance.steps[step].waits.is_some() {
                            self.is_doubtful.remove(&step);
                        }
                        ProbeAnswer::NotDone
                    }
                };
                Input::Probed { step, answer }
            }
        };
        self.tell(input.clone());
        if let Input::CallEnded(CallReport { step, operation, .. }) = &input
            && self.instance.steps[*step].calling != Some(*operation)
        {
            let length = self.instance.length;
            self.tell(input);
            assert_eq!(self.instance.length, length, "told twice is told once");
        }
    }

    fn end_of_call(&mut self, step: StepIndex, operation: Operation) -> Input {
        let outcome = match self.dice.roll(8) {
            0 => CallEnd::Refused,
            1 => CallEnd::Unknown,
            2 => CallEnd::NotSent,
            3 => CallEnd::Accepted,
            _ => CallEnd::Done,
        };
        if operation == Operation::Action {
            match outcome {
                CallEnd::Done | CallEnd::Accepted => drop(self.has_happened.insert(step)),
                CallEnd::Unknown => {
                    self.is_doubtful.insert(step);
                    if self.dice.one_in(2) {
                        self.has_happened.insert(step);
                    }
                }
                CallEnd::Refused | CallEnd::NotSent => {}
            }
        }
        let response = matches!(outcome, CallEnd::Done | CallEnd::Accepted).then(|| Json::of(&json!({ "n": 1 })));
        let error = (!matches!(outcome, CallEnd::Done | CallEnd::Accepted)).then(|| "error".to_owned());
        Input::CallEnded(CallReport { step, operation, outcome, attempts: 1, response, error })
    }

    /// A reply to any step, in whatever state that is.
    fn some_reply(&mut self) {
        let step = self.dice.roll(self.saga.steps.len() as u64) as usize;
        let payload = json!({ "id": 1, "ok": self.dice.roll(4) > 0 }).to_string();
        let name = crate::domain::name::EventName::parse("reply.x").expect("a name");
        let Some(is_success) = verdict_of(&self.saga, &self.instance, step, (&name, &payload)) else { return };
        let record = &self.instance.steps[step];
        if !record.state.has_ended() && record.state != StepState::Pending {
            // Whoever replies has got the call.
            self.has_happened.insert(step);
            self.is_doubtful.insert(step);
        }
        let event = Json::parse(&payload).expect("JSON");
        self.tell(Input::Reply { step, event_id: self.log_end, event, is_success });
    }

    fn operator(&mut self) {
        let verb = match self.dice.roll(12) {
            0 => Verb::Compensate,
            1 if self.dice.one_in(4) => Verb::Abort,
            2 | 3 => Verb::Pause,
            4..=6 => Verb::Resume,
            7 => Verb::Skip { result: Some(Json::of(&json!({ "n": 2 }))) },
            _ => Verb::Retry,
        };
        if let (Verb::Retry | Verb::Skip { .. }, State::NeedsOperator) = (&verb, self.instance.state()) {
            self.undoing.clear();
        }
        self.tell(Input::Operator { verb, reason: "because".to_owned() });
    }

    /// Lets the world turn until nothing can happen any more.
    fn run(&mut self) {
        self.tell(Input::Start { after: 10 });
        for _ in 0..40 {
            self.turn();
        }
        self.replay();
        // From now on nobody interferes any more.
        self.tell(Input::Operator { verb: Verb::Resume, reason: "at the end".to_owned() });
        for _ in 0..2_000 {
            if self.under_way.is_empty() && self.instance.due().is_none() {
                break;
            }
            self.answer();
        }
        self.replay();
        let state = self.instance.state();
        assert!(!state.is_live() || state == State::NeedsOperator, "it ends: {state:?}");
        for end in [Told::Completed, Told::Compensated, Told::Aborted] {
            let count = self.told.iter().filter(|told| **told == end).count();
            assert_eq!(count, usize::from(end.as_str() == state.as_str()), "{end:?} is told once, if at all");
        }
    }
}

#[test]
fn sagas_end_as_they_should_whatever_goes_wrong() {
    let only: Option<u64> = std::env::var("SAGA_SEED").ok().and_then(|seed| seed.parse().ok());
    let half = |n: u64| std::thread::spawn(move || run_worlds(n * WORLDS / 2 + 1..(n + 1) * WORLDS / 2 + 1));
    let halves: Vec<_> = match only {
        Some(seed) => vec![std::thread::spawn(move || run_worlds(seed..seed + 1))],
        None => vec![half(0), half(1)],
    };
    let mut ends = BTreeMap::<&str, u64>::new();
    for half in halves {
        for (end, count) in half.join().expect("as it should") {
            *ends.entry(end).or_default() += count;
        }
    }
    // Each end is reached often, or this would show little.
    let is_often = |count: &u64| *count > WORLDS / 1_000;
    assert!(only.is_some() || (ends.len() == 4 && ends.values().all(is_often)), "{ends:?}");
}

/// How the worlds of these seeds end.
fn run_worlds(seeds: std::ops::Range<u64>) -> BTreeMap<&'static str, u64> {
    let mut ends = BTreeMap::new();
    for seed in seeds {
        let mut world = World::new(seed);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if let Err(panic) = ran {
            let journal: Vec<_> = world.journal.iter().map(|entry| format!("{:?}", entry.fact)).collect();
            eprintln!("SAGA_SEED={seed}\n{:#?}\n{}", world.saga, journal.join("\n"));
            std::panic::resume_unwind(panic);
        }
        *ends.entry(world.instance.state().as_str()).or_default() += 1;
    }
    ends
}
