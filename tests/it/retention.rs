//! A log that forgets its beginning while it is written and read: nothing stalls, and no gap is silent.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::load::{EVENT_NAME, Follower, Publishers};
use crate::support::server::{Builder, metric};
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, for_each_backend};

fn keeping(backend: Backend, key: &str, value: &str) -> Builder {
    Server::builder().backend(backend).env(&format!("EVENT_HANDLER__RETENTION__{key}"), value)
}

fn id(event: &Value) -> i64 {
    event["id"].as_i64().expect("an id")
}

/// Ids of the whole log, page by page; a step over an id is allowed only to the retained part.
fn walk(server: &Server) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        let after = ids.last().copied().unwrap_or(0);
        let page: Vec<i64> = server.events(&format!("?after={after}&limit=50")).iter().map(id).collect();
        let Some(first) = page.first() else { return ids };
        assert!(page.windows(2).all(|pair| pair[1] == pair[0] + 1), "a page without holes: {page:?}");
        if after > 0 && *first != after + 1 {
            let oldest = id(&server.events("?after=0&limit=1")[0]);
            assert!(oldest >= *first, "{first} follows {after}, but the log begins at {oldest}");
        }
        ids.extend(page);
    }
}

#[test]
fn trimming_disturbs_neither_publishers_nor_readers() {
    for_each_backend(|backend| {
        for (key, value) in [("MAX_EVENTS", "200"), ("MAX_BYTES", "4KiB"), ("MAX_AGE", "1s")] {
            let server = keeping(backend, key, value).start();
            let followers = [(); 2].map(|()| Follower::start(&server));
            let publishers = Publishers::start(&server, 3);
            let begin = Instant::now();
            let mut slowest = Duration::ZERO;
            while metric(&server, "event_handler_events_trimmed_total") < 300.0 {
                assert!(begin.elapsed() < Duration::from_secs(20), "{key}: nothing is trimmed");
                walk(&server);
                let before = Instant::now();
                server.publish("walker", json!({}));
                slowest = slowest.max(before.elapsed());
            }
            let published = publishers.stop();
            assert_eq!(published.refused, [].into(), "{key}");
            assert!(slowest < Duration::from_secs(3), "{key}: a publish took {slowest:?}");
            let (last, acknowledged) =
                (*published.acknowledged.keys().last().expect("events"), &published.acknowledged);
            for follower in &followers {
                assert_eq!(follower.wait_for(last), acknowledged.keys().copied().collect::<Vec<_>>(), "{key}");
                assert_eq!(follower.closes(), [] as [u16; 0]);
            }
            eventually("the log is as short as was asked for", || {
                let ids = walk(&server);
                let ends_well = ids.last() >= Some(&last) && !ids.is_empty();
                assert!(ends_well, "{key}: the newest events stay");
                (ids.len() <= 200).then_some(())
            });
        }
    });
}

#[test]
fn whoever_comes_back_too_late_is_told_where_history_begins() {
    for_each_backend(|backend| {
        let mut server = keeping(backend, "MAX_EVENTS", "50").start();
        let batch = Value::from(vec![json!({"event_name": EVENT_NAME}); 200]);
        server.post("/publish/batch", batch).data();
        eventually("the log is trimmed", || (server.events("?limit=1000").len() == 50).then_some(()));
        eventually("subscriptions know it too", || {
            let tree = server.get("/admin/actors").data();
            let mut actors = tree["children"].as_array().expect("children").iter();
            actors.any(|actor| actor["details"]["earliest_id"] == 151).then_some(())
        });
        for restarted in [false, true] {
            if restarted {
                server.restart();
            }
            let first = id(&server.events("?after=0&limit=1")[0]);
            let cases = [
                (json!(1), first, false),
                (json!(first - 2), first, false),
                (json!(first - 1), first, true),
                (json!(first), first + 1, true),
                (json!("earliest"), first, true),
            ];
            for (after, expected, recovered) in cases {
                let mut ws = server.ws();
                let request =
                    json!({"action": "subscribe", "event_name": ">", "after": after, "envelope": "full", "id": 1});
                let reply = eventually("the position is known", || {
                    let reply = ws.request(request.clone());
                    // The reader may see a trimming a moment before the subscriptions do.
                    (reply["recovered"] == recovered).then_some(reply)
                });
                assert_eq!(reply["last_id"], 200, "{after}: {reply}");
                if !recovered {
                    assert_eq!(reply["earliest_id"], first, "{after}: {reply}");
                }
                let ids: Vec<i64> = (expected..=200).map(|_| id(&ws.recv_json())).collect();
                assert_eq!(ids, (expected..=200).collect::<Vec<_>>(), "{after}");
                assert_eq!(ws.barrier(), [] as [&str; 0]);
            }
        }
    });
}

