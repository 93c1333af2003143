//! A request that waits for an event.

use actix::prelude::Addr;
use tokio::sync::oneshot;

use super::attachment::restarting;
use crate::actors::shard::Shard;
use crate::actors::shard::messages::{AwaitEvent, CancelPoll, PollId};
use crate::actors::worker::Worker;
use crate::domain::pattern::Pattern;
use crate::protocol::error::ApiError;

/// A poll in the shard, which is cancelled when this is dropped.
pub struct LongPoll {
    woken: oneshot::Receiver<()>,
    id: PollId,
    shard: Addr<Shard>,
}

impl LongPoll {
    /// Begins to wait for events that one of `patterns` matches, or for any event if there are none. Fails if there is
    /// no shard.
    pub async fn begin(worker: &Worker, patterns: &[Pattern]) -> Result<Self, ApiError> {
        let shard = worker.shard().ok_or_else(restarting)?;
        let (wake, woken) = oneshot::channel();
        let patterns = if patterns.is_empty() { vec![Pattern::everything()] } else { patterns.to_vec() };
        let id = shard.send(AwaitEvent { patterns, wake }).await.map_err(|_| restarting())?;
        Ok(Self { woken, id, shard })
    }

    /// Ready when there may be an event. False if the shard has failed.
    pub async fn woken(&mut self) -> bool {
        (&mut self.woken).await.is_ok()
    }
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        // One message for each poll, which bounds these messages.
        self.shard.do_send(CancelPoll(self.id));
    }
}
