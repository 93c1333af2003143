//! The session of an SSE client. It has nothing to ask, so all there is to do is to notice that it is gone.

use std::rc::Rc;

use crate::access::limits::PeerAdmission;
use crate::actors::router::worker::ShardAddresses;
use crate::actors::shard::messages::{Seated, SessionClosed};
use crate::actors::shard::seat::Link;
use crate::protocol::close::CloseReason;
use crate::transport::{InputEnd, PeerInput};

/// A seat that is given back when this is dropped.
pub struct StreamSession {
    pub seated: Seated,
    pub link: Rc<Link>,
    pub shard: Rc<ShardAddresses>,
    /// The place that the connection takes among those of its address.
    pub _admission: Option<PeerAdmission>,
}

impl StreamSession {
    /// Watches the connection until it ends.
    pub fn start(self, input: PeerInput) {
        actix_rt::spawn(async move {
            match input.end().await {
                InputEnd::Gone => self.link.outbox.kill(),
                InputEnd::Flood => {
                    log::info!(session = self.seated.session, peer = self.link.peer_name().as_str(); "client of a stream goes on sending, closing");
                    self.link.close_now(CloseReason::Policy);
                }
            }
        });
    }
}

impl Drop for StreamSession {
    fn drop(&mut self) {
        // One message per session: unbounded sending is bounded by that.
        self.shard.session_closed.do_send(SessionClosed(self.seated));
    }
}
