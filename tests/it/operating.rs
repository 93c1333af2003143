//! The configurations of other programs in `docs/operating.md` are true: nginx passes everything on, Prometheus knows
//! what it is asked for.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::support::program::{Program, command};
use crate::support::sse::EventStream;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, http};

const OPERATING: &str = include_str!("../../docs/operating.md");

/// The blocks of `language` in the document.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    OPERATING.split(&begin).skip(1).map(|rest| rest.split("```").next().expect("an end")).collect()
}

/// The nginx of the document in front of `server`, without TLS.
fn nginx(server: &Server, dir: &Path) -> (Program, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    drop(listener);
    let [block] = blocks("nginx")[..] else { panic!("one block for nginx") };
    let of_tls = |line: &&str| !line.trim_start().starts_with("ssl_");
    let block: String = block.lines().filter(of_tls).map(|line| format!("{line}\n")).collect();
    let upstream = "server 127.0.0.1:4300;";
    assert!(block.contains(upstream) && block.contains("listen 443 ssl;"));
    let block = block.replace(upstream, &format!("server {};", server.addr()));
    let block = block.replace("listen 443 ssl;", &format!("listen {addr};"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {}/{name};\n", dir.display()))
        .collect();
    let whole = format!(
        "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log stderr warn;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}{block}}}\n",
        dir.display()
    );
    fs::write(dir.join("nginx.conf"), whole).expect("a writable folder");
    let debian = Path::new("/usr/sbin/nginx");
    let program = if debian.exists() { debian } else { Path::new("nginx") };
    let mut command = command(program);
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf"));
    let nginx = Program::start(&mut command);
    eventually("nginx answers", || {
        http::Request::new(addr, "GET", "/health").try_send().ok().filter(|r| r.status == 200)
    });
    (nginx, addr)
}

#[test]
fn nginx_as_documented_passes_everything_on() {
    let dir = TempDir::new().expect("a temporary folder");
    let networks = r#"["127.0.0.1/32"]"#;
    let server =
        Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__TRUSTED_PROXIES", networks).start();
    let (_nginx, addr) = nginx(&server, dir.path());
    let request = |method: &str, path: &str| http::Request::new(addr, method, path);

    let mut ws = Socket::connect(addr, "/ws", &[("Origin", &format!("http://{addr}"))]).expect("an upgrade");
    let reply = ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    assert_eq!(reply["type"], "subscribed", "{reply}");
    let mut stream =
        EventStream::request(addr, "HTTP/1.0", "/events/stream?event_name=a&after=0", &[]).expect("a stream");
    for id in 1..=3 {
        let published = request("POST", "/publish").json(json!({"event_name": "a", "payload": id})).send();
        assert_eq!(published.event_id(), id);
        // Each as it comes: nothing is collected on the way.
        assert_eq!(ws.recv_json()["payload"], json!(id));
        assert_eq!(stream.event().0, id);
    }
    let batch: Vec<_> =
        (0..1000).map(|n| json!({"event_name": "b", "payload": format!("{n}{}", "x".repeat(2000))})).collect();
    assert_eq!(request("POST", "/publish/batch").json(json!(batch)).send().status, 200, "a large body");
    let waited = request("GET", "/events?event_name=c&after=3&wait=2s").send();
    assert_eq!((waited.status, waited.data()), (200, json!([])));
    let seen = server.get("/admin/sessions").text().to_owned();
    assert!(seen.contains("127.0.0.1"), "{seen}");
}

#[test]
fn what_prometheus_is_told_is_true() {
    let dir = TempDir::new().expect("a temporary folder");
    let [scrape] = blocks("yaml")[..] else { panic!("one block of YAML") };
    fs::write(dir.path().join("scrape.yml"), scrape).expect("a writable folder");
    let verdict = Command::new("promtool").args(["check", "config"]).arg(dir.path().join("scrape.yml")).output();
    let verdict = verdict.expect("promtool is installed (Debian: prometheus)");
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));
}
