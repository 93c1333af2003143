//! `/openapi.json`, `/asyncapi.json` and `/docs`: that they are served cheaply, to whom, and that they are true. That every answer is as it says is checked
//! with each answer that any test gets.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::described::messages;
use crate::support::program::root;
use crate::support::tokens::token;
use crate::support::{Backend, Server};

#[test]
fn a_document_is_made_once_and_packed() {
    let server = Server::start(Backend::Sqlite);
    let paths = [
        ("/openapi.json", "application/json"),
        ("/asyncapi.json", "application/json"),
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/docs.css", "text/css; charset=utf-8"),
        ("/docs/docs.js", "text/javascript; charset=utf-8"),
    ];
    for (path, media) in paths {
        let plain = server.get(path);
        assert_eq!((plain.status, plain.header("content-type")), (200, Some(media)));
        let packed = server.request("GET", path).header("Accept-Encoding", "gzip, br").send();
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert!(packed.body.len() * 3 < plain.body.len() * 2, "{path}: {} of {}", packed.body.len(), plain.body.len());
        let tags = [&plain, &packed].map(|answer| answer.header("etag").expect("a tag").to_owned());
        assert_ne!(tags[0], tags[1], "a strong tag names exactly these bytes");
        for tag in tags.iter().map(String::as_str).chain(["\"other\", W/\"x\", *"]) {
            let again = server.request("GET", path).header("If-None-Match", tag).send();
            assert_eq!((again.status, again.body.len()), (304, 0), "{tag}");
        }
        assert_eq!(server.request("GET", path).header("If-None-Match", "\"other\"").send().status, 200);
        assert_eq!(server.request("HEAD", path).send().status, 200);
        assert_eq!(server.get(&format!("{path}?x=1")).error(422)["code"], "unknown_parameter");
    }
    assert_eq!(server.get("/openapi.json").json()["openapi"], "3.1.0");
    assert_eq!(server.get("/asyncapi.json").json()["asyncapi"], "3.0.0");
    assert_eq!(server.get("/docs/other.js").error(404)["code"], "not_found");
}

#[test]
fn a_document_names_the_base_path() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__BASE_PATH", "/a/b").start();
    assert_eq!(server.get("/a/b/openapi.json").json()["servers"][0]["url"], "/a/b");
    assert_eq!(server.get("/a/b/asyncapi.json").json()["servers"]["websocket"]["pathname"], "/a/b");
    server.get("/openapi.json").error(404);
}

#[test]
fn a_document_is_for_everybody_and_a_bad_token_is_told() {
    let server =
        Server::builder().backend(Backend::Sqlite).tokens(&[("a", "scopes = { read = [\"a.>\"] }")], "").start();
    assert_eq!(server.get("/openapi.json").status, 200);
    let with =
        |token: &str| server.request("GET", "/openapi.json").header("Authorization", &format!("Bearer {token}")).send();
    assert_eq!(with(&token("a")).status, 200);
    assert_eq!(with("nobody").error(401)["code"], "unauthorized");
}

/// Every method of every path is answered as the document says, and no other method is.
#[test]
fn methods_are_those_of_the_document() {
    let server = Server::start(Backend::Sqlite);
    let document = server.get("/openapi.json").json();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let target = path.replace(['{', '}'], "");
        let answer = server.request("PATCH", &target).send();
        if answer.status == 401 && target.starts_with("/admin") {
            continue;
        }
        assert_eq!(answer.status, 405, "{path}");
        let allowed = answer.header("allow").expect("a header Allow");
        let allowed: Vec<String> =
            allowed.split(", ").filter(|method| *method != "HEAD").map(str::to_ascii_lowercase).collect();
        let mut described: Vec<&String> = operations.as_object().expect("operations").keys().collect();
        // With other methods it is the path of an entity.
        if path == "/state/sync/{service}" {
            described = document["paths"]["/state/{type}/{key}"].as_object().expect("operations").keys().collect();
        }
        assert_eq!(
            allowed.iter().collect::<std::collections::BTreeSet<_>>(),
            described.into_iter().collect(),
            "{path}"
        );
    }
    assert_eq!(document["paths"]["/events/{id}"]["get"]["parameters"][0]["name"], json!("id"));
}

/// Names of the Event Handler's own events as the sources have them: whole ones, and beginnings.
fn own_names(folder: &Path, whole: &mut BTreeSet<String>, beginnings: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().expect("text"));
        if path.is_dir() && name != "tests" && name != "simulation" {
            own_names(&path, whole, beginnings);
        }
        if !name.ends_with(".rs") || name.ends_with("tests.rs") {
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("text");
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        for text in source.split("\"$sys.").skip(1).filter_map(|rest| rest.split('"').next()) {
            match text.split_once('{') {
                Some((beginning, _)) => drop(beginnings.insert(format!("$sys.{beginning}"))),
                None if text.ends_with('.') => drop(beginnings.insert(format!("$sys.{text}"))),
                None if text.is_empty() || text.ends_with(['*', '>']) => {}
                None => drop(whole.insert(format!("$sys.{text}"))),
            }
        }
    }
}

/// That what is published is as the document says is checked with each event that any test reads.
#[test]
fn the_events_of_the_document_are_those_that_the_program_publishes() {
    let (mut whole, mut beginnings) = (BTreeSet::new(), BTreeSet::new());
    own_names(&root().join("src"), &mut whole, &mut beginnings);
    // The first event of a stream with a gap, which is no event of the log, and what is taken back at once.
    for other in ["$sys.stream.gap", "$sys.rehearsal"] {
        assert!(whole.remove(other), "{other}");
    }
    let messages = messages()["components"]["messages"].as_object().expect("messages").values();
    let described: BTreeSet<&str> =
        messages.filter_map(|message| message["name"].as_str()).filter(|name| name.starts_with("$sys.")).collect();
    for name in &whole {
        assert!(described.contains(name.as_str()), "{name} is not described");
    }
    for beginning in &beginnings {
        assert!(described.iter().any(|name| name.starts_with(beginning)), "nothing of {beginning} is described");
    }
    for name in described {
        let is_published = whole.contains(name) || beginnings.iter().any(|beginning| name.starts_with(beginning));
        assert!(is_published, "{name} is published by nobody");
    }
}

/// What the short form cannot say by itself: that the document has no error of its own.
#[test]
fn the_schemas_refuse_what_is_wrong() {
    let schema: &'static Value = Box::leak(Box::new(json!({
        "type": "object",
        "required": ["a"],
        "properties": { "a": { "type": ["integer", "null"] }, "b": { "anyOf": [{ "const": 1 }, { "enum": ["x"] }] } },
    })));
    let is_right = |value: Value| crate::support::described::conforms(schema, &value).is_ok();
    assert!(is_right(json!({ "a": 1, "b": "x" })) && is_right(json!({ "a": null, "b": 1 })));
    for wrong in [json!([]), json!({}), json!({ "a": "1" }), json!({ "a": 1, "b": 2 }), json!({ "a": 1, "c": 1 })] {
        assert!(!is_right(wrong.clone()), "{wrong}");
    }
}
