//! The command line beside `serve`.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, TcpListener};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::command::{at, command, errors, ids, piped_into, run, stocked, text, with};
use crate::support::server::wait_for_exit;
use crate::support::{Backend, Server, Tail, for_each_backend};

#[test]
fn publish_prints_the_id_and_keeps_the_payload_as_it_is() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let payload = r#"{"b": 1.50, "a":12345678901234567890123}"#;
        assert_eq!(text(&run(&server, &["publish", "user.created", payload])), "1\n");
        let stored = server.get("/events/1");
        assert!(stored.text().contains(&format!(r#""payload":{payload}"#)), "{}", stored.text());
        run(&server, &["publish", "user.created"]);
        assert_eq!(server.events("?after=1")[0]["payload"], json!({}));
    });
}

#[test]
fn publish_has_an_option_for_every_field() {
    let server = Server::start(Backend::Sqlite);
    let options = ["--source", "crm", "--priority", "high", "--key", "k", "--metadata", "a=1", "--metadata", "b=x=y"];
    run(&server, &[&["publish", "a", "[1]"][..], &options].concat());
    let event = &server.events("")[0];
    let fields = json!({"source": "crm", "priority": "high", "key": "k", "metadata": {"a": "1", "b": "x=y"}});
    for (field, value) in fields.as_object().expect("an object") {
        assert_eq!(&event[field], value, "{event}");
    }
    let once = ["publish", "a", "1", "--idempotency-key", "k"];
    let (first, again) = (run(&server, &once), run(&server, &once));
    assert_eq!((text(&first), text(&again)), ("2\n", "2\n"));
    assert!(errors(&again).contains("used before"), "{again:?}");
    assert!(errors(&command(&server, &["publish", "a", "2", "--idempotency-key", "k"])).contains("different"));
}

#[test]
fn publish_reads_the_payload_from_standard_input() {
    let server = Server::start(Backend::Sqlite);
    let mut child = at(&server, &["publish", "a", "-"])
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    child.stdin.take().expect("piped").write_all(b"{\"n\":\n 1}\n").expect("read");
    assert!(wait_for_exit(&mut child).is_some_and(|status| status.success()));
    assert_eq!(server.events("")[0]["payload"], json!({"n": 1}));
}

/// As a shell user does it: `echo '{"n":2}' | event-handler publish a`.
#[test]
fn what_is_piped_into_publish_is_the_payload() {
    let server = Server::start(Backend::Sqlite);
    for (piped, args, exit, payload) in [
        ("{\"n\":2}\n", &["publish", "a"][..], 0, Some(json!({"n": 2}))),
        ("", &["publish", "a"], 0, Some(json!({}))),
        (" \n", &["publish", "a"], 0, Some(json!({}))),
        ("ignored", &["publish", "a", "3"], 0, Some(json!(3))),
        ("hello", &["publish", "a"], 2, None),
        ("", &["publish", "a", "-"], 2, None),
    ] {
        let before = server.events("").len();
        let output = piped_into(&at(&server, args), piped);
        assert_eq!(output.status.code(), Some(exit), "{piped:?}: {output:?}");
        let events = server.events("");
        assert_eq!(events.len(), before + usize::from(payload.is_some()), "{piped:?}");
        if let Some(payload) = payload {
            assert_eq!(events[before]["payload"], payload, "{piped:?}");
        }
    }
}

