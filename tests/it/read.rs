//! `GET /events` and `GET /events/{id}`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::{Backend, Server, eventually, for_each_backend};

#[test]
fn an_event_with_the_two_verbatim_fields_comes_back_with_six() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("user.created", json!({"user_id": "123"}));
        let body = server.get("/events").json();
        assert_eq!((&body["status"], &body["message"]), (&json!("ok"), &json!("success")));
        let item = &body["data"][0];
        let expected = json!({
            "id": 1, "event_name": "user.created", "payload": {"user_id": "123"}, "source": "api",
            "status": "processed", "created_at": item["created_at"],
        });
        assert_eq!(item, &expected);
        assert_eq!(server.get("/events/1").data(), expected);
        assert_eq!(server.get("/events/1/trace").data()["event"], expected);
        let created_at = item["created_at"].as_str().expect("a text");
        assert!(created_at.ends_with('Z') && created_at.parse::<jiff::Timestamp>().is_ok(), "{created_at}");
    });
}

#[test]
fn an_event_can_be_read_as_soon_as_it_was_answered() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for n in 0..100 {
            let id = server.publish("a", json!(n));
            assert_eq!(server.events("?limit=1")[0]["id"], id);
            assert_eq!(server.get(&format!("/events/{id}")).data()["payload"], n);
        }
    });
}

#[test]
fn without_a_cursor_come_the_newest_in_ascending_order() {
    for_each_backend(|backend| {
        let server = stocked(backend, 250);
        assert_eq!(ids(&server, ""), (151..=250).collect::<Vec<i64>>());
        assert_eq!(ids(&server, "?limit=3"), [248, 249, 250]);
        assert_eq!(ids(&server, "?limit=3&order=asc"), [248, 249, 250]);
        assert_eq!(ids(&server, "?limit=3&order=desc"), [250, 249, 248]);
        assert_eq!(ids(&server, "?limit=1000").len(), 250);
    });
}

#[test]
fn cursors_select_by_id() {
    for_each_backend(|backend| {
        let server = stocked(backend, 250);
        assert_eq!(ids(&server, "?after=0&limit=2"), [1, 2]);
        assert_eq!(ids(&server, "?after=100&limit=3"), [101, 102, 103]);
        assert_eq!(ids(&server, "?after=248"), [249, 250]);
        assert_eq!(ids(&server, "?after=250"), [] as [i64; 0]);
        assert_eq!(ids(&server, "?after=999"), [] as [i64; 0]);
        assert_eq!(ids(&server, "?before=4"), [1, 2, 3]);
        assert_eq!(ids(&server, "?before=100&limit=2"), [98, 99]);
        assert_eq!(ids(&server, "?after=10&before=14"), [11, 12, 13]);
        assert_eq!(ids(&server, "?after=10&before=14&order=desc"), [13, 12, 11]);
    });
}

#[test]
fn names_and_patterns_filter() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for name in ["auction.1.bid", "auction.2.bid", "auction.1.bid.late", "auction", "user.created"] {
            server.publish(name, json!({}));
        }
        let cases = [
            ("?event_name=user.created", &[5][..]),
            ("?event_name=auction.*.bid", &[1, 2]),
            ("?event_name=auction.%3E", &[1, 2, 3]),
            ("?event_name=*", &[4]),
            ("?event_name=*.*", &[5]),
            ("?event_name=%3E", &[1, 2, 3, 4, 5]),
            ("?event_name=user.created&event_name=auction", &[4, 5]),
            ("?event_name=auction.%3E&event_name=auction.*.bid", &[1, 2, 3]),
            ("?event_name=nothing.such", &[]),
            ("?event_name=auction.%3E&after=1&limit=1", &[2]),
            ("?event_name=auction.%3E&limit=2", &[2, 3]),
        ];
        for (query, expected) in cases {
            assert_eq!(ids(&server, query), expected, "{query}");
        }
    });
}

#[test]
fn source_key_and_status_filter() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for (source, key) in [("a", "1"), ("a", "2"), ("b", "1")] {
            server.post("/publish", json!({"event_name": "x", "source": source, "key": key})).data();
        }
        assert_eq!(ids(&server, "?source=a"), [1, 2]);
        assert_eq!(ids(&server, "?key=1"), [1, 3]);
        assert_eq!(ids(&server, "?source=a&key=1"), [1]);
        assert_eq!(ids(&server, "?status=processed"), [1, 2, 3]);
        assert_eq!(ids(&server, "?status=pending"), [] as [i64; 0]);
        assert_eq!(ids(&server, "?status=failed"), [] as [i64; 0]);
    });
}

