//! The supervised actors: one entry each.

use std::sync::Arc;

use actix_rt::Arbiter;
use tokio::sync::{Notify, mpsc};

use crate::actors::bus::{self, Bus, BusParts};
use crate::actors::call_ends::CallEnds;
use crate::actors::client::{self, Client, ClientParts};
use crate::actors::cluster::Cluster;
use crate::actors::consumers::{self, Consumers, ConsumersParts};
use crate::actors::log_position::LogPosition;
use crate::actors::membership::{self, Membership, MembershipParts};
use crate::actors::orchestrator::desk::Desk;
use crate::actors::orchestrator::{self, Orchestrator, OrchestratorParts, RunningParts};
use crate::actors::persistence::intake::Backlog;
use crate::actors::persistence::{self, Persistence, PersistenceParts};
use crate::actors::push_log::PushLog;
use crate::actors::registry::Registry;
use crate::actors::relay::{Looks, Relay};
use crate::actors::remembered::Remembered;
use crate::actors::router::{self, Router, RouterParts};
use crate::actors::service_slot::ServiceSlots;
use crate::actors::shard;
use crate::actors::supervisor::messages::Supervise;
use crate::actors::synchronizer::{self, SyncedService, Synchronizer, SynchronizerParts};
use crate::actors::system::view::SystemView;
use crate::actors::system::{self, SystemActor, SystemParts};
use crate::bus::Redis;
use crate::config::{Config, Span};
use crate::protocol::publish::PublishRules;
use crate::runtime::child::{Child, elsewhere, on_arbiter};
use crate::runtime::life::{ChildId, Life};
use crate::runtime::report::ActorKind;
use crate::storage::{Reader, RetentionPolicy, StoreOptions, StoreUrl, StoredDefinition};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// What several of them are made of.
pub struct Shared {
    pub actors: Registry,
    pub store: StoreOptions,
    pub slots: ServiceSlots,
    /// Apart from that of the edge: who asks for many events does not slow down deliveries.
    pub deliveries: Reader,
    /// Apart from both: a comparison of many entities takes long.
    pub comparisons: Reader,
    /// Apart from all: sagas wait for nobody's reads.
    pub orchestration: Reader,
    pub desk: Desk,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    pub system: Arc<SystemView>,
    /// Where other nodes reach this one.
    pub url: String,
    pub pushes: Arc<PushLog>,
    pub backlog: Arc<Backlog>,
    pub redis: Option<Redis>,
    pub rules: PublishRules,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
}

