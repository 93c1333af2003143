//! The composition: everything is made here, once, and tied together.

mod admin_entry;
mod reload;
mod signals;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::{Actor, Addr, Recipient};
use actix_web::App;
use actix_web::dev::ServerHandle;
use actix_web::middleware::{Condition, from_fn};
use actix_web::web::Data;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, oneshot};

use self::admin_entry::AdminEntry;
use self::reload::Reloading;
use self::signals::{Hangups, StopSignals};
use crate::access::AccessControl;
use crate::access::limits::Limits;
use crate::actors::client::{ClientParts, policy, tls};
use crate::actors::clock;
use crate::actors::durables::{Directory, DurableLimits, DurablesParts};
use crate::actors::log_position::LogPosition;
use crate::actors::persistence::PersistenceParts;
use crate::actors::persistence::intake::{Backlog, Intake};
use crate::actors::push_log::PushLog;
use crate::actors::service_slot::{ServiceSlot, ServiceSlots};
use crate::actors::shard::messages::CheckAccess;
use crate::actors::shard::{ShardLimits, ShardParts};
use crate::actors::supervisor::messages::{Drain, ReadTlsFiles, WorkerReady};
use crate::actors::supervisor::{Supervisor, SupervisorParts};
use crate::actors::worker::Worker;
use crate::config::{self, Config, ConfigError, ServiceConfig, UnknownFields, is_weak_admin_token};
use crate::domain::durable::DurablePolicy;
use crate::domain::restart::RestartPolicy;
use crate::protocol::publish::PublishRules;
use crate::storage::{
    self, Durability, ReadWatch, Reader, RetentionPolicy, Schema, StoreError, StoreLock, StoreOptions, StoreUrl,
};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use crate::transport::{self, ConnectionLimit, ConnectionTimeouts, HttpSettings, InboundLimits, ShardQueues};
use crate::web::{self, ConfiguredService, Edge, EdgeLimits, EdgeParts, LongPollLimits, SupervisorAddresses};

/// Connections that may wait to be accepted.
const LISTEN_BACKLOG: u32 = 4096;
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
/// How often a read that failed is tried again.
const READ_CARE_INTERVAL: Duration = Duration::from_millis(500);
/// Of the grace period, what is kept for commits and for the HTTP server to finish.
const FINISH_SHARE: u32 = 4;

/// Why the process ends other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error("{0}")]
    Start(String),
    #[error("gave up: {0}")]
    Escalated(String),
}

/// The store that the configuration names.
pub fn store_options(config: &Config) -> Result<StoreOptions, ConfigError> {
    let url =
        StoreUrl::parse(config.store.url.expose()).map_err(|error| config.error_at("store.url", error.to_string()))?;
    Ok(StoreOptions {
        url,
        schema: Schema::new(config.store.schema.as_str()),
        durability: match config.store.durability {
            config::Durability::Full => Durability::Full,
            config::Durability::Normal => Durability::Normal,
        },
        readers: config.store.readers,
        busy_timeout: config.store.busy_timeout.get(),
        connect_timeout: config.store.connect_timeout.get(),
        idempotency_window: config.publish.idempotency_window.get(),
        create: true,
    })
}

/// By what callers are known, as the configuration says; the file of keys is read.
pub fn access_control(config: &Config) -> Result<AccessControl, ConfigError> {
    let token = &config.admin.token;
    if !token.is_empty() && is_weak_admin_token(token.expose()) && !config.server.is_loopback() {
        return Err(config.error_at("admin.token", "must have at least 16 characters, as server.host is not loopback"));
    }
    AccessControl::new(&config.access, config.admin.token.clone())
        .map_err(|reason| config.error_at("access.jwt.jwks_file", reason))
}

