//! What the program says of itself.

pub mod logging;
