//! The databases that every promise holds on.

use std::path::Path;

use super::postgres::Postgres;

/// Where a server under test keeps its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    /// The address of a new, empty database; SQLite's is a file in `dir`.
    pub fn database_url(self, dir: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite:{}", dir.join("events.db").display()),
            Self::Postgres => Postgres::shared().url(),
        }
    }
}

/// Runs `test` on every backend in turn.
pub fn for_each_backend(test: impl Fn(Backend)) {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        eprintln!("--- on {backend:?} ---");
        test(backend);
    }
}
