//! Configuration: one immutable value, made once at start from layers.
//!
//! From lowest to highest: `config/default.toml` (compiled in; lists and explains every key), the file named by
//! `--config` or `EVENT_HANDLER_CONFIG`, variables `EVENT_HANDLER__SECTION__KEY`, short variables such as `PORT`,
//! the command line. A key that the lowest layer does not have is an error in all others.

mod access;
mod catalogue;
mod checks;
mod delivery;
mod error;
mod layers;
pub mod reference;
mod routes;
mod sagas;
mod secret;
mod sections;
mod services;
mod sync;
mod tracing;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Value;

pub use self::access::{AccessConfig, JwtConfig, LimitsConfig, ScopesConfig, TokenConfig, TokenHash};
pub use self::catalogue::{CatalogueConfig, TypeFile, UnknownTypes};
pub use self::checks::{check_admin_token, check_token_name, is_weak_admin_token};
pub use self::delivery::{BreakerWindow, DeliveryConfig};
pub use self::error::{ConfigError, Origin};
use self::layers::{Layers, Origins, origin_of};
pub use self::sagas::{DeclaredDefinition, OrchestrationConfig, read_sagas};
pub use self::secret::{DatabaseUrl, SecretUrl};
pub use self::sections::{
    AdminConfig, ConsumersConfig, Durability, IngestConfig, LogConfig, LogFormat, MirrorConfig, NodeConfig,
    ProxyHeader, PubSubConfig, PublishConfig, RedisConfig, RetentionConfig, ServerConfig, ServiceUrls, StateConfig,
    StoreConfig, SubscribeConfig, SupervisionConfig, SystemConfig, UnknownFields,
};
pub use self::services::{ServiceConfig, StartFrom};
pub use self::sync::{ServiceSync, SyncConfig, SyncRepair};
pub use self::tracing::TracingConfig;
pub use self::units::{Size, Span};

/// Names the configuration file when `--config` does not; empty counts as unset.
pub const FILE_VARIABLE: &str = "EVENT_HANDLER_CONFIG";

/// The effective configuration. Every value is within its range.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub environment: String,
    pub node: NodeConfig,
    pub server: ServerConfig,
    pub store: StoreConfig,
    pub publish: PublishConfig,
    pub subscribe: SubscribeConfig,
    pub consumers: ConsumersConfig,
    pub retention: RetentionConfig,
    pub state: StateConfig,
    pub sync: SyncConfig,
    pub orchestration: OrchestrationConfig,
    pub system: SystemConfig,
    pub catalogue: CatalogueConfig,
    pub log: LogConfig,
    pub admin: AdminConfig,
    pub access: AccessConfig,
    pub limits: LimitsConfig,
    pub supervision: SupervisionConfig,
    pub delivery: DeliveryConfig,
    pub redis: RedisConfig,
    pub tracing: TracingConfig,
    pub service_urls: ServiceUrls,
    /// The services that events are delivered to; names are unique.
    #[serde(skip)]
    pub services: Vec<ServiceConfig>,
    /// The sagas that begin new instances; no version of one is there twice.
    #[serde(skip)]
    pub sagas: Vec<DeclaredDefinition>,
    /// The event types of files; no two have one name.
    #[serde(skip)]
    pub event_types: Vec<TypeFile>,
    #[serde(skip)]
    origins: Origins,
}

/// What the command line sets.
#[derive(Debug, Clone, Default)]
pub struct LoadArgs {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Flags, each with the dotted key it sets and the value; the later ones win.
    pub overrides: Vec<(&'static str, String, String)>,
}

/// The environment of the process. What is not UTF-8 is replaced, not skipped, so that it is refused where it matters.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

impl Config {
    /// Lays all layers on top of each other and checks the result.
    pub fn load(args: LoadArgs, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let mut layers = Layers::built_in();
        let named = environment.get(FILE_VARIABLE).filter(|path| !path.trim().is_empty());
        if let Some(path) = args.file.or_else(|| named.map(PathBuf::from)) {
            layers.add_file(&path)?;
        }
        layers.add_environment(&environment)?;
        for (flag, key, text) in &args.overrides {
            layers.add_override(flag, key, text)?;
        }
        Self::from_layers(layers)
    }

    /// Whether this is a production deployment.
    pub fn is_production(&self) -> bool {
        self.environment.trim().eq_ignore_ascii_case("production")
    }

    /// The error for a value that turned out unusable only after loading (`store.url` that names no known database).
    pub fn error_at(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::of_key(origin_of(&self.origins, key), key, reason)
    }

    /// The error for an option of a service that turned out unusable only after loading (`tls_ca_file`): it names the
    /// service if the option was set for it, else `[delivery]`.
    pub fn service_error_at(&self, service: &str, key: &str, reason: impl Into<String>) -> ConfigError {
        services::error_at(&self.origins, service, key, reason)
    }