#[test]
fn a_subscriber_that_falls_behind_history_is_closed_and_not_deceived() {
    for_each_backend(|backend| {
        let server = keeping(backend, "MAX_EVENTS", "32")
            .env("EVENT_HANDLER__SUBSCRIBE__QUEUE_PER_CONNECTION", "64KiB")
            .env("EVENT_HANDLER__SUBSCRIBE__RECENT_EVENTS", "64KiB")
            .start();
        let mut idle = server.ws();
        idle.request(json!({"action": "subscribe", "event_name": ">", "envelope": "full", "id": 1}));
        let batch = Value::from(vec![json!({"event_name": "bulk", "payload": "x".repeat(16 * 1024)}); 64]);
        (0..20).for_each(|_| drop(server.post("/publish/batch", &batch).data()));
        eventually("the log is trimmed", || (server.events("?limit=1000").len() == 32).then_some(()));
        let (close, frames) = idle.recv_close();
        assert_eq!(close.map(|c| u16::from(c.code)), Some(4101));
        let ids: Vec<i64> = frames.iter().map(|f| id(&serde_json::from_str(f).expect("JSON"))).collect();
        assert_eq!(ids, (1..=ids.len() as i64).collect::<Vec<_>>(), "no gap before the end");
        assert!(ids.len() < 20 * 64 - 32, "it was behind");

        let mut ws = server.ws();
        let request =
            json!({"action": "subscribe", "event_name": ">", "after": ids.len(), "envelope": "full", "id": 1});
        let reply = ws.request(request);
        assert_eq!((&reply["recovered"], &reply["earliest_id"]), (&json!(false), &json!(20 * 64 - 31)), "{reply}");
        assert_eq!(id(&ws.recv_json()), 20 * 64 - 31);
    });
}

/// One node stands still while the other publishes and trims: what its live subscribers missed can be read no more.
#[test]
fn a_gap_that_was_trimmed_is_told_to_live_subscribers() {
    // SQLite has no other node.
    let server = keeping(Backend::Postgres, "MAX_EVENTS", "50").start();
    let other = server.spec().start();
    let subscribe = |ws: &mut Socket, after| {
        ws.request(json!({"action": "subscribe", "event_name": ">", "after": after, "envelope": "full", "id": 1}))
    };
    let mut live = server.ws();
    subscribe(&mut live, 0);
    let first = server.publish("a", json!({}));
    assert_eq!(id(&live.recv_json()), first);
    // It may have been stopped in the midst of a commit that the other one waits for.
    let last = eventually("the other node publishes", || {
        server.signal(Signal::STOP);
        let batch = Value::from(vec![json!({"event_name": "a"}); 200]);
        let published = other.post("/publish/batch", batch);
        if published.status != 200 {
            server.signal(Signal::CONT);
        }
        (published.status == 200).then(|| published.data()["last_id"].as_i64().expect("an id"))
    });
    eventually("the log is trimmed", || (other.events("?limit=1000").len() == 50).then_some(()));
    server.signal(Signal::CONT);
    let (close, frames) = live.recv_close();
    assert_eq!(close.map(|c| u16::from(c.code)), Some(4101));
    assert_eq!(frames, [] as [&str; 0], "nothing from behind the gap");
    let mut back = server.ws();
    let reply = subscribe(&mut back, first);
    assert_eq!((&reply["recovered"], &reply["earliest_id"]), (&json!(false), &json!(last - 49)), "{reply}");
    assert_eq!(id(&back.recv_json()), last - 49);
}
