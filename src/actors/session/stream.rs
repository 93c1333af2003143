//! The session of an SSE subscriber. Such a subscriber sends no requests, so only the end of its connection is watched.

use super::attachment::{Attachment, restarting};
use crate::actors::shard::messages::OpenStream;
use crate::protocol::close::CloseReason;
use crate::protocol::error::ApiError;
use crate::protocol::frame::Subscribed;
use crate::transport::{InputEnd, PeerInput};

/// Opens the stream, and watches the connection until it ends.
pub async fn start(attachment: Attachment, open: OpenStream, input: PeerInput) -> Result<Subscribed, ApiError> {
    let state = attachment.shard.send(open).await.map_err(|_| restarting())??;
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
    Ok(state)
}
