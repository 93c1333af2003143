//! Appending: ids, order, idempotency, retention.

use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use super::{NOON, Store, at, event, idempotency, on_both, single};
use crate::domain::event::{Append, AppendOutcome, Idempotency, LogBounds, NewEvent};
use crate::storage::{Committed, Outcome, StoreErrorKind, StoreOptions, migrate};

pub(super) fn stored(first_id: i64, last_id: i64) -> Outcome {
    Outcome::Appended(AppendOutcome::Stored { first_id, last_id, replayed: 0 })
}

pub(super) fn replayed(first_id: i64, last_id: i64) -> Outcome {
    Outcome::Appended(AppendOutcome::Replayed { first_id, last_id })
}

fn reused(index: usize) -> Outcome {
    Outcome::Appended(AppendOutcome::KeyReused { index })
}

pub(super) fn with_key(name: &str, key: &str, fingerprint: u8) -> NewEvent {
    NewEvent { idempotency: idempotency(key, fingerprint), ..event(name, "{}") }
}

fn ids(committed: &Committed) -> Vec<i64> {
    committed.events.iter().map(|e| e.id).collect()
}

#[test]
fn ids_are_dense_and_in_order_of_the_batch() {
    on_both(|store| {
        let mut writer = store.writer();
        assert_eq!(writer.bounds(), Ok(LogBounds { earliest: 1, last: 0 }));
        let first = writer.append(vec![single("a"), single("b")], NOON).expect("stored");
        assert_eq!((first.prev, ids(&first), first.outcomes), (0, vec![1, 2], vec![stored(1, 1), stored(2, 2)]));

        // Batches of about the sizes of the prepared statements.
        let mut last = 2;
        for size in [1, 7, 8, 9, 63, 64, 65, 200, 1024] {
            let events: SmallVec<[NewEvent; 1]> = (0..size).map(|n| event(&format!("n{n}"), &n.to_string())).collect();
            let batch = vec![single("one"), Append::of(events, None)];
            let done = writer.append(batch, NOON).expect("stored");
            assert_eq!(done.prev, last);
            assert_eq!(ids(&done), (last + 1..=last + 1 + size).collect::<Vec<_>>());
            assert_eq!(done.outcomes, [stored(last + 1, last + 1), stored(last + 2, last + 1 + size)]);
            assert_eq!((&*done.events[1].payload, done.events[1].name.as_str()), ("0", "n0"));
            last += 1 + size;
        }
        assert_eq!(writer.bounds(), Ok(LogBounds { earliest: 1, last }));
    });
}

#[test]
fn time_never_goes_back() {
    on_both(|store| {
        let mut writer = store.writer();
        let mut time_of = |now| writer.append(vec![single("a")], now).expect("stored").events[0].created_at;
        assert_eq!([time_of(at(5)), time_of(at(3)), time_of(at(6))], [at(5), at(5), at(6)]);
    });
}

#[test]
fn a_crash_loses_nothing_and_ids_go_on() {
    on_both(|store| {
        let mut writer = store.writer();
        writer.append(vec![single("a"), single("b")], NOON).expect("stored");
        // No destructor runs, as in a crash.
        std::mem::forget(writer);
        let mut writer = store.writer();
        assert_eq!(writer.append(vec![single("c")], NOON).map(|c| (c.prev, ids(&c))), Ok((2, vec![3])));
    });
}

#[test]
fn a_used_key_stores_nothing_again() {
    on_both(|store| {
        let mut writer = store.writer();
        let mut append = |batch| writer.append(batch, NOON).expect("stored");
        let keyed = |key, fingerprint| Append::single(with_key("a", key, fingerprint));
        let first = append(vec![single("x"), keyed("k", 1), keyed("k", 1), keyed("k", 2), single("y")]);
        assert_eq!(first.outcomes, [stored(1, 1), stored(2, 2), replayed(2, 2), reused(0), stored(3, 3)]);
        assert_eq!(ids(&first), [1, 2, 3]);
        let second = append(vec![keyed("k", 1), keyed("k", 2), keyed("l", 2)]);
        assert_eq!(second.outcomes, [replayed(2, 2), reused(0), stored(4, 4)]);
        assert_eq!((second.prev, ids(&second)), (3, vec![4]));
        let nothing_new = append(vec![keyed("l", 2)]);
        assert_eq!((nothing_new.prev, nothing_new.events), (4, Vec::new()));
    });
}

