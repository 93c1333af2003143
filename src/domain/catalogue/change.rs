//! Decides on changes of types.

use super::{EventType, Settings};
use crate::domain::entity::Precondition;
use crate::domain::pattern::Pattern;
use crate::domain::schema::compat::{Comparison, Compatibility, compare_texts, is_same};

/// What a type is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    pub name: Pattern,
    /// The one that is to be the newest before, if the sender says it.
    pub version: Option<u32>,
    /// What the newest version has to be before, or that there is to be none.
    pub condition: Precondition,
    /// The JSON text of the schema.
    pub schema: String,
    pub settings: Settings,
}

/// What becomes of a type.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub version: u32,
    /// The schema has changed, or there was none.
    pub is_new_version: bool,
    /// There was no such type.
    pub is_new: bool,
    /// Whether there is anything to store.
    pub changes: bool,
}

/// Why a type is not put.
#[derive(Debug, Clone, PartialEq)]
pub enum Refused {
    /// Another version was expected: the newest one, or the one that a type gets which is not there (`current` is none).
    Version {
        current: Option<u32>,
        expected: u32,
    },
    /// A condition is not met by the newest version; none: there is no such type.
    Condition(Option<u32>),
    Incompatible(Comparison),
}

impl EventType {
    /// What is said of it, unless it was deleted.
    pub fn live(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }
}

/// The comparison of a new schema with the stored one, as the stored type wants it. A type that was deleted has none.
pub fn comparison(put: &Put, stored: Option<&EventType>) -> Comparison {
    let Some((stored, settings)) = stored.and_then(|stored| Some((stored, stored.live()?))) else {
        return Comparison::default();
    };
    compare_texts(&stored.schema, &put.schema, settings.compatibility)
}

/// The reasons that count for the stored type.
pub fn reasons_that_count(comparison: &Comparison, stored: Option<&EventType>) -> usize {
    let is_strict = stored.and_then(EventType::live).is_some_and(|settings| settings.strict);
    if is_strict { comparison.strict_reasons.len() } else { comparison.reasons.len() }
}

/// Checks the version that a sender has named.
pub fn check_version(put: &Put, stored: Option<&EventType>) -> Result<(), Refused> {
    let newest = stored.map_or(0, |stored| stored.version);
    let live = stored.filter(|stored| stored.settings.is_some()).map(|stored| stored.version);
    if !put.condition.is_met(live.map(i64::from)) {
        return Err(Refused::Condition(live));
    }
    // Of a type that is not there, the version that it gets is meant.
    let expected = live.unwrap_or(newest + 1);
    if put.version.is_none_or(|version| version == expected) {
        Ok(())
    } else {
        Err(Refused::Version { current: live, expected })
    }
}

/// Decides on a type that is to be put in the place of the stored one.
pub fn decide(put: &Put, stored: Option<&EventType>) -> Result<Decision, Refused> {
    check_version(put, stored)?;
    let Some((before, settings)) = stored.and_then(|stored| Some((stored, stored.live()?))) else {
        let version = stored.map_or(0, |stored| stored.version) + 1;
        return Ok(Decision { version, is_new_version: true, is_new: true, changes: true });
    };
    if is_same(&before.schema, &put.schema) {
        let changes = *settings != put.settings;
        return Ok(Decision { version: before.version, is_new_version: false, is_new: false, changes });
    }
    let comparison = comparison(put, stored);
    if reasons_that_count(&comparison, stored) > 0 {
        return Err(Refused::Incompatible(comparison));
    }
    Ok(Decision { version: before.version + 1, is_new_version: true, is_new: false, changes: true })
}

/// The names of [`Compatibility`] on the wire and in the store.
pub mod compatibility {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::Compatibility;

    pub const ALL: [Compatibility; 4] =
        [Compatibility::Backward, Compatibility::Forward, Compatibility::Full, Compatibility::None];

    pub fn name(of: Compatibility) -> &'static str {
        match of {
            Compatibility::Backward => "backward",
            Compatibility::Forward => "forward",
            Compatibility::Full => "full",
            Compatibility::None => "none",
        }
    }

    pub fn serialize<S: Serializer>(of: &Compatibility, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name(*of))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Compatibility, D::Error> {
        let text = String::deserialize(deserializer)?;
        ALL.into_iter().find(|of| name(*of) == text).ok_or_else(|| D::Error::custom("no compatibility"))
    }
}
