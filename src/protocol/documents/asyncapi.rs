//! `/asyncapi.json`: AsyncAPI 3.0.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::embed::{draft, embed, escaped};
use super::notation::Schemas;
use super::operations::table;
use super::tree::Tree;
use super::types::{EventType, event_schema, key_of};
use crate::domain::schema::keywords::Draft;

const ABOUT: &str = "What the Event Handler sends and takes besides HTTP requests, which /openapi.json describes. `receive` is \
    what it takes, `send` what it gives. Each event of its own, `$sys.…`, is a message, and each event type of the catalogue \
    that the caller may read.";

/// What is written down in `messages.toml`.
#[derive(Debug, Deserialize)]
struct Messages {
    channel: BTreeMap<String, Channel>,
    /// The schemas of the payloads of the Event Handler's own events, by name.
    own: BTreeMap<String, String>,
    #[serde(flatten)]
    schemas: Schemas,
}

#[derive(Debug, Deserialize)]
struct Channel {
    address: String,
    server: String,
    about: String,
    /// What `{type}` in the address stands for.
    parameter: Option<String>,
    receives: Vec<String>,
    sends: Vec<String>,
    /// How the event types are sent.
    types: Option<Shape>,
}

/// How an event is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    /// As an object with its name and its payload.
    Event,
    /// As its payload.
    Payload,
}

impl Shape {
    fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Payload => "payload",
        }
    }
}

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| toml::from_str(include_str!("messages.toml")).expect("invariant: tests read messages.toml"))
}

/// The document for a server whose paths begin with `base_path`, with these event types.
pub fn asyncapi(base_path: &str, types: &[EventType]) -> String {
    let mut document = Tree::from(fixed(base_path));
    for of_type in types {
        add(&mut document, of_type);
    }
    document.to_string()
}

/// All but the event types.
fn fixed(base_path: &str) -> Value {
    let Messages { channel: channels, own, schemas } = messages();
    let mut all = table().schemas.as_ref().map(Schemas::expand).unwrap_or_default();
    all.extend(schemas.expand());
    let (mut of_channels, mut operations, mut of_messages) = (Map::new(), Map::new(), Map::new());
    for (name, channel) in channels {
        let of_own = own.keys().filter_map(|name| Some(key(channel.types?, name)));
        let sends: Vec<String> = channel.sends.iter().cloned().chain(of_own).collect();
        let used: BTreeSet<&String> = channel.receives.iter().chain(&sends).collect();
        let reference = |name: &String| (name.clone(), json!({ "$ref": format!("#/components/messages/{name}") }));
        let mut described = json!({
            "address": channel.address,
            "description": channel.about,
            "servers": [{ "$ref": format!("#/servers/{}", channel.server) }],
            "messages": used.iter().map(|name| reference(name)).collect::<Map<_, _>>(),
        });
        if let Some(about) = &channel.parameter {
            described["parameters"] = json!({ "type": { "description": about } });
        }
        of_channels.insert(name.clone(), described);
        for (action, used) in [("receive", &channel.receives), ("send", &sends)] {
            let reference = |of: &String| json!({ "$ref": format!("#/channels/{name}/messages/{of}") });
            if !used.is_empty() {
                operations.insert(
                    format!("{name}.{action}"),
                    json!({
                        "action": action,
                        "channel": { "$ref": format!("#/channels/{name}") },
                        "description": channel.about,
                        "messages": used.iter().map(reference).collect::<Vec<_>>(),
                    }),
                );
            }
        }
        for name in channel.receives.iter().chain(&channel.sends) {
            of_messages.insert(name.clone(), message(name, &all));
        }
    }
    for (name, schema) in own {
        for shape in [Shape::Event, Shape::Payload] {
            of_messages.insert(key(shape, name), own_message(shape, name, schema, &all));
        }
    }
    let mut needed = BTreeSet::new();
    need(&Value::from(of_messages.clone()), &all, &mut needed);
    all.retain(|name, _| needed.contains(name));
    let server = |host: &str, variable: &str, protocol: &str, about: &str, path: &str| {
        let mut server = json!({
            "host": format!("{{{variable}}}"),
            "protocol": protocol,
            "description": about,
            "variables": { variable: { "default": host, "description": "Host and port." } },
        });
        if !path.is_empty() {
            server["pathname"] = path.into();
        }
        server
    };
    let here =
        "A token goes into `Authorization: Bearer`, a subprotocol `bearer.TOKEN`, or the parameter `access_token`.";
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Event Handler",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT", "url": "https://spdx.org/licenses/MIT.html" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "websocket": server("127.0.0.1:4300", "host", "ws", here, base_path),
            "http": server("127.0.0.1:4300", "host", "http", here, base_path),
            "service": server("service.example", "service", "http", "A service of `[[services]]`.", ""),
            "redis": server("127.0.0.1:6379", "redis", "redis", "The Redis of `REDIS_URL`.", ""),
        },
        "channels": of_channels,
        "operations": operations,
        "components": { "messages": of_messages, "schemas": all },
    })
}

