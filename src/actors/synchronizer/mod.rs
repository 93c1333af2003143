//! The synchronizer: compares the state of the services whose leases this node holds with the entities, and repairs it.

pub mod messages;

use actix::prelude::{Actor, Context, Handler, MessageResult};

use self::messages::Synchronize;
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};

/// Most messages that may wait.
pub const MAILBOX: usize = 1024;

/// See the module.
pub struct Synchronizer {
    life: Life,
}

impl Synchronizer {
    pub fn new(life: Life) -> Self {
        Self { life }
    }
}

impl Actor for Synchronizer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Synchronize> for Synchronizer {
    type Result = ();

    fn handle(&mut self, _: Synchronize, _: &mut Self::Context) {}
}

impl Handler<Observe> for Synchronizer {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(Details::default())
    }
}

impl Handler<Finish> for Synchronizer {
    type Result = ();

    fn handle(&mut self, Finish: Finish, _: &mut Self::Context) {
        self.life.finish();
    }
}

crate::supervised!(Synchronizer, Synchronize);
