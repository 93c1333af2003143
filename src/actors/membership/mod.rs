//! The membership actor: renews this node's membership, and tells everybody on the node who else is there.
//!
//! The renewal goes through persistence: a node that cannot commit does not keep what it holds.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, MessageResult, ResponseFuture, WrapFuture as _,
};

use super::clock;
use super::cluster::{Cluster, View};
use super::log_position::LogPosition;
use super::persistence::Persistence;
use super::persistence::messages::{BeatMembership, LeaveNodes};
use crate::domain::membership::{Change, Membership as Standing};
use crate::runtime::address::Address;
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::storage::{BeatAnswer, NodeStatus};
use crate::telemetry::health::Health;

/// Messages that may wait.
pub const MAILBOX: usize = 16;
/// How long a membership lasts unless it is renewed.
pub const TTL: Duration = Duration::from_millis(2_500);
/// How often it is renewed.
const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// When it could not ask to be a member.
const JOIN_RETRY: Duration = Duration::from_millis(20);

/// What the actor is made of; kept to make another.
#[derive(Clone)]
pub struct MembershipParts {
    pub persistence: Address<Persistence>,
    pub cluster: Arc<Cluster>,
    pub position: Arc<LogPosition>,
    pub health: Arc<Health>,
    /// None where no other process can have the store.
    pub ttl: Option<Duration>,
    /// Where other nodes reach this one.
    pub url: String,
}

/// See the module.
pub struct Membership {
    parts: MembershipParts,
    standing: Standing,
    is_asking: bool,
    is_retrying: bool,
    life: Life,
}

impl Membership {
    /// Goes on from what an earlier one has told everybody.
    pub fn new(parts: MembershipParts, life: Life) -> Self {
        let standing = Standing::resume(parts.ttl, parts.cluster.view().term);
        Self { parts, standing, is_asking: false, is_retrying: false, life }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            name: Arc::clone(self.parts.cluster.name()),
            ttl: self.parts.ttl,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            url: self.parts.url.clone(),
            last_id: self.parts.position.last(),
            is_draining: self.parts.health.is_draining(),
        }
    }

    fn beat(&mut self, ctx: &mut Context<Self>) {
        let asked = clock::steady();
        let Some(beat) = self.standing.next(asked).filter(|_| !self.is_asking) else { return };
        self.is_asking = true;
        let answer = self.parts.persistence.ask(BeatMembership { status: self.status(), beat });
        ctx.spawn(answer.into_actor(self).map(move |answer, this, ctx| {
            this.is_asking = false;
            match answer {
                Ok(Ok(BeatAnswer { outcome, nodes })) => {
                    let change = this.standing.answered(asked, outcome);
                    this.parts.cluster.set(View { term: this.standing.term(), nodes });
                    this.tell(change);
                }
                // While the store is away, the membership goes on for as long as it was renewed last.
                _ if this.standing.term().is_some() => {}
                // At the start the store is about to be opened.
                _ => this.retry_soon(ctx),
            }
        }));
    }

    fn retry_soon(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.is_retrying, true) {
            ctx.run_later(JOIN_RETRY, |this, ctx| {
                this.is_retrying = false;
                this.beat(ctx);
            });
        }
    }

    fn tell(&self, change: Change) {
        let node = &**self.parts.cluster.name();
        match change {
            Change::Nothing => {}
            Change::Joined => log::info!(node; "member of the cluster"),
            Change::Lost => log::warn!(node; "this node was found lost: what it held is free for others"),
            Change::NameTaken => self.parts.cluster.set_name_taken(),
        }
    }
}

impl Actor for Membership {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.beat(ctx);
        ctx.run_interval(BEAT_INTERVAL, Self::beat);
    }
}

impl Handler<Observe> for Membership {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        let view = self.parts.cluster.view();
        MessageResult(Details::of(serde_json::json!({
            "node": &**self.parts.cluster.name(),
            "generation": view.term.map(|term| term.generation),
            "may_act": self.parts.cluster.may_act(),
            "members": view.nodes.iter().filter(|node| node.is_member()).count(),
        })))
    }
}

impl Handler<Finish> for Membership {
    type Result = ResponseFuture<()>;

    /// Everybody who held something has finished: it is free from now on.
    fn handle(&mut self, Finish: Finish, _: &mut Self::Context) -> Self::Result {
        self.life.finish();
        let term = self.standing.term();
        self.is_asking = true;
        self.parts.cluster.set(View::default());
        let persistence = self.parts.persistence.clone();
        let name = Arc::clone(self.parts.cluster.name());
        Box::pin(async move {
            if let Some(term) = term {
                let _ = persistence.ask(LeaveNodes { name, generation: term.generation }).await;
            }
        })
    }
}

crate::supervised!(Membership);
