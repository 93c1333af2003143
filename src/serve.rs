//! The composition: everything is made here, once, and tied together.

mod admin_entry;
mod children;
mod node;
mod reload;
mod service_manager;
mod signals;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::admin_entry::AdminEntry;
use self::node::Node;
use self::reload::Reloading;
use self::service_manager::ServiceManager;
use self::signals::{Hangups, StopSignals};
use crate::access::AccessControl;
use crate::actors::client::tls;
use crate::bus::Redis;
use crate::config::{self, Config, ConfigError, is_weak_admin_token};
use crate::storage::{Durability, Schema, SharedCatalogue, StoreLock, StoreOptions, StoreUrl};
use crate::telemetry::health::Unusable;

/// Connections that may wait to be accepted.
const LISTEN_BACKLOG: u32 = 4096;

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
        read_url: read_url(config, &url)?,
        schema: Schema::new(config.store.schema.as_str()),
        durability: match config.store.durability {
            config::Durability::Full => Durability::Full,
            config::Durability::Normal => Durability::Normal,
        },
        readers: config.store.readers,
        busy_timeout: config.store.busy_timeout.get(),
        connect_timeout: config.store.connect_timeout.get(),
        idempotency_window: config.publish.idempotency_window.get(),
        max_types: config.state.max_types,
        catalogue: SharedCatalogue::new(config.catalogue.unknown.into()),
        maintenance_refuses: config.system.maintenance_refuses.as_slice().into(),
        ..StoreOptions::new(url)
    })
}

/// The replica of the store, if the configuration names one.
fn read_url(config: &Config, store: &StoreUrl) -> Result<Option<StoreUrl>, ConfigError> {
    let text = config.store.read_url.expose();
    let refused = |reason: String| config.error_at("store.read_url", reason);
    if text.trim().is_empty() {
        return Ok(None);
    }
    match (store, StoreUrl::parse(text).map_err(|error| refused(error.to_string()))?) {
        (StoreUrl::Postgres(_), url @ StoreUrl::Postgres(_)) => Ok(Some(url)),
        _ => {
            Err(refused("only a PostgreSQL server has replicas: this key and store.url must both name one".to_owned()))
        }
    }
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
    let manager = ServiceManager::of_environment();
    let mut signals = StopSignals::listen();
    let mut hangups = Hangups::listen();
    let store = store_options(&config)?;
    tls::check_files(&config)?;
    let redis = Redis::new(&config.redis).map_err(|(key, reason)| config.error_at(key, reason))?;
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
    let node = Node::start(&config, (store, redis), access, address, workers, escalate)?;
    let unusable = |unusable| {
        ServeError::Config(match unusable {
            Unusable::Store(reason) => config.error_at("store.url", reason),
            Unusable::EventType { name, error } => {
                match config.event_types.iter().find(|file| file.put.name.as_str() == name) {
                    Some(file) => file.error(&error),
                    None => config.error_at("catalogue.dir", error.message()),
                }
            }
            Unusable::Saga { name, version } => {
                let reason = format!(
                    "the store has another content of version {version} of {name:?}: give this one a greater version"
                );
                let is_it = |saga: &&config::DeclaredDefinition| {
                    (&saga.definition.name, saga.definition.version) == (&name, version)
                };
                match config.sagas.iter().find(is_it) {
                    Some(saga) => saga.error(reason),
                    None => config.error_at("orchestration.dir", reason),
                }
            }
        })
    };
    node.put_event_types(&config);
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
    manager.ready(address);
    manager.watch(node.edge.actors.supervisor.clone());
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
                    node.reloaded().await;
                }
            }
            reason = node.edge.health.store.unusable() => return Err(unusable(reason)),
            () = node.edge.cluster.name_taken() => return Err(ServeError::Config(name_taken(&config, node.edge.cluster.name()))),
            reason = &mut escalation => {
                let reason = reason.unwrap_or_else(|_| "the supervisor failed".into());
                return Err(ServeError::Escalated(reason));
            }
            ended = &mut server => {
                return Err(ServeError::Start(format!("the HTTP server ended: {ended:?}")));
            }
        }
    }
    manager.stopping();
    node.drain(&handle, config.server.shutdown_grace.get()).await;
    node.close_store().await;
    node.send_spans().await;
    log::info!(last_id = node.edge.position.last(); "stopped");
    Ok(())
}

fn name_taken(config: &Config, name: &str) -> ConfigError {
    let reason = format!("another node is running as {name:?}: give this one a name of its own");
    config.error_at("node.name", reason)
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
