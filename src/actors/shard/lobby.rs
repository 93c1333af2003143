//! Where a connection waits while its seat is being made: an `Rc` cannot travel in an actor's message.

use std::cell::RefCell;
use std::rc::Rc;

use slab::Slab;

use super::seat::Link;
use crate::actors::shard::messages::Ticket;

/// The connections of one worker that wait for a seat.
#[derive(Debug, Default)]
pub struct Lobby(RefCell<Slab<Rc<Link>>>);

impl Lobby {
    /// Lets a connection wait.
    pub fn enter(&self, link: Rc<Link>) -> Ticket {
        self.0.borrow_mut().insert(link)
    }

    /// Takes the connection with this ticket; `None` if it was taken before.
    pub fn take(&self, ticket: Ticket) -> Option<Rc<Link>> {
        self.0.borrow_mut().try_remove(ticket)
    }
}
