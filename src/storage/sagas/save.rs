//! Steps of instances are stored, and old instances removed.

use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::sql_types::{Nullable, SmallInt, Text};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryResult, RunQueryDsl as _};

use super::read::{STANDING, Standing, StandingType, ordered_id, standing};
use super::{NewSaga, SagaStanding, SagaTransition};
use crate::domain::call::CallId;
use crate::domain::event::Timestamp;
use crate::domain::saga::{Entry, State};
use crate::storage::calls;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::{StoreError, StoreErrorKind};
use crate::storage::position;
use crate::storage::schema::sagas;
use crate::storage::statement::{Bind, Column, Statement, any_of, insert, pairs, rows_of};

/// Stores all steps, or none. Whether it did: see [`Write::SaveSagas`](crate::storage::Write::SaveSagas). An instance may
/// have several steps, one after the other.
pub fn save(
    connection: &mut Connection,
    steps: &[SagaTransition],
    ended: &[CallId],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let known = known(connection, steps)?;
    let Some(changes) = changes(steps, &known) else { return Ok(false) };
    if !are_alone(connection, steps)?
        || !has_free_values(connection, &changes)?
        || !has_free_keys(connection, &changes)?
        || !calls::take(connection, ended)?
    {
        return Ok(false);
    }
    store_rows(connection, &changes)?;
    store_entries(connection, steps)?;
    store_awaits(connection, steps)?;
    let moves = changes.iter().flat_map(|change| {
        let before = change.before.map(|before| (change.saga, before.standing.state as i16, -1));
        before.into_iter().chain([(change.saga, change.standing.state as i16, 1)])
    });
    count(connection, moves)?;
    hand_on(connection, &changes, now)?;
    Ok(true)
}

/// An instance as it is before the steps.
struct Known {
    saga: String,
    correlation: String,
    standing: SagaStanding,
}

/// What all steps of an instance make of it.
struct Change<'a> {
    id: &'a str,
    saga: &'a str,
    correlation: &'a str,
    before: Option<&'a Known>,
    new: Option<&'a NewSaga>,
    standing: &'a SagaStanding,
}

impl<'a> Change<'a> {
    fn value(&self) -> (&'a str, &'a str) {
        (self.saga, self.correlation)
    }

    /// Whether it takes its value.
    fn takes(&self) -> bool {
        self.standing.holds && self.before.is_none_or(|before| !before.standing.holds)
    }

    /// Whether nothing changes of it that an index has.
    fn is_light(&self) -> bool {
        let SagaStanding { updated_at, length, .. } = *self.standing;
        let is_same = |before: &Known| SagaStanding { updated_at, length, ..before.standing.clone() } == *self.standing;
        // Of one that has ended, the time at which it has ended is that of its last step.
        self.standing.state.is_live() && self.before.is_some_and(is_same)
    }

    /// Whether another one may begin with its value: it has given it up or left the queue, or it waits for its turn, and
    /// whoever held the value may have ended since that was decided.
    fn may_free(&self) -> bool {
        let has_left = |before: &Known| before.standing.holds || before.standing.state == State::Queued;
        !self.standing.holds && self.before.is_some_and(has_left)
            || self.standing.state == State::Queued && self.standing.due_at.is_none()
    }
}

