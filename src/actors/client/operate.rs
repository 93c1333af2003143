//! What operators tell a client.

use std::rc::Rc;

use actix::prelude::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _};
use tokio::sync::oneshot;

use super::Client;
use super::ended::Cause;
use super::messages::{Obeyed, Operate, ReadTls, ServiceCommand};
use super::post::{Poster, TargetOptions};
use crate::storage::{CommandId, ServiceChange};

impl Client {
    fn obey(&mut self, command: ServiceCommand) {
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
            self.turned(transition, Cause::Operator);
        }
        self.is_changed = true;
        self.claims.look_again();
    }

    /// Obeys what was told to other nodes. The store forgets it together with keeping what follows from it.
    pub(super) fn obey_all(&mut self, commands: Vec<(CommandId, String)>) {
        for (id, command) in commands {
            if id > self.obeyed_through {
                self.obeyed_through = id;
                // One that a later version knows is forgotten too.
                self.is_changed = true;
                ServiceCommand::parse(&command).into_iter().for_each(|command| self.obey(command));
            }
        }
    }

    /// For the process that holds the service.
    pub(super) fn ask(&self, command: ServiceCommand) -> Option<ServiceChange> {
        Some(ServiceChange::Asked { service: self.id?, command: command.as_str().to_owned() })
    }
}

impl Handler<ReadTls> for Client {
    type Result = ();

    /// From the next request on. What is under way ends as it began.
    fn handle(&mut self, ReadTls: ReadTls, _: &mut Context<Self>) {
        if self.parts.service.url.expose().scheme() != "https" {
            return;
        }
        match Poster::new(&TargetOptions::of(&self.parts.service)) {
            Ok(poster) => self.poster = Ok(Rc::new(poster)),
            Err(reason) => {
                log::error!(service = self.parts.service.name.as_str(), reason = reason.as_str(); "tls files unusable, the old ones stay");
            }
        }
    }
}

impl Handler<Operate> for Client {
    type Result = ResponseActFuture<Self, Option<Obeyed>>;

    /// Obeys at once, or leaves it to who holds the service; answers when that is stored, so that a restart finds it.
    fn handle(&mut self, Operate(command): Operate, ctx: &mut Context<Self>) -> Self::Result {
        if self.id.is_none() {
            return Box::pin(actix::fut::ready(None));
        }
        let obeyed = if self.is_held { Obeyed::Here } else { Obeyed::Elsewhere };
        match obeyed {
            Obeyed::Here => self.obey(command),
            Obeyed::Elsewhere => self.asked.push(command),
        }
        let (stored, is_stored) = oneshot::channel();
        self.obeyed.push(stored);
        self.pump(ctx);
        Box::pin(is_stored.into_actor(self).map(move |stored, _, _| stored.ok().map(|()| obeyed)))
    }
}
