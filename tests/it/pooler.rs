//! Connection poolers between the service and PostgreSQL.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use serde_json::json;

use crate::databases::{number, refusal};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Postgres;
use crate::support::server::wait_for_status;
use crate::support::{Server, Service};

/// What another application does through the same pooler, again and again until `done`.
fn work(url: &str, done: &AtomicBool) -> usize {
    let mut connection = PgConnection::establish(url).expect("connect");
    let mut times = 0;
    while !done.load(Ordering::Relaxed) || times < 20 {
        connection.batch_execute("INSERT INTO theirs VALUES (1)").expect("their settings are their own");
        times += 1;
    }
    times
}

#[test]
fn a_pooler_that_mixes_sessions_is_named_before_it_is_touched() {
    for mode in ["transaction", "statement"] {
        for others in [0, 3] {
            let direct = Postgres::shared().url();
            PgConnection::establish(&direct)
                .and_then(|mut c| c.batch_execute("CREATE TABLE theirs (n INT)").map_err(|_| unreachable!()))
                .expect("connect");
            let pooler = PgBouncer::start(&direct, mode);
            let done = AtomicBool::new(false);
            let inserted: usize = thread::scope(|scope| {
                let others: Vec<_> = (0..others).map(|_| scope.spawn(|| work(pooler.url(), &done))).collect();
                for _ in 0..3 {
                    let said = refusal(&Server::builder().env("DATABASE_URL", pooler.url()));
                    assert!(said.contains("PgBouncer") && said.contains("pool_mode = session"), "{said}");
                }
                done.store(true, Ordering::Relaxed);
                let after = work(pooler.url(), &done);
                others.into_iter().map(|other| other.join().expect("no panic")).sum::<usize>() + after
            });
            assert_eq!(number(&direct, "SELECT count(*) AS n FROM theirs"), inserted as i64);
            let changed = "SELECT count(*) AS n FROM pg_settings WHERE source = 'session' AND name IN \
                           ('search_path', 'statement_timeout', 'enable_seqscan', 'default_transaction_read_only')";
            assert_eq!(number(pooler.url(), changed), 0);
        }
    }
}

#[test]
fn a_pooler_that_keeps_sessions_is_as_good_as_the_server() {
    let direct = Postgres::shared().url();
    let pooler = PgBouncer::start(&direct, "session");
    let service = Service::start();
    let mut server =
        Server::builder().env("DATABASE_URL", pooler.url()).env("AUCTION_MANAGER_URL", service.url()).start();
    wait_for_status(&server, "/health/ready", 200);
    for id in 1..=3 {
        assert_eq!(server.publish("a", json!(id)), id);
    }
    assert_eq!(server.events("").len(), 3);
    service.wait_for(3);
    assert!(server.terminate().success());
    server.restart();
    assert_eq!(server.publish("a", json!(4)), 4);
    assert_eq!(number(&direct, "SELECT count(*) AS n FROM event_handler.events"), 4);
}
