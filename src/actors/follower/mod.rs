//! The follower of the log: whatever is made of the events in their order, by one node in the whole cluster.
//!
//! It has a name, a lease, a stored position, and a fold: what is to be written for a page of events. That is committed
//! with the new position, in one transaction, under the fence of the lease (FO-1). What the router tells is a hint: the
//! events are read from the store. It waits for nobody who publishes, and nobody waits for it.
//!
//! Whatever is doubtful (a failed write, another holder, another log) begins anew from what is stored.

pub mod tenure;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use self::tenure::{Candidate, PAUSE, Renewal, Tenure};
use super::clock;
use super::log_position::LogPosition;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::follow::{Course, STORE_INTERVAL, begin};
use crate::domain::lease::Fence;
use crate::storage::{FollowPage, Outcome, Reader, Write};
use crate::telemetry::health::StoreHealth;
use crate::telemetry::metrics::Metrics;

/// The most events of one page, and about the most bytes.
const PAGE: (usize, usize) = (512, 1 << 20);
/// How often the store is looked at without any hint.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How far a follower is, for operators.
#[derive(Debug, Default)]
pub struct Following {
    is_held: AtomicBool,
    after: AtomicI64,
    missed: AtomicU64,
}

impl Following {
    /// Whether this node follows.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Relaxed)
    }

    pub fn describe(&self) -> Value {
        let Self { after, missed, .. } = self;
        let is_held = self.is_held();
        json!({
            "is_held": is_held,
            "position": is_held.then(|| after.load(Relaxed)),
            "missed": missed.load(Relaxed),
        })
    }
}

/// What a follower makes of the log. Whatever it does, it may be done again: here, or on another node.
pub trait Fold {
    type Error;

    /// After which event it begins; `stored` is what is stored. A new one begins at the end of the log. None: it may not
    /// act, or cannot read the store.
    fn begin(
        &mut self,
        stored: Option<EventId>,
        reader: &Reader,
    ) -> impl Future<Output = Result<Option<EventId>, Self::Error>> {
        async move { Ok(reader.bounds().await.ok().map(|bounds| begin(stored, bounds.last))) }
    }

    /// What is to be written for a page, with the new position. `fence` is for what has to be committed before. None: as
    /// above.
    fn fold(
        &mut self,
        page: &FollowPage,
        fence: &Fence,
    ) -> impl Future<Output = Result<Option<Vec<Write>>, Self::Error>>;

    /// Does a little of what there is to do besides. What was committed before `as_of` has been followed. Returns in what
    /// time there is more. None: as above.
    fn beside(
        &mut self,
        fence: &Fence,
        as_of: Timestamp,
    ) -> impl Future<Output = Result<Option<Duration>, Self::Error>> {
        let _ = (fence, as_of);
        std::future::ready(Ok(Some(LOOK_INTERVAL)))
    }

    /// It follows no more, until it begins anew.
    fn end(&mut self) {}

    /// Called when there is nothing to follow: all is followed, or another node does it.
    fn calm(&self);
}

/// See the module.
pub struct Follower {
    pub candidate: Candidate,
    pub reader: Reader,
    pub log: Arc<LogPosition>,
    pub store: Arc<StoreHealth>,
    /// Notified when there may be events.
    pub wake: Arc<Notify>,
    pub following: Arc<Following>,
    pub metrics: Arc<Metrics>,
}

impl Follower {
    /// Follows until it is to stop, or `fold` fails.
    pub async fn run<F: Fold>(&self, fold: &mut F) -> Result<(), F::Error> {
        let stop = &self.candidate.stop;
        loop {
            let Some(held) = self.candidate.wait(|| self.may_act(), || fold.calm()).await else { return Ok(()) };
            let fence = held.fence.clone();
            let followed = self.follow(held, fold).await;
            fold.end();
            if followed.is_err() {
                // Perhaps another node can do it.
                self.candidate.release(fence);
            }
            self.following.is_held.store(false, Relaxed);
            // Who holds it tells how far it is behind.
            let _ = self.metrics.follower_lag.remove_label_values(&[&self.candidate.position]);
            if followed?.is_none() || stop.or(sleep(PAUSE)).await.is_none() {
                return Ok(());
            }
        }
    }

    fn may_act(&self) -> bool {
        self.store.is_up() && self.candidate.cluster.may_act()
    }

    fn may_act_on(&self, held: &Tenure) -> bool {
        self.store.is_up() && self.candidate.may_act(held)
    }

