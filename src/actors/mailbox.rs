//! Addresses with a known depth.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::{Message, Recipient, SendError};

/// How many messages wait for an actor; shared by its senders and itself.
#[derive(Debug, Clone, Default)]
pub struct Depth(Arc<AtomicUsize>);

impl Depth {
    /// Messages sent and not yet taken.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// The actor has taken a message out.
    pub fn took_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The address of an actor for one kind of message; counts what waits.
///
/// The bound of an actix mailbox holds per address, so a sender keeps one of these and never clones it per message.
pub struct Mailbox<M: Message + Send>
where
    M::Result: Send,
{
    recipient: Recipient<M>,
    depth: Depth,
}

impl<M: Message + Send> Mailbox<M>
where
    M::Result: Send,
{
    pub fn new(recipient: Recipient<M>, depth: Depth) -> Self {
        Self { recipient, depth }
    }

    /// Messages that wait.
    pub fn depth(&self) -> usize {
        self.depth.get()
    }

    /// The depth, for another kind of message to the same actor.
    pub fn shared_depth(&self) -> Depth {
        self.depth.clone()
    }

    /// Sends unless the mailbox is full or its actor gone; the message comes back then.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        // Counted first: the actor may take the message before this returns.
        self.depth.0.fetch_add(1, Ordering::Relaxed);
        self.recipient.try_send(message).inspect_err(|_| self.depth.took_one())
    }
}

impl<M: Message + Send> Clone for Mailbox<M>
where
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self { recipient: self.recipient.clone(), depth: self.depth.clone() }
    }
}