#[test]
fn publish_fails_with_the_services_reason() {
    let server = Server::start(Backend::Sqlite);
    let refused = command(&server, &["publish", "a..b", "{}"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("segment") && errors(&refused).contains("invalid_field"), "{refused:?}");
    let no_json = command(&server, &["publish", "a", "hello"]);
    assert_eq!(no_json.status.code(), Some(2));
    assert!(errors(&no_json).contains("not JSON"), "{no_json:?}");
}

#[test]
fn without_a_service_the_commands_say_what_to_do() {
    // Just given back: nobody listens there.
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = held.local_addr().expect("bound").port();
    drop(held);
    for args in [&["publish", "a"][..], &["events"], &["health"], &["trace", "1"], &["schedules"]] {
        let output = with(Server::builder().env("PORT", port), args).run();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = errors(&output);
        assert!(said.contains("connection refused") && said.contains("event-handler serve"), "{args:?}: {said}");
    }
    let anywhere = with(Server::builder(), &["publish", "a"]).run();
    assert_eq!(anywhere.status.code(), Some(2));
    assert!(errors(&anywhere).contains("--url"), "{anywhere:?}");
}

#[test]
fn the_service_is_named_by_url_flags_or_configuration() {
    let server = Server::start(Backend::Sqlite);
    let (url, port) = (format!("http://{}/", server.addr()), server.addr().port().to_string());
    let elsewhere = || Server::builder().env("PORT", 1);
    for (builder, args) in [
        (elsewhere(), &["publish", "a", "--url", &url][..]),
        (elsewhere().env("EVENT_HANDLER_URL", &url), &["publish", "a"]),
        (elsewhere(), &["publish", "a", "--port", &port]),
        (elsewhere(), &["--port", &port, "publish", "a"]),
        (elsewhere().env("HOST", "0.0.0.0"), &["publish", "a", "--port", &port]),
        (elsewhere(), &["publish", "a", "--set", &format!("server.port={port}")]),
        (elsewhere().env("EVENT_HANDLER_URL", ""), &["publish", "a", "--port", &port]),
    ] {
        let output = with(builder, args).run();
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
    }
    let tls = with(elsewhere(), &["publish", "a", "--url", "https://example.com"]).run();
    assert_eq!((tls.status.code(), errors(&tls).contains("TLS")), (Some(2), true));
}

#[test]
fn flags_stand_above_everything_else_and_are_named_in_errors() {
    let output = with(Server::builder(), &["check-config", "--port", "70000"]).run();
    assert_eq!(output.status.code(), Some(78));
    assert!(errors(&output).starts_with("--port: server.port: "), "{}", errors(&output));
    let output = with(Server::builder(), &["check-config", "--set", "server.port=70000"]).run();
    assert!(errors(&output).starts_with("--set: server.port: "), "{}", errors(&output));
    let flags = ["--host", "127.0.0.2", "--port", "1", "--database-url", "sqlite:x.db", "--set", "server.port=2"];
    let output = with(Server::builder(), &[&["check-config"][..], &flags].concat()).run();
    for line in [r#"host = "127.0.0.2" # --host"#, "port = 1 # --port", r#"url = "sqlite:x.db" # --database-url"#] {
        assert!(text(&output).contains(line), "{line} is not in {}", text(&output));
    }
}

#[test]
fn events_prints_lines_for_people_and_json_for_programs() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("a", json!({"n": 1}));
        server.post(
            "/publish",
            r#"{"event_name":"b.c","payload":[1,
            2],"source":"crm","key":"k"}"#,
        );
        let printed = run(&server, &["events"]);
        let lines: Vec<&str> = text(&printed).lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("1  20") && lines[0].ends_with(r#"Z  a  {"n":1}"#), "{lines:?}");
        assert!(lines[1].contains("b.c  [1,") && lines[1].ends_with("source=crm  key=k"), "{lines:?}");
        let printed = run(&server, &["events", "--json"]);
        let items: Vec<Value> = text(&printed).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(items, server.events(""));
    });
}

#[test]
fn events_passes_its_options_on() {
    let server = stocked(30);
    server.post("/publish", json!({"event_name": "b.x", "source": "crm", "key": "k"})).data();
    let created_at = server.events("?limit=1")[0]["created_at"].as_str().expect("a text").to_owned();
    for (args, expected) in [
        (&["b.x"][..], &[31][..]),
        (&["b.*", "a", "--limit", "2"], &[30, 31]),
        (&["--after", "28"], &[29, 30, 31]),
        (&["--after", "2", "--before", "5"], &[3, 4]),
        (&["--source", "crm"], &[31]),
        (&["--key", "k"], &[31]),
        (&["--status", "failed"], &[]),
        (&["--limit", "2", "--order", "desc"], &[31, 30]),
        (&["--until", "2000-01-01T00:00:00Z"], &[]),
        (&["b.x", "--since", &created_at], &[31]),
        (&["nothing.such"], &[]),
    ] {
        assert_eq!(ids(&run(&server, &[&["events"], args].concat())), expected, "{args:?}");
    }
    let refused = command(&server, &["events", "--limit", "many"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("limit"), "{refused:?}");
}

#[test]
fn events_walks_through_all_pages() {
    let server = stocked(25);
    let all: Vec<i64> = (1..=25).collect();
    assert_eq!(ids(&run(&server, &["events", "--all", "--limit", "4"])), all);
    assert_eq!(ids(&run(&server, &["events", "--all", "--json"])).len(), 25);
    let down = ids(&run(&server, &["events", "--all", "--limit", "4", "--order", "desc"]));
    assert_eq!(down, all.iter().rev().copied().collect::<Vec<_>>());
    let between = ["events", "--all", "--limit", "2", "--after", "10", "--before", "16"];
    assert_eq!(ids(&run(&server, &between)), [11, 12, 13, 14, 15]);
}

#[test]
fn a_closed_standard_output_ends_every_command_quietly() {
    let server = stocked(1000);
    let commands = [
        &["events", "--all"][..],
        &["tail", "a", "--after", "earliest"],
        // Nothing comes after the first line: it must notice all the same.
        &["tail", "a", "--after", "999"],
    ];
    for args in commands {
        let mut child = at(&server, args).command().stdout(Stdio::piped()).spawn().expect("can be started");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
        let mut said = String::new();
        let status = wait_for_exit(&mut child).expect("an end");
        std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut said).expect("UTF-8");
        assert_eq!((status.code(), said.contains("panicked")), (Some(0), false), "{args:?}: {said}");
    }
    for args in [&["check-config"][..], &["health"], &["migrate"]] {
        let mut child = at(&server, args).command().stdout(Stdio::piped()).spawn().expect("can be started");
        drop(child.stdout.take());
        assert_eq!(wait_for_exit(&mut child).and_then(|status| status.code()), Some(0), "{args:?}");
    }
}