/// Has the supervisor start them, but for the shards: see [`shard`].
pub fn start(config: &Config, shared: &Shared) -> std::io::Result<()> {
    let Shared { actors, position, cluster, metrics, .. } = shared;
    // Where persistence may block.
    let store = Arbiter::new().handle();
    // Where all clients run, and the consumers.
    let delivery = Arbiter::new().handle();
    // From the clients to the orchestrator.
    let call_ends = Arc::<CallEnds>::default();
    // Told by persistence when dead letters of consumers were made anew.
    let renewed = Arc::<Notify>::default();

    let shards = actors.shards.iter().map(|shard| (ActorKind::Shard, shard.mailbox()));
    let goes_out = shared.redis.is_some() && (config.redis.pubsub.out || config.redis.mirror.enabled);
    let bus = goes_out.then(|| (ActorKind::Bus, actors.bus.mailbox()));
    let consumers = (ActorKind::Consumers, actors.consumers.mailbox());
    let orchestrator = (ActorKind::Orchestrator, actors.orchestrator.mailbox());
    let parts = RouterParts {
        followers: shards
            .chain([consumers, orchestrator, (ActorKind::System, actors.system.mailbox())])
            .chain(bus)
            .collect(),
        position: Arc::clone(position),
        metrics: Arc::clone(metrics),
    };
    let router = on_arbiter(Arbiter::current(), &actors.router, move |life| Router::new(parts.clone(), life));

    let remembered = shared.redis.is_some().then(Arc::<Remembered>::default);
    let parts = PersistenceParts {
        store: shared.store.clone(),
        router: actors.router.mailbox(),
        relay: shared.redis.is_some().then(|| actors.bus.mailbox()),
        remembered: remembered.clone(),
        services: Arc::clone(&shared.slots),
        renewed: Arc::clone(&renewed),
        call_ends: Arc::clone(&call_ends),
        retention: retention(config),
        tombstone_ttl: config.state.tombstone_ttl.get(),
        position: Arc::clone(position),
        cluster: Arc::clone(cluster),
        backlog: Arc::clone(&shared.backlog),
        health: Arc::clone(&shared.health.store),
        metrics: Arc::clone(metrics),
        log_activity: config.log.activity,
    };
    let persistence = on_arbiter(store, &actors.persistence, move |life| Persistence::new(parts.clone(), life));

    let looks = Looks::of(actors.persistence.clone());
    Relay {
        store: shared.store.clone(),
        position: Arc::clone(position),
        cluster: Arc::clone(cluster),
        looks: looks.clone(),
        metrics: Arc::clone(metrics),
    }
    .start()?;

    let parts = ConsumersParts {
        config: config.consumers.clone(),
        persistence: actors.persistence.clone(),
        reader: shared.deliveries.clone(),
        position: Arc::clone(position),
        cluster: Arc::clone(cluster),
        metrics: Arc::clone(metrics),
        pushes: Arc::clone(&shared.pushes),
        renewed,
    };
    let consumers = on_arbiter(delivery.clone(), &actors.consumers, move |life| Consumers::new(parts.clone(), life));

    let parts = MembershipParts {
        persistence: actors.persistence.clone(),
        cluster: Arc::clone(cluster),
        position: Arc::clone(position),
        health: Arc::clone(&shared.health),
        ttl: matches!(shared.store.url, StoreUrl::Postgres(_)).then_some(membership::TTL),
        url: shared.url.clone(),
    };
    let membership =
        on_arbiter(Arbiter::current(), &actors.membership, move |life| Membership::new(parts.clone(), life));

    let (r, p, c) = (router::MAILBOX, persistence::MAILBOX, consumers::MAILBOX);
    supervise(actors, ActorKind::Router, 0, Child::new("router".into(), &actors.router, r, router));
    supervise(actors, ActorKind::Persistence, 0, Child::new("persistence".into(), &actors.persistence, p, persistence));
    let child = Child::new("membership".into(), &actors.membership, membership::MAILBOX, membership);
    supervise(actors, ActorKind::Membership, 0, child);
    supervise(actors, ActorKind::Consumers, 0, Child::new("durables".into(), &actors.consumers, c, consumers));
    if let Some(((redis, standing), remembered)) = shared.redis.clone().zip(shared.health.bus.clone()).zip(remembered) {
        let parts = BusParts {
            redis,
            standing,
            ingest: config.redis.ingest.clone(),
            pubsub: config.redis.pubsub.clone(),
            mirror: config.redis.mirror.clone(),
            reader: shared.deliveries.clone(),
            position: Arc::clone(position),
            rules: shared.rules,
            catalogue: Arc::clone(&shared.store.catalogue),
            persistence: actors.persistence.clone(),
            router: actors.router.mailbox(),
            looks: matches!(shared.store.url, StoreUrl::Postgres(_)).then_some(looks),
            remembered,
            cluster: Arc::clone(cluster),
            system: Arc::clone(&shared.system),
            backlog: Arc::clone(&shared.backlog),
            health: Arc::clone(&shared.health),
            metrics: Arc::clone(metrics),
        };
        // What comes in is read on a thread of its own.
        let bus = on_arbiter(Arbiter::new().handle(), &actors.bus, move |life| Bus::new(parts.clone(), life));
        supervise(actors, ActorKind::Bus, 0, Child::new("bus".into(), &actors.bus, bus::MAILBOX, bus));
    }
    for (number, (service, slot)) in config.services.iter().zip(shared.slots.iter()).enumerate() {
        let address = &actors.clients[&service.name];
        let parts = ClientParts {
            call_ends: Arc::clone(&call_ends),
            persistence: actors.persistence.clone(),
            synchronizer: actors.synchronizer.mailbox(),
            service: Arc::new(service.clone()),
            slot: Arc::clone(slot),
            position: Arc::clone(position),
            cluster: Arc::clone(cluster),
            reader: shared.deliveries.clone(),
            metrics: Arc::clone(metrics),
            log_activity: config.log.activity,
        };
        let client = on_arbiter(delivery.clone(), address, move |life| Client::new(parts.clone(), life));
        let name = format!("client/{}", service.name);
        supervise(actors, ActorKind::Client, number, Child::new(name, address, client::MAILBOX, client));
    }
    start_synchronizer(config, shared);
    start_orchestrator(config, shared, call_ends);
    start_system(config, shared);
    Ok(())
}

