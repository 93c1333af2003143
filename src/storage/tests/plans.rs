//! ST-3: every read walks an index in its order. No plan sorts, or filters names row by row.

use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Integer, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::{QueryResult, RunQueryDsl};

use super::{NOON, Store, single};
use crate::domain::delivery::EventStatus;
use crate::storage::connection::Connection;
use crate::storage::fragments::Conditions;
use crate::storage::fragments::{Pick, Walk};
use crate::storage::options::Access;
use crate::storage::position::IdRange;

/// Asks SQLite for the plan of a walk.
struct SqlitePlan<'a>(&'a Walk<'a>);

impl QueryId for SqlitePlan<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for SqlitePlan<'_> {
    type SqlType = (Integer, Integer, Integer, Text);
}

impl QueryFragment<Sqlite> for SqlitePlan<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("EXPLAIN QUERY PLAN ");
        self.0.walk_ast(out)
    }
}

impl RunQueryDsl<SqliteConnection> for SqlitePlan<'_> {}

/// Asks PostgreSQL for the plan of a walk.
struct PostgresPlan<'a>(&'a Walk<'a>);

impl QueryId for PostgresPlan<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for PostgresPlan<'_> {
    type SqlType = Text;
}

impl QueryFragment<Pg> for PostgresPlan<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("EXPLAIN (COSTS OFF) ");
        self.0.walk_ast(out)
    }
}

impl RunQueryDsl<PgConnection> for PostgresPlan<'_> {}

fn plan(connection: &mut Connection, walk: &Walk<'_>) -> String {
    match connection {
        Connection::Sqlite(file) => {
            let rows = SqlitePlan(walk).load::<(i32, i32, i32, String)>(&mut file.connection).expect("a plan");
            rows.into_iter().map(|(_, _, _, detail)| detail + "\n").collect()
        }
        Connection::Postgres(c) => PostgresPlan(walk).load::<String>(&mut c.connection).expect("a plan").join("\n"),
    }
}

/// Walks along the primary key, and walks along the index of names.
fn walks() -> (Vec<Pick>, Vec<Pick>) {
    let names = |count: usize| Pick::Named((0..count).map(|n| format!("name.{n}")).collect());
    let like = |count: usize| Pick::Like((0..count).map(|n| format!("name.%.{n}")).collect());
    (vec![Pick::All, Pick::Foreign, like(0), like(1), like(3), like(16)], [0, 1, 2, 3, 64].map(names).to_vec())
}

/// Unprocessed events are found by their own index, and each by its id.
fn check_unprocessed(store: &Store, by_id: &str) {
    let mut connection = Connection::open(&store.options, Access::Read).expect("connect");
    let (ids, names) = walks();
    for (status, index) in [(EventStatus::Failed, "deliveries_dead"), (EventStatus::Pending, "deliveries_pending")] {
        let more = Conditions { status: Some(status), ..Conditions::default() };
        for (pick, descending) in ids.iter().chain(&names).flat_map(|pick| [(pick, false), (pick, true)]) {
            let walk = Walk { pick, range: IdRange { low: 10, high: 4000 }, descending, more: &more, limit: 100 };
            let plan = plan(&mut connection, &walk);
            assert!(!plan.contains("Sort") && !plan.contains("TEMP B-TREE"), "{pick:?} sorts:\n{plan}");
            assert!(plan.contains(index) && plan.contains(by_id), "{pick:?} {status:?}:\n{plan}");
            assert!(!plan.contains("rowid>") && !plan.contains("(id >= "), "{pick:?} {status:?} looks at all:\n{plan}");
        }
    }
}

fn check(store: &Store, by_id: &[&str], by_name: &[&str]) {
    let mut connection = Connection::open(&store.options, Access::Read).expect("connect");
    let (ids, names) = walks();
    for (picks, index) in [(ids, by_id), (names, by_name)] {
        let none = Conditions::default();
        let text = || Some("s".to_owned());
        let texts = Conditions { source: text(), key: text(), ..Conditions::default() };
        let processed = Conditions { status: Some(EventStatus::Processed), ..Conditions::default() };
        for (pick, descending, more) in picks.iter().flat_map(|pick| {
            [(pick, false, &none), (pick, true, &none), (pick, true, &texts), (pick, true, &processed)]
        }) {
            let range = IdRange { low: 10, high: 4000 };
            let walk = Walk { pick, range, descending, more, limit: 100 };
            let plan = plan(&mut connection, &walk);
            let nodes = || plan.lines().map(|line| line.trim_start_matches([' ', '-', '>']));
            assert!(!nodes().any(|node| node == "Sort" || node.contains("TEMP B-TREE")), "{pick:?} sorts:\n{plan}");
            let walks: Vec<&str> =
                nodes().filter(|node| node.contains("events") && !node.contains("event_id")).collect();
            assert!(!walks.is_empty(), "{plan}");
            assert!(
                walks.iter().all(|walk| index.iter().any(|index| walk.contains(index)) || walk.contains("Sort Key")),
                "{pick:?} takes another way than {index:?}:\n{plan}"
            );
        }
    }
}

#[test]
fn sqlite_walks_indexes() {
    let store = Store::sqlite();
    store.writer();
    check(
        &store,
        &["USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
        &["events_name_id (name=? AND rowid>? AND rowid<?)"],
    );
    check_unprocessed(&store, "SEARCH events USING INTEGER PRIMARY KEY (rowid=?)");
}

#[test]
fn postgres_walks_indexes_whatever_its_statistics() {
    let store = Store::postgres();
    let mut writer = store.writer();
    let by_id = ["using events_pkey", "Index Cond: ((id"];
    let by_name = ["using events_name_id", "Index Cond: ((name = "];
    let one_by_id = "Index Scan using events_pkey on events";
    check(&store, &by_id, &by_name);
    check_unprocessed(&store, one_by_id);
    // One name is frequent, the others do not occur.
    for _ in 0..5 {
        writer.append((0..1000).map(|_| single("name.1")).collect(), NOON).expect("stored");
    }
    check(&store, &by_id, &by_name);
    check_unprocessed(&store, one_by_id);
    store.execute("ANALYZE");
    check(&store, &by_id, &by_name);
    check_unprocessed(&store, one_by_id);
}
