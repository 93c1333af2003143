//! The machine against a model of a store and a service, with changes and deliveries at every moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::*;
use crate::domain::entity::{Buckets, EntityKey, Mark};
use crate::domain::event::{EventId, Timestamp};

const POLICY: SyncPolicy =
    SyncPolicy { every: Duration::from_secs(60), settle: Duration::from_secs(3), repairs: true, rate: 100_000 };

/// A delivery of a change. Those of a key are made one after the other.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    id: EventId,
    is_delete: bool,
    /// The service has it.
    is_applied: bool,
    answered_at: Option<Timestamp>,
}

/// What the service has of a key: its version, and whether it is there.
#[derive(Debug, Clone, Copy)]
struct Copy {
    version: EventId,
    is_there: bool,
}

#[derive(Default)]
struct World {
    random: u64,
    now: i64,
    last: EventId,
    store: BTreeMap<String, (Current, Option<Timestamp>)>,
    open: BTreeMap<String, Vec<Delivery>>,
    /// When the delivery of a change ended.
    ended: HashMap<EventId, Timestamp>,
    service: BTreeMap<String, Copy>,
    /// What the service has changed itself and does not know yet.
    learning: Vec<(String, Copy)>,
    hot: u64,
    is_quiet: bool,
    repaired: Vec<(String, Kind)>,
}

