//! Why connections are closed: one table of WebSocket close code, reason, and what the subscriber should do.
//!
//! 4000–4099 do not reconnect, 4100–4199 reconnect with backoff, 4200–4299 reconnect at once with jitter.

use std::time::Duration;

/// Why a connection is closed by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    Normal,
    GoingAway,
    ProtocolError,
    InvalidText,
    TooBig,
    BadToken,
    Forbidden,
    Policy,
    SlowConsumer,
    BehindHistory,
    NoPong,
    SessionFailed,
    HistoryUnreadable,
    Draining,
    Rotated,
    ActorRestarted,
}

impl CloseReason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Self; 16] = [
        Self::Normal,
        Self::GoingAway,
        Self::ProtocolError,
        Self::InvalidText,
        Self::TooBig,
        Self::BadToken,
        Self::Forbidden,
        Self::Policy,
        Self::SlowConsumer,
        Self::BehindHistory,
        Self::NoPong,
        Self::SessionFailed,
        Self::HistoryUnreadable,
        Self::Draining,
        Self::Rotated,
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
            Self::BadToken => 4001,
            Self::Forbidden => 4003,
            Self::Policy => 4008,
            Self::SlowConsumer | Self::BehindHistory => 4101,
            Self::NoPong => 4102,
            Self::SessionFailed | Self::HistoryUnreadable => 4103,
            Self::Draining | Self::Rotated => 4200,
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
            Self::BadToken => "token missing, refused, expired or revoked",
            Self::Forbidden => "forbidden",
            Self::Policy => "policy violation",
            Self::SlowConsumer => "slow consumer",
            Self::BehindHistory => "fell behind the retained history",
            Self::NoPong => "no sign of life",
            Self::SessionFailed => "session failed",
            Self::HistoryUnreadable => "history cannot be read",
            Self::Draining => "draining",
            Self::Rotated => "connection is old",
            Self::ActorRestarted => "restarted",
        }
    }

    /// Whether the server ends the connection on purpose, for no fault of the subscriber, which reconnects at once.
    pub fn is_planned(self) -> bool {
        (4200..4300).contains(&self.code())
    }

    /// When to reconnect, if at all. `roll`, from 0 to 1, spreads the subscribers.
    pub fn reconnect_after(self, roll: f64) -> Option<Duration> {
        let (least, spread) = match self.code() {
            1001 | 4200..=4299 => (100.0, 900.0),
            4100..=4199 => (1_000.0, 4_000.0),
            _ => return None,
        };
        Some(Duration::from_millis((least + spread * roll) as u64))
    }
}

/// The metrics label of an ended session: few values, whatever codes subscribers send.
pub fn close_label(code: Option<u16>) -> String {
    match code {
        None => "none".to_owned(),
        Some(code) if CloseReason::ALL.iter().any(|reason| reason.code() == code) => code.to_string(),
        Some(_) => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::InboundError;

    #[test]
    fn what_the_decoder_refuses_is_closed_by_the_table() {
        let refusals = [
            (InboundError::TooBig { declared: 2, limit: 1 }, CloseReason::TooBig),
            (InboundError::TooManyFragments { limit: 1 }, CloseReason::Policy),
            (InboundError::NotUtf8, CloseReason::InvalidText),
        ];
        for (error, reason) in refusals {
            let close = error.close_frame().expect("the peer is there");
            assert_eq!((close.code, &*close.reason), (reason.code(), reason.text()));
        }
        let violation = InboundError::Violation("frame is not masked").close_frame().expect("the peer is there");
        assert_eq!(violation.code, CloseReason::ProtocolError.code());
    }

    #[test]
    fn advice_follows_the_class_of_the_code() {
        let after = |reason: CloseReason, roll| reason.reconnect_after(roll).map(|after| after.as_millis());
        assert_eq!([0.0, 1.0].map(|roll| after(CloseReason::Draining, roll)), [Some(100), Some(1_000)]);
        assert_eq!([0.0, 1.0].map(|roll| after(CloseReason::SlowConsumer, roll)), [Some(1_000), Some(5_000)]);
        assert_eq!(after(CloseReason::Policy, 0.5), None);
    }

    #[test]
    fn labels_are_few() {
        assert_eq!([None, Some(1000), Some(3000)].map(close_label), ["none", "1000", "other"]);
    }

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
