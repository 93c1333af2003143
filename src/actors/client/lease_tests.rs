//! The client and its writer: what is asked when.

use actix::prelude::Actor as _;

use super::post_tests::target;
use super::*;
use crate::actors::persistence::{PersistenceParts, fixture};
use crate::runtime::address::Depth;
use crate::runtime::report::ActorKind;
use crate::storage::{ServiceChange, Write};

/// What a client is made of, over a store of its own.
pub struct World {
    pub parts: ClientParts,
    writer: PersistenceParts,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn new(url: &str, options: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let service = Arc::new(target(url, options));
        let slot = Arc::new(ServiceSlot::new(&service, Duration::from_secs(60)));
        let slots = Arc::new([Arc::clone(&slot)]);
        let position = Arc::<LogPosition>::default();
        let writer = fixture::parts(fixture::store(dir.path()), slots, Arc::clone(&position));
        let parts = ClientParts {
            persistence: Address::vacant(),
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
        Self { parts, writer, _dir: dir }
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
