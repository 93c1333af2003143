//! Schemas of payloads.

pub mod compat;
