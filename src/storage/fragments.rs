//! SQL that diesel's query builder cannot express.

use diesel::backend::Backend;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, HasSqlType, Nullable, SmallInt, Text};
use diesel::sqlite::Sqlite;
use diesel::{PgConnection, QueryResult, RunQueryDsl, SqliteConnection};

use crate::domain::delivery::EventStatus;
use crate::domain::event::{Event, Priority, Timestamp};
use crate::domain::name::EventName;

use super::position::IdRange;

/// Which names a walk over the log reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pick {
    /// All names.
    All,
    /// All names but those of the Event Handler's own events (`$sys.`).
    Foreign,
    /// These names. Each is read along the index of names, and the results are merged in the order of ids without a
    /// sort.
    Named(Vec<String>),
    /// Names that match one of these `LIKE` patterns. Without patterns, all names: the caller matches them.
    Like(Vec<String>),
}

/// A walk over events in the order of their ids. Its texts are few, so diesel keeps the statements prepared.
#[derive(Debug, Clone)]
pub(super) struct Walk<'a> {
    pub pick: &'a Pick,
    pub range: IdRange,
    pub descending: bool,
    pub more: &'a Conditions,
    pub limit: i64,
}

/// The columns of an event in the order in which [`Walk`] selects them.
pub(super) type Row = (i64, String, String, String, i16, Option<String>, Option<String>, Option<String>, i64);

pub(super) fn event(row: Row) -> Event {
    let (id, name, payload, source, priority, key, metadata, traceparent, created_at) = row;
    Event {
        id,
        created_at: Timestamp(created_at),
        name: EventName::from_store(name),
        payload: payload.into(),
        source: source.into(),
        priority: Priority::from_store(priority),
        key: key.map(Into::into),
        metadata: metadata.map(Into::into),
        traceparent: traceparent.map(Into::into),
    }
}

impl QueryId for Walk<'_> {
    type QueryId = ();
    // The text of the statement varies, so diesel caches it by its text.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Walk<'_> {
    type SqlType = (BigInt, Text, Text, Text, SmallInt, Nullable<Text>, Nullable<Text>, Nullable<Text>, BigInt);
}

impl QueryFragment<Sqlite> for Walk<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        match (self.more.open_states(), self.pick) {
            (Some(states), pick) => {
                self.rows(&mut out, "id")?;
                self.names(&mut out, pick)?;
                out.push_sql(" AND id IN (");
                self.unprocessed(&mut out, states)?;
                out.push_sql(")");
            }
            (None, Pick::Named(names)) => self.merge(&mut out, names, "id", ["", ""])?,
            (None, pick) => self.one_by_one(&mut out, pick)?,
        }
        self.end(&mut out, "id")
    }
}

/// On PostgreSQL the index of names is on `(name, id + 0)`. Writing `id + 0` keeps the planner from walking the primary
/// key instead. `OFFSET 0` keeps it from reordering the subqueries.
impl QueryFragment<Pg> for Walk<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        match (self.more.open_states(), self.pick) {
            (Some(states), pick) => {
                out.push_sql("SELECT e.* FROM (SELECT DISTINCT event_id FROM (");
                self.unprocessed(&mut out, states)?;
                out.push_sql(") AS d ORDER BY event_id");
                out.push_sql(if self.descending { " DESC" } else { "" });
                out.push_sql(" OFFSET 0) AS found, LATERAL (SELECT id");
                out.push_sql(COLUMNS);
                out.push_sql(" FROM events WHERE id = found.event_id");
                self.conditions(&mut out)?;
                self.names(&mut out, pick)?;
                out.push_sql(" OFFSET 0) AS e");
                return self.end(&mut out, "found.event_id");
            }
            (None, Pick::Named(names)) if names.len() <= 1 => self.merge(&mut out, names, "id + 0", ["", ""])?,
            (None, Pick::Named(names)) if self.descending => {
                self.merge(&mut out, names, "id + 0", ["(", " ORDER BY 1 DESC)"])?;
            }
            (None, Pick::Named(names)) => self.merge(&mut out, names, "id + 0", ["(", " ORDER BY 1)"])?,
            (None, pick) => self.one_by_one(&mut out, pick)?,
        }
        self.end(&mut out, "id")
    }
}

