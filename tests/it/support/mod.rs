//! What black-box tests stand on: the real program as a child process, its databases, and clients.

pub mod backend;
pub mod browser;
pub mod command;
pub mod copy;
pub mod described;
pub mod http;
#[path = "../../support/jwt.rs"]
pub mod issuer;
pub mod load;
pub mod pgbouncer;
#[path = "../../support/postgres.rs"]
pub mod postgres;
pub mod program;
pub mod raw;
pub mod redis;
pub mod server;
pub mod service;
pub mod sse;
pub mod tail;
pub mod tcp_proxy;
pub mod tokens;
pub mod ws;

use std::time::{Duration, Instant};

pub use backend::{Backend, for_each_backend};
pub use redis::Redis;
pub use server::Server;
pub use service::{Answer, Service};
pub use tail::Tail;

/// How long anything may take that must happen "soon". Far above what is needed: only failures wait for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `condition` until it gives a value.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was awaited.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
