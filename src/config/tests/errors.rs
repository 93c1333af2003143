//! Errors: each one line that names the key and who set it; and secrets, which nothing shows.

use super::*;

#[test]
fn errors_in_a_file_are_one_line() {
    let cases = [
        ("[server]\nprot = 1", r#"server.prot: unknown key (did you mean "port"?)"#),
        ("[sever]\nport = 1", r#"sever: unknown key (did you mean "server"?)"#),
        ("readers = 1", r#"readers: unknown key (did you mean "store.readers"?)"#),
        ("[admin]\nx = 1", "admin.x: unknown key (known: token, token_file)"),
        ("[server.port]\nx = 1", "server.port: must be a whole number, not a section"),
        ("server = 1", "server: must be a section, not a whole number"),
        ("[server]\nport = \"x\"", "server.port: must be a whole number, not text"),
        ("[server]\nport = 70000", "server.port: must be between 0 and 65535, not 70000"),
        (
            "[server]\nmax_body = -1",
            r#"server.max_body: must be a size such as "64KiB" or "1MiB", or a number of bytes, not "-1""#,
        ),
        (
            "[server]\nhost = \"0.0.0.0:80\"",
            r#"server.host: must be an IP address or a host name, without a port, not "0.0.0.0:80""#,
        ),
        (
            "[server]\nallowed_origins = [\"*\"]",
            r#"server.allowed_origins: must be origins such as "https://app.example.com", not "*""#,
        ),
        ("[server]\nallowed_origins = [1]", "server.allowed_origins[0]: invalid type: integer `1`, expected a string"),
        ("[store]\ndurability = \"fast\"", "store.durability: unknown variant `fast`, expected `full` or `normal`"),
        ("[log]\nactivity = \"yes\"", "log.activity: must be true or false, not text"),
        ("[log]\nlevel = \"inof\"", r#"log.level: unknown level "inof" (known: off, error, warn, info, debug, trace)"#),
        (
            "[subscribe]\nstall_timeout = 30",
            r#"subscribe.stall_timeout: must be a duration such as "250ms", "30s" or "7d", not "30""#,
        ),
        ("[subscribe]\nstall_timeout = \"0s\"", "subscribe.stall_timeout: must be between 100ms and 1h, not 0s"),
        (
            "[redis]\nurl = \"cache:6379\"",
            "redis.url: must be a URL beginning with redis:// or rediss://: another scheme",
        ),
        (
            "\"a\\nb\" = 1",
            "a\\nb: unknown key (known: access, admin, catalogue, consumers, delivery, environment, limits, log, node, orchestration, publish, redis, retention, server, service_urls, state, store, subscribe, supervision, sync, system, tracing)",
        ),
        ("[server]\n\nport = x", "line 3, column 8: string values must be quoted, expected literal string"),
        ("port = 1\nport = 2", "line 2, column 1: duplicate key"),
    ];
    for (text, line) in cases {
        assert_eq!(file_error(text), line, "{text}");
    }
    assert_eq!(file_error(b"\xff"), "is not UTF-8 text");
    let missing = load(Some(Path::new("no/such.toml")), &[], &[]).unwrap_err().to_string();
    assert_eq!(missing, "no/such.toml: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn errors_elsewhere_name_the_variable_or_flag() {
    let cases: [(&[_], &[_], &str); 9] = [
        (&[("PORT", "70000")], &[], "environment variable PORT: server.port: must be between 0 and 65535, not 70000"),
        (&[("PORT", "http")], &[], r#"environment variable PORT: server.port: must be a whole number, not "http""#),
        (
            &[("EVENT_HANDLER__SERVER__PROT", "1")],
            &[],
            r#"environment variable EVENT_HANDLER__SERVER__PROT: server.prot: unknown key (did you mean "port"?)"#,
        ),
        (
            &[("EVENT_HANDLER__SERVER", "1")],
            &[],
            "environment variable EVENT_HANDLER__SERVER: server: is a section, not a key",
        ),
        (
            &[("EVENT_HANDLER__SERVER__PORT__X", "1")],
            &[],
            r#"environment variable EVENT_HANDLER__SERVER__PORT__X: server.port.x: unknown key ("port" is not a section)"#,
        ),
        (
            &[("ELIZA_URL", "eliza")],
            &[],
            "environment variable ELIZA_URL: service_urls.eliza: must be a URL beginning with http:// or https://: \
             relative URL without a base",
        ),
        (&[], &[("server.port", "-1")], "--set: server.port: must be between 0 and 65535, not -1"),
        (&[], &[("log.activity", "yes")], r#"--set: log.activity: must be true or false, not "yes""#),
        (
            &[],
            &[("", "1")],
            "--set: : unknown key (known: access, admin, catalogue, consumers, delivery, environment, limits, log, node, orchestration, publish, redis, retention, server, service_urls, state, store, subscribe, supervision, sync, system, tracing)",
        ),
    ];
    for (environment, overrides, line) in cases {
        assert_eq!(error_of(environment, overrides), line);
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused_where_they_were_set() {
    let batch = |batch, backlog| error_of(&[], &[("publish.max_batch", batch), ("publish.backlog_events", backlog)]);
    assert_eq!(
        error_of(&[], &[("publish.backlog_events", "10")]),
        "--set: publish.backlog_events: must be at least publish.max_batch (10000), not 10"
    );
    assert_eq!(batch("20", "10"), "--set: publish.max_batch: must be at most publish.backlog_events (10), not 20");
    for (small, value, line) in [
        ("publish.max_batch_body", "1GiB", "must be at most publish.backlog_bytes (64MiB), not 1GiB"),
        ("subscribe.queue_per_connection", "1GiB", "must be at most subscribe.queue_total (256MiB), not 1GiB"),
        ("subscribe.ping_interval", "2m", "must be less than subscribe.idle_timeout (1m), not 2m"),
        ("subscribe.ping_interval", "1m", "must be less than subscribe.idle_timeout (1m), not 1m"),
        ("supervision.backoff", "10s", "must be at most supervision.backoff_cap (5s), not 10s"),
    ] {
        assert_eq!(error_of(&[], &[(small, value)]), format!("--set: {small}: {line}"));
    }
    assert_eq!(
        error_of(&[("EVENT_HANDLER__SUBSCRIBE__IDLE_TIMEOUT", "25s")], &[]),
        "environment variable EVENT_HANDLER__SUBSCRIBE__IDLE_TIMEOUT: subscribe.idle_timeout: \
         must be more than subscribe.ping_interval (25s), not 25s"
    );
}

#[test]
fn secrets_are_never_shown() {
    let environment = [
        ("ADMIN_TOKEN", "s3cret"),
        ("DATABASE_URL", "postgres://u:s3cret@db/x"),
        ("REDIS_URL", "redis://:s3cret@cache"),
        ("ELIZA_URL", "https://s3cret@eliza/?key=s3cret"),
    ];
    let config = load(None, &environment, &[]).unwrap();
    let shown = config.to_toml_redacted();
    assert!(!shown.contains("s3cret") && !format!("{config:?}").contains("s3cret"), "{shown}");
    for line in [
        r#"token = "***" # environment variable ADMIN_TOKEN"#,
        r#"url = "postgres://u:***@db/x" # environment variable DATABASE_URL"#,
        r#"url = "redis://:***@cache" # environment variable REDIS_URL"#,
        r#"eliza = "https://***@eliza/?key=***" # environment variable ELIZA_URL"#,
        "port = 4300",
        r#"max_age = """#,
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    for (name, value) in
        [("REDIS_URL", "s3cret"), ("ELIZA_URL", "ftp://x:s3cret@y"), ("SHAPE_L2_URL", "http://u:s3cret@")]
    {
        assert!(!error_of(&[(name, value)], &[]).contains("s3cret"));
    }
    assert_eq!(file_error("[admin]\ntoken = [\"s3cret\"]"), "admin.token: must be text, not a list");
}

#[test]
fn later_errors_name_who_set_the_key() {
    let config = load(None, &[("DATABASE_URL", "mysql://x")], &[]).unwrap();
    let line = config.error_at("store.url", "unknown database").to_string();
    assert_eq!(line, "environment variable DATABASE_URL: store.url: unknown database");
}

#[test]
fn errors_of_services_name_them() {
    let cases = [
        ("[[services]]\nurl = \"http://x\"", "services[0].name: is required"),
        ("[[services]]\nname = 1", "services[0].name: must be text, not a whole number"),
        ("[[services]]\nname = \"A\"", r#"services[0].name: must be 1 to 63 of a-z, 0-9 and "-", not "A""#),
        ("[[services]]\nname = \"a\"", "services.a.url: is required"),
        ("[[services]]\nname = \"eliza\"", "services.eliza.url: is required, here or in ELIZA_URL"),
        ("services = 1", "services: must be tables, each of them begun by [[services]]"),
        ("[services]\nname = \"a\"", "services: must be tables, each of them begun by [[services]]"),
    ];
    for (text, line) in cases {
        assert_eq!(file_error(text), line, "{text}");
    }
    let twice = "[[services]]\nname = \"a\"\nurl = \"http://x\"\n".repeat(2);
    assert_eq!(file_error(twice), r#"services[1].name: "a" is the name of another service"#);
    let cases = [
        ("tiemout = 1", r#"services.a.tiemout: unknown key (did you mean "timeout"?)"#),
        ("timeout = 1", r#"services.a.timeout: must be a duration such as "250ms", "30s" or "7d", not "1""#),
        ("timeout = \"2h\"", "services.a.timeout: must be between 10ms and 1h, not 2h"),
        ("retry_base = \"2h\"", "services.a.retry_base: must be at most retry_cap (1h), not 2h"),
        ("breaker_window = 5", "services.a.breaker_window: must be at least breaker_minimum_calls (10), not 5"),
        (
            "breaker_window = \"x\"",
            r#"services.a.breaker_window: must be a number of calls such as "100" or a duration such as "30s", not "x""#,
        ),
        ("breaker_window = \"1ms\"", "services.a.breaker_window: must be between 1s and 1h, not 1ms"),
        ("rate = -1", "services.a.rate: must be between 0 and 1000000, not -1"),
        ("rate = nan", "services.a.rate: must be between 0 and 1000000, not NaN"),
        ("tls_key_file = \"k\"", "services.a.tls_key_file: is of no use without tls_cert_file"),
        (
            "routes = [\"a*\"]",
            r#"services.a.routes[0]: "a*": '*' must stand alone for one whole segment, or behind ':' for the rest of it"#,
        ),
        (
            "path = \"events\"",
            r##"services.a.path: must begin with "/" and be visible ASCII without "#", not "events""##,
        ),
        ("sync = 1", "services.a.sync: must be a section, not a whole number"),
        ("sync = { types = [] }", "services.a.sync: types: must name 1 to 1000 types, not 0"),
        ("sync = { types = [\"a\", \"a\"] }", r#"services.a.sync: types: "a" is given twice"#),
        ("sync = { types = [\"a\"], every = \"1ms\" }", "services.a.sync: every: must be between 1s and 7d, not 1ms"),
        (
            "sync = { types = [\"a\"], repair_rate = 0 }",
            "services.a.sync: repair_rate: must be between 1 and 100000, not 0",
        ),
        (
            "sync = { types = [\"a\", \"b\"] }\nroutes = [\"state.a.*\", { event = \"state.b.changed\", filter = { op = [\"put\"] } }]",
            r#"services.a.sync: types: "b": no route of the service has all of "state.b.changed""#,
        ),
        ("start_from = \"x\"", r#"services.a.start_from: must be "now", "earliest" or the id of an event, not "x""#),
        ("secret = \"whsec_%\"", r#"services.a.secret: must be base64 after "whsec_""#),
        (
            "secret = \"plain\"",
            "services.a.secret: must begin with \"whsec_\", or receivers cannot verify it; \
             `event-handler secret encode` makes such a one of plain text from standard input",
        ),
        (
            "secrets = [\"whsec_cGxhaW4=\"]",
            "services.a.secrets: must be at least 24 bytes; \
             `head -c 32 /dev/urandom | event-handler secret encode` makes a new one",
        ),
        ("secrets = [1]", "services.a.secrets[0]: must be a list of texts"),
        ("headers = { Host = \"x\" }", r#"services.a.headers: "Host" is set by the Event Handler itself"#),
        ("headers = { webhook-id = \"x\" }", r#"services.a.headers: "webhook-id" is set by the Event Handler itself"#),
        ("headers = { Saga-Id = \"x\" }", r#"services.a.headers: "Saga-Id" is set by the Event Handler itself"#),
        ("headers = { \"a b\" = \"x\" }", r#"services.a.headers: "a b" is not the name of a header"#),
        ("headers = { a = \"\\n\" }", r#"services.a.headers: "a" must have a value of visible ASCII"#),
        ("headers = { a = \"1\", A = \"2\" }", r#"services.a.headers: "a" is given twice"#),
        ("headers = { a = 1 }", "services.a.headers.a: must have texts as values"),
        ("retry_delays = [\"31d\"]", "services.a.retry_delays: must be between 0s and 30d, not 31d"),
        (
            "format = \"xml\"",
            "services.a.format: unknown variant `xml`, expected one of `json`, `envelope`, `cloudevents-binary`, `cloudevents-structured`",
        ),
    ];
    for (option, line) in cases {
        let text = format!("[[services]]\nname = \"a\"\nurl = \"http://x\"\n{option}");
        assert_eq!(file_error(text), line);
    }
    for (sync, line) in [
        ("path = \"/s\"", "missing field `types`"),
        ("types = [\"a\"], path = \"x\"", "path: must begin with \"/\""),
        ("types = [\"a\"], path = \"/x?y\"", "path: must have no query"),
        ("types = [\"a.b\"]", "types: \"a.b\": "),
        ("types = [\"a\"], paht = \"/\"", "paht: unknown field"),
    ] {
        let error = file_error(format!("[[services]]\nname = \"a\"\nurl = \"http://x\"\nsync = {{ {sync} }}"));
        assert!(error.starts_with(&format!("services.a.sync: {line}")), "{error}");
    }
    let name = "environment variable EVENT_HANDLER__SERVICES__A: services.a: is a section, not a key";
    assert_eq!(error_of(&[("EVENT_HANDLER__SERVICES__A", "x")], &[]), name);
    assert_eq!(error_of(&[], &[("services.a.timeout", "9s")]), "--set: services.a.url: is required");
}

const SAGA: &str = "[[sagas]]\nname = \"pay\"\nversion = 1\ntrigger = { event = \"order.made\" }\ncorrelation = \"/id\"\n\
                    [[sagas.steps]]\nname = \"rest\"\nwait = \"1m\"\n";

/// A configuration file of this text, beside files of sagas.
fn with_sagas(text: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Config, ConfigError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prod.toml");
    std::fs::write(&path, text).unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let config = load(Some(&path), &[], &[]);
    (dir, config)
}

#[test]
fn sagas_are_read_from_the_configuration_and_from_the_files_beside_it() {
    let second = SAGA.replace("version = 1", "version = 2");
    let again = "# the same\n".to_owned() + &SAGA.replace("name = \"pay\"\nversion = 1", "version = 3\nname = \"pay\"");
    let files = [("sagas/b.toml", &*second), ("sagas/a.toml", &again), ("sagas/.x.toml", "x"), ("sagas/c.txt", "x")];
    let (_dir, config) = with_sagas(SAGA, &files);
    let config = config.unwrap();
    let read: Vec<_> = config.sagas.iter().map(|saga| (&*saga.definition.name, saga.definition.version)).collect();
    assert_eq!(read, [("pay", 1), ("pay", 3), ("pay", 2)]);
    assert_eq!(config.sagas[1].text.replace("\"version\":3", "\"version\":1"), config.sagas[0].text);
    assert!(config.to_toml_redacted().contains("\n# saga \"pay\", version 3: "));
    assert!(config.sagas[2].error("other").to_string().ends_with("sagas/b.toml: sagas[0].version: other"));
    let (_dir, without) = with_sagas("", &[]);
    assert_eq!(config.differences(&without.unwrap()), ["sagas.pay"]);
    assert_eq!(with_sagas("[orchestration]\ndir = \"\"", &[("sagas/a.toml", "x")]).1.unwrap().sagas.len(), 0);
    let (_dir, elsewhere) = with_sagas("[orchestration]\ndir = \"more/sagas\"", &[("more/sagas/a.toml", SAGA)]);
    assert_eq!(elsewhere.unwrap().sagas.len(), 1);
}

#[test]
fn errors_in_sagas_name_file_place_and_reason() {
    let circle = SAGA.replace("wait = \"1m\"", "publish = { event = \"order.paid\", payload = {} }")
        + &SAGA
            .replace("pay", "ship")
            .replace("order.made", "order.paid")
            .replace("wait = \"1m\"", "publish = { event = \"order.made\", payload = {} }");
    let call = SAGA.replace("wait = \"1m\"", "call = { service = \"bank\", path = \"/\" }");
    for (text, files, said) in [
        (
            &*SAGA.replace("1m", "soon").replace("wait", "wiat"),
            vec![],
            "prod.toml: sagas[0].steps[0]: unknown field `wiat`",
        ),
        ("sagas = 1", vec![], "prod.toml: sagas: must be tables: [[sagas]]"),
        (&call, vec![], "prod.toml: sagas[0].steps[0].call.service: there is no service \"bank\""),
        ("", vec![("sagas/a.toml", &*call)], "sagas/a.toml: sagas[0].steps[0].call.service: there is no service"),
        (
            SAGA,
            vec![("sagas/a.toml", SAGA)],
            "sagas/a.toml: sagas[0].version: 1 of saga \"pay\" is there already: sagas[0] of ",
        ),
        ("", vec![("sagas/a.toml", "[[")], "sagas/a.toml: TOML parse error"),
        ("", vec![("sagas/a.toml", "[x]")], "sagas/a.toml: x: is unknown"),
        (
            &circle,
            vec![],
            "prod.toml: sagas[0].trigger.event: the saga would begin itself: pay, which begins ship, which begins pay",
        ),
        (
            &SAGA.replace("order.made", "$sys.>"),
            vec![],
            "prod.toml: sagas[0].trigger.event: \"$sys.>\" matches what is told",
        ),
        ("[orchestration]\ndir = \"none\"", vec![], "prod.toml: orchestration.dir: "),
        (
            "[orchestration]\nkeep = \"0s\"",
            vec![],
            "prod.toml: orchestration.keep: must be between 1s and 3650d, not 0s",
        ),
        ("[orchestration]\nmax_instances = 0", vec![], "prod.toml: orchestration.max_instances: must be between"),
    ] {
        let error = with_sagas(text, &files).1.unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains('\n'), "{error:?} and not {said:?}");
    }
}