/// The columns of an event after its id.
const COLUMNS: &str = ", name, payload, source, priority, key, metadata, traceparent, created_at";

/// Conditions on events other than their names and ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Conditions {
    pub source: Option<String>,
    pub key: Option<String>,
    pub status: Option<EventStatus>,
    /// The first and the last date, inclusive. Set only where the range of ids does not imply it, because a wrong clock
    /// had dated events.
    pub dated: Option<(Option<Timestamp>, Option<Timestamp>)>,
}

impl Conditions {
    /// The condition on deliveries by which events of this status are found, if there is one. Each has a partial index
    /// of its own.
    pub fn open_states(&self) -> Option<&'static str> {
        match self.status {
            None | Some(EventStatus::Processed) => None,
            Some(EventStatus::Pending) => Some("state < 2"),
            Some(EventStatus::Failed) => Some("state = 3"),
        }
    }
}

impl Walk<'_> {
    /// The events of the range that have a delivery in one of `states`. Their indexes are on `event_id + 0`, so that
    /// the planner never takes them for a statement about one service.
    fn unprocessed<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>, states: &str) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt>,
        i64: ToSql<BigInt, DB>,
    {
        out.push_sql("SELECT event_id + 0 AS event_id FROM deliveries WHERE ");
        out.push_sql(states);
        out.push_sql(" AND event_id + 0 >= ");
        out.push_bind_param::<BigInt, _>(&self.range.low)?;
        out.push_sql(" AND event_id + 0 <= ");
        out.push_bind_param::<BigInt, _>(&self.range.high)
    }

    /// A walk along the index of names for each name, merged by id.
    fn merge<'b, DB>(
        &'b self,
        out: &mut AstPass<'_, 'b, DB>,
        names: &'b [String],
        id: &str,
        [before, after]: [&str; 2],
    ) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt> + HasSqlType<Text>,
        i64: ToSql<BigInt, DB>,
        str: ToSql<Text, DB>,
    {
        // The number of names is rounded up to a power of two with names that no event has, so that few different
        // statements are prepared.
        for at in 0..names.len().next_power_of_two() {
            out.push_sql(if at == 0 { "" } else { " UNION ALL " });
            out.push_sql(before);
            self.rows(out, id)?;
            out.push_sql(" AND name = ");
            out.push_bind_param::<Text, str>(names.get(at).map_or("", String::as_str))?;
            out.push_sql(after);
        }
        Ok(())
    }

    /// A walk along the primary key. `substr` hides the names from the planner, which therefore keeps the order of ids.
    fn one_by_one<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>, pick: &'b Pick) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt> + HasSqlType<Text>,
        i64: ToSql<BigInt, DB>,
        str: ToSql<Text, DB>,
    {
        self.rows(out, "id")?;
        self.names(out, pick)
    }

    fn names<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>, pick: &'b Pick) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<Text>,
        str: ToSql<Text, DB>,
    {
        // The number of texts is rounded up to a power of two here as well; see `merge`.
        let mut list = |texts: &'b [String], before: &str, between: &str| -> QueryResult<()> {
            for at in 0..texts.len().next_power_of_two() {
                out.push_sql(if at == 0 { before } else { between });
                out.push_bind_param::<Text, str>(texts.get(at).map_or("", String::as_str))?;
            }
            out.push_sql(")");
            Ok(())
        };
        match pick {
            Pick::Foreign => out.push_sql(" AND substr(name, 1, 5) <> '$sys.'"),
            Pick::Named(names) => list(names, " AND substr(name, 1) IN (", ", ")?,
            Pick::Like(texts) if !texts.is_empty() => list(texts, " AND (name LIKE ", " OR name LIKE ")?,
            Pick::All | Pick::Like(_) => {}
        }
        Ok(())
    }

    fn rows<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>, id: &str) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt> + HasSqlType<Text>,
        i64: ToSql<BigInt, DB>,
        str: ToSql<Text, DB>,
    {
        out.push_sql("SELECT ");
        out.push_sql(id);
        out.push_sql(" AS id");
        out.push_sql(COLUMNS);
        out.push_sql(" FROM events WHERE ");
        out.push_sql(id);
        out.push_sql(" >= ");
        out.push_bind_param::<BigInt, _>(&self.range.low)?;
        out.push_sql(" AND ");
        out.push_sql(id);
        out.push_sql(" <= ");
        out.push_bind_param::<BigInt, _>(&self.range.high)?;
        self.conditions(out)
    }

    fn conditions<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt> + HasSqlType<Text>,
        i64: ToSql<BigInt, DB>,
        str: ToSql<Text, DB>,
    {
        if let Some(source) = &self.more.source {
            out.push_sql(" AND source = ");
            out.push_bind_param::<Text, str>(source)?;
        }
        if let Some(key) = &self.more.key {
            out.push_sql(" AND key = ");
            out.push_bind_param::<Text, str>(key)?;
        }
        if let Some((since, until)) = &self.more.dated {
            if let Some(Timestamp(since)) = since {
                out.push_sql(" AND created_at >= ");
                out.push_bind_param::<BigInt, _>(since)?;
            }
            if let Some(Timestamp(until)) = until {
                out.push_sql(" AND created_at <= ");
                out.push_bind_param::<BigInt, _>(until)?;
            }
        }
        // Each is a subquery of one value. PostgreSQL would turn `EXISTS` into a join over all deliveries of a state.
        const HIGHEST: &str = "coalesce((SELECT max(d.state) FROM deliveries d WHERE d.event_id = events.id), 2)";
        const LOWEST: &str = "coalesce((SELECT min(d.state) FROM deliveries d WHERE d.event_id = events.id), 2)";
        let conditions: &[&str] = match self.more.status {
            // [`Conditions::open_states`] finds the failed ones.
            None | Some(EventStatus::Failed) => &[],
            Some(EventStatus::Processed) => &[" AND ", HIGHEST, " = 2 AND ", LOWEST, " = 2"],
            Some(EventStatus::Pending) => &[" AND ", HIGHEST, " <> 3"],
        };
        conditions.iter().for_each(|sql| out.push_sql(sql));
        Ok(())
    }

    fn end<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>, id: &str) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt>,
        i64: ToSql<BigInt, DB>,
    {
        out.push_sql(" ORDER BY ");
        out.push_sql(id);
        out.push_sql(if self.descending { " DESC LIMIT " } else { " LIMIT " });
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

impl RunQueryDsl<SqliteConnection> for Walk<'_> {}
impl RunQueryDsl<PgConnection> for Walk<'_> {}

/// The first distinct names in `from..below`. Each takes one look-up in the index of names.
pub(super) struct Names<'a> {
    pub from: &'a str,
    pub below: &'a str,
    pub limit: i64,
}

impl QueryId for Names<'_> {
    type QueryId = Names<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Names<'_> {
    type SqlType = Text;
}

impl<DB> QueryFragment<DB> for Names<'_>
where
    DB: Backend + HasSqlType<BigInt> + HasSqlType<Text>,
    i64: ToSql<BigInt, DB>,
    str: ToSql<Text, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("WITH RECURSIVE found (name, n) AS (SELECT (SELECT min(name) FROM events WHERE name >= ");
        out.push_bind_param::<Text, str>(self.from)?;
        out.push_sql(" AND name < ");
        out.push_bind_param::<Text, str>(self.below)?;
        out.push_sql("), 1 UNION ALL SELECT (SELECT min(e.name) FROM events e WHERE e.name > found.name AND e.name < ");
        out.push_bind_param::<Text, str>(self.below)?;
        out.push_sql("), n + 1 FROM found WHERE found.name IS NOT NULL AND n < ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(") SELECT name FROM found WHERE name IS NOT NULL");
        Ok(())
    }
}

impl RunQueryDsl<SqliteConnection> for Names<'_> {}
impl RunQueryDsl<PgConnection> for Names<'_> {}
