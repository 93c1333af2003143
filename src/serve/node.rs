//! What runs in one process, and how it starts and ends.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::Actor;
use actix_web::App;
use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::{Condition, from_fn};
use actix_web::web::Data;
use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::ServeError;
use super::children::{self, Shared};
use crate::access::AccessControl;
use crate::access::limits::Limits;
use crate::actors::catalogue::CatalogueDesk;
use crate::actors::client::messages::ReadTls;
use crate::actors::client::policy;
use crate::actors::clock;
use crate::actors::cluster::Cluster;
use crate::actors::log_position::LogPosition;
use crate::actors::orchestrator::desk::Desk;
use crate::actors::orchestrator::{Means, by_persistence};
use crate::actors::persistence::intake::{Backlog, Intake};
use crate::actors::push_log::PushLog;
use crate::actors::registry::Registry;
use crate::actors::service_slot::{ServiceSlot, ServiceSlots};
use crate::actors::shard::ShardParts;
use crate::actors::span_exporter::SpanExporter;
use crate::actors::supervisor::messages::{BeginFinish, FinishAll};
use crate::actors::supervisor::{Supervisor, SupervisorParts};
use crate::actors::system::view::SystemView;
use crate::actors::worker::Worker;
use crate::bus::Redis;
use crate::config::{Config, ServiceConfig, TypeFile, UnknownFields};
use crate::domain::restart::RestartPolicy;
use crate::protocol::publish::PublishRules;
use crate::storage::{self, ReadWatch, Reader, StoreError, StoreOptions};
use crate::telemetry::health::{Health, Unusable};
use crate::telemetry::metrics::Metrics;
use crate::transport::{self, ConnectionLimit, ConnectionTimeouts, HttpSettings, ShardQueues};
use crate::web::{self, ConfiguredService, Documents, Edge, EdgeParts, LongPollLimits};

/// How long the start waits for the store and the actors before the doors open all the same.
const START_PATIENCE: Duration = Duration::from_secs(6);
/// By how much later than a shard the system may find that a client takes nothing: the shard can tell it why.
const STALL_MARGIN: Duration = Duration::from_secs(5);
/// How long the store may take for one operation before it counts as hanging.
const STORE_PATIENCE: Duration = Duration::from_secs(4);
/// Reads of all clients at a time, at most.
const MAX_DELIVERY_READERS: usize = 4;
/// How often revocations and the file of keys are looked at.
const ACCESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a read that failed is tried again, and the replica is looked at.
const READ_CARE_INTERVAL: Duration = Duration::from_millis(500);
/// Between two tries to put an event type while the store is away.
const PUT_PAUSE: Duration = Duration::from_millis(50);
/// Of the grace period, what is kept for commits and for the HTTP server to finish.
const FINISH_SHARE: u32 = 4;

/// Everything that runs, but for the HTTP server.
pub struct Node {
    pub edge: EdgeParts,
    pub store: StoreOptions,
    shard: ShardParts,
    backlog: Arc<Backlog>,
    commit_timeout: Duration,
    queue_per_shard: usize,
    deliveries: Reader,
    comparisons: Reader,
    orchestration: Reader,
    /// The event types of files are put.
    has_put_types: Arc<AtomicBool>,
    spans: Option<SpanExporter>,
}

