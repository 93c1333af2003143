//! Redis, the fast path between nodes and a way in: connections, the commands that are needed, and why they fail.
//!
//! Nothing that Redis holds is needed to be right. Who uses a [`Link`] drops it after any failure, and makes another.

mod error;
mod pubsub;
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
pub use self::stream::{Refused, Stream};
pub use self::subscription::Subscription;
use crate::config::RedisConfig;

/// How long connecting may take, and the answer to a command beyond the time for which it blocks.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How often a silent peer is looked for by the system.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A configured server.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    secret: Option<Arc<str>>,
}

impl Redis {
    /// The server of the configuration; none if there is none. The error names the key and what is wrong with it.
    pub fn new(config: &RedisConfig) -> Result<Option<Self>, (&'static str, String)> {
        let Some(url) = &config.url else { return Ok(None) };
        // The reasons are texts of the client itself, and repeat nothing of the URL.
        let refused = |error: RedisError| ("redis.url", error.to_string());
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
            with_tls(info, &config.tls_ca_file)?
        } else {
            Client::open(info).map_err(refused)?
        };
        Ok(Some(Self { client, secret }))
    }

    /// Makes a connection.
    pub async fn connect(&self) -> Result<Link, BusError> {
        // Blocking reads take longer than any fixed time: see [`Link::ask`].
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connected = self.in_time(PATIENCE, self.client.get_multiplexed_async_connection_with_config(&config));
        Ok(Link { connection: connected.await?, redis: self.clone() })
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
fn with_tls(info: ConnectionInfo, ca_file: &str) -> Result<Client, (&'static str, String)> {
    const KEY: &str = "redis.tls_ca_file";
    let root_cert = match ca_file {
        "" => None,
        file => {
            let pem = std::fs::read(file).map_err(|error| (KEY, format!("{file}: {error}")))?;
            if !pem.windows(10).any(|window| window == b"-----BEGIN") {
                return Err((KEY, format!("{file}: no certificate in it")));
            }
            Some(pem)
        }
    };
    let certificates = TlsCertificates { client_tls: None, root_cert };
    Client::build_with_tls(info, certificates).map_err(|error| (KEY, format!("{ca_file}: {error}")))
}

/// A connection. Several may ask over it at once, unless one blocks.
#[derive(Clone)]
pub struct Link {
    connection: MultiplexedConnection,
    redis: Redis,
}

impl Link {
    /// Whether the server answers.
    pub async fn ping(&mut self) -> Result<(), BusError> {
        self.ask(&redis::cmd("PING"), Duration::ZERO).await.map(drop)
    }

    /// The answer to a command that blocks for at most `blocks`.
    pub async fn ask(&mut self, command: &Cmd, blocks: Duration) -> Result<Value, BusError> {
        let Self { connection, redis } = self;
        redis.in_time(blocks + PATIENCE, command.query_async(connection)).await
    }

    /// The answers to several commands, each of which may have failed.
    pub async fn ask_all(&mut self, commands: &Pipeline) -> Result<Vec<Result<Value, BusError>>, BusError> {
        let Self { connection, redis } = self;
        let answers = connection.send_packed_commands(commands, 0, commands.len());
        let answers = redis.in_time(PATIENCE, answers).await?.into_iter();
        let secret = redis.secret.as_deref();
        Ok(answers.map(|answer| answer.extract_error().map_err(|error| BusError::of(&error, secret))).collect())
    }
}
