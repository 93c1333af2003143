//! What a service that keeps a copy of entities is asked, what it answers, and what is told of it.

use std::collections::HashSet;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::entity::{Buckets, EntityKey, EntityType, Mark, Version};
use crate::domain::event::EventId;
use crate::domain::log::LogId;
use crate::domain::sync::{Counts, Current, Difference, Happened, Kind, TheirDigest};

/// Bytes that a digest or the list of a bucket may have.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// What is encoded of a type in a path: all but the unreserved characters of RFC 3986, because there are services that do
/// not decode.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a service has its digest, below its own `path`.
pub fn digest_path(path: &str, kind: &EntityType, buckets: u32) -> String {
    format!("{path}/{}/digest?buckets={buckets}", utf8_percent_encode(kind.as_str(), ENCODED))
}

/// Where it has the entities of a bucket.
pub fn bucket_path(path: &str, kind: &EntityType, bucket: u32, buckets: u32) -> String {
    format!("{path}/{}/digest/{bucket}?buckets={buckets}", utf8_percent_encode(kind.as_str(), ENCODED))
}

#[derive(Deserialize)]
struct DigestBody {
    #[serde(rename = "type")]
    kind: Option<String>,
    as_of: Option<EventId>,
    count: u64,
    buckets: Vec<String>,
}

#[derive(Deserialize)]
struct EntityBody {
    key: String,
    version: Version,
}

/// An answer in the envelope of the Event Handler.
#[derive(Deserialize)]
struct Enveloped<T> {
    data: T,
}

/// Reads data, in our envelope or alone.
fn data<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    // A list would be read as an envelope, too, by its only member.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let read = if is_object && serde_json::from_slice::<Enveloped<IgnoredAny>>(body).is_ok() {
        serde_json::from_slice::<Enveloped<T>>(body).map(|Enveloped { data }| data)
    } else {
        serde_json::from_slice(body)
    };
    read.map_err(|error| error.to_string())
}

/// Reads the digest of a service that was asked for so many buckets of a type.
pub fn their_digest(body: &[u8], kind: &EntityType, buckets: u32) -> Result<TheirDigest, String> {
    let DigestBody { kind: named, as_of, count, buckets: texts } = data(body)?;
    if named.is_some_and(|named| named != kind.as_str()) {
        return Err("it is of another type".to_owned());
    }
    if as_of.is_some_and(|as_of| as_of < 0) {
        return Err("as_of is negative".to_owned());
    }
    if texts.len() != buckets as usize {
        return Err(format!("it has {} buckets, and not {buckets}", texts.len()));
    }
    let sum = |text: &String| {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| is_hex)
    };
    let sums: Option<Vec<u64>> = texts.iter().map(sum).collect();
    let sums = sums.ok_or("a bucket is not 16 hexadecimal digits")?;
    Ok(TheirDigest { as_of, buckets: Buckets { count, sums } })
}

/// Reads the entities of one of so many buckets of a service.
pub fn their_bucket(body: &[u8], bucket: u32, buckets: u32) -> Result<Vec<(EntityKey, Version)>, String> {
    let list: Vec<EntityBody> = data(body)?;
    let mut seen = HashSet::with_capacity(list.len());
    let read = list.into_iter().map(|EntityBody { key, version }| {
        let key = EntityKey::parse(key).map_err(|error| format!("a key {error}"))?;
        if version <= 0 {
            return Err(format!("the version of {key:?} is not positive"));
        }
        if Mark::slot(key.as_str()) & (buckets - 1) != bucket {
            return Err(format!("{key:?} is not of this bucket"));
        }
        if !seen.insert(key.clone()) {
            return Err(format!("{key:?} is there twice"));
        }
        Ok((key, version))
    });
    read.collect()
}

