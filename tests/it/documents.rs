//! What the documents say: their shell blocks run, their tables agree with the program, their links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::server::Log;
use crate::support::{PATIENCE, Server};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../../README.md");
const PROMISES: &str = include_str!("../../docs/promises.md");
const PROTOCOL: &str = include_str!("../../docs/protocol.md");
/// Commands whose blocks are for a machine at large, not for a test.
const NOT_HERE: [&str; 3] = ["cargo ", "./tests/run", "docker "];
/// Where the documents have a service of their own.
const SERVICE: &str = "127.0.0.1:4310";
/// Stands for any text within a line of expected output.
const ANYTHING: char = '…';

#[test]
fn the_shell_blocks_of_the_readme_run() {
    run_all(README, 7);
}

#[test]
fn the_shell_blocks_of_the_protocol_run() {
    run_all(PROTOCOL, 10);
}

#[test]
fn the_readmes_configuration_agrees_with_the_reference() {
    let mut reference = BTreeMap::new();
    let mut section = "";
    for line in include_str!("../../docs/configuration.md").lines() {
        if let Some(name) = line.strip_prefix("## ") {
            section = name.trim_matches(['`', '[', ']']);
        }
        if let [key, default, .., short] = cells(line)[..] {
            let key = key.trim_matches('`');
            let path = if section == "Keys" { key.to_owned() } else { format!("{section}.{key}") };
            reference.insert(path, (default, short));
        }
    }
    let rows: Vec<_> = README.lines().map(cells).filter(|row| row.len() == 4 && row[0].starts_with('`')).collect();
    assert!(rows.len() > 5, "the table of keys was not found");
    for row in rows {
        let key = row[0].trim_matches('`');
        assert_eq!(reference.get(key), Some(&(row[1], row[2])), "{key}");
    }
}

#[test]
fn every_promise_that_the_code_names_is_listed() {
    let mut named = BTreeSet::new();
    for_each_source(&Path::new(ROOT).join("src"), &mut |text| named.extend(promises(text)));
    let listed = promises(PROMISES);
    assert!(named.len() > 8, "{named:?}");
    assert!(named.is_subset(&listed), "promises.md misses {:?}", named.difference(&listed));
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let mut sources = String::new();
    for folder in ["src", "tests/it"] {
        for_each_source(&Path::new(ROOT).join(folder), &mut |text| sources.push_str(text));
    }
    let rows: Vec<_> =
        PROMISES.lines().map(cells).filter(|row| row.len() == 3 && !promises(row[0]).is_empty()).collect();
    assert!(rows.len() > 20, "the tables of promises were not found");
    for row in rows {
        let tests: Vec<&str> = row[2].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{} names no test", row[0]);
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "{}: no test is called {test}", row[0]);
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let mut documents = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned).to_vec();
    for folder in ["docs", "docs/adr"] {
        let entries = std::fs::read_dir(Path::new(ROOT).join(folder)).expect("a folder");
        let names = entries.flatten().map(|entry| format!("{folder}/{}", entry.file_name().display()));
        documents.extend(names.filter(|name| name.ends_with(".md")));
    }
    for document in documents {
        let path = Path::new(ROOT).join(&document);
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            if target.contains("://") {
                continue;
            }
            let file = if target.is_empty() { path.clone() } else { path.with_file_name(target) };
            assert!(file.exists(), "{document}: {link} leads nowhere");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&file).expect("UTF-8");
                assert!(text.lines().any(|line| anchor_of(line) == Some(anchor.to_owned())), "{document}: {link}");
            }
        }
    }
}

/// A shell block, and the output that is said to come of it.
#[derive(Debug)]
struct Block {
    line: usize,
    script: String,
    expected: Vec<String>,
}

/// Runs the blocks of `document`, at least `least`, one after the other against one new server. Where a block starts
/// the server with variables set, it is started again with these.
fn run_all(document: &str, least: usize) {
    let mut server = Server::builder().start();
    let service = free_address();
    let mut blocks = blocks(document);
    blocks.iter_mut().for_each(|block| block.script = block.script.replace(SERVICE, &service));
    blocks.retain(|block| !variables(block).is_empty() || !NOT_HERE.iter().any(|n| block.script.contains(n)));
    assert!(blocks.len() >= least, "{} blocks only", blocks.len());
    for block in &blocks {
        let variables = variables(block);
        if variables.is_empty() {
            run(&server, block);
        } else {
            server.terminate();
            let spec = server.spec();
            server = variables.into_iter().fold(spec, |spec, (name, value)| spec.env(name, value)).start();
        }
    }
}

