//! The relay between nodes: what another node has committed is told at once.
//!
//! A thread of its own waits for notifications of the database, and hands them on as the empty batch that a commit of
//! others always is. They are hints: without them the next look at the store finds the same.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::cluster::Cluster;
use super::log_position::LogPosition;
use super::persistence::messages::EventsCommitted;
use super::service_slot::ServiceSlots;
use crate::domain::event::EventId;
use crate::protocol::log_batch::LogBatch;
use crate::runtime::address::{Mailbox, Undelivered};
use crate::storage::{Listener, StoreError, StoreOptions};
use crate::telemetry::metrics::Metrics;

/// For how long it waits before it looks at its connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before it connects anew.
const RETRY: Duration = Duration::from_millis(500);

/// What the relay tells, and to whom.
pub struct Relay {
    pub store: StoreOptions,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    pub router: Mailbox<EventsCommitted>,
    pub services: ServiceSlots,
    pub metrics: Arc<Metrics>,
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

    fn told(&self, last: EventId) {
        // The look at the store was quicker.
        if last <= self.position.last() {
            return;
        }
        self.metrics.relay_hints.inc();
        self.position.advance(last);
        if self.router.tell(EventsCommitted(LogBatch::new(last, Vec::new()))) == Err(Undelivered::Full) {
            self.metrics.mailbox_full.with_label_values(&["router"]).inc();
        }
        self.services.iter().for_each(|slot| slot.wake());
    }
}