/// Has the supervisor start the orchestrator.
fn start_orchestrator(config: &Config, shared: &Shared, call_ends: Arc<CallEnds>) {
    let Shared { actors, position, cluster, health, metrics, desk, .. } = shared;
    let parts = OrchestratorParts {
        running: RunningParts {
            reader: shared.orchestration.clone(),
            persistence: actors.persistence.clone(),
            commit: desk.commit.clone(),
            position: Arc::clone(position),
            cluster: Arc::clone(cluster),
            means: desk.means.clone(),
            definitions: Arc::clone(&desk.definitions),
            ids: Arc::clone(&desk.ids),
            max_instances: config.orchestration.max_instances,
            keep: config.orchestration.keep.get(),
            call_ends: Arc::clone(&call_ends),
            metrics: Arc::clone(metrics),
        },
        node: cluster.name().to_string(),
        declared: config.sagas.iter().map(declared).collect(),
        wake: Arc::clone(&call_ends.wake),
        store: Arc::clone(&health.store),
    };
    // Definitions may be long, and instances many.
    let address = &actors.orchestrator;
    let start = on_arbiter(Arbiter::new().handle(), address, move |life| Orchestrator::new(parts.clone(), life));
    let child = Child::new("orchestrator".into(), address, orchestrator::MAILBOX, start);
    supervise(actors, ActorKind::Orchestrator, 0, child);
}

fn declared(saga: &crate::config::DeclaredDefinition) -> StoredDefinition {
    let (name, version) = (saga.definition.name.clone(), saga.definition.version);
    StoredDefinition { saga: name, version, text: saga.text.clone() }
}

/// Has the supervisor start the synchronizer, if any service keeps a copy of entities.
fn start_synchronizer(config: &Config, shared: &Shared) {
    let Shared { actors, position, cluster, metrics, .. } = shared;
    let configured = config.services.iter().zip(shared.slots.iter());
    let services = configured.filter(|(service, _)| service.sync.is_some()).map(|(service, slot)| SyncedService {
        config: Arc::new(service.clone()),
        slot: Arc::clone(slot),
        client: actors.clients[&service.name].mailbox(),
    });
    let parts = SynchronizerParts {
        services: services.collect(),
        settle: config.sync.settle.get(),
        persistence: actors.persistence.clone(),
        reader: shared.comparisons.clone(),
        position: Arc::clone(position),
        cluster: Arc::clone(cluster),
        metrics: Arc::clone(metrics),
    };
    if parts.services.is_empty() {
        return;
    }
    // Answers of services may be long, and are read on a thread of its own.
    let address = &actors.synchronizer;
    let start = on_arbiter(Arbiter::new().handle(), address, move |life| Synchronizer::new(parts.clone(), life));
    let child = Child::new("synchronizer".into(), address, synchronizer::MAILBOX, start);
    supervise(actors, ActorKind::Synchronizer, 0, child);
}

/// Has the supervisor start the actor that keeps the state of the whole system.
fn start_system(config: &Config, shared: &Shared) {
    let actors = &shared.actors;
    let configured = config.services.iter().zip(shared.slots.iter());
    let critical = configured.filter(|(service, _)| service.critical).map(|(_, slot)| Arc::clone(slot));
    let parts = SystemParts {
        critical: critical.collect(),
        persistence: actors.persistence.clone(),
        reader: shared.deliveries.clone(),
        cluster: Arc::clone(&shared.cluster),
        view: Arc::clone(&shared.system),
        shards: Arc::clone(&actors.shards),
        health: Arc::clone(&shared.health),
    };
    let start = on_arbiter(Arbiter::current(), &actors.system, move |life| SystemActor::new(parts.clone(), life));
    supervise(actors, ActorKind::System, 0, Child::new("system".into(), &actors.system, system::MAILBOX, start));
}

/// Has the supervisor start the shard of a worker, by sending each life of it to the worker's thread.
pub fn shard(actors: &Registry, number: usize, starts: mpsc::UnboundedSender<Life>) {
    let shard = Child::new(format!("shard/{number}"), &actors.shards[number], shard::MAILBOX, elsewhere(starts));
    supervise(actors, ActorKind::Shard, number, shard);
}

/// One for each actor: unbounded sending is bounded by that.
fn supervise(actors: &Registry, kind: ActorKind, number: usize, child: Child) {
    actors.supervisor.do_send(Supervise { id: ChildId { kind, number }, child });
}

fn is_mirrored(config: &Config) -> bool {
    config.redis.url.is_some() && config.redis.mirror.enabled
}

fn retention(config: &Config) -> RetentionPolicy {
    RetentionPolicy {
        max_age: config.retention.max_age.map(Span::get),
        max_events: config.retention.max_events,
        max_bytes: config.retention.max_bytes.map(|size| size.as_usize() as u64),
        mirror_hold: is_mirrored(config).then(|| config.redis.mirror.hold_retention.get()),
        orchestrator_hold: Some(config.orchestration.hold_retention.get()),
    }
}