fn known(connection: &mut Connection, steps: &[SagaTransition]) -> Result<HashMap<String, Known>, StoreError> {
    type Row = (String, String, String, Standing);
    let ids: Vec<&str> = steps.iter().map(|step| &*step.id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let (rows, are_these, ids) = rows_of(connection, "sagas", "id", &ids);
    let text = format!("SELECT s.id, s.saga, s.correlation, {STANDING} FROM {rows} WHERE {are_these}");
    let query: Statement<'_, (Text, Text, Text, StandingType)> = Statement::new(text, vec![ids]);
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    let known = rows
        .into_iter()
        .map(|(id, saga, correlation, columns)| (id, Known { saga, correlation, standing: standing(columns) }));
    Ok(known.collect())
}

/// The changes, if each step was decided on what is there.
fn changes<'a>(steps: &'a [SagaTransition], known: &'a HashMap<String, Known>) -> Option<Vec<Change<'a>>> {
    let mut changes: Vec<Change<'a>> = Vec::with_capacity(steps.len());
    let mut places = HashMap::with_capacity(steps.len());
    for SagaTransition { id, new, from, standing, entries, is_alone: _, awaits: _ } in steps {
        debug_assert_eq!(standing.length as usize, *from as usize + entries.len(), "the journal of {id}");
        match (places.get(id.as_str()), new, known.get(id)) {
            (Some(place), None, _) => {
                let change: &mut Change<'_> = &mut changes[*place];
                if change.standing.length != *from {
                    return None;
                }
                change.standing = standing;
                continue;
            }
            (None, Some(new), None) if *from == 0 => {
                let (saga, correlation) = (new.origin.saga.as_str(), new.origin.correlation.as_str());
                changes.push(Change { id, saga, correlation, before: None, new: Some(new), standing });
            }
            (None, None, Some(before)) if before.standing.length == *from => {
                let (saga, correlation) = (before.saga.as_str(), before.correlation.as_str());
                changes.push(Change { id, saga, correlation, before: Some(before), new: None, standing });
            }
            _ => return None,
        }
        places.insert(id.as_str(), changes.len() - 1);
    }
    Some(changes)
}

/// Which instance holds a value, as its index has it.
const HOLDS: &str = "s.holds = 1";

/// Of each value the first instance that is so, if there is one.
fn of_values(connection: &mut Connection, values: &[(&str, &str)], is_so: &str) -> QueryResult<Vec<Option<String>>> {
    let (wanted, binds) = pairs(connection, values);
    let text = format!(
        "SELECT (SELECT s.id FROM sagas s WHERE s.saga = w.a AND s.correlation = w.b AND {is_so} LIMIT 1) FROM {wanted}"
    );
    let query: Statement<'_, Nullable<Text>> = Statement::new(text, binds);
    on_backend!(connection, c => query.load(c))
}

/// Whether nobody holds the values, or waits for them, of those that are to be alone.
fn are_alone(connection: &mut Connection, steps: &[SagaTransition]) -> QueryResult<bool> {
    let alone = steps.iter().filter(|step| step.is_alone).filter_map(|step| step.new.as_ref());
    let values: Vec<_> = alone.map(|new| (new.origin.saga.as_str(), new.origin.correlation.as_str())).collect();
    if values.is_empty() {
        return Ok(true);
    }
    let mut others = of_values(connection, &values, HOLDS)?;
    let waits = format!("s.state = 0 ORDER BY s.{}", ordered_id(connection, "queue"));
    others.extend(of_values(connection, &values, &waits)?);
    Ok(others.iter().all(Option::is_none))
}

/// Whether the values that are taken are held by nobody else afterwards.
fn has_free_values(connection: &mut Connection, changes: &[Change<'_>]) -> Result<bool, StoreError> {
    let mut held = HashSet::new();
    if !changes.iter().filter(|change| change.standing.holds).all(|change| held.insert(change.value())) {
        return Ok(false);
    }
    let taken: Vec<_> = changes.iter().filter(|change| change.takes()).map(Change::value).collect();
    if taken.is_empty() {
        return Ok(true);
    }
    let holders = of_values(connection, &taken, HOLDS)?;
    let released: HashSet<&str> = changes.iter().filter(|change| !change.standing.holds).map(|c| c.id).collect();
    Ok(holders.iter().flatten().all(|holder| released.contains(holder.as_str())))
}

/// Whether the keys by which instances are begun by hand are new.
fn has_free_keys(connection: &mut Connection, changes: &[Change<'_>]) -> Result<bool, StoreError> {
    let new = changes.iter().filter_map(|change| change.new);
    let keys: Vec<_> = new.filter_map(|new| Some((new.origin.saga.as_str(), new.start_key.as_deref()?))).collect();
    if keys.is_empty() {
        return Ok(true);
    }
    if keys.iter().collect::<HashSet<_>>().len() < keys.len() {
        return Ok(false);
    }
    let (wanted, binds) = pairs(connection, &keys);
    let text = format!("SELECT (SELECT s.id FROM sagas s WHERE s.saga = w.a AND s.start_key = w.b) FROM {wanted}");
    let query: Statement<'_, Nullable<Text>> = Statement::new(text, binds);
    let used: Vec<Option<String>> = on_backend!(connection, c => query.load(c))?;
    Ok(used.iter().all(Option::is_none))
}

/// Stores the rows of the instances: by one statement those of which nothing changes that an index has, and by another all
/// others, those that give up their values first. Of an instance that is there, what stays is not looked at.
fn store_rows(connection: &mut Connection, changes: &[Change<'_>]) -> QueryResult<()> {
    let (light, others): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.is_light());
    store_lengths(connection, &light)?;
    let (holders, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|change| change.standing.holds);
    let rows = || others.iter().chain(&holders);
    let new = || rows().map(|change| change.new);
    let standings = || rows().map(|change| change.standing);
    let origins = || new().map(|new| new.map(|new| &new.origin));
    let micros = |at: Option<Timestamp>| at.map(|at| at.0);
    let columns = vec![
        ("id", Column::texts(rows().map(|change| change.id))),
        ("saga", Column::texts(rows().map(|change| change.saga))),
        ("version", Column::ints(origins().map(|origin| origin.map_or(0, |origin| i64::from(origin.version))))),
        ("correlation", Column::texts(rows().map(|change| change.correlation))),
        ("trigger", Column::texts(origins().map(|origin| origin.map_or("", |origin| &*origin.trigger)))),
        ("made_at", Column::ints(new().map(|new| new.map_or(0, |new| new.made_at.0)))),
        ("start_key", Column::texts(new().map(|new| new.and_then(|new| new.start_key.as_deref())))),
        ("state", Column::ints(standings().map(|standing| standing.state as i64))),
        ("holds", Column::ints(standings().map(|standing| i64::from(standing.holds)))),
        ("paused", Column::ints(standings().map(|standing| i64::from(standing.is_paused)))),
        ("started_at", Column::ints(standings().map(|standing| micros(standing.started_at)))),
        ("updated_at", Column::ints(standings().map(|standing| standing.updated_at.0))),
        ("due_at", Column::ints(standings().map(|standing| micros(standing.due_at)))),
        (
            "ended_at",
            Column::ints(standings().map(|standing| (!standing.state.is_live()).then_some(standing.updated_at.0))),
        ),
        ("length", Column::ints(standings().map(|standing| i64::from(standing.length)))),
    ];
    const THEN: &str = "ON CONFLICT (id) DO UPDATE SET state = excluded.state, holds = excluded.holds, \
                        paused = excluded.paused, started_at = excluded.started_at, updated_at = excluded.updated_at, \
                        due_at = excluded.due_at, ended_at = excluded.ended_at, length = excluded.length";
    insert(connection, "sagas", columns, THEN)?;
    Ok(())
}

fn store_lengths(connection: &mut Connection, changes: &[&Change<'_>]) -> QueryResult<()> {
    let rows =
        || changes.iter().map(|change| (change.id, i64::from(change.standing.length), change.standing.updated_at.0));
    match connection {
        _ if changes.is_empty() => {}
        Connection::Sqlite(file) => {
            for (id, length, at) in rows() {
                let update = diesel::update(sagas::table.find(id));
                update.set((sagas::length.eq(length), sagas::updated_at.eq(at))).execute(&mut file.connection)?;
            }
        }
        Connection::Postgres(session) => {
            const TEXT: &str = "UPDATE sagas SET length = w.length, updated_at = w.at FROM \
                unnest(CAST(? AS text[]), CAST(? AS bigint[]), CAST(? AS bigint[])) AS w (id, length, at) \
                WHERE sagas.id = w.id";
            let columns = [
                Column::texts(rows().map(|(id, _, _)| id)),
                Column::ints(rows().map(|(_, length, _)| length)),
                Column::ints(rows().map(|(_, _, at)| at)),
            ];
            let update: Statement<'_> = Statement::new(TEXT.to_owned(), columns.map(Bind::Array).into());
            update.execute(&mut session.connection)?;
        }
    }
    Ok(())
}

fn store_entries(connection: &mut Connection, steps: &[SagaTransition]) -> Result<(), StoreError> {
    let entries: Vec<(&str, u32, &Entry)> = steps
        .iter()
        .flat_map(|step| step.entries.iter().zip(step.from..).map(|(entry, n)| (&*step.id, n, entry)))
        .collect();
    // Replies to the steps that begin here come after all that is stored.
    let last = if entries.is_empty() { 0 } else { position::bounds(connection)?.last };
    let facts = entries.iter().map(|(_, _, entry)| serde_json::to_string(&*entry.fact.stored_after(last)));
    let facts = facts.collect::<Result<Vec<_>, _>>();
    let facts = facts.map_err(|error| StoreError::new(StoreErrorKind::Invalid, error.to_string()))?;
    let columns = vec![
        ("id", Column::texts(entries.iter().map(|(id, _, _)| *id))),
        ("n", Column::ints(entries.iter().map(|(_, n, _)| i64::from(*n)))),
        ("at", Column::ints(entries.iter().map(|(_, _, entry)| entry.at.0))),
        ("fact", Column::texts(facts.iter().map(String::as_str))),
    ];
    insert(connection, "saga_journal", columns, "")?;
    Ok(())
}

/// Keys stay for as long as the instance is kept, so that late replies are known.
fn store_awaits(connection: &mut Connection, steps: &[SagaTransition]) -> QueryResult<()> {
    let rows = || steps.iter().flat_map(|step| step.awaits.iter().map(|key| (key.as_str(), step.id.as_str())));
    let columns =
        vec![("key", Column::texts(rows().map(|(key, _)| key))), ("id", Column::texts(rows().map(|(_, id)| id)))];
    insert(connection, "saga_awaits", columns, "ON CONFLICT DO NOTHING")?;
    Ok(())
}

/// Removes what `table` has of these instances.
fn remove(connection: &mut Connection, table: &str, ids: &[&str]) -> QueryResult<()> {
    if !ids.is_empty() {
        let (is_one, ids) = any_of(connection, ids);
        let delete: Statement<'_> = Statement::new(format!("DELETE FROM {table} WHERE id {is_one}"), vec![ids]);
        on_backend!(connection, c => delete.execute(c))?;
    }
    Ok(())
}

/// Adds to the numbers of instances.
fn count<'a>(connection: &mut Connection, moves: impl Iterator<Item = (&'a str, i16, i64)>) -> QueryResult<()> {
    let mut sums: BTreeMap<(&str, i16), i64> = BTreeMap::new();
    moves.for_each(|(saga, state, by)| *sums.entry((saga, state)).or_default() += by);
    sums.retain(|_, sum| *sum != 0);
    let columns = vec![
        ("saga", Column::texts(sums.keys().map(|(saga, _)| *saga))),
        ("state", Column::ints(sums.keys().map(|(_, state)| i64::from(*state)))),
        ("count", Column::ints(sums.values().copied())),
    ];
    const THEN: &str = "ON CONFLICT (saga, state) DO UPDATE SET count = saga_counts.count + excluded.count";
    insert(connection, "saga_counts", columns, THEN)?;
    Ok(())
}

/// Of each value that nobody holds any more, the instance that has waited longest for its turn may begin.
fn hand_on(connection: &mut Connection, changes: &[Change<'_>], now: Timestamp) -> QueryResult<()> {
    let freed: HashSet<_> = changes.iter().filter(|change| change.may_free()).map(Change::value).collect();
    if freed.is_empty() {
        return Ok(());
    }
    let (wanted, binds) = pairs(connection, &freed.into_iter().collect::<Vec<_>>());
    let queue = ordered_id(connection, "queue");
    let text = format!(
        "SELECT (SELECT q.id FROM sagas q WHERE q.saga = w.a AND q.correlation = w.b AND q.state = 0 \
         ORDER BY q.{queue} LIMIT 1) FROM {wanted} WHERE (SELECT h.id FROM sagas h WHERE h.saga = w.a \
         AND h.correlation = w.b AND h.holds = 1) IS NULL"
    );
    let query: Statement<'_, Nullable<Text>> = Statement::new(text, binds);
    let first: Vec<Option<String>> = on_backend!(connection, c => query.load(c))?;
    let first: Vec<&str> = first.iter().flatten().map(String::as_str).collect();
    if !first.is_empty() {
        let (is_one, ids) = any_of(connection, &first);
        let text = format!("UPDATE sagas SET due_at = ? WHERE id {is_one} AND due_at IS NULL");
        let update: Statement<'_> = Statement::new(text, vec![Bind::Int(now.0), ids]);
        on_backend!(connection, c => update.execute(c))?;
    }
    Ok(())
}

/// See [`Write::ForgetSagas`](crate::storage::Write::ForgetSagas). Definitions go that nobody declares, of sagas without
/// any instance.
pub fn forget(connection: &mut Connection, ended_before: Timestamp, limit: usize) -> Result<bool, StoreError> {
    let text = format!("SELECT id, saga, state FROM sagas WHERE ended_at < ? ORDER BY ended_at LIMIT {limit}");
    let query: Statement<'_, (Text, Text, SmallInt)> = Statement::new(text, vec![Bind::Int(ended_before.0)]);
    let old: Vec<(String, String, i16)> = on_backend!(connection, c => query.load(c))?;
    let ids: Vec<&str> = old.iter().map(|(id, _, _)| id.as_str()).collect();
    for table in ["saga_journal", "saga_awaits", "sagas"] {
        remove(connection, table, &ids)?;
    }
    count(connection, old.iter().map(|(_, saga, state)| (saga.as_str(), *state, -1)))?;
    const UNUSED: &str = "DELETE FROM saga_definitions WHERE \
        (SELECT max(c.count) FROM saga_counts c WHERE c.saga = saga_definitions.saga AND c.count > 0) IS NULL AND \
        (SELECT max(d.seen_at) FROM saga_declarations d WHERE d.saga = saga_definitions.saga \
        AND d.version = saga_definitions.version) IS NULL";
    let unused: Statement<'_> = Statement::new(UNUSED.to_owned(), Vec::new());
    on_backend!(connection, c => unused.execute(c))?;
    Ok(!ids.is_empty())
}
