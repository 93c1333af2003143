//! The section `[orchestration]`, and the sagas: `[[sagas]]` of the configuration and of the files in
//! `orchestration.dir`, each checked by itself and all of them together.
//!
//! What each key means is said once, in `config/default.toml`.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::error::{ConfigError, Origin};
use super::layers::{Layers, SAGAS};
use super::routes::json;
use super::units::{DAY, SECOND, Span, span, whole};
use crate::domain::saga::{Definition, endless};

/// Longest file, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Most sagas, each version counted.
const MAX_SAGAS: usize = 1000;
const DIR: &str = "orchestration.dir";
/// Its default, which need not exist: also a copy of the defaults is to start.
const DEFAULT_DIR: &str = "sagas";

/// What holds for all sagas.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrchestrationConfig {
    /// As it was written: relative to the configuration file. Empty is none.
    pub dir: String,
    #[serde(deserialize_with = "whole::<1, 100_000_000, _, _>")]
    pub max_instances: u64,
    #[serde(deserialize_with = "span::<SECOND, {3650 * DAY}, _>")]
    pub keep: Span,
    #[serde(deserialize_with = "whole::<1, 1000, _, _>")]
    pub compensation_attempts: u32,
    #[serde(deserialize_with = "span::<0, {30 * DAY}, _>")]
    pub hold_retention: Span,
}

/// A saga of one version, as it is configured.
#[derive(Debug, Clone)]
pub struct DeclaredDefinition {
    pub definition: Arc<Definition>,
    /// Its JSON. Equal definitions have one text.
    pub text: String,
    origin: Origin,
    /// Where in that, such as `sagas[2]`.
    place: String,
}

impl DeclaredDefinition {
    /// The error for a version that turned out unusable only after loading: the store has another content for it.
    pub fn error(&self, reason: impl Into<String>) -> ConfigError {
        self.wrong("version", reason)
    }

    fn wrong(&self, field: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::of_key(self.origin.clone(), format!("{}.{field}", self.place), reason)
    }

    /// A line of TOML that says that there is this one, and where.
    pub(super) fn to_comment(&self) -> String {
        let (Definition { name, version, .. }, origin) = (&*self.definition, self.origin.to_string());
        format!("# saga {name:?}, version {version}: {}", origin.escape_default())
    }
}

/// Reads the sagas of a file. `is_service` tells which services there are.
pub fn read_sagas(path: &Path, is_service: impl Fn(&str) -> bool) -> Result<Vec<Definition>, ConfigError> {
    let mut reading = Reading { is_service, read: Vec::new() };
    reading.add_file(path)?;
    let read = reading.together()?;
    Ok(read.into_iter().map(|declared| Arc::unwrap_or_clone(declared.definition)).collect())
}

/// The sagas of the configuration file, and of those in `dir`, in the order of their names.
pub(super) fn resolve(
    layers: &Layers,
    dir: &str,
    is_service: impl Fn(&str) -> bool,
) -> Result<Vec<DeclaredDefinition>, ConfigError> {
    let mut reading = Reading { is_service, read: Vec::new() };
    if let Some((origin, sagas)) = &layers.sagas {
        reading.add(origin, sagas)?;
    }
    for path in layers.files_in((DIR, dir), DEFAULT_DIR, "toml")? {
        reading.add_file(&path)?;
    }
    reading.together()
}

/// What was read so far.
struct Reading<S> {
    is_service: S,
    read: Vec<DeclaredDefinition>,
}

impl<S: Fn(&str) -> bool> Reading<S> {
    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unusable = |reason: String| ConfigError::of_file(path, reason);
        let length = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
        if length > MAX_BYTES {
            return Err(unusable(format!("has {length} bytes, more than {MAX_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let mut table: Table = toml::from_str(&text).map_err(|error| unusable(error.to_string()))?;
        let sagas = table.remove(SAGAS).unwrap_or(Value::Array(Vec::new()));
        if let Some(key) = table.keys().next() {
            return Err(ConfigError::of_key(Origin::File(path.into()), key, "is unknown: the file has [[sagas]] only"));
        }
        self.add(&Origin::File(path.into()), &sagas)
    }

    fn add(&mut self, origin: &Origin, sagas: &Value) -> Result<(), ConfigError> {
        let unusable = |reason: String| ConfigError::of_key(origin.clone(), SAGAS, reason);
        let Value::Array(sagas) = sagas else { return Err(unusable("must be tables: [[sagas]]".to_owned())) };
        for (at, saga) in sagas.iter().enumerate() {
            let place = format!("{SAGAS}[{at}]");
            // The members of an object are sorted, so that equal definitions have one text.
            let text = json(saga, &place).map_err(unusable)?.to_string();
            let definition = Definition::parse(&text, &self.is_service).map_err(|error| {
                ConfigError::of_key(origin.clone(), format!("{place}.{}", error.field), error.reason)
            })?;
            let declared = DeclaredDefinition { definition: Arc::new(definition), text, origin: origin.clone(), place };
            let Definition { name, version, .. } = &*declared.definition;
            let is_same =
                |other: &&DeclaredDefinition| (&other.definition.name, other.definition.version) == (name, *version);
            if let Some(other) = self.read.iter().find(is_same) {
                let reason =
                    format!("{version} of saga {name:?} is there already: {} of {}", other.place, other.origin);
                return Err(declared.wrong("version", reason));
            }
            if self.read.len() == MAX_SAGAS {
                return Err(declared.wrong("name", format!("there are more than {MAX_SAGAS} sagas")));
            }
            self.read.push(declared);
        }
        Ok(())
    }

    /// All of them, unless they would begin each other for ever.
    fn together(self) -> Result<Vec<DeclaredDefinition>, ConfigError> {
        let definitions: Vec<&Definition> = self.read.iter().map(|declared| &*declared.definition).collect();
        match endless(&definitions) {
            Some((at, reason)) => Err(self.read[at].wrong("trigger.event", reason)),
            None => Ok(self.read),
        }
    }
}