    /// Follows as the holder of the lease, for as long as it is that. None: it is to stop.
    async fn follow<F: Fold>(&self, mut held: Tenure, fold: &mut F) -> Result<Option<()>, F::Error> {
        let stop = &self.candidate.stop;
        let log = self.log.log_id();
        let Some(mut course) = self.begin(&held, fold).await? else { return Ok(Some(())) };
        log::info!(follower = self.candidate.position.as_str(), after = course.after; "following the log");
        self.following.is_held.store(true, Relaxed);
        loop {
            if self.log.log_id() != log {
                return Ok(Some(()));
            }
            match self.candidate.renew(&mut held).await {
                Some(Renewal::Held) => {}
                Some(Renewal::Lost) => return Ok(Some(())),
                Some(Renewal::Wanted) => {
                    self.store(&mut course, &held.fence, Vec::new()).await;
                    return Ok(self.candidate.hand_over(held).await);
                }
                None => {
                    self.store(&mut course, &held.fence, Vec::new()).await;
                    return Ok(None);
                }
            }
            self.tell(&course);
            let read_at = clock::now();
            let page = if self.may_act_on(&held) { self.reader.follow(course.after, PAGE).await.ok() } else { None };
            let Some(page) = page else {
                if stop.or(sleep(PAUSE)).await.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let is_idle = page.through == course.after;
            let taken =
                if is_idle { Ok(Some(Vec::new())) } else { self.take(&page, &held.fence, &mut course, fold).await };
            let writes = match taken {
                Ok(Some(writes)) => writes,
                doubtful => {
                    self.store(&mut course, &held.fence, Vec::new()).await;
                    return doubtful.map(|_| Some(()));
                }
            };
            let is_due = !writes.is_empty() || course.is_due(clock::steady());
            if is_due && !self.store(&mut course, &held.fence, writes).await {
                return Ok(Some(()));
            }
            let Some(more) = fold.beside(&held.fence, followed_up_to(&page, read_at)).await? else {
                return Ok(Some(()));
            };
            if is_idle {
                fold.calm();
                // If it is to stop, that is seen above, and the position stored.
                let wait = more.min(if course.is_ahead() { STORE_INTERVAL } else { LOOK_INTERVAL });
                let _ = stop.or(timeout(wait, self.wake.notified())).await;
            }
        }
    }

    /// From where it goes on. If that is news it is stored: what is published from now on, it gets. None: that has failed.
    async fn begin<F: Fold>(&self, held: &Tenure, fold: &mut F) -> Result<Option<Course>, F::Error> {
        let stored = held.position.as_deref().and_then(|position| position.parse().ok());
        let Some(after) = fold.begin(stored, &self.reader).await? else { return Ok(None) };
        let mut course = Course::new(after, clock::steady());
        let is_stored = stored == Some(after) || self.store(&mut course, &held.fence, Vec::new()).await;
        Ok(is_stored.then_some(course))
    }

    async fn take<F: Fold>(
        &self,
        page: &FollowPage,
        fence: &Fence,
        course: &mut Course,
        fold: &mut F,
    ) -> Result<Option<Vec<Write>>, F::Error> {
        let Some(writes) = fold.fold(page, fence).await? else { return Ok(None) };
        course.after = page.through;
        if page.missed > 0 {
            let (follower, missed) = (self.candidate.position.as_str(), page.missed);
            log::error!(follower, missed, through = course.after; "retention has removed events that were not followed yet");
            self.metrics.follower_missed.with_label_values(&[follower]).inc_by(missed);
            self.following.missed.fetch_add(missed, Relaxed);
        }
        Ok(Some(writes))
    }

    /// Commits `writes` with the position; whether that is so. If not, it is unknown, and the store says how far it is.
    async fn store(&self, course: &mut Course, fence: &Fence, mut writes: Vec<Write>) -> bool {
        writes.push(Write::MovePosition { name: self.candidate.position.clone(), position: course.after.to_string() });
        let Some(answer) = self.candidate.persistence.commit_all(Some(fence.clone()), writes) else { return false };
        let is_stored = matches!(answer.await, Ok(Ok(outcomes)) if !outcomes.contains(&Outcome::Void));
        if is_stored {
            course.stored(clock::steady());
        }
        is_stored
    }

    fn tell(&self, course: &Course) {
        self.following.after.store(course.after, Relaxed);
        let lag = self.log.last().saturating_sub(course.after).max(0);
        self.metrics.follower_lag.with_label_values(&[&self.candidate.position]).set(lag);
        // The series is there before its first count, or `increase` would miss that.
        self.metrics.follower_missed.with_label_values(&[&self.candidate.position]);
    }
}

/// The time up to which all is followed once a page is, which was read at `read_at`.
fn followed_up_to(page: &FollowPage, read_at: Timestamp) -> Timestamp {
    match page.events.last() {
        Some(event) if !page.is_last => event.created_at.min(read_at),
        _ => read_at,
    }
}
