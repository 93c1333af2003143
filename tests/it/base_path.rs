//! `server.base_path`, and slashes at the end of paths.

use serde_json::json;

use crate::support::http::{Connection, Request};
use crate::support::sse::EventStream;
use crate::support::ws::Socket;
use crate::support::{Backend, Server};

fn under(base: &str) -> Server {
    Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__BASE_PATH", base).start()
}

#[test]
fn everything_is_below_the_base_path() {
    let server = under("/events");
    let mut ws = Socket::connect(server.addr(), "/events/ws", &[]).expect("a WebSocket");
    ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    let mut stream = EventStream::open(server.addr(), "/events/events/stream?event_name=a", &[]);
    assert_eq!(server.post("/events/publish", json!({"event_name": "a", "payload": 1})).event_id(), 1);
    assert_eq!(ws.recv_json(), json!({"event_name": "a", "payload": 1}));
    assert_eq!(stream.event(), (1, "a".to_owned(), json!(1)));
    assert_eq!(server.post("/events/publish/batch", json!([{"event_name": "b"}])).data()["count"], 1);
    assert_eq!(server.get("/events/events?event_name=a").data()[0]["id"], 1);
    assert_eq!(server.get("/%65vents/events/1").data()["id"], 1);
    for path in ["/events/events/1/trace", "/events/schedules"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_ne!(server.get("/events/admin/actors").status, 404);
    let page = server.get("/events/events?limit=1&after=0");
    assert_eq!(page.header("link"), Some(r#"<?limit=1&after=1>; rel="next""#));
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!((server.get(path).status, server.get(&format!("/events{path}")).status), (200, 200), "{path}");
    }
    let text = server.get("/metrics").text().to_owned();
    assert!(text.contains(r#"route="/publish""#), "{text}");
}

#[test]
fn nothing_is_beside_the_base_path() {
    let server = under("/events/");
    let cases = [
        ("POST", "/publish"),
        ("PUT", "/publish"),
        ("GET", "/ws"),
        ("GET", "/events"),
        ("GET", "/events/"),
        ("GET", "/events/1"),
        ("GET", "/eventsx/events"),
        ("GET", "/admin/actors"),
        ("OPTIONS", "*"),
        ("GET", "/"),
    ];
    for (method, path) in cases {
        let mut connection = Connection::open(server.addr()).expect("a connection");
        for _ in 0..2 {
            let request = server.request(method, path).json(json!({"event_name": "a"}));
            let answer = connection.send(&request).expect("an answer on the same connection");
            assert_eq!(answer.error(404)["code"], "not_found", "{method} {path}");
            assert!(answer.header("x-request-id").is_some());
        }
    }
    assert_eq!(server.request("PUT", "/events/publish").send().error(405)["code"], "method_not_allowed");
    assert_eq!(server.get("/events/events").data(), json!([]));
}

#[test]
fn a_slash_at_the_end_is_redirected() {
    for (server, base) in [(under(""), ""), (under("/a/b"), "/a/b")] {
        let cases = [
            ("POST", "/publish/", "../publish"),
            ("PATCH", "/publish/batch/", "../batch"),
            ("GET", "/events/?limit=1&event_name=a.%3E", "../events?limit=1&event_name=a.%3E"),
            ("HEAD", "/events/1/", "../1"),
            ("GET", "/events/1/trace/", "../trace"),
            ("GET", "/ws/", "../ws"),
            ("GET", "/health/ready/", "../ready"),
            ("GET", "/admin/", "../admin"),
        ];
        for (method, path, location) in cases {
            let answer = server.request(method, &format!("{base}{path}")).body("{}").send();
            assert_eq!((answer.status, answer.header("location")), (308, Some(location)), "{method} {base}{path}");
        }
        let refused = Request::new(server.addr(), "GET", &format!("{base}/admin/actors/")).send();
        assert_eq!(refused.error(401)["code"], "unauthorized");
        assert_eq!(refused.header("cache-control"), Some("no-store"));
        for path in ["/nowhere/", "/publish//", "//"] {
            server.get(&format!("{base}{path}")).error(404);
        }
    }
}

#[test]
fn the_command_line_finds_the_base_path() {
    let server = under("/events");
    let port = server.addr().port();
    let run = |url: &str, args: &[&str]| {
        let builder = server.spec().env("PORT", port).env("EVENT_HANDLER_URL", url);
        let output = args.iter().fold(builder, |builder, arg| builder.arg(arg)).run();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(run("", &["publish", "a", "1"]), "1\n");
    assert_eq!(run(&format!("http://127.0.0.1:{port}/events/"), &["publish", "a", "2"]), "2\n");
    assert_eq!(run("", &["events", "--all", "--limit", "1"]).lines().count(), 2);
    assert!(run("", &["health", "--ready"]).contains("ok"));
}

#[test]
fn a_base_path_that_is_none_stops_the_start() {
    let output = Server::builder().env("EVENT_HANDLER__SERVER__BASE_PATH", "events").run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("BASE_PATH") && text.contains("\"/events\""), "{text}");
}
