//! Instances that are decided on together: what a page of events, or of answers, means for all that it concerns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::concern::{Address, Concerns};
use super::correlation::Correlation;
use super::definition::{Definition, OnDuplicate, StepIndex};
use super::instance::{Instance, Origin, Phase};
use super::journal::{Entry, Fact, Operation};
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
    /// Values that others hold.
    occupied: HashSet<Address>,
    now: Timestamp,
    /// Replies to what begins now come after it: see [`decide`].
    log_end: EventId,
    is_feasible: Feasible<'a>,
}

impl<'a> Crowd<'a> {
    pub fn new(now: Timestamp, log_end: EventId, is_feasible: Feasible<'a>) -> Self {
        Self {
            members: BTreeMap::new(),
            by_address: HashMap::new(),
            occupied: HashSet::new(),
            now,
            log_end,
            is_feasible,
        }
    }

    /// Adds an instance that was stored; with the keys under which it awaits events, and of a queued one, since when it may
    /// begin.
    pub fn add(
        &mut self,
        definition: Arc<Definition>,
        instance: Instance,
        awaits: &[String],
        may_begin_at: Option<Timestamp>,
    ) {
        let from = Some(instance.length);
        awaits.iter().for_each(|key| self.find_by(Address::Key(key.clone()), &instance.origin.id));
        self.join(Member {
            definition,
            instance,
            from,
            may_begin_at,
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
            let impossible = outcome.effects.iter().find_map(is_impossible);
            // What begins has to be possible to undo.
            let mut undone = outcome.entries.iter().filter_map(|entry| compensation_of(&entry.fact));
            let impossible = impossible.or_else(|| undone.find_map(|effect| is_impossible(&effect)));
            let Some(impossible) = impossible else { break outcome };
            barred.push(impossible);
            member.instance.clone_from(&before);
        };
        for Entry { fact, .. } in &outcome.entries {
            let Fact::Begun { step, .. } = fact else { continue };
            if let Ok(Some(key)) = member.instance.await_key(&member.definition, *step) {
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
            let is_held = self.is_held(&definition.name, &correlation);
            // One that waits for room alone, which will hold the value.
            let is_taken = is_held || self.is_queued(&definition.name, &correlation);
            let what = match (is_taken, definition.on_duplicate) {
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
        if !self.is_held(saga, correlation) {
            let _ = self.tell(id, Input::Start { after: self.log_end });
        }
    }

    /// An instance holds the value that is not among them, since it cannot be read.
    pub fn occupy(&mut self, saga: &str, correlation: Correlation) {
        self.occupied.insert(Address::Value(saga.to_owned(), correlation));
    }

    fn is_held(&self, saga: &str, correlation: &Correlation) -> bool {
        let address = Address::Value(saga.to_owned(), correlation.clone());
        self.occupied.contains(&address) || self.of_value(saga, correlation).any(|member| member.instance.holds())
    }

    /// Whether one of them waits for a value, or for room.
    fn is_queued(&self, saga: &str, correlation: &Correlation) -> bool {
        self.of_value(saga, correlation).any(|member| member.instance.phase == Phase::Queued)
    }

    fn of_value(&self, saga: &str, correlation: &Correlation) -> impl Iterator<Item = &Member> {
        let address = Address::Value(saga.to_owned(), correlation.clone());
        let found = self.by_address.get(&address).map(Vec::as_slice).unwrap_or_default();
        found.iter().filter_map(|id| self.members.get(id))
    }
}

/// The call that would undo a step which begins, if it is known by then.
fn compensation_of(fact: &Fact) -> Option<Effect> {
    let Fact::Begun { step, undo: Some(request), .. } = fact else { return None };
    let (step, request) = (*step, request.clone());
    Some(Effect::Call { step, operation: Operation::Compensation, request, until: None })
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
#[path = "crowd_tests.rs"]
mod tests;
