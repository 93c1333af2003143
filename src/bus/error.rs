//! Why Redis did not do what it was asked for.

use std::fmt;
use std::io;

use redis::{ErrorKind, RedisError};

macro_rules! reasons {
    ($($variant:ident $name:literal $meaning:literal;)+) => {
        /// What kind of failure it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum BusReason {
            $(#[doc = $meaning] $variant,)+
        }

        impl BusReason {
            /// Its name in logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// In a few words, for any caller.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }
        }
    };
}

reasons! {
    Unreachable "unreachable" "cannot be reached";
    Lost "lost" "the connection was lost";
    Hanging "hanging" "does not answer";
    Tls "tls" "TLS failed";
    Unauthorized "unauthorized" "refuses the user name or password";
    Forbidden "forbidden" "the user may not do this";
    Loading "loading" "loads its data";
    ReadOnly "read_only" "is a read-only replica";
    Moved "moved" "is part of a cluster, and another server has the key";
    MasterDown "master_down" "has lost its primary";
    NoGroup "no_group" "the consumer group is gone";
    NoScript "no_script" "the script is gone";
    OutOfMemory "out_of_memory" "its memory is full";
    NotSaving "not_saving" "cannot save its data";
    NoReplicas "no_replicas" "has too few replicas";
    WrongType "wrong_type" "a key has another type";
    Busy "busy" "is busy with a script";
    Other "other" "refuses";
}

impl BusReason {
    /// Of the first word of an error.
    fn of_code(code: &str) -> Option<Self> {
        Some(match code {
            "NOAUTH" | "WRONGPASS" => Self::Unauthorized,
            "NOPERM" => Self::Forbidden,
            "LOADING" => Self::Loading,
            "READONLY" => Self::ReadOnly,
            "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "CROSSSLOT" => Self::Moved,
            "MASTERDOWN" => Self::MasterDown,
            // The second one: while it was being waited for, its stream was deleted.
            "NOGROUP" | "UNBLOCKED" => Self::NoGroup,
            "NOSCRIPT" => Self::NoScript,
            "OOM" => Self::OutOfMemory,
            "MISCONF" => Self::NotSaving,
            "NOREPLICAS" => Self::NoReplicas,
            "WRONGTYPE" => Self::WrongType,
            "BUSY" => Self::Busy,
            _ => return None,
        })
    }

    fn of(error: &RedisError) -> Self {
        if let Some(reason) = error.code().and_then(Self::of_code) {
            return reason;
        }
        match error.kind() {
            // The client makes it of any answer to AUTH, and keeps that as the detail.
            ErrorKind::AuthenticationFailed => {
                let word = error.detail().and_then(|detail| detail.split([' ', ':']).next());
                word.and_then(Self::of_code).unwrap_or(Self::Unauthorized)
            }
            ErrorKind::Io if error.is_timeout() => Self::Hanging,
            ErrorKind::Io if error.is_connection_refusal() => Self::Unreachable,
            ErrorKind::Io if error.is_connection_dropped() => Self::Lost,
            ErrorKind::Io if error.to_string().contains("certificate") => Self::Tls,
            ErrorKind::Io => Self::Unreachable,
            // Before version 7, what a script has met stands in the midst of the text.
            _ => {
                let met = error.detail().and_then(|detail| detail.split_once(" -"));
                met.and_then(|(_, met)| Self::of_code(met.split(' ').next()?)).unwrap_or(Self::Other)
            }
        }
    }
}

/// A failure of Redis, without any secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusError {
    pub reason: BusReason,
    /// The server's own words in one line, for operators only.
    pub message: String,
}

impl BusError {
    /// It did not answer in time.
    pub fn hanging() -> Self {
        Self { reason: BusReason::Hanging, message: "no answer in time".to_owned() }
    }

    /// The connection has ended.
    pub fn lost() -> Self {
        Self { reason: BusReason::Lost, message: "the connection has ended".to_owned() }
    }

    /// Somebody else writes what only one may write.
    pub fn displaced(what: &str) -> Self {
        Self { reason: BusReason::Other, message: format!("somebody else writes {what}") }
    }

    /// Keys are in use for something else.
    pub fn wrong_type(keys: u64) -> Self {
        Self { reason: BusReason::WrongType, message: format!("{keys} keys are in use for something else") }
    }

    /// It has answered something else than was asked for.
    pub fn unexpected(what: &str) -> Self {
        Self { reason: BusReason::Other, message: format!("an unexpected answer to {what}") }
    }

    /// Some servers repeat what they do not understand: `secret` is hidden.
    pub(super) fn of(error: &RedisError, secret: Option<&str>) -> Self {
        let mut message = error.to_string().replace(['\r', '\n'], " ");
        if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
            message = message.replace(secret, crate::domain::secret::REDACTED);
        }
        Self { reason: BusReason::of(error), message }
    }
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.meaning(), self.message)
    }
}

impl From<io::ErrorKind> for BusReason {
    fn from(kind: io::ErrorKind) -> Self {
        Self::of(&io::Error::from(kind).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: ErrorKind, text: &str) -> BusError {
        BusError::of(&(kind, "refused", text.to_owned()).into(), Some("s3cret"))
    }

    #[test]
    fn failures_have_their_reasons() {
        use io::ErrorKind as Io;
        for (kind, reason) in [
            (Io::ConnectionRefused, BusReason::Unreachable),
            (Io::BrokenPipe, BusReason::Lost),
            (Io::ConnectionReset, BusReason::Lost),
            (Io::UnexpectedEof, BusReason::Lost),
            (Io::TimedOut, BusReason::Hanging),
        ] {
            assert_eq!(BusReason::from(kind), reason, "{kind}");
        }
        for (code, reason) in [("OOM", BusReason::OutOfMemory), ("UNBLOCKED", BusReason::NoGroup)] {
            assert_eq!(BusReason::of_code(code), Some(reason));
        }
        let loading = of(ErrorKind::AuthenticationFailed, "LOADING Redis is loading the dataset in memory");
        assert_eq!(loading.reason, BusReason::Loading);
        let script = of(
            ErrorKind::UnexpectedReturnType,
            "Error running script (call to f_1): @user_script:16: -OOM command not allowed",
        );
        assert_eq!(script.reason, BusReason::OutOfMemory);
    }

    #[test]
    fn no_message_has_a_secret() {
        let error = of(ErrorKind::AuthenticationFailed, "ERR unknown command 'AUTH', beginning with: 's3cret'\r\n");
        assert_eq!(error.reason, BusReason::Unauthorized);
        assert!(!error.to_string().contains("s3cret") && error.to_string().contains("***"), "{error}");
        assert!(!error.message.contains('\n'), "{error}");
    }
}
