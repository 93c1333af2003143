//! Errors of the store, classified by what has to happen before it works again.

use std::fmt;

use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::protocol::error::{ApiError, ErrorCode};
use crate::telemetry::last_error::LastError;

/// SQLite's text for a page that the system failed to read or write.
const IO_ERROR: &str = "disk I/O error";

/// A failed operation. Nothing that it was to store may be acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    pub kind: StoreErrorKind,
    /// One line, free of credentials.
    pub message: String,
}

/// Why the store refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// There is no space left for the data.
    Full,
    /// The database, its file or its server refuses writes.
    ReadOnly,
    /// Another process or connection held a lock longer than the timeout.
    Locked,
    /// The stored data are damaged.
    Corrupt,
    /// There is no connection: the server is away, restarts or hangs, or the file has vanished. A commit under way may
    /// or may not have happened.
    Unavailable,
    /// The queue of waiting reads is full.
    Busy,
    /// The caller or the configuration asks for something that the store cannot do.
    Invalid,
    /// The store can never be used by this program. The process ends, because an operator has to change something.
    Unusable,
    /// Any other failure.
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

    /// What callers are told. It says nothing about the database: the backend's own message goes to the log.
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

    /// Whether the content of a request, and not the state of the store, may be the cause.
    pub(super) fn may_be_of_data(self) -> bool {
        matches!(self, Self::Invalid | Self::Internal)
    }

    /// Finds the kind by the text of the message. diesel passes on no error code of either backend, and these texts are
    /// stable.
    pub(super) fn of_message(message: &str) -> Option<Self> {
        const TEXTS: [(StoreErrorKind, &[&str]); 7] = [
            // SQLSTATE classes 22 (data exception) and 54 (program limit exceeded), and 42804 (datatype mismatch). They
            // are tested first because some of their texts quote the data.
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

    /// The error as health reports it.
    pub fn as_last_error(&self) -> LastError {
        LastError { kind: self.kind.as_str(), meaning: self.kind.meaning(), message: self.message.clone() }
    }

    /// Whether a read failed because the stored data are damaged. Such a read fails until somebody repairs the store;
    /// any other failure is temporary.
    pub fn is_damage(&self) -> bool {
        let is_lasting =
            matches!(self.kind, StoreErrorKind::Corrupt | StoreErrorKind::Internal | StoreErrorKind::Invalid);
        is_lasting || self.message.contains(IO_ERROR)
    }
}

/// The answer to a request whose read failed.
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
                // SQLSTATE class 23: integrity constraint violation.
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
