use std::path::Path;

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

fn load(file: Option<&Path>, environment: &[(&str, &str)], overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let overrides = pairs(overrides).into_iter().map(|(key, value)| ("--set", key, value)).collect();
    let args = LoadArgs { file: file.map(Path::to_owned), overrides };
    Config::load(args, pairs(environment))
}

fn error_of(environment: &[(&str, &str)], overrides: &[(&str, &str)]) -> String {
    load(None, environment, overrides).unwrap_err().to_string()
}

/// The error of a file holding `text`, without its path.
fn file_error(text: impl AsRef<[u8]>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prod.toml");
    std::fs::write(&path, text).unwrap();
    let line = load(Some(&path), &[], &[]).unwrap_err().to_string();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let text = Config::default().to_toml_redacted();
    let defaults = Value::Table(reference::DEFAULT_TOML.parse().unwrap());
    let shown = Value::Table(text.parse().unwrap());
    for key in reference::sections().into_iter().flat_map(|section| section.keys) {
        let at = |value: &Value| key.path.split('.').try_fold(value.clone(), |v, name| v.get(name).cloned()).unwrap();
        // Equal, or the same quantity in another unit.
        if at(&shown) != at(&defaults) {
            let same = load(None, &[], &[(&key.path, at(&shown).as_str().unwrap())]).unwrap();
            let original = load(None, &[], &[(&key.path, at(&defaults).as_str().unwrap())]).unwrap();
            assert_eq!(Value::try_from(same).unwrap(), Value::try_from(original).unwrap(), "{}", key.path);
        }
    }
}

#[test]
fn the_defaults_are_what_the_program_promises() {
    let config = Config::default();
    let bytes = |n: u64| n << 20;
    assert_eq!((config.server.host.as_str(), config.server.port), ("127.0.0.1", 4300));
    assert_eq!((config.server.max_body.bytes(), config.publish.max_batch_body.bytes()), (bytes(1), bytes(16)));
    assert_eq!(
        (config.subscribe.queue_per_connection.bytes(), config.subscribe.queue_total.bytes()),
        (bytes(1), bytes(256))
    );
    assert_eq!((config.store.durability, config.publish.unknown_fields), (Durability::Full, UnknownFields::Refuse));
    assert_eq!(config.publish.idempotency_window.get().as_secs(), 24 * 3600);
    assert_eq!(config.server.shutdown_grace.get().as_secs(), 20);
    let RetentionConfig { max_age, max_events, max_bytes } = config.retention;
    assert_eq!((max_age, max_events, max_bytes), (None, None, None));
    assert!(config.store.url.is_empty() && config.admin.token.is_empty() && config.redis.url.is_none());
}

/// Each range in the code is the one in the comment, and the other way round.
#[test]
fn ranges_are_the_documented_ones() {
    for key in reference::sections().into_iter().flat_map(|section| section.keys) {
        let documented = key.meaning.split_once("Range: ").map(|(_, range)| range.trim_end_matches('.').to_owned());
        // No range reaches as far as any of these; text in the wrong unit is refused for another reason.
        let absurd = ["-1", "9223372036854775807", "999999d", "15EiB"];
        let enforced = absurd.iter().find_map(|text| {
            let reason = load(None, &[], &[(&key.path, text)]).err()?.reason;
            let range = reason.strip_prefix("must be between ")?.split(", not").next()?.replace(" and ", " to ");
            Some(range)
        });
        assert_eq!(documented, enforced, "{}", key.path);
    }
}

#[test]
fn each_layer_wins_over_the_ones_below() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    std::fs::write(&path, "[server]\nport = 1\nworkers = 3").unwrap();
    let file = Some(path.as_path());
    let long = ("EVENT_HANDLER__SERVER__PORT", "2");
    let short = ("PORT", "3");
    let port = |file, environment: &[_], overrides: &[_]| load(file, environment, overrides).unwrap().server.port;
    assert_eq!(port(None, &[], &[]), 4300);
    assert_eq!(port(file, &[], &[]), 1);
    assert_eq!(port(file, &[long], &[]), 2);
    assert_eq!(port(file, &[long, short], &[]), 3);
    assert_eq!(port(file, &[long, short], &[("server.port", "4")]), 4);
    assert_eq!(port(file, &[long, short], &[("server.port", "4"), ("server.port", "5")]), 5);
    assert_eq!(load(file, &[long], &[]).unwrap().server.workers, 3, "other keys of the file stay");
}

