//! The actor with its writer, and without the others.

use actix::Addr;

use super::*;
use crate::actors::consumers::messages::MemberLink;
use crate::actors::persistence::{PersistenceParts, fixture};
use crate::config::{Config, LoadArgs};
use crate::domain::pattern::Pattern;
use crate::protocol::consumer::{JoinRequest, PolicyRequest};
use crate::protocol::subscription::Start;
use crate::runtime::report::ActorKind;
use crate::storage::{Alteration, Outcome, Write};

/// What the actor is made of, with a writer at its address, and what that is made of.
fn parts(dir: &std::path::Path) -> (ConsumersParts, PersistenceParts) {
    let position = Arc::default();
    let writer = fixture::parts(fixture::store(dir), Arc::default(), Arc::clone(&position));
    let parts = ConsumersParts {
        persistence: Address::vacant(),
        config: Config::load(LoadArgs::default(), []).expect("the defaults").consumers,
        reader: Reader::unwatched(fixture::store(dir)),
        position,
        cluster: Arc::clone(&writer.cluster),
        metrics: Arc::new(Metrics::new().expect("metrics")),
        pushes: Arc::default(),
        renewed: Arc::default(),
    };
    fixture::start(&parts.persistence, 1, &writer);
    (parts, writer)
}

fn begin(generation: Generation, parts: ConsumersParts) -> Addr<Consumers> {
    Consumers::new(parts, Life::unsupervised(ActorKind::Consumers, generation)).start()
}

/// A new member of `c`.
async fn join(actor: &Addr<Consumers>) -> MemberKey {
    let request = JoinRequest {
        name: "c".to_owned(),
        pattern: Pattern::parse("a.>".to_owned()).expect("a pattern"),
        filter: None,
        start: Start::Now,
        log: None,
        policy: PolicyRequest::default(),
    };
    let (link, _, _) = MemberLink::new();
    actor.send(messages::Join { request, log_end: 0, link }).await.expect("an answer").expect("a member").key
}

async fn members(actor: &Addr<Consumers>) -> usize {
    let statuses = actor.send(ListConsumers).await.expect("an answer");
    statuses.iter().map(|status| status.members).sum()
}

#[actix_rt::test]
async fn a_late_leave_of_an_earlier_generation_removes_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let (parts, _) = parts(dir.path());
    let earlier = join(&begin(1, parts.clone())).await;
    let actor = begin(2, parts);
    let member = join(&actor).await;
    assert_eq!(earlier.member, member.member, "each generation counts its members anew");
    actor.send(Leave(earlier)).await.expect("taken");
    assert_eq!(members(&actor).await, 1);
    actor.send(Leave(member)).await.expect("taken");
    assert_eq!(members(&actor).await, 0);
}

/// An operator has moved the consumer in the store shortly before the writer failed: the answer of the next one tells it.
#[actix_rt::test]
async fn a_new_writer_is_asked_for_the_leases_of_consumers_at_once() {
    tokio::time::pause();
    let dir = tempfile::tempdir().expect("a directory");
    let (parts, writer) = parts(dir.path());
    let persistence = parts.persistence.clone();
    fixture::join(&persistence, &writer.cluster).await;
    let actor = begin(1, parts);
    join(&actor).await;
    let ack_floors = async || {
        let statuses = actor.send(ListConsumers).await.expect("an answer");
        statuses.into_iter().map(|status| status.ack_floor).collect::<Vec<_>>()
    };
    let seek = Write::AlterConsumer { name: "c".to_owned(), alteration: Alteration::Seek(5) };
    assert_eq!(persistence.commit(seek).await, Ok(Outcome::Changed(true)));
    fixture::end(&persistence, 1).await;
    assert_eq!(ack_floors().await, [0], "nobody has told it");
    let began = tokio::time::Instant::now();
    fixture::start(&persistence, 2, &writer);
    while ack_floors().await != [5] {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(began.elapsed() < TICK_INTERVAL / 2, "it does not wait for the tick");
    }
}
