//! Schemas of payloads.

pub mod compat;
pub mod keywords;
mod standin;

pub use standin::{Invalid, InvalidKind, Refusal, Schema, Violation};
