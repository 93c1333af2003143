//! The intake: collects the publishes of one HTTP worker, and sends them to persistence together.
//!
//! One message between threads carries all publishes that became ready in one round of the worker's event loop. While a
//! commit is under way, the next batch grows. So the cost per publish falls as load rises.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::Persistence;
use super::messages::{AppendEvents, AppendFailure, AppendReply};
use crate::domain::event::{Admission, Append, AppendOutcome};
use crate::runtime::address::Address;
use crate::storage::SharedCatalogue;

/// Batches of one worker under way at once: one is being committed while the next is being sent.
const MAX_IN_FLIGHT: usize = 2;

/// The bound of what waits for a commit, on all workers together. A publish that does not fit is refused at once.
#[derive(Debug)]
pub struct Backlog {
    events: AtomicUsize,
    bytes: AtomicUsize,
    max_events: usize,
    max_bytes: usize,
}

impl Backlog {
    /// At most `max_events` events of `max_bytes` bytes together. One request always fits when nothing waits.
    pub fn new(max_events: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { events: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_events, max_bytes })
    }

    /// Events that wait.
    pub fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    /// Most events that may wait.
    pub fn capacity(&self) -> usize {
        self.max_events
    }

    /// Whether anything fits.
    pub fn has_room(&self) -> bool {
        self.events() < self.max_events && self.bytes.load(Ordering::Relaxed) < self.max_bytes
    }

    /// Takes the room of what was read while there [was some](Self::has_room), whether it fits or not.
    pub fn occupy(self: &Arc<Self>, appends: &[Append]) -> Permit {
        let events = appends.iter().map(|append| append.events.len()).sum();
        let bytes = appends.iter().map(Append::bytes).sum();
        self.take(events, bytes).0
    }

    fn admit(self: &Arc<Self>, append: &Append) -> Option<Permit> {
        let (permit, [events, bytes]) = self.take(append.events.len(), append.bytes());
        let fits = events + permit.events <= self.max_events && bytes + permit.bytes <= self.max_bytes;
        (fits || events == 0).then_some(permit)
    }

    /// Takes room; with how many events and bytes waited before.
    fn take(self: &Arc<Self>, events: usize, bytes: usize) -> (Permit, [usize; 2]) {
        let before = [self.events.fetch_add(events, Ordering::Relaxed), self.bytes.fetch_add(bytes, Ordering::Relaxed)];
        (Permit { backlog: Arc::clone(self), events, bytes }, before)
    }
}

/// A place in the backlog. It is released when dropped.
#[derive(Debug)]
pub struct Permit {
    backlog: Arc<Backlog>,
    events: usize,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.backlog.events.fetch_sub(self.events, Ordering::Relaxed);
        self.backlog.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The intake of one worker thread. Clones share it.
#[derive(Clone)]
pub struct Intake(Rc<Inner>);

struct Inner {
    backlog: Arc<Backlog>,
    persistence: Address<Persistence>,
    catalogue: Arc<SharedCatalogue>,
    waiting: RefCell<Vec<Waiting>>,
    in_flight: Cell<usize>,
    arrival: Notify,
    commit_timeout: Duration,
}

struct Waiting {
    append: Append,
    place: Place,
}

/// Where the outcome goes, and the room that the publish takes.
struct Place {
    reply: oneshot::Sender<Result<AppendOutcome, AppendFailure>>,
    _permit: Permit,
}

impl Intake {
    /// Starts the intake on the current thread. It ends with the thread's event loop.
    pub fn start(
        persistence: Address<Persistence>,
        catalogue: Arc<SharedCatalogue>,
        backlog: Arc<Backlog>,
        commit_timeout: Duration,
    ) -> Self {
        let intake = Self(Rc::new(Inner {
            backlog,
            persistence,
            catalogue,
            waiting: RefCell::default(),
            in_flight: Cell::new(0),
            arrival: Notify::new(),
            commit_timeout,
        }));
        let flusher = intake.clone();
        actix_rt::spawn(async move {
            loop {
                flusher.0.arrival.notified().await;
                // Other publishes that are ready in this round join the batch.
                tokio::task::yield_now().await;
                flusher.flush();
            }
        });
        intake
    }

