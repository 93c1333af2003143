//! The bus: what goes over Redis. It runs only where one is configured.
//!
//! Each part of it is a task of its own with connections of its own, and begins anew after any failure. A part that
//! fails leaves the others alone. The store has the truth: a part goes on from what is stored.

mod hear;
mod ingest;
mod mirror;
mod newest;
mod out;
mod own_events;
mod relay;
mod standing;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, Context, Handler, MessageResult, ResponseActFuture};
use tokio::sync::Notify;

use self::hear::{Hear, Hearing};
use self::ingest::{Ingest, Reading};
use self::mirror::{Mirror, Mirroring};
use self::newest::Newest;
use self::out::Out;
use self::relay::{Outgoing, Relay};
use self::standing::{Standing, keep};
use super::cluster::Cluster;
use super::follower::Following;
use super::follower::tenure::Candidate;
use super::log_position::LogPosition;
use super::persistence::Persistence;
use super::persistence::intake::Backlog;
use super::persistence::messages::{EventsCommitted, RelayBatch};
use super::relay::Looks;
use super::remembered::Remembered;
use super::router::messages::RouteBatch;
use super::system::view::SystemView;
use crate::bus::{BusError, Redis};
use crate::config::{IngestConfig, MirrorConfig, PubSubConfig};
use crate::domain::lease::LeaseName;
use crate::protocol::publish::PublishRules;
use crate::runtime::address::{Address, Mailbox};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::runtime::stop::Stop;
use crate::runtime::tasks::{Tasked, Tasks};
use crate::storage::{Reader, SharedCatalogue};
use crate::telemetry::bus_health::BusHealth;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Messages that may wait. Each commit is one or two, and takes no time.
pub const MAILBOX: usize = 1024;
/// How often it is looked whether the server answers.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The name of the part that only looks whether the server answers.
const CONNECTION: &str = "connection";

/// What the actor is made of; kept to make another.
#[derive(Clone)]
pub struct BusParts {
    pub redis: Redis,
    /// How the parts of the bus are.
    pub standing: Arc<BusHealth>,
    pub ingest: IngestConfig,
    pub pubsub: PubSubConfig,
    pub mirror: MirrorConfig,
    pub rules: PublishRules,
    pub catalogue: Arc<SharedCatalogue>,
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub persistence: Address<Persistence>,
    /// Who passes batches of other nodes on.
    pub router: Mailbox<EventsCommitted>,
    /// None where no other node can have the store.
    pub looks: Option<Looks>,
    pub remembered: Arc<Remembered>,
    pub cluster: Arc<Cluster>,
    pub system: Arc<SystemView>,
    pub backlog: Arc<Backlog>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
}

impl BusParts {
    /// Whether what comes in can be stored.
    fn may_take(&self) -> bool {
        let Self { cluster, backlog, health, .. } = self;
        health.store.is_up() && backlog.has_room() && cluster.may_act() && !health.is_draining()
    }

    fn candidate(&self, lease: LeaseName, position: String, stop: Stop) -> Candidate {
        let (persistence, cluster) = (self.persistence.clone(), Arc::clone(&self.cluster));
        Candidate { lease, position, persistence, cluster, stop }
    }
}

/// See the module.
pub struct Bus {
    parts: BusParts,
    standing: Standing,
    tasks: Tasks,
    reading: Arc<Reading>,
    outgoing: Rc<Outgoing>,
    /// Notified when there may be events to go out.
    wake: Arc<Notify>,
    sending: Arc<Following>,
    mirroring: Arc<Mirroring>,
    hearing: Arc<Hearing>,
}

impl Bus {
    pub fn new(parts: BusParts, life: Life) -> Self {
        let standing = Standing { health: Arc::clone(&parts.standing), metrics: Arc::clone(&parts.metrics) };
        let (reading, outgoing, wake, sending, mirroring, hearing) = Default::default();
        Self { parts, standing, tasks: Tasks::new(life), reading, outgoing, wake, sending, mirroring, hearing }
    }
}

/// Whether the server answers, also where nothing else is asked of it.
async fn connection(redis: &Redis, standing: &Standing, stop: &Stop) -> Result<(), BusError> {
    let Some(link) = stop.or(redis.connect()).await else { return Ok(()) };
    let mut link = link?;
    loop {
        let Some(answer) = stop.or(link.ping()).await else { return Ok(()) };
        answer?;
        standing.up(CONNECTION);
        if stop.or(tokio::time::sleep(PING_INTERVAL)).await.is_none() {
            return Ok(());
        }
    }
}

