//! Configuration: file, environment, short names, and what stops the start.

use serde_json::{Value, json};

use crate::support::server::Builder;
use crate::support::{Backend, Server};

#[test]
fn without_a_database_url_events_are_kept_in_a_file_under_data() {
    let mut server = Server::builder().start();
    server.publish("a", json!({}));
    let files: Vec<_> = std::fs::read_dir(server.dir().join("data")).expect("data/").flatten().collect();
    assert!(!files.is_empty());
    server.restart();
    assert_eq!(server.events("").len(), 1);
}

#[test]
fn a_file_is_read_and_the_environment_wins() {
    let max_body = |builder: Builder| {
        let server = builder.backend(Backend::Sqlite).start();
        let body = json!({"event_name": "a", "payload": "x".repeat(3000)});
        server.post("/publish", body).status
    };
    let file = "[server]\nmax_body = \"2KiB\"\n";
    assert_eq!(max_body(Server::builder()), 200);
    assert_eq!(max_body(Server::builder().file("own.toml", file).env("EVENT_HANDLER_CONFIG", "own.toml")), 413);
    let by_argument = Server::builder().file("own.toml", file).arg("serve").arg("--config").arg("own.toml");
    assert_eq!(max_body(by_argument.clone()), 413);
    assert_eq!(max_body(by_argument.env("EVENT_HANDLER__SERVER__MAX_BODY", "4KiB")), 200);
}

#[test]
fn mistakes_stop_the_start_with_one_line_and_code_78() {
    let from_file = |content: &str| Server::builder().file("own.toml", content).env("EVENT_HANDLER_CONFIG", "own.toml");
    let cases: [(Builder, &[&str]); 17] = [
        (from_file("[server]\nprot = 1\n"), &["own.toml", "prot"]),
        (from_file("[nonsense]\nx = 1\n"), &["own.toml", "nonsense"]),
        (from_file("[server]\nmax_body = \"much\"\n"), &["own.toml", "server.max_body"]),
        (from_file("[server\n"), &["own.toml"]),
        (from_file("[[services]]\nname = \"billing\"\n"), &["own.toml", "services.billing.url"]),
        (from_file("[[services]]\nname = \"x\"\nurl = \"ftp://h\"\n"), &["own.toml", "services.x.url", "http://"]),
        (from_file("[[services]]\nname = \"x\"\nurl = \"http://h\"\nroutse = []\n"), &["services.x.routse", "routes"]),
        (from_file("[[services]]\nname = \"x\"\nurl = \"http://h\"\nrate = -1\n"), &["own.toml", "services.x.rate"]),
        (
            from_file("[[services]]\nname = \"x\"\nurl = \"https://h\"\ntls_ca_file = \"missing.pem\"\n"),
            &["own.toml", "services.x.tls_ca_file", "missing.pem"],
        ),
        (Server::builder().env("EVENT_HANDLER_CONFIG", "missing.toml"), &["missing.toml"]),
        (Server::builder().env("EVENT_HANDLER__SERVER__NONSENSE", "1"), &["EVENT_HANDLER__SERVER__NONSENSE"]),
        (Server::builder().env("EVENT_HANDLER__SERVER__MAX_BODY", "much"), &["EVENT_HANDLER__SERVER__MAX_BODY"]),
        (Server::builder().env("PORT", "many"), &["PORT"]),
        (Server::builder().env("PORT", "70000"), &["PORT"]),
        (Server::builder().env("DATABASE_URL", "mysql://somewhere/x"), &["DATABASE_URL"]),
        (Server::builder().env("AUCTION_MANAGER_URL", "not a url"), &["AUCTION_MANAGER_URL"]),
        (Server::builder().env("REDIS_URL", "http://redis:6379"), &["REDIS_URL"]),
    ];
    for (builder, named) in cases {
        let output = builder.run();
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        for word in named {
            assert!(text.contains(word), "{word} is not named: {text}");
        }
    }
}

/// 0042 is not 42: a token that was read as a number would be another one.
#[test]
fn the_admin_token_must_be_text() {
    let check = |content: &str| {
        let builder = Server::builder().file("own.toml", content).env("EVENT_HANDLER_CONFIG", "own.toml");
        builder.arg("check-config").run()
    };
    assert!(check("[admin]\ntoken = \"0042\"\n").status.success());
    for token in ["42", "4.2"] {
        let output = check(&format!("[admin]\ntoken = {token}\n"));
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains("own.toml: admin.token: must be text") && !text.contains(token), "{text}");
    }
}

