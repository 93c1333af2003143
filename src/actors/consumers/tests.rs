//! The actor alone: nobody is at the address of persistence.

use actix::Addr;

use super::*;
use crate::actors::consumers::messages::MemberLink;
use crate::domain::lease::Grant;
use crate::domain::pattern::Pattern;
use crate::protocol::consumer::{JoinRequest, PolicyRequest};
use crate::protocol::subscription::Start;
use crate::runtime::life::{ChildChanged, ChildId};
use crate::runtime::report::ActorKind;
use crate::storage::{ConsumerRecord, LeasedConsumer, ReadWatch, StoreOptions, StoreUrl};
use crate::telemetry::health::StoreHealth;

const POLICY: ConsumerPolicy = ConsumerPolicy { ack_wait: Duration::from_secs(30), max_in_flight: 8, max_deliver: 0 };

/// A supervisor that does nothing.
struct Bystander;

impl Actor for Bystander {
    type Context = Context<Self>;
}

impl Handler<ChildChanged> for Bystander {
    type Result = ();

    fn handle(&mut self, _: ChildChanged, _: &mut Self::Context) {}
}

fn parts(dir: &std::path::Path) -> ConsumersParts {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let watch = ReadWatch::new(Arc::new(StoreHealth::new(Duration::MAX)), Arc::clone(&metrics));
    ConsumersParts {
        persistence: Address::vacant(),
        limits: ConsumerLimits { max_count: 8, max_unacked_bytes: 1024, policy: POLICY },
        reader: Reader::new(StoreOptions::new(StoreUrl::Sqlite(dir.join("events.db"))), watch).expect("a pool"),
        position: Arc::default(),
        metrics,
        pushes: Arc::default(),
        renewed: Arc::default(),
    }
}

/// The actor of this generation, which holds the lease of the consumer `c`.
fn begin(generation: Generation, parts: ConsumersParts) -> Addr<Consumers> {
    let record = ConsumerRecord {
        service: 1,
        name: "c".to_owned(),
        pattern: "a.>".to_owned(),
        filter: None,
        fencing_epoch: 1,
        ack_floor: 0,
        policy: POLICY,
        created_at: crate::domain::event::Timestamp(0),
    };
    let child = ChildId { kind: ActorKind::Consumers, number: 0 };
    let life = Life::new(child, generation, Bystander.start().recipient());
    Consumers::create(|ctx| {
        let mut durables = Consumers::new(parts, life);
        durables.open(LeasedConsumer { grant: Grant::Taken, record, marks: Some(Vec::new()), has_renewed: false }, ctx);
        durables
    })
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
    let parts = parts(dir.path());
    let earlier = join(&begin(1, parts.clone())).await;
    let actor = begin(2, parts);
    let member = join(&actor).await;
    assert_eq!(earlier.member, member.member, "each generation counts its members anew");
    actor.send(Leave(earlier)).await.expect("taken");
    assert_eq!(members(&actor).await, 1);
    actor.send(Leave(member)).await.expect("taken");
    assert_eq!(members(&actor).await, 0);
}
