//! Files of sagas: `[[sagas]]`, each checked as a whole.

use std::path::Path;

use toml::{Table, Value};

use super::error::{ConfigError, Origin};
use super::routes::json;
use crate::domain::saga::Definition;

/// Longest file, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Reads the sagas of a file. `is_service` tells which services there are.
pub fn read_sagas(path: &Path, is_service: impl Fn(&str) -> bool) -> Result<Vec<Definition>, ConfigError> {
    let unusable = |reason: String| ConfigError::of_file(path, reason);
    let length = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
    if length > MAX_BYTES {
        return Err(unusable(format!("has {length} bytes, more than {MAX_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    let mut table: Table = toml::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let sagas = table.remove("sagas").unwrap_or(Value::Array(Vec::new()));
    if let Some(key) = table.keys().next() {
        return Err(ConfigError::of_key(Origin::File(path.into()), key, "is unknown: the file has [[sagas]] only"));
    }
    let Value::Array(sagas) = sagas else { return Err(unusable("sagas must be tables: [[sagas]]".to_owned())) };
    let mut read: Vec<Definition> = Vec::with_capacity(sagas.len());
    for (at, saga) in sagas.iter().enumerate() {
        let wrong = |key: &str, reason: String| {
            ConfigError::of_key(Origin::File(path.into()), format!("sagas[{at}].{key}"), reason)
        };
        let json = json(saga, &format!("sagas[{at}]")).map_err(&unusable)?;
        let saga =
            Definition::parse(&json.to_string(), &is_service).map_err(|error| wrong(&error.field, error.reason))?;
        if read.iter().any(|other| (&other.name, other.version) == (&saga.name, saga.version)) {
            return Err(wrong("version", format!("{} of saga {:?} is there already", saga.version, saga.name)));
        }
        read.push(saga);
    }
    Ok(read)
}
