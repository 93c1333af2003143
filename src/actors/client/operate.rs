//! What operators tell a client.

use actix::prelude::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _};
use tokio::sync::oneshot;

use super::Client;
use super::messages::{Operate, ServiceCommand};
use crate::actors::observe::ActorReport;

impl Handler<Operate> for Client {
    type Result = ResponseActFuture<Self, Option<ActorReport>>;

    /// Obeys at once; answers when that is stored, so that a restart finds it.
    fn handle(&mut self, Operate(command): Operate, ctx: &mut Context<Self>) -> Self::Result {
        if self.id.is_none() {
            return Box::pin(actix::fut::ready(None));
        }
        let transition = match command {
            ServiceCommand::Pause => {
                self.pause_for("by an operator");
                None
            }
            ServiceCommand::Resume => {
                self.resume();
                None
            }
            ServiceCommand::Open => self.dispatcher.force_open(),
            ServiceCommand::Close => self.dispatcher.force_close(),
            ServiceCommand::Reset => self.dispatcher.reset(),
        };
        if let Some(transition) = transition {
            self.turned(transition);
        }
        let (obeyed, is_stored) = oneshot::channel();
        self.obeyed.push(obeyed);
        self.is_changed = true;
        self.claims.look_again();
        self.pump(ctx);
        Box::pin(is_stored.into_actor(self).map(|stored, this: &mut Self, _| stored.ok().map(|()| this.report())))
    }
}
