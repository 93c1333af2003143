//! Points at which the program can be made to fail, one by one, by tests. Without the feature `fault-injection` none of
//! them ever does.

/// A point at which a save can fail: between the word of a member, or the end of an attempt, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// The writer's mailbox takes nothing.
    MailboxFull,
    /// The writer ends with the save in its hands, before the transaction.
    WriterDiesBefore,
    /// The store is locked by somebody else for too long: the transaction does not begin.
    StoreLocked,
    /// The transaction is given up before its end, as after a time-out.
    TransactionAborted,
    /// The transaction is committed, and the connection breaks before it says so.
    CommitUnconfirmed,
    /// The writer ends after the transaction, before it answers.
    WriterDiesAfter,
    /// The store has another epoch of the durable subscription.
    EpochRefused,
    /// Another process holds the durable subscription, or so it seems.
    LeaseRefused,
    /// The part that keeps durable subscriptions ends before it saves.
    ConsumersDieBefore,
    /// The same, after the save and before anybody is told.
    ConsumersDieAfter,
}

impl FaultPoint {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::MailboxFull,
        Self::WriterDiesBefore,
        Self::StoreLocked,
        Self::TransactionAborted,
        Self::CommitUnconfirmed,
        Self::WriterDiesAfter,
        Self::EpochRefused,
        Self::LeaseRefused,
        Self::ConsumersDieBefore,
        Self::ConsumersDieAfter,
    ];

    /// The name in requests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MailboxFull => "mailbox_full",
            Self::WriterDiesBefore => "writer_dies_before",
            Self::StoreLocked => "store_locked",
            Self::TransactionAborted => "transaction_aborted",
            Self::CommitUnconfirmed => "commit_unconfirmed",
            Self::WriterDiesAfter => "writer_dies_after",
            Self::EpochRefused => "epoch_refused",
            Self::LeaseRefused => "lease_refused",
            Self::ConsumersDieBefore => "durables_die_before",
            Self::ConsumersDieAfter => "durables_die_after",
        }
    }
}

/// Whether the program is to fail here, now.
#[cfg(not(feature = "fault-injection"))]
pub const fn strikes(_: FaultPoint) -> bool {
    false
}

#[cfg(feature = "fault-injection")]
pub use armed::{arm, hits, strikes};

#[cfg(feature = "fault-injection")]
mod armed {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::FaultPoint;

    static LEFT: [AtomicU64; FaultPoint::ALL.len()] = [const { AtomicU64::new(0) }; FaultPoint::ALL.len()];
    static HITS: [AtomicU64; FaultPoint::ALL.len()] = [const { AtomicU64::new(0) }; FaultPoint::ALL.len()];

    /// Has the program fail so often at `point`, from now on.
    pub fn arm(point: FaultPoint, times: u64) {
        LEFT[point as usize].store(times, SeqCst);
    }

    /// How often it has failed there.
    pub fn hits(point: FaultPoint) -> u64 {
        HITS[point as usize].load(SeqCst)
    }

    /// Whether the program is to fail here, now.
    pub fn strikes(point: FaultPoint) -> bool {
        let left = LEFT[point as usize].fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        let is_struck = left.is_ok();
        HITS[point as usize].fetch_add(u64::from(is_struck), SeqCst);
        is_struck
    }
}
