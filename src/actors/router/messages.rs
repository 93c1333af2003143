//! The message that the router sends.

use std::sync::Arc;

use actix::prelude::Message;

use crate::protocol::log_batch::LogBatch;

/// A committed batch, for the followers of the log, in commit order. An empty batch says where the log ends.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct RouteBatch(pub Arc<LogBatch>);
