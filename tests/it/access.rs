//! Who may do what, with no tokens configured.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::http::Request;
use crate::support::{Backend, Server, for_each_backend};

const TOKEN: &str = "a-token-that-nobody-guesses";

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
fn nobody_is_an_operator_by_where_he_is() {
    let server = Server::builder().backend(Backend::Sqlite);
    let server = server.env("EVENT_HANDLER__SERVER__ALLOWED_HOSTS", "events.example").start();
    for (method, path) in [
        ("GET", "/admin/actors"),
        ("GET", "/admin/sessions"),
        ("GET", "/admin/subscriptions"),
        ("DELETE", "/admin/drain"),
        ("DELETE", "/admin/sessions/1"),
        ("POST", "/admin/drain"),
        ("POST", "/admin"),
        ("GET", "/admin/no-such-page"),
        ("GET", "/%61dmin/actors"),
    ] {
        for host in ["localhost", "127.0.0.1:4300", "[::1]:4300", "events.example"] {
            let refused = Request::new(server.addr(), method, path).header("Host", host).send();
            match (method, path) {
                ("POST", "/admin") => assert_eq!(refused.status, 405),
                _ => assert_eq!(refused.error(401)["code"], "unauthorized", "{method} {path} {host}"),
            }
        }
    }
    assert_eq!(server.get("/health/ready").status, 200);
}

#[test]
fn an_operator_finds_a_token_beside_the_data() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let file = match backend {
            Backend::Sqlite => server.dir().join("admin.token"),
            Backend::Postgres => server.dir().join("data/admin.token"),
        };
        let token = fs::read_to_string(&file).expect("a file with the token");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        let get = |token: &str| {
            let request = Request::new(server.addr(), "GET", "/admin/actors");
            request.header("Authorization", &format!("Bearer {token}")).send()
        };
        get(token.trim()).data();
        get("eh_made-up").error(401);
        let line = server.wait_for_log(|line| line["file"].is_string());
        assert!(line["file"].as_str().is_some_and(|name| file.ends_with(name)), "{line}");
        let services = server.spec().env("PORT", server.addr().port()).arg("services").run();
        assert!(services.status.success(), "the command line finds it: {services:?}");
        assert!(!server.log_text().contains(token.trim()), "the token is in the log");

        server.restart();
        assert_eq!(server.admin_token().as_deref(), Some(token.trim()), "it stays");
        server.get("/admin/actors").data();
    });
}

#[test]
fn a_developer_is_shown_the_page_and_nobody_else_the_token() {
    let readable = Server::builder().backend(Backend::Sqlite).without("APP_ENV");
    let server = readable.clone().start();
    let token = server.admin_token().expect("made");
    let page = format!("admin page at http://{}/admin#token={token}", server.addr());
    assert!(server.log_text().contains(&page), "{} is not in\n{}", page, server.log_text());
    let shown = Request::new(server.addr(), "GET", "/admin").send();
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("text/html; charset=utf-8")));
    drop(server);

    for secretive in [
        readable.clone().env("APP_ENV", "production").env("EVENT_HANDLER__LOG__FORMAT", "text"),
        readable.clone().env("EVENT_HANDLER__LOG__FORMAT", "json"),
    ] {
        let server = secretive.start();
        server.get("/admin/actors").data();
        assert!(!server.log_text().contains(&token), "{}", server.log_text());
    }
    // What an operator has put there is not for the log.
    let given = readable.file("secret", TOKEN).env("EVENT_HANDLER__ADMIN__TOKEN_FILE", "secret").start();
    given.request("GET", "/admin/actors").header("Authorization", &format!("Bearer {TOKEN}")).send().data();
    assert!(!given.log_text().contains(TOKEN), "{}", given.log_text());
}

#[test]
fn where_no_token_can_be_kept_admin_stays_closed_and_the_start_says_what_to_set() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__ADMIN__TOKEN_FILE", "/proc/none");
    let server = server.start();
    server.get("/admin/actors").error(403);
    server.request("GET", "/admin/actors").header("Authorization", "Bearer ").send().error(403);
    server.publish("still.open", json!({}));
    let line = server.wait_for_log(|line| line["level"] == "warn");
    assert!(line["msg"].as_str().is_some_and(|text| text.contains("ADMIN_TOKEN")), "{line}");
}

#[test]
fn a_command_gives_the_token_to_this_machine_alone() {
    let server = Server::start(Backend::Sqlite);
    let services = |url: &str| server.spec().arg("services").env("EVENT_HANDLER_URL", url).run();
    assert!(services(&format!("http://{}", server.addr())).status.success());
    // The same place under a name that is not this machine's own.
    let stranger = services(&format!("http://0.0.0.0:{}", server.addr().port()));
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("unauthorized"), "{stranger:?}");
}

#[test]
fn the_admin_token_opens_admin() {
    let server = Server::builder().backend(Backend::Sqlite).env("ADMIN_TOKEN", TOKEN).start();
    assert_eq!(server.admin_token(), None, "none is made");
    let get = || server.request("GET", "/admin/actors");
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