impl Tasked for Bus {
    fn tasks(&mut self) -> &mut Tasks {
        &mut self.tasks
    }
}

impl Actor for Bus {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let (redis, standing, stop) = (self.parts.redis.clone(), self.standing.clone(), self.tasks.stop());
        let task = async move {
            keep(CONNECTION, &standing, &stop, async || connection(&redis, &standing, &stop).await).await;
        };
        self.run(task, ctx);
        let (standing, stop) = (self.standing.clone(), self.tasks.stop());
        let newest = Newest::new(&self.parts, (standing.clone(), stop.clone()));
        let task = async move { keep(newest::PART, &standing, &stop, async || newest.run().await).await };
        self.run(task, ctx);
        if let Some(looks) = self.parts.looks.clone() {
            let (standing, stop) = (self.standing.clone(), self.tasks.stop());
            let relay = Relay::new(&self.parts, looks, (standing.clone(), stop.clone()), Rc::clone(&self.outgoing));
            let task = async move { keep(relay::PART, &standing, &stop, async || relay.run().await).await };
            self.run(task, ctx);
        }
        if self.parts.ingest.enabled {
            let (standing, stop) = (self.standing.clone(), self.tasks.stop());
            let mut ingest = Ingest::new(&self.parts, standing.clone(), stop.clone(), Arc::clone(&self.reading));
            let task = async move { keep(ingest::PART, &standing, &stop, async || ingest.run().await).await };
            self.run(task, ctx);
        }
        if self.parts.pubsub.inward {
            let (standing, stop) = (self.standing.clone(), self.tasks.stop());
            let hear = Hear::new(&self.parts, standing.clone(), stop.clone(), Arc::clone(&self.hearing));
            let task = async move { keep(hear::PART, &standing, &stop, async || hear.run().await).await };
            self.run(task, ctx);
        }
        if self.parts.pubsub.out {
            let (standing, stop) = (self.standing.clone(), self.tasks.stop());
            let wake = (Arc::clone(&self.wake), Arc::clone(&self.sending));
            let mut out = Out::new(&self.parts, standing.clone(), stop.clone(), wake);
            let task = async move { keep(out::PART, &standing, &stop, async || out.run().await).await };
            self.run(task, ctx);
        }
        if self.parts.mirror.enabled {
            let (standing, stop) = (self.standing.clone(), self.tasks.stop());
            let mut mirror = Mirror::new(&self.parts, standing.clone(), stop.clone(), Arc::clone(&self.mirroring));
            let task = async move { keep(mirror::PART, &standing, &stop, async || mirror.run().await).await };
            self.run(task, ctx);
        }
    }
}

impl Handler<RouteBatch> for Bus {
    type Result = ();

    /// A hint: the events are read from the store.
    fn handle(&mut self, _: RouteBatch, _: &mut Self::Context) {
        self.wake.notify_one();
        self.mirroring.wake.notify_one();
    }
}

impl Handler<RelayBatch> for Bus {
    type Result = ();

    fn handle(&mut self, batch: RelayBatch, _: &mut Self::Context) {
        if !self.outgoing.push(batch) {
            self.parts.metrics.relay_sent.with_label_values(&["dropped"]).inc();
        }
    }
}

impl Handler<Observe> for Bus {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        let ingest = self.parts.ingest.enabled.then(|| self.reading.describe());
        let hear = self.parts.pubsub.inward.then(|| self.hearing.describe());
        let out = self.parts.pubsub.out.then(|| self.sending.describe());
        MessageResult(Details::of(serde_json::json!({
            "redis": self.parts.standing.describe_in_full(),
            "ingest": ingest,
            "pubsub_in": hear,
            "pubsub_out": out,
            "mirror": self.parts.mirror.enabled.then(|| self.mirroring.describe()),
            "relay": self.parts.looks.is_some().then(|| self.outgoing.describe()),
        })))
    }
}

impl Handler<Finish> for Bus {
    type Result = ResponseActFuture<Self, ()>;

    /// What was read is stored and acknowledged.
    fn handle(&mut self, Finish: Finish, ctx: &mut Self::Context) -> Self::Result {
        Tasked::finish(self, ctx)
    }
}

crate::supervised!(Bus, RelayBatch, RouteBatch);
