//! How each child is made from its parts, and who is told of it.

use std::sync::Arc;

use actix::prelude::{Actor, AsyncContext, Context, Recipient};

use super::messages::ChildId;
use super::{Child, ShardStarted, Supervisor};
use crate::actors::client::Client;
use crate::actors::client::messages::ConnectPersistence;
use crate::actors::durables::Durables;
use crate::actors::durables::messages::{ConnectStore, StoreLink};
use crate::actors::mailbox::{Depth, Mailbox};
use crate::actors::persistence::Persistence;
use crate::actors::persistence::messages::{AppendEvents, ConnectRouter};
use crate::actors::router::Router;
use crate::actors::router::messages::{Attach, Follower};
use crate::actors::worker::{Worker, connect_intake};

impl Supervisor {
    pub(super) fn start_router(&mut self, ctx: &mut Context<Self>) {
        let depth = Depth::default();
        let guard = self.guard(ChildId::Router, ctx);
        let address = Router::new(depth.clone(), Arc::clone(&self.metrics), guard).start();
        for (number, shard) in &self.shards {
            address.do_send(Attach { follower: Follower::Shard(*number), mailbox: shard.mailbox.clone() });
        }
        if let Some(durables) = &self.durables {
            address.do_send(Attach { follower: Follower::Durables, mailbox: durables.mailbox.clone() });
        }
        let mailbox = Mailbox::new(address.clone().recipient(), depth);
        if let Some(persistence) = &self.persistence {
            persistence.address.do_send(ConnectRouter(mailbox.clone()));
        }
        self.router = Some(Child { address, mailbox });
    }

    pub(super) fn start_persistence(&mut self, ctx: &mut Context<Self>) {
        let Some(router) = &self.router else { return };
        let router = router.mailbox.clone();
        let depth = Depth::default();
        let guard = self.guard(ChildId::Persistence, ctx);
        let parts = self.persistence_parts.clone();
        let own_depth = depth.clone();
        let address = Persistence::start_in_arbiter(&self.store_arbiter.handle(), move |_| {
            Persistence::new(parts, router, own_depth, guard)
        });
        let mailbox = Mailbox::new(address.clone().recipient(), depth);
        for arbiter in self.workers.values() {
            let mailbox = mailbox.clone();
            arbiter.spawn_fn(move || connect_intake(mailbox));
        }
        for client in self.clients.values() {
            let commit = Mailbox::new(address.clone().recipient(), mailbox.shared_depth());
            client.do_send(ConnectPersistence { commit, hold: address.clone().recipient() });
        }
        let persistence = Child { address, mailbox };
        if let Some(durables) = &self.durables {
            durables.address.do_send(ConnectStore(store_link(&persistence)));
        }
        self.persistence = Some(persistence);
    }

    /// Shards run on the threads of their connections: the worker there starts it and sends back the address.
    pub(super) fn start_shard(&mut self, number: usize, ctx: &mut Context<Self>) {
        let Some(arbiter) = self.workers.get(&number).cloned() else { return };
        let guard = self.guard(ChildId::Shard(number), ctx);
        let depth = Depth::default();
        let supervisor: Recipient<ShardStarted> = ctx.address().recipient();
        arbiter.spawn_fn(move || {
            if let Some(worker) = Worker::current() {
                let address = worker.start_shard(depth.clone(), guard);
                supervisor.do_send(ShardStarted { number, address, depth });
            }
        });
    }

    pub(super) fn start_client(&mut self, number: usize, ctx: &mut Context<Self>) {
        let (Some(parts), Some(persistence)) = (self.client_parts.get(number).cloned(), &self.persistence) else {
            return;
        };
        let commit = Mailbox::new(persistence.address.clone().recipient(), persistence.mailbox.shared_depth());
        let hold = persistence.address.clone().recipient();
        let arbiter = self.delivery_arbiter.handle();
        let guard = self.guard(ChildId::Client(number), ctx);
        let address = Client::start_in_arbiter(&arbiter, move |_| Client::new(parts, commit, hold, guard));
        self.clients.insert(number, address);
    }

    pub(super) fn start_durables(&mut self, ctx: &mut Context<Self>) {
        let Some(persistence) = &self.persistence else { return };
        let store = store_link(persistence);
        let (parts, depth) = (self.durables_parts.clone(), Depth::default());
        let guard = self.guard(ChildId::Durables, ctx);
        let own_depth = depth.clone();
        let arbiter = self.delivery_arbiter.handle();
        let address = Durables::start_in_arbiter(&arbiter, move |_| Durables::new(parts, store, own_depth, guard));
        let mailbox = Mailbox::new(address.clone().recipient(), depth);
        if let Some(router) = &self.router {
            router.address.do_send(Attach { follower: Follower::Durables, mailbox: mailbox.clone() });
        }
        self.durables = Some(Child { address, mailbox });
    }
}

fn store_link(persistence: &Child<Persistence, AppendEvents>) -> StoreLink {
    let Child { address, mailbox } = persistence;
    StoreLink {
        commit: Mailbox::new(address.clone().recipient(), mailbox.shared_depth()),
        hold: address.clone().recipient(),
        release: address.clone().recipient(),
    }
}