#[test]
fn an_admin_token_that_anybody_guesses_is_refused() {
    let check = |token: &str, host: &str| {
        let output = Server::builder().env("ADMIN_TOKEN", token).env("HOST", host).arg("check-config").run();
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    for (token, host, reason) in [
        ("abc", "127.0.0.1", "at least 4 characters"),
        ("fifteen-letters", "0.0.0.0", "at least 16 characters"),
        ("fifteen-letters", "::", "at least 16 characters"),
        ("naïve-naïve-naïve", "127.0.0.1", "visible ASCII"),
    ] {
        let (code, said) = check(token, host);
        assert_eq!(code, Some(78), "{token} {host}: {said}");
        assert!(said.starts_with("environment variable ADMIN_TOKEN: admin.token: must"), "{said}");
        assert!(said.contains(reason) && !said.contains(token), "{said}");
    }
    for (token, host) in
        [("fifteen-letters", "127.0.0.1"), ("fifteen-letters", "localhost"), ("sixteen-letters-", "::")]
    {
        assert_eq!(check(token, host).0, Some(0), "{token} {host}");
    }
    let server = Server::builder().env("ADMIN_TOKEN", "fifteen-letters").start();
    server.wait_for_log(|line| line["level"] == "warn" && line["msg"].as_str().is_some_and(|m| m.contains("16 char")));
}

#[test]
fn an_address_that_cannot_be_listened_on_is_told_once() {
    let output = Server::builder().env("HOST", "192.0.2.1").run();
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("cannot listen on 192.0.2.1")).count(), 1, "{text}");
}

#[test]
fn secrets_are_never_printed() {
    let secret = "hunter2-and-more";
    let url = format!("postgres://events:{secret}@127.0.0.1:1/events");
    let output = Server::builder().env("DATABASE_URL", &url).arg("migrate").run();
    assert!(!output.status.success());
    let mistaken = Server::builder().env("DATABASE_URL", format!("mysql://u:{secret}@h/x")).run();
    let token = Server::builder().env("ADMIN_TOKEN", secret).arg("check-config").run();
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    for output in [output, mistaken, token] {
        let text = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&text).contains(secret), "{}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn services_are_shown_as_they_are_in_effect() {
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let secret = "hunter2-and-more";
    let file = format!(
        "[[services]]\nname = \"billing\"\nurl = \"http://u:{secret}@h\"\nsecret = \"{KEY}\"\ntimeout = \"3s\"\n\
         headers = {{ X-Key = \"{secret}\" }}\n"
    );
    let builder = Server::builder().file("own.toml", &file).env("EVENT_HANDLER_CONFIG", "own.toml");
    let output = builder.env("ELIZA_URL", "http://eliza:8080").arg("check-config").run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(!text.contains(secret) && !text.contains(KEY), "{text}");
    for line in [
        r#"name = "billing""#,
        r#"url = "http://***:***@h/" # own.toml"#,
        r#"secret = "***" # own.toml"#,
        r#"timeout = "3s" # own.toml"#,
        r#"name = "eliza""#,
        r#"url = "http://eliza:8080/" # environment variable ELIZA_URL"#,
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}

#[test]
fn check_config_tells_good_from_bad() {
    let good = Server::builder().arg("check-config").run();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let bad = Server::builder().env("PORT", "x").arg("check-config").run();
    assert_eq!(bad.status.code(), Some(78));
}

#[test]
fn the_documented_defaults_are_a_valid_file() {
    let defaults = include_str!("../../config/default.toml");
    let output =
        Server::builder().file("own.toml", defaults).env("EVENT_HANDLER_CONFIG", "own.toml").arg("check-config").run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn logs_are_readable_for_people_unless_in_production() {
    let is_json = |builder: Builder| {
        let server = builder.backend(Backend::Sqlite).start();
        server.log_text().lines().all(|line| serde_json::from_str::<Value>(line).is_ok())
    };
    let plain = || Server::builder().without("APP_ENV");
    assert!(is_json(plain().env("APP_ENV", "production")));
    assert!(is_json(plain().env("NODE_ENV", "production")));
    assert!(!is_json(plain().env("APP_ENV", "development")));
    assert!(!is_json(plain()));
}

#[test]
fn the_log_level_is_set_by_rust_log() {
    let server = Server::builder().backend(Backend::Sqlite).env("RUST_LOG", "off,event_handler::serve=info").start();
    assert!(server.log_text().lines().all(|line| line.contains("event_handler::serve")), "{}", server.log_text());
}

#[test]
fn a_bad_database_url_stops_the_start_and_keeps_its_secret() {
    const SECRET: &str = "s3cr3t";
    for url in [
        format!("postgres://u:{SECRET}%zz@127.0.0.1/d"),
        format!("postgres://u:{SECRET}@[bad"),
        format!("postgres://u:{SECRET}@h:port/d"),
        format!("postgres://u:{SECRET}@h/d?bogus=1"),
        format!("postgres://u:{SECRET}@h/d?sslmode=nope"),
    ] {
        let output = Server::builder().env("DATABASE_URL", &url).run();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{url}: {text}");
        assert_eq!(text.lines().count(), 1, "{url}: {text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}
