//! Whom an event may concern: which sagas it begins, and whose reply it may be.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::correlation::Correlation;
use super::definition::{Definition, Match, StepIndex};
use super::instance::Instance;
use super::template::Unfilled;
use crate::domain::event::EventId;
use crate::domain::index::{PatternIndex, TopicId};
use crate::domain::name::EventName;

/// Longest key in bytes whose values are not hashed. PostgreSQL has room for 2,704 bytes in an index, the id among them.
const MAX_KEY: usize = 2_048;

/// All definitions, by the events that they name.
#[derive(Default)]
pub struct Concerns {
    index: PatternIndex,
    named: HashMap<TopicId, Named>,
}

/// What a pattern is for.
#[derive(Default)]
struct Named {
    /// Sagas that an event begins which comes after this one.
    triggers: Vec<(Arc<Definition>, EventId)>,
    replies: Vec<(Arc<Definition>, StepIndex)>,
}

/// How an instance is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// By its saga and its correlation value.
    Value(String, Correlation),
    /// By a key under which it awaits events.
    Key(String),
}

/// A saga that an event begins, with the value of the instance; none if the event has none.
pub type Begins<'a> = (&'a Arc<Definition>, Option<Correlation>);
/// A step that may have its reply.
pub type Awaited<'a> = (&'a Arc<Definition>, StepIndex, Address);

impl Concerns {
    /// Events after `since` begin instances.
    pub fn add_trigger(&mut self, definition: Arc<Definition>, since: EventId) {
        let topic = self.index.insert(&definition.trigger.event);
        self.named.entry(topic).or_default().triggers.push((definition, since));
    }

    /// Instances of this definition await events.
    pub fn add_replies(&mut self, definition: &Arc<Definition>) {
        for (at, step) in definition.steps.iter().enumerate() {
            if let Some(reply) = &step.reply {
                let topic = self.index.insert(&reply.event);
                self.named.entry(topic).or_default().replies.push((Arc::clone(definition), at));
            }
        }
    }

    /// What an event begins.
    pub fn begins(&self, id: EventId, name: &EventName, payload: &str) -> Vec<Begins<'_>> {
        let mut begins = Vec::new();
        self.index.for_each_match(name, |topic| {
            let named = self.named.get(&topic).into_iter().flat_map(|named| &named.triggers);
            for (definition, _) in named.filter(|(_, since)| id > *since) {
                if definition.trigger.filter.as_ref().is_none_or(|filter| filter.matches(payload)) {
                    begins.push((definition, definition.value_of(payload)));
                }
            }
        });
        begins
    }

    /// Whose reply an event may be.
    pub fn replies(&self, name: &EventName, payload: &str) -> Vec<Awaited<'_>> {
        let mut replies = Vec::new();
        self.index.for_each_match(name, |topic| {
            let named = self.named.get(&topic).into_iter().flat_map(|named| &named.replies);
            let found = named
                .filter_map(|(definition, step)| Some((definition, *step, definition.address_of(*step, payload)?)));
            replies.extend(found);
        });
        replies
    }
}

impl Definition {
    /// The value of the instance that an event with this payload begins.
    pub fn value_of(&self, payload: &str) -> Option<Correlation> {
        self.correlation.find(payload).and_then(Correlation::of)
    }

    /// How the instance is found of which a step awaits an event with this payload.
    fn address_of(&self, step: StepIndex, payload: &str) -> Option<Address> {
        let value = |pointer: &super::json::Pointer| pointer.find(payload).and_then(Correlation::of);
        match &self.steps[step].reply.as_ref()?.match_by {
            Match::Correlation(pointer) => Some(Address::Value(self.name.clone(), value(pointer)?)),
            Match::Values(values) => {
                let values = values.iter().map(|(pointer, _)| value(pointer)).collect::<Option<Vec<_>>>()?;
                Some(Address::Key(self.key(step, &values)))
            }
        }
    }

    /// The pointers of a version are its own. Long values are hashed: a database has no room for them in an index.
    fn key(&self, step: StepIndex, values: &[Correlation]) -> String {
        let of_step = format!("{}/{}/{}", self.name, self.version, self.steps[step].name);
        let mut of_values = String::new();
        for value in values {
            let _ = write!(of_values, "/{value}");
        }
        if of_step.len() + of_values.len() > MAX_KEY {
            of_values = "#".to_owned();
            for value in values {
                let _ = write!(of_values, "{:x}", Sha256::digest(value.to_string()));
            }
        }
        of_step + &of_values
    }
}

impl Instance {
    /// The key under which a step awaits its event, if it is not found by the value of the instance.
    ///
    /// # Errors
    /// A value that the event is to have is not there, or is none that an event can be found by.
    pub fn await_key(&self, definition: &Definition, step: StepIndex) -> Result<Option<String>, Unfilled> {
        let Some(Match::Values(values)) = definition.steps[step].reply.as_ref().map(|reply| &reply.match_by) else {
            return Ok(None);
        };
        let scope = self.scope(definition, None);
        let unusable = || Unfilled("a value of `match` is nothing that an event can be found by".to_owned());
        let wanted = values.iter().map(|(_, value)| Correlation::of(&value.fill(&scope)?).ok_or_else(unusable));
        Ok(Some(definition.key(step, &wanted.collect::<Result<Vec<_>, _>>()?)))
    }
}
