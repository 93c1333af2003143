//! The sections of the configuration. What each key means is said once, in `config/default.toml`.
//!
//! No field has a default here: a key missing from `config/default.toml` would stop every start.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::access::{admin_token, networks, shown_networks};
use super::checks::{browser_origin, check_log_filter, checked_base_path, is_host_name};
use super::secret::{DatabaseUrl, SecretUrl, http_url, redis_url, redis_urls};
use super::units::{
    DAY, GIB, HOUR, KIB, MIB, MINUTE, PIB, SECOND, Size, Span, optional_size, optional_span, optional_whole, size,
    span, whole,
};
use crate::domain::network::Network;
use crate::domain::pattern::Pattern;
use crate::domain::secret::Secret;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Empty: see [`Self::name_at`].
    #[serde(deserialize_with = "node_name")]
    pub name: String,
    /// None: see [`Self::url_at`]. It is shown, so it holds no secret.
    #[serde(deserialize_with = "plain_url")]
    pub url: Option<SecretUrl>,
}

impl NodeConfig {
    /// The name of the node that listens on `address`, on a machine of this name.
    pub fn name_at(&self, address: SocketAddr, machine: &str) -> String {
        if self.name.is_empty() { format!("{machine}:{}", address.port()) } else { self.name.clone() }
    }

