//! The layers of the configuration, and what they come to.

mod errors;
mod services;

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
fn a_map_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("map.toml");
    const KEY: &str = "EVENT_HANDLER__REDIS__PUBSUB__SOURCES";
    for text in ["[redis.pubsub.sources]\napi = \"A\"\nb = \"B\"", "redis.pubsub.sources = { api = \"A\", b = \"B\" }"]
    {
        std::fs::write(&file, text).unwrap();
        let of_file = load(Some(&file), &[], &[]).unwrap();
        assert_eq!(of_file.redis.pubsub.sources.iter().map(|(k, v)| format!("{k}{v}")).collect::<String>(), "apiAbB");
        assert!(of_file.to_toml_redacted().contains("b = \"B\""), "{}", of_file.to_toml_redacted());
        let by_environment = load(Some(&file), &[(KEY, "{ c = \"C\" }")], &[]).unwrap().redis.pubsub.sources;
        assert_eq!(by_environment.keys().collect::<Vec<_>>(), ["c"]);
    }
    std::fs::write(&file, "[redis.pubsub]\nsources = 7").unwrap();
    assert!(load(Some(&file), &[], &[]).unwrap_err().to_string().contains("redis.pubsub.sources: must be"));
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
