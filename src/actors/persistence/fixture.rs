//! A writer for the tests of other actors: over a store of its own, and ended as a panic ends it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{AsyncContext as _, Context};

use super::intake::Backlog;
use super::messages::BeatMembership;
use super::{Persistence, PersistenceParts};
use crate::actors::cluster::{Cluster, View};
use crate::actors::log_position::LogPosition;
use crate::actors::router::Router;
use crate::actors::service_slot::ServiceSlots;
use crate::domain::event::Timestamp;
use crate::domain::membership::{Beat, Membership};
use crate::runtime::address::{Address, Generation};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::ActorKind;
use crate::storage::{BeatAnswer, NodeStatus, RetentionPolicy, StoreOptions, StoreUrl};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// The store in a directory.
pub fn store(dir: &Path) -> StoreOptions {
    StoreOptions::new(StoreUrl::Sqlite(dir.join("events.db")))
}

/// The parts of a writer to `store`, for `services`.
pub fn parts(store: StoreOptions, services: ServiceSlots, position: Arc<LogPosition>) -> PersistenceParts {
    let metrics = Arc::new(Metrics::new().expect("distinct names"));
    PersistenceParts {
        store,
        router: Address::<Router>::vacant().mailbox(),
        relay: None,
        remembered: None,
        retention: RetentionPolicy::default(),
        tombstone_ttl: Duration::from_secs(7 * 24 * 60 * 60),
        services,
        renewed: Arc::default(),
        call_ends: Arc::default(),
        position,
        cluster: Arc::new(Cluster::new("one")),
        backlog: Backlog::new(1, 1),
        health: Arc::new(StoreHealth::new(Duration::from_secs(60))),
        metrics,
        log_activity: false,
    }
}

/// Starts a generation of the writer.
pub fn start(persistence: &Address<Persistence>, generation: Generation, parts: &PersistenceParts) {
    let life = Life::unsupervised(ActorKind::Persistence, generation);
    let ctx = Context::new();
    life.begin(persistence, ctx.address());
    ctx.run(Persistence::new(parts.clone(), life));
}

/// Makes its node a member.
pub async fn join(persistence: &Address<Persistence>, cluster: &Cluster) {
    let status = NodeStatus {
        name: Arc::clone(cluster.name()),
        ttl: None,
        version: String::new(),
        url: String::new(),
        last_id: 0,
        is_draining: false,
    };
    let mut membership = Membership::new(None);
    let answer = persistence.ask(BeatMembership { status, beat: Beat::Join }).await;
    let BeatAnswer { outcome, nodes } = answer.expect("a writer").expect("a store");
    membership.answered(Timestamp(0), outcome);
    cluster.set(View { term: membership.term(), nodes });
}

/// Nobody is at the address any more.
pub async fn end(persistence: &Address<Persistence>, generation: Generation) {
    persistence.ask(Finish).await.expect("a writer");
    persistence.clear(generation);
}
