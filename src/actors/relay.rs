//! The relay between nodes: what another node has committed is told at once.
//!
//! A thread of its own waits for notifications of the database, and has persistence look at the store when one has come.
//! They are hints: without them the next look finds the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::log_position::LogPosition;
use super::persistence::Persistence;
use super::persistence::messages::{LookAtLog, LookDue};
use crate::domain::event::EventId;
use crate::runtime::address::Address;
use crate::storage::{Listener, StoreError, StoreOptions};
use crate::telemetry::metrics::Metrics;

/// For how long it waits before it looks at its connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before it connects anew.
const RETRY: Duration = Duration::from_millis(500);

/// For how long it waits for a batch that comes by Redis.
const GRACE: Duration = Duration::from_millis(10);

/// What the relay tells, and to whom.
pub struct Relay {
    pub store: StoreOptions,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    pub looks: Looks,
    pub metrics: Arc<Metrics>,
}

/// Has persistence look how far the log reaches, for all that learn of commits of other nodes.
#[derive(Clone)]
pub struct Looks {
    persistence: Address<Persistence>,
    /// Whether persistence is about to look.
    is_due: Arc<AtomicBool>,
    /// Whether batches of other nodes come by Redis.
    is_relayed: Arc<AtomicBool>,
}

impl Looks {
    pub fn of(persistence: Address<Persistence>) -> Self {
        Self { persistence, is_due: Arc::default(), is_relayed: Arc::default() }
    }

    /// A look is due. Those that are due at the same time are one.
    pub fn look(&self) {
        if let Some(due) = LookDue::begin(&self.is_due) {
            // Without a writer, the next one looks when it begins.
            let _ = self.persistence.tell(LookAtLog(due));
        }
    }

    /// Whether batches of other nodes come by Redis from now on.
    pub fn set_relayed(&self, is_relayed: bool) {
        self.is_relayed.store(is_relayed, Ordering::Release);
    }

    fn is_relayed(&self) -> bool {
        self.is_relayed.load(Ordering::Acquire)
    }
}

impl Relay {
    /// Runs for as long as the process.
    pub fn start(self) -> std::io::Result<()> {
        thread::Builder::new().name("relay".to_owned()).spawn(move || self.run()).map(drop)
    }

    fn run(&self) {
        let mut is_told = false;
        loop {
            let ended = match Listener::open(&self.store) {
                Ok(None) => return,
                Ok(Some(listener)) => {
                    is_told = false;
                    self.metrics.relay_up.set(1);
                    self.listen(&listener)
                }
                Err(error) => error,
            };
            self.metrics.relay_up.set(0);
            // At the start the writer has not opened the store yet; persistence tells of a store that is away.
            if !std::mem::replace(&mut is_told, true) {
                log::debug!(error:% = ended; "commits of other nodes are found by looking, until the relay is connected");
            }
            thread::sleep(RETRY);
        }
    }

    /// Until the connection fails.
    fn listen(&self, listener: &Listener) -> StoreError {
        loop {
            match listener.wait(PATIENCE, || self.cluster.generation()) {
                Ok(last) => last.into_iter().for_each(|last| self.told(last)),
                Err(error) => return error,
            }
        }
    }

    /// Has persistence look. What a notification says is not believed: whoever reaches the database may send one.
    fn told(&self, last: EventId) {
        // The look at the store was quicker.
        let is_known = || last <= self.position.last();
        // Redis is given the batch a moment later than the database notifies, and then nothing has to be read.
        let end = Instant::now() + GRACE;
        while !is_known() && self.looks.is_relayed() && Instant::now() < end {
            thread::sleep(GRACE / 20);
        }
        if !is_known() {
            self.looks.look();
        }
    }
}
