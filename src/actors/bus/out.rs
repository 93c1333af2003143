//! What is committed goes out by the publish/subscribe of Redis: a follower of the log.
//!
//! - *PO-1* Every event that did not come in this way and is not the Event Handler's own goes out, in the order of ids.
//!   It goes out before its position is stored: after a crash it may go out again, with the same text.
//! - *PO-2* Where publish/subscribe also comes in, the UUID of an event is stored before it goes out: whoever hears it
//!   knows it.

use std::sync::Arc;

use tokio::sync::Notify;

use super::BusParts;
use super::standing::Standing;
use crate::actors::follower::{Fold, Follower, Following};
use crate::bus::{BusError, Link, Publication, publish};
use crate::domain::event::{Event, EventId};
use crate::domain::lease::{Fence, LeaseName};
use crate::domain::log::{EventUuid, LogId};
use crate::protocol::envelope::{ALL, dead_letter, event_uuid, write_envelope};
use crate::protocol::event_json::DeadDelivery;
use crate::runtime::stop::Stop;
use crate::storage::{FollowPage, Outcome, StoreError, Write};

/// The name of the part.
pub const PART: &str = "pubsub out";
/// Another one, that fails alone: the key of a list is in use for something else.
const LISTS: &str = "pubsub lists";

/// About how much goes to Redis in one request, before the lists.
const BATCH_BYTES: usize = 1 << 20;

/// See the module.
pub struct Out {
    follower: Follower,
    sender: Sender,
}

struct Sender {
    parts: BusParts,
    standing: Standing,
    following: Arc<Following>,
    link: Option<Link>,
    /// Up to where this node has sent everything, though it may not be stored.
    sent: Option<(LogId, EventId)>,
}

impl Out {
    pub fn new(
        parts: &BusParts,
        standing: Standing,
        stop: Stop,
        (wake, following): (Arc<Notify>, Arc<Following>),
    ) -> Self {
        let follower = Follower {
            candidate: parts.candidate(LeaseName::pubsub_out(), "pubsub:out".to_owned(), stop),
            reader: parts.reader.clone(),
            log: Arc::clone(&parts.position),
            store: Arc::clone(&parts.health.store),
            wake,
            following: Arc::clone(&following),
            metrics: Arc::clone(&parts.metrics),
        };
        Self { follower, sender: Sender { parts: parts.clone(), standing, following, link: None, sent: None } }
    }

    /// Sends until it is to stop, or Redis fails.
    pub async fn run(&mut self) -> Result<(), BusError> {
        self.follower.run(&mut self.sender).await
    }
}

/// What goes to Redis in one request.
#[derive(Default)]
struct Batch<'a> {
    publications: Vec<Publication<'a>>,
    /// Of the publications.
    ids: Vec<(EventUuid, EventId)>,
    dead_letters: Vec<Vec<u8>>,
    bytes: usize,
}

impl Fold for Sender {
    type Error = BusError;

    /// Sends what is new of a page. Nothing is written but the position.
    async fn fold(&mut self, page: &FollowPage, fence: &Fence) -> Result<Option<Vec<Write>>, BusError> {
        let Some(log) = self.parts.position.log_id() else { return Ok(None) };
        let sent = self.sent.filter(|(sent_log, _)| *sent_log == log).map_or(0, |(_, id)| id);
        let mut batch = Batch::default();
        for event in page.events.iter().filter(|event| event.id > sent) {
            let Ok(dead_letter) = self.dead_letter(log, event).await else { return Ok(None) };
            if let Some(dead_letter) = dead_letter {
                batch.bytes += dead_letter.len();
                batch.dead_letters.push(dead_letter);
            }
            if !event.name.is_system() && event.name.as_str() != ALL && !page.heard.contains(&event.id) {
                let envelope = self.envelope(log, event);
                batch.bytes += envelope.len();
                batch.ids.push((event_uuid(log, event.id), event.id));
                batch.publications.push(Publication { name: event.name.as_str(), envelope });
            }
            if batch.bytes >= BATCH_BYTES {
                if !self.push(&batch, fence).await? {
                    return Ok(None);
                }
                batch = Batch::default();
                self.sent = Some((log, event.id));
            }
        }
        if !self.push(&batch, fence).await? {
            return Ok(None);
        }
        // A page that comes again may end before.
        self.sent = Some((log, page.through.max(sent)));
        Ok(Some(Vec::new()))
    }

    fn calm(&self) {
        self.standing.up(PART);
        if !self.following.is_held() {
            self.standing.up(LISTS);
        }
    }
}

impl Sender {
    /// Whether it may act, and so has sent these.
    async fn push(&mut self, batch: &Batch<'_>, fence: &Fence) -> Result<bool, BusError> {
        let Batch { publications, ids, dead_letters, bytes: _ } = batch;
        if publications.is_empty() && dead_letters.is_empty() {
            return Ok(true);
        }
        if self.parts.pubsub.inward && !ids.is_empty() && !self.mark(ids.clone(), fence).await {
            return Ok(false);
        }
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                let mut link = self.parts.redis.connect().await?;
                // A server that hangs takes the connection, and would do later whatever was sent in vain.
                link.ping().await?;
                link
            }
        };
        // A process that was frozen may have lost the lease.
        if !self.parts.cluster.may_act() {
            return Ok(false);
        }
        match publish(&mut link, publications, dead_letters, &self.parts.pubsub).await? {
            Some(error) => self.standing.down(LISTS, &error),
            None => self.standing.up(LISTS),
        }
        self.link = Some(link);
        // It works, however much is to go out still.
        self.standing.up(PART);
        for (kind, count) in [("event", publications.len()), ("dead_letter", dead_letters.len())] {
            self.parts.metrics.pubsub_sent.with_label_values(&[kind]).inc_by(count as u64);
        }
        Ok(true)
    }

    /// Whether these are known to be marked as sent.
    async fn mark(&self, ids: Vec<(EventUuid, EventId)>, fence: &Fence) -> bool {
        let answer = self.parts.persistence.commit_all(Some(fence.clone()), vec![Write::MarkSent(ids)]);
        let Some(answer) = answer else { return false };
        matches!(answer.await, Ok(Ok(outcomes)) if outcomes == [Outcome::Saved])
    }

    /// What is to be told if `event` says that a delivery to a service is dead.
    async fn dead_letter(&self, log: LogId, event: &Event) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(dead) = DeadDelivery::of(event).filter(|dead| dead.durable.is_none()) else { return Ok(None) };
        match self.parts.reader.event(dead.event_id).await? {
            Some((of, _)) if of.name.as_str() != ALL => {
                Ok(Some(dead_letter(&self.envelope(log, &of), &message(&dead), event.created_at)))
            }
            Some(_) => Ok(None),
            None => {
                log::warn!(id = dead.event_id; "the event of a dead delivery is gone, no dead letter");
                Ok(None)
            }
        }
    }

    fn envelope(&self, log: LogId, event: &Event) -> Vec<u8> {
        let source = self.parts.pubsub.sources.get(&*event.source).map_or(&*event.source, String::as_str);
        let mut envelope = Vec::with_capacity(event.payload.len() + 256);
        write_envelope(&mut envelope, log, event, source);
        envelope
    }
}

fn message(dead: &DeadDelivery) -> String {
    let DeadDelivery { service, reason, attempts, error, .. } = dead;
    let error = error.as_deref().unwrap_or("no answer is known");
    format!("delivery to {service} given up after {attempts} attempts ({reason}): {error}")
}
