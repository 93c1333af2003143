//! Reading again what can change while the process runs: tokens and their keys, and the level of the log.

use super::access_control;
use super::admin_entry::AdminEntry;
use crate::access::AccessControl;
use crate::actors::client::tls;
use crate::config::{Config, ConfigError};
use crate::storage::StoreUrl;
use crate::telemetry::logging;

/// Keys that are taken over while the process runs. Of the files for TLS the content is.
const RELOADED: [&str; 4] = ["access.tokens", "access.jwt.", "admin.", "log.level"];

/// By what the configuration is read again, and what it is compared with.
pub struct Reloading<'a, L> {
    pub load: L,
    /// As of the start.
    pub running: &'a Config,
    pub access: &'a AccessControl,
    pub store: &'a StoreUrl,
}

impl<L: Fn() -> Result<Config, ConfigError>> Reloading<'_, L> {
    /// Takes over what can be; whether it could. A configuration with a mistake in it changes nothing.
    pub fn reload(&self) -> bool {
        let config = match (self.load)().and_then(|config| tls::check_files(&config).map(|()| config)) {
            Ok(config) => config,
            Err(error) => return refused(&error),
        };
        let fresh = match access_control(&config) {
            Ok(fresh) => fresh,
            Err(error) => return refused(&error),
        };
        let entry = AdminEntry::open(&config, &fresh, self.store);
        self.access.replace(fresh);
        if let Some(log) = logging::handle() {
            log.set_level(&config.log.level);
        }
        let (log_level, tokens) = (config.log.level.as_str(), config.access.tokens.len());
        log::info!(log_level, tokens, required = config.access.is_required(); "tokens, their keys, tls files and log level read again");
        entry.warn();
        let waiting: Vec<_> = self.running.differences(&config).into_iter().filter(|key| !is_reloaded(key)).collect();
        if !waiting.is_empty() {
            log::warn!(keys = waiting.join(", ").as_str(); "changed, and not taken over before a restart");
        }
        true
    }
}

fn refused(error: &ConfigError) -> bool {
    log::error!(error:%; "configuration not read again, the old one stays");
    false
}

fn is_reloaded(key: &str) -> bool {
    RELOADED.iter().any(|reloaded| key.starts_with(reloaded))
}
