//! What others publish by the publish/subscribe of Redis becomes events.
//!
//! - *PI-1* It comes at most once: Redis keeps nothing for a subscriber that is away. What came is stored, unless there
//!   was no room for it while the store was away, or another node has taken the lease.
//! - *PI-2* What is stored has a mark and does not go out again; what is ours is not stored. So nothing goes in circles.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::BusParts;
use super::own_events::OwnEvents;
use super::standing::Standing;
use crate::actors::follower::tenure::{Candidate, PAUSE, Renewal, Tenure};
use crate::bus::{self, BusError, Subscription};
use crate::domain::event::{Admission, Append, AppendOutcome};
use crate::domain::inbox::Inbox;
use crate::domain::lease::{Fence, LeaseName};
use crate::protocol::error::ApiError;
use crate::protocol::finding::refusals;
use crate::protocol::heard::{Heard, read_envelope};
use crate::runtime::stop::Stop;
use crate::storage::{Outcome, Write};

/// The name of the part.
pub const PART: &str = "pubsub in";
/// The most messages that one transaction stores, and about the most bytes.
const BATCH: (usize, usize) = (1024, 4 << 20);
/// How often the lease is looked at while nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is told that messages are lost.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What operators are told of it.
#[derive(Debug, Default)]
pub struct Hearing {
    is_held: AtomicBool,
    waiting: AtomicUsize,
    stored: AtomicU64,
    lost: AtomicU64,
}

impl Hearing {
    pub fn describe(&self) -> Value {
        let Self { is_held, waiting, stored, lost } = self;
        json!({
            "is_held": is_held.load(Relaxed),
            "waiting": waiting.load(Relaxed),
            "stored": stored.load(Relaxed),
            "lost": lost.load(Relaxed),
        })
    }
}

/// See the module.
pub struct Hear {
    parts: BusParts,
    candidate: Candidate,
    own: OwnEvents,
    standing: Standing,
    hearing: Arc<Hearing>,
    /// When it was told last that messages are lost.
    told_at: Cell<Option<Instant>>,
}

impl Hear {
    pub fn new(parts: &BusParts, standing: Standing, stop: Stop, hearing: Arc<Hearing>) -> Self {
        let candidate = parts.candidate(LeaseName::pubsub_in(), "pubsub:in".to_owned(), stop);
        let own = OwnEvents { reader: parts.reader.clone(), position: Arc::clone(&parts.position) };
        Self { parts: parts.clone(), candidate, own, standing, hearing, told_at: Cell::new(None) }
    }

