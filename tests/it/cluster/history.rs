//! What clients saw of a cluster: every request, answer, push, delivery and acknowledgement, with times of one clock.

use std::fmt;
use std::time::Duration;

/// Since the beginning of the history.
pub type At = Duration;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub publishes: Vec<Publish>,
    /// What the store has at the end, in the order of its ids.
    pub log: Vec<Stored>,
    pub subscribers: Vec<Subscriber>,
    pub services: Vec<ServiceHistory>,
    pub consumers: Vec<ConsumerHistory>,
}

/// A request to publish. It may be one of several for the same event, with its idempotency key.
#[derive(Debug, Clone)]
pub struct Publish {
    pub node: String,
    /// The payload, unlike that of any other event.
    pub tag: String,
    pub name: String,
    pub key: Option<String>,
    pub idempotency_key: Option<String>,
    pub asked: At,
    /// None: nobody knows whether it is stored.
    pub answered: Option<(At, Answer)>,
}

/// What the publisher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Under this id.
    Stored(i64),
    /// It will be in the log when it is due.
    Scheduled,
}

/// An event of the log. Those of the program itself have no tag.
#[derive(Debug, Clone)]
pub struct Stored {
    pub id: i64,
    pub name: String,
    pub key: Option<String>,
    pub tag: Option<String>,
}

/// A subscriber, which resumes after the last event that it has seen.
#[derive(Debug, Clone, Default)]
pub struct Subscriber {
    pub name: String,
    /// The beginning of the names that it subscribes to.
    pub wants: String,
    /// In the order of arrival.
    pub pushes: Vec<Push>,
}

#[derive(Debug, Clone)]
pub struct Push {
    pub at: At,
    pub node: String,
    pub id: i64,
    pub tag: Option<String>,
}

/// A service, what came there, and what the store says of its deliveries.
#[derive(Debug, Clone, Default)]
pub struct ServiceHistory {
    pub name: String,
    /// The beginning of the names that are delivered to it.
    pub wants: String,
    /// In the order of arrival.
    pub posts: Vec<Post>,
    pub outcomes: Vec<Outcome>,
}

/// A request to a service.
#[derive(Debug, Clone)]
pub struct Post {
    pub number: usize,
    pub node: String,
    pub id: i64,
    pub arrived: At,
    pub answered: Option<(At, u16)>,
}

/// What the store says of a delivery.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub id: i64,
    pub is_delivered: bool,
    pub attempts: usize,
    /// The attempts that failed: number, status, and the number of the post if the answer said so.
    pub failed: Vec<(usize, Option<u16>, Option<usize>)>,
}

/// A durable subscription with all its members.
#[derive(Debug, Clone, Default)]
pub struct ConsumerHistory {
    pub name: String,
    /// The beginning of the names that it subscribes to.
    pub wants: String,
    /// Events that were given to members.
    pub given: Vec<Given>,
    /// Acknowledgements that were confirmed.
    pub acked: Vec<Given>,
}

#[derive(Debug, Clone)]
pub struct Given {
    pub at: At,
    pub node: String,
    pub id: i64,
}

impl Publish {
    pub fn stored_as(&self) -> Option<i64> {
        match self.answered {
            Some((_, Answer::Stored(id))) => Some(id),
            _ => None,
        }
    }
}

impl Post {
    /// When it was answered so that the delivery is over.
    pub fn ended(&self) -> Option<At> {
        let is_final = |status: u16| status < 500 && ![408, 425, 429].contains(&status);
        self.answered.filter(|(_, status)| is_final(*status)).map(|(at, _)| at)
    }

    pub fn is_accepted(&self) -> bool {
        self.answered.is_some_and(|(_, status)| (200..300).contains(&status))
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, tag, name, key, idempotency_key, asked, answered } = self;
        write!(f, "{asked:>12.3?}  publish {tag} ({name}) at {node}")?;
        key.iter().try_for_each(|key| write!(f, ", key {key}"))?;
        idempotency_key.iter().try_for_each(|key| write!(f, ", idempotency key {key}"))?;
        match answered {
            Some((at, answer)) => write!(f, "; {at:.3?} {answer:?}"),
            None => write!(f, "; not answered"),
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, key, tag } = self;
        write!(f, "         log  {id} {} ({name})", tag.as_deref().unwrap_or("-"))?;
        key.iter().try_for_each(|key| write!(f, ", key {key}"))
    }
}

impl fmt::Display for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, node, id, tag } = self;
        write!(f, "{at:>12.3?}  push {id} {} from {node}", tag.as_deref().unwrap_or("-"))
    }
}

impl fmt::Display for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, node, id, arrived, answered } = self;
        write!(f, "{arrived:>12.3?}  post #{number} of {id} from {node}")?;
        match answered {
            Some((at, status)) => write!(f, "; {at:.3?} {status}"),
            None => write!(f, "; not answered"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, is_delivered, attempts, failed } = self;
        write!(f, "       store  delivery of {id}: delivered: {is_delivered}, attempts: {attempts}, failed: {failed:?}")
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, node, id } = self;
        write!(f, "{at:>12.3?}  event {id} at {node}")
    }
}
