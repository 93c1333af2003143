//! The machine against a model of a store and a service, with changes and deliveries at every moment.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use self::world::{Copy, World, digest};
use super::*;
use crate::domain::entity::Buckets;

const POLICY: SyncPolicy =
    SyncPolicy { every: Duration::from_secs(60), settle: Duration::from_secs(3), repairs: true, rate: 100_000 };

fn kept(world: &World, policy: SyncPolicy) -> TypeSync {
    TypeSync::new(policy, None, 7, world.now())
}

#[test]
fn a_storm_of_changes_raises_no_alarm() {
    let mut finished = 0;
    for seed in 0..20 {
        let mut world = World::new(seed, 3 + seed * 4);
        let mut sync = kept(&world, POLICY);
        for _ in 0..500 {
            sync.demand(Demand::Check);
            for happened in world.drive_all(&mut sync) {
                assert!(!matches!(happened, Happened::Diverged { .. }), "a false alarm: {happened:?}, seed {seed}");
            }
            finished += u32::from(sync.standing().state == SyncState::Synced);
            assert_eq!(sync.standing().error, None);
        }
        world.finish();
        world.now += 10_000_000;
        world.is_quiet = true;
        sync.demand(Demand::Check);
        world.drive_all(&mut sync);
        assert_eq!(sync.standing().state, SyncState::Synced);
        assert_eq!(world.repaired, []);
    }
    assert!(finished > 9_000, "of 10,000 checks only {finished} were brought to an end");
}

/// Makes one difference of each kind among the keys that nobody changes.
fn plant(world: &mut World, number: u64) -> BTreeMap<String, Kind> {
    let key = |at: u64| format!("quiet{}", (number * 4 + at) % 40);
    world.service.remove(&key(0));
    world.service.insert(key(1), Copy { version: 1, is_there: true });
    let ahead = Copy { version: world.last + 1, is_there: true };
    world.service.insert(key(2), ahead);
    world.change("quiet-first".to_owned(), false, false);
    let version = 1 + world.random(world.last as u64) as i64;
    let extra = format!("quiet-extra{number}");
    world.service.insert(extra.clone(), Copy { version, is_there: true });
    [(key(0), Kind::Missing), (key(1), Kind::Stale), (key(2), Kind::Ahead), (extra, Kind::Extra)].into()
}

#[test]
fn every_planted_difference_is_found_and_repaired_and_nothing_else() {
    for seed in 0..60 {
        let mut world = World::new(seed, 10);
        let mut sync = kept(&world, POLICY);
        // The first change is its own, so that an earlier version is never the present one.
        world.change("quiet-first".to_owned(), false, false);
        for number in 0..5 {
            (0..200).for_each(|_| world.step());
            let planted = plant(&mut world, number);
            sync.demand(Demand::Repair { ahead: true });
            let happened = world.drive_all(&mut sync);
            let Some(Happened::Diverged { counts, sample }) = happened.first() else {
                panic!("{happened:?}, seed {seed}")
            };
            let found: BTreeMap<String, Kind> =
                sample.iter().map(|difference| (difference.key.to_string(), difference.kind)).collect();
            assert_eq!((&found, counts.total()), (&planted, 4));
            assert!(matches!(happened.last(), Some(Happened::Synced { .. })), "{happened:?}, seed {seed}");
            let repaired: BTreeMap<_, _> = std::mem::take(&mut world.repaired).into_iter().collect();
            assert_eq!(repaired, planted);
        }
        world.finish();
        assert_eq!(world.ours(), world.theirs());
    }
}

#[test]
fn a_service_that_has_nothing_gets_everything_in_order() {
    for seed in 0..20 {
        let mut world = World::new(seed, 10);
        let mut sync = kept(&world, POLICY);
        (0..500).for_each(|_| world.step());
        world.service.clear();
        sync.demand(Demand::Check);
        let happened = world.drive_all(&mut sync);
        assert!(matches!(happened[..], [Happened::Diverged { .. }, Happened::Synced { .. }]), "{happened:?}");
        let keys: Vec<_> = world.repaired.iter().map(|(key, _)| key.clone()).collect();
        assert!(keys.is_sorted() && keys.len() >= 40, "{keys:?}");
        world.finish();
        assert_eq!(world.ours(), world.theirs());
    }
}

#[test]
fn what_is_ahead_is_told_and_left_to_an_operator() {
    let mut world = World::new(1, 10);
    world.is_quiet = true;
    let mut sync = kept(&world, POLICY);
    world.service.insert("quiet1".to_owned(), Copy { version: 42, is_there: true });
    sync.demand(Demand::Check);
    world.drive_all(&mut sync);
    assert_eq!((sync.standing().state, sync.standing().differences.of(Kind::Ahead)), (SyncState::Diverged, 1));
    assert_eq!(world.repaired, []);
    sync.demand(Demand::Repair { ahead: false });
    world.drive_all(&mut sync);
    assert_eq!((sync.standing().state, world.repaired.len()), (SyncState::Diverged, 0));
    (0..5).for_each(|number| world.change(format!("quiet-more{number}"), false, false));
    sync.demand(Demand::Repair { ahead: true });
    world.drive_all(&mut sync);
    assert_eq!((sync.standing().state, world.repaired.len()), (SyncState::Synced, 1));
}

