//! What persistence and a client share of one service.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::Notify;

use crate::config::{ServiceConfig, StartFrom};
use crate::domain::call::{CallHistory, CallId};
use crate::domain::event::Timestamp;
use crate::domain::lease::Fence;
use crate::domain::priority::Lane;
use crate::domain::routes::{Route, Selector, ServiceId};
use crate::storage::{ClaimedCall, NewCall, Pending, Registered};

/// All services, in the order of the configuration.
pub type ServiceSlots = Arc<[Arc<ServiceSlot>]>;

/// A service as it is configured, with what the store knows of it, and the number of its open deliveries.
///
/// Persistence alone writes the numbers, after each commit. So they are exact without a query.
#[derive(Debug)]
pub struct ServiceSlot {
    pub name: ByteString,
    pub selectors: Vec<Selector>,
    /// The service gets no events of these sources.
    pub own_sources: Vec<ByteString>,
    pub start_from: StartFrom,
    /// The longest time between two attempts.
    pub longest_wait: Duration,
    registered: Mutex<Option<Registered>>,
    /// Whether this node delivers to the service: the figures of others would be wrong, and would be added up.
    is_held: AtomicBool,
    pending: [AtomicI64; Lane::COUNT],
    dead: AtomicI64,
    /// Deliveries may have been reopened.
    renewed: AtomicBool,
    /// The store may have calls that are due, and are not handed over.
    calls: AtomicBool,
    /// Calls that were made, for the client.
    handed: Mutex<Vec<ClaimedCall>>,
    /// How many more calls the client would send at once.
    room: AtomicUsize,
    work: Notify,
    holding: Mutex<Option<Holding>>,
}

/// The lease of a service as its client has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// What writes of the holder carry.
    pub fence: Fence,
    /// The generation of this node as a member to which it was granted.
    pub term: i64,
}

/// Calls that are handed over at most, and the longest body of one. All others are read from the store.
const MAX_HANDED: usize = 1024;
const MAX_HANDED_BYTES: usize = 16 * 1024;

/// Whether a call is short, and goes out in any order.
fn is_handy(call: &NewCall) -> bool {
    call.key.is_none() && call.request.body.as_ref().is_none_or(|body| body.len() <= MAX_HANDED_BYTES)
}

impl ServiceSlot {
    /// Neither registered nor with open deliveries. `longest_wait`: the longest time between two attempts.
    pub fn new(service: &ServiceConfig, longest_wait: Duration) -> Self {
        Self {
            name: service.name.clone().into(),
            selectors: service.routes.clone(),
            own_sources: service.own_sources(),
            start_from: service.start_from,
            longest_wait,
            registered: Mutex::default(),
            is_held: AtomicBool::new(false),
            pending: Default::default(),
            dead: AtomicI64::new(0),
            renewed: AtomicBool::new(false),
            calls: AtomicBool::new(false),
            handed: Mutex::default(),
            room: AtomicUsize::new(0),
            work: Notify::new(),
            holding: Mutex::default(),
        }
    }

    /// The lease, if the client has it: to be told to who else works for the service.
    pub fn holding(&self) -> Option<Holding> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client has this lease from now on, or none.
    pub fn set_holding(&self, holding: Option<Holding>) {
        *self.holding.lock().unwrap_or_else(PoisonError::into_inner) = holding;
    }

    fn known(&self) -> MutexGuard<'_, Option<Registered>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stored state of the service; `None` until it is registered.
    pub fn registered(&self) -> Option<Registered> {
        self.known().clone()
    }

    /// Its number in the store.
    pub fn id(&self) -> Option<ServiceId> {
        self.known().as_ref().map(|known| known.id)
    }

    /// The store knows the service from now on.
    pub fn register(&self, registered: Registered) {
        *self.known() = Some(registered);
        self.wake();
    }