#[test]
fn a_request_of_many_is_stored_whole_or_not_at_all() {
    on_both(|store| {
        let mut writer = store.writer();
        let mut append = |batch| writer.append(batch, NOON).expect("stored").outcomes;
        let under =
            |key, fingerprint| Append::of(smallvec![event("a", "1"), event("b", "2")], idempotency(key, fingerprint));
        assert_eq!(append(vec![under("whole", 1), under("whole", 1)]), [stored(1, 2), replayed(1, 2)]);
        assert_eq!(append(vec![under("whole", 2)]), [reused(0)]);

        let each = |keys: &[(&str, u8)]| {
            Append::of(keys.iter().map(|(key, fingerprint)| with_key("c", key, *fingerprint)).collect(), None)
        };
        assert_eq!(append(vec![each(&[("p", 1), ("q", 1)])]), [stored(3, 4)]);
        // The refused request leaves no trace: its new key is free.
        let outcomes = append(vec![each(&[("r", 1), ("q", 9)]), each(&[("r", 2)])]);
        assert_eq!(outcomes, [reused(1), stored(5, 5)]);
        let mixed = append(vec![each(&[("q", 1), ("s", 1), ("s", 1)])]);
        assert_eq!(mixed, [Outcome::Appended(AppendOutcome::Stored { first_id: 6, last_id: 6, replayed: 2 })]);
        assert_eq!(append(vec![each(&[("p", 1), ("q", 1)])]), [replayed(3, 4)]);
    });
}

#[test]
fn a_key_that_was_stored_before_keys_had_owners_still_counts_for_the_same_request() {
    on_both(|store| {
        let mut writer = store.writer();
        let mut outcome = |key: &str, fingerprint| {
            let batch = vec![Append::single(with_key("a", key, fingerprint))];
            writer.append(batch, NOON).expect("stored").outcomes.remove(0)
        };
        let of = |name| Idempotency::scoped_key("token", name, "k");
        assert_eq!(outcome("k", 1), stored(1, 1));
        assert_eq!(outcome(&of("billing"), 1), replayed(1, 1));
        assert_eq!(outcome(&of("billing"), 2), stored(2, 2), "another request is another publisher's");
        assert_eq!(outcome(&of("orders"), 2), stored(3, 3));
        assert_eq!(outcome(&of("orders"), 3), reused(0));
        assert_eq!(outcome("k", 1), replayed(1, 1));
    });
}

#[test]
fn keys_expire() {
    on_both(|mut store| {
        store.options.idempotency_window = Duration::from_secs(60);
        let mut writer = store.writer();
        let keyed = |fingerprint| vec![Append::single(with_key("a", "k", fingerprint))];
        let outcome = |mut done: Committed| done.outcomes.remove(0);
        assert_eq!(writer.append(keyed(1), at(0)).map(outcome), Ok(stored(1, 1)));
        assert_eq!(writer.append(keyed(1), at(60)).map(outcome), Ok(replayed(1, 1)));
        assert_eq!(writer.append(keyed(2), at(61)).map(outcome), Ok(stored(2, 2)));
        assert_eq!(writer.append(keyed(2), at(62)).map(outcome), Ok(replayed(2, 2)));

        for n in 0..5 {
            writer.append(vec![Append::single(with_key("a", &n.to_string(), 1))], at(100)).expect("stored");
        }
        assert_eq!(writer.prune_idempotency(at(121), 100), Ok(0));
        assert_eq!(writer.prune_idempotency(at(122), 100), Ok(1));
        assert_eq!(writer.prune_idempotency(at(161), 3), Ok(3));
        assert_eq!(writer.prune_idempotency(at(161), 3), Ok(2));
    });
}

#[test]
fn a_zero_byte_is_refused() {
    on_both(|store| {
        let mut writer = store.writer();
        let bad = NewEvent { source: "a\0b".into(), ..event("a", "{}") };
        let batch = vec![single("a"), Append::single(bad), single("a")];
        let committed = writer.append(batch, NOON).expect("the others are stored");
        assert_eq!(committed.outcomes, [stored(1, 1), Outcome::Appended(AppendOutcome::Unstorable), stored(2, 2)]);
        assert_eq!((ids(&committed), committed.refused[0].kind), (vec![1, 2], StoreErrorKind::Invalid));
    });
}

#[test]
fn several_may_migrate_at_once() {
    on_both(|store| {
        // Whoever comes last waits for all others.
        let options = StoreOptions { busy_timeout: Duration::from_secs(30), ..store.options.clone() };
        let applied: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| migrate(&options))).collect();
            threads.into_iter().map(|t| t.join().expect("no panic").expect("migrated").len()).sum()
        });
        let each_once = migrate(&Store::sqlite().options).expect("migrated").len();
        assert_eq!(applied, each_once);
        assert_eq!(migrate(&store.options), Ok(Vec::new()));
    });
}
