//! All kinds of clients on all nodes, while one thing after the other goes wrong: no promise is broken.

use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;

use super::checker::assert_kept;
use super::clients::Clients;
use super::harness::{Cluster, serve};
use crate::support::postgres::Postgres;
use crate::support::service::Delivery;
use crate::support::tcp_proxy::Cut;
use crate::support::{Answer, Redis, Service};

/// What can go wrong. To add a fault, add a variant, its place in [`ALL`](Self::ALL), and what it does in `strike`.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The node dies, and starts again afterwards.
    Kill,
    /// It stops in its tracks.
    Freeze,
    /// Its connections to PostgreSQL are closed, and it gets no new ones.
    CutOff,
    /// The same, without a good-bye.
    Reset,
    /// Nothing passes between it and PostgreSQL, and nobody is told.
    Swallow,
    /// Everything between it and PostgreSQL takes time.
    Slow,
    /// PostgreSQL dies, and starts again afterwards.
    StopPostgres,
    /// Its connections to Redis are closed, and it gets no new ones.
    CutOffRedis,
    /// Nothing passes between it and Redis, and nobody is told.
    SwallowRedis,
    /// Everything between it and Redis takes time: batches come late, and after those of other nodes.
    SlowRedis,
    /// Redis dies, and starts again afterwards with nothing.
    LoseRedis,
    /// Redis stops in its tracks.
    FreezeRedis,
}

impl Fault {
    const ALL: [Self; 7] =
        [Self::Kill, Self::Freeze, Self::CutOff, Self::Reset, Self::Swallow, Self::Slow, Self::StopPostgres];
    /// Where there is a Redis, these too.
    const OF_REDIS: [Self; 5] =
        [Self::CutOffRedis, Self::SwallowRedis, Self::SlowRedis, Self::LoseRedis, Self::FreezeRedis];

    /// Lets it happen to a node for `time`, and heals it.
    fn strike(self, cluster: &mut Cluster, engines: &mut Engines, node: usize, time: Duration) {
        let node = &mut cluster.nodes[node];
        let Engines { postgres, redis } = engines;
        let redis_link = || node.redis_link.as_ref().expect("a redis");
        match self {
            Self::Kill => node.server.kill9(),
            Self::Freeze => node.freeze(),
            Self::CutOff => node.link.cut(Cut::Fin),
            Self::Reset => node.link.cut(Cut::Rst),
            Self::Swallow => node.link.swallow(),
            Self::Slow => node.link.delay(Duration::from_millis(60)),
            Self::StopPostgres => postgres.stop(),
            Self::CutOffRedis => redis_link().cut(Cut::Rst),
            Self::SwallowRedis => redis_link().swallow(),
            Self::SlowRedis => redis_link().delay(Duration::from_millis(30)),
            Self::LoseRedis => {
                let redis = redis.as_mut().expect("a redis");
                redis.kill();
                redis.lose_data();
            }
            Self::FreezeRedis => redis.as_ref().expect("a redis").signal(Signal::STOP),
        }
        thread::sleep(time);
        match self {
            Self::Kill => node.restart(),
            Self::Freeze => node.thaw(),
            Self::CutOff | Self::Reset | Self::Swallow | Self::Slow => node.link.heal(),
            Self::StopPostgres => postgres.start_again(),
            Self::CutOffRedis | Self::SwallowRedis | Self::SlowRedis => {
                node.redis_link.as_ref().expect("a redis").heal();
            }
            Self::LoseRedis => redis.as_mut().expect("a redis").start_again(),
            Self::FreezeRedis => redis.as_ref().expect("a redis").signal(Signal::CONT),
        }
    }
}

/// What the nodes share.
struct Engines {
    postgres: Postgres,
    redis: Option<Redis>,
}

#[test]
fn no_promise_is_broken_by_random_faults() {
    random_storm(Engines { postgres: Postgres::start(), redis: None }, &Fault::ALL);
}

#[test]
fn no_promise_is_broken_by_random_faults_with_redis() {
    let engines = Engines { postgres: Postgres::start(), redis: Some(Redis::start()) };
    random_storm(engines, &[&Fault::ALL[..], &Fault::OF_REDIS].concat());
}

fn random_storm(engines: Engines, all: &[Fault]) {
    let is_long = super::is_long();
    let seed: u64 = std::env::var("CLUSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("CLUSTER_SEED={seed} repeats this");
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults: Vec<Fault> = if is_long { all.to_vec() } else { Vec::new() };
    faults.extend((0..if is_long { 10 } else { 3 }).map(|_| *all.choose(&mut random).expect("faults")));
    storm(seed, engines, &faults, &mut random);
}

fn storm(seed: u64, mut engines: Engines, faults: &[Fault], random: &mut StdRng) {
    let services = [("one", Service::start()), ("two", Service::start())];
    let sometimes_ill = |delivery: &Delivery| match delivery.order % 17 {
        // The store keeps this answer, and so which request it belongs to.
        3 | 4 => Answer::Full(500, Vec::new(), format!("post #{}", delivery.order)),
        9 => Answer::After(Duration::from_millis(30), Box::new(Answer::Status(200))),
        _ => Answer::Status(200),
    };
    services.iter().for_each(|(_, service)| service.behave(sometimes_ill));
    let options = [
        ("routes", "c.>"),
        ("retry_base", "20ms"),
        ("retry_cap", "100ms"),
        ("max_attempts", "1000"),
        ("breaker_failure_rate", "100"),
        ("breaker_consecutive", "0"),
    ];
    let mut cluster = Cluster::start_with(&engines.postgres, engines.redis.as_ref(), 3, |node, builder| {
        services.iter().fold(builder, |builder, (name, service)| serve(node, builder, service, name, &options))
    });
    let clients = Clients::start(&cluster, 4, seed);
    clients.wait_for_acknowledged(100);
    for fault in faults {
        let node = random.random_range(0..cluster.nodes.len());
        let time = Duration::from_millis(random.random_range(200..if super::is_long() { 9_000 } else { 4_500 }));
        eprintln!("{fault:?}, n{}, {time:?}", node + 1);
        fault.strike(&mut cluster, &mut engines, node, time);
        clients.wait_for_acknowledged(100);
    }
    services.iter().for_each(|(_, service)| service.answer(200));
    let history = clients.finish(&cluster, &services.each_ref().map(|(name, service)| (*name, service)));
    let posts = history.services.iter().map(|service| service.posts.len()).collect::<Vec<_>>();
    let given = history.consumers[0].given.len();
    eprintln!("{} publishes, {} events, posts: {posts:?}, given: {given}", history.publishes.len(), history.log.len());
    assert_kept(&history);
}