    /// The keys whose values differ from those of `other`; of services, `services.NAME`, and of sagas, `sagas.NAME`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let values =
            |config: &Self| Value::try_from(config).expect("invariant: a configuration is representable as TOML");
        let at = |value: &Value, path: &str| path.split('.').try_fold(value, |value, name| value.get(name)).cloned();
        let (old, new) = (values(self), values(other));
        let keys = reference::sections().into_iter().flat_map(|section| section.keys).map(|key| key.path);
        // The password is not shown, so a changed one is not visible in the values.
        let differs = |path: &String| {
            at(&old, path) != at(&new, path)
                || path == "store.url" && self.store.url != other.store.url
                || path == "store.read_url" && self.store.read_url != other.store.read_url
        };
        let names = |config: &Self| config.services.iter().map(|service| service.name.clone()).collect::<BTreeSet<_>>();
        let find = |config: &'_ Self, name: &str| config.services.iter().find(|service| service.name == name).cloned();
        let is_same =
            |name: &String| find(self, name).zip(find(other, name)).is_some_and(|(old, new)| old.is_same(&new));
        let services = names(self)
            .union(&names(other))
            .filter(|name| !is_same(name))
            .map(|name| format!("services.{name}"))
            .collect::<Vec<_>>();
        let sagas = |config: &Self| {
            let one = |saga: &DeclaredDefinition| (format!("sagas.{}", saga.definition.name), saga.text.clone());
            config.sagas.iter().map(one).collect::<BTreeSet<_>>()
        };
        let sagas: BTreeSet<_> =
            sagas(self).symmetric_difference(&sagas(other)).map(|(name, _)| name.clone()).collect();
        keys.filter(differs).chain(services).chain(sagas).collect()
    }

    /// The effective configuration as TOML, secrets replaced by `***`, with a comment where a value is not built in.
    pub fn to_toml_redacted(&self) -> String {
        let values = Value::try_from(self).expect("invariant: a configuration is representable as TOML");
        let mut text = String::new();
        for section in reference::sections() {
            // Writing to a string cannot fail.
            if !section.name.is_empty() {
                let _ = writeln!(text, "\n[{}]", section.name);
            }
            for key in section.keys {
                // A value of none is not serialized; the default is the text that means none.
                let value = key.path.split('.').try_fold(&values, |value, name| value.get(name));
                let value = value.map_or_else(|| key.default.to_owned(), Value::to_string);
                let _ = match origin_of(&self.origins, &key.path) {
                    Origin::BuiltIn => writeln!(text, "{} = {value}", key.name),
                    origin => writeln!(text, "{} = {value} # {}", key.name, origin.to_string().escape_default()),
                };
            }
        }
        for service in &self.services {
            text.push_str(&service.to_toml_redacted(&self.origins));
        }
        for saga in &self.sagas {
            let _ = write!(text, "\n{}", saga.to_comment());
        }
        text
    }

    fn from_layers(mut layers: Layers) -> Result<Self, ConfigError> {
        let config: Result<Self, _> = serde_path_to_error::deserialize(Value::Table(layers.values.clone()));
        let mut config = config.map_err(|error| {
            let key = error.path().to_string();
            ConfigError::of_key(layers.origin(&key), key, error.inner().message().trim().replace('\n', ", "))
        })?;
        config.services = services::resolve(&mut layers, &config.service_urls)?;
        let is_service = |name: &str| config.services.iter().any(|service| service.name == name);
        config.sagas = sagas::resolve(&layers, &config.orchestration.dir, is_service)?;
        config.event_types = catalogue::resolve(&layers, &config.catalogue.dir)?;
        config.origins = layers.origins;
        config.check()?;
        Ok(config)
    }

    /// Checks that no keys contradict each other.
    fn check(&self) -> Result<(), ConfigError> {
        let Self { publish, subscribe, supervision, .. } = self;
        self.at_most(("publish.max_batch", publish.max_batch), ("publish.backlog_events", publish.backlog_events))?;
        self.at_most(
            ("publish.max_batch_body", publish.max_batch_body),
            ("publish.backlog_bytes", publish.backlog_bytes),
        )?;
        self.at_most(
            ("subscribe.queue_per_connection", subscribe.queue_per_connection),
            ("subscribe.queue_total", subscribe.queue_total),
        )?;
        self.at_most(
            ("supervision.backoff", supervision.backoff),
            ("supervision.backoff_cap", supervision.backoff_cap),
        )?;
        self.less_than(
            ("subscribe.ping_interval", subscribe.ping_interval),
            ("subscribe.idle_timeout", subscribe.idle_timeout),
        )?;
        self.delivery.check().map_err(|keys| {
            let [small, large] = keys.map(|(key, reason)| (format!("delivery.{key}"), reason));
            let (key, reason) = if origin_of(&self.origins, &small.0) == Origin::BuiltIn { large } else { small };
            self.error_at(&key, reason)
        })?;
        self.services.iter().try_for_each(|service| {
            // Of two keys that both come from `[delivery]`, the contradiction was found there.
            service.options.check().map_err(|keys| services::contradiction(&self.origins, &service.name, keys))
        })
    }

    fn at_most<T: PartialOrd + Display>(&self, small: (&str, T), large: (&str, T)) -> Result<(), ConfigError> {
        if small.1 <= large.1 { Ok(()) } else { Err(self.out_of_order(small, large, ["at most", "at least"])) }
    }

    fn less_than<T: PartialOrd + Display>(&self, small: (&str, T), large: (&str, T)) -> Result<(), ConfigError> {
        if small.1 < large.1 { Ok(()) } else { Err(self.out_of_order(small, large, ["less than", "more than"])) }
    }

    /// The error names the key that was set; if both were, the one that should be smaller.
    fn out_of_order<T: Display>(
        &self,
        (small_key, small): (&str, T),
        (large_key, large): (&str, T),
        [below, above]: [&str; 2],
    ) -> ConfigError {
        match origin_of(&self.origins, small_key) {
            Origin::BuiltIn => self.error_at(large_key, format!("must be {above} {small_key} ({small}), not {large}")),
            _ => self.error_at(small_key, format!("must be {below} {large_key} ({large}), not {small}")),
        }
    }
}

/// The built-in configuration.
impl Default for Config {
    fn default() -> Self {
        Self::from_layers(Layers::built_in()).expect("invariant: config/default.toml is valid, as its test shows")
    }
}

#[cfg(test)]
mod tests;