#[test]
fn what_was_deleted_is_deleted_where_it_is_ahead_when_an_operator_says_so() {
    let mut world = World::new(1, 10);
    world.is_quiet = true;
    let mut sync = kept(&world, POLICY);
    // As after the store was set back: the service has what was written anew since.
    world.change("quiet1".to_owned(), true, false);
    world.finish();
    let later = world.last + 2;
    world.service.insert("quiet1".to_owned(), Copy { version: later, is_there: true });
    (0..5).for_each(|number| world.change(format!("quiet-more{number}"), false, false));
    sync.demand(Demand::Repair { ahead: false });
    world.drive_all(&mut sync);
    assert_eq!((sync.standing().state, world.repaired.len()), (SyncState::Diverged, 0));
    sync.demand(Demand::Repair { ahead: true });
    world.drive_all(&mut sync);
    assert_eq!((sync.standing().state, world.repaired.len()), (SyncState::Synced, 1));
    assert_eq!(world.ours(), world.theirs());
}

#[test]
fn a_service_that_ignores_repairs_is_sent_them_once_for_each_check() {
    let mut world = World::new(1, 10);
    world.is_quiet = true;
    let mut sync = kept(&world, POLICY);
    // It remembers that it has seen them.
    for number in 0..9 {
        world.service.insert(format!("quiet{number}"), Copy { version: 1_000, is_there: false });
    }
    for round in 1..4 {
        sync.demand(Demand::Check);
        let happened = world.drive_all(&mut sync);
        let diverged = |happened: &&Happened| matches!(happened, Happened::Diverged { .. });
        assert_eq!((happened.len(), happened.iter().filter(diverged).count()), (2, 2));
        assert_eq!((sync.standing().state, world.repaired.len()), (SyncState::Diverged, round * 9));
        assert!(sync.standing().error.as_ref().is_some_and(|error| error.contains("after repairs")));
    }
}

#[test]
fn who_only_tells_repairs_when_asked() {
    let mut world = World::new(1, 10);
    world.is_quiet = true;
    let mut sync = kept(&world, SyncPolicy { repairs: false, ..POLICY });
    world.service.remove("quiet3");
    sync.demand(Demand::Check);
    assert!(matches!(world.drive_all(&mut sync)[..], [Happened::Diverged { .. }]));
    assert_eq!(world.repaired, []);
    sync.demand(Demand::Repair { ahead: false });
    world.drive_all(&mut sync);
    assert_eq!(world.repaired, [("quiet3".to_owned(), Kind::Missing)]);
    assert_eq!(sync.standing().state, SyncState::Synced);
}

#[test]
fn an_answer_that_cannot_be_right_is_an_error_and_tried_again_later() {
    let world = World::new(1, 10);
    let mut sync = kept(&world, POLICY);
    let (asked, now, ours) = (world.asked(), world.now(), digest(&world.ours(), 256));
    let theirs = |as_of, change: fn(&mut Buckets)| {
        let mut buckets = ours.clone();
        change(&mut buckets);
        TheirDigest { as_of, buckets }
    };
    let cases = [
        (theirs(Some(world.last + 1), |_| ()), "beyond the end of the log"),
        (theirs(Some(1), |buckets| buckets.count += 1), "the count is not"),
        (theirs(None, |buckets| buckets.count = 0), "is not zero"),
    ];
    for (answer, reason) in cases {
        sync.demand(Demand::Check);
        while !matches!(sync.need(now), Need::Check(_)) {
            match sync.need(now) {
                Need::Save { standing, .. } => sync.saved(&standing, now),
                _ => sync.backlog(world.last, None, 40, now),
            }
        }
        sync.digest(asked, answer, &ours, world.last, now);
        let standing = sync.standing();
        assert!(standing.error.as_ref().is_some_and(|error| error.contains(reason)), "{standing:?}");
        assert_eq!(standing.state, SyncState::Unknown);
        assert!(!sync.is_busy());
    }
}

#[test]
fn more_differences_than_are_held_are_repaired_in_several_rounds() {
    let mut world = World::new(1, 10);
    world.is_quiet = true;
    for number in 0..3_000 {
        world.change(format!("more{number}"), false, false);
    }
    world.finish();
    world.service.retain(|key, _| key.starts_with("quiet"));
    let mut sync = kept(&world, POLICY);
    sync.max_held = 1_000;
    sync.demand(Demand::Check);
    let happened = world.drive_all(&mut sync);
    assert!(happened.len() >= 4, "{}", happened.len());
    assert!(matches!(happened.last(), Some(Happened::Synced { .. })));
    assert_eq!(world.ours(), world.theirs());
    assert_eq!(world.repaired.len(), 3_000, "each once");
}

/// What the store knows nothing of is looked at twice before it counts as extra.
#[test]
fn more_suspects_than_are_held_are_differences_too() {
    let mut world = World::new(1, 10);
    world.is_quiet = true;
    world.finish();
    let some = *world.service.values().next().expect("it has some");
    world.service.extend((0..3_000).map(|number| (format!("extra{number}"), some)));
    let mut sync = kept(&world, POLICY);
    sync.max_held = 1_000;
    sync.demand(Demand::Check);
    let happened = world.drive_all(&mut sync);
    assert!(matches!(happened.first(), Some(Happened::Diverged { .. })), "{happened:?}");
    assert!(matches!(happened.last(), Some(Happened::Synced { .. })));
    assert_eq!(world.ours(), world.theirs());
}

#[test]
fn cancelling_ends_what_is_under_way_and_what_was_asked_for() {
    let mut world = World::new(1, 10);
    world.is_quiet = true;
    let mut sync = kept(&world, POLICY);
    world.service.clear();
    sync.demand(Demand::Check);
    while !matches!(sync.need(world.now()), Need::Repair { .. }) {
        let _ = world.drive(&mut sync);
    }
    sync.demand(Demand::Check);
    sync.demand(Demand::Cancel);
    world.drive_all(&mut sync);
    assert_eq!(sync.standing().state, SyncState::Diverged);
    assert_eq!(sync.standing().error.as_deref(), Some("cancelled by an operator"));
    assert_eq!(world.repaired, []);
}
