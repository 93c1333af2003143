//! `GET /events?after=N&wait=…`: requests that wait for what is still to come.

use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{Connection, Request};
use crate::support::postgres::Postgres;
use crate::support::{Backend, Server, eventually, for_each_backend};

/// Requests that wait, on all shards.
fn waiting(server: &Server) -> u64 {
    let tree = server.get("/admin/actors").data();
    let children = tree["children"].as_array().expect("children");
    children.iter().filter_map(|child| child["details"]["long_polls"].as_u64()).sum()
}

pub fn wait_for_waiting(server: &Server, count: u64) {
    eventually(&format!("{count} wait"), || (waiting(server) == count).then_some(()));
}

fn ids(data: &Value) -> Vec<i64> {
    data.as_array().expect("a list").iter().filter_map(|event| event["id"].as_i64()).collect()
}

#[test]
fn what_is_there_is_answered_at_once() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("a", json!(1));
        server.publish("b", json!(2));
        let begun = Instant::now();
        assert_eq!(ids(&server.get("/events?after=0&wait=60s").data()), [1, 2]);
        assert_eq!(ids(&server.get("/events?after=0&wait=60s&event_name=b").data()), [2]);
        assert_eq!(ids(&server.get("/events?after=2&wait=0s").data()), [] as [i64; 0]);
        assert!(begun.elapsed() < Duration::from_secs(15));
    });
}

#[test]
fn who_waits_gets_the_first_that_matches() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        thread::scope(|scope| {
            let polls = ["a", "a.*", "*", ">"].map(|pattern| {
                let server = &server;
                let path = format!("/events?after=0&wait=60s&event_name={}", pattern.replace('>', "%3E"));
                scope.spawn(move || ids(&server.get(&path).data()))
            });
            wait_for_waiting(&server, 4);
            let first = server.publish("a.b", json!(1));
            wait_for_waiting(&server, 2);
            let [exact, star, star_alone, all] = polls.map(|poll| move || poll.join().expect("an answer"));
            assert_eq!([star(), all()], [[first], [first]]);
            let second = server.publish("a", json!(2));
            assert_eq!([exact(), star_alone()], [[second], [second]]);
            wait_for_waiting(&server, 0);
        });
    });
}

#[test]
fn other_conditions_hold_too() {
    let server = Server::start(Backend::Sqlite);
    thread::scope(|scope| {
        let poll = scope.spawn(|| ids(&server.get("/events?after=0&wait=60s&source=shop").data()));
        wait_for_waiting(&server, 1);
        for _ in 0..3 {
            server.publish("a", json!(1));
        }
        let event = json!({"event_name": "a", "source": "shop"});
        let id = server.post("/publish", event).event_id();
        assert_eq!(poll.join().expect("an answer"), [id]);
    });
}

#[test]
fn the_end_of_the_wait_is_an_empty_list() {
    let server = Server::start(Backend::Sqlite);
    let begun = Instant::now();
    let response = server.get("/events?after=0&wait=300ms");
    assert_eq!(response.data(), json!([]));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    wait_for_waiting(&server, 0);
}

#[test]
fn an_event_of_another_node_wakes() {
    let url = Postgres::shared().url();
    let start = || Server::builder().env("DATABASE_URL", &url).start();
    let (here, there) = (start(), start());
    thread::scope(|scope| {
        let poll = scope.spawn(|| ids(&here.get("/events?after=0&wait=60s&event_name=a").data()));
        wait_for_waiting(&here, 1);
        let id = there.publish("a", json!(1));
        assert_eq!(poll.join().expect("an answer"), [id]);
    });
}

#[test]
fn a_client_that_goes_gives_its_place_back() {
    let server = Server::start(Backend::Sqlite);
    let poll = Request::new(server.addr(), "GET", "/events?after=0&wait=60s").encode();
    let open = |_| {
        let mut stream = std::net::TcpStream::connect(server.addr()).expect("a connection");
        std::io::Write::write_all(&mut stream, &poll).expect("sent");
        stream
    };
    let streams: Vec<_> = (0..20).map(open).collect();
    wait_for_waiting(&server, 20);
    for stream in &streams {
        stream.shutdown(Shutdown::Both).expect("open");
    }
    wait_for_waiting(&server, 0);
}

#[test]
fn the_number_of_those_who_wait_is_bounded() {
    let server =
        Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUBSCRIBE__MAX_LONG_POLLS", "1").start();
    server.publish("a", json!(1));
    thread::scope(|scope| {
        let poll = scope.spawn(|| ids(&server.get("/events?after=1&wait=60s").data()));
        wait_for_waiting(&server, 1);
        let refused = server.get("/events?after=1&wait=60s");
        assert!(refused.header("retry-after").is_some());
        assert_eq!(refused.error(503)["code"], "overloaded");
        // Who need not wait is served.
        assert_eq!(ids(&server.get("/events?after=0&wait=60s").data()), [1]);
        server.publish("a", json!(2));
        assert_eq!(poll.join().expect("an answer"), [2]);
    });
}

#[test]
fn a_drain_answers_those_who_wait() {
    let server = Server::start(Backend::Sqlite);
    thread::scope(|scope| {
        let poll = scope.spawn(|| server.get("/events?after=0&wait=60s").data());
        wait_for_waiting(&server, 1);
        server.post("/admin/drain", "").data();
        assert_eq!(poll.join().expect("an answer"), json!([]));
        assert_eq!(server.get("/events?after=0&wait=60s").data(), json!([]));
    });
}

#[test]
fn bad_waits_are_refused() {
    let server = Server::start(Backend::Sqlite);
    for (query, field) in [
        ("wait=30s", "wait"),
        ("after=0&wait=61s", "wait"),
        ("after=0&wait=soon", "wait"),
        ("after=0&wait=30", "wait"),
        ("after=0&before=9&wait=1s", "before"),
        ("after=0&until=2999-01-01T00:00:00Z&wait=1s", "until"),
    ] {
        assert_eq!(server.get(&format!("/events?{query}")).error(422)["field"], field, "{query}");
    }
}

#[test]
fn many_wait_for_rare_names_and_nobody_for_them() {
    let server = Server::start(Backend::Sqlite);
    let mut connections: Vec<_> = (0..500)
        .map(|n| {
            let mut connection = Connection::open(server.addr()).expect("a connection");
            let path = format!("/events?after=0&wait=60s&event_name=rare.{n}");
            connection.send_raw(&Request::new(server.addr(), "GET", &path).encode()).expect("sent");
            connection
        })
        .collect();
    wait_for_waiting(&server, 500);
    for n in 0..100 {
        server.publish("frequent", json!(n));
    }
    assert_eq!(waiting(&server), 500);
    let mut last = connections.pop().expect("a connection");
    let id = server.publish("rare.499", json!(1));
    assert_eq!(ids(&last.receive(false).expect("an answer").data()), [id]);
    wait_for_waiting(&server, 499);
}

#[test]
fn one_event_wakes_many() {
    let server = Server::start(Backend::Sqlite);
    let poll = Request::new(server.addr(), "GET", "/events?after=0&wait=60s&event_name=hot").encode();
    let open = |_| {
        let mut connection = Connection::open(server.addr()).expect("a connection");
        connection.send_raw(&poll).expect("sent");
        connection
    };
    let connections: Vec<_> = (0..1000).map(open).collect();
    wait_for_waiting(&server, 1000);
    let id = server.publish("hot", json!(1));
    for mut connection in connections {
        assert_eq!(ids(&connection.receive(false).expect("an answer").data()), [id]);
    }
}
