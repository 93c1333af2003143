//! The catalogue: event types, each with the schema of the payloads of its events.
//!
//! - *CT-1* Of several types whose names match an event, the most specific one alone counts, also if it is off.
//! - *CT-2* A change of a type holds for every event of a greater id than its own: what an older generation has judged is
//!   judged again in the transaction that stores it.
//! - *CT-3* What is refused leaves nothing behind, no idempotency key either; what is stored already is not judged again.

pub mod change;
mod specific;

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use self::specific::Specificity;
use super::event::{Append, NewEvent, Timestamp};
use super::judgement::{Fault, Finding, Generation, Judgement};
use super::name::EventName;
use super::pattern::Pattern;
use super::schema::compat::Compatibility;
use super::schema::{Invalid, Refusal, Schema};

/// What is done about payloads that violate a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They are refused.
    #[default]
    Enforce,
    /// They are counted.
    Observe,
    /// They are not looked at.
    Off,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Enforce, Self::Observe, Self::Off];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

/// What is done about events for which there is no type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    #[default]
    Allow,
    /// They are counted.
    Observe,
    Reject,
}

/// What is said of a type besides its schema.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    pub description: Option<String>,
    pub owner: Option<String>,
    /// Payloads, each as JSON text.
    pub examples: Vec<String>,
    pub deprecated: bool,
    pub mode: Mode,
    #[serde(with = "change::compatibility")]
    pub compatibility: Compatibility,
    /// Whether new versions are compared strictly.
    pub strict: bool,
}

/// A type as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    pub name: Pattern,
    /// The newest one that was given; versions go on after a deletion.
    pub version: u32,
    /// The JSON text of the schema.
    pub schema: String,
    /// None: it was deleted.
    pub settings: Option<Settings>,
    /// The id of the event of its newest change.
    pub generation: Generation,
    pub changed_at: Timestamp,
}

/// A type as events are judged by it.
#[derive(Debug)]
pub struct Ruling {
    pub name: Pattern,
    pub version: u32,
    pub mode: Mode,
    /// None: nothing is judged.
    schema: Option<Schema>,
}

/// See the module. It never changes: there is another one after each change.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    generation: Generation,
    unknown: Unknown,
    /// Types that are names.
    exact: HashMap<ByteString, Arc<Ruling>>,
    /// The others, the most specific first.
    patterns: Vec<(Specificity, Arc<Ruling>)>,
}

impl Ruling {
    /// Of a type with this schema. One whose schema cannot be read any more judges nothing, and the error says why.
    pub fn of(of: &EventType) -> (Self, Option<Invalid>) {
        let mode = of.settings.as_ref().map_or(Mode::Off, |settings| settings.mode);
        let compiled = (mode != Mode::Off).then(|| Schema::compile(&of.schema)).transpose();
        let (schema, error) = match compiled {
            Ok(schema) => (schema, None),
            Err(error) => (None, Some(error)),
        };
        (Self { name: of.name.clone(), version: of.version, mode, schema }, error)
    }

    /// Judges a payload.
    pub fn judge(&self, payload: &str) -> Option<Finding> {
        let refused = self.schema.as_ref()?.judge(payload).err()?;
        let fault = match refused {
            Refusal::Violations(violations) => Fault::Violations(violations),
            Refusal::DuplicateKey { path, key } => Fault::DuplicateKey { path, key },
        };
        Some(Finding { of: Some((self.name.clone(), self.version)), refuses: self.mode == Mode::Enforce, fault })
    }
}

/// What is judged of an event: its payload; of a change, which is not decided yet, all of it but the previous version.
fn judged_payload(event: &NewEvent) -> ByteString {
    event.change.as_ref().map_or_else(|| event.payload.clone(), |change| change.undecided_payload(&event.payload))
}

impl Catalogue {
    /// One without types.
    pub fn new(unknown: Unknown) -> Self {
        Self { unknown, ..Self::default() }
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The same without any type, to be read anew.
    pub fn emptied(&self) -> Self {
        Self::new(self.unknown)
    }

    /// This one after changes up to `generation`. Those that cannot be enforced are returned with the reasons.
    pub fn after(&self, changed: &[EventType], generation: Generation) -> (Self, Vec<(Pattern, Invalid)>) {
        let mut next = Self { generation, ..self.clone() };
        let mut errors = Vec::new();
        for of in changed {
            let name = &of.name;
            next.exact.remove(name.as_str());
            next.patterns.retain(|(_, ruling)| ruling.name != *name);
            if of.settings.is_none() {
                continue;
            }
            let (ruling, error) = Ruling::of(of);
            errors.extend(error.map(|error| (name.clone(), error)));
            if name.is_exact() {
                next.exact.insert(name.as_str().into(), Arc::new(ruling));
            } else {
                next.patterns.push((Specificity::of(name), Arc::new(ruling)));
            }
        }
        next.patterns.sort_by(|(one, _), (other, _)| one.cmp(other));
        (next, errors)
    }

    /// The type that counts for events of this name (CT-1).
    pub fn governing(&self, name: &EventName) -> Option<&Ruling> {
        if let Some(exact) = self.exact.get(name.as_str()) {
            return Some(exact);
        }
        self.patterns.iter().map(|(_, ruling)| &**ruling).find(|ruling| ruling.name.matches(name))
    }

    /// Judges all events of a request.
    pub fn judge(&self, append: &Append) -> Judgement {
        let mut findings = Vec::new();
        if !self.exact.is_empty() || !self.patterns.is_empty() || self.unknown != Unknown::Allow {
            let events = append.events.iter().enumerate();
            findings.extend(events.filter_map(|(at, event)| Some((at, self.judge_event(event)?))));
        }
        Judgement { generation: self.generation, findings: findings.into() }
    }

    /// Judges one event. The Event Handler's own are not judged.
    pub fn judge_event(&self, event: &NewEvent) -> Option<Finding> {
        if event.name.is_system() {
            return None;
        }
        match self.governing(&event.name) {
            Some(ruling) => ruling.judge(&judged_payload(event)),
            None if self.unknown == Unknown::Allow => None,
            None => Some(Finding { of: None, refuses: self.unknown == Unknown::Reject, fault: Fault::UnknownType }),
        }
    }
}

#[cfg(test)]
mod tests;
