//! The worked example: an auction from its schedule on, by the services and the definition in `examples/auction`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

use event_handler::domain::event::Timestamp;
use serde_json::{Value, json};

use crate::example_services::Example;
use crate::examples::kill_and_start;
use crate::support::http::{Request, Response};
use crate::support::program::{command, root};
use crate::support::{Server, eventually};

fn example(path: &str) -> PathBuf {
    root().join("examples/auction").join(path)
}

/// A server with the configuration of the example, and the services.
struct House {
    server: Server,
    services: Example,
    manager: SocketAddr,
}

impl House {
    fn open() -> Self {
        Self::open_with(&[])
    }

    fn open_with(variables: &[(&str, &str)]) -> Self {
        // The services and the server know each other's addresses.
        let mut server = Server::builder().start();
        let services = Example::start(server.addr());
        server.terminate();
        let spec = server.spec().env("EVENT_HANDLER_CONFIG", example("event-handler.toml").display());
        let spec = services.variables.iter().fold(spec, |spec, (name, url)| spec.env(name, url));
        let spec = variables.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let server = spec.env("PORT", server.addr().port()).start();
        let url =
            services.variables.iter().find(|(name, _)| name == "AUCTION_MANAGER_URL").expect("the manager").1.clone();
        let manager = url.strip_prefix("http://").and_then(|addr| addr.parse().ok()).expect("an address");
        Self { server, services, manager }
    }

    fn start(&self, id: &Value, lasts: f64, extension: f64) {
        let due = json!({ "auction_id": id, "from": "100", "lasts": lasts, "extension": extension });
        self.server.publish("auction.start_due", due);
        eventually("the auction is open", || (self.read(id).status == 200).then_some(()));
    }

    fn read(&self, id: &Value) -> Response {
        let key = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        self.server.get(&format!("/state/auction/{key}"))
    }

    fn auction(&self, id: &Value) -> Value {
        self.read(id).data()["value"].clone()
    }

    fn bid(&self, bidder: &str, amount: &str) -> Response {
        let body = json!({ "bidder": bidder, "amount": amount });
        Request::new(self.manager, "POST", "/auctions/7/bids").json(body).send()
    }

    #[track_caller]
    fn assert_refused(&self, bidder: &str, amount: &str, reason: &str) {
        let answer = self.bid(bidder, amount);
        assert_eq!((answer.status, &answer.json()["reason"]), (409, &json!(reason)), "{bidder} {amount}");
    }

    fn payloads(&self, name: &str) -> Vec<Value> {
        let events = self.server.events(&format!("?event_name={name}&limit=1000"));
        events.into_iter().map(|event| event["payload"].clone()).collect()
    }

    /// When ends are due that are still to come.
    fn ends(&self) -> Vec<Timestamp> {
        let schedules = self.server.get("/schedules").data();
        let schedules = schedules.as_array().expect("a list").iter();
        schedules.filter(|due| due["event_name"] == "auction.end_due").map(|due| instant(&due["deliver_at"])).collect()
    }

    fn wait_for_end(&self) -> Value {
        eventually("the auction ends", || self.payloads("auction.ended").pop())
    }
}

fn instant(text: &Value) -> Timestamp {
    text.as_str().and_then(Timestamp::parse).expect("an instant")
}

#[test]
fn bids_that_are_too_low_or_too_late_are_refused() {
    let house = House::open();
    house.start(&json!(7), 3.0, 0.0);
    let other = Request::new(house.manager, "POST", "/auctions/8/bids").json(json!({ "bidder": "ada", "amount": "1" }));
    assert_eq!(other.send().status, 404);
    house.assert_refused("ada", "99", "too_low");
    for _ in 0..2 {
        assert_eq!(house.bid("ada", "100").status, 200, "a bid that is repeated is the same bid");
    }
    house.assert_refused("ben", "100", "too_low");
    assert_eq!(house.bid("ben", "101").status, 200);
    let ended = house.wait_for_end();
    assert_eq!(ended, json!({ "auction_id": 7, "winner": "ben", "amount": "101" }));
    house.assert_refused("cleo", "500", "too_late");
    let auction = house.auction(&json!(7));
    assert_eq!((&auction["bids"], &auction["highest"]["bidder"]), (&json!(2), &json!("ben")));
}

