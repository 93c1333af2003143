//! Clients and writers that fail, a store that is away, and services that hang: nothing is lost, and nobody waits for
//! anybody else.

use std::time::Duration;

use super::service::{Health, Service};
use super::{CONCURRENCY, NAMES, SLACK, Stream, UNSETTLED, configured, drain, paced};
use crate::support::postgres::Postgres;
use crate::support::server::wait_for_status;
use crate::support::{Backend, Server};

fn slow_services() -> [Service; 4] {
    NAMES.map(|_| Service::start(Health::Slow(Duration::from_millis(3))))
}

/// Everything arrives, in order; what comes twice was under way in one of so many accidents.
fn assert_delivered(server: &Server, services: &[Service], stream: &Stream, accidents: usize) {
    for (service, name) in services.iter().zip(NAMES) {
        drain(server, service, stream);
        service.assert_order(name);
        let duplicates = service.duplicates();
        assert!(duplicates <= accidents * (CONCURRENCY + UNSETTLED), "{name}: {duplicates} duplicates");
    }
}

#[cfg(feature = "fault-injection")]
#[test]
fn clients_and_writers_that_panic_lose_nothing() {
    use crate::support::{eventually, for_each_backend};

    const ROUNDS: usize = 3;
    for_each_backend(|backend| {
        for (fault, actor) in [("client", "client/healthy"), ("persistence", "persistence")] {
            let services = slow_services();
            let server = configured(&services)
                .backend(backend)
                .env("EVENT_HANDLER__SUPERVISION__BACKOFF", "20ms")
                .env("EVENT_HANDLER__SUPERVISION__BACKOFF_CAP", "100ms")
                .env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", 20)
                .start();
            let mut stream = Stream::default();
            for round in 1..=ROUNDS {
                // From here on nothing is published until all have it: whoever comes back looks by itself.
                stream.publish(&server, 1000);
                server.post(&format!("/admin/fault/{fault}"), "").data();
                eventually("it is restarted", || {
                    let tree = server.get("/admin/actors").data();
                    let child = tree["children"].as_array()?.iter().find(|child| child["name"] == actor)?;
                    (child["restarts"] == round && child["state"] == "running").then_some(())
                });
                assert_delivered(&server, &services, &stream, round);
            }
        }
    });
}

#[test]
fn a_store_that_is_away_for_seconds_loses_and_repeats_nothing() {
    let postgres = Postgres::start();
    let services = slow_services();
    let server = configured(&services).env("DATABASE_URL", postgres.url()).start();
    let mut stream = Stream::default();
    for _ in 0..2 {
        stream.publish(&server, 3000);
        postgres.stop();
        wait_for_status(&server, "/health/ready", 503);
        std::thread::sleep(Duration::from_secs(2));
        postgres.start_again();
        wait_for_status(&server, "/health/ready", 200);
    }
    // The process lives: it knows what it has sent.
    assert_delivered(&server, &services, &stream, 0);
}

#[test]
fn services_that_hang_babble_or_do_not_read_delay_no_other() {
    let services = NAMES.map(|_| Service::start(Health::Well));
    let [healthy, hanging, endless, deaf] = &services;
    let server = configured(&services).backend(Backend::Sqlite).start();
    let mut stream = Stream::default();
    let well = paced(&mut stream, &server, healthy, 20);
    for service in &services {
        drain(&server, service, &stream);
    }
    hanging.set(Health::Hanging);
    endless.set(Health::Endless);
    deaf.set(Health::Deaf);
    let ill = paced(&mut stream, &server, healthy, 30);
    assert!(ill <= well * 3 + SLACK, "{ill:?} instead of {well:?}");
    for service in [hanging, endless, deaf] {
        service.set(Health::Well);
    }
    for (service, name) in services.iter().zip(NAMES) {
        drain(&server, service, &stream);
        service.assert_order(name);
    }
    assert_eq!(healthy.duplicates(), 0);
}
