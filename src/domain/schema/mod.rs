//! Schemas of payloads.

pub mod compat;
pub mod keywords;
