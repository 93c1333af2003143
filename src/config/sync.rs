//! The section `[sync]`, and the key `sync` of a service: which copies of entities services keep.
//!
//! What each key means is said once, in `config/default.toml`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};

use super::checks::checked_path;
use super::units::{DAY, HOUR, SECOND, Span, span, whole};
use crate::domain::entity::EntityType;
use crate::domain::routes::Selector;

/// Most types of one service.
const MAX_TYPES: usize = 1000;

/// What holds for all services.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncConfig {
    #[serde(deserialize_with = "span::<0, HOUR, _>")]
    pub settle: Span,
}

/// The copy of entities that a service keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSync {
    /// Where the service tells its digests. Begins with `/`, and does not end with it.
    #[serde(default = "path", deserialize_with = "base_path")]
    pub path: String,
    /// At least one, each once.
    #[serde(deserialize_with = "types", serialize_with = "names")]
    pub types: Vec<EntityType>,
    /// Time from one comparison to the next.
    #[serde(default = "every", deserialize_with = "span::<SECOND, {7 * DAY}, _>")]
    pub every: Span,
    #[serde(default)]
    pub repair: SyncRepair,
    /// Most repairs in a second.
    #[serde(default = "repair_rate", deserialize_with = "whole::<1, 100_000, _, _>")]
    pub repair_rate: u32,
}

/// What is done about differences without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncRepair {
    /// The service gets the present value of each entity that differs.
    #[default]
    PushLatest,
    /// They are told.
    AlertOnly,
}

impl ServiceSync {
    /// A type of which the service may not get all changes, as none of its routes has them without a filter.
    pub(super) fn unrouted<'a>(&'a self, routes: &[Selector]) -> Option<&'a EntityType> {
        let is_routed = |kind: &EntityType| {
            let name = kind.change_name();
            routes.iter().any(|route| route.filter.is_none() && route.event.matches(&name))
        };
        self.types.iter().find(|kind| !is_routed(kind))
    }
}

/// Reads the key of a service; an empty section is none.
pub(super) fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ServiceSync>, D::Error> {
    let table = Table::deserialize(from)?;
    if table.is_empty() {
        return Ok(None);
    }
    serde_path_to_error::deserialize(Value::Table(table)).map(Some).map_err(|error| {
        let reason = error.inner().message().trim().replace('\n', ", ");
        // Of a key that is missing, the path is that of the section.
        let key = error.path().to_string();
        D::Error::custom(if key == "." { reason } else { format!("{key}: {reason}") })
    })
}

/// Writes what [`optional`] reads.
pub(super) fn write<S: Serializer>(sync: &Option<ServiceSync>, to: S) -> Result<S::Ok, S::Error> {
    match sync {
        None => Table::new().serialize(to),
        Some(sync) => sync.serialize(to),
    }
}

fn path() -> String {
    "/sync".to_owned()
}

fn every() -> Span {
    Span::from_millis(10 * super::units::MINUTE)
}

fn repair_rate() -> u32 {
    100
}

fn base_path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let path = checked_path(String::deserialize(from)?).map_err(D::Error::custom)?;
    if path.contains('?') {
        return Err(D::Error::custom("must have no query"));
    }
    Ok(path.trim_end_matches('/').to_owned())
}

fn types<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<EntityType>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    if names.is_empty() || names.len() > MAX_TYPES {
        return Err(D::Error::custom(format!("must name 1 to {MAX_TYPES} types, not {}", names.len())));
    }
    let mut types: Vec<EntityType> = Vec::with_capacity(names.len());
    for name in names {
        let kind = EntityType::parse(name.clone()).map_err(|reason| D::Error::custom(format!("{name:?}: {reason}")))?;
        if types.contains(&kind) {
            return Err(D::Error::custom(format!("{name:?} is given twice")));
        }
        types.push(kind);
    }
    Ok(types)
}

fn names<S: Serializer>(types: &[EntityType], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(types.iter().map(EntityType::as_str))
}
