//! `deploy/monitoring`: a real Prometheus over a server with sick services finds data for every panel, rule and alert.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::orchestration::{self, Participant, SETTLE, ended};
use crate::support::copy::Replica;
use crate::support::http::Request;
use crate::support::program::{Program, root};
use crate::support::service::Answer;
use crate::support::sse::EventStream;
use crate::support::{Backend, Redis, Server, Service};

const RULES: [&str; 2] = ["recording.yml", "alerts.yml"];

fn pack() -> PathBuf {
    root().join("deploy/monitoring")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(pack().join(path)).expect("a readable file")
}

fn promtool(args: &[&str]) {
    let verdict = Command::new("promtool").args(args).current_dir(pack()).output();
    let verdict = verdict.expect("promtool is installed (Debian: prometheus)");
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));
}

/// What follows `key: ` in a file of YAML.
fn values<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let key = format!("{key}: ");
    yaml.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(&key)).map(str::trim).collect()
}

/// The expressions of a file of rules. One of several lines stands deeper than its key.
fn expressions(yaml: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = yaml.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim_start().strip_prefix("expr: ") else { continue };
        let mut expression = expression.to_owned();
        if expression == "|" {
            expression.clear();
            while let Some(line) = lines.next_if(|line| line.starts_with("          ")) {
                expression.push_str(line);
                expression.push('\n');
            }
        }
        found.push(expression);
    }
    found
}

#[test]
fn each_alert_is_tested_silent_and_firing_and_has_a_runbook() {
    promtool(&["check", "rules", RULES[0], RULES[1]]);
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);

    let (alerts, tests) = (read("alerts.yml"), read("alerts_test.yml"));
    let names: BTreeSet<_> = values(&alerts, "alert").into_iter().collect();
    assert!(names.len() > 20, "the alerts were not found");
    let runbooks = fs::read_to_string(root().join("docs/runbooks.md")).expect("a readable file");
    let sections: BTreeSet<_> = runbooks.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(names, sections, "each has a section, and no section is of an alert that is gone");
    let links: Vec<_> = values(&alerts, "runbook_url").into_iter().collect();
    let expected: Vec<_> =
        values(&alerts, "alert").iter().map(|name| format!("\"docs/runbooks.md#{}\"", name.to_lowercase())).collect();
    assert_eq!(links, expected);
    assert!(values(&alerts, "severity").iter().all(|severity| ["warning", "critical"].contains(severity)));
    for key in ["severity", "summary", "description"] {
        assert_eq!(values(&alerts, key).len(), names.len(), "{key}");
    }
    for name in &names {
        let test = tests.split("  - name: ").find(|test| test.starts_with(&format!("{name}\n")));
        let test = test.unwrap_or_else(|| panic!("{name} has no test"));
        assert!(test.contains("exp_samples: []"), "{name} is not tested silent");
        assert!(test.contains(&format!("{{alertname=\"{name}\"}}")), "{name} is not tested firing");
    }
    for section in runbooks.split("\n### ").skip(1) {
        for part in ["**Means", "**Harms", "**Do:**", "**Look"] {
            let like_another = section.contains("as for [") || part == "**Do:**" && section.contains("**do:**");
            assert!(section.contains(part) || like_another, "{part} is missing: {section}");
        }
    }
}

/// A Prometheus with the rules as they are deployed, which looks at `server` each second.
fn prometheus(server: SocketAddr, dir: &Path) -> (Program, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    drop(listener);
    let config = read("prometheus.yml");
    let (before, _) = config.split_once("alerting:").expect("a section");
    let config = before.replace("15s", "1s")
        + &format!("scrape_configs: [{{job_name: event-handler, static_configs: [{{targets: ['{server}']}}]}}]\n");
    fs::write(dir.join("prometheus.yml"), config).expect("a writable folder");
    for file in RULES {
        fs::write(dir.join(file), read(file)).expect("a writable folder");
    }
    let mut command = crate::support::program::command(Path::new("prometheus"));
    let program = Program::start(
        command
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={addr}")),
    );
    (program, addr)
}

/// How many series an expression has.
fn series(prometheus: SocketAddr, expression: &str) -> Option<usize> {
    let path = format!("/api/v1/query?query={}", orchestration::percent(expression));
    let answer = Request::new(prometheus, "GET", &path).try_send().ok()?;
    // 503 while it starts.
    assert!([200, 503].contains(&answer.status), "{expression}: {}", answer.text());
    if answer.status == 503 {
        return None;
    }
    answer.json()["data"]["result"].as_array().map(Vec::len)
}

