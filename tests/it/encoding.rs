//! Content codings: compressed bodies, and compressed answers.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::{Backend, Server, for_each_backend};

const MIB: usize = 1024 * 1024;

/// `{"event_name":"br","payload":{"n":1}}`, and 20 MiB of spaces.
const BROTLI: &str = "0b12807b226576656e745f6e616d65223a226272222c227061796c6f6164223a7b226e223a317d7d03";
const BROTLI_BOMB: &str = "cbffff3ff82540e2b14020f7fe8fffff7ff04b00c4611180eefd5ffeffffe0970088c30200ddfb1f";

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(body).expect("memory");
    packed.finish().expect("memory")
}

fn zstd(body: &[u8]) -> Vec<u8> {
    compress_to_vec(body, CompressionLevel::Fastest)
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn publish(server: &Server, path: &str, coding: &str, body: Vec<u8>) -> Response {
    let request = server.request("POST", path).header("Content-Encoding", coding);
    request.header("Content-Type", "application/json").body(body).send()
}

#[test]
fn compressed_bodies_are_published() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let event = |name: &str| json!({"event_name": name, "payload": {"n": 1}}).to_string().into_bytes();
        for (coding, body) in [
            ("gzip", gzip(&event("gzip"))),
            ("X-GZIP", gzip(&event("x-gzip"))),
            ("br", bytes(BROTLI)),
            ("identity, zstd", zstd(&event("identity, zstd"))),
            ("identity", event("identity")),
        ] {
            let id = publish(&server, "/publish", coding, body).event_id();
            let event = server.get(&format!("/events/{id}")).data();
            assert_eq!(
                (event["event_name"].as_str(), &event["payload"]),
                (Some(&*coding.to_lowercase()), &json!({"n": 1}))
            );
        }
        let batch = [b"[", &event("a")[..], b",", &event("b"), b"]"].concat();
        assert_eq!(publish(&server, "/publish/batch", "gzip", gzip(&batch)).data()["count"], 2);
    });
}

#[test]
fn a_decompression_bomb_is_413() {
    let server = Server::start(Backend::Sqlite);
    let spaces = vec![b' '; 20 * MIB];
    for (coding, bomb) in [("gzip", gzip(&spaces)), ("br", bytes(BROTLI_BOMB)), ("zstd", zstd(&spaces))] {
        for path in ["/publish", "/publish/batch"] {
            let refused = publish(&server, path, coding, bomb.clone()).error(413);
            assert_eq!(refused["code"], "body_too_large", "{coding} {path}");
        }
    }
    // The limit is that of the event, packed or not.
    let body = |bytes: usize| {
        let frame = r#"{"event_name":"big","payload":""}"#;
        frame.replace(r#""""#, &format!("\"{}\"", "x".repeat(bytes - frame.len()))).into_bytes()
    };
    publish(&server, "/publish", "gzip", gzip(&body(MIB))).data();
    assert_eq!(publish(&server, "/publish", "gzip", gzip(&body(MIB + 1))).error(413)["limit_bytes"], MIB);
}

#[test]
fn a_body_that_is_not_what_its_encoding_says_is_refused() {
    let server = Server::start(Backend::Sqlite);
    let event = json!({"event_name": "a"}).to_string().into_bytes();
    for coding in ["gzip", "br", "zstd"] {
        assert_eq!(
            publish(&server, "/publish", coding, event.clone()).error(400)["code"],
            "malformed_request",
            "{coding}"
        );
    }
    let packed = gzip(&event);
    publish(&server, "/publish", "gzip", packed[..packed.len() - 9].to_vec()).error(400);
    for coding in ["deflate", "gzip, gzip", "nonsense"] {
        let refused = publish(&server, "/publish", coding, packed.clone());
        assert_eq!(refused.error(415)["code"], "unsupported_media_type", "{coding}");
        assert_eq!(refused.error(415)["supported"], json!(["gzip", "br", "zstd", "identity"]));
    }
    assert!(server.events("").is_empty());
}

#[test]
fn answers_are_compressed_for_who_asks_but_streams_are_not() {
    let server = Server::start(Backend::Sqlite);
    for n in 0..50 {
        server.publish("a", json!({"n": n, "text": "x".repeat(100)}));
    }
    let get = |path: &str, accept: &str| server.request("GET", path).header("Accept-Encoding", accept).send();
    for path in ["/events", "/metrics", "/events?limit=1000&order=desc"] {
        let plain = get(path, "br");
        assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("Accept-Encoding")), "{path}");
        let packed = get(path, "br, gzip");
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(packed.header("vary"), Some("Accept-Encoding"), "{path}");
        assert_eq!(packed.header("content-type"), plain.header("content-type"));
        let mut body = String::new();
        GzDecoder::new(&packed.body[..]).read_to_string(&mut body).expect("gzip");
        if path != "/metrics" {
            assert_eq!(body, plain.text(), "{path}");
        }
        assert!(packed.body.len() * 2 < body.len(), "{path}: {} of {}", packed.body.len(), body.len());
    }
    // Nothing to be gained.
    assert_eq!(get("/events?limit=1", "gzip").header("content-encoding"), None);
    let lines =
        server.request("GET", "/events").header("Accept-Encoding", "gzip").header("Accept", "application/jsonl");
    let lines = lines.send();
    assert_eq!((lines.header("content-encoding"), lines.text().lines().count()), (None, 50));
    let first: Value = serde_json::from_str(lines.text().lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["id"], 1);
}
