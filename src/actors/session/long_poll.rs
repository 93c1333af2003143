//! A request that waits for an event.

use actix::prelude::Addr;
use tokio::sync::oneshot;

use crate::actors::shard::Shard;
use crate::actors::shard::messages::{AwaitEvent, CancelPoll, PollId};
use crate::actors::worker::Worker;
use crate::domain::pattern::Pattern;

/// A place among those who wait, given up when this is dropped.
pub struct LongPoll {
    woken: oneshot::Receiver<()>,
    id: PollId,
    shard: Addr<Shard>,
}

impl LongPoll {
    /// Waits from now on for what matches any of `patterns`, or for anything if there are none; `None` while there is
    /// no shard.
    pub async fn begin(worker: &Worker, patterns: &[Pattern]) -> Option<Self> {
        let shard = worker.shard()?;
        let (wake, woken) = oneshot::channel();
        let patterns = if patterns.is_empty() { vec![Pattern::everything()] } else { patterns.to_vec() };
        let id = shard.send(AwaitEvent { patterns, wake }).await.ok()?;
        Some(Self { woken, id, shard })
    }

    /// Until there may be something; false if the shard has failed.
    pub async fn woken(&mut self) -> bool {
        (&mut self.woken).await.is_ok()
    }
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        // One message for each wait: unbounded sending is bounded by that.
        self.shard.do_send(CancelPoll(self.id));
    }
}