/// Names a repair: the same for every attempt, and unlike any delivery or other repair.
pub fn repair_id(log: LogId, run: u64, service: &str, key: &str, version: Version) -> String {
    let named = Sha256::digest(format!("{log}\n{run:016x}\n{service}\n{version}\n{key}"));
    let mut id = String::from("rep_");
    for byte in &named[..16] {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// The differences by kind.
pub fn counts_json(counts: Counts) -> Value {
    let of = |kind: Kind| (kind.as_str().to_owned(), counts.of(kind).into());
    Value::Object(Kind::ALL.into_iter().map(of).collect())
}

/// The name and the payload of what is published of a type at a service.
pub fn happened(service: &str, kind: &EntityType, happened: &Happened) -> (&'static str, Value) {
    match happened {
        Happened::Synced { as_of } => {
            ("$sys.state.synced", json!({ "service": service, "type": kind.as_str(), "as_of": as_of }))
        }
        Happened::Diverged { counts, sample } => {
            let sample: Vec<Value> = sample.iter().map(difference_json).collect();
            let counts = counts_json(*counts);
            (
                "$sys.state.diverged",
                json!({ "service": service, "type": kind.as_str(), "counts": counts, "sample": sample }),
            )
        }
    }
}

fn difference_json(Difference { key, kind, theirs, ours, at: _ }: &Difference) -> Value {
    let version = if let Current::Present(version) = ours { Some(*version) } else { None };
    json!({ "key": key.as_str(), "kind": kind.as_str(), "version": version, "service_version": theirs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> EntityType {
        EntityType::parse("große lot").expect("a type")
    }

    fn digest(body: &str) -> Result<TheirDigest, String> {
        their_digest(body.as_bytes(), &kind(), 2)
    }

    #[test]
    fn paths_name_any_type() {
        assert_eq!(digest_path("/sync", &kind(), 256), "/sync/gro%C3%9Fe%20lot/digest?buckets=256");
        let plain = EntityType::parse("lot-bid_v2~").expect("a type");
        assert_eq!(digest_path("/sync", &plain, 256), "/sync/lot-bid_v2~/digest?buckets=256");
        assert_eq!(bucket_path("", &kind(), 3, 256), "/gro%C3%9Fe%20lot/digest/3?buckets=256");
    }

    #[test]
    fn a_digest_is_read_with_or_without_an_envelope() {
        let alone = r#"{"type":"große lot","as_of":7,"count":1,"buckets":["00000000000000ff","0000000000000000"]}"#;
        let expected = TheirDigest { as_of: Some(7), buckets: Buckets { count: 1, sums: vec![0xff, 0] } };
        assert_eq!(digest(alone), Ok(expected.clone()));
        assert_eq!(digest(&format!(r#"{{"status":"success","data":{alone}}}"#)), Ok(expected));
        let none = r#"{"count":0,"buckets":["0000000000000000","0000000000000000"],"more":1}"#;
        assert_eq!(digest(none).map(|digest| digest.as_of), Ok(None));
    }

    #[test]
    fn what_is_no_digest_is_said() {
        let zero = "0000000000000000";
        for (body, reason) in [
            ("", "EOF"),
            ("<html>", "expected value"),
            (r#"{"status":"success","data":{"count":0}}"#, "missing field `buckets`"),
            (&format!(r#"{{"count":0,"buckets":["{zero}"]}}"#), "it has 1 buckets, and not 2"),
            (&format!(r#"{{"count":-1,"buckets":["{zero}","{zero}"]}}"#), "invalid value"),
            (&format!(r#"{{"count":0,"as_of":-1,"buckets":["{zero}","{zero}"]}}"#), "as_of is negative"),
            (&format!(r#"{{"count":0,"as_of":1e30,"buckets":["{zero}","{zero}"]}}"#), "invalid type"),
            (&format!(r#"{{"count":0,"buckets":["{zero}","0"]}}"#), "16 hexadecimal"),
            (&format!(r#"{{"count":0,"buckets":["{zero}","+000000000000000"]}}"#), "16 hexadecimal"),
            (&format!(r#"{{"type":"lot","count":0,"buckets":["{zero}","{zero}"]}}"#), "another type"),
        ] {
            let error = digest(body).expect_err(body);
            assert!(error.contains(reason), "{body}: {error}");
        }
    }

    #[test]
    fn a_bucket_has_each_of_its_keys_once() {
        // "a1" has the slot 13152, which is even.
        let read = |body: &str| their_bucket(body.as_bytes(), 0, 2);
        let key = EntityKey::parse("a1").expect("a key");
        let list = r#"[{"key":"a1","version":57}]"#;
        assert_eq!(read(list), Ok(vec![(key.clone(), 57)]));
        assert_eq!(read(&format!(r#"{{"status":"success","data":{list}}}"#)), Ok(vec![(key, 57)]));
        for (body, reason) in [
            (r#"[{"key":"a1","version":57},{"key":"a1","version":58}]"#, "twice"),
            (r#"[{"key":"a1","version":0}]"#, "not positive"),
            (r#"[{"key":"","version":1}]"#, "must be 1 to 255 bytes"),
            (r#"[{"key":"a1"}]"#, "version"),
            (r#"{"a1":57}"#, "expected a sequence"),
        ] {
            let error = read(body).expect_err(body);
            assert!(error.contains(reason), "{body}: {error}");
        }
        assert!(their_bucket(list.as_bytes(), 1, 2).expect_err("of another").contains("not of this bucket"));
    }
}
