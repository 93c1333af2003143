//! Each floor of the crate imports only from those below it, and no modules side by side import each other in a circle.

mod reader;

use reader::{Crate, ModulePath, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The floors from the lowest to the highest. Modules that share a floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["domain"],
    &["transport"],
    &["protocol"],
    &["config"],
    &["telemetry"],
    &["storage", "bus"],
    &["access"],
    &["runtime"],
    &["actors"],
    &["web"],
    &["serve"],
    &["cli"],
];

#[test]
fn the_floors_hold() {
    let read = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let references = read.references();
    assert!(references.len() > 500, "only {} references were read", references.len());
    let without_a_floor: Vec<_> =
        read.0.keys().filter(|path| path.len() == 1 && floor_of(&path[0]).is_none()).map(|path| &path[0]).collect();
    assert!(without_a_floor.is_empty(), "modules on no floor: {without_a_floor:?}");
    let mut wrong = upward(&references);
    wrong.extend(circles(&references));
    assert!(wrong.is_empty(), "{} imports are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The references from a floor to one that is not below it.
fn upward(references: &BTreeSet<Reference>) -> Vec<String> {
    let not_below = |reference: &&Reference| {
        let (from, to) = (reference.from.first(), reference.to.first());
        from != to && from.zip(to).is_some_and(|(from, to)| floor_of(from) <= floor_of(to))
    };
    let shown = |reference: &Reference| {
        let Reference { from, to, place } = reference;
        format!("upward: {} imports {} ({place})", from.join("::"), to.join("::"))
    };
    references.iter().filter(not_below).map(shown).collect()
}

/// The references that close a circle between modules of one parent.
fn circles(references: &BTreeSet<Reference>) -> Vec<String> {
    let mut levels: BTreeMap<ModulePath, BTreeMap<(String, String), Vec<&str>>> = BTreeMap::new();
    for reference in references {
        let (from, to) = (with_messages_apart(&reference.from), with_messages_apart(&reference.to));
        let shared = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
        if let (Some(one), Some(other)) = (from.get(shared), to.get(shared)) {
            let level = levels.entry(from[..shared].to_vec()).or_default();
            level.entry((one.clone(), other.clone())).or_default().push(&reference.place);
        }
    }
    let mut found = Vec::new();
    for (parent, edges) in &levels {
        let full = |name: &str| parent.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join("::");
        for ((one, other), places) in edges {
            let (from, to) = (full(one), full(other));
            if leads_to(edges, other, one) {
                found.push(format!("circle: {from} imports {to} ({}), which leads back to it", places.join(", ")));
            }
        }
    }
    found
}

fn leads_to(edges: &BTreeMap<(String, String), Vec<&str>>, from: &str, to: &str) -> bool {
    let (mut open, mut seen) = (vec![from], BTreeSet::new());
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            open.extend(edges.keys().filter(|(one, _)| one == at).map(|(_, other)| other.as_str()));
        }
    }
    false
}

/// An actor's messages are a module beside the actor: its neighbours may know them without knowing it.
fn with_messages_apart(path: &[String]) -> ModulePath {
    let mut apart = ModulePath::new();
    for name in path {
        match apart.last_mut() {
            Some(actor) if name == "messages" => actor.push_str("::messages"),
            _ => apart.push(name.clone()),
        }
    }
    apart
}

fn planted(files: &[(&str, &str)]) -> BTreeSet<Reference> {
    let mut read = Crate::default();
    read.add(&[], "lib.rs", "");
    for (path, text) in files {
        let path: ModulePath = path.split("::").map(str::to_owned).collect();
        for parent in 1..path.len() {
            read.0.entry(path[..parent].to_vec()).or_default();
        }
        read.add(&path, &format!("{}.rs", path.join("/")), text);
    }
    read.references()
}

#[test]
fn a_planted_upward_import_is_found() {
    let nested = "use crate::{\n    domain::event,\n    web::{reply::{self, Refusal}, body as text},\n};";
    let references = planted(&[("domain::event", ""), ("web::reply", ""), ("web::body", ""), ("storage", nested)]);
    let wrong = upward(&references);
    assert_eq!(
        wrong,
        ["upward: storage imports web::body (storage.rs:3)", "upward: storage imports web::reply (storage.rs:3)"]
    );
}

#[test]
fn an_upward_path_in_code_and_one_to_the_same_floor_are_found() {
    let code = "fn f<'a>(x: &'a str) -> char {\n    super::protocol::read(x); // crate::cli::a\n    '\"'\n}";
    let wrong = upward(&planted(&[("protocol", ""), ("transport", code), ("cli", "")]));
    assert_eq!(wrong, ["upward: transport imports protocol (transport.rs:2)"]);
}

#[test]
fn a_planted_circle_is_found_at_every_level() {
    let files = [
        ("domain::filter::set", "use super::parse::read;"),
        ("domain::filter::parse", "use super::{scan, Filter};"),
        ("domain::filter::scan", "fn f() { crate::domain::filter::set::add() }"),
        ("domain::filter", "mod set; mod parse; mod scan; use set::Set;"),
    ];
    let wrong = circles(&planted(&files));
    assert_eq!(
        wrong,
        [
            "circle: domain::filter::parse imports domain::filter::scan (domain/filter/parse.rs:1), which leads back to it",
            "circle: domain::filter::scan imports domain::filter::set (domain/filter/scan.rs:1), which leads back to it",
            "circle: domain::filter::set imports domain::filter::parse (domain/filter/set.rs:1), which leads back to it",
        ]
    );
}

#[test]
fn a_circle_through_a_name_that_a_parent_passes_on_is_found() {
    let files = [
        ("storage", "pub use reader::Reader;\nmod reader; mod scan;"),
        ("storage::reader", "use super::scan::Scan;"),
        ("storage::scan", "use crate::storage::Reader;"),
    ];
    assert_eq!(circles(&planted(&files)).len(), 2);
}

#[test]
fn messages_are_apart_from_their_actor() {
    let mut files = vec![
        ("actors::router", "use super::persistence::messages::Append;"),
        ("actors::router::messages", ""),
        ("actors::persistence", "use super::router::messages::Route;"),
        ("actors::persistence::messages", ""),
    ];
    assert_eq!(circles(&planted(&files)), [""; 0]);
    files[1].1 = "use super::Router;";
    files[0].1 = "mod messages; use messages::Route;";
    assert_eq!(circles(&planted(&files)).len(), 2);
}

#[test]
fn what_is_for_tests_alone_is_passed_over() {
    let code = "#[cfg(test)]\nmod tests { use crate::web; fn f() { let [a, b] = [1; 2]; } }\n#[cfg(test)]\nuse crate::cli;\n\
                const A: &str = r#\"use crate::web; \"#;\nuse crate::cli::run;";
    let wrong = upward(&planted(&[("web", ""), ("cli", ""), ("domain", code)]));
    assert_eq!(wrong, ["upward: domain imports cli (domain.rs:6)"]);
}
