//! Instances of sagas with their journals, the events that they await, and the definitions that they follow.
//!
//! A transition is stored by compare-and-set on the length of the journal: of two who decide at the same length, one
//! wins, and the whole list of writes of the other is void.

mod definitions;
mod read;
mod save;

use crate::domain::event::Timestamp;
use crate::domain::saga::{Correlation, Entry, Origin, State};

pub use self::definitions::{DeclaredSaga, StoredDefinition};
pub(super) use self::definitions::{declare, declared, definitions};
pub(super) use self::read::{by_ids, concerned, counts, due, list, next_due, of_start_key, startable};
pub(super) use self::save::{forget, save};

/// An instance that is new, as it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSaga {
    pub origin: Origin,
    pub made_at: Timestamp,
    /// The idempotency key of the request that began it by hand. Unique within its saga.
    pub start_key: Option<String>,
}

/// What changes of an instance with its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaStanding {
    pub state: State,
    /// Whether it holds its correlation value: one instance of a saga does.
    pub holds: bool,
    pub is_paused: bool,
    pub started_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    /// When a timer of it is due; of a queued one: since when it may begin, none while another holds its value.
    pub due_at: Option<Timestamp>,
    /// How many entries the journal has.
    pub length: u32,
}

/// An instance as it is stored, without its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaRecord {
    pub saga: NewSaga,
    pub standing: SagaStanding,
}

/// An instance with its journal, or why that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSaga {
    pub record: SagaRecord,
    pub journal: Result<Vec<Entry>, String>,
}

/// One step of an instance: entries of the journal, with what they make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaTransition {
    /// A UUIDv7, as text.
    pub id: String,
    /// If it is new.
    pub new: Option<NewSaga>,
    /// No other instance may hold its value, or wait for it, when it is made.
    pub is_alone: bool,
    /// The length of the journal at which this was decided.
    pub from: u32,
    pub standing: SagaStanding,
    pub entries: Vec<Entry>,
    /// Further keys by which events are found to be for it, besides its correlation value.
    pub awaits: Vec<String>,
}

/// Which instances a list shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SagaFilter {
    pub name: Option<String>,
    pub state: Option<State>,
    pub correlation: Option<Correlation>,
    /// Made before.
    pub started_before: Option<Timestamp>,
}
