//! The wire types: what goes over HTTP, WebSocket and server-sent events, and how it is spelled.

pub mod batch;
pub mod close;
pub mod cloud_events;
pub mod consumer;
pub mod delivery_request;
pub mod envelope;
pub mod error;
pub mod event_json;
pub mod frame;
pub mod heard;
pub mod job_request;
pub mod log_batch;
pub mod newest;
pub mod permit;
pub mod publish;
pub mod raw_object;
pub mod relay;
pub mod request;
pub mod seal;
pub mod sse;
pub mod stream_entry;
pub mod subscription;
pub mod webhook;
pub mod wire;