#[test]
fn amounts_are_decimal_texts_that_are_compared_exactly() {
    let house = House::open();
    let due = json!({ "event_name": "auction.start_due", "payload": { "auction_id": 7, "from": 100, "lasts": 1 } });
    assert_eq!(
        house.server.post("/publish", due).status,
        422,
        "the event types of the example are those that are shipped"
    );
    house.start(&json!(7), 600.0, 0.0);
    for amount in [
        json!(100),
        json!("1e3"),
        json!("0100"),
        json!("-100"),
        json!("100."),
        json!(""),
        json!("100.0000000000000000001"),
    ] {
        let bid =
            Request::new(house.manager, "POST", "/auctions/7/bids").json(json!({ "bidder": "ada", "amount": amount }));
        assert_eq!(bid.send().status, 422, "{amount}");
    }
    house.assert_refused("ada", "99.999999999999999999", "too_low");
    house.assert_refused("ada", "9", "too_low");
    assert_eq!(house.bid("ada", "100.00").status, 200);
    assert_eq!(house.bid("ada", "100").status, 200, "the same bid, written otherwise");
    for (low, higher) in [
        ("100", "100.000000000000000001"),
        ("100.000000000000000001", "100.05"),
        ("100.05", "100.5"),
        ("100.50", "9007199254740992"),
        ("9007199254740992.0", "9007199254740993"),
        ("999999999999999.9", "100000000000000000000000000000000000000000"),
    ] {
        house.assert_refused("cleo", low, "too_low");
        assert_eq!(house.bid("ben", higher).status, 200, "{higher}");
        house.assert_refused("cleo", higher, "too_low");
    }
    let placed = house.payloads("bid.placed");
    assert_eq!(placed.len(), 7, "{placed:?}");
}

#[test]
fn of_many_bids_at_once_each_is_higher_than_the_one_before() {
    const BIDDERS: u64 = 6;
    const BIDS: u64 = 8;
    let house = House::open();
    house.start(&json!(7), 600.0, 0.0);
    let all_ready = Barrier::new(BIDDERS as usize);
    let taken: u64 = thread::scope(|scope| {
        let bidders: Vec<_> = (0..BIDDERS)
            .map(|bidder| {
                let (house, all_ready) = (&house, &all_ready);
                scope.spawn(move || {
                    all_ready.wait();
                    let bids =
                        (0..BIDS).map(|n| house.bid(&format!("b{bidder}"), &(990 + n * BIDDERS + bidder).to_string()));
                    let statuses: Vec<u16> = bids.map(|answer| answer.status).collect();
                    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
                    statuses.iter().filter(|status| **status == 200).count() as u64
                })
            })
            .collect();
        bidders.into_iter().map(|bidder| bidder.join().expect("no panic")).sum()
    });
    let placed = house.payloads("bid.placed");
    let amount = |bid: &Value| bid["amount"].as_str().and_then(|amount| amount.parse().ok());
    let amounts: Vec<u64> = placed.iter().map(|bid| amount(bid).expect("an amount")).collect();
    assert!(amounts.is_sorted_by(|before, after| before < after), "{amounts:?}");
    let auction = house.auction(&json!(7));
    assert_eq!((amounts.len() as u64, &auction["bids"]), (taken, &json!(taken)));
    let highest = (990 + BIDS * BIDDERS - 1).to_string();
    assert_eq!(auction["highest"]["amount"], json!(highest), "the highest bid is taken whenever it comes");
}