    /// The URL of the node that listens on `address`, on a machine of this name, with everything below `base_path`;
    /// without a slash at its end.
    pub fn url_at(&self, address: SocketAddr, machine: &str, base_path: &str) -> String {
        if let Some(url) = &self.url {
            return url.expose().as_str().trim_end_matches('/').to_owned();
        }
        if address.ip().is_unspecified() {
            format!("http://{machine}:{}{base_path}", address.port())
        } else {
            format!("http://{address}{base_path}")
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    #[serde(deserialize_with = "host")]
    pub host: String,
    #[serde(deserialize_with = "whole::<0, 65_535, _, _>")]
    pub port: u16,
    /// Empty, or with a slash at its beginning and none at its end.
    #[serde(deserialize_with = "base_path")]
    pub base_path: String,
    #[serde(deserialize_with = "whole::<0, 1024, _, _>")]
    pub workers: usize,
    #[serde(deserialize_with = "whole::<1, 1_000_000, _, _>")]
    pub max_connections: usize,
    #[serde(deserialize_with = "span::<100, {10 * MINUTE}, _>")]
    pub head_timeout: Span,
    #[serde(deserialize_with = "span::<100, HOUR, _>")]
    pub body_timeout: Span,
    #[serde(deserialize_with = "span::<SECOND, HOUR, _>")]
    pub keep_alive: Span,
    #[serde(deserialize_with = "size::<KIB, {256 * MIB}, _>")]
    pub max_body: Size,
    #[serde(deserialize_with = "span::<0, HOUR, _>")]
    pub shutdown_grace: Span,
    /// In the form browsers send them: lower case, without a default port.
    #[serde(deserialize_with = "origins")]
    pub allowed_origins: Vec<String>,
    #[serde(deserialize_with = "cors_origins")]
    pub cors_origins: Vec<String>,
    /// Without a port.
    #[serde(deserialize_with = "host_names")]
    pub allowed_hosts: Vec<String>,
    #[serde(deserialize_with = "networks", serialize_with = "shown_networks")]
    pub trusted_proxies: Vec<Network>,
    pub proxy_header: ProxyHeader,
}

impl ServerConfig {
    /// Whether only this machine reaches the service.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        let is_own = |ip: IpAddr| ip.to_canonical().is_loopback();
        host.parse().map_or_else(|_| host.eq_ignore_ascii_case("localhost"), is_own)
    }
}

/// The header in which trusted proxies name the sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    XForwardedFor,
    Forwarded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Full,
    Normal,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// As it was written; empty means the SQLite file under `data/`.
    pub url: DatabaseUrl,
    /// As it was written; empty means none.
    pub read_url: DatabaseUrl,
    #[serde(deserialize_with = "schema")]
    pub schema: String,
    pub durability: Durability,
    #[serde(deserialize_with = "whole::<1, 256, _, _>")]
    pub readers: u32,
    #[serde(deserialize_with = "span::<0, MINUTE, _>")]
    pub busy_timeout: Span,
    #[serde(deserialize_with = "span::<100, MINUTE, _>")]
    pub connect_timeout: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    Refuse,
    Ignore,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishConfig {
    pub unknown_fields: UnknownFields,
    #[serde(deserialize_with = "whole::<1, 100_000, _, _>")]
    pub max_batch: usize,
    #[serde(deserialize_with = "size::<KIB, GIB, _>")]
    pub max_batch_body: Size,
    #[serde(deserialize_with = "whole::<1, 10_000_000, _, _>")]
    pub backlog_events: usize,
    #[serde(deserialize_with = "size::<KIB, {64 * GIB}, _>")]
    pub backlog_bytes: Size,
    #[serde(deserialize_with = "span::<100, {10 * MINUTE}, _>")]
    pub commit_timeout: Span,
    #[serde(deserialize_with = "span::<SECOND, {30 * DAY}, _>")]
    pub idempotency_window: Span,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumersConfig {
    #[serde(deserialize_with = "span::<10, DAY, _>")]
    pub ack_wait: Span,
    #[serde(deserialize_with = "whole::<1, 10_000, _, _>")]
    pub max_in_flight: u32,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub max_deliver: u32,
    #[serde(deserialize_with = "whole::<0, 10_000, _, _>")]
    pub max_count: usize,
    #[serde(deserialize_with = "whole::<1, 10_000, _, _>")]
    pub max_per_connection: usize,
    #[serde(deserialize_with = "size::<{4 * KIB}, GIB, _>")]
    pub max_unacked_bytes: Size,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    #[serde(deserialize_with = "whole::<1, 10_000_000, _, _>")]
    pub max_types: usize,
    #[serde(deserialize_with = "span::<SECOND, {3650 * DAY}, _>")]
    pub tombstone_ttl: Span,
    #[serde(deserialize_with = "whole::<0, 1_000_000_000, _, _>")]
    pub digest_max_undo: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscribeConfig {
    #[serde(deserialize_with = "size::<{4 * KIB}, GIB, _>")]
    pub queue_per_connection: Size,
    #[serde(deserialize_with = "size::<{64 * KIB}, {256 * GIB}, _>")]
    pub queue_total: Size,
    #[serde(deserialize_with = "size::<0, {256 * GIB}, _>")]
    pub recent_events: Size,
    #[serde(deserialize_with = "span::<100, HOUR, _>")]
    pub ping_interval: Span,
    #[serde(deserialize_with = "span::<100, HOUR, _>")]
    pub heartbeat_interval: Span,
    #[serde(deserialize_with = "optional_span::<SECOND, {365 * DAY}, _>")]
    pub max_age: Option<Span>,
    #[serde(deserialize_with = "span::<200, DAY, _>")]
    pub idle_timeout: Span,
    #[serde(deserialize_with = "span::<100, HOUR, _>")]
    pub stall_timeout: Span,
    #[serde(deserialize_with = "size::<128, {64 * MIB}, _>")]
    pub max_message: Size,
    #[serde(deserialize_with = "whole::<1, 100_000, _, _>")]
    pub max_subscriptions: usize,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub max_long_polls: usize,
    pub presence_events: bool,
}

/// The limits of retention. None means unlimited.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    #[serde(deserialize_with = "optional_span::<SECOND, {36_500 * DAY}, _>")]
    pub max_age: Option<Span>,
    #[serde(deserialize_with = "optional_whole")]
    pub max_events: Option<u64>,
    #[serde(deserialize_with = "optional_size::<PIB, _>")]
    pub max_bytes: Option<Size>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Auto,
    Json,
    Text,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A filter in the syntax of `RUST_LOG`.
    #[serde(deserialize_with = "level")]
    pub level: String,
    pub activity: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    #[serde(deserialize_with = "admin_token")]
    pub token: Secret,
    /// Empty means beside the data.
    pub token_file: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisionConfig {
    #[serde(deserialize_with = "whole::<0, 1000, _, _>")]
    pub max_restarts: usize,
    #[serde(deserialize_with = "span::<SECOND, DAY, _>")]
    pub within: Span,
    #[serde(deserialize_with = "span::<0, MINUTE, _>")]
    pub backoff: Span,
    #[serde(deserialize_with = "span::<0, {10 * MINUTE}, _>")]
    pub backoff_cap: Span,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    #[serde(deserialize_with = "redis_url")]
    pub url: Option<SecretUrl>,
    /// If there are any, the host in `url` is the name that they have for the primary.
    #[serde(deserialize_with = "redis_urls")]
    pub sentinels: Vec<SecretUrl>,
    /// Empty: the authorities of the system are trusted.
    pub tls_ca_file: String,
    pub ingest: IngestConfig,
    pub pubsub: PubSubConfig,
    pub mirror: MirrorConfig,
}

/// The stream of Redis that is a way in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestConfig {
    pub enabled: bool,
    #[serde(deserialize_with = "stream_name")]
    pub stream: String,
    pub trim: bool,
    #[serde(deserialize_with = "whole::<1, 100_000_000, _, _>")]
    pub dead_max: u64,
    #[serde(deserialize_with = "span::<SECOND, DAY, _>")]
    pub claim_after: Span,
}

/// The publish/subscribe of Redis, as the services of the auction system speak it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PubSubConfig {
    pub out: bool,
    #[serde(rename = "in")]
    pub inward: bool,
    #[serde(deserialize_with = "whole::<1, 1_000_000, _, _>")]
    pub history: usize,
    #[serde(deserialize_with = "whole::<1, 1_000_000, _, _>")]
    pub deadletter: usize,
    pub sources: BTreeMap<String, String>,
}

/// The state of the whole system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemConfig {
    /// None of them matches the Event Handler's own events.
    #[serde(deserialize_with = "patterns", serialize_with = "pattern_texts")]
    pub maintenance_refuses: Vec<Pattern>,
}

