//! The connection of a subscriber. Its session, its shard and its worker share it on one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use crate::access::limits::RateKey;
use crate::domain::access::Caller;
use crate::protocol::close::CloseReason;
use crate::protocol::wire::Wire;
use crate::protocol::{frame, sse};
use crate::transport::{CloseFrame, SendQueue, append_text_frame, peer_name, text_frame};

/// Ticks of the shard, one a second: a clock that is cheap to read.
pub type Tick = u32;

/// See the module.
#[derive(Debug)]
pub struct Connection {
    pub send_queue: Rc<SendQueue>,
    pub wire: Wire,
    /// The subscriber's address. Its port is 0 if a proxy has named the address.
    pub peer: Option<SocketAddr>,
    pub auth: AuthState,
    /// Frames of durable subscriptions that were queued. The session counts them.
    pub durable_frames: Cell<u64>,
    /// The tick in which something last came from the subscriber.
    pub heard: Cell<Tick>,
    /// The ticks of the thread's shard.
    pub clock: Rc<Cell<Tick>>,
}

/// Who the subscriber is, and whether it was warned that its token ends.
#[derive(Debug)]
pub struct AuthState {
    caller: RefCell<Caller>,
    /// The key under which its requests are limited.
    pub rate_key: RateKey,
    /// Whether it has asked for more than plain event frames.
    pub asks_more: Cell<bool>,
    /// Whether it was warned that its token ends soon.
    pub was_warned: Cell<bool>,
}

impl AuthState {
    pub fn new(caller: Caller, rate_key: RateKey) -> Self {
        Self { caller: caller.into(), rate_key, asks_more: Cell::new(false), was_warned: Cell::new(false) }
    }

    pub fn caller(&self) -> Caller {
        self.caller.borrow().clone()
    }

    /// The subscriber continues with another token.
    pub fn go_on_as(&self, caller: Caller) {
        self.caller.replace(caller);
        self.was_warned.set(false);
    }
}

impl Connection {
    /// A new connection.
    pub fn new(
        send_queue: Rc<SendQueue>,
        wire: Wire,
        peer: Option<SocketAddr>,
        auth: AuthState,
        clock: Rc<Cell<Tick>>,
    ) -> Rc<Self> {
        let heard = Cell::new(clock.get());
        Rc::new(Self { send_queue, wire, peer, auth, durable_frames: Cell::new(0), heard, clock })
    }

    /// The subscriber's address, for the log.
    pub fn peer_name(&self) -> String {
        peer_name(self.peer)
    }

    /// Something has come from the subscriber.
    pub fn hear(&self) {
        self.heard.set(self.clock.get());
    }

    /// Queues a frame of text.
    pub fn say(&self, text: &str) {
        self.send_queue.push(text_frame(text.as_bytes()));
    }

    /// Ends the connection after what is queued.
    pub fn close(&self, reason: CloseReason) {
        if !self.send_queue.is_closed() {
            self.send_queue.close_with(reason.code(), self.last_words(reason));
        }
    }

    /// Ends the connection now; what is queued is dropped.
    pub fn close_now(&self, reason: CloseReason) {
        if !self.send_queue.is_closed() {
            self.send_queue.close_now(reason.code(), self.last_words(reason));
        }
    }

    /// The last bytes of the connection: the reason, and when to reconnect.
    fn last_words(&self, reason: CloseReason) -> Bytes {
        let after = reason.reconnect_after(rand::random());
        if self.wire == Wire::Sse {
            return sse::farewell(reason.text(), after.unwrap_or(sse::STAY_AWAY));
        }
        let mut words = BytesMut::new();
        if let Some(after) = after.filter(|_| self.auth.asks_more.get() && reason.is_planned()) {
            append_text_frame(&mut words, frame::disconnect(reason, after).as_bytes());
        }
        words.extend_from_slice(&CloseFrame::new(reason.code(), reason.text()).encode());
        words.freeze()
    }
}

/// The key of a connection in the lobby.
pub type Ticket = usize;

/// The connections of one thread on their way to its shard. A message cannot carry an `Rc`, so it carries a ticket.
#[derive(Debug, Default)]
pub struct Lobby(RefCell<Slab<Rc<Connection>>>);

impl Lobby {
    /// Adds a connection.
    pub fn enter(&self, connection: Rc<Connection>) -> Ticket {
        self.0.borrow_mut().insert(connection)
    }

    /// Takes the connection with this ticket; `None` if it was taken before.
    pub fn take(&self, ticket: Ticket) -> Option<Rc<Connection>> {
        self.0.borrow_mut().try_remove(ticket)
    }
}
