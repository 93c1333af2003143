//! The state of the whole system of services, and how it changes.
//!
//! - *SY-1* A change that was asked for ends exactly once: it is made, or it is taken back. Until then the old state
//!   holds, and no other change begins.
//! - *SY-2* The system is degraded only while it would be running: from there it comes, and back there it goes.
//!
//! Whoever decides applies an [`Input`] to what is stored, within the transaction that stores the result: of two
//! deciders the second one sees what the first one has made.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::delivery::{DeadReason, DeliveryState};
use super::event::{EventId, Timestamp};

/// The longest time that services may have to acknowledge a change.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// The time that they have unless it is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A state of the whole system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemState {
    Running,
    /// It is running, and a critical part does not work. Nobody asks for that.
    Degraded,
    /// Publishes of certain events are refused.
    Maintenance,
    /// Every node drains.
    Draining,
}

impl SystemState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Running, Self::Degraded, Self::Maintenance, Self::Draining];

    /// The name on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Maintenance => "maintenance",
            Self::Draining => "draining",
        }
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What happens to a change that is not acknowledged in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    #[default]
    Revert,
    Proceed,
}

impl OnTimeout {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revert => "revert",
            Self::Proceed => "proceed",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Revert, Self::Proceed].into_iter().find(|known| known.as_str() == text)
    }
}

/// The state of the system as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    pub state: SystemState,
    pub since: Timestamp,
    /// Why, and by which transition; none as long as there was none.
    pub reason: Option<String>,
    pub transition: Option<String>,
    /// The change that is under way.
    pub change: Option<Change>,
}

/// A change of the state that is not made yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub transition: String,
    pub to: SystemState,
    pub reason: Option<String>,
    /// The services that have to acknowledge it, and those of them that have.
    pub barrier: Vec<String>,
    pub acknowledged: Vec<String>,
    pub due_at: Timestamp,
    pub on_timeout: OnTimeout,
    /// The event that tells the services of it.
    pub event: EventId,
}

impl Change {
    /// The services that have not acknowledged it.
    pub fn waiting_for(&self) -> impl Iterator<Item = &str> {
        self.barrier.iter().filter(|service| !self.acknowledged.contains(service)).map(String::as_str)
    }
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// What the change is called.
    pub transition: String,
    /// What it is called that the system is not degraded any more, if it is degraded now.
    pub recovery: String,
    pub to: SystemState,
    pub reason: Option<String>,
    /// Each once.
    pub barrier: Vec<String>,
    pub timeout: Duration,
    pub on_timeout: OnTimeout,
}

/// What happens to the system. What belongs to another transition than the one under way comes too late, and does
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Put(Put),
    /// A service has taken the event of the change.
    Acknowledged {
        transition: String,
        service: String,
    },
    /// A service refuses the change, by this HTTP status.
    Vetoed {
        transition: String,
        service: String,
        status: u16,
    },
    /// It may be too late for the change.
    TimePassed {
        transition: String,
    },
    /// A critical part does not work: this transition begins, if the system is running.
    Degraded {
        transition: String,
        reason: String,
    },
    /// Every critical part works again.
    Recovered {
        transition: String,
    },
    /// All nodes that drained have ended.
    Drained {
        transition: String,
    },
}

/// Why nothing is done of what an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another change is under way.
    Changing { transition: String },
    /// The state is entered by itself.
    ByItself,
}

/// What everybody is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub what: Step,
    pub transition: String,
    pub from: SystemState,
    pub to: SystemState,
    pub reason: Option<String>,
    /// The services that get it whatever their routes.
    pub barrier: Vec<String>,
}

/// A step of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Changing {
        due_at: Timestamp,
        on_timeout: OnTimeout,
    },
    /// `missing`: services that have not acknowledged it in time.
    Changed {
        missing: Vec<String>,
    },
    Reverted(Cause),
}

/// Why a change is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Veto {
        service: String,
        status: u16,
    },
    /// These have not acknowledged it.
    Timeout {
        missing: Vec<String>,
    },
}

impl System {
    /// Applies what has happened; `now` is the time. Returns what is to be told, in order, none if nothing has changed that
    /// anybody is told of.
    pub fn apply(&mut self, input: Input, now: Timestamp) -> Result<Vec<Told>, Refusal> {
        match input {
            Input::Put(put) => return self.put(put, now),
            Input::Acknowledged { transition, service } => {
                if let Some(change) = self.under_way(&transition)
                    && change.waiting_for().any(|waiting| waiting == service)
                {
                    change.acknowledged.push(service);
                    return Ok(self.finish_if_acknowledged(now));
                }
            }
            Input::Vetoed { transition, service, status } => {
                if let Some(change) = self.under_way(&transition)
                    && change.waiting_for().any(|waiting| waiting == service)
                {
                    return Ok(self.revert(Cause::Veto { service, status }));
                }
            }
            Input::TimePassed { transition } => {
                if let Some(change) = self.under_way(&transition)
                    && now >= change.due_at
                {
                    let missing = change.waiting_for().map(str::to_owned).collect();
                    return Ok(match change.on_timeout {
                        OnTimeout::Revert => self.revert(Cause::Timeout { missing }),
                        OnTimeout::Proceed => self.make(now),
                    });
                }
            }
            Input::Degraded { transition, reason } => {
                if self.change.is_none() && self.state == SystemState::Running {
                    return Ok(vec![self.enter(SystemState::Degraded, transition, Some(reason), now)]);
                }
            }
            Input::Recovered { transition } => {
                if self.state == SystemState::Degraded {
                    return Ok(vec![self.enter(SystemState::Running, transition, None, now)]);
                }
            }
            Input::Drained { transition } => {
                if self.change.is_none() && self.state == SystemState::Draining {
                    let reason = Some("all nodes have ended".to_owned());
                    return Ok(vec![self.enter(SystemState::Running, transition, reason, now)]);
                }
            }
        }
        Ok(Vec::new())
    }

