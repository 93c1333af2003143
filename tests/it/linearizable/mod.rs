//! Changes of an entity on a condition are linearizable: whatever clients see of it, at any node and while nodes are
//! killed, is what they would see if each request had been done at one moment between its beginning and its answer.

mod checker;
mod checker_tests;
mod clients;

use self::clients::{Clients, read_log};
use crate::cluster::harness::{Address, Cluster};
use crate::support::{Backend, Server};

const CLIENTS: usize = 8;

/// Has clients work at `nodes` while `meanwhile` is done, and looks at all that they have seen.
fn run(nodes: Vec<Address>, meanwhile: impl FnOnce(&Clients)) {
    let seed: u64 = rand::random();
    let clients = Clients::start(nodes.clone(), CLIENTS, seed);
    meanwhile(&clients);
    let calls = clients.finish();
    let violations = checker::check(&calls, &read_log(nodes[0].get()));
    let shown: String = violations.iter().take(10).map(|violation| format!("{violation}\n")).collect();
    assert!(violations.is_empty(), "{} violations (seed {seed}):\n{shown}", violations.len());
    let counts = checker::outcomes(&calls);
    assert!(counts.iter().all(|(_, count)| *count > 50), "too little has happened: {counts:?}");
    eprintln!("{counts:?}");
}

fn on_one_node(backend: Backend) {
    let mut server = Server::start(backend);
    let address = Address::of("one", server.addr());
    run(vec![address.clone()], |clients| {
        clients.wait_for_answers(1000);
        for _ in 0..3 {
            server.kill9();
            server.restart();
            address.set(server.addr());
            clients.wait_for_answers(1000);
        }
    });
}

#[test]
fn changes_on_a_condition_are_linearizable_on_sqlite() {
    on_one_node(Backend::Sqlite);
}

#[test]
fn changes_on_a_condition_are_linearizable_on_postgres() {
    on_one_node(Backend::Postgres);
}

#[test]
fn changes_on_a_condition_are_linearizable_at_three_nodes_of_which_some_are_killed() {
    let mut cluster = Cluster::start(|_, builder| builder);
    run(cluster.addresses(), |clients| {
        clients.wait_for_answers(500);
        for number in 0..3 {
            cluster.nodes[number].server.kill9();
            clients.wait_for_answers(300);
            cluster.nodes[number].restart();
        }
        // One that is frozen, and others have changed everything before it goes on.
        cluster.nodes[0].freeze();
        clients.wait_for_answers(100);
        cluster.nodes[0].thaw();
        clients.wait_for_answers(300);
    });
}
