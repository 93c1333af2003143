//! What operators ask of the clients, of the sessions, and of persistence.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Addr, Handler, ResponseFuture};

use super::messages::{
    ChildId, FindAllSubscribers, ListAllDurables, ListAllInFlight, ObserveServices, OperateService, ToShards,
};
use super::{Child, Known, OBSERVE_TIMEOUT, Supervisor};
use crate::actors::client::messages::{ListInFlight, Obeyed, Observe, Operate};
use crate::actors::client::{self, Client};
use crate::actors::durables::messages::{DurableStatus, ListDurables};
use crate::actors::mailbox::Mailbox;
use crate::actors::observe::{ActorReport, MailboxReport};
use crate::actors::persistence::messages::CommitWrites;
use crate::actors::shard::Shard;
use crate::actors::shard::messages::Subscribers;
use crate::storage::Claimed;

/// How long a client may take to obey, and to have that stored.
const OPERATE_TIMEOUT: Duration = Duration::from_secs(5);

impl Supervisor {
    /// The reports of all clients, in the order of the configuration.
    pub(super) fn observe_clients(&self) -> impl Future<Output = Vec<ActorReport>> + use<> {
        let health = Arc::clone(&self.health);
        let clients = self.clients.iter().map(|(number, address)| {
            let child = ChildId::Client(*number);
            let life = self.lives.get(&child).copied().unwrap_or_default();
            (child, life, self.name_of(child), address.clone())
        });
        let clients: Vec<_> = clients.collect();
        async move {
            let report = |(child, life, name, address): (_, _, String, Addr<Client>)| {
                let known = Known { child, life, is_running: health.get(&name), name };
                async move {
                    let report = address.send(Observe).timeout(OBSERVE_TIMEOUT).await.ok().flatten();
                    known.complete(report, MailboxReport { depth: 0, capacity: client::MAILBOX })
                }
            };
            futures_util::future::join_all(clients.into_iter().map(report)).await
        }
    }
}

impl Handler<ObserveServices> for Supervisor {
    type Result = ResponseFuture<Vec<ActorReport>>;

    fn handle(&mut self, ObserveServices: ObserveServices, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.observe_clients())
    }
}

impl Handler<OperateService> for Supervisor {
    type Result = ResponseFuture<Option<Obeyed>>;

    fn handle(&mut self, OperateService { service, command }: OperateService, _: &mut Self::Context) -> Self::Result {
        let number = self.client_parts.iter().position(|parts| parts.service.name == service);
        let client = number.and_then(|number| self.clients.get(&number)).cloned();
        Box::pin(async move { client?.send(Operate(command)).timeout(OPERATE_TIMEOUT).await.ok().flatten() })
    }
}

/// For whoever is persistence now; without it, the message is dropped.
impl Handler<CommitWrites> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: CommitWrites, _: &mut Self::Context) {
        if let Some(Child { address, mailbox }) = &self.persistence {
            let _ = Mailbox::new(address.clone().recipient(), mailbox.shared_depth()).try_send(message);
        }
    }
}

impl<M> Handler<ToShards<M>> for Supervisor
where
    M: actix::Message + Clone + Send + 'static,
    M::Result: Send,
    Shard: Handler<M>,
{
    type Result = ResponseFuture<Vec<M::Result>>;

    fn handle(&mut self, ToShards(message): ToShards<M>, _: &mut Self::Context) -> Self::Result {
        let asked = self.shards.values().map(|shard| shard.address.send(message.clone()).timeout(OBSERVE_TIMEOUT));
        let answers = futures_util::future::join_all(asked.collect::<Vec<_>>());
        Box::pin(async move { answers.await.into_iter().flatten().collect() })
    }
}

impl Handler<ListAllInFlight> for Supervisor {
    type Result = ResponseFuture<Vec<(String, Vec<Claimed>)>>;

    fn handle(&mut self, ListAllInFlight(service): ListAllInFlight, _: &mut Self::Context) -> Self::Result {
        let named = self.clients.iter().filter_map(|(number, address)| {
            let name = &self.client_parts.get(*number)?.service.name;
            service.as_ref().is_none_or(|wanted| wanted == name).then(|| (name.clone(), address.clone()))
        });
        let asked = named.map(|(name, address)| async move {
            let listed = address.send(ListInFlight).timeout(OBSERVE_TIMEOUT).await;
            (name, listed.unwrap_or_default())
        });
        Box::pin(futures_util::future::join_all(asked.collect::<Vec<_>>()))
    }
}

impl Handler<ListAllDurables> for Supervisor {
    type Result = ResponseFuture<Vec<DurableStatus>>;

    fn handle(&mut self, ListAllDurables: ListAllDurables, _: &mut Self::Context) -> Self::Result {
        let durables = self.durables.as_ref().map(|child| child.address.clone());
        Box::pin(async move {
            let Some(durables) = durables else { return Vec::new() };
            durables.send(ListDurables).timeout(OBSERVE_TIMEOUT).await.unwrap_or_default()
        })
    }
}

impl Handler<FindAllSubscribers> for Supervisor {
    type Result = ResponseFuture<Subscribers>;

    fn handle(&mut self, FindAllSubscribers(find): FindAllSubscribers, _: &mut Self::Context) -> Self::Result {
        let shards: Vec<_> = self.shards.values().map(|shard| shard.address.clone()).collect();
        Box::pin(async move {
            let mut found = Subscribers::default();
            for shard in shards {
                let there = shard.send(find.clone()).timeout(OBSERVE_TIMEOUT).await;
                found.merge(there.unwrap_or_default(), find.limit);
            }
            found
        })
    }
}
