//! Instances that are decided on together: what a page of events, or of answers, means for all that it concerns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::concern::{Address, Concerns};
use super::correlation::Correlation;
use super::definition::{Definition, OnDuplicate, StepIndex};
use super::instance::{Instance, Origin, Phase};
use super::journal::{Entry, Fact};
use super::json::Json;
use super::machine::{Effect, Input, Unfit, decide_without, verdict_of};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::name::EventName;
use bytestring::ByteString;

/// An instance, with what was decided on it here.
#[derive(Debug, Clone)]
pub struct Member {
    pub definition: Arc<Definition>,
    pub instance: Instance,
    /// The length of the journal at the beginning; none if the instance is new.
    pub from: Option<u32>,
    /// A new one that is queued only because there are too many may begin since then.
    pub may_begin_at: Option<Timestamp>,
    pub entries: Vec<Entry>,
    pub effects: Vec<Effect>,
    /// The keys under which it awaits events from now on.
    pub awaits: Vec<String>,
}

/// What has become of a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Triggered {
    Started,
    Queued,
    Ignored,
    SetAside,
    /// It has no correlation value.
    WithoutValue,
}

/// What has become of an event that some step may await.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replied {
    Taken,
    /// It is for nobody who awaits it: too early, too late, repeated, or for nobody at all.
    Ignored,
}

/// An event of the log.
#[derive(Debug, Clone, Copy)]
pub struct Happened<'a> {
    pub id: EventId,
    pub name: &'a EventName,
    pub payload: &'a str,
    /// As `/events` shows it.
    pub shown: &'a str,
}

/// Whether an effect can be had; else why not.
pub type Feasible<'a> = &'a dyn Fn(&Effect) -> Result<(), String>;

/// See the module.
pub struct Crowd<'a> {
    members: BTreeMap<String, Member>,
    by_address: HashMap<Address, Vec<String>>,
    now: Timestamp,
    /// Replies to what begins now come after it: see [`decide`].
    log_end: EventId,
    is_feasible: Feasible<'a>,
}

impl<'a> Crowd<'a> {
    pub fn new(now: Timestamp, log_end: EventId, is_feasible: Feasible<'a>) -> Self {
        Self { members: BTreeMap::new(), by_address: HashMap::new(), now, log_end, is_feasible }
    }

    /// Adds an instance that was stored.
    pub fn add(&mut self, definition: Arc<Definition>, instance: Instance, awaits: &[String]) {
        let from = Some(instance.length);
        awaits.iter().for_each(|key| self.find_by(Address::Key(key.clone()), &instance.origin.id));
        self.join(Member {
            definition,
            instance,
            from,
            may_begin_at: None,
            entries: Vec::new(),
            effects: Vec::new(),
            awaits: Vec::new(),
        });
    }

    fn join(&mut self, member: Member) {
        let Origin { id, saga, correlation, .. } = &member.instance.origin;
        let address = Address::Value(saga.clone(), correlation.clone());
        let id = id.clone();
        self.find_by(address, &id);
        self.members.insert(id, member);
    }

    fn find_by(&mut self, address: Address, id: &str) {
        self.by_address.entry(address).or_default().push(id.to_owned());
    }

    /// An instance that is among them.
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    /// Those of which something has changed.
    pub fn changed(self) -> Vec<Member> {
        self.members.into_values().filter(Member::has_changed).collect()
    }

    /// Tells one of them something. Nothing happens if it is not among them.
    pub fn tell(&mut self, id: &str, input: Input) -> Result<(), Unfit> {
        let Some(member) = self.members.get_mut(id) else { return Ok(()) };
        let before = member.instance.clone();
        let (at, mut barred) = ((self.now, self.log_end), Vec::new());
        // The input counts, whatever is impossible of what follows from it. Each turn bars another deed.
        let outcome = loop {
            let Member { definition, instance, .. } = &mut *member;
            let outcome = decide_without(definition, instance, input.clone(), at, &barred)?;
            let is_impossible = |effect: &Effect| effect.deed().zip((self.is_feasible)(effect).err());
            let Some(impossible) = outcome.effects.iter().find_map(is_impossible) else { break outcome };
            barred.push(impossible);
            member.instance.clone_from(&before);
        };
        for Entry { fact, .. } in &outcome.entries {
            let Fact::Begun { step, .. } = fact else { continue };
            if let Some(key) = member.instance.await_key(&member.definition, *step) {
                member.awaits.push(key.clone());
                self.by_address.entry(Address::Key(key)).or_default().push(id.to_owned());
            }
        }
        member.entries.extend(outcome.entries);
        member.effects.extend(outcome.effects);
        Ok(())
    }

    /// Tells those of them for whom an event is a reply.
    pub fn reply(&mut self, concerns: &Concerns, event: &Happened<'_>) -> Option<Replied> {
        let mut taken = None;
        for (definition, step, address) in concerns.replies(event.name, event.payload) {
            taken.get_or_insert(Replied::Ignored);
            let Some(id) = self.whose(definition, step, &address, event.id) else { continue };
            let member = &self.members[&id];
            let verdict = verdict_of(definition, &member.instance, step, (event.name, event.payload));
            let (Some(is_success), Some(json)) = (verdict, Json::parse(event.shown)) else { continue };
            let length = member.instance.length;
            let input = Input::Reply { step, event_id: event.id, event: json, is_success };
            let _ = self.tell(&id, input);
            if self.members[&id].instance.length > length {
                taken = Some(Replied::Taken);
            }
        }
        taken
    }

