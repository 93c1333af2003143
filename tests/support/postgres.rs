//! A private PostgreSQL server, in a directory of its own, on a free port of the loopback interface.
//!
//! A small shell holds the server: it ends it, and removes the directory, as soon as its standard input is closed.
//! That happens when the `Postgres` is dropped, and also when the process that holds it dies in any way.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use rustix::process::{Pid, Signal, kill_process};

const START_LIMIT: Duration = Duration::from_secs(60);

const HOLDER: &str = r#"
dir=$1; shift
"$@" >>"$dir/log" 2>&1 &
server=$!
read word
if [ "$word" = end ]; then kill -INT $server; else kill -QUIT $server; fi
wait $server
[ -n "$word" ] || rm -rf "$dir"
"#;

/// A running server; ends with its owner.
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    /// An address at which it is reached, beside that of the loopback interface.
    also_at: Option<String>,
    /// Where to listen, and the process that holds the server while it runs.
    server: Mutex<(u16, Option<Child>)>,
    databases: AtomicU32,
}

impl Postgres {
    /// The server that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a server with no data.
    pub fn start() -> Self {
        Self::start_at(None)
    }

    /// The same, to be reached at another address too.
    pub fn start_at(also_at: Option<String>) -> Self {
        let mut postgres = Self::vacant();
        let output = as_unprivileged(&postgres.bin.join("initdb"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(postgres.dir.join("data"))
            .current_dir(&postgres.dir)
            .output()
            .expect("run initdb");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        if also_at.is_some() {
            let rules = postgres.dir.join("data/pg_hba.conf");
            let mut rules = fs::OpenOptions::new().append(true).open(rules).expect("its rules");
            rules.write_all(b"host all all 10.0.0.0/8 trust\n").expect("write a rule");
        }
        postgres.also_at = also_at;
        postgres.start_again();
        postgres
    }

    /// A server without data, which does not run.
    fn vacant() -> Self {
        let dir = unprivileged_dir("postgres-");
        let (bin, server) = (find_binaries(), Mutex::new((0, None)));
        Self { bin, dir, also_at: None, server, databases: AtomicU32::new(0) }
    }

    /// The URL of a new, empty database.
    pub fn url(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name}"));
        self.url_of(&name)
    }

    /// Runs `sql` as the superuser, in the maintenance database.
    pub fn execute(&self, sql: &str) {
        execute(&self.url_of("postgres"), sql);
    }

    /// The number that `sql` gives.
    pub fn count(&self, sql: &str) -> i64 {
        let mut connection = PgConnection::establish(&self.url_of("postgres")).expect("connect to PostgreSQL");
        let number = diesel::dsl::sql::<diesel::sql_types::BigInt>(&format!("({sql})"));
        diesel::RunQueryDsl::get_result(diesel::select(number), &mut connection).expect(sql)
    }

    /// Ends the server as a crash would, at once and without a checkpoint. Its data stay.
    pub fn stop(&self) {
        self.end_with("keep");
    }

    /// Ends the server in good order: its standbys have all that it has. Its data stay.
    pub fn end(&self) {
        self.end_with("end");
    }

    fn end_with(&self, word: &str) {
        let holder = self.server.lock().unwrap_or_else(PoisonError::into_inner).1.take();
        if let Some(mut holder) = holder {
            let mut order = holder.stdin.take().expect("a pipe");
            writeln!(order, "{word}").expect("write to the pipe");
            drop(order);
            holder.wait().expect("wait for PostgreSQL");
        }
    }

    /// Starts it again after [`stop`](Self::stop), on the same port.
    pub fn start_again(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + START_LIMIT;
        while server.1.is_none() {
            if server.0 == 0 {
                server.0 = free_port();
            }
            let mut holder = self.launch(server.0);
            if self.wait_until_ready(server.0, &mut holder, deadline) {
                server.1 = Some(holder);
            } else if self.databases.load(Ordering::Relaxed) == 0 {
                // Somebody else took the port meanwhile.
                server.0 = 0;
            }
        }
    }

    /// Takes a backup of the whole server while it runs, for [`set_back`](Self::set_back).
    pub fn back_up(&self) {
        self.copy(self, "backup", &["-X", "fetch"]);
    }

    /// Starts a server that streams from this one. `name` is what it calls itself.
    pub fn standby(&self, name: &str) -> Self {
        let standby = Self::vacant();
        standby.stream_from(self, name);
        standby
    }

    /// Begins anew with a copy of `primary`, from which it streams; whatever it has is gone.
    pub fn stream_from(&self, primary: &Self, name: &str) {
        self.stop();
        if self.dir.join("data").exists() {
            fs::remove_dir_all(self.dir.join("data")).expect("removed");
        }
        let connection = format!("host=127.0.0.1 port={} user=postgres application_name={name}", primary.port());
        self.copy(primary, "data", &["-X", "stream", "-R", "-d", &connection]);
        self.start_again();
    }

    /// Makes a standby the primary, and waits until it takes writes.
    pub fn promote(&self) {
        self.execute("SELECT pg_promote()");
    }

    /// Kills every process of the server with SIGKILL. [`stop`](Self::stop) must follow before it starts again.
    pub fn kill(&self) {
        self.freeze().signal(Signal::KILL);
    }

    pub fn port(&self) -> u16 {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Copies the data of `source`, while it runs, into the folder `to` of this server.
    fn copy(&self, source: &Self, to: &str, more: &[&str]) {
        let output = as_unprivileged(&real_binaries(&self.bin).join("pg_basebackup"))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &source.port().to_string(), "-c", "fast", "-D"])
            .arg(self.dir.join(to))
            .args(more)
            .current_dir(&self.dir)
            .output()
            .expect("run pg_basebackup");
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Puts the backup in the place of the data, and starts the server with it.
    pub fn set_back(&self) {
        self.stop();
        fs::rename(self.dir.join("data"), self.dir.join("lost")).expect("data");
        fs::rename(self.dir.join("backup"), self.dir.join("data")).expect("a backup");
        self.start_again();
    }

    /// Stops every process of the server in its tracks, connections open, until the answer is dropped.
    pub fn freeze(&self) -> Frozen {
        let pids = fs::read_to_string(self.dir.join("data/postmaster.pid")).expect("a running server");
        let server: i32 = pids.lines().next().and_then(|pid| pid.trim().parse().ok()).expect("its process id");
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).expect("its children");
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([server]);
        let frozen = Frozen(pids.filter_map(Pid::from_raw).collect());
        frozen.signal(Signal::STOP);
        frozen
    }