impl Node {
    /// Starts all actors but the shards, which start with the threads of their connections.
    pub fn start(
        config: &Config,
        (store, redis): (StoreOptions, Option<Redis>),
        access: Arc<AccessControl>,
        address: SocketAddr,
        workers: usize,
        escalate: oneshot::Sender<String>,
    ) -> Result<Self, ServeError> {
        let start_error = |error: &dyn std::fmt::Display| ServeError::Start(error.to_string());
        let metrics = Arc::new(Metrics::new().map_err(|error| start_error(&error))?);
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let hang_timeout = STORE_PATIENCE.min(config.publish.commit_timeout.get());
        let health = Arc::new(Health::new(hang_timeout, redis.is_some()));
        let watch = ReadWatch::new(Arc::clone(&health.store), Arc::clone(&metrics));
        let read = |options| Reader::new(options, watch.clone()).map_err(|error: StoreError| start_error(&error));
        let reader = read(store.clone())?;
        let slots: ServiceSlots = config.services.iter().map(slot).collect();
        // Enough for what all clients read at a time; each reads one thing after the other.
        let readers = slots.len().clamp(1, MAX_DELIVERY_READERS) as u32;
        let deliveries = read(StoreOptions { readers, read_url: None, ..store.clone() })?;
        let comparisons = read(StoreOptions { readers: 1, read_url: None, ..store.clone() })?;
        let orchestration = read(StoreOptions { readers: 1, read_url: None, ..store.clone() })?;
        let supervisor = Supervisor::new(SupervisorParts {
            restarts: restart_policy(config),
            health: Arc::clone(&health.actors),
            metrics: Arc::clone(&metrics),
            escalate: Box::new(move |reason| {
                let _ = escalate.send(reason);
            }),
        });
        let names = config.services.iter().map(|service| service.name.clone());
        let actors = Registry::vacant(supervisor.start(), workers, names);
        let machine = machine();
        let rules = PublishRules {
            refuse_unknown: config.publish.unknown_fields == UnknownFields::Refuse,
            max_batch: config.publish.max_batch,
            max_event_bytes: config.server.max_body.as_usize(),
        };
        let position = Arc::<LogPosition>::default();
        let configured = config.services.iter().zip(slots.iter());
        let desk = Desk {
            reader: reader.clone(),
            commit: by_persistence(actors.persistence.clone()),
            means: Means {
                services: configured.map(|(config, slot)| (Arc::new(config.clone()), Arc::clone(slot))).collect(),
                max_event_bytes: rules.max_event_bytes,
                catalogue: Arc::clone(&store.catalogue),
                compensation_attempts: config.orchestration.compensation_attempts,
                metrics: Arc::clone(&metrics),
            },
            definitions: Arc::default(),
            ids: Arc::default(),
            max_instances: config.orchestration.max_instances,
        };
        let shared = Shared {
            actors: actors.clone(),
            store: store.clone(),
            slots: Arc::clone(&slots),
            deliveries: deliveries.clone(),
            comparisons: comparisons.clone(),
            orchestration: orchestration.clone(),
            desk: desk.clone(),
            position,
            cluster: Arc::new(Cluster::new(config.node.name_at(address, &machine))),
            system: Arc::<SystemView>::default(),
            url: config.node.url_at(address, &machine, &config.server.base_path),
            pushes: Arc::<PushLog>::default(),
            backlog: Backlog::new(config.publish.backlog_events, config.publish.backlog_bytes.as_usize()),
            redis,
            rules,
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
        };
        children::start(config, &shared).map_err(|error| start_error(&error))?;
        let shard = ShardParts {
            config: config.subscribe.clone(),
            expiry_notice: config.access.expiry_notice.get(),
            access: Arc::clone(&access),
            reader: reader.clone(),
            position: Arc::clone(&shared.position),
            pushes: Arc::clone(&shared.pushes),
            shards: workers,
            metrics: Arc::clone(&metrics),
            log_activity: config.log.activity,
            presence: config.subscribe.presence_events.then(|| clock::now().0),
        };
        let spans = SpanExporter::start(config, shared.cluster.name(), &metrics)
            .map_err(|reason| ServeError::Config(config.error_at("tracing", reason)))?;
        let services = config.services.iter().zip(slots.iter());
        let services = services
            .map(|(config, slot)| ConfiguredService { config: Arc::new(config.clone()), slot: Arc::clone(slot) })
            .collect();
        let Shared { position, cluster, system, pushes, backlog, .. } = shared;
        let catalogue = CatalogueDesk {
            reader: reader.clone(),
            persistence: actors.persistence.clone(),
            catalogue: Arc::clone(&store.catalogue),
        };
        let edge = EdgeParts {
            rules,
            config: Arc::new(config.clone()),
            is_loopback: address.ip().to_canonical().is_loopback(),
            access,
            rate_limits: Arc::new(Limits::new(&config.limits)),
            reader,
            position,
            cluster,
            system,
            pushes,
            health,
            metrics,
            long_polls: Arc::new(LongPollLimits::new(config.subscribe.max_long_polls)),
            actors,
            services,
            desk,
            catalogue,
            documents: Arc::new(Documents::new(&config.server.base_path)),
            samples: Arc::default(),
        };
        Ok(Self {
            edge,
            shard,
            backlog,
            commit_timeout: config.publish.commit_timeout.get(),
            queue_per_shard: config.subscribe.queue_total.as_usize() / workers,
            store,
            deliveries,
            comparisons,
            orchestration,
            has_put_types: Arc::default(),
            spans,
        })
    }

