//! The section `[catalogue]`, and the event types in the files of `catalogue.dir`.
//!
//! What each key means is said once, in `config/default.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{ConfigError, Origin};
use super::layers::Layers;
use crate::domain::catalogue::Unknown;
use crate::domain::catalogue::change::Put;
use crate::protocol::error::ApiError;
use crate::protocol::event_type::{MAX_BYTES, parse_put};

const DIR: &str = "catalogue.dir";
/// Its default, which need not exist.
const DEFAULT_DIR: &str = "event-types";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueConfig {
    /// As it was written: relative to the configuration file. Empty is none.
    pub dir: String,
    pub unknown: UnknownTypes,
}

/// What is done about events for which there is no type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownTypes {
    Allow,
    Observe,
    Reject,
}

impl From<UnknownTypes> for Unknown {
    fn from(unknown: UnknownTypes) -> Self {
        match unknown {
            UnknownTypes::Allow => Self::Allow,
            UnknownTypes::Observe => Self::Observe,
            UnknownTypes::Reject => Self::Reject,
        }
    }
}

/// An event type as a file has it.
#[derive(Debug, Clone)]
pub struct TypeFile {
    pub put: Put,
    /// What tells the content from others, in hex digits.
    pub digest: String,
    path: PathBuf,
}

impl TypeFile {
    /// Reads a file; with its text.
    pub fn read(path: &Path) -> Result<(Self, Vec<u8>), ConfigError> {
        let unusable = |reason: String| ConfigError::of_file(path, reason);
        let length = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
        if length > MAX_BYTES as u64 {
            return Err(unusable(format!("has {length} bytes, more than {MAX_BYTES}")));
        }
        let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let digest = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        let put = parse_put(&text, None).map_err(|error| Self::error_in(path, &error))?;
        Ok((Self { put, digest, path: path.to_owned() }, text))
    }

    /// The error for a type that cannot be put.
    pub fn error(&self, error: &ApiError) -> ConfigError {
        Self::error_in(&self.path, error)
    }

    fn error_in(path: &Path, error: &ApiError) -> ConfigError {
        let of = |name: &str| error.details().get(name).and_then(|field| field.as_str());
        let reasons = error.details().get("reasons").and_then(|reasons| reasons.get(0));
        let place = reasons.and_then(|reason| Some(format!("schema{}", reason.get("path")?.as_str()?)));
        match place.or_else(|| of("field").map(str::to_owned)) {
            Some(place) => {
                // The message of a field begins with it.
                let message = error.message();
                let reason = message.strip_prefix(&*place).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message);
                ConfigError::of_key(Origin::File(path.into()), place, reason)
            }
            None => ConfigError::of_file(path, error.message()),
        }
    }
}

/// The types of the files in `dir`, in the order of the files' names.
pub(super) fn resolve(layers: &Layers, dir: &str) -> Result<Vec<TypeFile>, ConfigError> {
    let paths = layers.files_in((DIR, dir), DEFAULT_DIR, "json")?;
    let files = paths.iter().map(|path| Ok(TypeFile::read(path)?.0)).collect::<Result<Vec<_>, ConfigError>>()?;
    let mut names = BTreeMap::new();
    for file in &files {
        if let Some(other) = names.insert(&file.put.name, &file.path) {
            let reason = format!("{:?} is the type of {} too", file.put.name.as_str(), other.display());
            return Err(ConfigError::of_key(Origin::File(file.path.clone()), "name", reason));
        }
    }
    Ok(files)
}
