//! `/openapi.json`: OpenAPI 3.1.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::embed::{draft, embed, escaped};
use super::notation::{described, schema};
use super::operations::{Answer, May, Operation, table};
use super::tree::Tree;
use super::types::{EventType, event_schema, key_of};
use crate::domain::schema::keywords::Draft;
use crate::protocol::error::ErrorCode;

const ABOUT: &str = "The central event service between microservices: publish, store, push.\n\n\
    Every JSON answer has the envelope `{\"status\",\"message\",\"data\"}`; the `data` of an error has a `code`. Besides what \
    an operation says, a path that does not exist is 404 `not_found`, another method 405 `method_not_allowed`, and a head \
    that is too long 431 `head_too_large`. `HEAD` is answered wherever `GET` is, `/ws` and `/admin/…` excepted.";

const TAGS: [(&str, &str); 14] = [
    ("Publish", "Events are stored before they are acknowledged."),
    ("Read", "The log of events."),
    ("Subscribe", "Events as they are published."),
    ("State", "The newest value of each entity."),
    ("Event types", "What payloads events of a name have."),
    ("Sagas", "Operations over several services that end as a whole."),
    ("System", "The state that all services are in together."),
    ("Health", "For monitors and orchestrators."),
    ("Documents", "What describes this API."),
    ("Operators", "What runs here."),
    ("Services", "Where events are delivered to."),
    ("Deliveries", "What was, is and is to be delivered."),
    ("Durable subscriptions", "Subscriptions whose position is kept here."),
    ("Access", "Tokens and revocations."),
];

/// The document for a server whose paths begin with `base_path`, with these event types: what is published may be one of
/// them.
pub fn openapi_with(base_path: &str, types: &[EventType]) -> String {
    let mut document = openapi(base_path);
    let mut schemas = Vec::new();
    for of_type in types {
        schemas.extend(of_a_type(of_type).into_iter().flatten());
    }
    if !schemas.is_empty() {
        let mut any = vec![json!({ "$ref": "#/components/schemas/Publish" })];
        let of_events = schemas.iter().map(|(name, _)| name).filter(|name| name.starts_with("event."));
        any.extend(of_events.map(|name| json!({ "$ref": format!("#/components/schemas/{name}") })));
        let about = "An event to be published. Its payload is that of its event type, if it has one.";
        let typed = Tree::from(json!({ "description": about, "anyOf": any }));
        schemas.push(("TypedPublish".to_owned(), typed));
        let reference = json!({ "$ref": "#/components/schemas/TypedPublish" });
        let body = |path: &str| format!("/paths/{}/post/requestBody/content/application~1json/schema", escaped(path));
        for place in [body("/publish"), body("/publish/batch") + "/items"] {
            *document.pointer_mut(&place).expect("invariant: it is published there") = reference.clone();
        }
    }
    let mut document = Tree::from(document);
    document.members(&["components", "schemas"]).extend(schemas);
    document.to_string()
}

/// The schemas of payloads and of events of a type, by name.
fn of_a_type(of_type: &EventType) -> Option<[(String, Tree); 2]> {
    let EventType { name, version, schema, description, owner, examples, is_deprecated } = of_type;
    // Some programs want objects where `true` and `false` may be.
    let schema = match schema.as_str() {
        "true" => Tree::object([]),
        "false" => Tree::object([("not", Tree::object([]))]),
        schema => Tree::parse(schema)?,
    };
    let key = key_of(name);
    let place = format!("/components/schemas/type.{key}");
    let mut payload = embed(&schema, &place, &format!("urn:event-type:{key}:{version}"));
    if draft(&schema) == Draft::Seven && payload.get("$schema").is_none() {
        payload.members(&[]).insert(0, ("$schema".to_owned(), Tree::from("http://json-schema.org/draft-07/schema#")));
    }
    let mut event = Tree::from(json!({
        "title": name,
        "allOf": [{ "$ref": "#/components/schemas/Publish" }, event_schema(name, &format!("#{place}"))],
        "deprecated": is_deprecated,
        "x-event-type": { "version": version, "owner": owner },
    }));
    let members = event.members(&[]);
    members.extend(description.iter().map(|text| ("description".to_owned(), Tree::from(text.as_str()))));
    // What a pattern matches has no name of its own.
    let shown = examples.iter().filter(|_| of_type.is_name()).filter_map(|text| Tree::parse(text));
    let shown = shown.map(|payload| Tree::object([("event_name", name.as_str().into()), ("payload", payload)]));
    let shown: Vec<Tree> = shown.collect();
    if !shown.is_empty() {
        members.push(("examples".to_owned(), Tree::Array(shown)));
    }
    Some([(format!("type.{key}"), payload), (format!("event.{key}"), event)])
}

