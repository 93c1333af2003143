//! `[[services]]`, and the services that a short variable switches on.

use super::*;
use crate::domain::entity::EntityType;

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
        sync = { types = ["order", "user"], path = "/own/", every = "1m", repair = "alert_only" }
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
    let sync = second.sync.as_ref().expect("a copy");
    assert_eq!(sync.types.iter().map(EntityType::as_str).collect::<Vec<_>>(), ["order", "user"]);
    assert_eq!((sync.path.as_str(), sync.every.get().as_secs(), sync.repair_rate), ("/own", 60, 100));
    assert_eq!((sync.repair, &billing.sync), (SyncRepair::AlertOnly, &None));
    let shown = config.to_toml_redacted();
    assert!(shown.contains(r#"sync = { every = "1m", path = "/own", repair = "alert_only", "#), "{shown}");
    assert!(shown.contains("sync = {}\n"), "{shown}");
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