#[test]
fn the_file_is_named_by_flag_or_variable() {
    let dir = tempfile::tempdir().unwrap();
    let [flag, variable] = ["flag.toml", "variable.toml"].map(|name| dir.path().join(name));
    std::fs::write(&flag, "server.port = 1").unwrap();
    std::fs::write(&variable, "server.port = 2").unwrap();
    let environment = [(FILE_VARIABLE, variable.to_str().unwrap())];
    assert_eq!(load(None, &environment, &[]).unwrap().server.port, 2);
    assert_eq!(load(Some(&flag), &environment, &[]).unwrap().server.port, 1);
    assert_eq!(load(None, &[(FILE_VARIABLE, "")], &[]).unwrap().server.port, 4300);
}

#[test]
fn short_variables_set_their_keys() {
    let config = load(
        None,
        &[
            ("HOST", "::"),
            ("DATABASE_URL", "postgres://u:p@db/x"),
            ("REDIS_URL", "redis://cache:6379"),
            ("ADMIN_TOKEN", "12345"),
            ("RUST_LOG", "debug,actix=off"),
            ("AUCTION_MANAGER_URL", "http://auction:1"),
            ("STREAM_MANAGER_URL", "http://stream:2/base"),
            ("ELIZA_URL", "https://eliza"),
            ("SHAPE_L2_URL", "http://[::1]:4"),
            ("UNRELATED", "x"),
        ],
        &[],
    );
    let config = config.unwrap();
    assert_eq!((config.server.host.as_str(), config.store.url.expose()), ("::", "postgres://u:p@db/x"));
    assert!(config.admin.token.matches("12345"));
    assert_eq!(config.log.level, "debug,actix=off");
    let ServiceUrls { auction_manager, stream_manager, eliza, shape_l2 } = config.service_urls;
    let urls = [config.redis.url, auction_manager, stream_manager, eliza, shape_l2].map(|url| url.unwrap().to_string());
    let expected =
        ["redis://cache:6379", "http://auction:1/", "http://stream:2/base", "https://eliza/", "http://[::1]:4/"];
    assert_eq!(urls, expected);
}

#[test]
fn empty_short_variables_count_as_unset() {
    let config = load(None, &[("PORT", ""), ("DATABASE_URL", " "), ("NODE_ENV", ""), ("RUST_LOG", "")], &[]).unwrap();
    assert_eq!((config.server.port, config.log.level.as_str()), (4300, "info"));
    assert!(config.store.url.is_empty() && !config.is_production());
}

#[test]
fn production_is_told_by_either_variable() {
    let production = |environment: &[_]| load(None, environment, &[]).unwrap().is_production();
    assert!(production(&[("APP_ENV", "production")]));
    assert!(production(&[("NODE_ENV", "production")]));
    assert!(!production(&[("APP_ENV", "test"), ("NODE_ENV", "production")]));
}

#[test]
fn values_take_the_type_of_the_default() {
    let config = load(
        None,
        &[
            ("EVENT_HANDLER__LOG__ACTIVITY", "true"),
            ("EVENT_HANDLER__SERVER__ALLOWED_ORIGINS", "https://a.example, http://b.example:8080"),
            ("EVENT_HANDLER__RETENTION__MAX_AGE", "7d"),
            ("EVENT_HANDLER__RETENTION__MAX_BYTES", "1000"),
            ("EVENT_HANDLER__RETENTION__MAX_EVENTS", " 5 "),
        ],
        &[("log.format", "json")],
    );
    let config = config.unwrap();
    assert!(config.log.activity && config.log.format == LogFormat::Json);
    assert_eq!(config.server.allowed_origins, ["https://a.example", "http://b.example:8080"]);
    let RetentionConfig { max_age, max_events, max_bytes } = config.retention;
    assert_eq!(max_age.unwrap().get().as_secs(), 7 * 86_400);
    assert_eq!((max_events, max_bytes.map(Size::bytes)), (Some(5), Some(1000)));
}

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
            "a\\nb: unknown key (known: access, admin, consumers, delivery, environment, limits, log, publish, redis, retention, server, service_urls, store, subscribe, supervision)",
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
            "--set: : unknown key (known: access, admin, consumers, delivery, environment, limits, log, publish, redis, retention, server, service_urls, store, subscribe, supervision)",
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

