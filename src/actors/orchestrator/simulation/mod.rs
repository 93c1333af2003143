//! Sagas as production runs them (its decisions, its store, its reads), in worlds where everything goes wrong, without a
//! socket, an actor or a clock. Each world is run without a kill, and then once more for each of its transactions with a
//! kill before it, and once with a kill after it.

mod check;
mod dice;
mod ledger;
mod people;
mod services;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use self::ledger::{Kill, Ledger};
use self::world::{Place, World};
use super::making::Means;
use crate::actors::service_slot::{Holding, ServiceSlot};
use crate::config::{Config, LoadArgs};
use crate::domain::event::Timestamp;
use crate::domain::lease::LeaseName;
use crate::domain::membership::{Beat, BeatOutcome, Term};
use crate::storage::{Durability, NewService, NodeStatus, Reader, StoreOptions, StoreUrl, Writer};
use crate::telemetry::metrics::Metrics;

/// Worlds whose kills are enumerated, and worlds without a kill.
const WORLDS: (u64, u64) = (1, 80);
/// The same with `LONG_TESTS`.
const MANY_WORLDS: (u64, u64) = (40, 4000);
/// The seed of the first one without a kill.
const OTHERS: u64 = 1_000_000;

/// One of them again: `SAGA_WORLD=7`, `SAGA_WORLD=7/before/12` or `SAGA_WORLD=7/after/12`.
fn only() -> Option<(u64, Option<Kill>)> {
    let text = std::env::var("SAGA_WORLD").ok()?;
    let mut parts = text.split('/');
    let seed = parts.next()?.parse().expect("a seed");
    let kill = parts.next().map(|side| {
        let transaction = parts.next().and_then(|at| at.parse().ok()).expect("a transaction");
        Kill { transaction, is_before: side == "before" }
    });
    Some((seed, kill))
}

fn place(dir: &std::path::Path) -> Place {
    let url = StoreUrl::Sqlite(dir.join("events.db"));
    let options = StoreOptions { durability: Durability::Normal, ..StoreOptions::new(url) };
    let mut writer = Writer::open(options.clone()).expect("open the store");
    let service = NewService { name: "s".into(), patterns: Vec::new(), start_from: None };
    let registered = writer.register(&[service], Timestamp(0)).expect("registered").remove(0);
    let status = NodeStatus {
        name: "n".into(),
        ttl: None,
        version: "0".to_owned(),
        url: String::new(),
        last_id: 0,
        is_draining: false,
    };
    let BeatOutcome::Joined { generation } = writer.beat(&status, Beat::Join).expect("the store answers").outcome
    else {
        panic!("it has not joined")
    };
    let term = Term { generation, valid_until: Timestamp(i64::MAX), since: Timestamp(0) };
    let overrides = vec![("--set", "services.s.url".to_owned(), "http://127.0.0.1:9".to_owned())];
    let config = Config::load(LoadArgs { file: None, overrides }, []).expect("a valid configuration");
    let config = Arc::new(config.services[0].clone());
    let slot = Arc::new(ServiceSlot::new(&config, std::time::Duration::from_secs(1)));
    let id = registered.id;
    slot.register(registered);
    let mut ledger = Ledger::new(writer, term, Arc::clone(&slot));
    let client_fence = ledger.take_lease(LeaseName::service("s"), None);
    slot.set_holding(Some(Holding { fence: client_fence.clone(), term: generation }));
    let means = Means {
        services: [(config, Arc::clone(&slot))].into(),
        max_event_bytes: 1 << 20,
        compensation_attempts: 3,
        catalogue: Arc::clone(&options.catalogue),
        metrics: Arc::new(Metrics::new().expect("unique names")),
    };
    let reader = Reader::unwatched(options);
    Place {
        ledger: Arc::new(Mutex::new(ledger)),
        reader,
        means,
        slot,
        service: id,
        fence: None,
        client_fence,
        worlds: 0,
    }
}

/// How many worlds were run, how many instances they had, and how these ended.
#[derive(Debug, Default)]
struct Count {
    worlds: u64,
    instances: u64,
    voids: usize,
    ends: BTreeMap<&'static str, u64>,
}

/// Worlds one after the other, in one store.
struct Worlds {
    runtime: tokio::runtime::Runtime,
    place: Option<Place>,
    count: Count,
    _dir: tempfile::TempDir,
}

impl Worlds {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let in_memory = tempfile::tempdir_in("/dev/shm");
        let dir = in_memory.or_else(|_| tempfile::tempdir()).expect("a directory");
        let place = runtime.block_on(async { place(dir.path()) });
        Self { runtime, place: Some(place), count: Count::default(), _dir: dir }
    }

    /// Runs one; how many transactions it had.
    fn run(&mut self, seed: u64, kill: Option<Kill>) -> usize {
        let mut place = self.place.take().expect("no world has failed");
        let Self { runtime, count, .. } = self;
        let run = || {
            let mut world = World::new(&mut place, seed, kill);
            let (transactions, states) = runtime.block_on(world.run());
            count.worlds += 1;
            for state in states {
                count.instances += 1;
                *count.ends.entry(state.as_str()).or_default() += 1;
            }
            count.voids += world.voids();
            transactions
        };
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let transactions = ran.unwrap_or_else(|panic| {
            let kill =
                kill.map(|kill| format!("/{}/{}", if kill.is_before { "before" } else { "after" }, kill.transaction));
            eprintln!("SAGA_WORLD={seed}{}", kill.unwrap_or_default());
            std::panic::resume_unwind(panic)
        });
        self.place = Some(place);
        transactions
    }

    /// Runs them all, each with every kill.
    fn enumerate(&mut self, seeds: Range<u64>) {
        for seed in seeds {
            let transactions = self.run(seed, None);
            for transaction in 0..transactions {
                for is_before in [true, false] {
                    self.run(seed, Some(Kill { transaction, is_before }));
                }
            }
        }
    }
}

#[test]
fn sagas_end_as_they_should_wherever_the_process_is_killed() {
    if let Some((seed, kill)) = only() {
        Worlds::new().run(seed, kill);
        return;
    }
    let began = Instant::now();
    let (worlds, others) = if std::env::var_os("LONG_TESTS").is_some() { MANY_WORLDS } else { WORLDS };
    let killed = std::thread::spawn(move || {
        let mut part = Worlds::new();
        part.enumerate(0..worlds);
        part.count
    });
    let whole = std::thread::spawn(move || {
        let mut part = Worlds::new();
        (OTHERS..OTHERS + others).for_each(|seed| _ = part.run(seed, None));
        part.count
    });
    let mut all = Count::default();
    for thread in [killed, whole] {
        let Count { worlds, instances, voids, ends } = thread.join().expect("as it should");
        (all.worlds, all.instances, all.voids) = (all.worlds + worlds, all.instances + instances, all.voids + voids);
        ends.into_iter().for_each(|(end, count)| *all.ends.entry(end).or_default() += count);
    }
    let rate = all.worlds as f64 / began.elapsed().as_secs_f64();
    eprintln!("seeds 0 to {worlds} and {OTHERS} to {}: {rate:.0} worlds/s, {all:?}", OTHERS + others);
    assert!(all.ends.len() == 4 && all.ends.values().all(|count| *count > all.instances / 100), "each end: {all:?}");
}
