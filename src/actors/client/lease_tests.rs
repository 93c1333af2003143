//! The client and its writer: what is asked when.

use actix::prelude::Actor as _;

use super::post_tests::target;
use super::*;
use crate::actors::persistence::fixture;
use crate::runtime::report::ActorKind;
use crate::storage::{ServiceChange, Write};

/// An operator has told another node to pause the service shortly before the writer failed: the answer of the next one
/// has that command.
#[actix_rt::test]
async fn a_new_writer_is_asked_for_the_lease_of_a_service_at_once() {
    tokio::time::pause();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Arc::new(target("http://127.0.0.1:9", &[]));
    let slot = Arc::new(ServiceSlot::new(&service, Duration::from_secs(60)));
    let slots = Arc::new([Arc::clone(&slot)]);
    let position = Arc::<LogPosition>::default();
    let writer = fixture::parts(fixture::store(dir.path()), slots, Arc::clone(&position));
    let parts = ClientParts {
        persistence: Address::vacant(),
        service,
        slot: Arc::clone(&slot),
        position,
        cluster: Arc::clone(&writer.cluster),
        reader: Reader::unwatched(fixture::store(dir.path())),
        metrics: Arc::new(Metrics::new().expect("distinct names")),
        log_activity: false,
    };
    let persistence = parts.persistence.clone();
    fixture::start(&persistence, 1, &writer);
    fixture::join(&persistence, &writer.cluster).await;
    let client = Client::new(parts, Life::unsupervised(ActorKind::Client, 1)).start();
    let state = async || client.send(Observe).await.expect("an answer").state["state"].clone();
    while state().await != "active" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let service = slot.id().expect("a registered service");
    let command = ServiceChange::Asked { service, command: "pause".to_owned() };
    persistence.commit(Write::ChangeService(command)).await.expect("stored");
    fixture::end(&persistence, 1).await;
    assert_eq!(state().await, "active", "nobody has told it");
    let began = tokio::time::Instant::now();
    fixture::start(&persistence, 2, &writer);
    while state().await != "paused" {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(began.elapsed() < TICK_INTERVAL / 2, "it does not wait for the tick");
    }
}
