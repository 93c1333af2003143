//! Sentinels, which know where the primary of a Redis is, and move it when it fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Client, ConnectionAddr, Value};

use super::error::{BusError, BusReason};
use super::{Link, RefusedConfig, Server};
use crate::config::{RedisConfig, SecretUrl};

/// How long each of them may take to connect.
const EACH: Duration = Duration::from_secs(1);

/// The Sentinels of one Redis.
pub(super) struct Sentinels {
    servers: Vec<Server>,
    /// What they call the primary.
    name: String,
    /// The place of the one that has answered last. It is asked first.
    reached: AtomicUsize,
}

impl Sentinels {
    /// Those of the configuration; none if the host in `url` is that of the server itself.
    pub fn new(url: &SecretUrl, config: &RedisConfig) -> Result<Option<Self>, RefusedConfig> {
        if config.sentinels.is_empty() {
            return Ok(None);
        }
        let servers = config.sentinels.iter().map(|url| Server::new(url, &config.tls_ca_file));
        let name = url.expose().host_str().unwrap_or_default().to_owned();
        Ok(Some(Self { servers: servers.collect::<Result<_, _>>()?, name, reached: AtomicUsize::new(0) }))
    }

    /// The primary, to connect to as `server` says.
    pub async fn primary(&self, server: &Server) -> Result<Server, BusError> {
        let (host, port) = self.find().await?;
        let addr = match server.client.get_connection_info().addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let client = Client::open(server.client.get_connection_info().clone().set_addr(addr));
        let client = client.map_err(|error| BusError::of(&error, server.secret.as_deref()))?;
        Ok(Server { client, secret: server.secret.clone() })
    }

    /// Where the primary is, as the first one says that knows it.
    async fn find(&self) -> Result<(String, u16), BusError> {
        let count = self.servers.len();
        let mut failure = BusError::unexpected("nothing");
        for place in (self.reached.load(Ordering::Relaxed)..).take(count).map(|place| place % count) {
            match self.ask(&self.servers[place]).await {
                Ok(found) => {
                    self.reached.store(place, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) => failure = error,
            }
        }
        Err(BusError { message: format!("no Sentinel knows the primary: {}", failure.message), ..failure })
    }

    async fn ask(&self, sentinel: &Server) -> Result<(String, u16), BusError> {
        let mut link = sentinel.connect(EACH).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        match link.ask(&command, Duration::ZERO).await? {
            Value::Nil => {
                Err(BusError { reason: BusReason::MasterDown, message: "it has none of this name".to_owned() })
            }
            answer => redis::from_redis_value(answer).map_err(|_| BusError::unexpected("SENTINEL")),
        }
    }
}

/// A Sentinel may not know yet that the primary was moved. What is published at a replica reaches nobody else.
pub(super) async fn refuse_replica(link: &mut Link) -> Result<(), BusError> {
    let role = match link.ask(&redis::cmd("ROLE"), Duration::ZERO).await {
        // Not every user may ask. Writes are refused there too.
        Err(error) if error.reason == BusReason::Forbidden => return Ok(()),
        answer => answer?,
    };
    match role {
        Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master") => Ok(()),
        _ => Err(BusError {
            reason: BusReason::ReadOnly,
            message: "not the primary that a Sentinel says it is".to_owned(),
        }),
    }
}
