//! What became of a publish, as its publisher is told.

use serde_json::Value;

use super::entity;
use super::error::{ApiError, ErrorCode};
use super::finding;
use crate::domain::event::{AppendOutcome, Changed, EventId, ScheduleId};
use crate::domain::judgement::Finding;

/// An outcome that is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Published(Published),
    /// For later; `replayed` if that was so before.
    Scheduled {
        id: ScheduleId,
        replayed: bool,
        violations: u32,
    },
}

/// Events that are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub first_id: EventId,
    /// That of the last change, if there is one.
    pub last_id: EventId,
    /// How many had been stored earlier; none if all had been.
    pub replayed: Option<u32>,
    /// What was changed now.
    pub changed: Option<Box<Changed>>,
    /// Violations of schemas that are only observed.
    pub violations: u32,
}

impl Published {
    /// The version that a request of one event has given to an entity, if it has a change.
    pub fn entity_version(&self) -> Option<EventId> {
        (self.last_id > self.first_id).then_some(self.last_id)
    }

    /// Whether a request of one event had been stored earlier.
    pub fn is_replayed(&self) -> bool {
        self.replayed != Some(0)
    }
}

impl Told {
    /// Violations of schemas that are only observed.
    pub fn violations(&self) -> u32 {
        match self {
            Self::Published(Published { violations, .. }) | Self::Scheduled { violations, .. } => *violations,
        }
    }
}

/// What a publisher is told of `outcome`. A request of many has the errors of each by its index.
pub fn told(outcome: AppendOutcome, is_batch: bool) -> Result<Told, ApiError> {
    Ok(Told::Published(match outcome {
        AppendOutcome::Stored { first_id, last_id, replayed } => {
            Published { first_id, last_id, replayed: Some(replayed), changed: None, violations: 0 }
        }
        AppendOutcome::Changed(changed) => {
            let (first_id, last_id) = (changed.ids.first().copied(), changed.ids.last().copied());
            let replayed = Some(changed.replayed);
            let (first_id, last_id) = (first_id.unwrap_or_default(), last_id.unwrap_or_default());
            Published { first_id, last_id, replayed, changed: Some(changed), violations: 0 }
        }
        AppendOutcome::Replayed { first_id, last_id } => {
            Published { first_id, last_id, replayed: None, changed: None, violations: 0 }
        }
        AppendOutcome::Scheduled { id, replayed } => return Ok(Told::Scheduled { id, replayed, violations: 0 }),
        AppendOutcome::Observed { outcome, findings } => {
            let count = findings.iter().map(Finding::count).sum();
            let mut told = told(*outcome, is_batch)?;
            match &mut told {
                Told::Published(Published { violations, .. }) | Told::Scheduled { violations, .. } => {
                    *violations = count
                }
            }
            return Ok(told);
        }
        AppendOutcome::Refused(refused) => return Err(finding::refusals(&refused, is_batch)),
        AppendOutcome::KeyReused { index } if is_batch => return Err(ApiError::key_reused().with("index", index)),
        AppendOutcome::KeyReused { .. } => return Err(ApiError::key_reused()),
        AppendOutcome::Maintenance => return Err(ApiError::maintenance()),
        AppendOutcome::Unstorable => return Err(ApiError::unstorable()),
        AppendOutcome::Unmet(unmet) => {
            let mut errors = unmet.iter().map(|(index, unmet)| (*index, entity::unmet(*unmet))).peekable();
            let Some((_, first)) = errors.peek().cloned() else {
                return Err(ApiError::new(ErrorCode::Internal, "nothing was unmet"));
            };
            if !is_batch {
                return Err(first);
            }
            let count = unmet.len();
            let message = format!("{count} changes of the batch cannot be made; nothing was stored");
            let errors: Vec<Value> = errors.map(|(index, error)| error.to_item(index)).collect();
            return Err(ApiError::new(first.code(), message).with("errors", errors));
        }
    }))
}
