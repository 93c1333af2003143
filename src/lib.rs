//! Event Handler: the central event service between microservices.

pub mod config;
pub mod domain;
pub mod telemetry;