/// The document without event types.
pub fn openapi(base_path: &str) -> Value {
    let mut paths = Map::new();
    let mut responses = BTreeMap::new();
    for operation in &table().operations {
        let method = operation.method().to_ascii_lowercase();
        paths.entry(operation.path()).or_insert_with(|| json!({}))[method] =
            described_operation(operation, &mut responses);
    }
    let mut schemas = table().schemas.as_ref().map(|schemas| schemas.expand()).unwrap_or_default();
    schemas.insert("Error".to_owned(), error_schema());
    let tags: Vec<Value> = TAGS.iter().map(|(name, about)| json!({ "name": name, "description": about })).collect();
    let server = if base_path.is_empty() { "/" } else { base_path };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Event Handler",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "servers": [{ "url": server, "description": "This server." }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A configured token or a JWT. Without configured tokens only operations for operators need one.",
                },
            },
        },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error; `data` may have details beside its code.",
        "required": ["status", "message", "data"],
        "properties": {
            "status": { "const": "error" },
            "message": { "type": "string", "minLength": 1 },
            "data": {
                "type": "object",
                "required": ["code"],
                "properties": { "code": { "enum": ErrorCode::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>() } },
                "additionalProperties": true,
            },
        },
    })
}

fn described_operation(operation: &Operation, responses: &mut BTreeMap<String, Value>) -> Value {
    let Operation { id, tag, summary, about, may, path, query, headers, .. } = operation;
    let at = |kind: &str, names: &BTreeMap<String, String>, name: &str, of: &str| {
        let text = names.get(of).unwrap_or_else(|| panic!("invariant: there is a {kind} {of:?}"));
        let mut schema = described(text);
        let about = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({ "name": name, "in": kind, "required": kind == "path", "schema": schema });
        if let Some(about) = about {
            parameter["description"] = about;
        }
        parameter
    };
    let named = |text: &str| {
        text.split_once('=').map_or((text.to_owned(), text.to_owned()), |(name, of)| (name.into(), of.into()))
    };
    let in_path = path.iter().map(|(name, of)| at("path", &table().path, name, of));
    let in_query = query.iter().map(|text| named(text)).map(|(name, of)| at("query", &table().query, &name, &of));
    let in_head = headers.iter().map(|name| at("header", &table().header, name, name));
    let parameters: Vec<Value> = in_path.chain(in_query).chain(in_head).collect();
    let mut described = json!({
        "operationId": id,
        "tags": [tag],
        "summary": summary,
        "description": format!("{}{}", about.as_ref().unwrap_or(summary), needs(*may)),
        "security": security(*may),
        "responses": answers(operation, responses),
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if !operation.body.is_empty() {
        let is_optional = operation.body.contains_key("optional");
        let media = operation.body.iter().filter_map(|(media, kind)| Some((media.as_str(), kind.as_str()?)));
        described["requestBody"] = json!({ "required": !is_optional, "content": content(media) });
    }
    described
}

fn security(may: May) -> Value {
    match may {
        May::Open | May::Page => json!([]),
        May::Admin => json!([{ "token": [] }]),
        May::Types | May::Metrics | May::Publish | May::Subscribe | May::Read | May::Connect => {
            json!([{}, { "token": [] }])
        }
    }
}

/// What a token has to allow.
fn needs(may: May) -> &'static str {
    match may {
        May::Open | May::Page => "",
        May::Types => "\n\nOpen to everybody; a token shows the event types that it may read.",
        May::Metrics => "\n\nNeeds `admin` if `access.protect_metrics` is set.",
        May::Publish => "\n\nNeeds `publish`, if tokens are configured.",
        May::Subscribe => "\n\nNeeds `subscribe`, if tokens are configured.",
        May::Read => "\n\nNeeds `read`, if tokens are configured.",
        May::Connect => "\n\nNeeds `publish` or `subscribe`, if tokens are configured.",
        May::Admin => "\n\nNeeds `admin`, always.",
    }
}

fn content<'a>(media: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    media.map(|(media, kind)| (media.to_owned(), json!({ "schema": schema(kind) }))).collect::<Map<_, _>>().into()
}

