//! `event-handler publish`: one event.

use std::io::Read;

use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::client::Client;
use super::target::TargetArgs;
use super::{Failure, key_value, output};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler publish user.created '{\"user_id\":\"123\"}'
  event-handler publish user.created - < user.json
  event-handler publish order.paid '{\"total\":12.50}' --key order-7 --idempotency-key 5b1e
  event-handler publish job.done --source worker-3 --metadata host=a --metadata run=17

Prints the id of the event once it is committed. With an idempotency key it is safe to repeat.";

/// The event.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PublishArgs {
    /// Name of the event, such as user.created.
    name: String,
    /// Payload as JSON text; - reads it from standard input. Without one it is {}.
    payload: Option<String>,
    /// Who publishes; without one, "api".
    #[arg(long)]
    source: Option<String>,
    /// high, normal or low.
    #[arg(long)]
    priority: Option<String>,
    /// Ordering key.
    #[arg(long)]
    key: Option<String>,
    /// Repeated with the same key, the event is stored once.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// A note to keep with the event; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Publishes and prints the id.
pub fn run(args: &PublishArgs, config: &Config) -> Result<(), Failure> {
    let client = Client::new(args.target.resolve(config)?);
    let body = request(args)?;
    let answer = actix_rt::System::new().block_on(client.post("/publish", body))?.success()?;
    let id = answer.headers.get("event-id").and_then(|id| id.to_str().ok());
    let id = id.ok_or_else(|| Failure::Failed(format!("{} is not an Event Handler", client.target().base())))?;
    if answer.headers.contains_key("idempotent-replayed") {
        output::say(format_args!("event-handler: this idempotency key was used before; event {id} stands"));
    }
    output::print(id)
}

/// The body of the request. The payload goes in as it was given, byte for byte.
fn request(args: &PublishArgs) -> Result<Vec<u8>, Failure> {
    let PublishArgs { name, payload, source, priority, key, idempotency_key, metadata, target: _ } = args;
    let mut fields = Map::new();
    fields.insert("event_name".into(), name.as_str().into());
    let texts = [("source", source), ("priority", priority), ("key", key), ("idempotency_key", idempotency_key)];
    for (field, text) in texts {
        if let Some(text) = text {
            fields.insert(field.into(), text.as_str().into());
        }
    }
    if !metadata.is_empty() {
        let notes = metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        fields.insert("metadata".into(), Value::Object(notes.collect()));
    }
    let mut body = Value::Object(fields).to_string();
    if let Some(payload) = payload {
        body.truncate(body.len() - 1);
        body.push_str(r#","payload":"#);
        body.push_str(read(payload)?.get());
        body.push('}');
    }
    Ok(body.into_bytes())
}

fn read(payload: &str) -> Result<Box<RawValue>, Failure> {
    let text = if payload == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure::Failed(format!("cannot read the payload from standard input: {error}")))?;
        text
    } else {
        payload.to_owned()
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::Usage(format!("the payload is not JSON: {error}\nA text needs its quotes too: '\"like this\"'."))
    })
}
