//! Databases as people have them: shared with other programs, of another version, with few rights, with another
//! encoding, of several servers. Either the service works there, or it ends at once with a line that says what to do.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection, RunQueryDsl as _, SqliteConnection};
use serde_json::json;

use crate::support::postgres::Postgres;
use crate::support::server::{Builder, wait_for_status};
use crate::support::{Backend, Server, eventually, for_each_backend};

/// What another program may have where it keeps its own events.
const FOREIGN: &str = "CREATE TABLE events (id INTEGER PRIMARY KEY, title TEXT); INSERT INTO events VALUES (7, 'x')";
const SCHEMA: &str = "EVENT_HANDLER__STORE__SCHEMA";

fn on(url: &str) -> Builder {
    Server::builder().env("DATABASE_URL", url)
}

fn pg(url: &str) -> PgConnection {
    PgConnection::establish(url).expect("connect")
}

pub fn execute(url: &str, sql: &str) {
    match url.strip_prefix("sqlite:") {
        Some(path) => SqliteConnection::establish(path).expect("open the file").batch_execute(sql),
        None => pg(url).batch_execute(sql),
    }
    .expect(sql);
}

/// The number that `sql` selects as `n`.
pub fn number(url: &str, sql: &str) -> i64 {
    #[derive(diesel::QueryableByName)]
    struct Number {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        n: i64,
    }
    diesel::sql_query(sql).get_result::<Number>(&mut pg(url)).expect(sql).n
}

/// The only line of a start that ends with exit code 78.
pub fn refusal(spec: &Builder) -> String {
    let output = spec.run();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("store.url: "), "{said}");
    said
}

#[test]
fn a_database_with_another_events_table_is_shared_with_its_owner() {
    let url = Postgres::shared().url();
    execute(&url, FOREIGN);
    let server = on(&url).start();
    wait_for_status(&server, "/health/ready", 200);
    assert_eq!(server.publish("a", json!(1)), 1);
    assert_eq!(server.events("").len(), 1);
    assert_eq!(number(&url, "SELECT count(*) AS n FROM public.events WHERE title = 'x'"), 1);
    assert_eq!(number(&url, "SELECT count(*) AS n FROM event_handler.events"), 1);
    assert_eq!(number(&url, "SELECT count(*) AS n FROM pg_tables WHERE schemaname = 'public'"), 1);
}

#[test]
fn an_installation_in_public_is_found_and_goes_on() {
    let url = Postgres::shared().url();
    let mut server = on(&url).env(SCHEMA, "public").start();
    assert_eq!(server.publish("a", json!("before")), 1);
    assert!(server.terminate().success());
    let server = on(&url).start();
    assert_eq!(server.publish("a", json!("after")), 2);
    assert_eq!(server.events("").len(), 2);
    assert_eq!(number(&url, "SELECT count(*) AS n FROM pg_namespace WHERE nspname = 'event_handler'"), 0);
}

#[test]
fn two_installations_in_one_database_do_not_meet() {
    let url = Postgres::shared().url();
    let [first, second] = ["first", "Second \"one\""].map(|schema| on(&url).env(SCHEMA, schema).start());
    assert_eq!((first.publish("a", json!(1)), second.publish("a", json!(2))), (1, 1));
    assert_eq!(first.publish("a", json!(3)), 2);
    assert_eq!((first.events("").len(), second.events("").len()), (2, 1));
}

#[test]
fn tables_of_another_program_end_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sqlite = format!("sqlite:{}", dir.path().join("theirs.db").display());
    for url in [sqlite, Postgres::shared().url()] {
        execute(&url, FOREIGN);
        let said = refusal(&on(&url).env(SCHEMA, "public"));
        assert!(said.contains("\"events\"") && said.contains("another program"), "{said}");
        execute(&url, "UPDATE events SET title = 'still theirs'");
    }
}