fn answers(operation: &Operation, responses: &mut BTreeMap<String, Value>) -> Value {
    let mut answers = Map::new();
    for (status, answer) in &operation.answers {
        let mut described = json!({ "description": meaning(status) });
        match answer {
            Answer::Data(kind) => {
                let also = operation.also.iter().map(|(media, kind)| (media.as_str(), kind.as_str()));
                described["content"] = content(also);
                described["content"]["application/json"] = json!({ "schema": envelope(kind) });
            }
            Answer::Media(media) if media.is_empty() => {}
            Answer::Media(media) => {
                described["content"] = content(media.iter().map(|(media, kind)| (media.as_str(), kind.as_str())));
            }
        }
        if !operation.returns.is_empty() {
            let headers = operation.returns.iter().map(|name| (name.clone(), returned(name)));
            described["headers"] = headers.collect::<Map<_, _>>().into();
        }
        answers.insert(status.clone(), described);
    }
    let errors = operation.errors();
    let statuses: BTreeSet<u16> = errors.iter().map(|(status, _)| *status).collect();
    for status in statuses {
        let codes: Vec<ErrorCode> = errors.iter().filter(|(of, _)| *of == status).map(|(_, code)| *code).collect();
        let response = error_response(status, &codes);
        match answers.get_mut(&status.to_string()) {
            // Not ready, and at the same path an error.
            Some(answer) => {
                answer["content"]["application/json"]["schema"] = json!({ "anyOf": [
                answer["content"]["application/json"]["schema"].take(),
                response["content"]["application/json"]["schema"],
            ] })
            }
            None => {
                let name = name_of(status, &codes);
                answers.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }));
                responses.insert(name, response);
            }
        }
    }
    answers.into()
}

/// What a success means.
fn meaning(status: &str) -> &'static str {
    match status {
        "101" => "The connection is a WebSocket from here on.",
        "201" => "It is new.",
        "202" => "It will be done.",
        "304" => "Nothing has changed.",
        "503" => "Not ready.",
        _ => "Done.",
    }
}

fn envelope(kind: &str) -> Value {
    json!({
        "type": "object",
        "required": ["status", "message", "data"],
        "properties": { "status": { "const": "ok" }, "message": { "type": "string" }, "data": schema(kind) },
    })
}

fn returned(name: &str) -> Value {
    let text = table().returned.get(name).unwrap_or_else(|| panic!("invariant: there is a header {name:?}"));
    let mut schema = described(text);
    let about = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    json!({ "schema": schema, "description": about })
}

fn name_of(status: u16, codes: &[ErrorCode]) -> String {
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let own = if codes.iter().all(|code| code.status() == status) { String::new() } else { format!("{status}.") };
    format!("{own}{}", names.join("."))
}

fn error_response(status: u16, codes: &[ErrorCode]) -> Value {
    let meanings: Vec<String> = codes.iter().map(|code| format!("- `{code}`: {}", code.meaning())).collect();
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let mut response = json!({
        "description": meanings.join("\n"),
        "content": { "application/json": { "schema": {
            "allOf": [{ "$ref": "#/components/schemas/Error" }],
            "properties": { "data": { "properties": { "code": { "enum": names } } } },
        } } },
    });
    if matches!(status, 429 | 503) {
        response["headers"] = json!({ "Retry-After": returned("Retry-After") });
    }
    response
}

