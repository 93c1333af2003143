//! Who may use Redis: user names and passwords, access rules, TLS; and what they must not keep from being stored.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use crate::redis_ingest::{IN, payloads, reading, wait_for_bus, wait_for_events};
use crate::redis_pubsub_out::{ALL, wait_until_held};
use crate::state::{delete, put};
use crate::support::{Backend, Redis, Server, eventually};

/// The rules that `docs/operating.md` gives, for a user of this name and password.
fn rules() -> Vec<String> {
    let operating = include_str!("../../docs/operating.md");
    let lines = operating.lines().filter_map(|line| line.strip_prefix("ACL SETUSER event-handler "));
    lines.flat_map(|line| line.split(' ')).map(|rule| rule.replace("PASSWORD", "s3cret")).collect()
}

fn set_user(redis: &Redis, rules: &[String]) {
    let command: Vec<&str> =
        ["ACL", "SETUSER", "event-handler"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    redis.run::<()>(&command);
}

fn url_as(redis: &Redis, login: &str) -> String {
    format!("redis://{login}@127.0.0.1:{}", redis.port())
}

fn as_user(redis: &Redis) -> Server {
    let url = url_as(redis, "event-handler:s3cret");
    let both_ways = reading(redis, Backend::Sqlite).env("EVENT_HANDLER__REDIS__PUBSUB__OUT", "true");
    let mirroring =
        both_ways.env("EVENT_HANDLER__REDIS__PUBSUB__IN", "true").env("EVENT_HANDLER__REDIS__MIRROR__ENABLED", "true");
    mirroring.env("EVENT_HANDLER__REDIS__MIRROR__CHECK_EVERY", "1s").env("REDIS_URL", url).start()
}

#[test]
fn the_documented_rules_are_enough() {
    let redis = Redis::start();
    set_user(&redis, &rules());
    let server = as_user(&redis);
    redis.add_many(IN, "a", 0..3);
    redis.add(IN, &[("event_name", "")]);
    redis.wait_until_taken(IN);
    assert_eq!((payloads(&server, "a").len(), redis.length("events:in:dead")), (3, 1));
    wait_until_held(&server, "pubsub_in");
    redis.publish_all(ALL, [r#"{"type":"b","source":"s","data":{}}"#.to_owned()]);
    wait_for_events(&server, 4);
    wait_until_held(&server, "pubsub_out");
    server.publish("c", json!({}));
    eventually("it went out", || (redis.list("events:history:c").len() == 1).then_some(()));
    put(&server, "auction/1", 1, &[]);
    let held = || redis.try_run::<String>(&["GET", "state:auction:1"]);
    let is_there = || held().is_ok_and(|text| text.starts_with(r#"{"version":"#)).then_some(());
    eventually("it is mirrored", is_there);
    redis.run::<()>(&["SET", "state:auction:1", "?"]);
    eventually("it is mended", is_there);
    delete(&server, "auction/1", &[]);
    eventually("it is gone", || held().is_err().then_some(()));
    wait_for_bus(&server, "ok");
    assert!(!server.log_text().contains("s3cret"));
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let mut redis = Redis::vacant(&["--requirepass", "right"]);
    redis.log_in("right");
    redis.start_again();
    let wrong = reading(&redis, Backend::Sqlite).env("REDIS_URL", url_as(&redis, ":s3cret-is-wrong")).start();
    let none = reading(&redis, Backend::Sqlite).start();
    for server in [&wrong, &none] {
        let bus = wait_for_bus(server, "down");
        assert_eq!(bus["reason"], "connection: refuses the user name or password");
        assert_eq!(server.get("/health/ready").status, 200);
    }
    let shown = [wrong.log_text(), wrong.get("/admin/actors").text().to_owned()].concat();
    assert!(!shown.contains("s3cret"), "{shown}");
    redis.run::<()>(&["CONFIG", "SET", "requirepass", "s3cret-is-wrong"]);
    redis.log_in("s3cret-is-wrong");
    redis.add_many(IN, "a", 0..1);
    redis.wait_until_taken(IN);
    wait_for_bus(&wrong, "ok");
}

/// What was committed and not acknowledged is read again, and is there once.
#[test]
fn a_node_that_is_killed_between_commit_and_acknowledgement_stores_once() {
    let redis = Redis::start();
    set_user(&redis, &rules());
    set_user(&redis, &["-xack".to_owned(), "-xdel".to_owned()]);
    let mut server = as_user(&redis);
    redis.add_many(IN, "a", 0..10);
    wait_for_events(&server, 10);
    assert_eq!((redis.length(IN), redis.pending(IN)), (10, 10));
    let reason = wait_for_bus(&server, "down")["reason"].take();
    assert_eq!(reason, json!("ingest: the user may not do this"));
    server.kill9();
    set_user(&redis, &["+xack".to_owned(), "+xdel".to_owned()]);
    server.restart();
    redis.add_many(IN, "a", 10..11);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&server, "a"), (0..11).collect::<Vec<_>>());
}

#[test]
fn redis_is_reached_by_tls_with_authorities_of_its_own() {
    let certificate = |params: CertificateParams| {
        let key = KeyPair::generate().expect("a key");
        (params, key)
    };
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let (params, key) = certificate(CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters"));
    let signed = params.signed_by(&key, &ca).expect("signed");
    let mut redis = Redis::vacant(&[]);
    let port = redis.port();
    for (name, pem) in [("ca.pem", ca.pem()), ("cert.pem", signed.pem()), ("key.pem", key.serialize_pem())] {
        std::fs::write(redis.dir().join(name), pem).expect("a writable folder");
    }
    redis.with_tls(&["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem"]);
    let url = format!("rediss://127.0.0.1:{}", redis.tls_port());
    assert_ne!(redis.tls_port(), port);
    let builder = reading(&redis, Backend::Sqlite).env("REDIS_URL", url);
    let trusting =
        builder.clone().env("EVENT_HANDLER__REDIS__TLS_CA_FILE", redis.dir().join("ca.pem").display()).start();
    redis.add_many(IN, "a", 0..3);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&trusting, "a"), [0, 1, 2]);
    let other = Server::builder()
        .backend(Backend::Sqlite)
        .env("REDIS_URL", format!("rediss://127.0.0.1:{}", redis.tls_port()))
        .start();
    eventually("it is told", || {
        let bus = other.get("/health/ready").json()["checks"]["bus"].take();
        (bus["reason"] == "connection: TLS failed").then_some(())
    });
}

#[test]
fn a_mistake_in_the_configuration_stops_the_start() {
    let redis = Redis::start();
    let builder = reading(&redis, Backend::Sqlite).env("REDIS_URL", "rediss://127.0.0.1");
    for (name, value, key) in [
        ("EVENT_HANDLER__REDIS__TLS_CA_FILE", "absent.pem", "redis.tls_ca_file"),
        ("REDIS_URL", "redis://:s3cret@127.0.0.1/what", "redis.url"),
        ("EVENT_HANDLER__REDIS__INGEST__STREAM", "", "redis.ingest.stream"),
        ("EVENT_HANDLER__REDIS__INGEST__DEAD_MAX", "0", "redis.ingest.dead_max"),
    ] {
        let output = builder.clone().env(name, value).run();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains(key) || text.contains(name), "{key}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
