//! Which node does what one node does for all.
//!
//! - *LS-1* A lease is taken only when the generation of its node is over, which the store knows.
//! - *LS-2* Taking raises the generation of the lease, under the writer's lock. So a write that carries an earlier one
//!   either commits before the lease is taken, or is void.

use std::collections::HashMap;

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _,
};

use crate::domain::event::Timestamp;
use crate::domain::lease::{Fence, Grant, LeaseName};
use crate::domain::membership::{NodeRecord, Term};
use crate::domain::placement::{LeaseRecord, Placement, Step};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::nodes;
use super::schema::leases;
use crate::telemetry::faults::{self, FaultPoint};

/// Who asks for leases.
pub struct Seeker<'a> {
    pub node: &'a str,
    /// None: it is no member, and gets none.
    pub term: Option<Term>,
    pub placement: &'a mut Placement,
    /// By the steady clock.
    pub now: Timestamp,
}

/// Asks for leases; one answer for each, in order.
pub(super) fn lease(
    connection: &mut Connection,
    names: &[LeaseName],
    seeker: Seeker<'_>,
) -> Result<Vec<Grant>, StoreError> {
    let Seeker { node, term, placement, now } = seeker;
    let nodes = nodes::all(connection)?;
    let is_of = |term: &Term| nodes.iter().any(|other| *other.name == *node && other.generation == term.generation);
    let Some(term) = term.filter(is_of) else { return Ok(vec![Grant::Elsewhere; names.len()]) };
    if faults::strikes(FaultPoint::LeaseRefused) {
        return Ok(vec![Grant::Elsewhere; names.len()]);
    }
    let records = records(connection, names)?;
    let mut free = Vec::new();
    let mut grants = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let record = records.get(name.as_str());
        let generation = record.map_or(0, |record| record.generation);
        grants.push(match placement.step(name, record, (node, term), &nodes, now) {
            Step::Keep { is_wanted } => Grant::Kept { generation, is_wanted },
            Step::Take => {
                free.push((at, name, record));
                Grant::Elsewhere
            }
            Step::Want => {
                want(connection, name, generation, node)?;
                Grant::Elsewhere
            }
            Step::Wait => Grant::Elsewhere,
        });
    }
    if !free.is_empty() {
        connection.begin()?;
        for (at, name, record) in free {
            if let Some(generation) = take(connection, name, record, (node, term))? {
                grants[at] = Grant::Taken { generation };
            }
        }
        connection.commit()?;
    }
    Ok(grants)
}

type Row = (String, String, i64, i64, Option<String>);

fn records(connection: &mut Connection, names: &[LeaseName]) -> Result<HashMap<String, LeaseRecord>, StoreError> {
    let names: Vec<&str> = names.iter().map(LeaseName::as_str).collect();
    let mut records = HashMap::with_capacity(names.len());
    // Within the bounds of both backends.
    for names in names.chunks(1000) {
        let query = leases::table.filter(leases::name.eq_any(names));
        let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
        records.extend(rows.into_iter().map(|(name, node, node_generation, generation, wanted_by)| {
            (name, LeaseRecord { node, node_generation, generation, wanted_by })
        }));
    }
    Ok(records)
}

/// Nobody has a lease any more that was held with this fence.
pub(super) fn release(connection: &mut Connection, fence: &Fence) -> Result<(), StoreError> {
    let held = leases::table.filter(leases::name.eq(fence.lease.as_str()).and(leases::generation.eq(fence.generation)));
    let free = (leases::node.eq(""), leases::node_generation.eq(0), leases::wanted_by.eq(None::<&str>));
    on_backend!(connection, c => diesel::update(held).set(free).execute(c))?;
    Ok(())
}

/// Takes a lease that was seen free, unless another node was quicker; the new generation. Under the writer's lock.
fn take(
    connection: &mut Connection,
    name: &LeaseName,
    seen: Option<&LeaseRecord>,
    (node, term): (&str, Term),
) -> Result<Option<i64>, StoreError> {
    let earlier = seen.map_or(0, |record| record.generation);
    // Rising even when the row was removed meanwhile.
    let generation = nodes::time(connection)?.0.max(earlier + 1);
    let holder = (
        leases::node.eq(node),
        leases::node_generation.eq(term.generation),
        leases::generation.eq(generation),
        leases::wanted_by.eq(None::<&str>),
    );
    let taken = match seen {
        None => {
            let row = (leases::name.eq(name.as_str()), holder);
            on_backend!(connection, c => diesel::insert_into(leases::table).values(row).on_conflict_do_nothing().execute(c))?
        }
        Some(seen) => {
            let as_seen = leases::table.filter(
                leases::name
                    .eq(name.as_str())
                    .and(leases::generation.eq(earlier))
                    .and(leases::node.eq(&seen.node))
                    .and(leases::node_generation.eq(seen.node_generation)),
            );
            on_backend!(connection, c => diesel::update(as_seen).set(holder).execute(c))?
        }
    };
    Ok((taken == 1).then_some(generation))
}

fn want(connection: &mut Connection, name: &LeaseName, generation: i64, node: &str) -> Result<(), StoreError> {
    let held = leases::table.filter(leases::name.eq(name.as_str()).and(leases::generation.eq(generation)));
    on_backend!(connection, c => diesel::update(held).set(leases::wanted_by.eq(node)).execute(c))?;
    Ok(())
}

/// Which of `fences` are no longer those of the holders. Within a transaction that holds the writer's lock.
pub(super) fn void<'a>(
    connection: &mut Connection,
    fences: impl Iterator<Item = &'a Fence>,
) -> Result<Vec<&'a Fence>, StoreError> {
    let (mut checked, mut void) = (Vec::new(), Vec::new());
    for fence in fences {
        if checked.contains(&fence) {
            continue;
        }
        checked.push(fence);
        if !is_current(connection, fence)? {
            void.push(fence);
        }
    }
    Ok(void)
}

/// Whether no other node has taken the lease.
pub(super) fn is_current(connection: &mut Connection, fence: &Fence) -> Result<bool, StoreError> {
    let generation = leases::table.find(fence.lease.as_str()).select(leases::generation);
    let generation: Option<i64> = on_backend!(connection, c => generation.get_result(c).optional())?;
    Ok(generation == Some(fence.generation))
}

/// Nobody will hold it again.
pub(super) fn forget(connection: &mut Connection, name: &LeaseName) -> Result<(), StoreError> {
    on_backend!(connection, c => diesel::delete(leases::table.find(name.as_str())).execute(c))?;
    Ok(())
}

/// All nodes that are known, each with the names of the leases that it holds.
pub(super) fn holders(connection: &mut Connection) -> Result<Vec<(NodeRecord, Vec<String>)>, StoreError> {
    let query = leases::table.order(leases::name).select((leases::node, leases::node_generation, leases::name));
    let held: Vec<(String, i64, String)> = on_backend!(connection, c => query.load(c))?;
    let nodes = nodes::all(connection)?.into_iter().map(|node| {
        let is_of =
            |(holder, generation, _): &&(String, i64, String)| holder == &*node.name && *generation == node.generation;
        let names = held.iter().filter(is_of).map(|(_, _, name)| name.clone()).collect();
        (node, names)
    });
    Ok(nodes.collect())
}