fn endpoint(service: &ServiceConfig) -> String {
    service.url.join_path(&service.path).into()
}

/// The services of a file holding `text`.
fn services_of(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prod.toml");
    std::fs::write(&path, text).unwrap();
    load(Some(&path), environment, &[])
}

#[test]
fn services_inherit_the_options_of_deliveries_and_override_them() {
    let text = r#"
        [delivery]
        timeout = "20s"
        retry_budget = 1
        breaker_window = 50
        [[services]]
        name = "billing"
        url = "https://billing:8443/base/?tenant=7"
        path = "/in"
        routes = ["order.>", "user.*"]
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        secrets = ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
        headers = { X-Region = "eu" }
        aliases = ["BILLING_ENGINE"]
        sources = { api = "EVENT_HANDLER" }
        echo = true
        start_from = 17
        timeout = "30s"
        rate = 5
        breaker_window = "30s"
        retry_delays = ["1s", "2m"]
        [[services]]
        name = "b-2"
        url = "http://u%20:p@host"
    "#;
    let config = services_of(text, &[]).unwrap();
    let [billing, second] = &config.services[..] else { panic!("two services, not {:?}", config.services) };
    assert_eq!(
        (billing.name.as_str(), endpoint(billing).as_str()),
        ("billing", "https://billing:8443/base/in?tenant=7")
    );
    assert_eq!(billing.routes.iter().map(|route| route.event.as_str()).collect::<Vec<_>>(), ["order.>", "user.*"]);
    assert_eq!(
        billing.secrets.iter().map(crate::domain::secret::Secret::expose).collect::<Vec<_>>(),
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
    );
    assert_eq!(billing.headers["x-region"].expose(), "eu");
    assert_eq!(
        (billing.sources["api"].as_str(), &billing.own_sources()[..]),
        ("EVENT_HANDLER", &[][..]),
        "it has echo"
    );
    assert_eq!((billing.echo, billing.start_from), (true, StartFrom::Id(17)));
    let DeliveryConfig { timeout, rate, retry_budget, retry_delays, breaker_window, .. } = &billing.options;
    assert_eq!((timeout.get().as_secs(), *rate, *retry_budget), (30, 5.0, 1.0));
    assert_eq!(retry_delays.iter().map(|delay| delay.get().as_secs()).collect::<Vec<_>>(), [1, 120]);
    assert!(matches!(breaker_window, BreakerWindow::Time(time) if time.get().as_secs() == 30));

    assert_eq!((endpoint(second).as_str(), second.options.timeout.get().as_secs()), ("http://host/events", 20));
    assert_eq!(second.options.breaker_window, BreakerWindow::Calls(50));
    assert_eq!(second.authorization().unwrap().expose(), "Basic dSA6cA==");
    assert!(second.routes[0].event.is_everything() && second.secrets.is_empty() && !second.echo);
    assert_eq!((second.start_from, billing.authorization().is_none()), (StartFrom::Now, true));
}

