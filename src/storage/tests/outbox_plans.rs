//! OB-3: statements on deliveries walk the indexes of open ones, and never sort or scan.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::{Connection as _, InstrumentationEvent, SimpleConnection as _};
use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Integer, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::{QueryResult, RunQueryDsl};

use super::{NOON, Store, appends, event};
use crate::domain::delivery::DeliveryState;
use crate::domain::entity::EntityType;
use crate::domain::event::{Append, NewEvent};
use crate::domain::pattern::Pattern;
use crate::domain::priority::Lane;
use crate::domain::routes::{Route, Routes, Selector};
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::options::Access;
use crate::storage::outbox::{self, Claim, DeliveryFilter};
use crate::storage::{DeliveryOutcome, NewService, Settled, SyncWith, state, syncs};

/// Asks for the plan of a statement with any parameters.
struct Plan(String);

impl QueryId for Plan {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

/// The rows of SQLite's answer.
struct SqlitePlan(Plan);

impl QueryId for SqlitePlan {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for SqlitePlan {
    type SqlType = (Integer, Integer, Integer, Text);
}

impl Query for Plan {
    type SqlType = Text;
}

impl QueryFragment<Sqlite> for SqlitePlan {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("EXPLAIN QUERY PLAN ");
        out.push_sql(&self.0.0);
        Ok(())
    }
}

impl QueryFragment<Pg> for Plan {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("EXPLAIN (COSTS OFF) ");
        out.push_sql(&self.0);
        Ok(())
    }
}

impl RunQueryDsl<SqliteConnection> for SqlitePlan {}
impl RunQueryDsl<PgConnection> for Plan {}

/// The plans of all statements that `work` executes.
pub(super) fn plans<T>(store: &Store, work: impl FnOnce(&mut Connection) -> Result<T, StoreError>) -> Vec<String> {
    plans_with(store, "", work)
}

