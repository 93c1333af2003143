//! The services that events are delivered to: `[[services]]`, and those that a short variable switches on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytestring::ByteString;
use percent_encoding::percent_decode_str;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};

use super::checks::checked_path;
use super::delivery::DeliveryConfig;
use super::error::{ConfigError, Origin};
use super::layers::{Layers, Origins, origin_of};
use super::reference::{SHORT_NAMES, service_defaults};
use super::routes::RouteKey;
use super::secret::{SecretUrl, http_url};
use super::sections::ServiceUrls;
use super::sync::{self, ServiceSync};
use crate::domain::event::EventId;
use crate::domain::routes::Selector;
use crate::domain::secret::Secret;
use crate::protocol::webhook::SigningKey;

/// Headers that a configuration cannot set: deliveries have them anyway, or they belong to the connection.
const RESERVED_HEADERS: [&str; 17] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "event-id",
    "event-log",
    "event-repair",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-connection",
];
const RESERVED_PREFIXES: [&str; 3] = ["webhook-", "ce-", "saga-"];

/// One service, everything resolved.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// 1 to 63 of `a-z`, `0-9`, `-`; unique.
    pub name: String,
    /// The base URL.
    pub url: SecretUrl,
    /// Begins with `/`.
    pub path: String,
    pub routes: Vec<Selector>,
    /// The secrets that sign deliveries, the main one first; empty if deliveries are not signed.
    pub secrets: Vec<Secret>,
    /// Names in lower case.
    pub headers: BTreeMap<String, Secret>,
    /// Whether it gets events whose `source` is its name, or one of its aliases.
    pub echo: bool,
    /// Further names, by which it calls itself as a source.
    pub aliases: Vec<String>,
    /// The names that replace sources in the format "envelope".
    pub sources: BTreeMap<String, String>,
    pub start_from: StartFrom,
    /// The copy of entities that it keeps, if it does.
    pub sync: Option<ServiceSync>,
    /// Whether the system is degraded while its breaker is not closed.
    pub critical: bool,
    pub options: DeliveryConfig,
}

/// The first event of a service that was never seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    /// The first one published from now on.
    Now,
    /// The oldest one that is kept.
    Earliest,
    /// This one, or the next after it that is kept.
    Id(EventId),
}

/// The keys of a service other than the options of `[delivery]` and its name.
#[derive(Serialize, Deserialize)]
struct OwnKeys {
    #[serde(deserialize_with = "http_url")]
    url: Option<SecretUrl>,
    #[serde(deserialize_with = "path")]
    path: String,
    routes: Vec<RouteKey>,
    #[serde(deserialize_with = "secret")]
    secret: Secret,
    #[serde(deserialize_with = "secrets")]
    secrets: Vec<Secret>,
    #[serde(deserialize_with = "headers")]
    headers: BTreeMap<String, Secret>,
    echo: bool,
    aliases: Vec<String>,
    sources: BTreeMap<String, String>,
    start_from: StartFrom,
    #[serde(deserialize_with = "sync::optional", serialize_with = "sync::write")]
    sync: Option<ServiceSync>,
    critical: bool,
}

