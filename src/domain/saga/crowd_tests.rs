//! Instances that are decided on together.

use serde_json::{Value, json};

use super::*;
use crate::domain::call::CallEnd;
use crate::domain::saga::{CallReport, Decision, Operation, ProbeAnswer, SagaIds, State, StepState, Verb};

fn definition(change: impl FnOnce(&mut Value)) -> Arc<Definition> {
    let mut saga = json!({
        "name": "pay", "version": 1, "trigger": { "event": "order.made" }, "correlation": "/order",
        "steps": [{
            "name": "charge", "call": { "service": "bank", "path": "/charges" },
            "await": { "event": "charge.*", "correlation": "/order", "success": { "ok": [true] }, "timeout": "1m" },
        }],
    });
    change(&mut saga);
    Arc::new(Definition::parse(&saga.to_string(), |_| true).expect("a saga"))
}

fn concerns(definition: &Arc<Definition>) -> Concerns {
    let mut concerns = Concerns::default();
    concerns.add_trigger(Arc::clone(definition), 10);
    concerns.add_replies(definition);
    concerns
}

struct Page<'a> {
    crowd: Crowd<'a>,
    concerns: Concerns,
    ids: SagaIds,
    room: usize,
}

impl<'a> Page<'a> {
    fn new(definition: &Arc<Definition>, is_feasible: Feasible<'a>) -> Self {
        let crowd = Crowd::new(Timestamp(1_000_000), 100, is_feasible);
        Self { crowd, concerns: concerns(definition), ids: SagaIds::default(), room: usize::MAX }
    }

    fn event(&mut self, id: EventId, name: &str, payload: &Value) -> (Option<Replied>, Vec<Triggered>) {
        let (name, payload) = (EventName::parse(name).expect("a name"), payload.to_string());
        let shown = format!(r#"{{"id":{id},"event_name":"{name}","payload":{payload}}}"#);
        let event = Happened { id, name: &name, payload: &payload, shown: &shown };
        let replied = self.crowd.reply(&self.concerns, &event);
        let Self { crowd, concerns, ids, room } = self;
        let has_room = || {
            let has_room = *room > 0;
            *room = room.saturating_sub(1);
            has_room
        };
        let triggered = crowd.trigger(concerns, &event, has_room, || ids.next(Timestamp(1_000_000), id as u128));
        (replied, triggered.into_iter().map(|(_, what)| what).collect())
    }

    fn members(&self) -> Vec<&Member> {
        self.crowd.members.values().collect()
    }

    fn called(&mut self, id: &str) {
        self.ended(id, CallEnd::Done);
    }

    fn ended(&mut self, id: &str, outcome: CallEnd) {
        let report =
            CallReport { step: 0, operation: Operation::Action, outcome, attempts: 1, response: None, error: None };
        self.crowd.tell(id, Input::CallEnded(report)).expect("fits");
    }
}

fn fine(_: &Effect) -> Result<(), String> {
    Ok(())
}

#[test]
fn one_instance_of_a_value_lives_at_a_time() {
    let definition = definition(|_| {});
    let mut page = Page::new(&definition, &fine);
    assert_eq!(page.event(10, "order.made", &json!({"order": 1})).1, [], "before its declaration");
    assert_eq!(page.event(11, "order.made", &json!({})).1, [Triggered::WithoutValue]);
    assert_eq!(page.event(12, "order.made", &json!({"order": 1})).1, [Triggered::Started]);
    assert_eq!(page.event(13, "order.made", &json!({"order": 1.0})).1, [Triggered::Ignored]);
    assert_eq!(page.event(14, "order.made", &json!({"order": "1"})).1, [Triggered::Started], "a text is no number");
    let ids: Vec<_> = page.members().iter().map(|member| member.instance.origin.id.clone()).collect();
    assert_eq!(page.event(15, "charge.done", &json!({"order": 3, "ok": true})).0, Some(Replied::Ignored));
    assert_eq!(page.event(16, "charge.done", &json!({"order": 1, "ok": true})).0, Some(Replied::Taken), "early");
    page.called(&ids[0]);
    assert_eq!(page.crowd.member(&ids[0]).expect("it").instance.state(), State::Completed);
    assert_eq!(page.crowd.member(&ids[1]).expect("it").instance.state(), State::Running);
    assert_eq!(page.event(17, "order.made", &json!({"order": 1})).1, [Triggered::Started], "its turn");
}

#[test]
fn a_reply_is_of_whoever_awaits_it_and_not_of_its_successor() {
    let definition = definition(|_| {});
    let mut page = Page::new(&definition, &fine);
    page.event(12, "order.made", &json!({"order": 1}));
    let first = page.members()[0].instance.origin.id.clone();
    let compensate = Input::Operator { verb: Verb::Abort, reason: "x".to_owned() };
    page.crowd.tell(&first, compensate).expect("fits");
    page.event(20, "order.made", &json!({"order": 1}));
    let second = page.members()[1].instance.origin.id.clone();
    let steps = |page: &Page<'_>, id: &str| {
        let record = &page.crowd.member(id).expect("it").instance.steps[0];
        (record.state, record.has_been_told, record.early)
    };
    // From before the second one has begun.
    assert_eq!(page.event(20, "charge.done", &json!({"order": 1, "ok": true})).0, Some(Replied::Taken));
    assert_eq!(steps(&page, &first), (StepState::Running, [true, false], None));
    assert_eq!(steps(&page, &second), (StepState::Running, [false, false], None));
    assert_eq!(page.event(21, "charge.done", &json!({"order": 1, "ok": true})).0, Some(Replied::Taken));
    assert_eq!(steps(&page, &second), (StepState::Running, [true, false], Some(true)));
}

