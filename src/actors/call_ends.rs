//! The ends of calls, from the clients of this node to who follows them, if that is here too. What is taken is stored with
//! what follows from it; what is not, the client stores itself, for who follows them elsewhere or later.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::domain::lease::Fence;
use crate::storage::EndedCall;

/// See the module.
#[derive(Debug, Default)]
pub struct CallEnds {
    /// Notified when calls have ended.
    pub wake: Arc<Notify>,
    /// Clients of this node have stored some, or are about to.
    are_stored: AtomicBool,
    /// None while nobody takes them. Each client has one hand-over under way, of a bounded number of ends.
    handed: Mutex<Option<Vec<HandedEnds>>>,
}

/// How calls of one service have ended, which nobody has stored.
#[derive(Debug)]
pub struct HandedEnds {
    /// That of the client: who stores what follows from the ends does so in its name too.
    pub fence: Fence,
    /// Without places.
    pub ended: Vec<EndedCall>,
    taken: oneshot::Sender<()>,
}

impl HandedEnds {
    /// The ends, and what follows from them, are stored. Dropped without that, they are the client's again.
    pub fn stored(self) {
        // Who has not waited finds that they have ended.
        let _ = self.taken.send(());
    }
}

impl CallEnds {
    /// From now on they are taken.
    pub fn open(&self) {
        self.handed().get_or_insert_default();
        self.wake.notify_one();
    }

    /// From now on they are not; those that wait are their clients' again.
    pub fn close(&self) {
        self.handed().take();
    }

    /// Hands ends over; ready when they are stored, or are not going to be. None if nobody takes them.
    pub fn hand(&self, fence: Fence, ended: Vec<EndedCall>) -> Option<oneshot::Receiver<()>> {
        let (taken, is_taken) = oneshot::channel();
        self.handed().as_mut()?.push(HandedEnds { fence, ended, taken });
        self.wake.notify_one();
        Some(is_taken)
    }

    /// Takes about `most` of them. What its client does not wait for any more is left out.
    pub fn take(&self, most: usize) -> Vec<HandedEnds> {
        let mut handed = self.handed();
        let Some(handed) = handed.as_mut() else { return Vec::new() };
        handed.retain(|handed| !handed.taken.is_closed());
        let mut room = most;
        let fits = |handed: &&HandedEnds| {
            let has_room = room > 0;
            room = room.saturating_sub(handed.ended.len());
            has_room
        };
        let count = handed.iter().take_while(fits).count();
        handed.drain(..count).collect()
    }

    /// A client stores ends that nobody has taken.
    pub fn set_stored(&self) {
        self.are_stored.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Whether [`Self::set_stored`] was called since the last time.
    pub fn take_stored(&self) -> bool {
        self.are_stored.swap(false, Relaxed)
    }

    fn handed(&self) -> MutexGuard<'_, Option<Vec<HandedEnds>>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
