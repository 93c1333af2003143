//! The wire types: what goes over HTTP and WebSocket, and how it is spelled.

pub mod close;
pub mod error;
pub mod event_json;
pub mod frame;
pub mod log_batch;
pub mod publish;
pub mod raw_object;
pub mod request;