    /// Tokens and files for TLS were read again.
    pub async fn reloaded(&self) {
        for client in self.edge.actors.clients.values() {
            if let Err(error) = client.tell(ReadTls) {
                log::warn!(error:%; "a client does not read its tls files");
            }
        }
        learn_revocations(&self.edge.access, &self.edge.reader, &self.edge.actors).await;
        self.edge.actors.check_access();
    }

    pub fn http_server(&self, config: &Config, listener: TcpListener, workers: usize) -> Result<Server, ServeError> {
        let next_worker = Arc::new(AtomicUsize::new(0));
        let (edge, shard, backlog) = (self.edge.clone(), self.shard.clone(), Arc::clone(&self.backlog));
        let (commit_timeout, queue_limit) = (self.commit_timeout, self.queue_per_shard);
        let catalogue = Arc::clone(&self.store.catalogue);
        let connections = ConnectionLimit::new(config.server.max_connections);
        let actors = self.edge.actors.clone();
        let server = &config.server;
        let settings = HttpSettings {
            workers,
            max_connections: server.max_connections.div_ceil(workers),
            head_timeout: server.head_timeout.get(),
            keep_alive: server.keep_alive.get(),
            timeouts: ConnectionTimeouts {
                unacknowledged: config.subscribe.stall_timeout.get() * 2 + STALL_MARGIN,
                next_request: server.keep_alive.get() + server.head_timeout.get(),
            },
            shutdown_timeout: (server.shutdown_grace.get() / FINISH_SHARE).max(Duration::from_secs(1)),
            refuse: web::refuse_unread,
        };
        let app = move || {
            // One call for each worker thread. A thread that replaces one has its place.
            let number = next_worker.fetch_add(1, Ordering::Relaxed) % workers;
            let intake =
                Intake::start(actors.persistence.clone(), Arc::clone(&catalogue), Arc::clone(&backlog), commit_timeout);
            let queues = ShardQueues::new(queue_limit, Arc::clone(&connections));
            let (worker, starts) =
                Worker::install(number, intake, shard.clone(), queues, actors.shards[number].clone());
            children::shard(&actors, number, starts);
            App::new()
                .app_data(Data::new(Edge::new(edge.clone(), worker)))
                .wrap(Condition::new(!edge.config.server.cors_origins.is_empty(), from_fn(web::share)))
                .wrap(from_fn(web::keep_out))
                .wrap(Condition::new(!edge.config.server.base_path.is_empty(), from_fn(web::strip_base_path)))
                .wrap(from_fn(web::observe))
                .configure(web::routes)
        };
        transport::serve(listener, settings, app)
            .map_err(|error| ServeError::Start(format!("the HTTP server did not start: {error}")))
    }

    /// The store's first word, good or bad: publishes right after the start should not be refused for haste. Why there
    /// is nothing to wait for, if that is so.
    pub async fn wait_for_store(&self) -> Option<Unusable> {
        let store = &self.edge.health.store;
        let knows_services = || self.edge.services.iter().all(|service| service.slot.id().is_some());
        // Members that have the name of this node, or none, are known too: what this node is to hold, it holds.
        let knows_nodes = || !self.edge.cluster.view().nodes.is_empty();
        // What is to be refused, or not to be taken at all, is known before anything is.
        let knows_system = || self.edge.system.stored().is_some();
        // What does not fit what is stored stops the start.
        let has_declared = || self.edge.desk.definitions.are_declared() && self.has_put_types.load(Ordering::Acquire);
        let is_ready = || store.is_up() && knows_services() && knows_nodes() && knows_system() && has_declared();
        wait_until(|| is_ready() || store.reason().is_some() || store.is_unusable()).await;
        store.unusable().now_or_never()
    }

    /// Puts the event types of files that have changed, as soon as the store can be used. One that cannot be put makes the
    /// store unusable.
    pub fn put_event_types(&self, config: &Config) {
        let (desk, store) = (self.edge.catalogue.clone(), Arc::clone(&self.edge.health));
        let (files, has_put) = (config.event_types.clone(), Arc::clone(&self.has_put_types));
        actix_rt::spawn(async move {
            for TypeFile { put, digest, .. } in files {
                loop {
                    let error = match desk.put_file(&put, &digest).await {
                        Ok(()) => break,
                        Err(error) => error,
                    };
                    if error.retry().is_none() {
                        let name = put.name.as_str().to_owned();
                        return store.store.set_unusable(Unusable::EventType { name, error });
                    }
                    tokio::time::sleep(PUT_PAUSE).await;
                }
            }
            has_put.store(true, Ordering::Release);
        });
    }

