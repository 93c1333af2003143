//! The messages that the synchronizer takes.

use actix::prelude::Message;

pub use crate::domain::sync::Demand;

/// Something is to be done for the state of a service. To be sent on the node that holds the lease of the service; on
/// another it is ignored.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Synchronize {
    /// Its name.
    pub service: String,
    pub demand: Demand,
}