/// Serves until the process is told to stop. `load` reads the configuration again. Call it inside an actix system.
pub async fn serve(config: Config, load: impl Fn() -> Result<Config, ConfigError> + 'static) -> Result<(), ServeError> {
    let begin = Instant::now();
    let mut signals = StopSignals::listen();
    let mut hangups = Hangups::listen();
    let store = store_options(&config)?;
    tls::check_files(&config)?;
    let access = Arc::new(access_control(&config)?);
    match take_store(&config, &store, &mut signals).await? {
        Some(lock) => lock.keep(),
        None => return Ok(()),
    }
    let listener = listen(&config)?;
    let address = listener.local_addr().map_err(|error| ServeError::Start(error.to_string()))?;
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!(error:% = error; "limit of open files not raised");
    }
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let (escalate, escalation) = oneshot::channel();
    let node = Node::start(&config, store, access, address, workers, escalate)?;
    let unusable = |reason: String| ServeError::Config(config.error_at("store.url", reason));
    if let Some(reason) = node.wait_for_store().await {
        return Err(unusable(reason));
    }
    let admin = AdminEntry::open(&config, &node.edge.access, &node.store.url);
    node.watch_access().await;
    node.watch_reads();

    let server = node.http_server(&config, listener, workers)?;
    let handle = server.handle();
    let mut server = actix_rt::spawn(server);
    node.wait_for_shards(workers).await;
    admin.tell(&config, address);
    log::info!(addr:% = address, workers, store:% = node.store.url, start_ms = begin.elapsed().as_millis() as u64, version = env!("CARGO_PKG_VERSION"); "listening");
    if config.redis.url.is_some() {
        log::warn!(key = "redis.url"; "a Redis is configured, and not used by this version");
    }
    if !address.ip().is_loopback() && !config.access.is_required() {
        log::warn!(addr:% = address; "no tokens are configured: whoever reaches this address may publish and subscribe");
    }

    let reloading = Reloading { load, running: &config, access: &node.edge.access, store: &node.store.url };
    let mut escalation = escalation;
    let mut stop = std::pin::pin!(signals.stop());
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = hangups.next() => {
                if reloading.reload() {
                    node.supervisor.do_send(ReadTlsFiles);
                    learn_revocations(&node.edge.access, &node.edge.reader, &node.edge.supervisor.check_access).await;
                    node.supervisor.do_send(CheckAccess);
                }
            }
            reason = node.edge.health.store.unusable() => return Err(unusable(reason)),
            reason = &mut escalation => {
                let reason = reason.unwrap_or_else(|_| "the supervisor failed".into());
                return Err(ServeError::Escalated(reason));
            }
            ended = &mut server => {
                return Err(ServeError::Start(format!("the HTTP server ended: {ended:?}")));
            }
        }
    }
    node.drain(&handle, config.server.shutdown_grace.get()).await;
    node.close_store().await;
    log::info!(last_id = node.edge.position.last(); "stopped");
    Ok(())
}

