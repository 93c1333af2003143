//! A store, a service that keeps a copy of it, and what is on its way between them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::entity::{Buckets, EntityKey, Mark};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::sync::*;

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
pub struct Copy {
    pub version: EventId,
    pub is_there: bool,
}

#[derive(Default)]
pub struct World {
    random: u64,
    pub now: i64,
    pub last: EventId,
    store: BTreeMap<String, (Current, Option<Timestamp>)>,
    open: BTreeMap<String, Vec<Delivery>>,
    /// When the delivery of a change ended.
    ended: HashMap<EventId, Timestamp>,
    pub service: BTreeMap<String, Copy>,
    /// What the service has changed itself and does not know yet.
    learning: Vec<(String, Copy)>,
    hot: u64,
    pub is_quiet: bool,
    pub repaired: Vec<(String, Kind)>,
}

impl World {
    pub fn new(seed: u64, hot: u64) -> Self {
        let mut world = Self { random: seed, hot, now: 1_000_000, ..Self::default() };
        for number in 0..40 {
            world.change(format!("quiet{number}"), false, false);
        }
        world.finish();
        world
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    pub fn now(&self) -> Now {
        Now { day: Timestamp(self.now), steady: Timestamp(self.now) }
    }

    pub fn change(&mut self, key: String, is_delete: bool, is_own: bool) {
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

    pub fn step(&mut self) {
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

    pub fn finish(&mut self) {
        while !self.open.is_empty() {
            self.now += 1;
            self.deliver();
        }
        for (key, copy) in std::mem::take(&mut self.learning) {
            self.apply(&key, copy);
        }
    }

    pub fn asked(&self) -> Asked {
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

    pub fn ours(&self) -> BTreeMap<String, EventId> {
        let there = |(key, (current, _)): (&String, &(Current, _))| match current {
            Current::Present(version) => Some((key.clone(), *version)),
            Current::Deleted(_) | Current::Absent => None,
        };
        self.store.iter().filter_map(there).collect()
    }

    pub fn theirs(&self) -> BTreeMap<String, EventId> {
        let there = self.service.iter().filter(|(_, copy)| copy.is_there);
        there.map(|(key, copy)| (key.clone(), copy.version)).collect()
    }

    /// Does what is needed, in the midst of everything else. Returns what happened, and when it has nothing to do.
    pub fn drive(&mut self, sync: &mut TypeSync) -> Result<Option<Happened>, Timestamp> {
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
    pub fn drive_all(&mut self, sync: &mut TypeSync) -> Vec<Happened> {
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

pub fn digest(entities: &BTreeMap<String, EventId>, buckets: u32) -> Buckets {
    let mut made = Buckets::new(buckets);
    entities.iter().for_each(|(key, version)| made.insert(Mark::of(key, *version)));
    made
}