/// The expression with every comparison saying 0 or 1, so that there is data while nothing is wrong.
fn answering(expression: &str) -> String {
    let mut text = format!(" {} ", expression.replace('\n', " "));
    for comparison in [">", "<", "=="] {
        text = text.replace(&format!(" {comparison} "), &format!(" {comparison} bool "));
    }
    text
}

#[test]
fn every_panel_and_every_rule_has_data() {
    let redis = Redis::start();
    let copy = Replica::start();
    let (well, refusing, mut away) = (Service::start(), Service::start(), Service::start());
    refusing.behave(|_| Answer::Status(400));
    away.refuse();
    let participant = Participant::start(|_, _| None);
    // A replica that is never there.
    let nowhere = "postgres://127.0.0.1:1/none";
    let builder = Server::builder().operated("sesame").backend(Backend::Postgres);
    let builder = builder.env("EVENT_HANDLER__STORE__READ_URL", nowhere).env("REDIS_URL", redis.url());
    let mut builder = orchestration::configured(builder, SETTLE, &participant);
    let quick = [("routes", r#"["a"]"#), ("retry_delays", "100ms"), ("breaker_consecutive", "2")];
    for (name, service) in [("well", &well), ("refusing", &refusing), ("away", &away)] {
        builder = service.configure(builder, name, &quick);
    }
    let sync = [("routes", r#"["state.lot.changed"]"#), ("sync", r#"{ types = ["lot"], every = "1s" }"#)];
    let server = copy.service.configure(builder, "copy", &sync).start();
    let dir = TempDir::new().expect("a temporary folder");
    let (_prometheus, addr) = prometheus(server.addr(), dir.path());

    let _stream = EventStream::open(server.addr(), "/events/stream?event_name=a", &[]);
    let mut ws = server.ws();
    let reply = ws.request(json!({"action": "subscribe", "event_name": "a", "durable": "billing", "id": 1}));
    assert_eq!(reply["type"], "subscribed", "{reply}");
    assert_eq!(ws.request(json!({"action": "nonsense", "id": 2}))["type"], "error");
    assert_eq!(server.request("PUT", "/state/lot/1").json(json!({"price": 1})).send().status, 201);
    redis.run::<String>(&["XADD", "events:in", "*", "event_name", "b", "payload", "1"]);

    let mut missing: Vec<String> = panels().into_iter().map(|expression| variables(&expression)).collect();
    missing.extend(RULES.iter().flat_map(|file| expressions(&read(file))).map(|expression| answering(&expression)));
    assert!(missing.len() > 100, "the expressions were not found");
    let mut auction = 0;
    eventually_patient("every expression has data", || {
        auction += 1;
        server.publish("a", json!(auction));
        server.publish("auction.ended", ended(auction));
        server.publish("transfer.done", json!({ "auction": auction - 1, "ok": true }));
        server.events("?limit=1");
        drop(server.ws());
        server.stream("?event_name=a&after=0", &[]).event();
        missing.retain(|expression| series(addr, expression).is_none_or(|count| count == 0));
        if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
    });
    assert!(away.deliveries().is_empty());
    away.accept();
}

/// The expressions of every dashboard.
fn panels() -> Vec<String> {
    let folder = fs::read_dir(pack().join("grafana/dashboards")).expect("a folder");
    let mut found = Vec::new();
    for file in folder {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a readable file");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let variables = dashboard["templating"]["list"].as_array().expect("a list");
        assert_eq!((&variables[0]["name"], &variables[0]["type"]), (&json!("datasource"), &json!("datasource")));
        for panel in dashboard["panels"].as_array().expect("a list") {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            for target in panel["targets"].as_array().expect("a list") {
                found.push(target["expr"].as_str().expect("a text").to_owned());
            }
        }
    }
    found
}

/// The expression as Grafana asks it.
fn variables(expression: &str) -> String {
    let chosen = [("$__rate_interval", "10s"), ("$job", "event-handler"), ("$instance", ".*"), ("$service", ".*")];
    chosen.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Like `eventually`, and says at the end what was not so.
fn eventually_patient(what: &str, mut condition: impl FnMut() -> Result<(), String>) {
    let mut last = String::new();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        while begun.elapsed() < crate::support::PATIENCE {
            match condition() {
                Ok(()) => return,
                Err(why) => last = why,
            }
        }
    }
    panic!("{what}: not so:\n{last}");
}