/// Waits for a process that uses the same SQLite file to end, for as long as it may take to drain. None: told to stop
/// meanwhile.
async fn take_store(
    config: &Config,
    store: &StoreOptions,
    signals: &mut StopSignals,
) -> Result<Option<StoreLock>, ServeError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let (begin, patience) = (Instant::now(), config.server.shutdown_grace.get());
    let mut is_told = false;
    loop {
        match StoreLock::take(store) {
            Ok(lock) => return Ok(Some(lock)),
            Err(error) if !error.stops_start(&store.url) && begin.elapsed() < patience => {
                if !std::mem::replace(&mut is_told, true) {
                    log::warn!(error:%, patience_seconds = patience.as_secs_f64(); "waiting for the store");
                }
            }
            Err(error) => return Err(config.error_at("store.url", error.to_string()).into()),
        }
        tokio::select! {
            () = signals.stop() => return Ok(None),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

fn listen(config: &Config) -> Result<TcpListener, ServeError> {
    // An IPv6 address may come in brackets, as in a URL.
    let address = (config.server.host.trim_matches(['[', ']']), config.server.port);
    let failed = |error| ServeError::Listen { address: format!("{}:{}", address.0, address.1), error };
    let socket_address = std::net::ToSocketAddrs::to_socket_addrs(&address)
        .map_err(failed)?
        .next()
        .ok_or_else(|| failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")))?;
    let listen = || -> io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(socket_address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&socket_address.into())?;
        socket.listen(LISTEN_BACKLOG as i32)?;
        Ok(socket.into())
    };
    listen().map_err(failed)
}

/// Everything that runs, but for the HTTP server.
struct Node {
    edge: EdgeParts,
    shard: ShardParts,
    backlog: Arc<Backlog>,
    supervisor: Addr<Supervisor>,
    commit_timeout: Duration,
    queue_per_shard: usize,
    store: StoreOptions,
    /// What clients and durable subscriptions read with.
    deliveries: Reader,
}

impl Node {
    fn start(
        config: &Config,
        store: StoreOptions,
        access: Arc<AccessControl>,
        address: SocketAddr,
        workers: usize,
        escalate: oneshot::Sender<String>,
    ) -> Result<Self, ServeError> {
        let start_error = |error: &dyn std::fmt::Display| ServeError::Start(error.to_string());
        let metrics = Arc::new(Metrics::new().map_err(|error| start_error(&error))?);
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let patience = STORE_PATIENCE.min(config.publish.commit_timeout.get());
        let health = Arc::new(Health::new(patience, config.redis.url.is_some()));
        let watch = ReadWatch::new(Arc::clone(&health.store), Arc::clone(&metrics));
        let reader = Reader::watched(store.clone(), watch.clone()).map_err(|error: StoreError| start_error(&error))?;
        let position = Arc::new(LogPosition::default());
        let backlog = Backlog::new(config.publish.backlog_events, config.publish.backlog_bytes.as_usize());
        let log_activity = config.log.activity;

        let slot = |service: &ServiceConfig| {
            let (name, selectors) = (service.name.clone().into(), service.routes.clone());
            let longest_wait = policy::retry_schedule(&service.options).longest();
            Arc::new(ServiceSlot::new(name, selectors, service.own_sources(), service.start_from, longest_wait))
        };
        let slots: ServiceSlots = config.services.iter().map(slot).collect();
        // Enough for what all clients read at a time; each reads one thing after the other.
        let readers = StoreOptions { readers: slots.len().clamp(1, MAX_DELIVERY_READERS) as u32, ..store.clone() };
        let deliveries = Reader::watched(readers, watch).map_err(|error| start_error(&error))?;
        let services = config.services.iter().zip(slots.iter());
        let services: Arc<[ConfiguredService]> = services
            .map(|(config, slot)| ConfiguredService { config: Arc::new(config.clone()), slot: Arc::clone(slot) })
            .collect();
        let clients = services.iter().map(|service| ClientParts {
            service: Arc::clone(&service.config),
            slot: Arc::clone(&service.slot),
            position: Arc::clone(&position),
            reader: deliveries.clone(),
            metrics: Arc::clone(&metrics),
            log_activity,
        });
        let clients = clients.collect();
        let renewed = Arc::<Notify>::default();
        let persistence = PersistenceParts {
            store: store.clone(),
            services: Arc::clone(&slots),
            renewed: Arc::clone(&renewed),
            retention: RetentionPolicy {
                max_age: config.retention.max_age.map(config::Span::get),
                max_events: config.retention.max_events,
                max_bytes: config.retention.max_bytes.map(|size| size.as_usize() as u64),
            },
            position: Arc::clone(&position),
            backlog: Arc::clone(&backlog),
            health: Arc::clone(&health.store),
            metrics: Arc::clone(&metrics),
            log_activity,
        };
        let directory = Arc::<Directory>::default();
        let durable = &config.consumers;
        let pushes = Arc::new(PushLog::default());
        let durables = DurablesParts {
            limits: DurableLimits {
                max_count: durable.max_count,
                max_unacked_bytes: durable.max_unacked_bytes.as_usize(),
                policy: DurablePolicy {
                    ack_wait: durable.ack_wait.get(),
                    max_in_flight: durable.max_in_flight,
                    max_deliver: durable.max_deliver,
                },
            },
            reader: deliveries.clone(),
            position: Arc::clone(&position),
            metrics: Arc::clone(&metrics),
            directory: Arc::clone(&directory),
            pushes: Arc::clone(&pushes),
            renewed,
            log_activity,
        };
        let supervision = &config.supervision;
        let supervisor = Supervisor::new(SupervisorParts {
            persistence,
            clients,
            durables,
            restarts: RestartPolicy {
                max_restarts: supervision.max_restarts,
                within: supervision.within.get(),
                backoff: supervision.backoff.get(),
                backoff_cap: supervision.backoff_cap.get(),
            },
            health: Arc::clone(&health.actors),
            metrics: Arc::clone(&metrics),
            escalate: Box::new(move |reason| {
                let _ = escalate.send(reason);
            }),
        })
        .start();

        let subscribe = &config.subscribe;
        let shard = ShardParts {
            pushes: Arc::clone(&pushes),
            limits: ShardLimits {
                queue_per_connection: subscribe.queue_per_connection.as_usize(),
                recent_events: subscribe.recent_events.as_usize(),
                max_subscriptions: subscribe.max_subscriptions,
                ping_interval: subscribe.ping_interval.get(),
                heartbeat_interval: subscribe.heartbeat_interval.get(),
                max_age: subscribe.max_age.map(config::Span::get),
                idle_timeout: subscribe.idle_timeout.get(),
                stall_timeout: subscribe.stall_timeout.get(),
                expiry_notice: config.access.expiry_notice.get(),
            },
            access: Arc::clone(&access),
            reader: reader.clone(),
            position: Arc::clone(&position),
            metrics: Arc::clone(&metrics),
            log_activity,
            presence: subscribe.presence_events.then(|| clock::now().0),
        };
        let max_body = config.server.max_body.as_usize();
        let edge = EdgeParts {
            rules: PublishRules {
                refuse_unknown: config.publish.unknown_fields == UnknownFields::Refuse,
                max_batch: config.publish.max_batch,
                max_event_bytes: max_body,
            },
            limits: EdgeLimits {
                max_body,
                max_batch_body: config.publish.max_batch_body.as_usize(),
                body_timeout: config.server.body_timeout.get(),
                inbound: InboundLimits { max_message: subscribe.max_message.as_usize(), ..InboundLimits::default() },
                max_memberships: config.consumers.max_per_connection,
            },
            allowed_origins: config.server.allowed_origins.clone().into(),
            cors_origins: config.server.cors_origins.clone().into(),
            base_path: config.server.base_path.as_str().into(),
            allowed_hosts: config.server.allowed_hosts.clone().into(),
            is_loopback: address.ip().to_canonical().is_loopback(),
            trusted_proxies: config.server.trusted_proxies.clone().into(),
            proxy_header: config.server.proxy_header,
            access,
            shares: Arc::new(Limits::new(&config.limits)),
            protect_metrics: config.access.protect_metrics,
            reader,
            position,
            pushes,
            health,
            metrics,
            long_polls: Arc::new(LongPollLimits::new(subscribe.max_long_polls)),
            supervisor: SupervisorAddresses {
                observe: supervisor.clone().recipient(),
                close_session: supervisor.clone().recipient(),
                drain: supervisor.clone().recipient(),
                sessions: supervisor.clone().recipient(),
                subscriptions: supervisor.clone().recipient(),
                observe_services: supervisor.clone().recipient(),
                operate: supervisor.clone().recipient(),
                in_flight: supervisor.clone().recipient(),
                durables: supervisor.clone().recipient(),
                subscribers: supervisor.clone().recipient(),
                commit: supervisor.clone().recipient(),
                check_access: supervisor.clone().recipient(),
                #[cfg(feature = "fault-injection")]
                inject_panic: supervisor.clone().recipient(),
            },
            services,
            durables: directory,
            log_activity,
        };
        Ok(Self {
            edge,
            shard,
            backlog,
            supervisor,
            commit_timeout: config.publish.commit_timeout.get(),
            queue_per_shard: subscribe.queue_total.as_usize() / workers,
            store,
            deliveries,
        })
    }

    fn http_server(
        &self,
        config: &Config,
        listener: TcpListener,
        workers: usize,
    ) -> Result<actix_web::dev::Server, ServeError> {
        let next_worker = Arc::new(AtomicUsize::new(0));
        let (edge, shard, backlog) = (self.edge.clone(), self.shard.clone(), Arc::clone(&self.backlog));
        let (commit_timeout, queue_limit) = (self.commit_timeout, self.queue_per_shard);
        let connections = ConnectionLimit::new(config.server.max_connections);
        let supervisor = self.supervisor.clone().recipient::<WorkerReady>();
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
            let worker = Worker::current().unwrap_or_else(|| {
                let number = next_worker.fetch_add(1, Ordering::Relaxed);
                let intake = Intake::start(Arc::clone(&backlog), commit_timeout);
                let queues = ShardQueues::new(queue_limit, Arc::clone(&connections));
                let (worker, arbiter) = Worker::install(number, intake, shard.clone(), queues);
                supervisor.do_send(WorkerReady { number, arbiter });
                worker
            });
            App::new()
                .app_data(Data::new(Edge::new(edge.clone(), worker)))
                .wrap(Condition::new(!edge.cors_origins.is_empty(), from_fn(web::share)))
                .wrap(from_fn(web::keep_out))
                .wrap(Condition::new(!edge.base_path.is_empty(), from_fn(web::strip_base_path)))
                .wrap(from_fn(web::observe))
                .configure(web::routes)
        };
        transport::serve(listener, settings, app)
            .map_err(|error| ServeError::Start(format!("the HTTP server did not start: {error}")))
    }

    /// The store's first word, good or bad: publishes right after the start should not be refused for haste. Why there
    /// is nothing to wait for, if that is so.
    async fn wait_for_store(&self) -> Option<String> {
        let store = &self.edge.health.store;
        let knows_services = || self.edge.services.iter().all(|service| service.slot.id().is_some());
        wait_until(|| (store.is_up() && knows_services()) || store.reason().is_some()).await;
        store.unusable().now_or_never()
    }

    /// Tries reads that have failed until they succeed.
    fn watch_reads(&self) {
        let reader = self.edge.reader.clone();
        actix_rt::spawn(async move {
            loop {
                tokio::time::sleep(READ_CARE_INTERVAL).await;
                reader.care().await;
            }
        });
    }

    /// Learns who is revoked, and goes on learning: what other nodes revoke, and when the file of keys changes.
    async fn watch_access(&self) {
        let (access, reader) = (Arc::clone(&self.edge.access), self.edge.reader.clone());
        let check = self.edge.supervisor.check_access.clone();
        learn_revocations(&access, &reader, &check).await;
        actix_rt::spawn(async move {
            let mut looks = tokio::time::interval(ACCESS_INTERVAL);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                learn_revocations(&access, &reader, &check).await;
                let access = Arc::clone(&access);
                // It fails only with a panic, which is logged.
                let _ = actix_rt::task::spawn_blocking(move || access.refresh_keys()).await;
            }
        });
    }

    async fn wait_for_shards(&self, workers: usize) {
        let actors = &self.edge.health.actors;
        wait_until(|| (0..workers).all(|number| actors.get(&format!("shard/{number}")))).await;
    }

    /// Says good-bye to the clients and commits what waits. New requests are answered with 503 up to the end: whoever
    /// asks is told to go elsewhere, rather than left in the queue of a socket that nobody accepts from.
    async fn drain(&self, server: &ServerHandle, grace: Duration) {
        self.edge.health.start_draining();
        // What is not over by then takes a moment to end, and that is to be within the grace period too.
        let grace = grace - grace / 20;
        let finish = grace / FINISH_SHARE;
        let drained = self.supervisor.send(Drain { spread: finish, finish: true });
        if tokio::time::timeout(grace - finish, drained).await.is_err() {
            log::warn!(sessions = self.edge.metrics.sessions.get(); "grace period is over, leaving the rest");
        }
        let _ = tokio::time::timeout(finish, server.stop(true)).await;
    }

    /// Leaves a store behind that is whole in itself.
    async fn close_store(&self) {
        self.edge.reader.close().await;
        self.deliveries.close().await;
        let store = self.store.clone();
        let closed = actix_rt::task::spawn_blocking(move || storage::close(&store)).await;
        if let Ok(Err(error)) = closed {
            log::warn!(error:%; "the store is not whole in its file alone, copy what lies beside it too");
        }
    }
}

/// A store that does not answer leaves what is known; the next look comes soon.
async fn learn_revocations(access: &AccessControl, reader: &Reader, check: &Recipient<CheckAccess>) {
    if !access.is_required() {
        return;
    }
    let as_of = access.revocation_changes();
    if let Ok(revoked) = reader.revocations().await
        && access.set_revoked(revoked, as_of)
    {
        check.do_send(CheckAccess);
    }
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + START_PATIENCE;
    while !condition() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
