//! Who is here, and what for: `/admin/sessions`, `/admin/subscriptions`.

use serde_json::{Value, json};

use crate::support::{Backend, Server, eventually};

fn ids(sessions: &Value) -> Vec<u64> {
    sessions.as_array().expect("a list").iter().filter_map(|session| session["id"].as_u64()).collect()
}

#[test]
fn sessions_are_found_and_paged() {
    let server = Server::start(Backend::Sqlite);
    let mut sockets: Vec<_> = (0..3).map(|_| server.ws()).collect();
    for (n, ws) in sockets.iter_mut().enumerate() {
        ws.request(json!({"action": "subscribe", "event_name": format!("a.{n}"), "id": 1}));
        ws.request(json!({"action": "subscribe", "event_name": "b.>", "id": 2}));
    }
    let _streams: Vec<_> = (0..2).map(|_| server.stream("?event_name=b.%3E", &[])).collect();
    let all = server.get("/admin/sessions").data();
    assert_eq!(ids(&all), [1, 2, 3, 4, 5]);
    for session in all.as_array().expect("a list") {
        for field in
            ["kind", "peer", "shard", "subscriptions", "queue_bytes", "lag", "live", "frames", "uptime_seconds"]
        {
            assert!(!session[field].is_null(), "{field}: {session}");
        }
    }
    let find = |query: &str| ids(&server.get(&format!("/admin/sessions{query}")).data());
    assert_eq!(find("?kind=sse"), [4, 5]);
    assert_eq!(find("?pattern=a.1"), [2]);
    assert_eq!(find("?pattern=b.%3E"), [1, 2, 3, 4, 5]);
    assert_eq!(find("?pattern=b.c"), [] as [u64; 0]);
    assert_eq!(find("?peer=127.0.0.1"), [1, 2, 3, 4, 5]);
    assert_eq!(find(&format!("?peer={}", sockets[2].local_addr())), [3]);
    assert_eq!(find("?kind=websocket&pattern=b.%3E&after=1"), [2, 3]);
    let mut next = Some("/admin/sessions?limit=2".to_owned());
    let mut walked = Vec::new();
    while let Some(path) = next {
        let response = server.get(&path);
        walked.push(ids(&response.data()));
        next =
            response.header("link").map(|link| format!("/admin/sessions{}", &link[1..link.find('>').expect("a link")]));
    }
    assert_eq!(walked, [vec![1, 2], vec![3, 4], vec![5]]);
    for query in ["?kind=ftp", "?limit=0", "?pattern=a..b", "?after=x", "?shard=1"] {
        server.get(&format!("/admin/sessions{query}")).error(422);
    }
}

#[test]
fn subscribers_are_counted_by_pattern() {
    let server = Server::start(Backend::Sqlite);
    let mut sockets: Vec<_> = (0..3).map(|_| server.ws()).collect();
    for ws in &mut sockets {
        ws.request(json!({"action": "subscribe", "event_name": "a.>", "id": 1}));
    }
    sockets[0].request(json!({"action": "subscribe", "event_name": "a.b", "id": 2}));
    let stream = server.stream("?event_name=a.%3E&event_name=c", &[]);
    let count = |pattern: &str, websocket: u64, sse: u64| json!({"event_name": pattern, "subscribers": websocket + sse, "websocket": websocket, "sse": sse});
    let counts = || server.get("/admin/subscriptions").data();
    assert_eq!(counts(), json!([count("a.>", 3, 1), count("a.b", 1, 0), count("c", 0, 1)]));
    let page = server.get("/admin/subscriptions?limit=1&after=a.%3E");
    assert_eq!(page.data(), json!([count("a.b", 1, 0)]));
    assert_eq!(page.header("link"), Some(r#"<?limit=1&after=a.b>; rel="next""#));
    drop((sockets, stream));
    eventually("nobody", || (counts() == json!([])).then_some(()));
}

#[test]
fn who_comes_and_goes_is_told_if_asked_for() {
    let server =
        Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUBSCRIBE__PRESENCE_EVENTS", "true").start();
    let mut watcher = server.stream("?event_name=$sys.session.%3E&after=0", &[]);
    let (_, name, own) = watcher.event();
    assert_eq!((name.as_str(), &own["session"], &own["kind"]), ("$sys.session.opened", &json!(1), &json!("sse")));
    drop(server.ws());
    let (_, name, opened) = watcher.event();
    assert_eq!((name.as_str(), &opened["kind"]), ("$sys.session.opened", &json!("websocket")));
    let (_, name, closed) = watcher.event();
    assert_eq!((name.as_str(), &closed["frames"]), ("$sys.session.closed", &json!(0)));
    for field in ["generation", "session", "peer"] {
        assert_eq!(opened[field], closed[field], "{field}");
    }
    assert_eq!(opened["generation"], own["generation"]);
    // A storm is told in numbers.
    let storm: Vec<_> = (0..1500).map(|_| server.stream("?event_name=a", &[])).collect();
    drop(storm);
    let mut told = 0;
    while told < 3000 {
        let (_, name, data) = watcher.event();
        told += if name == "$sys.session.left_out" { data["count"].as_u64().expect("a number") } else { 1 };
    }
    assert_eq!(told, 3000);
}

#[test]
fn nobody_is_told_of_unless_asked_for() {
    let server = Server::start(Backend::Sqlite);
    drop(server.ws());
    eventually("gone", || (server.get("/admin/sessions").data() == json!([])).then_some(()));
    assert_eq!(server.events("?event_name=$sys.%3E"), [] as [Value; 0]);
}
