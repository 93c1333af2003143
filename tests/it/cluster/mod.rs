//! Several nodes on one PostgreSQL keep the promises of one, whatever happens to some of them.

mod checker;
mod checker_tests;
mod clients;
mod deployed;
mod dropped_packets;
pub mod harness;
mod history;
mod nodes;
mod storm;
mod take_over;
mod upgrade;

/// Whether there is time for much: `./tests/run long`.
fn is_long() -> bool {
    std::env::var_os("LONG_TESTS").is_some()
}
