//! What the router hands on.

use std::sync::Arc;

use actix::prelude::Message;

use crate::protocol::log_batch::LogBatch;

/// To those who follow the log: a committed batch, in commit order. An empty one tells how far the log reaches.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct RouteBatch(pub Arc<LogBatch>);
