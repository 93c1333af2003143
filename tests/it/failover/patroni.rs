//! PostgreSQL under Patroni with etcd: the real programs decide who is the primary, and the server knows no more than a
//! URL with both hosts.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::next_publish;
use crate::support::http::Request;
use crate::support::load::{Follower, Publishers, assert_nothing_lost};
use crate::support::postgres::{as_unprivileged, execute, find_binaries, free_port, real_binaries, unprivileged_dir};
use crate::support::{Server, eventually};

/// How long Patroni may take for anything. It counts in whole seconds.
const ENGINE_PATIENCE: Duration = Duration::from_secs(60);

/// Ends Patroni and its PostgreSQL, which it starts as a process of nobody's, when the standard input is closed.
const HOLDER: &str = r#"
dir=$1; shift
"$@" >>"$dir/log" 2>&1 &
patroni=$!
read word
server=$(head -n 1 "$dir/data/postmaster.pid")
kill -KILL $patroni $server $(cat /proc/$server/task/$server/children)
wait $patroni
[ -n "$word" ] || rm -rf "$dir"
"#;

/// The store of Patroni; killed on drop.
struct Etcd {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Etcd {
    fn start() -> Self {
        let dir = TempDir::with_prefix("etcd-").expect("a temporary folder");
        let [port, peers] = [free_port(), free_port()];
        let [clients, peers] = [port, peers].map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--data-dir"])
            .arg(dir.path())
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("setpriv can be started");
        let etcd = Self { child, port, _dir: dir };
        eventually("etcd is installed (Debian: etcd-server) and answers", || {
            let answer = Request::new(([127, 0, 0, 1], port).into(), "GET", "/health").try_send().ok()?;
            answer.text().contains("true").then_some(())
        });
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A PostgreSQL server and its Patroni.
struct Member {
    name: &'static str,
    dir: PathBuf,
    rest: SocketAddr,
    port: u16,
    holder: Option<Child>,
}

impl Member {
    fn start(name: &'static str, etcd: &Etcd) -> Self {
        let dir = unprivileged_dir("patroni-");
        let rest = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut member = Self { name, dir, rest, port: free_port(), holder: None };
        let (path, port, programs) = (member.dir.display(), member.port, real_binaries(&find_binaries()));
        // A member is given up after 5 s, and each looks once in a second.
        let config = json!({
            "scope": "events",
            "name": name,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"hosts": format!("127.0.0.1:{}", etcd.port)},
            "bootstrap": {
                "dcs": {
                    "ttl": 5, "loop_wait": 1, "retry_timeout": 2, "synchronous_mode": true,
                    "postgresql": {"use_pg_rewind": true, "parameters": {"fsync": "off"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, {"auth": "trust"}, "no-sync"],
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
            },
            "postgresql": {
                "listen": format!("127.0.0.1:{port}"), "connect_address": format!("127.0.0.1:{port}"),
                "data_dir": format!("{path}/data"), "bin_dir": programs, "pgpass": format!("{path}/pgpass"),
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "postgres"}},
                "parameters": {"unix_socket_directories": path.to_string()},
            },
        });
        // JSON is YAML.
        fs::write(member.config(), config.to_string()).expect("written");
        member.start_again();
        member
    }

    fn config(&self) -> PathBuf {
        self.dir.join("patroni.yml")
    }

    fn start_again(&mut self) {
        let patroni = as_unprivileged(Path::new("patroni"));
        let holder = Command::new("sh")
            .args(["-c", HOLDER, "sh"])
            .arg(&self.dir)
            .arg(patroni.get_program())
            .args(patroni.get_args())
            .arg(self.config())
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.holder = Some(holder.expect("a shell"));
    }

    /// Kills Patroni and PostgreSQL with SIGKILL. The data stay.
    fn kill(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            let mut order = holder.stdin.take().expect("a pipe");
            order.write_all(b"keep\n").expect("written");
            drop(order);
            holder.wait().expect("an end");
        }
    }

    /// What Patroni knows of this member: its role and state.
    fn state(&self) -> Option<(String, String)> {
        let cluster = Request::new(self.rest, "GET", "/cluster").try_send().ok()?.json();
        let members = cluster["members"].as_array()?;
        let me = members.iter().find(|member| member["name"] == self.name)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some((text(&me["role"]), text(&me["state"])))
    }

    /// Waits for this role.
    fn wait_for(&self, role: &str) {
        let begun = Instant::now();
        while self.state().is_none_or(|(found, state)| found != role || !["running", "streaming"].contains(&&*state)) {
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < ENGINE_PATIENCE, "{} is no {role}: {:?}: {}", self.name, self.state(), log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it takes writes.
    fn wait_for_promotion(&self) {
        let begun = Instant::now();
        let is_primary =
            || Request::new(self.rest, "GET", "/primary").try_send().is_ok_and(|answer| answer.status == 200);
        while !is_primary() {
            assert!(begun.elapsed() < ENGINE_PATIENCE, "{} is not promoted: {:?}", self.name, self.state());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        match self.holder.take() {
            Some(mut holder) => {
                drop(holder.stdin.take());
                let _ = holder.wait();
            }
            None => drop(fs::remove_dir_all(&self.dir)),
        }
    }
}

#[test]
fn under_patroni_nothing_acknowledged_is_lost() {
    let etcd = Etcd::start();
    let mut a = Member::start("a", &etcd);
    a.wait_for("leader");
    let b = Member::start("b", &etcd);
    b.wait_for("sync_standby");
    execute(&format!("postgres://postgres@127.0.0.1:{}/postgres", a.port), "CREATE DATABASE events");
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/events", a.port, b.port);
    let server = Server::builder().env("DATABASE_URL", url).start();
    let publishers = Publishers::start(&server, 2);
    let follower = Follower::start(&server);
    publishers.wait_for_acknowledged(100);

    let begun = Instant::now();
    a.kill();
    b.wait_for_promotion();
    eprintln!("Patroni has promoted {:?} after a kill", begun.elapsed());
    next_publish(&server, "the promotion by Patroni after a kill");
    publishers.wait_for_acknowledged(100);

    // The old primary comes back, and is a standby.
    a.start_again();
    a.wait_for("sync_standby");
    publishers.wait_for_acknowledged(100);

    let begun = Instant::now();
    let switched = Command::new("patronictl")
        .arg("-c")
        .arg(b.config())
        .args(["switchover", "events", "--leader", "b", "--candidate", "a", "--force"])
        .envs([("LC_ALL", "C.UTF-8"), ("LANG", "C.UTF-8")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let mut switched = switched.expect("patronictl can be started");
    a.wait_for_promotion();
    eprintln!("Patroni has promoted {:?} after an order to switch over", begun.elapsed());
    next_publish(&server, "the promotion by Patroni of a switch-over");
    assert!(switched.wait().expect("an end").success());
    publishers.wait_for_acknowledged(100);

    let published = publishers.stop();
    assert_nothing_lost(&server, &published, &[follower]);
    assert!(server.events("?event_name=$sys.log.restored").is_empty(), "nothing was lost");
}