fn message(name: &str, schemas: &Map<String, Value>) -> Value {
    let mut message = json!({
        "name": name,
        "title": name,
        "contentType": "application/json",
        "payload": { "$ref": format!("#/components/schemas/{name}") },
    });
    if let Some(about) = schemas.get(name).and_then(|schema| schema.get("description")) {
        message["summary"] = about.clone();
    }
    if name == "Delivered" {
        message["headers"] = json!({ "$ref": "#/components/schemas/DeliveryHeaders" });
    }
    message
}

/// One of the Event Handler's own events.
fn own_message(shape: Shape, name: &str, schema: &str, schemas: &Map<String, Value>) -> Value {
    let place = format!("#/components/schemas/{schema}");
    json!({
        "name": name,
        "title": name,
        "summary": schemas[schema]["description"],
        "contentType": "application/json",
        "payload": match shape {
            Shape::Payload => json!({ "$ref": place }),
            Shape::Event => event_schema(name, &place),
        },
    })
}

/// The key of the message of events of a name or a pattern.
fn key(shape: Shape, name: &str) -> String {
    format!("{}.{}", shape.as_str(), key_of(name))
}

/// Adds the schemas that `value` refers to, and those that these refer to.
fn need(value: &Value, schemas: &Map<String, Value>, needed: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            let name =
                object.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix("#/components/schemas/"));
            if let Some(name) = name
                && needed.insert(name.to_owned())
            {
                need(&schemas[name], schemas, needed);
            }
            object.values().for_each(|value| need(value, schemas, needed));
        }
        Value::Array(items) => items.iter().for_each(|item| need(item, schemas, needed)),
        _ => {}
    }
}

/// The `schemaFormat` of a draft.
fn schema_format(draft: Draft) -> &'static str {
    match draft {
        Draft::Seven => "application/schema+json;version=draft-07",
        Draft::Newest => "application/schema+json;version=draft-2020-12",
    }
}

