//! The client and its writer: what is asked when.

use actix::prelude::Actor as _;

use std::sync::Mutex;

use super::messages::ServiceCommand;
use super::post_tests::target;
use super::*;
use crate::actors::persistence::{PersistenceParts, fixture};
use crate::actors::synchronizer::messages::Demand;
use crate::runtime::address::{Depth, Queued};
use crate::runtime::report::ActorKind;
use crate::storage::{ServiceChange, Write};

/// In the place of the synchronizer.
struct Demanded(Arc<Mutex<Vec<Demand>>>);

impl Actor for Demanded {
    type Context = Context<Self>;
}

impl Handler<Queued<Synchronize>> for Demanded {
    type Result = ();

    fn handle(&mut self, message: Queued<Synchronize>, _: &mut Self::Context) {
        self.0.lock().expect("not poisoned").push(message.take().demand);
    }
}

/// What a client is made of, over a store of its own.
pub struct World {
    pub parts: ClientParts,
    writer: PersistenceParts,
    /// What the synchronizer was told.
    pub demanded: Arc<Mutex<Vec<Demand>>>,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn new(url: &str, options: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (demanded, synchronizer) = (Arc::default(), Address::vacant());
        synchronizer.fill(1, Demanded(Arc::clone(&demanded)).start(), Depth::default());
        let service = Arc::new(target(url, options));
        let slot = Arc::new(ServiceSlot::new(&service, Duration::from_secs(60)));
        let slots = Arc::new([Arc::clone(&slot)]);
        let position = Arc::<LogPosition>::default();
        let writer = fixture::parts(fixture::store(dir.path()), slots, Arc::clone(&position));
        let parts = ClientParts {
            call_ends: Arc::default(),
            persistence: Address::vacant(),
            synchronizer: synchronizer.mailbox(),
            service,
            slot,
            position,
            cluster: Arc::clone(&writer.cluster),
            reader: Reader::unwatched(fixture::store(dir.path())),
            metrics: Arc::new(Metrics::new().expect("distinct names")),
            log_activity: false,
        };
        fixture::start(&parts.persistence, 1, &writer);
        fixture::join(&parts.persistence, &writer.cluster).await;
        Self { parts, writer, demanded, _dir: dir }
    }

    /// The parts of a client whose service the store does not know.
    pub fn unknown(&self) -> ClientParts {
        let slot = Arc::new(ServiceSlot::new(&self.parts.service, Duration::from_secs(60)));
        ClientParts { slot, ..self.parts.clone() }
    }

    pub async fn wait_until_active(&self, client: &Address<Client>) {
        while state(client).await != "active" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn state(client: &Address<Client>) -> serde_json::Value {
    client.ask(Observe).await.expect("an answer").state["state"].clone()
}

/// An operator has told another node to pause the service shortly before the writer failed: the answer of the next one
/// has that command.
#[actix_rt::test]
async fn a_new_writer_is_asked_for_the_lease_of_a_service_at_once() {
    tokio::time::pause();
    let world = World::new("http://127.0.0.1:9", &[]).await;
    let (persistence, slot) = (world.parts.persistence.clone(), Arc::clone(&world.parts.slot));
    let client = Address::vacant();
    client.fill(
        1,
        Client::new(world.parts.clone(), Life::unsupervised(ActorKind::Client, 1)).start(),
        Depth::default(),
    );
    world.wait_until_active(&client).await;
    let service = slot.id().expect("a registered service");
    let command = ServiceChange::Asked { service, command: "pause".to_owned() };
    persistence.commit(Write::ChangeService(command)).await.expect("stored");
    fixture::end(&persistence, 1).await;
    assert_eq!(state(&client).await, "active", "nobody has told it");
    let began = tokio::time::Instant::now();
    fixture::start(&persistence, 2, &world.writer);
    while state(&client).await != "paused" {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(began.elapsed() < TICK_INTERVAL / 2, "it does not wait for the tick");
    }
}

/// What another node was told goes through the store; what this one is told, at once.
#[actix_rt::test]
async fn what_is_asked_of_the_synchronizer_reaches_it_from_any_node() {
    let world = World::new("http://127.0.0.1:9", &[("sync", "{ types = ['a'] }")]).await;
    let client = Address::vacant();
    client.fill(
        1,
        Client::new(world.parts.clone(), Life::unsupervised(ActorKind::Client, 1)).start(),
        Depth::default(),
    );
    world.wait_until_active(&client).await;
    let service = world.parts.slot.id().expect("a registered service");
    for demand in [Demand::Cancel, Demand::Repair { ahead: true }] {
        let command = ServiceCommand::Synchronize(demand).as_str().to_owned();
        world
            .parts
            .persistence
            .commit(Write::ChangeService(ServiceChange::Asked { service, command }))
            .await
            .expect("stored");
    }
    let applied = client.ask(messages::Operate(ServiceCommand::Synchronize(Demand::Check))).await;
    assert_eq!(applied, Ok(Some(messages::Applied::Here)));
    let demanded = [Demand::Cancel, Demand::Repair { ahead: true }, Demand::Check];
    assert_eq!(*world.demanded.lock().expect("not poisoned"), demanded, "in the order of the store, each once");
    client.ask(messages::Operate(ServiceCommand::Reset)).await.expect("an answer");
    assert_eq!(world.demanded.lock().expect("not poisoned").len(), 3);
}

#[test]
fn every_command_is_read_back_from_the_store() {
    let demands = [false, true].map(|ahead| Demand::Repair { ahead });
    let demands = demands.into_iter().chain([Demand::Check, Demand::Cancel, Demand::Recovered]);
    for command in ServiceCommand::ALL.into_iter().chain(demands.map(ServiceCommand::Synchronize)) {
        assert_eq!(ServiceCommand::parse(command.as_str()), Some(command));
    }
}
