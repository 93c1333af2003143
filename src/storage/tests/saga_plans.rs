//! ST-3 of sagas: statements walk the index that is made for them, and never sort or scan.

use std::collections::BTreeSet;

use super::outbox_plans::plans;
use super::sagas::{id, made, next, save, value};
use super::{NOON, Store, at};
use crate::domain::saga::State;
use crate::storage::connection::Connection;
use crate::storage::error::StoreError;
use crate::storage::{SagaFilter, SagaTransition, sagas};

/// Checks that the plans use these indexes and no others, and neither scan nor sort.
fn check<T>(store: &Store, indexes: &[&str], work: impl FnOnce(&mut Connection) -> Result<T, StoreError>) {
    let plans = plans(store, work);
    let mut used = BTreeSet::new();
    // There are few definitions.
    for plan in plans.iter().filter(|plan| !plan.contains("saga_definitions")) {
        for bad in ["Sort", "TEMP B-TREE", "Seq Scan", "Bitmap", "Hash", "Merge"] {
            assert!(!plan.contains(bad), "{bad}:\n{plan}");
        }
        let tables = ["SCAN s", "SCAN h", "SCAN e", "SCAN q", "SCAN j"];
        let scans =
            |line: &str| tables.iter().any(|scan| line.trim_start().starts_with(scan)) && !line.contains("INDEX");
        // Of the log only its ends are read.
        assert!(!plan.replace("SCAN events", "").lines().any(scans), "{plan}");
        let words = plan.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.map(|word| if word == "sqlite_autoindex_sagas_1" { "sagas_pkey" } else { word });
        used.extend(names.filter(|name| name.starts_with("sagas_") || *name == "saga_awaits_id").map(str::to_owned));
    }
    assert_eq!(used, indexes.iter().map(|name| (*name).to_owned()).collect(), "{}", plans.join("\n\n"));
}

fn check_all(store: &Store) {
    let value = || ("pay".to_owned(), value("v1"));
    check(store, &["sagas_holder", "sagas_ended", "sagas_queue", "sagas_pkey"], |c| {
        sagas::by_ids(c, &[id(1)])?;
        sagas::concerned(c, &[value(), value()], &["k".to_owned(), "l".to_owned()])
    });
    check(store, &["sagas_pkey"], |c| sagas::by_ids(c, &[id(1), id(2)]));
    check(store, &["sagas_timers"], |c| sagas::due(c, NOON, 100));
    check(store, &["sagas_timers"], sagas::next_due);
    check(store, &["sagas_startable", "sagas_holder"], |c| sagas::startable(c, 100));
    check(store, &["sagas_start_key"], |c| sagas::of_start_key(c, "pay", "k"));

    let all = SagaFilter::default();
    let named = SagaFilter { name: Some("pay".to_owned()), ..all.clone() };
    let of_state = SagaFilter { state: Some(State::Aborted), ..all.clone() };
    let both = SagaFilter { state: Some(State::Aborted), ..named.clone() };
    let of_value = SagaFilter { correlation: Some(value().1), ..all.clone() };
    let exact = SagaFilter { correlation: Some(value().1), ..both.clone() };
    for (filter, index) in [
        (all, "sagas_pkey"),
        (named, "sagas_name_state"),
        (of_state, "sagas_state"),
        (both, "sagas_name_state"),
        (of_value, "sagas_correlation"),
        (exact, "sagas_correlation"),
    ] {
        let after = id(9000);
        check(store, &[index], |c| sagas::list(c, &filter, Some(&after), 100));
    }

    let new: Vec<SagaTransition> = (9000..9100).map(|n| made(n, &format!("new{n}"), State::Running)).collect();
    check(store, &["sagas_pkey", "sagas_holder"], |c| sagas::save(c, &new, &[], NOON));
    let mut by_hand = new.clone();
    by_hand[0].new.as_mut().expect("new").start_key = Some("k".to_owned());
    by_hand[0].awaits = vec!["k".to_owned(), "l".to_owned()];
    check(store, &["sagas_pkey", "sagas_holder", "sagas_start_key"], |c| sagas::save(c, &by_hand, &[], NOON));
    check(store, &["sagas_pkey", "sagas_holder", "sagas_start_key", "sagas_queue"], |c| {
        let running: Vec<SagaTransition> = new.iter().map(|new| next(new, State::Completed)).collect();
        assert!(
            sagas::save(c, &by_hand[..1], &[], NOON)?
                && sagas::save(c, &[made(9999, "new9000", State::Queued)], &[], NOON)?
        );
        let mut last = running[..1].to_vec();
        last[0].awaits = vec!["m".to_owned()];
        sagas::save(c, &last, &[], NOON)?;
        assert!(sagas::by_ids(c, &[id(9999)])?[0].record.standing.due_at.is_some(), "handed on");
        Ok(())
    });
    check(store, &["sagas_old", "sagas_pkey", "saga_awaits_id"], |c| {
        assert!(sagas::save(c, &[made(9000, "old", State::Completed)], &[], NOON)?);
        sagas::forget(c, at(1), 100)
    });
}

/// Many instances that have ended, of few values, and some that are queued.
fn fill(store: &Store) {
    let mut writer = store.writer();
    for part in 0..6 {
        let state = |n: u64| if n.is_multiple_of(50) { State::Queued } else { State::Completed };
        let made = (0..500).map(|n| made(part * 500 + n, &format!("v{}", n % 5), state(n)));
        assert!(save(&mut writer, &made.collect::<Vec<_>>()));
    }
    assert!(save(&mut writer, &[made(8000, "v1", State::Waiting)]));
}

#[test]
fn sqlite_walks_indexes_of_sagas() {
    let store = Store::sqlite();
    store.writer();
    check_all(&store);
    fill(&store);
    check_all(&store);
}

#[test]
fn postgres_walks_indexes_of_sagas_whatever_its_statistics() {
    let store = Store::postgres();
    store.writer();
    store.without_autovacuum();
    check_all(&store);
    fill(&store);
    check_all(&store);
    store.execute("ANALYZE");
    check_all(&store);

    // What is known of a small table stands for a while when it has grown.
    let store = Store::postgres();
    store.writer();
    store.without_autovacuum();
    let few: Vec<_> = (0..300).map(|n| made(7000 + n, &format!("v{}", n % 5), State::Completed)).collect();
    assert!(save(&mut store.writer(), &few));
    store.execute("ANALYZE");
    check_all(&store);
    fill(&store);
    check_all(&store);
}