/// Like [`plans`], with the types of the parameters for PostgreSQL. The transaction is rolled back.
pub(super) fn plans_with<T>(
    store: &Store,
    types: &str,
    work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Vec<String> {
    let mut connection = Connection::open(&store.options, Access::Write).expect("connect");
    connection.begin().expect("begun");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let note = move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let text = query.to_string();
            sink.lock().expect("no panic").push(text.split(" -- binds").next().unwrap_or_default().to_owned());
        }
    };
    on_backend!(&mut connection, c => c.set_instrumentation(note));
    work(&mut connection).expect("done");
    on_backend!(&mut connection, c => c.set_instrumentation(|_: InstrumentationEvent<'_>| {}));
    let statements = std::mem::take(&mut *seen.lock().expect("no panic"));
    let mut plan = |text: String| match &mut connection {
        Connection::Sqlite(file) => {
            let rows = SqlitePlan(Plan(text)).load::<(i32, i32, i32, String)>(&mut file.connection).expect("a plan");
            rows.into_iter().map(|(_, _, _, detail)| detail + "\n").collect()
        }
        Connection::Postgres(session) => {
            let c = &mut session.connection;
            let parameters = vec!["NULL"; (1..).take_while(|n| text.contains(&format!("${n}"))).count()].join(", ");
            c.batch_execute(&format!("SET plan_cache_mode = force_generic_plan; PREPARE asked{types} AS {text}"))
                .expect(&text);
            let execute = if parameters.is_empty() {
                "EXECUTE asked".to_owned()
            } else {
                format!("EXECUTE asked ({parameters})")
            };
            let plan = Plan(execute).load::<String>(c).expect("a plan").join("\n");
            c.batch_execute("DEALLOCATE asked").expect("forgotten");
            plan
        }
    };
    statements.into_iter().map(&mut plan).collect()
}

/// Checks that each plan uses `index`, scans no table and sorts nothing.
pub(super) fn check(plans: &[String], index: &str) {
    assert!(!plans.is_empty(), "no statement");
    for plan in plans {
        assert!(plan.contains(index), "another way than {index}:\n{plan}");
        let sorts = ["Sort", "TEMP B-TREE", "Seq Scan", "Bitmap", "Hash"].iter().any(|bad| plan.contains(bad));
        let scans = plan.lines().any(|line| line.trim_start().starts_with("SCAN ") && !line.contains("INDEX"));
        assert!(!sorts && !scans, "{plan}");
    }
}

/// The types of the parameters of a delivery outcome.
const SETTLEMENT: &str =
    "(bigint[], smallint[], smallint[], bigint[], integer[], bigint[], bigint[], smallint[], text[], integer[])";

fn check_all(store: &Store) {
    let claim = |claim: Claim| plans(store, move |c| outbox::claim(c, 1, &claim, 100, 1 << 20));
    check(&claim(Claim::Waiting { lane: Lane::Normal, after: 10 }), "deliveries_open");
    check(&claim(Claim::Due { now: NOON, after: (NOON, 10) }), "deliveries_due");
    check(&claim(Claim::Key { key: "k".into() }), "deliveries_key");
    check(&plans(store, |c| outbox::oldest_open(c, 1)), "deliveries_open");
    check(&plans(store, |c| outbox::next_due(c, 1, NOON)), "deliveries_due");
    let states = vec![DeliveryState::Waiting, DeliveryState::Retrying, DeliveryState::Dead];
    let filter = DeliveryFilter { services: vec![1], states, before: Some(50), limit: 20 };
    let mut lists = plans(store, |c| outbox::deliveries(c, &filter));
    // The statements that complete a page look up ids.
    lists.retain(|plan| !plan.contains("events") && !plan.contains("delivery_attempts"));
    check(&lists, "deliveries_open");
    check(&plans(store, |c| outbox::deliveries_of(c, 7)), key_of(store, "deliveries"));
    check(&plans(store, |c| outbox::attempts(c, 7)), key_of(store, "delivery_attempts"));
    check(&plans(store, |c| outbox::statuses(c, &[7, 8, 9])), key_of(store, "deliveries"));
    check(&plans(store, |c| outbox::statuses(c, &[7, 4000])), key_of(store, "deliveries"));
    let lots = SyncWith { service: 1, own_sources: Vec::new(), kind: EntityType::parse("lot").expect("a type") };
    check(&plans_with(store, FACTS, |c| syncs::facts(c, &lots, &["a", "b"])), "deliveries_key");
    let key = if store._dir.is_some() { "sqlite_autoindex_entities_1 (type=? AND key=?)" } else { "entities_pkey" };
    let versions = plans_with(store, "(text, text[])", |c| state::versions(c, &lots.kind, &["a", "b"]));
    check(&versions, key);
    // Each key by itself: of many, PostgreSQL without statistics would rather read the whole type.
    assert!(store._dir.is_some() || versions[0].contains("Nested Loop"), "{versions:?}");
    // What follows the event under other names is passed over.
    check(&plans(store, |c| state::changes_after(c, &lots.kind, 7, 9)), "events_name_id");
    // The cost of settling deliveries does not depend on how many wait.
    let delivered = DeliveryOutcome {
        service: 1,
        event_id: 7,
        lane: Lane::Normal,
        attempts: 1,
        finished_at: NOON,
        took: Duration::from_millis(1),
        http_status: Some(200),
        reason: None,
        answer: None,
        settled: Settled::Delivered,
    };
    check(&plans_with(store, SETTLEMENT, |c| outbox::settle(c, &[&[delivered]])), key_of(store, "deliveries"));
}

/// The types of the parameters of what is known of keys.
const FACTS: &str = "(smallint, text, text, text[])";

/// How a plan names the primary key.
fn key_of(store: &Store, table: &'static str) -> &'static str {
    match (&store._dir, table) {
        (Some(_), _) => "USING PRIMARY KEY",
        (None, "deliveries") => "deliveries_pkey",
        (None, _) => "delivery_attempts_pkey",
    }
}

#[test]
fn sqlite_walks_what_is_open() {
    let store = Store::sqlite();
    store.writer();
    check_all(&store);
}

#[test]
fn postgres_walks_what_is_open_with_statistics_and_without() {
    let store = Store::postgres();
    let mut writer = store.writer();
    store.without_autovacuum();
    check_all(&store);
    let everything = || vec![Pattern::parse(">").expect("a pattern")];
    let service = NewService { name: "a".into(), patterns: everything(), start_from: None };
    writer.register(&[service], NOON).expect("registered");
    let route = Route {
        service: 1,
        selectors: everything().into_iter().map(Selector::all_of).collect(),
        own_sources: vec!["a".into()],
    };
    let routes = Routes::new(vec![route]);
    for _ in 0..5 {
        let keyed = || Append::single(NewEvent { key: Some("k".into()), ..event("a", "{}") });
        writer.commit(&mut appends((0..1000).map(|_| keyed())).into(), &routes, NOON).expect("stored");
    }
    check_all(&store);
    store.execute("ANALYZE");
    check_all(&store);
    // Nearly all are delivered, and some are to be retried.
    store.execute("UPDATE deliveries SET state = 2 WHERE event_id % 100 > 0; UPDATE deliveries SET state = 1, due_at = 5 WHERE state = 0; ANALYZE");
    check_all(&store);
}
