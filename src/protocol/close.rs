//! WebSocket close codes: one table of code, reason, and what the client should do.
//!
//! 4000–4099 do not reconnect, 4100–4199 reconnect with backoff, 4200–4299 reconnect at once with jitter.

/// Why a connection is closed by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    Normal,
    GoingAway,
    ProtocolError,
    InvalidText,
    TooBig,
    Policy,
    SlowConsumer,
    NoPong,
    SessionFailed,
    Draining,
    ActorRestarted,
}

impl CloseReason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Self; 11] = [
        Self::Normal,
        Self::GoingAway,
        Self::ProtocolError,
        Self::InvalidText,
        Self::TooBig,
        Self::Policy,
        Self::SlowConsumer,
        Self::NoPong,
        Self::SessionFailed,
        Self::Draining,
        Self::ActorRestarted,
    ];

    /// The code in the close frame.
    pub fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::ProtocolError => 1002,
            Self::InvalidText => 1007,
            Self::TooBig => 1009,
            Self::Policy => 4008,
            Self::SlowConsumer => 4101,
            Self::NoPong => 4102,
            Self::SessionFailed => 4103,
            Self::Draining => 4200,
            Self::ActorRestarted => 4201,
        }
    }

    /// The reason in the close frame.
    pub fn text(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::GoingAway => "going away",
            Self::ProtocolError => "protocol error",
            Self::InvalidText => "text is not valid utf-8",
            Self::TooBig => "message too big",
            Self::Policy => "policy violation",
            Self::SlowConsumer => "slow consumer",
            Self::NoPong => "no sign of life",
            Self::SessionFailed => "session failed",
            Self::Draining => "draining",
            Self::ActorRestarted => "restarted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented() {
        let protocol = include_str!("../../docs/protocol.md");
        for reason in CloseReason::ALL {
            let row = format!("| {} | {} | ", reason.code(), reason.text());
            assert!(protocol.contains(&row), "docs/protocol.md misses a row that begins with\n{row}");
        }
        let is_row = |line: &&str| line.strip_prefix("| ").is_some_and(|l| l.starts_with(|c: char| c.is_ascii_digit()));
        assert_eq!(protocol.lines().filter(is_row).count(), CloseReason::ALL.len(), "rows for codes that are gone");
    }
}
