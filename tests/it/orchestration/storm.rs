//! Many auctions at once, over kills and an outage: all end as they should, and no money is lost or made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::configured;
use crate::support::backend::for_each_backend;
use crate::support::service::Delivery;
use crate::support::{Answer, Backend, Server, Service};

const AUCTIONS: i64 = 2_000;
const PRICE: i64 = 10;

const SAGA: &str = r#"
[[sagas]]
name = "settle"
version = 1
trigger = { event = "auction.ended" }
correlation = "/auction"

[[sagas.steps]]
name = "pay"
call = { service = "bank", path = "/payments", body = { auction = "${trigger.payload.auction}" } }
compensate = { call = { service = "bank", path = "/refunds", body = { auction = "${trigger.payload.auction}" } } }

[[sagas.steps]]
name = "transfer"
call = { service = "bank", path = "/transfers", body = { auction = "${trigger.payload.auction}" } }
retry = { max_attempts = 1000, retry_base = "5ms", retry_cap = "50ms" }

[[sagas.steps]]
name = "announce"
publish = { event = "auction.settled", payload = { auction = "${trigger.payload.auction}" } }
"#;

/// Accounts: what is paid goes from the winner's to the seller's, and back with a refund.
#[derive(Default)]
struct Bank {
    /// What each auction has moved.
    paid: BTreeMap<i64, i64>,
    refunded: BTreeMap<i64, ()>,
    answers: BTreeMap<String, u16>,
    transferred: BTreeMap<i64, usize>,
    calls: usize,
}

impl Bank {
    /// Of every seven auctions the transfer of one is refused. Every 13th request is done, and not answered.
    fn take(&mut self, delivery: &Delivery) -> Answer {
        self.calls += 1;
        let auction = delivery.json()["auction"].as_i64().unwrap_or_default();
        let key = delivery.header("idempotency-key").unwrap_or_default().to_owned();
        let status = match (self.answers.get(&key), &*delivery.path) {
            (Some(status), _) => *status,
            (None, "/transfers") if auction % 7 == 0 => 422,
            (None, path) => {
                match path {
                    "/payments" if !self.refunded.contains_key(&auction) => {
                        *self.paid.entry(auction).or_default() += PRICE
                    }
                    "/refunds" => {
                        self.refunded.insert(auction, ());
                        if let Some(paid) = self.paid.get_mut(&auction) {
                            *paid -= PRICE;
                        }
                    }
                    "/transfers" => *self.transferred.entry(auction).or_default() += 1,
                    _ => {}
                }
                self.answers.insert(key, 200);
                200
            }
        };
        if self.calls.is_multiple_of(13) { Answer::HangUp } else { Answer::Status(status) }
    }
}

fn storm(backend: Backend) {
    let bank = Arc::<Mutex<Bank>>::default();
    let kept = Arc::clone(&bank);
    let mut participant = super::Participant {
        service: Service::answering(move |delivery| kept.lock().unwrap_or_else(PoisonError::into_inner).take(delivery)),
        ledger: Arc::default(),
    };
    // The outage opens the breakers; what is awaited does not wait for them.
    let mut builder = Server::builder().backend(backend);
    for service in ["BANK", "CHAIN"] {
        for (key, value) in [("OPEN_FOR", "200ms"), ("OPEN_CAP", "1s")] {
            builder = builder.env(&format!("EVENT_HANDLER__SERVICES__{service}__BREAKER_{key}"), value);
        }
    }
    let mut server = configured(builder, SAGA, &participant).start();
    let batches: Vec<Vec<Value>> = (0..AUCTIONS)
        .map(|auction| json!({ "event_name": "auction.ended", "payload": { "auction": auction } }))
        .collect::<Vec<_>>()
        .chunks(500)
        .map(<[Value]>::to_vec)
        .collect();
    for batch in batches {
        assert_eq!(server.post("/publish/batch", json!(batch)).status, 200);
    }
    let came = |participant: &super::Participant, count: usize| {
        participant.service.wait_until("calls come", |came| came.len() >= count);
    };
    came(&participant, 300);
    server.kill9();
    server.restart();
    came(&participant, 1_500);
    participant.service.refuse();
    std::thread::sleep(Duration::from_millis(500));
    participant.service.accept();
    came(&participant, 2_500);
    server.kill9();
    server.restart();
    let count =
        |state: &str| super::metric_of(&server, &format!("event_handler_sagas{{saga=\"settle\",state=\"{state}\"}}"));
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    let expected = (0..AUCTIONS).filter(|auction| auction % 7 != 0).count();
    while count("completed") + count("compensated") < AUCTIONS as f64 {
        assert!(std::time::Instant::now() < deadline, "{} {}", count("completed"), count("compensated"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(count("completed") as usize, expected);
    let bank = bank.lock().unwrap_or_else(PoisonError::into_inner);
    for auction in 0..AUCTIONS {
        let (paid, transferred) = if auction % 7 == 0 { (0, None) } else { (PRICE, Some(&1)) };
        assert_eq!(bank.paid.get(&auction), Some(&paid), "{auction}");
        assert_eq!(bank.transferred.get(&auction), transferred, "{auction}");
    }
    let mut settled = 0;
    let mut after = 0;
    loop {
        let page = server.events(&format!("?event_name=auction.settled&limit=1000&after={after}"));
        let Some(last) = page.last() else { break };
        after = last["id"].as_i64().expect("an id");
        settled += page.len();
    }
    assert_eq!(settled, expected);
}

#[test]
fn thousands_of_auctions_end_as_they_should_over_kills_and_an_outage() {
    for_each_backend(storm);
}
