//! Asks and their dispatcher, and the client of a service that is asked.

use std::time::Duration;

use actix::prelude::Actor as _;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::super::messages::{BodyEnd, Content, Method};
use super::super::{lease_tests, post_tests};
use super::*;
use crate::actors::client::messages;
use crate::actors::synchronizer::messages::Demand;
use crate::domain::delivery::Verdict;
use crate::domain::dispatch::{Next, tests::POLICY};
use crate::domain::priority::Lane;
use crate::runtime::address::{Address, Depth};
use crate::runtime::life::Life;
use crate::runtime::report::ActorKind;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

fn get(path: &str) -> Request {
    Request {
        method: Method::Get,
        path: Some(path.to_owned()),
        headers: Vec::new(),
        body: Default::default(),
        id: "ask_1".to_owned(),
        traceparent: None,
        key: None,
        lane: Lane::Normal,
        patience: Duration::from_secs(10),
        max_answer_bytes: 100,
        is_retried: true,
    }
}

fn keyed() -> Request {
    Request { key: Some("k".into()), ..get("/") }
}

fn fails(is_perhaps_sent: bool) -> Answer {
    Answer::Failed { kind: "connect", message: String::new(), is_perhaps_sent }
}

/// The asks of a client, and its dispatcher.
struct Fixture {
    asks: Asks,
    dispatcher: Dispatcher,
}

impl Fixture {
    fn new() -> Self {
        Self { asks: Asks::default(), dispatcher: Dispatcher::new(POLICY, None, at(0)) }
    }

    fn ask(&mut self, request: Request) -> oneshot::Receiver<Answer> {
        let (asker, answer) = Asker::new();
        self.asks.take(Ask { request, asker, call: None }, at(0));
        answer
    }

    fn send(&mut self, now: Timestamp) -> Vec<u64> {
        self.asks.offer(&mut self.dispatcher, now);
        let mut sent = Vec::new();
        while let Next::Send(PendingWork { id: WorkId::Ask(number), .. }) = self.dispatcher.next(now, 0.0) {
            self.asks.is_sent(number);
            sent.push(number);
        }
        sent
    }

    fn fail(&mut self, number: u64, now: Timestamp) {
        let verdict = Verdict::Retry { retry_after: None };
        self.dispatcher.finished(WorkId::Ask(number), verdict, Duration::ZERO, now, 0.0).expect("in flight");
    }
}

#[test]
fn what_waits_for_too_long_is_given_up_and_what_is_under_way_is_not() {
    let mut fixture = Fixture::new();
    let (mut first, mut second) = (fixture.ask(keyed()), fixture.ask(keyed()));
    assert_eq!(fixture.asks.next_due(), Some(at(0)));
    assert_eq!(fixture.send(at(0)), [1], "one of a key at a time");
    assert!(fixture.send(at(10)).is_empty());
    assert_eq!(second.try_recv(), Ok(Answer::NotSent(NotSent::OutOfTime)));
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
    fixture.asks.give_up_all(&mut fixture.dispatcher, NotSent::NotHere);
    assert_eq!((first.try_recv(), fixture.asks.next_due()), (Err(TryRecvError::Empty), None));
    drop(fixture);
    let answer = first.try_recv();
    assert!(matches!(answer, Ok(Answer::Failed { kind: "ended", is_perhaps_sent: true, .. })), "{answer:?}");
}

#[test]
fn a_failure_is_tried_again_when_it_is_due_and_every_try_counts() {
    let mut fixture = Fixture::new();
    let mut answer = fixture.ask(keyed());
    assert_eq!(fixture.send(at(0)), [1]);
    fixture.fail(1, at(1));
    assert!(fixture.asks.may_wait_until(1, at(9)) && !fixture.asks.may_wait_until(1, at(10)));
    fixture.asks.try_again(1, at(3), fails(true));
    assert_eq!((fixture.send(at(2)), fixture.asks.next_due()), (vec![], Some(at(3))));
    assert_eq!((fixture.send(at(3)), fixture.asks.made(1)), (vec![1], 2));
    fixture.fail(1, at(4));
    fixture.asks.try_again(1, at(9), fails(false));
    assert!(fixture.send(at(10)).is_empty());
    assert_eq!(answer.try_recv(), Ok(fails(true)), "what the first try may have done is not forgotten");
}

#[test]
fn no_more_wait_than_may_wait_and_none_is_left_without_an_answer() {
    let mut fixture = Fixture::new();
    let mut answers: Vec<_> = (0..=MAX_ASKS).map(|_| fixture.ask(get("/"))).collect();
    assert_eq!(answers.pop().expect("one").try_recv(), Ok(Answer::NotSent(NotSent::Full)));
    let large = || Request { body: vec![0; MAX_BYTES].into(), ..get("/") };
    let mut other = Fixture::new();
    let (mut large, mut refused) = (other.ask(large()), other.ask(large()));
    assert_eq!(refused.try_recv(), Ok(Answer::NotSent(NotSent::Full)));
    assert_eq!(large.try_recv(), Err(TryRecvError::Empty));
    fixture.send(at(0));
    let released = fixture.dispatcher.release();
    released.iter().for_each(|work| {
        if let WorkId::Ask(number) = work.id {
            fixture.asks.released(number)
        }
    });
    let sent = answers.len() - fixture.send(at(0)).len() - 3;
    fixture.asks.give_up_all(&mut fixture.dispatcher, NotSent::NotHere);
    let given_up = answers.iter_mut().filter_map(|answer| answer.try_recv().ok());
    assert!(given_up.eq(std::iter::repeat_n(Answer::NotSent(NotSent::NotHere), sent)));
    assert_eq!(fixture.dispatcher.release(), []);
}