impl ServiceConfig {
    /// Whether it equals `other`, secrets included.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self {
            name,
            url,
            path,
            routes,
            aliases,
            sources,
            secrets,
            headers,
            echo,
            start_from,
            sync,
            critical,
            options,
        } = self;
        let exposed = |secrets: &[Secret]| secrets.iter().map(|secret| secret.expose().to_owned()).collect::<Vec<_>>();
        let shown = |headers: &BTreeMap<String, Secret>| {
            headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect::<Vec<_>>()
        };
        (name, url, path, aliases, sources, echo, start_from, sync, critical, options)
            == (
                &other.name,
                &other.url,
                &other.path,
                &other.aliases,
                &other.sources,
                &other.echo,
                &other.start_from,
                &other.sync,
                &other.critical,
                &other.options,
            )
            && format!("{routes:?}") == format!("{:?}", other.routes)
            && exposed(secrets) == exposed(&other.secrets)
            && shown(headers) == shown(&other.headers)
    }

    /// The sources whose events it does not get, because they are its own.
    pub fn own_sources(&self) -> Vec<ByteString> {
        let names = [&self.name].into_iter().chain(&self.aliases).filter(|_| !self.echo);
        names.map(|name| name.as_str().into()).collect()
    }

    /// The value of `Authorization` that the user name and password in the URL stand for.
    pub fn authorization(&self) -> Option<Secret> {
        let url = self.url.expose();
        let decode = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let given = !url.username().is_empty() || url.password().is_some();
        given.then(|| {
            let pair = [decode(url.username()), b":".to_vec(), decode(url.password().unwrap_or_default())].concat();
            Secret::new(format!("Basic {}", STANDARD.encode(pair)))
        })
    }

    /// The service as TOML, secrets replaced by `***`: its own keys, and the options that were set for it.
    pub(super) fn to_toml_redacted(&self, origins: &Origins) -> String {
        let own = OwnKeys {
            url: Some(self.url.clone()),
            path: self.path.clone(),
            routes: self.routes.iter().cloned().map(RouteKey).collect(),
            secret: self.secrets.first().cloned().unwrap_or_default(),
            secrets: self.secrets.iter().skip(1).cloned().collect(),
            headers: self.headers.clone(),
            echo: self.echo,
            aliases: self.aliases.clone(),
            sources: self.sources.clone(),
            start_from: self.start_from,
            sync: self.sync.clone(),
            critical: self.critical,
        };
        let mut text = format!("\n[[services]]\nname = \"{}\"\n", self.name);
        let mut write = |key: &str, value: &Value| {
            // Writing to a string cannot fail.
            let _ = match set_by(origins, &self.name, key) {
                Some(origin) => writeln!(text, "{key} = {value} # {}", origin.to_string().escape_default()),
                None => writeln!(text, "{key} = {value}"),
            };
        };
        for key in service_defaults().keys() {
            if let Some(value) = table(&own).get(key) {
                write(key, value);
            }
        }
        for (key, value) in table(&self.options) {
            if set_by(origins, &self.name, &key).is_some() {
                write(&key, &value);
            }
        }
        text
    }
}

/// The error in `key` of `service`: of `[delivery]`, if it was not set for that service.
pub(super) fn error_at(origins: &Origins, service: &str, key: &str, reason: impl Into<String>) -> ConfigError {
    let own = set_by(origins, service, key).is_some() || service_defaults().contains_key(key);
    let path = if own { format!("services.{service}.{key}") } else { format!("delivery.{key}") };
    ConfigError::of_key(origin_of(origins, &path), path, reason)
}

/// The error for two options of `service` that contradict each other: it names one that was set for that service.
pub(super) fn contradiction(origins: &Origins, service: &str, keys: [(&str, String); 2]) -> ConfigError {
    let [small, large] = keys;
    let (key, reason) = if set_by(origins, service, small.0).is_some() { small } else { large };
    error_at(origins, service, key, reason)
}

/// The services, those in `[[services]]` first, then those that only a variable switches on.
pub(super) fn resolve(layers: &mut Layers, urls: &ServiceUrls) -> Result<Vec<ServiceConfig>, ConfigError> {
    let ServiceUrls { auction_manager, stream_manager, eliza, shape_l2 } = urls;
    let by_variable = [
        ("auction-manager", "service_urls.auction_manager", auction_manager),
        ("stream-manager", "service_urls.stream_manager", stream_manager),
        ("eliza", "service_urls.eliza", eliza),
        ("shape-l2", "service_urls.shape_l2", shape_l2),
    ];
    for (name, key, _) in by_variable.iter().filter(|(.., url)| url.is_some()) {
        layers.origins.insert(format!("services.{name}.url"), layers.origin(key));
    }
    let layers = &*layers;
    let nothing = Table::new();
    let configured = layers.services.iter().map(|(name, table)| (name.as_str(), table));
    let switched_on = by_variable
        .into_iter()
        .filter(|(name, _, url)| url.is_some() && layers.services.iter().all(|(other, _)| other != name));
    configured
        .chain(switched_on.map(|(name, ..)| (name, &nothing)))
        .map(|(name, table)| {
            let variable = by_variable.iter().find(|(of, ..)| *of == name);
            let (own, options) = keys(layers, name, table)?;
            let url = variable.and_then(|(_, _, url)| url.as_ref()).or(own.url.as_ref()).cloned();
            let url = url.ok_or_else(|| {
                let known = variable.and_then(|(_, key, _)| SHORT_NAMES.iter().find(|(_, of)| of == key));
                let reason =
                    known.map_or("is required".to_owned(), |(short, _)| format!("is required, here or in {short}"));
                error_at(&layers.origins, name, "url", reason)
            })?;
            let OwnKeys {
                path,
                routes,
                secret,
                secrets,
                headers,
                echo,
                aliases,
                sources,
                start_from,
                sync,
                critical,
                url: _,
            } = own;
            let routes: Vec<Selector> = routes.into_iter().map(|RouteKey(route)| route).collect();
            if let Some(kind) = sync.as_ref().and_then(|sync| sync.unrouted(&routes)) {
                let reason = format!("types: {kind:?}: no route of the service has all of {:?}", kind.change_name());
                return Err(error_at(&layers.origins, name, "sync", reason));
            }
            let secrets = [secret].into_iter().filter(|secret| !secret.is_empty()).chain(secrets).collect();
            let name = name.to_owned();
            Ok(ServiceConfig {
                name,
                url,
                path,
                routes,
                secrets,
                headers,
                echo,
                aliases,
                sources,
                start_from,
                sync,
                critical,
                options,
            })
        })
        .collect()
}