    /// Tries reads that have failed until they succeed, and looks after the replica.
    pub fn watch_reads(&self) {
        let reader = self.edge.reader.clone();
        actix_rt::spawn(async move {
            loop {
                tokio::time::sleep(READ_CARE_INTERVAL).await;
                reader.retry_failed().await;
            }
        });
        let reader = self.edge.reader.clone();
        actix_rt::spawn(async move {
            loop {
                reader.look_at_replica().await;
                tokio::time::sleep(READ_CARE_INTERVAL).await;
            }
        });
    }

    /// Learns who is revoked, and goes on learning: what other nodes revoke, and when the file of keys changes.
    pub async fn watch_access(&self) {
        let (access, reader) = (Arc::clone(&self.edge.access), self.edge.reader.clone());
        let actors = self.edge.actors.clone();
        learn_revocations(&access, &reader, &actors).await;
        actix_rt::spawn(async move {
            let mut looks = tokio::time::interval(ACCESS_INTERVAL);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                learn_revocations(&access, &reader, &actors).await;
                let access = Arc::clone(&access);
                // It fails only with a panic, which is logged.
                let _ = actix_rt::task::spawn_blocking(move || access.refresh_keys()).await;
            }
        });
    }

    pub async fn wait_for_shards(&self, workers: usize) {
        let actors = &self.edge.health.actors;
        wait_until(|| (0..workers).all(|number| actors.get(&format!("shard/{number}")))).await;
    }

    /// Closes the sessions, finishes deliveries and commits what waits. New requests get 503 up to the end, which tells
    /// the caller to go elsewhere; in the queue of a socket that nobody accepts from it would wait.
    pub async fn drain(&self, server: &ServerHandle, grace: Duration) {
        self.edge.health.start_draining();
        // What is not over by then takes a moment to end, and that is to be within the grace period too.
        let grace = grace - grace / 20;
        let finish = grace / FINISH_SHARE;
        self.edge.actors.supervisor.do_send(BeginFinish);
        self.edge.actors.drain_sessions(finish);
        let drained = async {
            // Sessions leave on their own once told; a peer that does not is left to the end of the grace period.
            let mut looks = tokio::time::interval(Duration::from_millis(20));
            while self.edge.metrics.sessions.get() > 0 {
                looks.tick().await;
            }
            let _ = self.edge.actors.supervisor.send(FinishAll).await;
        };
        if tokio::time::timeout(grace - finish, drained).await.is_err() {
            log::warn!(sessions = self.edge.metrics.sessions.get(); "grace period is over, leaving the rest");
        }
        let _ = tokio::time::timeout(finish, server.stop(true)).await;
    }

    /// Sends the last spans, for a bounded time.
    pub async fn send_spans(&self) {
        if let Some(spans) = &self.spans {
            spans.finish().await;
        }
    }

    /// Leaves a store behind that is whole in itself.
    pub async fn close_store(&self) {
        self.edge.reader.close().await;
        self.deliveries.close().await;
        self.comparisons.close().await;
        self.orchestration.close().await;
        let store = self.store.clone();
        let closed = actix_rt::task::spawn_blocking(move || storage::close(&store)).await;
        if let Ok(Err(error)) = closed {
            log::warn!(error:%; "the store is not whole in its file alone, copy what lies beside it too");
        }
    }
}

/// What persistence and the client of a service share.
fn slot(service: &ServiceConfig) -> Arc<ServiceSlot> {
    Arc::new(ServiceSlot::new(service, policy::retry_schedule(&service.options).longest()))
}

fn restart_policy(config: &Config) -> RestartPolicy {
    let supervision = &config.supervision;
    RestartPolicy {
        max_restarts: supervision.max_restarts,
        within: supervision.within.get(),
        backoff: supervision.backoff.get(),
        backoff_cap: supervision.backoff_cap.get(),
    }
}

/// A store that does not answer leaves what is known; the next look comes soon.
async fn learn_revocations(access: &AccessControl, reader: &Reader, actors: &Registry) {
    if !access.is_required() {
        return;
    }
    let as_of = access.revocation_changes();
    if let Ok(revoked) = reader.revocations().await
        && access.set_revoked(revoked, as_of)
    {
        actors.check_access();
    }
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + START_PATIENCE;
    while !condition() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The name of this machine among others.
fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
