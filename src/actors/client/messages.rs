//! The messages that a client takes.

use actix::prelude::Message;

use crate::storage::Claimed;

/// A command of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceCommand {
    /// Send nothing, and keep what comes.
    Pause,
    /// Send again, beginning with what was kept.
    Resume,
    /// Keep the breaker open.
    Open,
    /// Keep the breaker closed.
    Close,
    /// Close the breaker, and count anew.
    Reset,
}

impl ServiceCommand {
    pub const ALL: [Self; 5] = [Self::Pause, Self::Resume, Self::Open, Self::Close, Self::Reset];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Open => "open",
            Self::Close => "close",
            Self::Reset => "reset",
        }
    }

    /// Reads the name on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.as_str() == text)
    }
}

/// Which process applies a command of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// This process has applied it.
    Here,
    /// The process that holds the lease will apply it.
    Elsewhere,
}

/// Apply a command of an operator. The answer comes when the command is stored; it is `None` while the store does not
/// know the service.
#[derive(Debug, Message)]
#[rtype(result = "Option<Applied>")]
pub struct Operate(pub ServiceCommand);

/// Which deliveries are sent, and not known to be settled in the store?
#[derive(Debug, Message)]
#[rtype(result = "Vec<Claimed>")]
pub struct ListInFlight;

/// Read the TLS files again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReadTls;
