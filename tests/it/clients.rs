//! `docs/clients.md`: its programs, taken from the document, in every language that is there. All of them publish the
//! same once, follow through a kill of the server, and tell a good signature from others.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::Mac as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::examples::kill_and_start;
use crate::support::program::{Program, command, example, python};
use crate::support::{Backend, Server, Service};

const DOCUMENT: &str = include_str!("../../docs/clients.md");
const RUST: &str = include_str!("../../examples/client.rs");
const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// How programs of a language are run, and whether `tests/run` sees to it that they can be.
const LANGUAGES: [(&str, &str, &str, bool); 8] = [
    ("Shell", "bash", "sh", true),
    ("Python", "python", "py", true),
    ("JavaScript", "node", "js", true),
    ("Rust", "", "", true),
    ("Go", "go", "go", false),
    ("Java", "java", "java", false),
    ("PHP", "php", "php", true),
    ("Ruby", "ruby", "rb", true),
];

struct Language {
    name: &'static str,
    program: &'static str,
    ending: &'static str,
}

impl Language {
    /// The command that runs one of the programs that lie in `folder`.
    fn run(&self, folder: &Path, part: &str) -> Command {
        if self.name == "Rust" {
            let mut program = example("client");
            program.arg(part);
            return program;
        }
        let file = match self.name {
            "Java" => format!("{}{}", part[..1].to_uppercase(), &part[1..]),
            _ => part.to_owned(),
        };
        let mut program = match self.name {
            "Python" => python(),
            _ => command(self.program),
        };
        if self.name == "Go" {
            program.arg("run");
        }
        // Where Debian has `ws`, for a Node without a WebSocket of its own.
        program.env("NODE_PATH", "/usr/share/nodejs");
        program.arg(folder.join(format!("{file}.{}", self.ending)));
        program
    }
}

/// Those that are there.
fn languages() -> Vec<Language> {
    let is_there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    };
    let mut found = Vec::new();
    for (name, program, ending, is_installed) in LANGUAGES {
        match matches!(name, "Rust" | "Python") || is_there(program) {
            true => found.push(Language { name, program, ending }),
            false => assert!(!is_installed, "{program} is missing; ./tests/run installs it"),
        }
    }
    found
}

/// Writes each program of the document to a file of the name in its first line. How many there are.
fn unpack(folder: &Path) -> usize {
    let blocks = DOCUMENT.split("\n```").skip(1).step_by(2);
    let mut count = 0;
    for block in blocks {
        let (_, code) = block.split_once('\n').expect("a language");
        let first = code.lines().next().unwrap_or_default();
        if let Some(name) = first.split(' ').next_back().filter(|name| !first.starts_with("//!") && name.contains('.'))
        {
            fs::write(folder.join(name), format!("{code}\n")).expect("a writable folder");
            count += 1;
        }
    }
    count
}

#[test]
fn the_program_in_rust_stands_in_the_document() {
    assert!(DOCUMENT.contains(&format!("```rust\n{RUST}```\n")), "copy examples/client.rs to docs/clients.md");
}

#[test]
fn every_language_publishes_once_and_misses_nothing_when_the_server_is_killed() {
    let folder = TempDir::new().expect("a folder");
    assert_eq!(unpack(folder.path()), 3 * (LANGUAGES.len() - 1));
    let languages = languages();
    let server = Server::start(Backend::Sqlite);
    let url = format!("http://{}", server.addr());
    let run = |language: &Language, part: &str| {
        let mut program = language.run(folder.path(), part);
        program.env("EVENT_HANDLER", &url);
        program
    };
    let subscribers: Vec<Program> =
        languages.iter().map(|language| Program::start(&mut run(language, "subscribe"))).collect();
    for language in &languages {
        let output = run(language, "publish").output().expect("the program can be started");
        assert!(output.status.success(), "{}: {output:?}", language.name);
    }
    let followed = |count: usize| {
        for (language, subscriber) in languages.iter().zip(&subscribers) {
            let lines = subscriber.wait_for_lines(count);
            let events: Vec<(&str, &str, Value)> = lines.iter().map(|line| read(line)).collect();
            let expected = [("1", "user.created", json!({"user_id": "123"})), ("2", "user.deleted", json!({"n": [1]}))];
            assert_eq!(events, expected[..count], "{}", language.name);
        }
    };
    followed(1);
    let server = kill_and_start(server);
    assert_eq!(server.publish("user.deleted", json!({"n": [1]})), 2, "the same was published once");
    followed(2);
}

fn read(line: &str) -> (&str, &str, Value) {
    let (id, rest) = line.split_once(' ').expect("an id");
    let (name, data) = rest.split_once(' ').expect("a name");
    (id, name, serde_json::from_str(data).expect("JSON"))
}

#[test]
fn every_language_tells_a_good_signature_from_others() {
    let folder = TempDir::new().expect("a folder");
    unpack(folder.path());
    let service = Service::start();
    let builder = Server::builder().backend(Backend::Sqlite);
    let server = service.configure(builder, "receiver", &[("secret", SECRET)]).start();
    server.publish("user.created", json!({"text": "Zoë\n"}));
    let delivery = service.wait_for(1).remove(0);
    let header = |name: &str| delivery.header(name).expect("signed").to_owned();
    let (id, sent_at) = (header("webhook-id"), header("webhook-timestamp"));
    let signatures = format!("v1,bm90IHRoaXMgb25l {}", header("webhook-signature"));
    let other = [&delivery.body[..], b" "].concat();
    assert_eq!(header("webhook-signature"), sign(&id, &sent_at, &delivery.body));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let old = (now - 600).to_string();
    for language in languages() {
        let verify = |body: &[u8], sent_at: &str, signatures: &str, secret: &str| {
            let mut program = language.run(folder.path(), "verify");
            program.args([&id, sent_at, signatures]).env("SECRET", secret);
            let body_file = folder.path().join("body");
            fs::write(&body_file, body).expect("written");
            program.stdin(fs::File::open(&body_file).expect("readable")).stderr(Stdio::null());
            program.status().expect("the program can be started").success()
        };
        let name = language.name;
        assert!(verify(&delivery.body, &sent_at, &signatures, SECRET), "{name}");
        assert!(!verify(&other, &sent_at, &signatures, SECRET), "{name}: another body");
        assert!(!verify(&delivery.body, &old, &sign(&id, &old, &delivery.body), SECRET), "{name}: an old one");
        let secret = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=";
        assert!(!verify(&delivery.body, &sent_at, &signatures, secret), "{name}: another secret");
    }
}

fn sign(id: &str, sent_at: &str, body: &[u8]) -> String {
    let key = BASE64_STANDARD.decode(&SECRET["whsec_".len()..]).expect("base64");
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).expect("a key");
    mac.update(&[format!("{id}.{sent_at}.").as_bytes(), body].concat());
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}