#[test]
fn times_filter() {
    for_each_backend(|backend| {
        let server = stocked(backend, 1);
        let first = server.events("")[0]["created_at"].as_str().expect("a text").to_owned();
        // Two events of one commit may share a time: publish until the clock has moved.
        let second = eventually("a later event", || {
            server.publish("a", json!({}));
            let newest = server.events("?limit=1")[0]["created_at"].as_str().expect("a text").to_owned();
            (newest > first).then_some(newest)
        });
        assert!(ids(&server, &format!("?since={second}")).iter().all(|id| *id > 1));
        assert!(ids(&server, &format!("?until={first}")).iter().all(|id| *id == 1));
        let offset = "2000-01-01T02:00:00%2B02:00";
        assert!(ids(&server, &format!("?until={offset}")).is_empty());
        assert!(ids(&server, &format!("?since={offset}")).len() >= 2);
        for far in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999-12:00", "9999-12-30T22:00:00Z"] {
            assert!(ids(&server, &format!("?since={far}")).is_empty(), "{far}");
            assert!(ids(&server, &format!("?until={far}")).len() >= 2, "{far}");
        }
    });
}

#[test]
fn bad_parameters_are_422_naming_the_field() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let cases = [
            ("limit", "limit=0"),
            ("limit", "limit=1001"),
            ("limit", "limit=many"),
            ("limit", "limit=-1"),
            ("order", "order=up"),
            ("after", "after=x"),
            ("after", "after=-1"),
            ("before", "before=1.5"),
            ("since", "since=yesterday"),
            ("until", "until=2024-13-01T00:00:00Z"),
            ("until", "until=9999-12-31"),
            ("until", "until=10000-01-01T00:00:00Z"),
            ("status", "status=lost"),
            ("event_name", "event_name="),
            ("event_name", "event_name=a..b"),
            ("event_name", "event_name=a*"),
            ("event_name", "event_name=%3E.a"),
        ];
        for (field, query) in cases {
            let data = server.get(&format!("/events?{query}")).error(422);
            assert_eq!(data["field"], field, "{query}: {data}");
        }
    });
}

#[test]
fn one_event_by_id() {
    for_each_backend(|backend| {
        let server = stocked(backend, 2);
        assert_eq!(server.get("/events/2").data(), server.events("?after=1")[0]);
        for id in ["3", "0", "9223372036854775807"] {
            assert_eq!(server.get(&format!("/events/{id}")).error(404)["code"], "event_not_found", "{id}");
        }
        for id in ["x", "-1", "1.0", "9223372036854775808"] {
            let status = server.get(&format!("/events/{id}")).status;
            assert!(matches!(status, 404 | 422), "{id}: {status}");
        }
    });
}

#[test]
fn links_walk_forward_over_everything_once_while_others_publish() {
    for_each_backend(|backend| {
        let server = stocked(backend, 500);
        let publishing = AtomicBool::new(true);
        let seen = thread::scope(|scope| {
            scope.spawn(|| {
                while publishing.load(Ordering::Relaxed) {
                    server.publish("other", json!({}));
                    server.publish("a", json!({}));
                }
            });
            let mut seen = Vec::new();
            let mut next = Some("/events?event_name=a&after=0&limit=7".to_owned());
            while let Some(path) = next.filter(|_| seen.len() < 700) {
                let response = server.get(&path);
                let page = page_ids(&response);
                assert!(page.len() <= 7);
                seen.extend(page);
                next = link(&response, "next");
            }
            publishing.store(false, Ordering::Relaxed);
            seen
        });
        let last = *seen.last().expect("events");
        let mut expected = ids_below(&server, last);
        expected.push(last);
        assert_eq!(seen, expected);
    });
}

#[test]
fn links_walk_backward_from_the_newest_to_the_first() {
    for_each_backend(|backend| {
        let server = stocked(backend, 100);
        let mut seen = Vec::new();
        let mut path = Some("/events?limit=7".to_owned());
        while let Some(current) = path {
            let response = server.get(&current);
            server.publish("later", json!({}));
            let mut page = page_ids(&response);
            page.extend(std::mem::take(&mut seen));
            seen = page;
            path = link(&response, "prev");
        }
        assert_eq!(seen, (1..=100).collect::<Vec<i64>>());
    });
}

