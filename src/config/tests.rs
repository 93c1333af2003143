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
        ("[admin]\nx = 1", "admin.x: unknown key (known: token)"),
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
            "a\\nb: unknown key (known: admin, environment, log, publish, redis, retention, server, service_urls, store, subscribe, supervision)",
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
            "--set: : unknown key (known: admin, environment, log, publish, redis, retention, server, service_urls, store, subscribe, supervision)",
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
