//! The session of an SSE subscriber. Such a subscriber sends no requests, so only the end of its connection is watched.

use std::rc::Rc;
use std::time::Duration;

use super::attachment::{Attachment, restarting};
use super::snapshot::Snapshot;
use crate::actors::shard::messages::OpenStream;
use crate::protocol::close::CloseReason;
use crate::protocol::error::ApiError;
use crate::protocol::frame::Subscribed;
use crate::protocol::sse;
use crate::transport::{InputEnd, PeerInput};

/// Opens the stream, and watches the connection until it ends.
pub async fn start(attachment: Attachment, open: OpenStream, input: PeerInput) -> Result<Subscribed, ApiError> {
    let state = attachment.shard.send(open).await.map_err(|_| restarting())??;
    watch(attachment, input);
    Ok(state)
}

/// The same for a subscriber that takes a snapshot first.
pub fn start_with(snapshot: Snapshot, attachment: Attachment, input: PeerInput) {
    snapshot.connection.send_queue.push(sse::opening(Duration::from_millis(rand::random_range(sse::RETRY))));
    actix_rt::spawn(async move {
        let connection = Rc::clone(&snapshot.connection);
        if let Err(error) = snapshot.run().await {
            log::debug!(error:%; "a snapshot broke off");
            connection.close(CloseReason::ActorRestarted);
        }
    });
    watch(attachment, input);
}

/// Watches the connection until it ends.
fn watch(attachment: Attachment, input: PeerInput) {
    actix_rt::spawn(async move {
        let Attachment { place, connection, .. } = &attachment;
        match input.end().await {
            InputEnd::Gone => connection.send_queue.kill(),
            InputEnd::Flood => {
                log::info!(session = place.session, peer = connection.peer_name().as_str(); "client of a stream goes on sending, closing");
                connection.close_now(CloseReason::Policy);
            }
        }
    });
}
