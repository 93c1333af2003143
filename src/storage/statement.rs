//! Statements whose texts are put together, and inserts of any number of rows. Statements of one text stay prepared.

use std::marker::PhantomData;

use diesel::backend::Backend;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::Error::QueryBuilderError;
use diesel::serialize::ToSql;
use diesel::sql_types::{Array, BigInt, HasSqlType, Nullable, Text};
use diesel::sqlite::Sqlite;
use diesel::{PgConnection, QueryResult, RunQueryDsl, SqliteConnection};

use super::connection::Connection;

/// A parameter. In the text of a statement a question mark stands for it.
pub(super) enum Bind<'a> {
    Int(i64),
    Text(&'a str),
    Json(String),
    /// On PostgreSQL alone.
    Array(Column<'a>),
}

/// Values of one type.
pub(super) enum Column<'a> {
    Ints(Vec<Option<i64>>),
    Texts(Vec<Option<&'a str>>),
}

impl<'a> Column<'a> {
    pub fn ints<V: Into<Option<i64>>>(values: impl IntoIterator<Item = V>) -> Self {
        Self::Ints(values.into_iter().map(Into::into).collect())
    }

    pub fn texts<V: Into<Option<&'a str>>>(values: impl IntoIterator<Item = V>) -> Self {
        Self::Texts(values.into_iter().map(Into::into).collect())
    }

    fn len(&self) -> usize {
        match self {
            Self::Ints(values) => values.len(),
            Self::Texts(values) => values.len(),
        }
    }

    fn array(&self) -> &'static str {
        match self {
            Self::Ints(_) => "CAST(? AS bigint[])",
            Self::Texts(_) => "CAST(? AS text[])",
        }
    }
}

/// A statement that returns rows of the type `S`, if any.
pub(super) struct Statement<'a, S = ()> {
    text: String,
    binds: Vec<Bind<'a>>,
    rows: PhantomData<S>,
}

impl<'a, S> Statement<'a, S> {
    pub fn new(text: String, binds: Vec<Bind<'a>>) -> Self {
        Self { text, binds, rows: PhantomData }
    }

    fn walk<'b, DB>(
        &'b self,
        out: &mut AstPass<'_, 'b, DB>,
        array: impl Fn(&mut AstPass<'_, 'b, DB>, &'b Column<'a>) -> QueryResult<()>,
    ) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt> + HasSqlType<Text>,
        i64: ToSql<BigInt, DB>,
        str: ToSql<Text, DB>,
    {
        let mut texts = self.text.split('?');
        out.push_sql(texts.next().unwrap_or_default());
        for (bind, text) in self.binds.iter().zip(texts) {
            match bind {
                Bind::Int(value) => out.push_bind_param::<BigInt, _>(value)?,
                Bind::Text(value) => out.push_bind_param::<Text, str>(value)?,
                Bind::Json(value) => out.push_bind_param::<Text, str>(value)?,
                Bind::Array(column) => array(out, column)?,
            }
            out.push_sql(text);
        }
        Ok(())
    }
}

impl<S> QueryId for Statement<'_, S> {
    type QueryId = ();
    // The text of the statement varies, so diesel caches it by its text.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<S> Query for Statement<'_, S> {
    type SqlType = S;
}

impl<S> QueryFragment<Sqlite> for Statement<'_, S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        self.walk(&mut out, |_, _| Err(QueryBuilderError("SQLite has no arrays".into())))
    }
}

impl<S> QueryFragment<Pg> for Statement<'_, S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.walk(&mut out, |out, column| match column {
            Column::Ints(values) => out.push_bind_param::<Array<Nullable<BigInt>>, _>(values),
            Column::Texts(values) => out.push_bind_param::<Array<Nullable<Text>>, _>(values),
        })
    }
}

impl<S> RunQueryDsl<SqliteConnection> for Statement<'_, S> {}
impl<S> RunQueryDsl<PgConnection> for Statement<'_, S> {}

/// A type of values of a [`Column`].
pub(super) trait Value: Copy + serde::Serialize {
    fn column<'a>(values: &[Self]) -> Column<'a>
    where
        Self: 'a;
}

impl Value for i64 {
    fn column<'a>(values: &[Self]) -> Column<'a> {
        Column::ints(values.iter().copied())
    }
}

impl Value for &str {
    fn column<'a>(values: &[Self]) -> Column<'a>
    where
        Self: 'a,
    {
        Column::texts(values.iter().copied())
    }
}

