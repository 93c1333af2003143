//! The word to tasks of an actor that the actor is to end.

use tokio::sync::watch;

/// Whether the actor is to end. What has begun is brought to its end.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    pub fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// What `work` gives; none if the actor is to end meanwhile, and then the work is dropped.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut receiver = self.0.clone();
        tokio::select! {
            biased;
            _ = receiver.wait_for(|is_told| *is_told) => None,
            done = work => Some(done),
        }
    }
}