    /// For whose step an event is: for that of the instance that holds the value, once it has begun; else of the one
    /// before it.
    fn whose(&self, definition: &Definition, step: StepIndex, address: &Address, id: EventId) -> Option<String> {
        let found = self.by_address.get(address)?.iter().filter_map(|id| self.members.get(id));
        let mut of_version: Vec<&Member> = found
            .filter(|member| {
                (&member.definition.name, member.definition.version) == (&definition.name, definition.version)
            })
            .filter(|member| {
                let record = &member.instance.steps[step];
                record.started_at.is_some() && id > record.after
            })
            .collect();
        of_version.sort_by_key(|member| (member.instance.holds(), &member.instance.origin.id));
        of_version.last().map(|member| member.instance.origin.id.clone())
    }

    /// Begins the instances that an event begins. `has_room`: whether there may be another one.
    pub fn trigger(
        &mut self,
        concerns: &Concerns,
        event: &Happened<'_>,
        mut has_room: impl FnMut() -> bool,
        mut new_id: impl FnMut() -> String,
    ) -> Vec<(String, Triggered)> {
        let mut triggered = Vec::new();
        for (definition, value) in concerns.begins(event.id, event.name, event.payload) {
            let Some(correlation) = value else {
                triggered.push((definition.name.clone(), Triggered::WithoutValue));
                continue;
            };
            let is_held = self.holder(&definition.name, &correlation).is_some();
            let what = match (is_held, definition.on_duplicate) {
                (true, OnDuplicate::Ignore) => Triggered::Ignored,
                (true, OnDuplicate::NeedsOperator) => Triggered::SetAside,
                // Whoever waits for the value already comes first.
                (_, OnDuplicate::Queue) => Triggered::Queued,
                (false, _) => {
                    if has_room() {
                        Triggered::Started
                    } else {
                        Triggered::Queued
                    }
                }
            };
            triggered.push((definition.name.clone(), what));
            if what == Triggered::Ignored {
                continue;
            }
            let trigger = ByteString::from(event.shown);
            let id = self.make(definition, (new_id(), correlation, trigger), !is_held);
            match what {
                Triggered::Started => drop(self.tell(&id, Input::Start { after: event.id })),
                Triggered::SetAside => {
                    let reason = "another instance has its correlation value".to_owned();
                    let _ = self.tell(&id, Input::SetAside { reason });
                }
                _ => {}
            }
        }
        triggered
    }

    /// Makes an instance that has not begun.
    pub fn make(
        &mut self,
        definition: &Arc<Definition>,
        (id, correlation, trigger): (String, Correlation, ByteString),
        may_begin: bool,
    ) -> String {
        let (saga, version) = (definition.name.clone(), definition.version);
        let origin = Origin { id: id.clone(), saga, version, correlation, trigger };
        let instance = Instance::new(origin, definition, self.now);
        self.join(Member {
            definition: Arc::clone(definition),
            instance,
            from: None,
            may_begin_at: may_begin.then_some(self.now),
            entries: Vec::new(),
            effects: Vec::new(),
            awaits: Vec::new(),
        });
        id
    }

    /// Begins an instance that is queued, unless another one has its value.
    pub fn begin(&mut self, id: &str) {
        let Some(Origin { saga, correlation, .. }) = self.members.get(id).map(|member| &member.instance.origin) else {
            return;
        };
        if self.holder(saga, correlation).is_none() {
            let _ = self.tell(id, Input::Start { after: self.log_end });
        }
    }

    /// Since when a queued one may begin.
    pub fn may_begin(&mut self, id: &str, since: Option<Timestamp>) {
        if let Some(member) = self.members.get_mut(id) {
            member.may_begin_at = since;
        }
    }

    /// Which of them holds a value.
    fn holder(&self, saga: &str, correlation: &Correlation) -> Option<&Member> {
        let address = Address::Value(saga.to_owned(), correlation.clone());
        let found = self.by_address.get(&address)?.iter().filter_map(|id| self.members.get(id));
        found.into_iter().find(|member| member.instance.holds())
    }
}

impl Member {
    /// Whether it is new, or something was decided on it.
    pub fn has_changed(&self) -> bool {
        self.from.is_none() || !self.entries.is_empty()
    }

    /// When something is due of it that nobody else brings; of a queued one, since when it may begin.
    pub fn due_at(&self) -> Option<Timestamp> {
        if self.instance.phase == Phase::Queued { self.may_begin_at } else { self.instance.due() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::call::CallEnd;
    use crate::domain::saga::{CallReport, Operation, SagaIds, State, StepState, Verb};

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
            let report = CallReport {
                step: 0,
                operation: Operation::Action,
                outcome: CallEnd::Done,
                attempts: 1,
                response: None,
                error: None,
            };
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
            (record.state, record.has_late_reply, record.early)
        };
        // From before the second one has begun.
        assert_eq!(page.event(20, "charge.done", &json!({"order": 1, "ok": true})).0, Some(Replied::Taken));
        assert_eq!(steps(&page, &first), (StepState::Running, true, None));
        assert_eq!(steps(&page, &second), (StepState::Running, false, None));
        assert_eq!(page.event(21, "charge.done", &json!({"order": 1, "ok": true})).0, Some(Replied::Taken));
        assert_eq!(steps(&page, &second), (StepState::Running, false, Some(true)));
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
        assert_eq!(
            (member.instance.state(), member.instance.steps[0].state),
            (State::NeedsOperator, StepState::Failed)
        );
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
            Effect::Call { operation: Operation::Compensation, .. } if impossible.get() == "undo" => {
                Err("gone".to_owned())
            }
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
        let report = CallReport {
            step: 0,
            operation: Operation::Action,
            outcome: CallEnd::Accepted,
            attempts: 1,
            response: None,
            error: None,
        };
        page.crowd.tell(&id, Input::CallEnded(report)).expect("fits");
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
}
