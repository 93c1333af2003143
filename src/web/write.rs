//! What an endpoint has persistence write, beside events.

use std::time::Duration;

use actix::prelude::{Handler, Message};

use super::Edge;
use crate::actors::persistence::Persistence;
use crate::actors::persistence::messages::AppendFailure;
use crate::actors::session::append_error;
use crate::protocol::error::ApiError;

/// How long persistence may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has persistence do it; the answer comes when it is stored.
pub async fn ask<M, T>(edge: &Edge, message: M) -> Result<T, ApiError>
where
    Persistence: Handler<M>,
    M: Message<Result = Result<T, AppendFailure>> + Send + 'static,
    T: Send + 'static,
{
    match tokio::time::timeout(PATIENCE, edge.parts.actors.persistence.ask(message)).await {
        Ok(Ok(done)) => done.map_err(|failure| append_error(&failure)),
        Ok(Err(_)) => Err(append_error(&AppendFailure::StoreUnavailable("the writer is restarting"))),
        Err(_) => Err(append_error(&AppendFailure::TimedOut)),
    }
}