#[test]
fn tables_of_another_program_are_found_when_the_database_comes_up_later() {
    let postgres = Postgres::start();
    let url = postgres.url();
    execute(&url, FOREIGN);
    postgres.stop();
    let mut server = on(&url).env(SCHEMA, "public").start();
    wait_for_status(&server, "/health/ready", 503);
    postgres.start_again();
    assert_eq!(server.wait_for_exit().code(), Some(78), "{}", server.log_text());
    let last = server.log_text().lines().last().map(str::to_owned).unwrap_or_default();
    assert!(last.contains("another program"), "{last}");
}

#[test]
fn a_url_that_names_a_driver_is_understood() {
    let url = Postgres::shared().url();
    for scheme in ["postgresql+asyncpg://", "postgres+psycopg2://"] {
        let server = on(&url.replacen("postgres://", scheme, 1)).start();
        server.publish("a", json!(1));
    }
    assert_eq!(number(&url, "SELECT count(*) AS n FROM event_handler.events"), 2);
}

#[test]
fn a_store_newer_than_the_program_is_refused() {
    for_each_backend(|backend| {
        let mut server = Server::builder().backend(backend).start();
        server.publish("a", json!(1));
        assert!(server.terminate().success());
        let url = database_url(&server.spec());
        let table = match backend {
            Backend::Sqlite => "__diesel_schema_migrations",
            Backend::Postgres => "event_handler.__diesel_schema_migrations",
        };
        execute(&url, &format!("INSERT INTO {table} (version) VALUES ('20990101000000')"));
        let said = refusal(&server.spec());
        let ours = newest_migration();
        assert!(said.contains("20990101000000") && said.contains(&ours), "both are named: {said}");
        let migrate = server.spec().arg("migrate").run();
        assert_eq!(migrate.status.code(), Some(78), "{migrate:?}");
        execute(&url, &format!("DELETE FROM {table} WHERE version = '20990101000000'"));
        server.restart();
        assert_eq!(server.publish("a", json!(2)), 2);
    });
}