#[test]
fn what_waits_for_a_value_begins_in_its_order() {
    let definition = definition(|saga| saga["on_duplicate"] = "queue".into());
    let mut page = Page::new(&definition, &fine);
    for id in 11..14 {
        assert_eq!(page.event(id, "order.made", &json!({"order": 1})).1, [Triggered::Queued]);
    }
    let ids: Vec<_> = page.members().iter().map(|member| member.instance.origin.id.clone()).collect();
    ids.iter().for_each(|id| page.crowd.begin(id));
    let states: Vec<_> = page.members().iter().map(|member| member.instance.state()).collect();
    assert_eq!(states, [State::Running, State::Queued, State::Queued]);
    assert_eq!(
        page.event(50, "charge.done", &json!({"order": 1, "ok": true})).0,
        Some(Replied::Ignored),
        "it began at 100"
    );
    page.called(&ids[0]);
    assert_eq!(page.event(101, "charge.done", &json!({"order": 1, "ok": true})).0, Some(Replied::Taken));
    ids.iter().for_each(|id| page.crowd.begin(id));
    assert_eq!(page.members()[1].instance.state(), State::Running);
}

#[test]
fn without_room_a_trigger_is_queued() {
    let definition = definition(|_| {});
    let mut page = Page::new(&definition, &fine);
    page.room = 1;
    assert_eq!(page.event(11, "order.made", &json!({"order": 1})).1, [Triggered::Started]);
    assert_eq!(page.event(12, "order.made", &json!({"order": 2})).1, [Triggered::Queued]);
    let queued = page.members()[1];
    assert_eq!((queued.instance.state(), queued.due_at()), (State::Queued, Some(Timestamp(1_000_000))));
}

#[test]
fn an_effect_that_cannot_be_had_needs_an_operator() {
    let definition = definition(|_| {});
    let is_there = std::cell::Cell::new(false);
    let check = |_: &Effect| if is_there.get() { Ok(()) } else { Err("there is no service \"bank\"".to_owned()) };
    let mut page = Page::new(&definition, &check);
    page.event(11, "order.made", &json!({"order": 1}));
    let member = page.members()[0];
    let id = member.instance.origin.id.clone();
    assert_eq!((member.instance.state(), member.instance.steps[0].state), (State::NeedsOperator, StepState::Failed));
    let retry = || Input::Operator { verb: Verb::Retry, reason: "again".to_owned() };
    page.crowd.tell(&id, retry()).expect("fits");
    assert_eq!(page.members()[0].instance.state(), State::NeedsOperator);
    is_there.set(true);
    page.crowd.tell(&id, retry()).expect("fits");
    assert_eq!(page.members()[0].instance.state(), State::Running);
}