/// All references below a value.
#[cfg(test)]
pub fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::documents::OUTSIDE;

    #[test]
    fn every_reference_leads_somewhere_and_everything_is_referred_to() {
        let document = openapi("");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let there = document.pointer(reference.trim_start_matches('#'));
            assert!(there.is_some(), "{reference}");
        }
        for kind in ["schemas", "responses"] {
            for name in document["components"][kind].as_object().expect("components").keys() {
                assert!(found.contains(&format!("#/components/{kind}/{name}")), "{kind} {name} is of no use");
            }
        }
    }

    #[test]
    fn what_is_published_may_be_of_a_type() {
        let of = |name: &str, schema: &str| EventType {
            name: name.to_owned(),
            version: 2,
            schema: schema.to_owned(),
            description: None,
            owner: Some("sales".to_owned()),
            examples: vec![r#"{"n":1e400}"#.to_owned()],
            is_deprecated: true,
        };
        let types = [
            of("bid.placed", r##"{"$ref":"#/$defs/a","$defs":{"a":{"maximum":1e400}}}"##),
            of(
                "lot:*",
                r##"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"$ref":"#/items/1"},true]}"##,
            ),
        ];
        let text = openapi_with("", &types);
        assert_eq!(text.matches("1e400").count(), 2, "numbers stay as they are");
        let document: Value = serde_json::from_str(&text.replace("1e400", "1")).expect("JSON");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        let schemas = &document["components"]["schemas"];
        for name in schemas.as_object().expect("schemas").keys() {
            let whole = format!("#/components/schemas/{name}");
            assert!(found.contains(&whole), "{name} is of no use");
        }
        assert_eq!(schemas["type.bid.placed"]["$ref"], "#/components/schemas/type.bid.placed/$defs/a");
        let lots = &schemas["type.lot_3A_2A"];
        assert_eq!(lots["$schema"], "http://json-schema.org/draft-07/schema#");
        assert_eq!(lots["items"][0]["$ref"], "#/components/schemas/type.lot_3A_2A/items/1");
        assert_eq!(
            schemas["event.bid.placed"]["examples"],
            json!([{ "event_name": "bid.placed", "payload": { "n": 1 } }])
        );
        let without: Value = serde_json::from_str(&openapi_with("", &[])).expect("JSON");
        assert_eq!(without, openapi(""));
    }

    #[test]
    fn parameters_of_paths_are_those_of_the_operations() {
        for operation in &table().operations {
            let in_path: BTreeSet<&str> =
                operation.path().split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            assert_eq!(in_path, operation.path.keys().map(String::as_str).collect(), "{}", operation.on);
            let statuses: Vec<_> = operation.answers.keys().filter(|status| status.parse::<u16>().is_err()).collect();
            assert!(statuses.is_empty() && !operation.answers.is_empty(), "{}: {statuses:?}", operation.on);
            assert!(TAGS.iter().any(|(tag, _)| *tag == operation.tag), "{}", operation.on);
        }
        for (kind, all) in [("query", &table().query), ("header", &table().header), ("path", &table().path)] {
            for name in all.keys() {
                let is_used = table().operations.iter().any(|operation| match kind {
                    "query" => operation.query.iter().any(|of| of.split('=').next_back() == Some(name)),
                    "header" => operation.headers.contains(name),
                    _ => operation.path.values().any(|of| of == name),
                });
                assert!(is_used, "{kind} {name} is of no use");
            }
        }
    }

    #[test]
    fn every_error_is_that_of_an_operation_or_of_a_frame() {
        // Answers to frames, which the other document tells of.
        let of_frames = [
            ErrorCode::UnknownAction,
            ErrorCode::UnsupportedFrame,
            ErrorCode::TooManySubscriptions,
            ErrorCode::NotDelivered,
            ErrorCode::NotAMember,
            ErrorCode::TooManyDurables,
            ErrorCode::DurableMismatch,
        ];
        let said: BTreeSet<&str> = table()
            .operations
            .iter()
            .flat_map(|operation| operation.errors())
            .map(|(_, code)| code)
            .chain(of_frames)
            .chain(OUTSIDE)
            .map(ErrorCode::as_str)
            .collect();
        assert_eq!(said, ErrorCode::ALL.iter().map(|code| code.as_str()).collect());
    }
}