/// The condition that a column is one of `values`, after its name.
pub(super) fn any_of<'a, V: Value + 'a>(connection: &Connection, values: &[V]) -> (String, Bind<'a>) {
    match connection {
        Connection::Sqlite(_) => {
            ("IN (SELECT value FROM json_each(?))".to_owned(), Bind::Json(serde_json::json!(values).to_string()))
        }
        Connection::Postgres(_) => {
            let column = V::column(values);
            (format!("= ANY ({})", column.array()), Bind::Array(column))
        }
    }
}

/// The rows of `table`, called `s`, of which `column` is one of `values`: what is read from, and the condition. On SQLite
/// `IN` would fill a table of its own at each execution, which costs more than the rest of a short statement.
pub(super) fn rows_of<'a, V: Value + 'a>(
    connection: &Connection,
    table: &str,
    column: &str,
    values: &[V],
) -> (String, String, Bind<'a>) {
    match connection {
        Connection::Sqlite(_) => (
            format!("json_each(?) AS w CROSS JOIN {table} AS s"),
            format!("s.{column} = w.value"),
            Bind::Json(serde_json::json!(values).to_string()),
        ),
        Connection::Postgres(_) => {
            let (is_one, values) = any_of(connection, values);
            (format!("{table} AS s"), format!("s.{column} {is_one}"), values)
        }
    }
}

/// A table of these pairs, for a statement that takes it as `w` with the columns `a` and `b`.
pub(super) fn pairs<'a>(connection: &Connection, pairs: &[(&'a str, &'a str)]) -> (&'static str, Vec<Bind<'a>>) {
    match connection {
        Connection::Sqlite(_) => (
            "(SELECT value ->> 0 AS a, value ->> 1 AS b FROM json_each(?)) AS w",
            vec![Bind::Json(serde_json::json!(pairs).to_string())],
        ),
        Connection::Postgres(_) => (
            "unnest(CAST(? AS text[]), CAST(? AS text[])) AS w (a, b)",
            vec![
                Bind::Array(Column::texts(pairs.iter().map(|(a, _)| *a))),
                Bind::Array(Column::texts(pairs.iter().map(|(_, b)| *b))),
            ],
        ),
    }
}

/// Inserts rows, of which each column is given, in their order. `then` follows the rows in the text.
pub(super) fn insert(
    connection: &mut Connection,
    table: &str,
    columns: Vec<(&str, Column<'_>)>,
    then: &str,
) -> QueryResult<usize> {
    let rows = columns.first().map_or(0, |(_, column)| column.len());
    if rows == 0 {
        return Ok(0);
    }
    let (names, columns): (Vec<&str>, Vec<Column<'_>>) = columns.into_iter().unzip();
    let into = format!("INSERT INTO {table} ({})", names.join(", "));
    match connection {
        Connection::Sqlite(file) => insert_on_sqlite(&mut file.connection, &into, &columns, then, rows),
        Connection::Postgres(session) => {
            let arrays: Vec<&str> = columns.iter().map(Column::array).collect();
            let text = format!("{into} SELECT * FROM unnest({}) {then}", arrays.join(", "));
            let all: Statement<'_> = Statement::new(text, columns.into_iter().map(Bind::Array).collect());
            all.execute(&mut session.connection)
        }
    }
}

/// The statements have few sizes, so that few are prepared. SQLite allows 32,766 parameters.
fn insert_on_sqlite(
    connection: &mut SqliteConnection,
    into: &str,
    columns: &[Column<'_>],
    then: &str,
    rows: usize,
) -> QueryResult<usize> {
    const SIZES: [usize; 3] = [64, 8, 1];
    let row = format!("({})", vec!["?"; columns.len()].join(", "));
    let (mut begin, mut written) = (0, 0);
    while begin < rows {
        let size = SIZES.into_iter().find(|size| begin + size <= rows).unwrap_or(1);
        let text = format!("{into} VALUES {} {then}", vec![row.as_str(); size].join(", "));
        written += InsertRows { text, columns, begin, end: begin + size }.execute(connection)?;
        begin += size;
    }
    Ok(written)
}

/// Some of the rows.
struct InsertRows<'a> {
    text: String,
    columns: &'a [Column<'a>],
    begin: usize,
    end: usize,
}

impl QueryId for InsertRows<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Sqlite> for InsertRows<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let mut texts = self.text.split('?');
        out.push_sql(texts.next().unwrap_or_default());
        let cells = (self.begin..self.end).flat_map(|row| self.columns.iter().map(move |column| (row, column)));
        for ((row, column), text) in cells.zip(texts) {
            match column {
                Column::Ints(values) => out.push_bind_param::<Nullable<BigInt>, _>(&values[row])?,
                Column::Texts(values) => out.push_bind_param::<Nullable<Text>, _>(&values[row])?,
            }
            out.push_sql(text);
        }
        Ok(())
    }
}

impl RunQueryDsl<SqliteConnection> for InsertRows<'_> {}