#[test]
fn a_bid_near_the_end_moves_the_end() {
    let house = House::open();
    house.start(&json!(7), 4.0, 5.0);
    let mut end = instant(&house.auction(&json!(7))["ends_at"]);
    for amount in ["100", "200", "300"] {
        assert_eq!(house.bid("ada", amount).status, 200);
        let moved = instant(&house.auction(&json!(7))["ends_at"]);
        assert!(moved > end, "{moved} is after {end}");
        assert_eq!(house.ends(), [moved], "the old end is cancelled");
        end = moved;
    }
    assert_eq!(house.wait_for_end()["amount"], "300");
    let due = house.payloads("auction.end_due");
    assert_eq!(due.iter().map(|due| instant(&due["ends_at"])).collect::<Vec<_>>(), [end]);
}

/// Even if cancelling it fails.
#[test]
fn an_end_that_was_moved_ends_nothing() {
    let house = House::open();
    house.start(&json!(7), 600.0, 0.0);
    house.server.publish("auction.end_due", json!({ "auction_id": 7, "ends_at": "2020-01-01T00:00:00Z" }));
    house.server.publish("auction.end_due", json!({ "auction_id": 8, "ends_at": "2020-01-01T00:00:00Z" }));
    eventually("they are delivered", || {
        (house.server.events("?status=processed&event_name=auction.end_due").len() == 2).then_some(())
    });
    assert_eq!(house.auction(&json!(7))["state"], "open");
}

/// The end is a schedule in the store, and what is known of the auction is an entity.
#[test]
fn an_auction_goes_on_when_the_server_is_killed() {
    let mut house = House::open();
    house.start(&json!(7), 2.0, 0.0);
    house.start(&json!("empty"), 1.0, 0.0);
    assert_eq!(house.bid("ada", "100").status, 200);
    house.server = kill_and_start(house.server);
    eventually("both have ended", || (house.payloads("auction.ended").len() == 2).then_some(()));
    let ended = house.payloads("auction.ended");
    assert!(ended.contains(&json!({ "auction_id": 7, "winner": "ada", "amount": "100" })), "{ended:?}");
    assert!(ended.contains(&json!({ "auction_id": "empty" })), "nobody wins: {ended:?}");
}

/// As the engine calls them; what they promise is tested of the barrier itself, in `participants`.
#[test]
fn the_services_take_part_in_sagas_and_fail_as_they_are_told() {
    let house = House::open();
    let url = &house.services.variables.iter().find(|(name, _)| name == "SHAPE_L2_URL").expect("the chain").1;
    let chain: SocketAddr = url.strip_prefix("http://").and_then(|addr| addr.parse().ok()).expect("an address");
    let call = |saga: &str, operation: &str, path: &str| {
        let request = Request::new(chain, "POST", path).header("Saga-Id", saga).header("Saga-Step", "transfer");
        request.header("Saga-Operation", operation).json(json!({ "auction_id": 7, "to": "ada" }))
    };
    let act = |saga: &str| call(saga, "action", "/transfers");
    let undo = |saga: &str| call(saga, "compensation", "/transfers/cancel").send().status;
    let probe = |saga: &str| Request::new(chain, "GET", &format!("/transfers/{saga}/transfer")).send().status;
    let made = || house.services.report()["shape-l2"]["made"].as_array().expect("a list").len();

    house.services.switch("shape-l2", "decline");
    assert_eq!((act("a").send().status, probe("a"), made()), (409, 404, 0));
    house.services.switch("shape-l2", "ok");
    assert_eq!(["a", "a"].map(|saga| act(saga).send().status), [202, 202]);
    assert_eq!((probe("a"), made()), (200, 1));
    eventually("it is confirmed", || (!house.payloads("transfer.done").is_empty()).then_some(()));
    assert_eq!((undo("a"), probe("a"), made()), (200, 404, 0));

    assert_eq!((undo("b"), act("b").send().status, made()), (200, 409, 0), "barred");

    house.services.switch("shape-l2", "lose");
    let lost = act("c");
    // Whoever asks has to give up: it is done, and never answered.
    thread::spawn(move || lost.try_send());
    eventually("it is done", || (probe("c") == 200).then_some(()));
    house.services.switch("shape-l2", "hang");
    let came = || house.services.report()["shape-l2"]["requests"].as_u64();
    let (before, hanging) = (came(), act("d"));
    thread::spawn(move || hanging.try_send());
    eventually("it hangs", || (came() > before).then_some(()));
    house.services.switch("shape-l2", "ok");
    assert_eq!((probe("d"), undo("c"), made()), (404, 200, 0), "what hangs does nothing");
}

