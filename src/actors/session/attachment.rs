//! How a subscriber's connection gets its place in the shard of its thread, and gives it up.

use std::rc::Rc;

use actix::prelude::Addr;

use crate::access::limits::PeerAdmission;
use crate::actors::connection::Connection;
use crate::actors::shard::Shard;
use crate::actors::shard::messages::{OpenSession, Place, SessionClosed};
use crate::actors::worker::Worker;
use crate::protocol::error::{ApiError, ErrorCode};

/// A connection with its place in one generation of its shard, which is given up when this is dropped.
pub struct Attachment {
    pub place: Place,
    pub connection: Rc<Connection>,
    pub shard: Addr<Shard>,
    _admission: Option<PeerAdmission>,
}

impl Attachment {
    /// Gets a connection its place in the shard, and keeps the one that it takes among those of its address; an error
    /// while there is no shard.
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
        // One message for each place: unbounded sending is bounded by that.
        self.shard.do_send(SessionClosed(self.place));
    }
}

/// The answer while there is no shard.
pub(super) fn restarting() -> ApiError {
    ApiError::transient(ErrorCode::Overloaded, "the shard of this worker is restarting")
}
