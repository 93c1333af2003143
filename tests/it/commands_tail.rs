//! `event-handler tail`.

use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::command::{at, command, errors, run, stocked, text, with};
use crate::support::server::wait_for_exit;
use crate::support::{Backend, Server, Tail, eventually, for_each_backend};

#[test]
fn tail_prints_what_is_published_and_ends_on_ctrl_c() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("user.created", json!("before"));
        let tail = Tail::start(&at(&server, &["tail", "user.*"]));
        server.publish("order.paid", json!("other"));
        server.publish("user.created", json!({"n": 1}));
        let lines = tail.wait_for_lines(1);
        assert!(lines[0].starts_with("3  ") && lines[0].ends_with(r#"user.created  {"n":1}"#), "{lines:?}");
        assert_eq!(tail.interrupt().code(), Some(0));
    });
}

#[test]
fn tail_begins_where_it_is_told_to() {
    let server = stocked(3);
    for (after, expected) in [("earliest", &[1, 2, 3][..]), ("0", &[1, 2, 3]), ("2", &[3])] {
        let tail = Tail::start(&at(&server, &["tail", ">", "--after", after, "--json"]));
        let lines = tail.wait_for_lines(expected.len());
        let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(events.iter().filter_map(|e| e["id"].as_i64()).collect::<Vec<_>>(), expected, "{after}");
        assert_eq!(events[0]["event_name"], "a");
    }
    let refused = command(&server, &["tail", ">", "--after", "soon"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let refused = command(&server, &["tail", "a..b"]);
    assert_eq!((refused.status.code(), errors(&refused).contains("segment")), (Some(1), true), "{refused:?}");
}

#[test]
fn tail_misses_nothing_and_repeats_nothing_when_the_server_is_killed() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let same_place = server.spec().env("PORT", server.addr().port());
        let tail = Tail::start(&at(&server, &["tail", "a", "--json"]));
        for round in 0..3 {
            for n in 0..50 {
                server.publish("a", json!([round, n]));
            }
            server.kill9();
            tail.wait_until_it_says("connection lost");
            server = same_place.clone().start();
            // Among these are some that were published before the command was back.
            for n in 50..100 {
                server.publish("a", json!([round, n]));
            }
        }
        let lines = tail.wait_for_lines(300);
        let seen: Vec<i64> =
            lines.iter().filter_map(|l| serde_json::from_str::<Value>(l).expect("JSON")["id"].as_i64()).collect();
        assert_eq!(seen, (1..=300).collect::<Vec<i64>>());
        assert_eq!(tail.interrupt().code(), Some(0));
    });
}

#[test]
fn tail_tells_when_it_cannot_begin_where_it_should() {
    let server = stocked(3);
    let tail = Tail::start(&at(&server, &["tail", "a", "--after", "9"]));
    tail.wait_until_it_says("ends with event 3");
    server.publish("a", json!({}));
    assert!(tail.wait_for_lines(1)[0].starts_with("4  "));

    let builder = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__RETENTION__MAX_EVENTS", 2);
    let server = builder.start();
    for _ in 0..10 {
        server.publish("a", json!({}));
    }
    eventually("the first 8 are gone", || (server.get("/events/8").status == 404).then_some(()));
    let tail = Tail::start(&at(&server, &["tail", "a", "--after", "3"]));
    tail.wait_until_it_says("events 4 to 8 are no longer kept");
    assert!(tail.wait_for_lines(2)[0].starts_with("9  "));
}

#[test]
fn tail_can_be_interrupted_while_nobody_reads_what_it_prints() {
    let server = Server::start(Backend::Sqlite);
    let items: Vec<Value> = (0..500).map(|_| json!({"event_name": "a", "payload": "x".repeat(2000)})).collect();
    server.post("/publish/batch", Value::from(items)).data();
    let spec = at(&server, &["tail", "a", "--after", "earliest"]);
    let mut child = spec.command().stdout(Stdio::piped()).spawn().expect("the program can be started");
    eventually("all is pushed, and more than a pipe holds", || {
        let metrics = server.get("/metrics");
        metrics.text().contains("event_handler_pushed_frames_total 500").then_some(())
    });
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a valid pid");
    kill_process(pid, Signal::INT).expect("a living child");
    assert_eq!(wait_for_exit(&mut child).and_then(|status| status.code()), Some(0));
}

