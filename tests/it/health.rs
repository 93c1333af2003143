//! `/health…` and `/metrics`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::server::metric;
use crate::support::{Backend, Server, for_each_backend};

#[test]
fn health_is_verbatim() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let response = server.get("/health");
        assert_eq!((response.status, response.text()), (200, r#"{"status":"ok"}"#));
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(server.get("/health/live").status, 200);
    });
}

#[test]
fn without_a_redis_the_bus_is_not_configured() {
    let server = Server::start(Backend::Sqlite);
    assert_eq!(server.get("/health/ready").json()["checks"]["bus"], json!({"status": "not_configured"}));
    assert_eq!(metric(&server, "event_handler_bus_up "), 0.0);
    assert!(!server.get("/admin/actors").text().contains("\"bus\""));
}

#[test]
fn ready_tells_of_every_part() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let response = server.get("/health/ready");
        assert_eq!(response.status, 200, "{}", response.text());
        for part in ["store", "bus", "actors"] {
            assert!(response.text().contains(&format!("\"{part}\"")), "{part} in {}", response.text());
        }
    });
}

#[test]
fn metrics_pass_promtool() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        ws.request(json!({"action": "subscribe", "event_name": ">", "id": 1}));
        server.publish("a", json!({}));
        ws.recv_json();
        server.get("/nowhere");
        let metrics = server.get("/metrics");
        assert!(metrics.header("content-type").is_some_and(|t| t.starts_with("text/plain")), "{:?}", metrics.headers);

        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is installed (Debian: prometheus)");
        promtool.stdin.take().expect("piped").write_all(&metrics.body).expect("written");
        let verdict = promtool.wait_with_output().expect("a verdict");
        let text = [verdict.stdout, verdict.stderr].concat();
        assert!(verdict.status.success() && text.is_empty(), "{}", String::from_utf8_lossy(&text));
    });
}

#[test]
fn metrics_have_their_customary_names() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("a", json!({}));
        server.get("/events/1");
        server.get("/events/2");
        let metrics = server.get("/metrics");
        let lines: Vec<&str> = metrics.text().lines().filter(|l| !l.starts_with('#')).collect();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
            "http_request_duration_seconds_bucket{",
            "event_handler_",
        ] {
            assert!(lines.iter().any(|l| l.starts_with(name)), "{name} is missing in\n{}", metrics.text());
        }
        let count = |labels: [&str; 3]| {
            lines
                .iter()
                .filter(|l| l.starts_with("http_request_duration_seconds_count{"))
                .find(|l| labels.iter().all(|label| l.contains(label)))
                .and_then(|l| l.rsplit(' ').next())
                .map(str::to_owned)
        };
        let one = Some("1".to_owned());
        assert_eq!(count([r#"method="POST""#, r#"route="/publish""#, r#"code="200""#]), one, "{}", metrics.text());
        assert_eq!(count([r#"method="GET""#, r#"route="/events/{id}""#, r#"code="200""#]), one);
        assert_eq!(count([r#"method="GET""#, r#"route="/events/{id}""#, r#"code="404""#]), one);
    });
}

#[test]
fn cpu_seconds_are_not_rounded() {
    let server = Server::start(Backend::Sqlite);
    let seconds = metric(&server, "process_cpu_seconds_total ");
    assert!(seconds > 0.0 && seconds.fract() > 0.0, "{seconds}");
}

#[test]
fn the_routes_in_metrics_are_bounded() {
    let server = Server::start(Backend::Sqlite);
    for n in 0..20 {
        server.get(&format!("/nowhere/{n}"));
        server.request("PROPFIND", &format!("/{n}")).send();
    }
    let text = server.get("/metrics").text().to_owned();
    assert!(!text.contains("/nowhere"), "{text}");
    assert!(!text.contains("PROPFIND"), "{text}");
}