/// The keys of one service, over the defaults of its own keys and of `[delivery]`.
fn keys(layers: &Layers, name: &str, table: &Table) -> Result<(OwnKeys, DeliveryConfig), ConfigError> {
    let mut own = service_defaults();
    own.remove("name");
    let mut options = layers.values.get("delivery").and_then(Value::as_table).cloned().unwrap_or_default();
    for (key, value) in table {
        let target = if own.contains_key(key) { &mut own } else { &mut options };
        target.insert(key.clone(), value.clone());
    }
    Ok((read(layers, name, own)?, read(layers, name, options)?))
}

fn read<T: DeserializeOwned>(layers: &Layers, name: &str, table: Table) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let reason = error.inner().message().trim().replace('\n', ", ");
        error_at(&layers.origins, name, &error.path().to_string(), reason)
    })
}

/// Who set `key` for this service, if anybody did.
fn set_by<'a>(origins: &'a Origins, service: &str, key: &str) -> Option<&'a Origin> {
    let key = key.split(['.', '[']).next().unwrap_or_default();
    origins.get(&format!("services.{service}.{key}"))
}

fn table(value: &impl Serialize) -> Table {
    Table::try_from(value).expect("invariant: a configuration is representable as TOML")
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked_path(String::deserialize(from)?).map_err(D::Error::custom)
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
    let secret = Secret::deserialize(from)?;
    if !secret.is_empty() {
        SigningKey::parse(secret.expose()).map_err(D::Error::custom)?;
    }
    Ok(secret)
}

/// The reasons never repeat a secret.
fn secrets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Secret>, D::Error> {
    let secrets = Vec::<Secret>::deserialize(from).map_err(|_| D::Error::custom("must be a list of texts"))?;
    secrets.iter().try_for_each(|s| SigningKey::parse(s.expose()).map(drop)).map_err(D::Error::custom)?;
    Ok(secrets)
}

/// The reasons never repeat a value.
fn headers<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let given =
        BTreeMap::<String, Secret>::deserialize(from).map_err(|_| D::Error::custom("must have texts as values"))?;
    let mut headers = BTreeMap::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        check_header(&lower, value.expose()).map_err(|reason| D::Error::custom(format!("{name:?} {reason}")))?;
        if headers.insert(lower, value).is_some() {
            return Err(D::Error::custom(format!("{name:?} is given twice")));
        }
    }
    Ok(headers)
}

fn check_header(name: &str, value: &str) -> Result<(), &'static str> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err("is not the name of a header");
    }
    if RESERVED_HEADERS.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Err("is set by the Event Handler itself");
    }
    if !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err("must have a value of visible ASCII");
    }
    Ok(())
}

impl Serialize for StartFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Now => serializer.serialize_str("now"),
            Self::Earliest => serializer.serialize_str("earliest"),
            Self::Id(id) => serializer.collect_str(id),
        }
    }
}

impl<'de> Deserialize<'de> for StartFrom {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.trim() {
            "now" => Ok(Self::Now),
            "earliest" => Ok(Self::Earliest),
            id => id.parse().ok().filter(|id| *id > 0).map(Self::Id).ok_or_else(|| {
                D::Error::custom(format!("must be \"now\", \"earliest\" or the id of an event, not {text:?}"))
            }),
        }
    }
}