#[test]
fn links_stay_between_the_cursors() {
    for_each_backend(|backend| {
        let server = stocked(backend, 30);
        let walk = |first: &str| {
            let mut seen = Vec::new();
            let mut path = Some(first.to_owned());
            while let Some(current) = path.filter(|_| seen.len() < 30) {
                let response = server.get(&current);
                seen.extend(page_ids(&response));
                path = link(&response, "next");
            }
            seen
        };
        assert_eq!(walk("/events?after=10&before=17&limit=2"), [11, 12, 13, 14, 15, 16]);
        assert_eq!(walk("/events?after=10&before=17&limit=2&order=desc"), [16, 15, 14, 13, 12, 11]);
        assert_eq!(walk("/events?before=5&limit=2&order=desc"), [4, 3, 2, 1]);
    });
}

#[test]
fn links_lead_back_to_where_one_came_from() {
    for_each_backend(|backend| {
        let server = stocked(backend, 30);
        for order in ["asc&after=0", "desc"] {
            let mut pages = vec![server.get(&format!("/events?limit=7&order={order}"))];
            while let Some(next) = link(&pages[pages.len() - 1], "next") {
                pages.push(server.get(&next));
            }
            assert_eq!(pages.len(), 5, "{order}");
            let mut back = pages.pop().expect("a page");
            while let Some(page) = pages.pop() {
                back = server.get(&link(&back, "prev").expect("a page before"));
                assert_eq!(page_ids(&back), page_ids(&page), "{order}");
                assert!(link(&back, "next").is_some(), "{order}");
            }
            assert_eq!(link(&back, "prev"), None, "{order}");
        }
        assert_eq!(page_ids(&server.get("/events?after=10&limit=2&order=desc")), [12, 11]);
    });
}

#[test]
fn links_keep_the_filters_and_end() {
    for_each_backend(|backend| {
        let server = stocked(backend, 10);
        server.publish("größe &+%", json!({}));
        server.publish("größe &+%", json!({}));
        let request = "/events?event_name=gr%C3%B6%C3%9Fe%20%26%2B%25&after=0&limit=1";
        let first = server.get(request);
        assert_eq!(page_ids(&first), [11]);
        let second = server.get(&link(&first, "next").expect("a next page"));
        assert_eq!(page_ids(&second), [12]);
        assert_eq!(link(&server.get("/events?after=0"), "next"), None);
        assert_eq!(link(&server.get("/events"), "prev"), None);
    });
}

/// A server with `count` events named `a`.
fn stocked(backend: Backend, count: usize) -> Server {
    let server = Server::start(backend);
    let items: Vec<Value> = (1..=count).map(|n| json!({"event_name": "a", "payload": n})).collect();
    server.post("/publish/batch", Value::from(items)).data();
    server
}

fn ids(server: &Server, query: &str) -> Vec<i64> {
    server.events(query).iter().filter_map(|e| e["id"].as_i64()).collect()
}

fn page_ids(response: &Response) -> Vec<i64> {
    let data = response.data();
    data.as_array().expect("a list").iter().filter_map(|e| e["id"].as_i64()).collect()
}

/// Ids of all events named `a` below `id`, ascending; read in one go backwards.
fn ids_below(server: &Server, id: i64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut before = id;
    loop {
        let page = ids(server, &format!("?event_name=a&before={before}&limit=1000&order=desc"));
        let Some(&last) = page.last() else { break };
        found.extend(page);
        before = last;
    }
    found.reverse();
    found
}

/// Path and query of the `Link` with that relation, which is a query alone.
fn link(response: &Response, relation: &str) -> Option<String> {
    let wanted = format!(r#"rel="{relation}""#);
    let links: Vec<&str> = response.headers_named("link").flat_map(|value| value.split(", ")).collect();
    let link = links.into_iter().find(|link| link.ends_with(&wanted))?;
    let target = link.strip_prefix('<')?.split_once('>')?.0;
    assert!(target.starts_with('?'), "a proxy's prefix is lost: {link}");
    Some(format!("/events{target}"))
}

#[test]
fn control_characters_in_parameters_are_422() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for field in ["source", "key"] {
            let data = server.get(&format!("/events?{field}=%00")).error(422);
            assert_eq!(data["field"], field);
        }
    });
}
