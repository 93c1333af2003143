//! Fault injection: points at which tests make the program fail. Without the feature `fault-injection` none of them
//! ever does.

/// A point between an ack, or the end of an attempt, and the answer that it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// The mailbox of persistence is full.
    MailboxFull,
    /// Persistence panics with the write in its hands, before the transaction.
    WriterDiesBefore,
    /// Another process locks the store for longer than the timeout, so the transaction does not begin.
    StoreLocked,
    /// The transaction is rolled back, as after a timeout.
    TransactionAborted,
    /// The transaction is committed, but the connection breaks before the answer.
    CommitUnconfirmed,
    /// Persistence panics after the transaction, before it answers.
    WriterDiesAfter,
    /// The store has another fencing epoch of the consumer.
    EpochRefused,
    /// Another process seems to have the lease of the consumer.
    LeaseRefused,
    /// The actor of the consumers panics before it stores anything.
    ConsumersDieBefore,
    /// The actor of the consumers panics after it has stored, before anybody is told.
    ConsumersDieAfter,
    /// The process stops, as by SIGSTOP, before a transaction of a holder.
    StopsBefore,
    /// The process stops within a transaction, after its writes: other nodes wait for its lock.
    StopsWithin,
    /// The process is killed before the orchestrator commits what was decided on instances.
    SagaKilledBefore,
    /// The process is killed after such a commit.
    SagaKilledAfter,
    /// The process is killed when a call is marked as begun, before it is sent.
    CallKilledBefore,
    /// The process is killed when a call was answered, before that is stored.
    CallKilledAfter,
    /// The supervisor takes no message any more once it was asked whether it does.
    SupervisorHangs,
}

impl FaultPoint {
    /// All points.
    pub const ALL: [Self; 17] = [
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
        Self::StopsBefore,
        Self::StopsWithin,
        Self::SagaKilledBefore,
        Self::SagaKilledAfter,
        Self::CallKilledBefore,
        Self::CallKilledAfter,
        Self::SupervisorHangs,
    ];

    /// The name of the point in requests of tests.
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
            Self::StopsBefore => "stops_before",
            Self::StopsWithin => "stops_within",
            Self::SagaKilledBefore => "saga_killed_before",
            Self::SagaKilledAfter => "saga_killed_after",
            Self::CallKilledBefore => "call_killed_before",
            Self::CallKilledAfter => "call_killed_after",
            Self::SupervisorHangs => "supervisor_hangs",
        }
    }
}

/// Whether to fail here and now.
#[cfg(not(feature = "fault-injection"))]
pub const fn strikes(_: FaultPoint) -> bool {
    false
}

/// Stops the whole process here if that is due, until it is sent SIGCONT.
#[cfg(not(feature = "fault-injection"))]
pub const fn stop_at(_: FaultPoint) {}

/// Kills the whole process here if that is due.
#[cfg(not(feature = "fault-injection"))]
pub const fn kill_at(_: FaultPoint) {}

#[cfg(feature = "fault-injection")]
pub use armed::{arm, hits, kill_at, stop_at, strikes};

#[cfg(feature = "fault-injection")]
mod armed {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::FaultPoint;

    static LEFT: [AtomicU64; FaultPoint::ALL.len()] = [const { AtomicU64::new(0) }; FaultPoint::ALL.len()];
    static HITS: [AtomicU64; FaultPoint::ALL.len()] = [const { AtomicU64::new(0) }; FaultPoint::ALL.len()];

    /// How often a point is still passed before it strikes.
    static PASSES: [AtomicU64; FaultPoint::ALL.len()] = [const { AtomicU64::new(0) }; FaultPoint::ALL.len()];

    /// Makes the program fail at `point` this many times, once it has passed it so often.
    pub fn arm(point: FaultPoint, times: u64, passes: u64) {
        PASSES[point as usize].store(passes, SeqCst);
        LEFT[point as usize].store(times, SeqCst);
    }

    /// How often it has failed at `point`.
    pub fn hits(point: FaultPoint) -> u64 {
        HITS[point as usize].load(SeqCst)
    }

    /// Whether to fail here and now. Each true answer uses up one of the armed times.
    pub fn strikes(point: FaultPoint) -> bool {
        if LEFT[point as usize].load(SeqCst) > 0 {
            let passes = PASSES[point as usize].fetch_update(SeqCst, SeqCst, |passes| passes.checked_sub(1));
            if passes.is_ok() {
                return false;
            }
        }
        let left = LEFT[point as usize].fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        let is_struck = left.is_ok();
        HITS[point as usize].fetch_add(u64::from(is_struck), SeqCst);
        is_struck
    }

    /// Kills the whole process here if that is due.
    pub fn kill_at(point: FaultPoint) {
        if strikes(point) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }

    /// Stops the whole process here if that is due, until it is sent SIGCONT.
    pub fn stop_at(point: FaultPoint) {
        if strikes(point) {
            // It fails only for other processes.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            // Another thread may be the one that takes the signal: this one goes no further meanwhile.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}