#[test]
fn what_has_come_counts_though_what_follows_from_it_is_impossible() {
    let definition = definition(|saga| {
        let undo = json!({ "call": { "service": "bank", "path": "/undo" } });
        saga["steps"] = json!([
            { "name": "charge", "call": { "service": "bank", "path": "/charges" }, "compensate": undo },
            { "name": "note", "publish": { "event": "noted", "payload": {} } },
        ]);
    });
    let impossible = std::cell::Cell::new("publish");
    let check = |effect: &Effect| match effect {
        Effect::Publish { .. } if impossible.get() == "publish" => Err("too long".to_owned()),
        Effect::Call { operation: Operation::Compensation, .. } if impossible.get() == "undo" => Err("gone".to_owned()),
        _ => Ok(()),
    };
    let mut page = Page::new(&definition, &check);
    page.event(11, "order.made", &json!({"order": 1}));
    let id = page.members()[0].instance.origin.id.clone();
    let stands = |page: &Page<'_>| {
        let instance = &page.crowd.member(&id).expect("it").instance;
        (instance.state(), instance.steps.iter().map(|step| step.state).collect::<Vec<_>>())
    };
    page.called(&id);
    assert_eq!(stands(&page), (State::NeedsOperator, vec![StepState::Succeeded, StepState::Failed]));
    impossible.set("undo");
    let say = |verb| Input::Operator { verb, reason: "x".to_owned() };
    page.crowd.tell(&id, say(Verb::Compensate)).expect("fits");
    assert_eq!(stands(&page), (State::NeedsOperator, vec![StepState::CompensationFailed, StepState::Failed]));
    impossible.set("");
    page.crowd.tell(&id, say(Verb::Retry)).expect("fits");
    assert_eq!(stands(&page), (State::Compensating, vec![StepState::Compensating, StepState::Failed]));
}

#[test]
fn a_step_at_work_is_not_done_because_nobody_can_ask() {
    let definition = definition(|saga| {
        let step = saga["steps"][0].as_object_mut().expect("an object");
        step.remove("await");
        step.insert("probe".to_owned(), json!({ "path": "/charges/${trigger.payload.no}", "timeout": "1m" }));
    });
    let mut page = Page::new(&definition, &fine);
    page.event(11, "order.made", &json!({"order": 1}));
    let id = page.members()[0].instance.origin.id.clone();
    page.ended(&id, CallEnd::Accepted);
    assert_eq!(page.members()[0].instance.steps[0].state, StepState::Unknown);
}

#[test]
fn an_event_is_found_by_the_values_that_it_is_to_have() {
    let definition = definition(|saga| {
        let by = json!({ "/of": "${saga.id}", "/n": "${trigger.payload.n}" });
        saga["steps"][0]["await"]["match"] = by;
        saga["steps"][0]["await"].as_object_mut().expect("an object").remove("correlation");
    });
    let mut page = Page::new(&definition, &fine);
    page.event(11, "order.made", &json!({"order": 1, "n": 7}));
    let id = page.members()[0].instance.origin.id.clone();
    assert_eq!(page.members()[0].awaits, [format!("pay/1/charge/7/\"{id}\"")]);
    let reply = |of: &str, n: i32| json!({"of": of, "n": n, "ok": true});
    assert_eq!(page.event(12, "charge.done", &reply(&id, 8)).0, Some(Replied::Ignored));
    assert_eq!(page.event(13, "charge.done", &reply("x", 7)).0, Some(Replied::Ignored));
    assert_eq!(page.event(14, "charge.done", &reply(&id, 7)).0, Some(Replied::Taken));
}