#[test]
fn tokens_are_sent() {
    // Nothing but a listener, to see the request as it is.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    for (builder, args) in [
        (Server::builder().env("EVENT_HANDLER_TOKEN", "s3cret"), &["events", "--url", &url][..]),
        (Server::builder(), &["tail", "a", "--token", "s3cret", "--url", &url]),
    ] {
        let mut child = with(builder, args).command().stdout(Stdio::piped()).spawn().expect("can be started");
        let (mut connection, _) = listener.accept().expect("a connection");
        let head: Vec<String> = BufReader::new(connection.try_clone().expect("a socket"))
            .lines()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        assert!(head.iter().any(|l| l.eq_ignore_ascii_case("authorization: Bearer s3cret")), "{head:?}");
        connection.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").expect("written");
        assert_eq!(wait_for_exit(&mut child).and_then(|status| status.code()), Some(1), "{args:?}");
    }
}

#[test]
fn health_tells_by_its_exit_code() {
    let mut server = Server::start(Backend::Sqlite);
    assert_eq!(text(&run(&server, &["health"])), "{\"status\":\"ok\"}\n");
    assert!(text(&run(&server, &["health", "--ready"])).contains("\"store\""));
    server.kill9();
    assert!(!command(&server, &["health"]).status.success());
}

#[test]
fn commands_find_a_service_on_ipv6() {
    assert!(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok(), "IPv6 loopback is needed");
    for host in ["::1", "::"] {
        let server = Server::builder().env("HOST", host).start();
        let at_host = |args: &[&str]| with(server.spec().env("PORT", server.addr().port()), args).run();
        for args in [&["health"][..], &["publish", "a"], &["events"]] {
            let output = at_host(args);
            assert!(output.status.success(), "{host}, {args:?}: {}", errors(&output));
        }
        Tail::start(&with(server.spec().env("PORT", server.addr().port()), &["tail", "a"]));
    }
}

#[test]
fn migrate_prepares_the_database_and_ends() {
    for_each_backend(|backend| {
        let builder = Server::builder().backend(backend);
        for _ in 0..2 {
            let output = builder.clone().arg("migrate").run();
            assert!(output.status.success(), "{output:?}");
        }
        let server = builder.start();
        server.publish("a", json!({}));
    });
}

#[test]
fn help_is_complete() {
    let unknown = with(Server::builder(), &["dance"]).run();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(errors(&unknown).contains("--help"), "{unknown:?}");
    let commands = [
        "serve",
        "publish",
        "tail",
        "events",
        "services",
        "dead",
        "replay",
        "jobs",
        "trace",
        "explain",
        "schedules",
        "consumers",
        "sessions",
        "drain",
        "system",
        "token",
        "check-config",
        "migrate",
        "compact",
        "health",
    ];
    let help = with(Server::builder(), &["--help"]).run();
    for word in [&commands[..], &["Examples", "Exit codes", "70", "78", "--database-url", "--set"]].concat() {
        assert!(text(&help).contains(word), "{word} is not in {}", text(&help));
    }
    for command in commands {
        let help = with(Server::builder(), &[command, "--help"]).run();
        assert!(help.status.success() && text(&help).contains("--config"), "{help:?}");
    }
    for (command, word) in [
        (&["publish"][..], "Examples"),
        (&["tail"], "EVENT_HANDLER_TOKEN"),
        (&["events"], "--all"),
        (&["consumers", "seek"], "earliest"),
        (&["token", "new"], "Examples"),
        (&["token", "revoke"], "--jti"),
    ] {
        assert!(text(&with(Server::builder(), &[command, &["--help"]].concat()).run()).contains(word), "{word}");
    }
    for command in ["replay", "jobs", "trace", "explain", "schedules", "consumers", "sessions", "drain", "system"] {
        let help = with(Server::builder(), &[command, "--help"]).run();
        assert!(text(&help).contains("Examples") && text(&help).contains("--token"), "{help:?}");
    }
    let version = with(Server::builder(), &["--version"]).run();
    assert!(text(&version).contains(env!("CARGO_PKG_VERSION")), "{version:?}");
}