    fn launch(&self, port: u16) -> Child {
        let server = as_unprivileged(&self.bin.join("postgres"));
        let addresses = ["127.0.0.1"].into_iter().chain(self.also_at.as_deref()).collect::<Vec<_>>().join(",");
        Command::new("sh")
            .args(["-c", HOLDER, "sh"])
            .arg(&self.dir)
            .arg(server.get_program())
            .args(server.get_args())
            .arg("-D")
            .arg(self.dir.join("data"))
            .args(["-p", &port.to_string(), "-k"])
            .arg(&self.dir)
            .args(["-c", &format!("listen_addresses={addresses}"), "-c", "fsync=off", "-c", "max_connections=200"])
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start PostgreSQL")
    }

    fn wait_until_ready(&self, port: u16, holder: &mut Child, deadline: Instant) -> bool {
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        loop {
            match PgConnection::establish(&url) {
                Ok(_) => return true,
                Err(error) if Instant::now() > deadline => panic!("PostgreSQL does not start: {error}; {}", self.log()),
                Err(_) if self.log_says_port_taken() => {
                    let mut order = holder.stdin.take().expect("a pipe");
                    order.write_all(b"keep\n").expect("write to the pipe");
                    drop(order);
                    holder.wait().expect("wait for PostgreSQL");
                    fs::remove_file(self.dir.join("log")).expect("remove the log");
                    return false;
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn log_says_port_taken(&self) -> bool {
        self.log().contains("could not bind")
    }

    /// The URL of a database of this server.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }
}

/// A server that does not move.
pub struct Frozen(Vec<Pid>);

impl Frozen {
    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            // A backend may have ended between being listed and being frozen.
            let _ = kill_process(*pid, signal);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let holder = self.server.get_mut().unwrap_or_else(PoisonError::into_inner).1.take();
        match holder {
            Some(mut holder) => {
                drop(holder.stdin.take());
                let _ = holder.wait();
            }
            None => drop(fs::remove_dir_all(&self.dir)),
        }
    }
}

/// Runs `sql` at the database of `url`.
pub fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::establish(url).expect("connect to PostgreSQL");
    connection.batch_execute(sql).expect(sql);
}

/// Where the programs of PostgreSQL are.
pub fn find_binaries() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    debian.sort();
    places.extend(debian.into_iter().rev());
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    places.into_iter().find(complete).expect("no PostgreSQL server found: install the Debian package `postgresql`")
}

/// Where all programs of PostgreSQL are. Only some may be linked to from where they were found, in `bin`.
pub fn real_binaries(bin: &Path) -> PathBuf {
    let postgres = fs::canonicalize(bin.join("postgres")).expect("a program");
    postgres.parent().expect("a folder").to_owned()
}

/// The user that runs the server when we are root, which PostgreSQL refuses.
pub fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> u32 {
        let output = Command::new("id").args(arguments).output().expect("run id");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "nobody"]), id(&["-g", "nobody"])))
}

/// A temporary folder of the user that runs the server. It stays.
pub fn unprivileged_dir(prefix: &str) -> PathBuf {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary directory").keep();
    if let Some((uid, gid)) = unprivileged() {
        chown(&dir, Some(uid), Some(gid)).expect("give the directory to an unprivileged user");
    }
    dir
}

/// Runs `program` as the user that runs the server.
pub fn as_unprivileged(program: &Path) -> Command {
    let Some((uid, gid)) = unprivileged() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups").arg(program);
    command
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
