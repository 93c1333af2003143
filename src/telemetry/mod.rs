//! Logs, metrics and health of the program, and fault injection for tests.

pub mod bus_health;
pub mod faults;
pub mod figures;
pub mod health;
pub mod last_error;
pub mod logging;
pub mod metrics;
#[cfg(target_os = "linux")]
mod process;
pub mod replica_health;
mod saga_metrics;
pub mod service_metrics;
pub mod sync_metrics;
pub mod tracer;
