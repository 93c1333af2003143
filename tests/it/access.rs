//! Who may do what, with no tokens configured.

use serde_json::json;

use crate::support::ws::Socket;
use crate::support::{Backend, Server};

const TOKEN: &str = "a-token-that-nobody-guesses";

#[test]
fn the_data_plane_is_open() {
    let server = Server::start(Backend::Sqlite);
    let foreign = |method: &str, path: &str| server.request(method, path).header("Host", "events.example:4300");
    foreign("POST", "/publish").json(json!({"event_name": "a"})).send().data();
    foreign("GET", "/events").send().data();
    assert!(Socket::connect(server.addr(), "/ws", &[("Host", "events.example:4300")]).is_ok());
}

#[test]
fn an_open_data_plane_on_a_public_address_is_warned_of() {
    let server = Server::builder().backend(Backend::Sqlite).env("HOST", "0.0.0.0").start();
    server.wait_for_log(|line| {
        line["level"].as_str().is_some_and(|level| level.eq_ignore_ascii_case("warn"))
            && line.to_string().contains("token")
    });
    let quiet = Server::start(Backend::Sqlite);
    assert!(!quiet.log_text().to_lowercase().contains("\"warn\""), "{}", quiet.log_text());
}

#[test]
fn admin_answers_loopback_only() {
    let server = Server::start(Backend::Sqlite);
    let get = || server.request("GET", "/admin/actors");
    for host in ["localhost", "localhost:4300", "127.0.0.1:4300", "[::1]:4300", "LOCALHOST"] {
        get().header("Host", host).send().data();
    }
    for host in ["events.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:4300", ""] {
        get().header("Host", host).send().error(403);
    }
    for (name, value) in [
        ("X-Forwarded-For", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("X-Forwarded-Host", "localhost"),
        ("Via", "1.1 proxy"),
    ] {
        get().header(name, value).send().error(403);
    }
}

#[test]
fn every_admin_path_is_guarded() {
    let server = Server::start(Backend::Sqlite);
    for (method, path) in [
        ("GET", "/admin"),
        ("GET", "/admin/actors"),
        ("GET", "/admin/sessions"),
        ("GET", "/admin/subscriptions"),
        ("DELETE", "/admin/drain"),
        ("DELETE", "/admin/sessions/1"),
        ("POST", "/admin/drain"),
        ("GET", "/admin/no-such-page"),
    ] {
        server.request(method, path).header("Host", "evil.example").send().error(403);
    }
    server.get("/health/ready").json();
}

#[test]
fn the_admin_token_opens_admin() {
    let server = Server::builder().backend(Backend::Sqlite).env("ADMIN_TOKEN", TOKEN).start();
    let get = || server.request("GET", "/admin/actors").header("Host", "events.example");
    get().header("Authorization", &format!("Bearer {TOKEN}")).send().data();
    get().header("Authorization", &format!("Bearer {TOKEN}")).header("X-Forwarded-For", "10.0.0.1").send().data();
    let missing = get().send();
    assert_eq!(missing.error(401)["code"], "unauthorized");
    assert!(missing.header("www-authenticate").is_some_and(|v| v.starts_with("Bearer")));
    for wrong in ["", "Bearer", "Bearer wrong", "Basic YTpi", &format!("Bearer {TOKEN}x")] {
        get().header("Authorization", wrong).send().error(401);
    }
    server.publish("still.open", json!({}));
    assert!(!server.log_text().contains(TOKEN), "the token is in the log");
}

#[test]
fn foreign_browser_origins_are_refused() {
    let server = Server::start(Backend::Sqlite);
    let connect = |origin: &str| Socket::connect(server.addr(), "/ws", &[("Origin", origin)]);
    assert!(connect(&format!("http://{}", server.addr())).is_ok());
    for origin in ["http://evil.example", "null", &format!("http://{}.evil.example", server.addr())] {
        let refused = connect(origin).err().expect("refused");
        assert_eq!(refused.status, 403, "{origin}");
        assert!(refused.body.contains(r#""code":"forbidden""#), "{origin}: {}", refused.body);
    }
}

#[test]
fn cors_is_off() {
    let server = Server::start(Backend::Sqlite);
    let response = server.request("GET", "/events").header("Origin", "http://evil.example").send();
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[test]
fn a_page_of_another_site_is_not_an_operator() {
    let server = Server::start(Backend::Sqlite);
    let drain = |name: &str, value: &str| server.request("POST", "/admin/drain").header(name, value).send();
    drain("Origin", "http://evil.example").error(403);
    drain("Origin", "null").error(403);
    drain("Sec-Fetch-Site", "cross-site").error(403);
    for name in ["X-Forwarded-Port", "Forwarded-For", "X-Client-IP", "X-Original-Host", "CF-Connecting-IP"] {
        drain(name, "1").error(403);
    }
    assert_eq!(server.get("/health/ready").status, 200);
}
