//! Calls of the store and the client of their service, against a real server.

use std::io::Write as _;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use actix::prelude::Actor as _;

use super::super::lease_tests::World;
use super::super::post_tests;
use super::*;
use crate::actors::client::messages::{Operate, ServiceCommand};
use crate::domain::call::{CallHistory, CallKind, CallPolicy, Method};
use crate::domain::priority::Lane;
use crate::runtime::address::{Address, Depth};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::ActorKind;
use crate::storage::{EndedCall, NewCall, Outcome, Reader, Write};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"a\": 1.0}";
const CONFLICT: &str = "HTTP/1.1 409 No\r\nContent-Length: 0\r\n\r\n";

fn call(tag: &str) -> NewCall {
    let policy = CallPolicy {
        kind: CallKind::Action,
        max_attempts: 3,
        retry_base: Duration::from_millis(1),
        retry_cap: Duration::from_millis(1),
    };
    NewCall {
        service: 1,
        owner: "saga".to_owned(),
        tag: tag.to_owned(),
        lane: Lane::Normal,
        key: None,
        request: CallRequest {
            method: Method::Post,
            path: "/transfers".to_owned(),
            headers: vec![("Saga-Step".to_owned(), tag.to_owned())],
            body: Some("{}".to_owned()),
            idempotency_key: format!("saga/1/{tag}"),
        },
        policy,
        due_at: now(),
        expires_at: None,
        is_begun: false,
    }
}

struct Fixture {
    world: World,
    client: Address<Client>,
    reader: Reader,
}

impl Fixture {
    async fn new(url: &str) -> Self {
        let world = World::new(url, &[]).await;
        let reader = world.parts.reader.clone();
        Self { world, client: Address::vacant(), reader }
    }

    async fn start(&self) -> actix::Addr<Client> {
        let client = Client::new(self.world.parts.clone(), Life::unsupervised(ActorKind::Client, 1)).start();
        self.client.fill(1, client.clone(), Depth::default());
        self.world.wait_until_active(&self.client).await;
        client
    }

    async fn write(&self, write: Write) -> Outcome {
        self.world.parts.persistence.commit(write).await.expect("stored")
    }

