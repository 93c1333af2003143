//! How a connection gets its place in the shard of its thread, and leaves it.

use std::rc::Rc;

use actix::prelude::Addr;

use crate::access::limits::PeerAdmission;
use crate::actors::connection::Connection;
use crate::actors::shard::Shard;
use crate::actors::shard::messages::{OpenSession, Place, SessionClosed};
use crate::actors::worker::Worker;
use crate::protocol::error::{ApiError, ErrorCode};

/// A connection with its place in one generation of the shard. Dropping this leaves the place.
pub struct Attachment {
    pub place: Place,
    pub connection: Rc<Connection>,
    pub shard: Addr<Shard>,
    _admission: Option<PeerAdmission>,
}

impl Attachment {
    /// Gets the connection a place in the shard; an error if there is no shard. `admission` counts the connection among
    /// those of its address as long as it has its place.
    pub async fn get(
        worker: &Worker,
        connection: Rc<Connection>,
        admission: Option<PeerAdmission>,
    ) -> Result<Self, ApiError> {
        let shard = worker.shard().ok_or_else(|| ApiError::transient(ErrorCode::Overloaded, "still starting"))?;
        let lobby = &worker.thread.lobby;
        let ticket = lobby.enter(Rc::clone(&connection));
        let Ok(Some(place)) = shard.send(OpenSession(ticket)).await else {
            lobby.take(ticket);
            return Err(restarting());
        };
        Ok(Self { place, connection, shard, _admission: admission })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // One message for each place, which bounds these messages.
        self.shard.do_send(SessionClosed(self.place));
    }
}

/// The answer while there is no shard.
pub(super) fn restarting() -> ApiError {
    ApiError::transient(ErrorCode::Overloaded, "the shard of this worker is restarting")
}
