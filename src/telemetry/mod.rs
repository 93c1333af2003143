//! What the program says of itself.

pub mod faults;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod service_metrics;