#[test]
fn a_server_that_runs_goes_on_when_a_newer_one_has_changed_the_schema() {
    let url = Postgres::shared().url();
    let server = on(&url).start();
    server.publish("a", json!(1));
    execute(&url, "INSERT INTO event_handler.__diesel_schema_migrations (version) VALUES ('20990101000000')");
    execute(
        &url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    eventually("it has connected again", || {
        let answer = server.request("POST", "/publish").json(json!({"event_name": "a"})).try_send().ok()?;
        (answer.status == 200).then_some(())
    });
    let said = refusal(&on(&url));
    assert!(said.contains("20990101000000"), "{said}");
}

/// The version that a migration had before stays known.
#[test]
fn a_store_from_before_a_migration_was_renamed_goes_on() {
    for_each_backend(|backend| {
        let mut server = Server::builder().backend(backend).start();
        server.publish("a", json!(1));
        assert!(server.terminate().success());
        let url = database_url(&server.spec());
        let before = "UPDATE __diesel_schema_migrations SET version = '20260400000000' WHERE version = '20260401000000'; \
                      DROP TABLE durables; DROP TABLE durable_marks; \
                      DELETE FROM __diesel_schema_migrations WHERE version = '20260501000000'";
        let path = if backend == Backend::Postgres { "SET search_path = event_handler;" } else { "" };
        execute(&url, &format!("{path} {before}"));
        server.restart();
        assert_eq!(server.publish("a", json!(2)), 2);
        // As earlier programs, which are still running elsewhere, look for it.
        let known = "DELETE FROM __diesel_schema_migrations WHERE version = '20260400000000'";
        execute(&url, &format!("{path} {known}"));
        server.restart();
        assert_eq!(server.publish("a", json!(3)), 3, "it is known under its new version too");
    });
}

#[test]
fn a_role_that_may_not_create_works_on_a_schema_that_is_up_to_date() {
    let url = Postgres::shared().url();
    let role = format!("clerk_{}", url.rsplit('_').next().expect("a number"));
    let theirs = url.replacen("postgres@", &format!("{role}@"), 1);
    execute(&url, &format!("CREATE ROLE {role} LOGIN"));
    let said = refusal(&on(&theirs));
    assert!(said.contains("does not let this role"), "{said}");

    assert!(on(&url).arg("migrate").run().status.success());
    execute(
        &url,
        &format!(
            "GRANT USAGE ON SCHEMA event_handler TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA event_handler TO {role}; \
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA event_handler TO {role}"
        ),
    );
    let server = on(&theirs).start();
    assert_eq!(server.publish("a", json!(1)), 1);
    assert_eq!(server.events("").len(), 1);
}

#[test]
fn a_role_without_rights_on_the_tables_ends_the_start() {
    let url = Postgres::shared().url();
    let role = format!("guest_{}", url.rsplit('_').next().expect("a number"));
    let theirs = url.replacen("postgres@", &format!("{role}@"), 1);
    execute(&url, &format!("CREATE ROLE {role} LOGIN"));
    assert!(on(&url).arg("migrate").run().status.success());
    for (grant, missing) in [
        ("", "USAGE on the schema"),
        ("USAGE ON SCHEMA event_handler", "permission denied for table __diesel_schema_migrations"),
        ("SELECT ON ALL TABLES IN SCHEMA event_handler", "on call_ends, calls, clock_turns, deliveries, "),
        ("INSERT, UPDATE, DELETE ON event_handler.events", "on call_ends, calls, clock_turns, deliveries, "),
    ] {
        if !grant.is_empty() {
            execute(&url, &format!("GRANT {grant} TO {role}"));
        }
        let said = refusal(&on(&theirs));
        assert!(said.contains("does not let this role") && said.contains(missing), "{grant}: {said}");
        assert!(!grant.contains("event_handler.events") || !said.contains(" events,"), "{said}");
    }
    execute(&url, &format!("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA event_handler TO {role}"));
    execute(&url, &format!("REVOKE SELECT ON event_handler.log FROM {role}"));
    assert!(refusal(&on(&theirs)).contains("is missing on log)"));
}

#[test]
fn a_database_that_cannot_hold_every_text_is_refused() {
    let postgres = Postgres::shared();
    postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let url = postgres.url();
    let latin = format!("{}/latin", url.rsplit_once('/').expect("a path").0);
    let said = refusal(&on(&latin));
    assert!(said.contains("LATIN1") && said.contains("UTF8"), "{said}");
    assert_eq!(number(&latin, "SELECT count(*) AS n FROM pg_tables WHERE schemaname = 'event_handler'"), 0);
}

#[test]
fn of_several_hosts_the_one_that_takes_writes_is_found() {
    let standby = Postgres::start();
    let primary = Postgres::start();
    let name = |url: &str| url.split(['@', '/']).nth(3).expect("a host").to_owned();
    let (theirs, ours) = (standby.url(), primary.url());
    let database = ours.rsplit('/').next().expect("a database").to_owned();
    execute(&theirs, &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    let hosts = format!("{},{}", name(&theirs), name(&ours));
    for parameters in ["", "?target_session_attrs=read-write"] {
        let url = format!("postgres://postgres@{hosts}/{database}{parameters}");
        let mut server = on(&url).start();
        server.publish("a", json!(1));
        standby.stop();
        server.restart();
        server.publish("a", json!(1));
        standby.start_again();
    }
    assert_eq!(number(&ours, "SELECT count(*) AS n FROM event_handler.events"), 4);
}

/// Where the server of `spec` keeps its events.
pub fn database_url(spec: &Builder) -> String {
    let config = spec.clone().arg("check-config").run();
    let config: toml::Table = String::from_utf8_lossy(&config.stdout).parse().expect("TOML");
    config["store"]["url"].as_str().expect("a URL").to_owned()
}

fn newest_migration() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    let names = std::fs::read_dir(folder).expect("migrations").flatten().map(|entry| entry.file_name());
    let newest = names.max().expect("a migration").to_string_lossy().into_owned();
    newest.split('_').next().expect("a version").replace('-', "")
}
