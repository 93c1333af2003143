//! The official test suite of JSON Schema over HTTP: each schema is put as an event type, each instance is published.

#[path = "../support/json_schema_suite.rs"]
mod suite;

use std::collections::BTreeMap;
use std::thread;

use self::suite::Group;
use crate::support::http::{Connection, Request};
use crate::support::{Backend, Server};

/// Instances of one batch: so few that all refusals have room in an answer.
const AT_ONCE: usize = 25;
/// Connections over which types are put.
const PUTTING: usize = 8;

/// Whether a group takes part; puts its type then.
fn put(server: &Server, connection: &mut Connection, (name, group): (&str, &Group), draft: &str) -> bool {
    let body = format!(r#"{{"schema":{}}}"#, group.schema_text(draft));
    let request = Request::new(server.addr(), "PUT", &format!("/event-types/{name}")).bearer(server.admin_token());
    let answer = connection.send(&request.json(body)).expect("an answer");
    if answer.status == 201 {
        return true;
    }
    let refused = answer.text();
    assert!(suite::is_excluded(refused), "{}: {refused}", group.description);
    false
}

/// What a batch is answered: the places of the instances that are refused.
fn refused(server: &Server, batch: &[(&str, &str)]) -> Vec<usize> {
    let events = batch.iter().map(|(name, payload)| format!(r#"{{"event_name":"{name}","payload":{payload}}}"#));
    let answer = server.post("/publish/batch", format!("[{}]", events.collect::<Vec<_>>().join(",")));
    if answer.status == 200 {
        assert_eq!(answer.data()["count"], batch.len());
        return Vec::new();
    }
    let error = answer.json();
    let errors = error["data"]["errors"].as_array().unwrap_or_else(|| panic!("{error}"));
    for error in errors {
        assert!(["schema_violation", "duplicate_key"].iter().any(|code| error["code"] == *code), "{error}");
    }
    let places: Vec<usize> = errors.iter().filter_map(|error| error["index"].as_u64()).map(|at| at as usize).collect();
    let told = error["message"].as_str().and_then(|message| message.split(' ').next()).unwrap_or_default();
    assert_eq!(told, places.len().to_string(), "all have room: {error}");
    places
}

/// Runs the cases of a draft; returns how many there were and how many were left out.
fn run_suite(text: &str, draft: &str) -> (usize, usize) {
    let files = suite::read(text);
    let groups: Vec<(String, &Group)> = files
        .iter()
        .flat_map(|(file, groups)| groups.iter().map(move |group| (file, group)))
        .enumerate()
        .map(|(at, (file, group))| (format!("{}.g{at}", file.to_ascii_lowercase()), group))
        .collect();
    let server = Server::start(Backend::Sqlite);
    let takes_part: BTreeMap<&str, bool> = thread::scope(|scope| {
        let putting: Vec<_> = groups
            .chunks(groups.len().div_ceil(PUTTING))
            .map(|groups| {
                let server = &server;
                scope.spawn(move || {
                    let mut connection = Connection::open(server.addr()).expect("a connection");
                    let puts = groups.iter().map(|(name, group)| put(server, &mut connection, (name, group), draft));
                    puts.collect::<Vec<_>>()
                })
            })
            .collect();
        let verdicts = putting.into_iter().flat_map(|putting| putting.join().expect("no panic"));
        groups.iter().map(|(name, _)| name.as_str()).zip(verdicts).collect()
    });
    let (of_these, excluded): (Vec<_>, Vec<_>) = groups
        .iter()
        .flat_map(|(name, group)| group.tests.iter().map(move |case| (name.as_str(), *group, case)))
        .partition(|(name, ..)| takes_part[name]);
    let mut wrong = Vec::new();
    for cases in of_these.chunks(AT_ONCE) {
        let all: Vec<(&str, &str)> = cases.iter().map(|(name, _, case)| (*name, case.data.get())).collect();
        let places = refused(&server, &all);
        for (at, (name, group, case)) in cases.iter().enumerate() {
            if places.contains(&at) == case.valid {
                wrong.push(format!("{name}: {}: {}: valid is {}", group.description, case.description, case.valid));
            }
        }
        // One that is refused keeps all others of its batch back.
        let valid: Vec<_> = (0..all.len()).filter(|at| !places.contains(at)).map(|at| all[at]).collect();
        if valid.len() < all.len() && !valid.is_empty() {
            assert_eq!(refused(&server, &valid), Vec::<usize>::new());
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    (of_these.len(), excluded.len())
}

#[test]
fn the_official_cases_of_2020_12_are_judged_where_they_are_published() {
    let text = include_str!("../data/json-schema-test-suite/2020-12.json");
    assert_eq!(run_suite(text, "https://json-schema.org/draft/2020-12/schema"), (1_250, 49));
}

#[test]
fn the_official_cases_of_draft_07_are_judged_where_they_are_published() {
    let text = include_str!("../data/json-schema-test-suite/draft-07.json");
    assert_eq!(run_suite(text, "http://json-schema.org/draft-07/schema#"), (904, 23));
}