#[test]
fn variables_hold_sections_of_names_as_a_file_does() {
    let environment = [
        ("ELIZA_URL", "http://eliza:1"),
        ("EVENT_HANDLER__SERVICES__ELIZA__SOURCES", r#"{ api = "EVENT_HANDLER" }"#),
        ("EVENT_HANDLER__SERVICES__ELIZA__ALIASES", "ELIZA,CHAT"),
    ];
    let config = services_of("", &environment).unwrap();
    let [eliza] = &config.services[..] else { panic!("one service, not {:?}", config.services) };
    assert_eq!(eliza.sources["api"], "EVENT_HANDLER");
    assert_eq!(eliza.own_sources(), ["eliza", "ELIZA", "CHAT"]);
    let secret = [("EVENT_HANDLER__SERVICES__ELIZA__HEADERS", "s3cret")];
    let error = services_of("", &secret).unwrap_err().to_string();
    assert!(error.contains("must be written as in a file") && !error.contains("s3cret"), "{error}");
}

#[test]
fn the_four_variables_switch_services_on() {
    let text = "[[services]]\nname = \"eliza\"\nroutes = [\"chat.>\"]\nurl = \"http://of-the-file\"";
    let environment =
        [("ELIZA_URL", "http://eliza:1"), ("SHAPE_L2_URL", "http://shape:2"), ("AUCTION_MANAGER_URL", "http://a")];
    let config = services_of(text, &environment).unwrap();
    let services = config.services.iter().map(|s| (s.name.as_str(), endpoint(s), s.routes[0].event.as_str()));
    assert_eq!(
        services.collect::<Vec<_>>(),
        [
            ("eliza", "http://eliza:1/events".to_owned(), "chat.>"),
            ("auction-manager", "http://a/events".to_owned(), ">"),
            ("shape-l2", "http://shape:2/events".to_owned(), ">"),
        ]
    );
    assert!(Config::default().services.is_empty());
}

#[test]
fn services_are_set_by_variables_too() {
    let environment = [
        ("EVENT_HANDLER__SERVICES__MY_SERVICE__URL", "http://mine"),
        ("EVENT_HANDLER__SERVICES__MY_SERVICE__ROUTES", "a.*, b.>"),
        ("EVENT_HANDLER__SERVICES__MY_SERVICE__TIMEOUT", "9s"),
        ("EVENT_HANDLER__SERVICES__FROM_FILE__SECRET", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    ];
    let config = services_of("[[services]]\nname = \"from-file\"\nurl = \"http://x\"", &environment).unwrap();
    let [file, mine] = &config.services[..] else { panic!("two services") };
    assert_eq!((file.name.as_str(), file.secrets[0].expose()), ("from-file", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"));
    assert_eq!((mine.name.as_str(), mine.routes.len(), mine.options.timeout.get().as_secs()), ("my-service", 2, 9));
}

#[test]
fn lists_are_written_with_commas_or_as_in_a_file() {
    let delays = ["20s,40s", " [\"20s\", \"40s\"] ", "['20s','40s',]"];
    for text in delays {
        let environment = [("EVENT_HANDLER__SERVICES__A__RETRY_DELAYS", text)];
        let config = services_of("[[services]]\nname = \"a\"\nurl = \"http://x\"", &environment).unwrap();
        let delays = config.services[0].options.retry_delays.iter().map(|delay| delay.get().as_secs());
        assert_eq!(delays.collect::<Vec<_>>(), [20, 40], "{text}");
        let overrides = pairs(&[("services.a.url", "http://x"), ("services.a.retry_delays", text)]);
        let overrides = overrides.into_iter().map(|(key, value)| ("--set", key, value)).collect();
        let config = Config::load(LoadArgs { file: None, overrides }, []).unwrap();
        assert_eq!(config.services[0].options.retry_delays.len(), 2, "{text}");
    }
    // Names may have brackets.
    let environment =
        [("EVENT_HANDLER__SERVICES__A__URL", "http://x"), ("EVENT_HANDLER__SERVICES__A__ROUTES", "[a],b")];
    let config = services_of("", &environment).unwrap();
    assert_eq!(config.services[0].routes.iter().map(|route| route.event.as_str()).collect::<Vec<_>>(), ["[a]", "b"]);
    let wrong = error_of(&[], &[("delivery.retry_delays", "[20]")]);
    assert!(wrong.contains("retry_delays"), "{wrong}");
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
    let name = "environment variable EVENT_HANDLER__SERVICES__A: services.a: is a section, not a key";
    assert_eq!(error_of(&[("EVENT_HANDLER__SERVICES__A", "x")], &[]), name);
    assert_eq!(error_of(&[], &[("services.a.timeout", "9s")]), "--set: services.a.url: is required");
}

#[test]
fn services_are_shown_without_their_secrets() {
    let text = r#"
        [[services]]
        name = "a"
        url = "https://s3cret@host/?key=s3cret"
        secrets = ["whsec_s3crets3crets3crets3crets3crets3cret"]
        headers = { Authorization = "s3cret" }
        timeout = "30s"
    "#;
    let config = services_of(text, &[]).unwrap();
    let shown = config.to_toml_redacted();
    assert!(!shown.contains("s3cret") && !format!("{config:?}").contains("s3cret"), "{shown}");
    let shown: Value = toml::from_str(&shown).unwrap();
    let service = &shown["services"][0];
    assert_eq!(service["url"].as_str(), Some("https://***@host/?key=***"));
    assert_eq!((service["headers"]["authorization"].as_str(), service["timeout"].as_str()), (Some("***"), Some("30s")));
    assert!(service.get("retry_base").is_none(), "{service}");
}