impl World {
    fn new(seed: u64, hot: u64) -> Self {
        let mut world = Self { random: seed, hot, now: 1_000_000, ..Self::default() };
        for number in 0..40 {
            world.change(format!("quiet{number}"), false, false);
        }
        world.finish();
        world
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn now(&self) -> Now {
        Now { day: Timestamp(self.now), steady: Timestamp(self.now) }
    }

    fn change(&mut self, key: String, is_delete: bool, is_own: bool) {
        let is_there = matches!(self.store.get(&key), Some((Current::Present(_), _)));
        if is_delete && !is_there {
            return;
        }
        self.last += 1;
        let current = if is_delete { Current::Deleted(self.last) } else { Current::Present(self.last) };
        self.store.insert(key.clone(), (current, is_own.then_some(Timestamp(self.now))));
        if is_own {
            self.learning.push((key, Copy { version: self.last, is_there: !is_delete }));
        } else {
            let delivery = Delivery { id: self.last, is_delete, is_applied: false, answered_at: None };
            self.open.entry(key).or_default().push(delivery);
        }
    }

    /// The service takes what is newer than what it has.
    fn apply(&mut self, key: &str, copy: Copy) {
        let known = self.service.get(key).map_or(0, |known| known.version);
        if copy.version > known {
            self.service.insert(key.to_owned(), copy);
        }
    }

    fn step(&mut self) {
        self.now += 1 + self.random(if self.is_quiet { 20_000 } else { 2_000 }) as i64;
        let key = format!("hot{}", self.random(self.hot));
        match self.random(10) {
            _ if self.is_quiet => self.deliver(),
            0 | 1 => self.change(key, false, false),
            2 => self.change(key, true, false),
            3 => {
                let is_delete = self.random(4) == 0;
                self.change(key, is_delete, true);
            }
            4 => {
                // A deletion is forgotten, whatever is under way.
                if matches!(self.store.get(&key), Some((Current::Deleted(_), _))) {
                    self.store.remove(&key);
                }
            }
            5 => {
                for (key, copy) in std::mem::take(&mut self.learning) {
                    self.apply(&key, copy);
                }
            }
            _ => (0..4).for_each(|_| self.deliver()),
        }
    }

    /// Goes on with some delivery.
    fn deliver(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.random(self.open.len() as u64) as usize;
        let key = self.open.keys().nth(at).cloned().expect("one of them");
        let now = Timestamp(self.now);
        let deliveries = self.open.get_mut(&key).expect("it is there");
        let first = &mut deliveries[0];
        if !first.is_applied {
            first.is_applied = true;
            let copy = Copy { version: first.id, is_there: !first.is_delete };
            self.apply(&key, copy);
        } else if first.answered_at.is_none() {
            first.answered_at = Some(now);
        } else {
            let done = deliveries.remove(0);
            self.ended.insert(done.id, done.answered_at.expect("it was answered"));
            if deliveries.is_empty() {
                self.open.remove(&key);
            }
        }
    }

    fn some_steps(&mut self) {
        for _ in 0..self.random(6) {
            self.step();
        }
    }

    fn finish(&mut self) {
        while !self.open.is_empty() {
            self.now += 1;
            self.deliver();
        }
        for (key, copy) in std::mem::take(&mut self.learning) {
            self.apply(&key, copy);
        }
    }

    fn asked(&self) -> Asked {
        Asked { at: Timestamp(self.now), last: self.last }
    }

    fn facts(&self, key: &str) -> Facts {
        let (current, own_change_at) = self.store.get(key).copied().unwrap_or((Current::Absent, None));
        Facts {
            current,
            own_change_at,
            is_on_its_way: self.open.contains_key(key),
            answered_at: current.newest().and_then(|version| self.ended.get(&version).copied()),
        }
    }

    fn ours(&self) -> BTreeMap<String, EventId> {
        let there = |(key, (current, _)): (&String, &(Current, _))| match current {
            Current::Present(version) => Some((key.clone(), *version)),
            Current::Deleted(_) | Current::Absent => None,
        };
        self.store.iter().filter_map(there).collect()
    }

    fn theirs(&self) -> BTreeMap<String, EventId> {
        let there = self.service.iter().filter(|(_, copy)| copy.is_there);
        there.map(|(key, copy)| (key.clone(), copy.version)).collect()
    }

    /// Does what is needed, in the midst of everything else. Returns what happened, and when it has nothing to do.
    fn drive(&mut self, sync: &mut TypeSync) -> Result<Option<Happened>, Timestamp> {
        match sync.need(self.now()) {
            Need::Wait(until) => return Err(until),
            Need::Save { standing, happened } => {
                sync.saved(&standing, self.now());
                return Ok(happened);
            }
            Need::Backlog => {
                let oldest = self.open.values().flatten().map(|delivery| delivery.id).min();
                sync.backlog(self.last, oldest, self.store.len() as u64, self.now());
            }
            Need::Check(CheckNeed::Digest { buckets }) => {
                let asked = self.asked();
                self.some_steps();
                let theirs = digest(&self.theirs(), buckets);
                self.some_steps();
                let ours = digest(&self.ours(), buckets);
                let last = self.last;
                self.some_steps();
                sync.digest(asked, TheirDigest { as_of: Some(3), buckets: theirs }, &ours, last, self.now());
            }
            Need::Check(CheckNeed::Bucket { bucket, buckets }) => {
                let asked = self.asked();
                self.some_steps();
                let is_of = |key: &String| Mark::slot(key) & (buckets - 1) == bucket;
                let mut theirs = self.theirs();
                theirs.retain(|key, _| is_of(key));
                self.some_steps();
                let mut ours = self.ours();
                ours.retain(|key, _| is_of(key));
                let keys: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
                let differing = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
                let compared = differing.map(|key| Compared {
                    key: parse(key),
                    theirs: theirs.get(key).copied(),
                    facts: self.facts(key),
                });
                let compared = compared.collect();
                self.some_steps();
                sync.bucket(asked, compared, self.now());
            }
            Need::Check(CheckNeed::Page { after }) => {
                let after = after.map(|key| key.to_string()).unwrap_or_default();
                let keys: Vec<String> = self.ours().into_keys().filter(|key| *key > after).take(7).collect();
                let page =
                    keys.iter().map(|key| Compared { key: parse(key), theirs: None, facts: self.facts(key) }).collect();
                sync.page(page, keys.len() == 7, self.now());
                self.some_steps();
            }
            Need::Check(need) => panic!("{need:?} is not asked for"),
            Need::Repair { difference, run: _ } => {
                let key = difference.key.to_string();
                let how = match difference.repair(&self.facts(&key)) {
                    None => Repaired::Dropped,
                    Some(repair) => {
                        self.repaired.push((key.clone(), difference.kind));
                        match repair {
                            Repair::Put(version) => self.apply(&key, Copy { version, is_there: true }),
                            Repair::Delete(version) => self.apply(&key, Copy { version, is_there: false }),
                            Repair::Renew(_) => self.change(key, false, false),
                        }
                        Repaired::Done
                    }
                };
                self.some_steps();
                sync.repaired(how, self.now());
            }
        }
        Ok(None)
    }

    /// Until it has nothing to do for some seconds; what happened.
    fn drive_all(&mut self, sync: &mut TypeSync) -> Vec<Happened> {
        let mut all = Vec::new();
        loop {
            match self.drive(sync) {
                Ok(happened) => all.extend(happened),
                Err(_) if !sync.is_busy() => return all,
                Err(until) => {
                    while self.now < until.0 {
                        self.now += 20_000;
                        self.step();
                    }
                }
            }
        }
    }
}

fn parse(key: &str) -> EntityKey {
    EntityKey::parse(key.to_owned()).expect("a key")
}

fn digest(entities: &BTreeMap<String, EventId>, buckets: u32) -> Buckets {
    let mut made = Buckets::new(buckets);
    entities.iter().for_each(|(key, version)| made.insert(Mark::of(key, *version)));
    made
}

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