#[test]
fn tail_takes_several_patterns_and_a_filter_through_a_restart() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let same_place = server.spec().env("PORT", server.addr().port());
        for n in 0..20 {
            server.publish(["a", "b", "c"][n % 3], json!({"n": n}));
        }
        let filter = r#"{"n":[{"numeric":["<",1000]}]}"#;
        let args = ["tail", "a", "b", "--after", "earliest", "--filter", filter, "--json"];
        let tail = Tail::start(&at(&server, &args));
        for n in 0..20 {
            server.publish(["a", "b", "c"][n % 3], json!({"n": if n % 2 == 0 { 0 } else { 2_000 }}));
        }
        tail.wait_for_lines(14 + 7);
        server.kill9();
        tail.wait_until_it_says("connection lost");
        server = same_place.clone().start();
        for n in 0..20 {
            server.publish(["a", "b", "c"][n % 3], json!({"n": n}));
        }
        let lines = tail.wait_for_lines(14 + 7 + 14);
        let mut seen: Vec<i64> =
            lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_i64()).collect();
        seen.sort_unstable();
        let is_wanted = |event: &Value| event["event_name"] != "c" && event["payload"]["n"].as_i64() < Some(1000);
        let all = server.events("?limit=1000");
        assert_eq!(seen, all.iter().filter(|e| is_wanted(e)).filter_map(|e| e["id"].as_i64()).collect::<Vec<_>>());
    });
    let no_json = with(Server::builder(), &["tail", "a", "--filter", "{"]).run();
    assert_eq!((no_json.status.code(), errors(&no_json).contains("JSON")), (Some(2), true), "{no_json:?}");
}

#[test]
fn tail_goes_on_where_its_durable_subscription_is() {
    let server = stocked(3);
    let args = ["tail", "a", "--durable", "audit"];
    let tail = Tail::start(&at(&server, &[&args[..], &["--after", "earliest"]].concat()));
    assert!(tail.wait_for_lines(3)[2].starts_with("3  "));
    eventually("all is acknowledged", || {
        text(&run(&server, &["consumers", "--json"])).contains("\"floor\":3").then_some(())
    });
    assert_eq!(tail.interrupt().code(), Some(0));
    server.publish("a", json!(4));
    let tail = Tail::start(&at(&server, &args));
    assert!(tail.wait_for_lines(1)[0].starts_with("4  "));
    assert_eq!(command(&server, &["tail", "a", "b", "--durable", "audit"]).status.code(), Some(2));
}

#[test]
fn tail_waits_for_a_service_that_is_not_there_yet() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = held.local_addr().expect("bound").port();
    drop(held);
    let spec = Server::builder().env("PORT", port);
    let tail = Tail::begin(&with(spec.clone(), &["tail", "a"]));
    tail.wait_until_it_says("waiting for the service");
    let server = spec.start();
    tail.wait_until_it_says("subscribed to");
    server.publish("a", json!({}));
    assert!(tail.wait_for_lines(1)[0].starts_with("1  "));
    // Not for ever, if it is told so.
    let given_up = with(Server::builder().env("PORT", 1), &["tail", "a", "--give-up-after", "0"]).run();
    assert_eq!(given_up.status.code(), Some(70), "{given_up:?}");
    assert!(errors(&given_up).contains("event-handler serve"), "{given_up:?}");
}

#[test]
fn tail_gives_up_when_told_to() {
    let mut server = Server::start(Backend::Sqlite);
    let mut tail = Tail::start(&at(&server, &["tail", "a", "--give-up-after", "0"]));
    server.kill9();
    assert_eq!(tail.wait_for_exit().code(), Some(70));
}