#[test]
fn a_probe_is_withdrawn_when_nobody_needs_its_answer() {
    let with_probe = |name: &str| {
        let mut step = json!({
            "name": name, "call": { "service": "bank", "path": "/charges" }, "probe": { "path": "/charges", "timeout": "1m" },
            "await": { "event": "charge.*", "correlation": "/order", "timeout": "1m" },
        });
        step["await"]["success"] = json!({ "ok": [true] });
        step
    };
    let definition = definition(|saga| saga["steps"] = json!([with_probe("charge")]));
    let withdrawn = |page: &Page<'_>| page.members()[0].effects.contains(&Effect::Withdraw { step: 0 });
    let asked = || {
        let mut page = Page::new(&definition, &fine);
        page.event(11, "order.made", &json!({"order": 1}));
        let id = page.members()[0].instance.origin.id.clone();
        page.ended(&id, CallEnd::Unknown);
        assert!(
            page.members()[0].effects.iter().any(|effect| matches!(effect, Effect::Probe { .. })) && !withdrawn(&page)
        );
        (page, id)
    };
    let (mut page, _) = asked();
    assert_eq!(page.event(12, "charge.done", &json!({"order": 1, "ok": true})).0, Some(Replied::Taken));
    assert!(withdrawn(&page));
    let (mut page, id) = asked();
    page.crowd.tell(&id, Input::Operator { verb: Verb::Compensate, reason: "x".to_owned() }).expect("fits");
    assert!(withdrawn(&page));
    let (mut page, id) = asked();
    page.crowd.tell(&id, Input::Probed { step: 0, answer: ProbeAnswer::NotDone }).expect("fits");
    assert!(!withdrawn(&page), "it has answered");
}

#[test]
fn what_an_operator_says_is_in_the_journal_or_has_a_reason_why_not() {
    let definition = definition(|saga| {
        saga["on_duplicate"] = json!("needs_operator");
        saga["steps"][0]["pivot"] = json!(true);
    });
    let mut page = Page::new(&definition, &fine);
    page.event(11, "order.made", &json!({"order": 1}));
    let id = page.members()[0].instance.origin.id.clone();
    let say = |verb| Input::Operator { verb, reason: "bank is back".to_owned() };
    page.crowd.tell(&id, say(Verb::Retry)).expect("fits");
    let decided = Fact::Decided { decision: Decision::Hurry, reason: "bank is back".to_owned() };
    assert_eq!(page.members()[0].entries.last().map(|entry| &entry.fact), Some(&decided));
    assert!(page.members()[0].effects.contains(&Effect::Hurry));
    assert_eq!(page.crowd.tell(&id, say(Verb::Compensate)), Err(Unfit::NoWayBack));
    assert_eq!(page.crowd.tell(&id, say(Verb::Resume)), Err(Unfit::State));
    page.event(12, "order.made", &json!({"order": 1}));
    let aside = page.members().into_iter().find(|member| member.instance.state() == State::NeedsOperator);
    let aside = aside.expect("set aside").instance.origin.id.clone();
    assert_eq!(page.crowd.tell(&aside, say(Verb::Skip { result: None })), Err(Unfit::NoStep));
}

#[test]
fn what_can_be_no_key_of_an_event_publishes_none() {
    let definition = definition(|saga| {
        let publish = json!({ "event": "noted", "payload": {}, "key": "${trigger.payload.key}" });
        saga["steps"] = json!([{ "name": "note", "publish": publish }]);
    });
    for (order, key) in [json!(null), json!(""), json!("a\nb")].into_iter().enumerate() {
        let mut page = Page::new(&definition, &fine);
        page.event(11, "order.made", &json!({ "order": order, "key": key }));
        let member = page.members()[0];
        let error = member.instance.steps[0].error.as_deref().unwrap_or_default();
        assert!(error.starts_with("template_error: "), "{key}: {error}");
        assert!(!member.effects.iter().any(|effect| matches!(effect, Effect::Publish { .. })), "{key}");
    }
}