/// The mirror of all entities in Redis.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    pub enabled: bool,
    /// Entities per second, while it is filled or compared.
    #[serde(deserialize_with = "whole::<1, 1_000_000, _, _>")]
    pub rate: u32,
    #[serde(deserialize_with = "span::<SECOND, {7 * DAY}, _>")]
    pub check_every: Span,
    #[serde(deserialize_with = "span::<0, {30 * DAY}, _>")]
    pub hold_retention: Span,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceUrls {
    #[serde(deserialize_with = "http_url")]
    pub auction_manager: Option<SecretUrl>,
    #[serde(deserialize_with = "http_url")]
    pub stream_manager: Option<SecretUrl>,
    #[serde(deserialize_with = "http_url")]
    pub eliza: Option<SecretUrl>,
    #[serde(deserialize_with = "http_url")]
    pub shape_l2: Option<SecretUrl>,
}

fn host_names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    match names.iter().find(|name| !is_host_name(name)) {
        None => Ok(names),
        Some(name) => Err(D::Error::custom(format!("must be host names such as \"events.local\", not {name:?}"))),
    }
}

fn plain_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretUrl>, D::Error> {
    let url = http_url(from)?;
    let is_plain = |url: &url::Url| {
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none()
    };
    match url.as_ref().is_none_or(|url| is_plain(url.expose())) {
        true => Ok(url),
        false => Err(D::Error::custom("must have no user name, password, query or fragment: it is shown to operators")),
    }
}

/// What is in a name stands in URLs and stored lists.
fn node_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    // `?node=all` asks all of them.
    if name.len() <= 255 && name.bytes().all(is_allowed) && name != "all" {
        return Ok(name);
    }
    Err(D::Error::custom(format!("must be 1 to 255 of A-Z a-z 0-9 - _ . : and not \"all\", not {name:?}")))
}

fn patterns<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Pattern>, D::Error> {
    let read = |text: &String| match Pattern::parse(text.clone()) {
        Err(reason) => Err(D::Error::custom(format!("{text:?}: {reason}"))),
        Ok(pattern) if pattern.is_system() => Err(D::Error::custom(format!("{text:?}: nobody publishes such events"))),
        Ok(pattern) => Ok(pattern),
    };
    Vec::<String>::deserialize(from)?.iter().map(read).collect()
}

fn pattern_texts<S: Serializer>(patterns: &[Pattern], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(patterns.iter().map(Pattern::as_str))
}

/// It is part of idempotency keys.
fn stream_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if (1..=255).contains(&name.len()) && !name.contains(char::is_control) {
        return Ok(name);
    }
    Err(D::Error::custom(format!("must be 1 to 255 bytes without control characters, not {name:?}")))
}

fn host<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let host = String::deserialize(from)?;
    if host.parse::<IpAddr>().is_ok() || is_host_name(&host) {
        return Ok(host);
    }
    Err(D::Error::custom(format!("must be an IP address or a host name, without a port, not {host:?}")))
}

fn base_path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    checked_base_path(&text).map_err(D::Error::custom)
}

/// The name of a PostgreSQL schema; longer ones would be cut off, those that begin with `pg_` are the server's.
fn schema<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if (1..=63).contains(&name.len()) && !name.starts_with("pg_") && !name.contains(char::is_control) {
        return Ok(name);
    }
    Err(D::Error::custom(format!("must be 1 to 63 bytes, and not begin with pg_, not {name:?}")))
}

fn origins<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| browser_origin(text).map_err(D::Error::custom)).collect()
}

/// Origins, or `"*"` alone for every one.
fn cors_origins<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    if texts == ["*"] {
        return Ok(texts);
    }
    texts.iter().map(|text| browser_origin(text).map_err(D::Error::custom)).collect()
}

fn level<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let filter = String::deserialize(from)?;
    check_log_filter(&filter).map_err(D::Error::custom)?;
    Ok(filter)
}
