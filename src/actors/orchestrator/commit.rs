//! Who stores what was decided.

use std::sync::Arc;

use tokio::sync::oneshot::Receiver;

use crate::actors::persistence::Persistence;
use crate::actors::persistence::messages::CommitReply;
use crate::domain::lease::Fence;
use crate::runtime::address::Address;
use crate::storage::Write;

/// Stores writes as one, on behalf of the holders of the leases of the fences; none if nobody has taken them.
pub type Commit = Arc<dyn Fn(Vec<Fence>, Vec<Write>) -> Option<Receiver<CommitReply>> + Send + Sync>;

/// Has persistence store them.
pub fn by_persistence(persistence: Address<Persistence>) -> Commit {
    Arc::new(move |fences, writes| persistence.commit_all(fences, writes))
}
