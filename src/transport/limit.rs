//! How many connections of a kind the process may hold. `HttpServer` counts a connection only until it is taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the connections of one kind on all workers.
#[derive(Debug)]
pub struct ConnectionLimit {
    open: AtomicUsize,
    limit: usize,
}

impl ConnectionLimit {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), limit })
    }

    /// Connections open now.
    #[cfg(test)]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Admits one more connection; `None` when full.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let one_more = |open| (open < self.limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Admission(Arc::clone(self)))
    }
}

/// One connection's place, which is released when this is dropped.
#[derive(Debug)]
pub struct Admission(Arc<ConnectionLimit>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
