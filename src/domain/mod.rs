//! Pure decisions: no clock, no I/O, no randomness of their own.
//!
//! Everything here takes what it needs as an argument and returns what is to be done,
//! so that it can be tested without a runtime.

pub mod cursor;
pub mod event;
pub mod index;
pub mod name;
pub mod pattern;
pub mod restart;