/// Settles an auction while a service is in a mode, until it is well again after the first event of this name. Returns how
/// the saga ends, how many things each service has made then, and what the auction is.
fn settle(service: &str, mode: &str, until: &str) -> (String, [usize; 4], Value) {
    let timeout = if mode == "slow" { "10s" } else { "500ms" };
    let house = House::open_with(&[("EVENT_HANDLER__DELIVERY__TIMEOUT", timeout)]);
    house.start(&json!(7), 600.0, 0.0);
    assert_eq!(house.bid("ada", "100").status, 200);
    house.services.switch(service, mode);
    let ends_at = house.auction(&json!(7))["ends_at"].clone();
    house.server.publish("auction.end_due", json!({ "auction_id": 7, "ends_at": ends_at }));
    eventually(until, || (!house.payloads(until).is_empty()).then_some(()));
    house.services.switch(service, "ok");
    let end = eventually("the saga ends", || {
        let ends = ["completed", "compensated", "aborted", "needs_operator"].into_iter();
        ends.map(str::to_owned).find(|end| !house.payloads(&format!("$sys.saga.{end}")).is_empty())
    });
    let state = eventually("the auction knows of it", || {
        let state = house.auction(&json!(7))["state"].clone();
        (state != "ended").then_some(state)
    });
    let report = house.services.report();
    let made = ["auction-manager", "stream-manager", "shape-l2", "eliza"].map(|name| report[name]["made"].clone());
    (end, made.map(|things| things.as_array().expect("a list").len()), state)
}

#[test]
fn an_auction_is_settled_though_services_fail() {
    for (service, mode, until) in [
        ("eliza", "ok", "auction.ended"),
        ("stream-manager", "slow", "transfer.done"),
        ("shape-l2", "lose", "auction.settled"),
        ("eliza", "refuse", "transfer.done"),
        ("auction-manager", "flap", "auction.settled"),
    ] {
        let (end, made, state) = settle(service, mode, until);
        assert_eq!((end.as_str(), made, &state), ("completed", [1; 4], &json!("settled")), "{service} {mode}");
    }
}

#[test]
fn an_auction_that_cannot_be_settled_leaves_nothing() {
    for (service, mode, until) in [
        ("shape-l2", "decline", "$sys.saga.compensated"),
        ("shape-l2", "hang", "$sys.saga.compensating"),
        ("stream-manager", "refuse", "$sys.saga.compensated"),
        ("stream-manager", "error", "$sys.saga.compensating"),
    ] {
        let (end, made, state) = settle(service, mode, until);
        assert_eq!((end.as_str(), made, &state), ("compensated", [0; 4], &json!("unsettled")), "{service} {mode}");
    }
}

#[test]
fn an_auction_is_settled_though_the_server_is_killed() {
    let mut house = House::open();
    house.services.switch("shape-l2", "refuse");
    house.start(&json!(7), 600.0, 0.0);
    assert_eq!(house.bid("ada", "100").status, 200);
    let ends_at = house.auction(&json!(7))["ends_at"].clone();
    house.server.publish("auction.end_due", json!({ "auction_id": 7, "ends_at": ends_at }));
    eventually("it has begun", || (!house.payloads("$sys.saga.started").is_empty()).then_some(()));
    house.server = kill_and_start(house.server);
    house.services.switch("shape-l2", "ok");
    eventually("it is settled", || (house.auction(&json!(7))["state"] == "settled").then_some(()));
    let report = house.services.report();
    for service in ["auction-manager", "stream-manager", "shape-l2", "eliza"] {
        assert_eq!(report[service]["made"].as_array().map(Vec::len), Some(1), "{service}: {report}");
    }
}

