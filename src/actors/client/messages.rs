//! What a client takes.

use actix::prelude::Message;

use crate::storage::Claimed;

/// What an operator wants of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceCommand {
    /// Send nothing; keep what comes.
    Pause,
    /// Send again, beginning with what was kept.
    Resume,
    /// Keep the breaker open.
    Open,
    /// Keep the breaker closed.
    Close,
    /// Let the breaker begin anew, closed.
    Reset,
}

impl ServiceCommand {
    /// All commands.
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

/// Who applies what an operator has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// This process has applied it.
    Here,
    /// The process that delivers to the service will apply it.
    Elsewhere,
}

/// Apply what an operator says; answers once that is stored. None before the store knows the service.
#[derive(Debug, Message)]
#[rtype(result = "Option<Applied>")]
pub struct Operate(pub ServiceCommand);

/// Which deliveries are under way: sent, and not known to be settled in the store?
#[derive(Debug, Message)]
#[rtype(result = "Vec<Claimed>")]
pub struct ListInFlight;

/// Read the files for TLS again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReadTls;
