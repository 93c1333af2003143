use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use log::{Log, info, warn};
use serde_json::json;

use super::*;
use crate::config::Config;

/// A writer into memory that the test can read.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a logger of this style and level writes when `log` uses it.
fn written(style: Style, level: &str, log: impl FnOnce(&dyn Log)) -> String {
    let memory = Memory::default();
    let config = LogConfig { level: level.to_owned(), ..Config::default().log };
    let running = start(&config, style, memory.clone(), QUEUE_BYTES).unwrap();
    // The macros check this level before the logger does.
    log::set_max_level(log::LevelFilter::Trace);
    log(&running.logger);
    assert!(running.handle.flush(Duration::from_secs(20)));
    memory.text()
}

fn at() -> jiff::Timestamp {
    "2026-01-02T03:04:05.0067Z".parse().unwrap()
}

fn json_of(record: &Record<'_>) -> String {
    let mut line = Vec::new();
    format::write_json(&mut line, at(), record).unwrap();
    String::from_utf8(line).unwrap()
}

fn text_of(record: &Record<'_>, color: bool) -> String {
    let mut line = Vec::new();
    format::write_text(&mut line, at(), record, color).unwrap();
    String::from_utf8(line).unwrap()
}

#[test]
fn json_lines_have_the_fields_in_order() {
    let fields: &[(&str, log::kv::Value<'_>)] = &[("port", 4300.into()), ("tls", false.into()), ("msg", "x".into())];
    let line = json_of(
        &Record::builder()
            .level(Level::Info)
            .target("event_handler::web")
            .args(format_args!("listening"))
            .key_values(&fields)
            .build(),
    );
    let expected = r#"{"ts":"2026-01-02T03:04:05.006700Z","level":"info","target":"event_handler::web","#.to_owned()
        + r#""msg":"listening","port":4300,"tls":false,"msg_":"x"}"#
        + "\n";
    assert_eq!(line, expected);
}

#[test]
fn json_lines_are_valid_whatever_they_hold() {
    let awkward = "a\"b\\c\nd\r\te\u{0}\u{1b}[31m\u{7f}\u{2028}ü🦀</script>";
    let not_a_number = f64::NAN;
    let error = io::Error::other("it \"broke\"");
    let lines = written(Style::Json, "trace", |to| {
        warn!(
            logger: to, target: "a \"target\"",
            text = awkward, big = u64::MAX, negative = -1, wide = u128::MAX, half = 0.5, not_a_number,
            nothing = (None as Option<u32>), shown:% = awkward, debug:? = Some("x"), error:% = error, "odd \"key\"\n" = 'c';
            "{awkward}"
        );
    });
    assert_eq!(lines.matches('\n').count(), 1, "{lines}");
    let mut line: serde_json::Value = serde_json::from_str(&lines).unwrap();
    let ts = line.as_object_mut().unwrap().remove("ts").unwrap();
    let ts = ts.as_str().unwrap();
    assert!(ts.parse::<jiff::Timestamp>().is_ok() && ts.len() == 27 && ts.ends_with('Z'), "{ts}");
    assert!(lines.contains(&format!("\"wide\":{}", u128::MAX)));
    line.as_object_mut().unwrap().remove("wide");
    assert_eq!(
        line,
        json!({
            "level": "warn", "target": "a \"target\"", "msg": awkward,
            "text": awkward, "big": u64::MAX, "negative": -1, "half": 0.5, "not_a_number": null, "nothing": null,
            "shown": awkward, "debug": "Some(\"x\")", "error": "it \"broke\"", "odd \"key\"\n": "c",
        })
    );
}

#[test]
fn text_lines_are_aligned_and_cannot_be_forged() {
    let fields: &[(&str, log::kv::Value<'_>)] =
        &[("port", 4300.into()), ("why", "a \"b\"\n".into()), ("none", "".into()), ("path", "/ws".into())];
    let record = |message| {
        Record::builder().level(Level::Warn).target("event_handler::web::ws").args(message).key_values(&fields).build()
    };
    assert_eq!(
        text_of(&record(format_args!("closed\n\u{1b}[2J")), false),
        "2026-01-02T03:04:05.006Z WARN  web::ws            closed\\n\\u{1b}[2J port=4300 \
         why=\"a \\\"b\\\"\\n\" none=\"\" path=/ws\n"
    );
    assert!(text_of(&record(format_args!("closed")), true).contains("\x1b[33mWARN \x1b[0m"));
}

#[test]
fn levels_are_filtered_by_module() {
    let lines = written(Style::Text { color: false }, "warn,event_handler::web=debug", |to| {
        for target in ["event_handler::web::ws", "event_handler::store"] {
            log::debug!(logger: to, target: target, "quiet");
            warn!(logger: to, target: target, "loud");
        }
    });
    let seen: Vec<_> =
        lines.lines().map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(seen, ["DEBUG web::ws quiet", "WARN web::ws loud", "WARN store loud"]);
}

#[test]
fn dropped_lines_are_told_in_the_same_format() {
    let notice: serde_json::Value = serde_json::from_slice(&format::dropped_notice(Style::Json, 7)).unwrap();
    assert_eq!(
        (&notice["level"], &notice["msg"], &notice["count"]),
        (&json!("warn"), &json!("log lines dropped"), &json!(7))
    );
}

#[test]
fn auto_is_json_in_production() {
    assert_eq!(style(LogFormat::Auto, true), Style::Json);
    assert_eq!(style(LogFormat::Json, false), Style::Json);
    assert!(matches!(style(LogFormat::Auto, false), Style::Text { .. }));
    assert!(matches!(style(LogFormat::Text, true), Style::Text { .. }));
}

/// Set in the child processes that the tests start.
const CHILD: &str = "EVENT_HANDLER_LOG_TEST_CHILD";

/// The program under test in the two tests below: it logs to its real standard error and ends.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let config = Config::default();
    let log = init(&config.log, true).unwrap();
    init(&config.log, false).unwrap();
    // More than any pipe and the queue behind it can take.
    let filler = "x".repeat(1000);
    let lines: u64 = io::stdin().lines().next().unwrap().unwrap().parse().unwrap();
    for number in 0..lines {
        info!(number, filler:%; "line");
    }
    let panicked = std::thread::Builder::new().name("doomed".to_owned()).spawn(|| panic!("two\nlines")).unwrap().join();
    assert!(panicked.is_err());
    println!("dropped={}", log.dropped());
    // Waits until the parent has decided whether to read or to close the other end.
    io::stdin().lines().next();
    println!("flushed={}", handle().unwrap().flush(Duration::from_secs(20)));
}

fn spawn_child(lines: &str) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "telemetry::logging::tests::child", "--nocapture"])
        .env(CHILD, "1")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{lines}").unwrap();
    child
}