    /// The backlog of all workers.
    pub fn backlog(&self) -> &Backlog {
        &self.0.backlog
    }

    /// Stores `append`, and waits for the commit (EV-1: `Ok` means committed).
    pub async fn append(&self, append: Append) -> Result<AppendOutcome, AppendFailure> {
        let outcome = self.enqueue(append)?;
        outcome.await.unwrap_or(Err(AppendFailure::RESTARTED))
    }

    /// Judges `append` by the catalogue, and queues it in commit order. The outcome comes later: a repetition is to be
    /// answered as before, and the catalogue may have changed.
    pub fn enqueue(
        &self,
        mut append: Append,
    ) -> Result<oneshot::Receiver<Result<AppendOutcome, AppendFailure>>, AppendFailure> {
        append.admission = Admission::Judged;
        append.judgement = Some(self.0.catalogue.with(|catalogue| catalogue.judge(&append)));
        let permit = self.0.backlog.admit(&append).ok_or(AppendFailure::Overloaded)?;
        let (reply, outcome) = oneshot::channel();
        self.0.waiting.borrow_mut().push(Waiting { append, place: Place { reply, _permit: permit } });
        self.0.arrival.notify_one();
        Ok(outcome)
    }

    fn flush(&self) {
        if self.0.in_flight.get() >= MAX_IN_FLIGHT || self.0.waiting.borrow().is_empty() {
            return;
        }
        let (appends, places): (Vec<_>, Vec<_>) =
            self.0.waiting.take().into_iter().map(|w| (w.append, w.place)).unzip();
        let (reply, answer) = oneshot::channel();
        if self.0.persistence.tell(AppendEvents { appends, reply }).is_err() {
            answer_all(places, Err(AppendFailure::RESTARTING));
            return;
        }
        self.0.in_flight.set(self.0.in_flight.get() + 1);
        let intake = self.clone();
        actix_rt::spawn(async move {
            let reply = match tokio::time::timeout(intake.0.commit_timeout, answer).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => Err(AppendFailure::RESTARTED),
                Err(_) => Err(AppendFailure::TimedOut),
            };
            intake.0.in_flight.set(intake.0.in_flight.get() - 1);
            if reply == Err(AppendFailure::TimedOut) {
                // Publishes behind a commit that hangs have waited long enough. They were not sent, so they have
                // failed.
                let behind = intake.0.waiting.take().into_iter().map(|waiting| waiting.place).collect();
                answer_all(behind, Err(AppendFailure::StoreUnavailable("an earlier commit hangs")));
            }
            answer_all(places, reply);
            if !intake.0.waiting.borrow().is_empty() {
                intake.0.arrival.notify_one();
            }
        });
    }
}

fn answer_all(places: Vec<Place>, reply: AppendReply) {
    // A publisher that has gone needs no answer.
    match reply {
        Ok(outcomes) => {
            debug_assert_eq!(outcomes.len(), places.len());
            for (place, outcome) in places.into_iter().zip(outcomes) {
                let _ = place.reply.send(Ok(outcome));
            }
        }
        Err(failure) => {
            for place in places {
                let _ = place.reply.send(Err(failure.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::NewEvent;

    #[test]
    fn what_is_read_takes_room_until_it_is_stored() {
        let backlog = Backlog::new(2, 1 << 20);
        let append = || Append::single(NewEvent::plain("a", "{}"));
        let read = [append(), append(), append()];
        let room = backlog.occupy(&read);
        assert_eq!((backlog.events(), backlog.has_room()), (3, false));
        assert!(backlog.admit(&append()).is_none(), "publishers are told");
        drop(room);
        let publish = backlog.admit(&append()).expect("room");
        assert!(backlog.has_room());
        let _other = backlog.admit(&append()).expect("room");
        assert!(!backlog.has_room(), "nothing is read");
        drop(publish);
        assert!(backlog.has_room());
        assert!(!Backlog::new(2, 0).has_room());
    }
}
