//! What is wrong with a configuration, in one line.

use std::fmt;
use std::path::PathBuf;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`, compiled in.
    BuiltIn,
    File(PathBuf),
    /// The name of an environment variable.
    Environment(String),
    /// A command-line flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in configuration"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Why the program cannot start with this configuration: one line naming where, which key, and the reason.
///
/// Never holds a secret. The program ends with exit code 78 (`EX_CONFIG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub origin: Origin,
    /// The dotted key; none when the origin as a whole is unusable.
    pub key: Option<String>,
    pub reason: String,
}

impl ConfigError {
    pub(super) fn of_key(origin: Origin, key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { origin, key: Some(key.into()), reason: reason.into() }
    }

    pub(super) fn of_file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { origin: Origin::File(path.into()), key: None, reason: reason.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match &self.key {
            Some(key) => format!("{}: {key}: {}", self.origin, self.reason),
            None => format!("{}: {}", self.origin, self.reason),
        };
        // Names come from outside: whatever they hold, the line stays one line.
        line.chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

impl std::error::Error for ConfigError {}