#[test]
fn a_value_that_waits_for_room_is_taken() {
    let definition = definition(|_| {});
    let mut page = Page::new(&definition, &fine);
    page.room = 0;
    assert_eq!(page.event(12, "order.made", &json!({"order": 1})).1, [Triggered::Queued]);
    assert_eq!(page.event(13, "order.made", &json!({"order": 1})).1, [Triggered::Ignored]);
    assert_eq!(page.event(14, "order.made", &json!({"order": 2})).1, [Triggered::Queued]);
}

/// An instance, and 9 s after its beginning those who decide on it.
fn begun_before(definition: &Arc<Definition>) -> (String, Crowd<'static>) {
    let mut page = Page::new(definition, &fine);
    page.event(11, "order.made", &json!({ "order": 1 }));
    let instance = page.members()[0].instance.clone();
    let id = instance.origin.id.clone();
    let mut later = Crowd::new(Timestamp(10_000_000), 100, &fine);
    later.add(Arc::clone(definition), instance, &[], None);
    (id, later)
}

/// After a downtime both are noticed at once.
#[test]
fn what_was_due_before_the_deadline_comes_before_it() {
    for (wait, end) in [("1s", State::Completed), ("3s", State::Compensated)] {
        let definition = definition(|saga| {
            saga["deadline"] = json!("2s");
            saga["steps"] = json!([{ "name": "rest", "wait": wait }]);
        });
        let (id, mut later) = begun_before(&definition);
        later.tell(&id, Input::Due(Timestamp(10_000_000))).expect("fits");
        assert_eq!(later.member(&id).expect("it").instance.state(), end, "{wait}");
    }
}

/// What is due later than what was followed may have been answered by what was not followed yet.
#[test]
fn nothing_is_due_that_was_not_by_then() {
    let definition = definition(|saga| {
        saga["deadline"] = json!("5s");
        saga["steps"] =
            json!([{ "parallel": [[{ "name": "rest", "wait": "1s" }], [{ "name": "sleep", "wait": "3s" }]] }]);
    });
    let (id, mut later) = begun_before(&definition);
    for (as_of, ends, end) in [(2_000_000, [true, false], State::Waiting), (4_000_000, [true; 2], State::Completed)] {
        later.tell(&id, Input::Due(Timestamp(as_of))).expect("fits");
        let instance = &later.member(&id).expect("it").instance;
        let have_ended = [0, 1].map(|step: usize| instance.steps[step].state.has_ended());
        assert_eq!((have_ended, instance.state()), (ends, end), "{as_of}");
    }
}

#[test]
fn a_value_that_an_instance_holds_which_cannot_be_read_is_taken() {
    for (on_duplicate, becomes) in
        [("ignore", Triggered::Ignored), ("needs_operator", Triggered::SetAside), ("queue", Triggered::Queued)]
    {
        let definition = definition(|saga| saga["on_duplicate"] = json!(on_duplicate));
        let mut page = Page::new(&definition, &fine);
        page.crowd.occupy(&definition.name, Correlation::of("1").expect("a value"));
        assert_eq!(page.event(11, "order.made", &json!({ "order": 1 })).1, [becomes], "{on_duplicate}");
        assert!(page.members().iter().all(|member| !member.instance.holds() && member.may_begin_at.is_none()));
    }
}

/// A reply may have been committed meanwhile, which the operator's node does not know.
#[test]
fn what_was_due_while_it_was_paused_is_so_as_of_what_was_followed() {
    let definition = definition(|saga| saga["steps"] = json!([{ "name": "rest", "wait": "1s" }]));
    let (id, mut later) = begun_before(&definition);
    for verb in [Verb::Pause, Verb::Resume] {
        later.tell(&id, Input::Operator { verb, reason: "x".to_owned() }).expect("fits");
    }
    let state = |later: &Crowd<'_>| later.member(&id).expect("it").instance.state();
    assert_eq!(state(&later), State::Waiting);
    assert!(later.member(&id).expect("it").due_at().is_some(), "it is found");
    later.tell(&id, Input::Due(Timestamp(10_000_000))).expect("fits");
    assert_eq!(state(&later), State::Completed);
}
