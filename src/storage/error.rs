//! What can go wrong with the store, by what has to happen before it works again.

use std::fmt;

use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::protocol::error::{ApiError, ErrorCode};
use crate::telemetry::health::LastError;

/// What SQLite says of a page that the system does not give it.
const IO_ERROR: &str = "disk I/O error";

/// A failed operation. Whatever it was about to store is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    pub kind: StoreErrorKind,
    /// One line, without credentials.
    pub message: String,
}

/// Why the store refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No space left for the data.
    Full,
    /// The database, its file or its server takes no writes.
    ReadOnly,
    /// Someone else held a lock longer than the timeout.
    Locked,
    /// What is stored cannot be read.
    Corrupt,
    /// No connection: server away, restarting or hung, file vanished. A commit may or may not have happened.
    Unavailable,
    /// More reads wait than may wait.
    Busy,
    /// The caller or the configuration asks for something impossible.
    Invalid,
    /// The store is not one for this program: the process ends, an operator has to change something.
    Unusable,
    /// Anything else.
    Internal,
}

impl StoreErrorKind {
    /// The name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Locked => "locked",
            Self::Corrupt => "corrupt",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Invalid => "invalid",
            Self::Unusable => "unusable",
            Self::Internal => "internal",
        }
    }

    /// What clients are told. Names nothing of the database: its own words are for the log.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Full => "no space is left",
            Self::ReadOnly => "it takes no writes",
            Self::Locked => "somebody else has locked it",
            Self::Corrupt => "what is stored is damaged",
            Self::Unavailable => "it does not answer",
            Self::Busy => "too much is asked of it",
            Self::Invalid => "it cannot hold a text of this request",
            Self::Unusable => "it is not one for this program",
            Self::Internal => "it failed in a way that its log tells of",
        }
    }

    /// Whether what one request says may have caused it, rather than the state of the store.
    pub(super) fn may_be_of_data(self) -> bool {
        matches!(self, Self::Invalid | Self::Internal)
    }

    /// Neither backend passes its error code through diesel, so the (stable) texts decide.
    pub(super) fn of_message(message: &str) -> Option<Self> {
        const TEXTS: [(StoreErrorKind, &[&str]); 7] = [
            // Of the classes 22 (data exception), 42804 (datatype mismatch) and 54 (program limit exceeded). First: some of
            // these quote what they were given.
            (
                StoreErrorKind::Invalid,
                &[
                    "invalid byte sequence",
                    "character with byte sequence",
                    "invalid input syntax",
                    "value too long",
                    "out of range",
                    "index row size",
                    "index row requires",
                    "invalid memory alloc request size",
                    "LIKE pattern must not end",
                    "string or blob too big",
                    "datatype mismatch",
                ],
            ),
            (StoreErrorKind::Full, &["database or disk is full", "No space left on device", "Disk quota exceeded"]),
            (StoreErrorKind::ReadOnly, &["readonly database", "read-only", "Read-only file system"]),
            (StoreErrorKind::Locked, &["is locked", "lock timeout", "deadlock detected", "locking protocol"]),
            (
                StoreErrorKind::Corrupt,
                &[
                    "is malformed",
                    "malformed database",
                    "is not a database",
                    "invalid page in block",
                    "could not read block",
                ],
            ),
            (StoreErrorKind::Invalid, &["SSL support is not compiled in"]),
            (
                StoreErrorKind::Unavailable,
                &[
                    "unable to open database file",
                    IO_ERROR,
                    "no such table",
                    "does not exist",
                    "connection",
                    "the database system is",
                    "statement timeout",
                    "starting up",
                    "shutting down",
                ],
            ),
        ];
        let found = TEXTS.iter().find(|(_, texts)| texts.iter().any(|t| message.contains(t)));
        found.map(|(kind, _)| *kind)
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl StoreError {
    /// An error of `kind`; line breaks in `message` become spaces.
    pub fn new(kind: StoreErrorKind, message: impl AsRef<str>) -> Self {
        let message = message.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { kind, message }
    }

    /// As health tells of it.
    pub fn as_last_error(&self) -> LastError {
        LastError { kind: self.kind.as_str(), meaning: self.kind.meaning(), message: self.message.clone() }
    }

    /// Whether a read fails because of what is stored, and will fail until somebody mends that; otherwise the store is
    /// away, locked or busy for a while.
    pub fn is_damage(&self) -> bool {
        let is_lasting =
            matches!(self.kind, StoreErrorKind::Corrupt | StoreErrorKind::Internal | StoreErrorKind::Invalid);
        is_lasting || self.message.contains(IO_ERROR)
    }
}

/// What whoever reads is told when the store did not answer.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match error.kind {
            StoreErrorKind::Invalid => return Self::unstorable().because(error.message),
            StoreErrorKind::Busy => ErrorCode::Overloaded,
            _ => ErrorCode::StoreUnavailable,
        };
        Self::transient(code, format!("the store cannot be read: {}", error.kind.meaning())).because(error.message)
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        let kind = match &error {
            DieselError::DatabaseError(kind, info) => match kind {
                DatabaseErrorKind::ReadOnlyTransaction => StoreErrorKind::ReadOnly,
                DatabaseErrorKind::SerializationFailure => StoreErrorKind::Locked,
                DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection => {
                    StoreErrorKind::Unavailable
                }
                // Class 23, integrity constraint violation.
                DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::NotNullViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::RestrictViolation
                | DatabaseErrorKind::ExclusionViolation => StoreErrorKind::Invalid,
                _ => StoreErrorKind::of_message(info.message()).unwrap_or(StoreErrorKind::Internal),
            },
            DieselError::DeserializationError(_) => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ConnectionError> for StoreError {
    fn from(error: ConnectionError) -> Self {
        let message = match error {
            ConnectionError::BadConnection(message) => message,
            ConnectionError::CouldntSetupConfiguration(error) => return error.into(),
            other => other.to_string(),
        };
        Self::new(StoreErrorKind::of_message(&message).unwrap_or(StoreErrorKind::Unavailable), message)
    }
}