    /// The state was stored, and is what the next generation of the client begins with.
    pub fn keep(&self, paused: Option<String>, breaker: Option<String>) {
        if let Some(known) = &mut *self.known() {
            (known.paused, known.breaker) = (paused, breaker);
        }
    }

    /// The route to the service, once it is registered.
    pub fn route(&self) -> Option<Route> {
        let (selectors, own_sources) = (self.selectors.clone(), self.own_sources.clone());
        Some(Route { service: self.id()?, selectors, own_sources })
    }

    /// Wakes the client: there may be something to deliver.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    /// Wakes the client: deliveries may have been reopened.
    pub fn wake_for_renewed(&self) {
        self.renewed.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether [`Self::wake_for_renewed`] was called since the last time.
    pub fn take_renewed(&self) -> bool {
        self.renewed.swap(false, Ordering::Acquire)
    }

    /// Wakes the client: calls were made, or are due at once.
    pub fn wake_for_calls(&self) {
        self.calls.store(true, Ordering::Release);
        self.wake();
    }

    /// Calls were made and are stored: hands those over to the client that it may send by now, and says of others that the
    /// store has some.
    pub fn hand_calls(&self, made: impl IntoIterator<Item = (CallId, NewCall)>, now: Timestamp) {
        let is_here = self.holding().is_some();
        let mut handed = self.handed();
        for (id, call) in made {
            let is_marked = call.is_begun;
            if is_here && is_handy(&call) && call.due_at <= now && handed.len() < MAX_HANDED {
                handed.push(ClaimedCall { id, call, history: CallHistory::default(), is_marked });
            } else {
                self.calls.store(true, Ordering::Release);
            }
        }
        drop(handed);
        self.wake();
    }

    /// What was handed over since the last time.
    pub fn take_handed(&self) -> Vec<ClaimedCall> {
        std::mem::take(&mut *self.handed())
    }

    fn handed(&self) -> MutexGuard<'_, Vec<ClaimedCall>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client would send so many more calls at once.
    pub fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// Whether the client is going to send a call that is due as soon as it is made.
    pub fn has_room_for(&self, call: &NewCall) -> bool {
        let take = |room: usize| room.checked_sub(1);
        is_handy(call) && self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Whether [`Self::wake_for_calls`] was called since the last time.
    pub fn take_calls(&self) -> bool {
        self.calls.swap(false, Ordering::Acquire)
    }

    /// Ready when [`Self::wake`] was called since the last time.
    pub async fn woken(&self) {
        self.work.notified().await;
    }

    /// Sets what was counted in the store.
    pub fn set(&self, counted: &Pending) {
        for lane in Lane::ALL {
            let at = lane.index();
            self.pending[at].store(counted.waiting[at] + counted.retrying[at], Ordering::Relaxed);
        }
        self.dead.store(counted.dead, Ordering::Relaxed);
        self.is_held.store(true, Ordering::Relaxed);
    }

    /// Another node delivers to the service, and has its figures.
    pub fn follow(&self) {
        self.set(&Pending::default());
        self.is_held.store(false, Ordering::Relaxed);
    }

    /// Adds open deliveries in `lane`.
    pub fn add(&self, lane: Lane, count: i64) {
        if self.is_held.load(Ordering::Relaxed) {
            self.pending[lane.index()].fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Adds dead deliveries.
    pub fn add_dead(&self, count: i64) {
        if self.is_held.load(Ordering::Relaxed) {
            self.dead.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Open deliveries in each lane, with those that wait for a retry.
    pub fn pending(&self) -> [i64; Lane::COUNT] {
        Lane::ALL.map(|lane| self.pending[lane.index()].load(Ordering::Relaxed).max(0))
    }

    /// Open deliveries in all lanes.
    pub fn pending_total(&self) -> i64 {
        self.pending().iter().sum()
    }

    /// Dead deliveries.
    pub fn dead(&self) -> i64 {
        self.dead.load(Ordering::Relaxed).max(0)
    }
}
