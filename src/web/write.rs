//! Writes of endpoints other than appends.

use std::time::Duration;

use super::Edge;
use crate::actors::persistence::messages::AppendFailure;
use crate::protocol::error::ApiError;
use crate::storage::{Outcome, Write};

/// How long persistence may take before the outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has persistence apply `write`; the outcome comes when it is committed.
pub async fn commit(edge: &Edge, write: Write) -> Result<Outcome, ApiError> {
    let outcome = tokio::time::timeout(PATIENCE, edge.parts.actors.persistence.commit(write)).await;
    Ok(outcome.unwrap_or(Err(AppendFailure::TimedOut))?)
}
