//! Redis under Sentinel: it moves the primary, and the stream is read on there.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use redis::RedisResult;
use tempfile::TempDir;

use crate::redis_ingest::{IN, payloads, wait_for_bus};
use crate::support::postgres::free_port;
use crate::support::{Backend, Redis, Server, eventually};

/// One Sentinel, which decides alone; killed on drop.
struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Sentinel {
    fn start(primary: &Redis) -> Self {
        let dir = TempDir::with_prefix("sentinel-").expect("a temporary folder");
        let port = free_port();
        let config = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor events 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds events 1000\nsentinel failover-timeout events 3000\n",
            primary.port()
        );
        let path = dir.path().join("sentinel.conf");
        fs::write(&path, config).expect("written");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server"])
            .arg(&path)
            .arg("--sentinel")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let sentinel = Self { child: child.expect("setpriv can be started"), port, _dir: dir };
        eventually("it knows the primary and the replica", || {
            let replicas: Vec<redis::Value> = sentinel.ask(&["SENTINEL", "REPLICAS", "events"]).ok()?;
            (replicas.len() == 1).then_some(())
        });
        sentinel
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        ask(self.port, command)
    }

    fn primary(&self) -> Option<u16> {
        let (_, port): (String, u16) = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "events"]).ok()?;
        Some(port)
    }

    fn wait_for_primary(&self, port: u16) {
        eventually("the primary is moved", || {
            let role: Vec<redis::Value> = ask(port, &["ROLE"]).ok()?;
            let is_primary = matches!(role.first(), Some(redis::Value::BulkString(role)) if role == b"master");
            (is_primary && self.primary() == Some(port)).then_some(())
        });
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask<T: redis::FromRedisValue>(port: u16, command: &[&str]) -> RedisResult<T> {
    let patience = Duration::from_secs(2);
    let mut connection = redis::Client::open(("127.0.0.1", port))?.get_connection_with_timeout(patience)?;
    connection.set_read_timeout(Some(patience))?;
    redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
}

/// Adds entries, one after the other, wherever the primary is; each until a replica has it too.
fn add_until(sentinel: &Sentinel, stop: &AtomicBool, added: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let n = added.load(Ordering::Relaxed).to_string();
        let add = |port: u16| -> RedisResult<i64> {
            let patience = Duration::from_secs(2);
            let mut connection = redis::Client::open(("127.0.0.1", port))?.get_connection_with_timeout(patience)?;
            connection.set_read_timeout(Some(patience))?;
            // The same key every time: what was added twice is one event.
            let fields = ["event_name", "a", "payload", &n, "idempotency_key", &n];
            redis::cmd("XADD").arg(IN).arg("*").arg(&fields).query::<String>(&mut connection)?;
            redis::cmd("WAIT").arg(1).arg(500).query(&mut connection)
        };
        if let Some(Ok(1..)) = sentinel.primary().map(add) {
            added.fetch_add(1, Ordering::Relaxed);
        }
        // Few enough that all of them are read often.
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_primary_that_sentinel_moves_is_followed_and_no_entry_is_lost() {
    let (mut a, b) = (Redis::start(), Redis::start());
    b.run::<()>(&["REPLICAOF", "127.0.0.1", &a.port().to_string()]);
    let sentinel = Sentinel::start(&a);
    let nobody = free_port();
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .env("REDIS_URL", "redis://events")
        .env("EVENT_HANDLER__REDIS__SENTINELS", format!("redis://127.0.0.1:{nobody},{}", sentinel.url()))
        .start();
    wait_for_bus(&server, "ok");
    let (stop, added) = (AtomicBool::new(false), AtomicUsize::new(0));
    let count = || added.load(Ordering::Relaxed);
    let go_on = || {
        let goal = count() + 50;
        eventually("entries are added", || (count() >= goal).then_some(()));
        eventually("and stored", || (payloads(&server, "a").len() >= goal).then_some(()));
        wait_for_bus(&server, "ok");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| add_until(&sentinel, &stop, &added));
        let stop = StopOnDrop(&stop);
        go_on();
        a.kill();
        sentinel.wait_for_primary(b.port());
        a.start_again();
        // Sentinel would do it as well, but takes its time.
        a.run::<()>(&["REPLICAOF", "127.0.0.1", &b.port().to_string()]);
        go_on();
        eventually("the old primary is a replica", || {
            let role: Vec<redis::Value> = ask(a.port(), &["ROLE"]).ok()?;
            matches!(&role[..], [redis::Value::BulkString(role), _, _, redis::Value::BulkString(state), ..] if role == b"slave" && state == b"connected").then_some(())
        });
        eventually("a switch-over begins", || sentinel.ask::<String>(&["SENTINEL", "FAILOVER", "events"]).ok());
        sentinel.wait_for_primary(a.port());
        b.run::<()>(&["REPLICAOF", "127.0.0.1", &a.port().to_string()]);
        go_on();
        drop(stop);
    });
    eventually("all are stored", || (payloads(&server, "a").len() >= count()).then_some(()));
    let stored = payloads(&server, "a");
    let distinct: BTreeSet<_> = stored.iter().collect();
    assert_eq!(distinct.len(), stored.len(), "each once");
}

/// Ends the other thread also when this one fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