    async fn ended(&self, count: usize) -> Vec<EndedCall> {
        loop {
            let ended = self.reader.ended_calls(0, 100).await.expect("calls");
            if ended.len() >= count {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[actix_rt::test]
async fn a_call_is_known_to_be_begun_before_it_is_sent_and_its_end_is_told() {
    let (tell, told) = channel();
    let (release, released) = channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let addr = post_tests::serve(move |_, mut stream| {
        while let Some(request) = post_tests::read_request(&mut stream) {
            let _ = tell.send(request);
            let _ = released.lock().expect("not poisoned").recv();
            let _ = stream.write_all(OK.as_bytes());
        }
    });
    let fixture = Fixture::new(&format!("http://{addr}")).await;
    fixture.start().await;
    fixture.write(Write::MakeCalls(vec![call("reserve")])).await;
    let request = loop {
        match told.try_recv() {
            Ok(request) => break request.to_lowercase(),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    for line in ["post /transfers http", "\r\nidempotency-key: saga/1/reserve\r\n", "\r\nsaga-step: reserve\r\n"] {
        assert!(request.contains(line), "{request}");
    }
    let open = fixture.reader.due_calls(1, now(), Default::default(), 9).await.expect("calls");
    assert!(open[0].history.may_be_done, "a crash now leaves it unknown");
    release.send(()).expect("the server runs");
    let ended = fixture.ended(1).await.remove(0);
    assert_eq!((ended.end, ended.tag.as_str(), ended.attempts), (CallEnd::Done, "reserve", 1));
    assert_eq!((ended.http_status, ended.answer.as_deref(), ended.error), (Some(200), Some("{\"a\": 1.0}"), None));
    assert_eq!(fixture.reader.open_calls(1).await, Ok(0));
}

#[actix_rt::test]
async fn after_a_crash_what_was_begun_may_be_done_and_what_was_not_is_not() {
    let (addr, _requests) = post_tests::serve_always(CONFLICT);
    let fixture = Fixture::new(&format!("http://{addr}")).await;
    while fixture.world.parts.slot.id().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fixture.write(Write::MakeCalls(vec![call("begun"), call("waiting")])).await;
    assert_eq!(fixture.write(Write::BeginCalls(vec![1])).await, Outcome::Begun(vec![1]));
    fixture.start().await;
    let mut ends: Vec<_> = fixture.ended(2).await.into_iter().map(|ended| (ended.tag, ended.end)).collect();
    ends.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [("begun".to_owned(), CallEnd::Unknown), ("waiting".to_owned(), CallEnd::Refused)];
    assert_eq!(ends, expected, "409 may mean that the first try has done it");
}

#[actix_rt::test]
async fn what_cannot_be_sent_is_known_not_to_be_done() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let fixture = Fixture::new(&format!("http://{nobody}")).await;
    fixture.start().await;
    fixture.write(Write::MakeCalls(vec![call("unreached")])).await;
    let ended = fixture.ended(1).await.remove(0);
    assert_eq!((ended.end, ended.attempts, ended.http_status), (CallEnd::NotSent, 3, None));

    fixture.client.ask(Operate(ServiceCommand::Open)).await.expect("an answer");
    let soon = now().plus(Duration::from_millis(50));
    let held_back = NewCall { expires_at: Some(soon), ..call("held_back") };
    fixture.write(Write::MakeCalls(vec![held_back, call("cancelled")])).await;
    let ended = fixture.ended(2).await.remove(1);
    assert_eq!((ended.end, ended.tag.as_str(), ended.attempts), (CallEnd::NotSent, "held_back", 0));
    fixture.write(Write::CancelCalls { owner: "saga".to_owned(), tag: None }).await;
    fixture.client.ask(Operate(ServiceCommand::Close)).await.expect("an answer");
    while fixture.reader.open_calls(1).await != Ok(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fixture.ended(2).await.len(), 2, "what was cancelled is not told");
}

/// A call that was made as one that is about to be sent, and was not: the client knows better than the store, and says so.
#[actix_rt::test]
async fn what_was_made_as_begun_and_not_sent_is_known_not_to_be_done() {
    let (addr, _requests) = post_tests::serve_always(OK);
    let fixture = Fixture::new(&format!("http://{addr}")).await;
    let client = fixture.start().await;
    let slot = &fixture.world.parts.slot;
    while !slot.has_room_for(&call("any")) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fixture.client.ask(Operate(ServiceCommand::Open)).await.expect("an answer");
    assert!(!slot.has_room_for(&call("any")), "nothing is sent at once while the breaker is open");
    let begun = |tag: &str| NewCall { is_begun: true, ..call(tag) };
    let soon = now().plus(Duration::from_millis(50));
    fixture.write(Write::MakeCalls(vec![NewCall { expires_at: Some(soon), ..begun("expires") }, begun("waits")])).await;
    let ended = fixture.ended(1).await.remove(0);
    assert_eq!((ended.end, ended.tag.as_str()), (CallEnd::NotSent, "expires"));
    let open = || async { fixture.reader.due_calls(1, now(), Default::default(), 9).await.expect("calls") };
    assert!(open().await[0].history.may_be_done, "a crash would leave it unknown");
    client.send(Finish).await.expect("it ends");
    assert!(!open().await[0].history.may_be_done, "who takes over knows");
}

/// Ends are handed to who follows them on this node. What is not taken is stored for who follows them elsewhere.
#[actix_rt::test]
async fn an_end_that_nobody_takes_is_stored() {
    let (addr, _requests) = post_tests::serve_always(OK);
    let fixture = Fixture::new(&format!("http://{addr}")).await;
    fixture.start().await;
    let ends = &fixture.world.parts.call_ends;
    ends.open();
    fixture.write(Write::MakeCalls(vec![call("handed")])).await;
    let handed = loop {
        match ends.take(9).pop() {
            Some(handed) => break handed,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    assert_eq!((handed.ended[0].tag.as_str(), handed.ended[0].end), ("handed", CallEnd::Done));
    assert_eq!(fixture.reader.ended_calls(0, 9).await, Ok(vec![]), "it is with who has taken it");
    drop(handed);
    assert_eq!(fixture.ended(1).await[0].tag, "handed", "as what follows from it was not stored");
    ends.close();
    fixture.write(Write::MakeCalls(vec![call("stored")])).await;
    assert_eq!(fixture.ended(2).await[1].tag, "stored");
}

/// What is made while the client reads is not in its page, and is not to wait for ever.
#[actix_rt::test]
async fn what_is_made_during_a_read_is_found() {
    let (addr, _requests) = post_tests::serve_always(OK);
    let fixture = Fixture::new(&format!("http://{addr}")).await;
    fixture.start().await;
    let mut place = 0;
    for n in 0..400 {
        fixture.write(Write::MakeCalls(vec![call(&format!("call{n}"))])).await;
        // The next one is made as soon as this has ended, as by a saga: then the client looks for others.
        place = loop {
            if let Some(ended) = fixture.reader.ended_calls(place, 1).await.expect("calls").pop() {
                break ended.place;
            }
        };
    }
}

#[test]
fn a_read_finds_others_than_those_that_are_being_settled() {
    let mut calls = Calls { is_behind: true, ..Calls::default() };
    assert_eq!(calls.next_read(), Some(PAGE));
    for id in 0..=2 * PAGE as CallId {
        let history = CallHistory { attempts: 0, may_be_done: false };
        calls.wait(ClaimedCall { id, call: call("settling"), history, is_marked: false });
    }
    assert_eq!(calls.next_read(), None, "enough of them wait");
    calls.waiting.clear();
    assert!(calls.next_read().is_some_and(|limit| limit >= calls.known.len() + PAGE));
    calls.is_reading = true;
    assert_eq!(calls.next_read(), None, "a read is under way");
}