    /// The event of the change under way has this id.
    pub fn announced(&mut self, event: EventId) {
        if let Some(change) = &mut self.change {
            change.event = event;
        }
    }

    /// The transition that is shown, and its reason: that of the change under way, or else the one that has led to the
    /// state.
    pub fn shown_transition(&self) -> (Option<&str>, Option<&str>) {
        match &self.change {
            Some(change) => (Some(&change.transition), change.reason.as_deref()),
            None => (self.transition.as_deref(), self.reason.as_deref()),
        }
    }

    /// The state as a node sees it, on which a critical part does not work, or none does not.
    pub fn seen(&self, is_troubled: bool) -> SystemState {
        match self.state {
            SystemState::Running | SystemState::Degraded if self.change.is_none() && is_troubled => {
                SystemState::Degraded
            }
            SystemState::Running | SystemState::Degraded => SystemState::Running,
            state => state,
        }
    }

    fn put(&mut self, put: Put, now: Timestamp) -> Result<Vec<Told>, Refusal> {
        let Put { transition, recovery, to, reason, barrier, timeout, on_timeout } = put;
        if let Some(change) = &self.change {
            return Err(Refusal::Changing { transition: change.transition.clone() });
        }
        if to == SystemState::Degraded {
            return Err(Refusal::ByItself);
        }
        if self.seen(false) == to {
            return Ok(Vec::new());
        }
        let mut told = Vec::new();
        if self.state == SystemState::Degraded {
            told.push(self.enter(SystemState::Running, recovery, None, now));
        }
        let due_at = now.plus(timeout);
        let change = Change { transition, to, reason, barrier, acknowledged: Vec::new(), due_at, on_timeout, event: 0 };
        told.push(self.tell(&change, Step::Changing { due_at, on_timeout }));
        self.change = Some(change);
        told.extend(self.finish_if_acknowledged(now));
        Ok(told)
    }

    fn under_way(&mut self, transition: &str) -> Option<&mut Change> {
        self.change.as_mut().filter(|change| change.transition == transition)
    }

    fn finish_if_acknowledged(&mut self, now: Timestamp) -> Vec<Told> {
        let is_acknowledged = self.change.as_ref().is_some_and(|change| change.waiting_for().next().is_none());
        if is_acknowledged { self.make(now) } else { Vec::new() }
    }

    /// The change is made.
    fn make(&mut self, now: Timestamp) -> Vec<Told> {
        let Some(change) = self.change.take() else { return Vec::new() };
        let missing = change.waiting_for().map(str::to_owned).collect();
        let told = self.tell(&change, Step::Changed { missing });
        let Change { transition, to, reason, .. } = change;
        *self = Self { state: to, since: now, reason, transition: Some(transition), change: None };
        vec![told]
    }

    /// The change is taken back.
    fn revert(&mut self, cause: Cause) -> Vec<Told> {
        let change = self.change.take();
        change.iter().map(|change| self.tell(change, Step::Reverted(cause.clone()))).collect()
    }

    /// Enters a state without asking anybody.
    fn enter(&mut self, to: SystemState, transition: String, reason: Option<String>, now: Timestamp) -> Told {
        let (from, what) = (self.state, Step::Changed { missing: Vec::new() });
        let told = Told { what, transition: transition.clone(), from, to, reason: reason.clone(), barrier: Vec::new() };
        *self = Self { state: to, since: now, reason, transition: Some(transition), change: None };
        told
    }

    fn tell(&self, change: &Change, what: Step) -> Told {
        let Change { transition, to, reason, barrier, .. } = change.clone();
        Told { what, transition, from: self.state, to, reason, barrier }
    }
}

/// A critical part that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub reason: String,
    pub since: Timestamp,
    /// It is the store, which can be told only afterwards.
    pub is_of_store: bool,
}

/// The name of a new transition.
pub fn transition_name(random: u128) -> String {
    format!("trn_{random:032x}")
}

/// What a service has said of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Acknowledged,
    /// By this HTTP status.
    Vetoed(u16),
}

/// What the delivery of the event of a change says, as it is stored; none: it is tried again, or nobody knows. A service
/// vetoes by a status that refuses the event: 410 pauses the service, and is one too.
pub fn answer(state: DeliveryState, reason: Option<&str>, status: Option<u16>) -> Option<Answer> {
    let refusing = status.filter(|status| (400..500).contains(status));
    match state {
        DeliveryState::Delivered => Some(Answer::Acknowledged),
        DeliveryState::Dead if reason == Some(DeadReason::Rejected.as_str()) => refusing.map(Answer::Vetoed),
        DeliveryState::Waiting | DeliveryState::Retrying => {
            refusing.filter(|status| *status == 410).map(Answer::Vetoed)
        }
        DeliveryState::Dead => None,
    }
}

#[cfg(test)]
mod tests;