/// The rest of the line of `out` that contains `key`.
fn read_value(out: &mut impl BufRead, key: &str) -> String {
    let line = out.lines().map(Result::unwrap).find(|line| line.contains(key)).unwrap();
    line.split_once(key).unwrap().1.to_owned()
}

#[test]
fn a_blocked_standard_error_stops_nobody() {
    let mut child = spawn_child("10000");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    // Nobody reads standard error yet, and the child goes on all the same.
    let dropped: u64 = read_value(&mut out, "dropped=").parse().unwrap();
    assert!(dropped > 1000, "{dropped}");

    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    writeln!(child.stdin.as_mut().unwrap()).unwrap();
    assert_eq!(read_value(&mut out, "flushed="), "true");
    assert!(child.wait().unwrap().success());

    let lines = reader.join().unwrap().unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged = lines.iter().filter(|line| line["msg"] == "line").count() as u64;
    let told: u64 =
        lines.iter().filter(|line| line["msg"] == "log lines dropped").map(|l| l["count"].as_u64().unwrap()).sum();
    assert_eq!(told, dropped);
    // The panic is logged or dropped like any other line.
    let panics = lines.iter().filter(|line| line["level"] == "error").count() as u64;
    assert_eq!(logged + panics + told, 10_001);
}

#[test]
fn panics_are_logged_as_one_line() {
    let mut child = spawn_child("0");
    writeln!(child.stdin.as_mut().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let line: serde_json::Value = serde_json::from_str(stderr.trim_end()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"], &line["thread"]),
        (&json!("error"), &json!("panicked: two\nlines"), &json!("doomed"))
    );
    assert!(line["location"].as_str().unwrap().contains("logging/tests.rs:"), "{line}");
}

#[test]
fn a_closed_standard_error_kills_nobody() {
    let mut child = spawn_child("100");
    drop(child.stderr.take());
    let mut out = BufReader::new(child.stdout.take().unwrap());
    read_value(&mut out, "dropped=");
    writeln!(child.stdin.as_mut().unwrap()).unwrap();
    assert_eq!(read_value(&mut out, "flushed="), "true");
    assert!(child.wait().unwrap().success());
}

#[test]
fn no_client_fills_the_log_by_sending_nonsense() {
    let log = |logger: &dyn Log| {
        for (level, target) in [
            (Level::Error, "actix_http::h1::dispatcher"),
            (Level::Info, "actix_server::builder"),
            (Level::Warn, "actix_server::accept"),
        ] {
            let line = format_args!("stream error");
            logger.log(&Record::builder().level(level).target(target).args(line).build());
        }
    };
    let count = |level| written(Style::Text { color: false }, level, log).lines().count();
    assert_eq!((count("info"), count("info,actix_http=error"), count("info,actix_http::h1=error")), (1, 1, 2));
}
