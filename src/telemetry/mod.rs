//! What the program says of itself.

pub mod faults;
pub mod health;
pub mod logging;
pub mod metrics;
#[cfg(target_os = "linux")]
mod process;
pub mod service_metrics;
