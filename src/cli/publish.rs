//! `event-handler publish`: one event.

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::api_client::ApiClient;
use super::target::TargetArgs;
use super::{Failure, key_value, output, payload};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler publish user.created '{\"user_id\":\"123\"}'
  event-handler publish user.created < user.json
  event-handler publish auction.ends '{\"lot\":1}' --deliver-at 2026-12-31T23:00:00+01:00
  event-handler publish order.paid '{\"total\":12.50}' --key order-7 --idempotency-key 5b1e
  event-handler publish job.done --source worker-3 --metadata host=a --metadata run=17

Prints the id of the event, or of the schedule, once it is committed. With an idempotency key it is safe to repeat.";

/// The event.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PublishArgs {
    /// Name of the event, such as user.created.
    name: String,
    /// Payload as JSON text. Without one it is read from standard input, unless that is a terminal; where there is nothing
    /// it is {}. - reads it from there in any case.
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
    /// Publish it then and not now (RFC 3339, such as 2026-01-31T12:00:00Z); `event-handler schedules` shows what waits.
    #[arg(long, value_name = "TIME")]
    deliver_at: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

/// What a publish for later is answered with.
#[derive(Deserialize)]
struct Scheduled {
    schedule_id: String,
}

/// Publishes and prints the id.
pub fn run(args: &PublishArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve(config)?);
    let body = request(args)?;
    let answer = actix_rt::System::new().block_on(api.post("/publish", body))?.success()?;
    let is_replayed = answer.headers.contains_key("idempotent-replayed");
    let event_id = answer.headers.get("event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let (what, id) = match event_id {
        Some(id) => ("event", id),
        None => ("schedule", api.data::<Scheduled>(answer)?.schedule_id),
    };
    if is_replayed {
        output::say(format_args!("event-handler: this idempotency key was used before; {what} {id} stands"));
    }
    output::print(id)
}

/// The body of the request. The payload goes in as it was given, byte for byte.
fn request(args: &PublishArgs) -> Result<Vec<u8>, Failure> {
    let PublishArgs { name, payload, source, priority, key, idempotency_key, metadata, deliver_at, target: _ } = args;
    let mut fields = Map::new();
    fields.insert("event_name".into(), name.as_str().into());
    let texts = [
        ("source", source),
        ("priority", priority),
        ("key", key),
        ("idempotency_key", idempotency_key),
        ("deliver_at", deliver_at),
    ];
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
    if let Some(payload) = payload::read(payload.as_deref())? {
        body.truncate(body.len() - 1);
        body.push_str(r#","payload":"#);
        body.push_str(payload.get());
        body.push('}');
    }
    Ok(body.into_bytes())
}
