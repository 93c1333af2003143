//! The program of the commit before beside this one, on one database.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::checker::assert_kept;
use super::clients::Clients;
use super::harness::{Cluster, Node, serve};
use crate::databases::{number, refusal};
use crate::support::postgres::Postgres;
use crate::support::{Service, eventually};

const MIGRATIONS: &str = "SELECT count(*) AS n FROM event_handler.__diesel_schema_migrations";
const SERVICES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The program of the commit before, which `./tests/run` builds; why it is missing.
fn previous() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/previous");
    let program = folder.join("event-handler");
    if program.exists() {
        return Ok(program);
    }
    Err(std::fs::read_to_string(folder.join("missing")).unwrap_or_else(|_| "only ./tests/run builds it".to_owned()))
}

/// The services that a node holds.
fn held(cluster: &Cluster, node: &str) -> Option<BTreeSet<String>> {
    let nodes = cluster.nodes.iter().find_map(Node::try_nodes)?;
    let node = nodes.into_iter().find(|known| known["name"] == node && known["state"] != "lost")?;
    let leases = node["holds"].as_array()?.iter().filter_map(|lease| lease.as_str()?.strip_prefix("service:"));
    Some(leases.map(str::to_owned).collect())
}

#[test]
fn two_versions_work_together_while_one_replaces_the_other() {
    let previous = match previous() {
        Ok(program) => program,
        Err(reason) => return eprintln!("LEFT OUT, without the program of the commit before: {reason}"),
    };
    let services = SERVICES.map(|name| (name, Service::start()));
    let configure = |node: &str, builder| {
        let services = services.iter();
        let builder = services.fold(builder, |builder, (name, service)| {
            serve(node, builder, service, name, &[("routes", "c.>"), ("retry_base", "20ms"), ("max_attempts", "1000")])
        });
        if node == "old" { builder.program(&previous) } else { builder }
    };
    let postgres = Postgres::shared();
    let mut cluster = Cluster { url: postgres.url(), nodes: Vec::new() };
    cluster.add("old", &configure);
    cluster.wait_for_holder("service:a");
    let known = number(&cluster.url, MIGRATIONS);
    cluster.add("new", &configure);
    cluster.wait_for_members(2);
    let is_migrated = number(&cluster.url, MIGRATIONS) > known;
    let clients = Clients::start(&cluster, 4, 7);
    clients.wait_for_acknowledged(100);

    let all: BTreeSet<String> = SERVICES.map(str::to_owned).into();
    let has_all = |cluster: &Cluster, node: &str| {
        eventually(&format!("{node} holds all"), || held(cluster, node).filter(|held| *held == all));
        clients.wait_for_acknowledged(50);
    };
    let wait_for_shares = |cluster: &Cluster| {
        eventually("each has a share", || {
            let (old, new) = (held(cluster, "old")?, held(cluster, "new")?);
            (!old.is_empty() && !new.is_empty() && old.len() + new.len() == all.len()).then_some(())
        });
        clients.wait_for_acknowledged(50);
    };
    // What the old one held comes to the new one, is taken back when that dies, and is given up in good order.
    wait_for_shares(&cluster);
    cluster.node_mut("new").server.kill9();
    has_all(&cluster, "old");
    cluster.node_mut("new").restart();
    wait_for_shares(&cluster);
    assert!(cluster.node_mut("old").server.terminate().success());
    has_all(&cluster, "new");
    if is_migrated {
        let said = refusal(&cluster.node("old").server.spec());
        assert!(said.contains("newer version"), "{said}");
        cluster.node_mut("old").server.upgrade();
    }
    cluster.node_mut("old").restart();
    wait_for_shares(&cluster);
    let services: Vec<_> = services.iter().map(|(name, service)| (*name, service)).collect();
    assert_kept(&clients.finish(&cluster, &services));
}
