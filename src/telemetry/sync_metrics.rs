//! The metrics of how far a service agrees with the entities of a type.

use prometheus::{IntCounter, IntGauge};

use super::metrics::Metrics;
use crate::domain::sync::{Counts, Kind, SyncState};

/// How checks end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// No difference was found.
    Synced,
    Diverged,
    /// The service has not answered as it should, or the store could not be read.
    Failed,
    /// An operator, or the loss of the lease, has ended it.
    Cancelled,
}

/// How repairs of single entities end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairOutcome {
    /// The service has taken the present value.
    Delivered,
    /// What was ahead was written here anew.
    Written,
    /// The service has refused it, or could not be reached.
    Failed,
    /// It was not needed any more.
    Settled,
}

const RESULTS: [&str; 4] = ["synced", "diverged", "failed", "cancelled"];
const OUTCOMES: [&str; 4] = ["delivered", "written", "failed", "settled"];

/// See the module.
#[derive(Debug)]
pub struct SyncMetrics {
    checks: [IntCounter; RESULTS.len()],
    differences: [IntCounter; Kind::ALL.len()],
    repairs: [IntCounter; OUTCOMES.len()],
    states: [IntGauge; SyncState::ALL.len()],
}

impl Metrics {
    /// The metrics of a service and type, which are exported from now on.
    pub fn sync(&self, service: &str, kind: &str) -> SyncMetrics {
        let labels = |last: &'static str| [service, kind, last];
        SyncMetrics {
            checks: RESULTS.map(|result| self.sync_checks.with_label_values(&labels(result))),
            differences: Kind::ALL.map(|of| self.sync_differences.with_label_values(&labels(of.as_str()))),
            repairs: OUTCOMES.map(|outcome| self.sync_repairs.with_label_values(&labels(outcome))),
            states: SyncState::ALL.map(|state| self.sync_state.with_label_values(&labels(state.as_str()))),
        }
    }
}

impl SyncMetrics {
    /// Counts a check that has ended, with what it has found.
    pub fn checked(&self, result: CheckResult, found: Counts) {
        self.checks[result as usize].inc();
        for (counter, of) in self.differences.iter().zip(Kind::ALL) {
            counter.inc_by(found.of(of));
        }
    }

    /// Counts the repair of an entity.
    pub fn repaired(&self, outcome: RepairOutcome) {
        self.repairs[outcome as usize].inc();
    }

    /// Exports the present state; `None` if another node exports it.
    pub fn state(&self, state: Option<SyncState>) {
        for (gauge, known) in self.states.iter().zip(SyncState::ALL) {
            gauge.set(i64::from(Some(known) == state));
        }
    }
}