/// Adds an event type: its schema, and a message for each shape in which it is sent.
fn add(document: &mut Tree, of_type: &EventType) {
    let EventType { name, version, schema, description, owner, examples, is_deprecated } = of_type;
    let Some(schema) = Tree::parse(schema) else { return };
    let (key, format) = (key_of(name), schema_format(draft(&schema)));
    let place = format!("/components/schemas/type.{key}");
    let schema = embed(&schema, &format!("{place}/schema"), &format!("urn:event-type:{key}:{version}"));
    let formatted = |schema| Tree::object([("schemaFormat", format.into()), ("schema", schema)]);
    document.members(&["components", "schemas"]).push((format!("type.{key}"), formatted(schema)));
    let is_name = of_type.is_name();
    for shape in [Shape::Event, Shape::Payload] {
        let of = self::key(shape, name);
        let payload = match shape {
            Shape::Payload => Tree::from(json!({ "$ref": format!("#{place}") })),
            Shape::Event => formatted(Tree::from(event_schema(name, &format!("#{place}/schema")))),
        };
        let mut message = Tree::from(json!({
            "name": name,
            "title": name,
            "contentType": "application/json",
            "tags": if *is_deprecated { json!([{ "name": "deprecated" }]) } else { json!([]) },
            "x-event-type": { "version": version, "owner": owner, "deprecated": is_deprecated },
        }));
        let members = message.members(&[]);
        members.extend(description.iter().map(|text| ("description".to_owned(), Tree::from(text.as_str()))));
        members.push(("payload".to_owned(), payload));
        // What a pattern matches has no name of its own.
        let shown = examples.iter().filter(|_| is_name || shape == Shape::Payload).filter_map(|text| Tree::parse(text));
        let shown: Vec<Tree> = shown
            .map(|payload| match shape {
                Shape::Payload => Tree::object([("payload", payload)]),
                Shape::Event => Tree::object([(
                    "payload",
                    Tree::object([("event_name", name.as_str().into()), ("payload", payload)]),
                )]),
            })
            .collect();
        if !shown.is_empty() {
            members.push(("examples".to_owned(), Tree::Array(shown)));
        }
        document.members(&["components", "messages"]).push((of.clone(), message));
        let sent = messages().channel.iter().filter(|(_, channel)| channel.types == Some(shape));
        for (channel, _) in sent {
            let reference = |to: String| Tree::object([("$ref", Tree::from(&*to))]);
            let there = document.members(&["channels", channel, "messages"]);
            there.push((of.clone(), reference(format!("#/components/messages/{of}"))));
            let sends = document.members(&["operations", &format!("{channel}.send")]);
            if let Some((_, Tree::Array(sends))) = sends.iter_mut().find(|(name, _)| name == "messages") {
                sends.push(reference(format!("#/channels/{channel}/messages/{}", escaped(&of))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::saga::Told;
    use crate::protocol::documents::openapi::references;
    use crate::protocol::request::ACTIONS;

    fn event_type(name: &str, schema: &str) -> EventType {
        EventType {
            name: name.to_owned(),
            version: 3,
            schema: schema.to_owned(),
            description: Some("What it is.".to_owned()),
            owner: Some("somebody".to_owned()),
            examples: vec![r#"{"n":1e400}"#.to_owned()],
            is_deprecated: false,
        }
    }

    fn parsed(types: &[EventType]) -> (String, Value) {
        let text = asyncapi("/a", types);
        // This number is beyond what the test can read.
        (text.clone(), serde_json::from_str(&text.replace("1e400", "1")).expect("JSON"))
    }

    #[test]
    fn every_reference_leads_somewhere_and_everything_is_referred_to() {
        let types = [
            event_type("bid.placed", r##"{"$ref":"#/$defs/a","$defs":{"a":{"maximum":1e400}}}"##),
            event_type("lot:*", "true"),
            event_type("a/b c_d", r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#),
        ];
        let (text, document) = parsed(&types);
        assert!(text.contains(r#""maximum":1e400"#), "numbers stay as they are");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        for kind in ["schemas", "messages"] {
            for name in document["components"][kind].as_object().expect("components").keys() {
                let whole = format!("#/components/{kind}/{name}");
                assert!(found.iter().any(|found| found.starts_with(&whole)), "{kind} {name} is of no use");
            }
        }
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["type.bid.placed"]["schemaFormat"], "application/schema+json;version=draft-2020-12");
        assert_eq!(schemas["type.bid.placed"]["schema"]["$ref"], "#/components/schemas/type.bid.placed/schema/$defs/a");
        assert_eq!(schemas["type.lot_3A_2A"]["schema"], true);
        assert_eq!(schemas["type.a_2Fb_20c_5Fd"]["schemaFormat"], "application/schema+json;version=draft-07");
        let named =
            |of: &str| document["components"]["messages"][of]["payload"]["schema"]["properties"]["event_name"].clone();
        assert_eq!(named("event.bid.placed"), json!({ "const": "bid.placed" }));
        assert_eq!(named("event.lot_3A_2A"), json!({ "type": "string", "pattern": "^lot:[^.]*$" }));
        assert_eq!(document["servers"]["websocket"]["pathname"], "/a");
    }

    #[test]
    fn what_is_told_of_sagas_and_actions_of_operators_are_there() {
        let (_, document) = parsed(&[]);
        let messages = document["components"]["messages"].as_object().expect("messages");
        let names = |prefix: &str| -> BTreeSet<&str> {
            messages.values().filter_map(|message| message["name"].as_str()?.strip_prefix(prefix)).collect()
        };
        assert_eq!(names("$sys.saga."), Told::ALL.iter().map(|told| told.as_str()).collect());
        assert_eq!(messages["payload._24sys.admin.action"]["payload"]["$ref"], "#/components/schemas/AdminAction");
        let event = &messages["event._24sys.admin.action"]["payload"]["properties"];
        assert_eq!(event["event_name"], json!({ "const": "$sys.admin.action" }));
    }

    #[test]
    fn actions_are_those_of_frames() {
        let (_, document) = parsed(&[]);
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        let said: BTreeSet<&str> =
            schemas.values().filter_map(|schema| schema["properties"]["action"]["const"].as_str()).collect();
        assert_eq!(said, ACTIONS.iter().copied().collect());
    }
}
