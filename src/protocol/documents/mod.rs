//! The documents that describe this API to programs: OpenAPI and AsyncAPI.
//!
//! What they say is written down in the TOML files beside this module, in the short form that [`notation`] reads.

mod notation;
mod openapi;
mod operations;

pub use self::openapi::openapi;
pub use self::operations::{OUTSIDE, Operation, operations};