/// The command with which one begins.
#[test]
fn one_command_tells_of_an_auction_from_its_schedule_on() {
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_event-handler"));
    let mut run = command("python3");
    run.env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(example("run"))
        .arg("--programs")
        .arg(programs.parent().expect("a folder"));
    let output = run.output().expect("python3");
    let told = String::from_utf8(output.stdout).expect("text");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{said}");
    let lines: Vec<&str> = told.lines().collect();
    let mut at = 0;
    for expected in [
        "auction 7 is scheduled",
        "auction 7 is due",
        "opens auction 7 from 100 on",
        "bids 100: taken",
        "bids 120: taken",
        "the end is due",
        "the auction has ended: ",
        "settle-auction 7 started",
        "the auction is settled",
        "settle-auction 7 completed",
        "auction 7 is settled",
    ] {
        let found = lines[at..].iter().position(|line| line.contains(expected));
        at += found.unwrap_or_else(|| panic!("{expected:?} is not told after line {at}:\n{told}\n{said}")) + 1;
    }
    for refused in ["bids 90: refused, too low", "bids 500: refused, too late"] {
        assert!(told.contains(refused), "{told}");
    }
}

/// How a simulation ends, and which requests it makes.
fn simulate(events: &str) -> (String, Vec<String>) {
    let arguments = ["sagas", "simulate"].map(PathBuf::from).into_iter();
    let arguments =
        arguments.chain([example("sagas/settle-auction.toml"), example(&format!("simulated/{events}.ndjson"))]);
    let output = arguments.fold(Server::builder(), |builder, arg| builder.arg(&arg.display().to_string())).run();
    let printed = String::from_utf8(output.stdout).expect("text");
    let last = printed.lines().last().and_then(|line| line.split_once(" is ")).expect("an end").1.to_owned();
    let requests = printed.lines().filter_map(|line| line.split_once("-> ")).map(|(_, request)| {
        let request: Vec<&str> = request.split(' ').take(2).collect();
        request.join(" ")
    });
    let distinct: BTreeSet<String> = requests.clone().filter(|request| request.starts_with("GET")).collect();
    assert!(distinct.len() <= 1, "one probe, asked as often as need be");
    (last, requests.filter(|request| request.starts_with("POST")).map(|request| request[5..].to_owned()).collect())
}

#[test]
fn the_settlement_ends_as_a_whole_whatever_the_services_do() {
    const FORWARD: [&str; 4] =
        ["auction-manager/winners", "stream-manager/announcements", "shape-l2/transfers", "eliza/pictures"];
    const BACK: [&str; 3] =
        ["shape-l2/transfers/cancel", "stream-manager/announcements/cancel", "auction-manager/winners/cancel"];
    for (events, ends, forward, back) in [
        ("settled", "completed", 4, 3),
        ("slow", "completed", 4, 3),
        ("answer-lost", "completed", 4, 3),
        ("declined", "compensated", 3, 1),
        ("hangs", "compensated", 3, 0),
        ("announcer-down", "compensated", 2, 1),
    ] {
        let (end, posts) = simulate(events);
        let expected: Vec<&str> = FORWARD[..forward].iter().chain(&BACK[back..]).copied().collect();
        assert_eq!((end.as_str(), posts), (ends, expected.into_iter().map(str::to_owned).collect()), "{events}");
    }
}

#[test]
fn the_definition_fits_the_configuration() {
    let check = Server::builder().env("EVENT_HANDLER_CONFIG", example("event-handler.toml").display());
    let output = check.arg("sagas").arg("check").arg(&example("sagas/settle-auction.toml").display().to_string()).run();
    assert!(output.status.success(), "{output:?}");
}
