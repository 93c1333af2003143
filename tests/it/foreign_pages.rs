//! What web pages of other origins may do: nothing, in a real browser and by the headers that browsers send.

use serde_json::json;

use crate::support::browser::{Page, REBOUND, serve_page};
use crate::support::http::{Connection, Request, Response};
use crate::support::server::metric;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

const PAGE: &str = "<!doctype html><title>foreign</title><body><iframe name=frame hidden></iframe>";
const EVIL: (&str, &str) = ("Origin", "http://evil.example");

/// Every path with something behind it, and one without.
const PATHS: [(&str, &str); 9] = [
    ("POST", "/publish"),
    ("POST", "/publish/batch"),
    ("GET", "/events"),
    ("GET", "/events/stream"),
    ("GET", "/schedules"),
    ("DELETE", "/schedules/sch_1"),
    ("GET", "/admin/actors"),
    ("OPTIONS", "/publish"),
    ("GET", "/no-such-page"),
];

fn send(server: &Server, method: &str, path: &str, (name, value): (&str, &str)) -> Response {
    Request::new(server.addr(), method, path).header(name, value).send()
}

fn is_refused(response: &Response) -> bool {
    response.status == 403 && response.error(403)["code"] == "foreign_origin"
}

#[test]
fn a_foreign_page_can_neither_publish_nor_read_in_a_browser() {
    let server = Server::start(Backend::Sqlite);
    let url = format!("http://{}", server.addr());
    let mut page = Page::open(&format!("http://{}/", serve_page(PAGE)));
    page.evaluate(&format!(
        r#"
        const event = JSON.stringify({{ event_name: "user.forged" }});
        const done = (what) => () => (window[what] = true);
        fetch("{url}/publish", {{ method: "POST", mode: "no-cors", body: new Blob([event]) }}).then(done("blob"));
        fetch("{url}/publish", {{ method: "POST", mode: "no-cors", body: event }}).then(done("text"));
        navigator.sendBeacon("{url}/publish", new Blob([event]));
        fetch("{url}/publish", {{ method: "POST", body: event, headers: {{ "content-type": "application/json" }} }})
            .catch(done("cors"));
        fetch("{url}/events").catch(done("read"));
        new EventSource("{url}/events/stream").onerror = done("stream");
        const socket = new WebSocket("{url}/ws".replace("http", "ws"));
        socket.onopen = () => socket.send(event);
        socket.onclose = done("socket");
        const image = new Image();
        image.onerror = done("image");
        image.src = "{url}/events";
        const form = document.createElement("form");
        form.action = "{url}/publish";
        form.method = "POST";
        form.enctype = "text/plain";
        form.target = "frame";
        form.append(Object.assign(document.createElement("input"), {{ name: event.slice(0, -1) + ',"a', value: '":1}}' }}));
        document.body.append(form);
        form.submit();
        "#
    ));
    page.wait_until("['blob', 'text', 'cors', 'read', 'stream', 'socket', 'image'].every((what) => window[what])");
    let refused = |method: &str, route: &str| {
        let labels = format!(r#"{{code="403",method="{method}",route="{route}"}}"#);
        metric(&server, &format!("http_request_duration_seconds_count{labels}"))
    };
    // Two by fetch, one as a beacon, one as a form; and the browser's own question before the fifth.
    eventually("all have come", || {
        let came = refused("POST", "/publish") + refused("OPTIONS", "/publish");
        (came >= 5.0 && refused("GET", "/ws") == 1.0).then_some(())
    });
    assert_eq!(server.events(""), [] as [serde_json::Value; 0]);
}

#[test]
fn a_page_whose_name_points_here_can_not_read_in_a_browser() {
    let mut server = Server::start(Backend::Sqlite);
    server.publish("user.private", json!({}));
    let rebound = format!("http://{REBOUND}:{}", server.addr().port());
    let mut page = Page::open(&format!("{rebound}/health"));
    page.evaluate("fetch('/events').then((answer) => { window.status_of = answer.status; })");
    page.wait_until("window.status_of !== undefined");
    assert_eq!(page.evaluate("window.status_of"), 403);

    server.terminate();
    let named = server.spec().env("EVENT_HANDLER__SERVER__ALLOWED_HOSTS", REBOUND).start();
    page.navigate(&format!("http://{REBOUND}:{}/events", named.addr().port()));
    page.wait_until("document.body.innerText.includes('user.private')");
}

#[test]
fn a_link_to_the_page_of_operators_can_be_followed_in_a_browser() {
    let server = Server::start(Backend::Sqlite);
    let mut page = Page::open(&format!("http://{}/", serve_page(PAGE)));
    let url = format!("http://{}/admin#token={}", server.addr(), server.admin_token().expect("made"));
    page.evaluate(&format!("location.href = {}", json!(url)));
    page.wait_until("document.title.includes('Overview') && document.querySelector('main .tile') != null");
    assert_eq!(page.evaluate("location.hash"), "", "the token does not stay in the address");
}

#[test]
fn every_path_but_health_and_metrics_refuses_foreign_pages() {
    let server = Server::start(Backend::Sqlite);
    let own = format!("http://{}", server.addr());
    for (method, path) in PATHS {
        for header in [
            EVIL,
            ("Origin", "null"),
            ("Origin", &format!("{own}.evil.example")),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            assert!(is_refused(&send(&server, method, path, header)), "{method} {path} {header:?}");
        }
        for header in [("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "none")] {
            if path != "/events/stream" {
                assert!(!is_refused(&send(&server, method, path, header)), "{method} {path} {header:?}");
            }
        }
    }
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(send(&server, "GET", path, EVIL).status, 200, "{path}");
        assert_eq!(send(&server, "GET", path, ("Host", "evil.example")).status, 200, "{path}");
    }
    assert!(Socket::connect(server.addr(), "/ws", &[("Origin", &own)]).is_ok());
    let refused = Socket::connect(server.addr(), "/ws", &[EVIL]).err().expect("refused");
    assert!(refused.status == 403 && refused.body.contains("foreign_origin"), "{}", refused.body);
    // A program that fetches, as Node does, is no page.
    assert!(!is_refused(&send(&server, "GET", "/events", ("Sec-Fetch-Mode", "cors"))));
}

#[test]
fn foreign_pages_are_refused_where_tokens_are_configured_too() {
    let server = Server::builder().backend(Backend::Sqlite);
    let server = server.tokens(&[("all", r#"scopes = { publish = [">"], read = [">"] }"#)], "").start();
    let request = |(name, value): (&str, &str)| {
        let token = crate::support::tokens::bearer("all");
        server
            .request("POST", "/publish")
            .header("Authorization", &token)
            .header(name, value)
            .json("{\"event_name\":\"a\"}")
            .send()
    };
    assert!(is_refused(&request(EVIL)));
    request(("Host", "events.example")).data();
}

#[test]
fn an_open_service_of_this_machine_is_asked_by_its_address_or_a_name_of_its_own() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__ALLOWED_HOSTS", "events.local");
    let server = server.start();
    let get = |host: &str| send(&server, "GET", "/events", ("Host", host));
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:4300", "[::1]:4300", "10.0.0.7", "events.local:4300"] {
        get(host).data();
    }
    for host in ["evil.example", "evil.example:4300", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
        assert!(is_refused(&get(host)), "{host:?}");
        assert!(is_refused(&send(&server, "GET", "/admin", ("Host", host))), "{host:?}");
    }
    // On other addresses it has whatever name there is.
    let public = Server::builder().backend(Backend::Sqlite).env("HOST", "0.0.0.0").start();
    send(&public, "GET", "/events", ("Host", "events.example")).data();
}

#[test]
fn a_target_in_absolute_form_counts_whatever_the_header_says() {
    let server = Server::start(Backend::Sqlite);
    let get = |target: &str, head: &str| {
        let mut connection = Connection::open(server.addr()).expect("a connection");
        let request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{head}\r\n\r\n");
        connection.send_raw(request.as_bytes()).expect("sent");
        connection.receive(false).expect("an answer")
    };
    let own = server.addr();
    assert!(is_refused(&get("http://evil.example/events", &format!("Host: {own}"))));
    assert!(is_refused(&get("http://evil.example/events", &format!("Host: {own}\r\nOrigin: http://{own}"))));
    get(&format!("http://{own}/events"), "Host: evil.example").data();
}

#[test]
fn following_a_link_is_not_what_else_a_page_does() {
    let server = Server::start(Backend::Sqlite);
    let visit = |method: &str, path: &str, dest: &str| {
        let request = Request::new(server.addr(), method, path).header("Sec-Fetch-Site", "cross-site");
        request.header("Sec-Fetch-Mode", "navigate").header("Sec-Fetch-Dest", dest).send()
    };
    assert_eq!(visit("GET", "/admin", "document").status, 200);
    assert!(!is_refused(&visit("GET", "/docs", "document")));
    for (method, path, dest) in [
        ("GET", "/admin", "iframe"),
        ("POST", "/admin", "document"),
        ("GET", "/admin/actors", "document"),
        ("GET", "/events", "document"),
        ("POST", "/publish", "document"),
    ] {
        assert!(is_refused(&visit(method, path, dest)), "{method} {path} {dest}");
    }
}

#[test]
fn cors_lets_in_the_origins_it_names_and_never_to_admin() {
    let app = "https://app.example.com";
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__CORS_ORIGINS", app).start();
    let get = |path: &str| {
        let request = server.request("GET", path).header("Origin", app);
        request.header("Sec-Fetch-Site", "cross-site").send()
    };
    get("/events").data();
    assert!(is_refused(&get("/admin/actors")) && is_refused(&get("/%61dmin/actors")));
    assert!(Socket::connect(server.addr(), "/ws", &[("Origin", app)]).is_err(), "named for /ws it is not");
    let every = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__CORS_ORIGINS", "*").start();
    send(&every, "GET", "/events", ("Origin", "null")).data();
    assert!(is_refused(&send(&every, "GET", "/admin/actors", EVIL)));
}