    /// Hears until it is to stop, or Redis fails.
    pub async fn run(&self) -> Result<(), BusError> {
        let stop = &self.candidate.stop;
        loop {
            let elsewhere = || self.standing.up(PART);
            let Some(held) = self.candidate.wait(|| self.may_act(), elsewhere).await else { return Ok(()) };
            let fence = held.fence.clone();
            let heard = match stop.or(self.parts.redis.subscribe(bus::CHANNEL)).await {
                None => return Ok(()),
                Some(Ok(subscription)) => self.hear(held, subscription).await,
                Some(Err(error)) => Err(error),
            };
            self.hearing.is_held.store(false, Relaxed);
            if heard.is_err() {
                // Perhaps another node can do it.
                self.candidate.release(fence);
            }
            if heard?.is_none() || stop.or(sleep(PAUSE)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether what comes can be stored. It comes also while the node is drained, since nobody keeps it.
    fn may_act(&self) -> bool {
        let BusParts { cluster, backlog, health, .. } = &self.parts;
        health.store.is_up() && backlog.has_room() && cluster.may_act()
    }

    /// Hears as the holder of the lease, for as long as it is that. What has come is stored before it ends. None: it is
    /// to stop.
    async fn hear(&self, mut held: Tenure, subscription: Subscription) -> Result<Option<()>, BusError> {
        log::info!("hearing what is published by redis");
        self.standing.up(PART);
        self.hearing.is_held.store(true, Relaxed);
        let mut from = Source { subscription: Some(subscription), failure: None, inbox: Inbox::default() };
        let (mut pending, mut is_stopping) = (Vec::new(), false);
        loop {
            match self.meanwhile(&mut from, self.candidate.renew(&mut held)).await {
                Some(Renewal::Held) => {}
                Some(Renewal::Wanted) => from.subscription = None,
                Some(Renewal::Lost) => {
                    self.lose(pending.len() + from.inbox.len());
                    return Ok(Some(()));
                }
                None => (from.subscription, is_stopping) = (None, true),
            }
            while pending.is_empty() && !from.inbox.is_empty() {
                pending = self.read(from.inbox.take(BATCH.0, BATCH.1));
            }
            self.hearing.waiting.store(pending.len() + from.inbox.len(), Relaxed);
            let may_act = self.may_act() && self.candidate.may_act(&held);
            if from.subscription.is_none() && (pending.is_empty() || (is_stopping && !may_act)) {
                self.lose(pending.len() + from.inbox.len());
                return match from.failure {
                    _ if is_stopping => Ok(None),
                    Some(error) => Err(error),
                    None => Ok(self.candidate.hand_over(held).await),
                };
            }
            if pending.is_empty() {
                self.lose(timeout(LOOK_INTERVAL, from.receive()).await.unwrap_or(0));
            } else if may_act && self.meanwhile(&mut from, self.store(&pending, &held.fence)).await.is_some() {
                pending.clear();
            } else {
                self.meanwhile(&mut from, sleep(PAUSE)).await;
            }
        }
    }

    /// What `work` gives. Messages come in meanwhile: nobody else bounds their number.
    async fn meanwhile<T>(&self, from: &mut Source, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                lost = from.receive() => self.lose(lost),
            }
        }
    }

    /// What of these can be an event.
    fn read(&self, messages: Vec<Vec<u8>>) -> Vec<Heard> {
        let read = |message: Vec<u8>| match read_envelope(&message, &self.parts.rules, rand::random()) {
            Ok(heard) => Some(heard),
            Err(error) => {
                self.refused(&error);
                None
            }
        };
        messages.into_iter().filter_map(read).collect()
    }

    /// Stores what is neither ours nor stored. None: it is not known to be stored; trying again does no harm.
    async fn store(&self, heard: &[Heard], fence: &Fence) -> Option<()> {
        let own = self.own.among(heard).await.ok()?;
        let new = heard.iter().zip(&own).filter(|(_, is_own)| !**is_own).map(|(heard, _)| heard);
        let judged = |event| {
            let append = Append { admission: Admission::Judged, ..Append::single(event) };
            let judgement = Some(self.parts.catalogue.with(|catalogue| catalogue.judge(&append)));
            Append { judgement, ..append }
        };
        let appends: Vec<Append> = new.map(|heard| judged(heard.event.clone())).collect();
        let _room = self.parts.backlog.occupy(&appends);
        if !appends.is_empty() {
            let writes = appends.into_iter().map(Write::Append).collect();
            let outcomes = self.parts.persistence.commit_all(Some(fence.clone()), writes)?.await.ok()?.ok()?;
            for outcome in outcomes {
                match outcome {
                    Outcome::Appended(outcome) if outcome.appends() => {
                        self.count("stored", 1);
                        self.hearing.stored.fetch_add(1, Relaxed);
                    }
                    Outcome::Appended(AppendOutcome::Unstorable) => self.refused(&ApiError::unstorable()),
                    Outcome::Appended(AppendOutcome::Maintenance) => self.refused(&ApiError::maintenance()),
                    Outcome::Appended(AppendOutcome::Refused(refused)) => self.refused(&refusals(&refused, false)),
                    Outcome::Appended(_) => self.count("repeated", 1),
                    // Another node has the lease.
                    _ => return None,
                }
            }
        }
        self.count("own", own.iter().filter(|is_own| **is_own).count());
        Some(())
    }

    fn refused(&self, error: &ApiError) {
        log::debug!(code = error.code().as_str(), reason = error.message(); "a message of redis cannot be an event");
        self.count(error.code().as_str(), 1);
    }

    fn lose(&self, messages: usize) {
        if messages > 0 {
            self.count("lost", messages);
            let lost = self.hearing.lost.fetch_add(messages as u64, Relaxed) + messages as u64;
            if self.told_at.get().is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
                self.told_at.set(Some(Instant::now()));
                log::error!(lost; "what is published by redis is lost: it cannot be stored, and there is no room to wait");
            }
        }
    }

    fn count(&self, outcome: &str, messages: usize) {
        self.parts.metrics.pubsub_heard.with_label_values(&[outcome]).inc_by(messages as u64);
    }
}

/// Where messages come from, and those that wait.
struct Source {
    subscription: Option<Subscription>,
    /// Why the subscription has ended, if it has ended by itself.
    failure: Option<BusError>,
    inbox: Inbox,
}

impl Source {
    /// Takes the next message, or learns that there is none any more. How many are lost, because there is no room.
    async fn receive(&mut self) -> usize {
        let Some(subscription) = &mut self.subscription else { return std::future::pending().await };
        match subscription.next().await {
            Ok(message) => usize::from(!self.inbox.push(message)),
            Err(error) => {
                (self.subscription, self.failure) = (None, Some(error));
                0
            }
        }
    }
}