/// The variables that a block starts the server with.
fn variables(block: &Block) -> Vec<(&str, &str)> {
    let before = block.script.split_once("cargo run").map_or("", |(before, _)| before);
    before.split_whitespace().filter_map(|word| word.split_once('=')).collect()
}

/// Where nobody listens: just given back.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

/// Runs one block until it has printed what is expected or, where nothing is, until it ends well.
fn run(server: &Server, block: &Block) {
    let Block { line, script, expected } = block;
    let addr = server.addr().to_string();
    let program = Path::new(env!("CARGO_BIN_EXE_event-handler")).parent().expect("a folder");
    let python = Path::new(ROOT).join("target/venv/bin");
    assert!(python.exists(), "{} is missing; ./tests/run creates it", python.display());
    let path = format!("{}:{}:{}", program.display(), python.display(), std::env::var("PATH").expect("a path"));
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "bash", "-euo", "pipefail", "-c", &script.replace("127.0.0.1:4300", &addr)])
        .env("PATH", path)
        .env("EVENT_HANDLER_URL", format!("http://{addr}"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(server.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("bash can be started");
    let printed = Log::follow(BufReader::new(child.stdout.take().expect("piped")));
    let said = Log::follow(BufReader::new(child.stderr.take().expect("piped")));
    let deadline = Instant::now() + PATIENCE;
    let as_expected = loop {
        let ended = printed.has_ended();
        let text = printed.text();
        let lines: Vec<&str> = text.lines().collect();
        let complete = lines.len() == expected.len() && lines.iter().zip(expected).all(|(l, e)| matches(l, e));
        if complete && !expected.is_empty() {
            break true;
        }
        if ended {
            break complete && child.wait().expect("a child of ours").success();
        }
        if Instant::now() > deadline {
            break false;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a valid pid");
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
    assert!(
        as_expected,
        "the block in line {line}:\n{script}\nprinted\n{}\nand said\n{}\nbut expected was\n{}",
        printed.text(),
        said.text(),
        expected.join("\n")
    );
}

/// Whether `line` is `expected`, in which [`ANYTHING`] stands for any text.
fn matches(line: &str, expected: &str) -> bool {
    let mut pieces = expected.split(ANYTHING);
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The `sh` blocks, each with the `text` block that follows it at once.
fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = (1..).zip(document.lines());
    let mut follows = false;
    while let Some((line, text)) = lines.next() {
        if let Some(kind) = text.strip_prefix("```") {
            let content: Vec<&str> = lines.by_ref().map(|(_, text)| text).take_while(|text| *text != "```").collect();
            match (kind, blocks.last_mut()) {
                ("text", Some(block)) if follows => block.expected = content.into_iter().map(str::to_owned).collect(),
                ("sh", _) => blocks.push(Block { line, script: content.join("\n"), expected: Vec::new() }),
                _ => {}
            }
            follows = kind == "sh";
        } else if !text.is_empty() {
            follows = false;
        }
    }
    blocks
}

/// The cells of a row of a table.
fn cells(line: &str) -> Vec<&str> {
    let row = line.strip_prefix('|').and_then(|rest| rest.strip_suffix('|'));
    row.map(|row| row.split('|').map(str::trim).collect()).unwrap_or_default()
}

/// The anchor of a heading.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
    Some(
        heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect(),
    )
}

/// Names such as EV-1.
fn promises(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let is_name = |word: &&str| match word.as_bytes() {
        [a, b, b'-', digit] => a.is_ascii_uppercase() && b.is_ascii_uppercase() && digit.is_ascii_digit(),
        _ => false,
    };
    words.filter(is_name).map(str::to_owned).collect()
}

fn for_each_source(folder: &Path, visit: &mut impl FnMut(&str)) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            for_each_source(&path, visit);
        } else {
            visit(&std::fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}
