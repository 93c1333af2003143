//! [CloudEvents](https://cloudevents.io) 1.0 over HTTP, both ways.
//!
//! Where the parts of a CloudEvent are kept in an event, so that they come out again:
//!
//! | CloudEvent | event |
//! | --- | --- |
//! | `type` | name |
//! | `source` | source |
//! | `subject` | key |
//! | `source` and `id` | idempotency key, see [`idempotency_key`] |
//! | `traceparent` | traceparent |
//! | `id`, `time`, `datacontenttype`, `dataschema`, every other extension | metadata, as `ce-` and the name |
//! | which extensions are integers or booleans (structured mode) | metadata `ce-as-literals`: their names |
//! | data: JSON | payload, as the text it is |
//! | data: text of another type | payload: a JSON string |
//! | data: anything else, or `data_base64` | payload: a JSON string in base64; metadata `ce-data` is `"base64"` |
//! | no data | payload `null`; metadata `ce-data` is `"none"` |

mod read;
mod write;

#[cfg(test)]
mod tests;

pub use self::read::{parse_batch, parse_binary, parse_structured};
pub use self::write::{binary_request, structured_request};

/// Content type of the structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// Content type of the batched mode.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// Begins the headers of the binary mode, and the keys of metadata that hold attributes.
const PREFIX: &str = "ce-";
/// Tells how the payload stands for the data, where it is not simply that. No attribute can have this name.
const DATA_KEY: &str = "ce-data";
/// Names the extensions that are JSON literals (integers, booleans) rather than text, with spaces between them. No
/// attribute can have this name.
const LITERALS_KEY: &str = "ce-as-literals";
const BASE64_DATA: &str = "base64";
const NO_DATA: &str = "none";

/// Attributes that have a place of their own, or are no extensions.
const CORE: [&str; 8] = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

/// Whether `name` can be the name of an attribute.
fn is_attribute(name: &str) -> bool {
    !name.is_empty() && name != "data" && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Whether data of this media type is JSON. No type at all means so.
fn is_json(media_type: Option<&str>) -> bool {
    media_type.is_none_or(|text| {
        let essence = essence(text);
        essence.ends_with("/json") || essence.ends_with("+json")
    })
}

/// Whether data of this media type is text.
fn is_text(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.starts_with("text/") || essence.ends_with("/xml") || essence.ends_with("+xml")
}

fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