/// An actor over a store of its own, at an address.
async fn client(url: &str, options: &[(&str, &str)]) -> (Address<Client>, lease_tests::World) {
    let world = lease_tests::World::new(url, options).await;
    let address = Address::vacant();
    let client = Client::new(world.parts.clone(), Life::unsupervised(ActorKind::Client, 1)).start();
    address.fill(1, client, Depth::default());
    world.wait_until_active(&address).await;
    (address, world)
}

#[actix_rt::test]
async fn a_service_is_asked_as_it_gets_its_deliveries() {
    let (addr, requests) = post_tests::serve_always("HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno");
    let secret = ("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let (client, _world) = client(&format!("http://{addr}/base"), &[secret, ("breaker_consecutive", "1")]).await;
    for _ in 0..30 {
        let answer = messages::ask(&client.mailbox(), get("/sync/a/digest?buckets=2")).await;
        let content = Content { body: "no".into(), end: BodyEnd::Whole };
        assert_eq!(
            answer,
            Answer::Answered { status: 404, content, is_repeat: false },
            "the breaker does not count it"
        );
        let (_, request) = requests.recv().expect("a request");
        assert!(request.starts_with("GET /base/sync/a/digest?buckets=2 HTTP/1.1\r\n"), "{request}");
        let head = request.to_lowercase();
        assert!(head.contains("\r\nwebhook-id: ask_1\r\n") && head.contains("\r\nwebhook-signature: v1,"), "{head}");
        assert!(!head.contains("idempotency-key"), "{head}");
    }
    let post = Request { method: Method::Post, path: None, body: "{}".into(), ..get("") };
    messages::ask(&client.mailbox(), Request { is_retried: false, ..post }).await;
    let (_, request) = requests.recv().expect("a request");
    assert!(request.starts_with("POST /base/events HTTP/1.1\r\n") && request.ends_with("{}"), "{request}");
    assert!(request.to_lowercase().contains("\r\nidempotency-key: ask_1\r\n"), "{request}");
}

#[actix_rt::test]
async fn the_breaker_of_deliveries_keeps_asks_back() {
    let (addr, _requests) = post_tests::serve_always("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let (client, _world) = client(&format!("http://{addr}"), &[("breaker_consecutive", "1")]).await;
    let once = Request { is_retried: false, patience: Duration::from_millis(50), ..get("/") };
    assert!(matches!(messages::ask(&client.mailbox(), once.clone()).await, Answer::Answered { status: 500, .. }));
    assert_eq!(messages::ask(&client.mailbox(), once).await, Answer::NotSent(NotSent::OutOfTime));
}

#[actix_rt::test]
async fn who_asks_a_client_that_ends_or_holds_nothing_is_told() {
    let (addr, _requests) = post_tests::serve_always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let (client, world) = client(&format!("http://{addr}"), &[]).await;
    assert!(matches!(messages::ask(&client.mailbox(), get("/")).await, Answer::Answered { status: 200, .. }));
    let follower = Address::vacant();
    follower.fill(1, Client::new(world.unknown(), Life::unsupervised(ActorKind::Client, 1)).start(), Depth::default());
    assert_eq!(messages::ask(&follower.mailbox(), get("/")).await, Answer::NotSent(NotSent::NotHere));
    client.ask(crate::runtime::child::Finish).await.expect("an end");
    assert_eq!(messages::ask(&client.mailbox(), get("/")).await, Answer::NotSent(NotSent::Ended));
    assert_eq!(messages::ask(&Address::<Client>::vacant().mailbox(), get("/")).await, Answer::NotSent(NotSent::Ended));
}

#[actix_rt::test]
async fn a_service_whose_breaker_closes_after_an_outage_is_to_be_compared() {
    let answers =
        ["500 Oops", "200 OK", "200 OK"].map(|status| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    let addr = post_tests::serve_in_turn(answers.to_vec());
    let options = [("breaker_consecutive", "1"), ("breaker_open_for", "10ms"), ("sync", "{ types = ['a'] }")];
    let (client, world) = client(&format!("http://{addr}"), &options).await;
    let once = Request { is_retried: false, ..get("/") };
    for status in [500, 200] {
        assert!(world.demanded.lock().expect("not poisoned").is_empty());
        let answer = messages::ask(&client.mailbox(), once.clone()).await;
        assert!(matches!(answer, Answer::Answered { status: told, .. } if told == status), "{answer:?}");
    }
    while world.demanded.lock().expect("not poisoned").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*world.demanded.lock().expect("not poisoned"), [Demand::Recovered]);
}
