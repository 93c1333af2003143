//! The edge: HTTP and WebSocket in, messages to actors, answers out.

pub mod transport;
