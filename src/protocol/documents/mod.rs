//! The documents that describe this API to programs: OpenAPI and AsyncAPI.
//!
//! What they say is written down in the TOML files beside this module, in the short form that [`notation`] reads.

mod asyncapi;
mod embed;
mod notation;
mod openapi;
mod operations;
mod tree;
mod types;

pub use self::asyncapi::asyncapi;
pub use self::openapi::{openapi, openapi_with};
pub use self::operations::{OUTSIDE, Operation, operations};
pub use self::types::EventType;
