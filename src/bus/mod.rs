//! Redis, the fast path between nodes and a way in: connections, the commands that are needed, and why they fail.
//!
//! Nothing that Redis holds is needed to be right. Who uses a [`Link`] drops it after any failure, and makes another.

mod error;
pub mod mirror;
mod pubsub;
mod sentinel;
mod stream;
mod subscription;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo as _, Pipeline, ProtocolVersion, RedisError,
    TlsCertificates, Value,
};

pub use self::error::{BusError, BusReason};
pub use self::pubsub::{CHANNEL, Publication, publish};
use self::sentinel::Sentinels;
pub use self::stream::{Refused, Stream};
pub use self::subscription::Subscription;
use crate::config::{RedisConfig, SecretUrl};

/// How long connecting may take, and the answer to a command beyond the time for which it blocks.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How often a silent peer is looked for by the system.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A configured server.
#[derive(Clone)]
pub struct Redis {
    server: Server,
    /// Where the primary is asked for; none if `server` is it.
    sentinels: Option<Arc<Sentinels>>,
}

/// How to connect to a server.
#[derive(Clone)]
struct Server {
    client: Client,
    secret: Option<Arc<str>>,
}

impl Redis {
    /// The server of the configuration; none if there is none. The error names the key and what is wrong with it.
    pub fn new(config: &RedisConfig) -> Result<Option<Self>, (&'static str, String)> {
        let Some(url) = &config.url else { return Ok(None) };
        let server = Server::new(url, &config.tls_ca_file).map_err(|refused| refused.of_key("redis.url"))?;
        let sentinels = Sentinels::new(url, config).map_err(|refused| refused.of_key("redis.sentinels"))?;
        Ok(Some(Self { server, sentinels: sentinels.map(Arc::new) }))
    }

    /// Makes a connection.
    pub async fn connect(&self) -> Result<Link, BusError> {
        let mut link = self.primary().await?.connect(PATIENCE).await?;
        if self.sentinels.is_some() {
            sentinel::refuse_replica(&mut link).await?;
        }
        Ok(link)
    }

    /// Where to connect to now.
    async fn primary(&self) -> Result<Server, BusError> {
        match &self.sentinels {
            None => Ok(self.server.clone()),
            Some(sentinels) => sentinels.primary(&self.server).await,
        }
    }
}

/// Why a configured server cannot be one.
enum RefusedConfig {
    /// The reason is a text of the client itself, and repeats nothing of the URL.
    Url(String),
    CaFile(String),
}

impl RefusedConfig {
    /// The key that is wrong, if that of the URL is `url`, and why.
    fn of_key(self, url: &'static str) -> (&'static str, String) {
        match self {
            Self::Url(reason) => (url, reason),
            Self::CaFile(reason) => ("redis.tls_ca_file", reason),
        }
    }
}

impl Server {
    fn new(url: &SecretUrl, ca_file: &str) -> Result<Self, RefusedConfig> {
        let refused = |error: RedisError| RefusedConfig::Url(error.to_string());
        let info = url.expose().clone().into_connection_info().map_err(refused)?;
        let secret = info.redis_settings().password().map(Arc::from);
        // No command waits until those before it are acknowledged.
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE));
        // The answers are read as those of RESP2, which every version speaks. Nothing is said of the client, which not
        // every user may.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let info = info.set_tcp_settings(tcp).set_redis_settings(settings);
        let client = if url.expose().scheme() == "rediss" {
            with_tls(info, ca_file).map_err(RefusedConfig::CaFile)?
        } else {
            Client::open(info).map_err(refused)?
        };
        Ok(Self { client, secret })
    }

    async fn connect(&self, patience: Duration) -> Result<Link, BusError> {
        // Blocking reads take longer than any fixed time: see [`Link::ask`].
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connected = self.in_time(patience, self.client.get_multiplexed_async_connection_with_config(&config));
        Ok(Link { connection: connected.await?, server: self.clone() })
    }

    async fn in_time<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, BusError> {
        match tokio::time::timeout(patience, work).await {
            Ok(done) => done.map_err(|error| BusError::of(&error, self.secret.as_deref())),
            Err(_) => Err(BusError::hanging()),
        }
    }
}

/// The authorities of the system are trusted, or those of the file alone.
fn with_tls(info: ConnectionInfo, ca_file: &str) -> Result<Client, String> {
    let root_cert = match ca_file {
        "" => None,
        file => {
            let pem = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
            if !pem.windows(10).any(|window| window == b"-----BEGIN") {
                return Err(format!("{file}: no certificate in it"));
            }
            Some(pem)
        }
    };
    let certificates = TlsCertificates { client_tls: None, root_cert };
    Client::build_with_tls(info, certificates).map_err(|error| format!("{ca_file}: {error}"))
}

/// A connection. Several may ask over it at once, unless one blocks.
#[derive(Clone)]
pub struct Link {
    connection: MultiplexedConnection,
    server: Server,
}

impl Link {
    /// Whether the server answers.
    pub async fn ping(&mut self) -> Result<(), BusError> {
        self.ask(&redis::cmd("PING"), Duration::ZERO).await.map(drop)
    }

    /// The answer to a command that blocks for at most `blocks`.
    pub async fn ask(&mut self, command: &Cmd, blocks: Duration) -> Result<Value, BusError> {
        let Self { connection, server } = self;
        server.in_time(blocks + PATIENCE, command.query_async(connection)).await
    }

    /// The answers to several commands, each of which may have failed.
    pub async fn ask_all(&mut self, commands: &Pipeline) -> Result<Vec<Result<Value, BusError>>, BusError> {
        let Self { connection, server } = self;
        let answers = connection.send_packed_commands(commands, 0, commands.len());
        let answers = server.in_time(PATIENCE, answers).await?.into_iter();
        let secret = server.secret.as_deref();
        Ok(answers.map(|answer| answer.extract_error().map_err(|error| BusError::of(&error, secret))).collect())
    }
}
