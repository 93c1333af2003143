//! The program under test as a child process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Request, Response};
use super::ws::Socket;
use super::{Backend, PATIENCE, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_event-handler");

/// How to start the program: environment, arguments, and the folder it runs in.
#[derive(Clone)]
pub struct Builder {
    env: BTreeMap<String, String>,
    args: Vec<String>,
    program: PathBuf,
    /// A program with its arguments that starts the one under test.
    launcher: Vec<String>,
    dir: Arc<TempDir>,
    /// Requests to `/admin` have its token.
    is_operated: bool,
}

impl Builder {
    /// Sets the token of operators, with which requests to `/admin` are made.
    pub fn operated(self, token: &str) -> Self {
        Self { is_operated: true, ..self.env("ADMIN_TOKEN", token) }
    }

    /// Sets a variable; the program sees no others but `PATH`.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Takes a variable back.
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Has the program started by another one, which gets its path and arguments and must not fork.
    pub fn launched_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(ToString::to_string).collect();
        self
    }

    /// Runs another build of the program.
    pub fn program(self, program: &Path) -> Self {
        Self { program: program.to_owned(), ..self }
    }

    /// Keeps the events in a database of `backend`.
    pub fn backend(self, backend: Backend) -> Self {
        let url = backend.database_url(self.dir());
        self.env("DATABASE_URL", url)
    }

    /// Puts a file into the folder, beforehand.
    pub fn file(self, name: &str, content: &str) -> Self {
        std::fs::write(self.dir().join(name), content).expect("a writable folder");
        self
    }

    /// The folder the program runs in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Panics
    /// When it ends instead; with its log.
    pub fn start(self) -> Server {
        self.launch().into_server()
    }

    /// Starts the server and does not wait for anything.
    pub fn launch(self) -> Starting {
        Starting { process: Process::spawn(&self), spec: self }
    }

    /// Runs the program to its end, for commands and for starts that must fail.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn run(&self) -> Output {
        let mut child = self.command().stdout(Stdio::piped()).spawn().expect("the program can be started");
        let collect = |stream: Option<Box<dyn Read + Send>>| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.expect("piped").read_to_end(&mut bytes).map(|_| bytes)
            })
        };
        let stdout = collect(child.stdout.take().map(|s| Box::new(s) as _));
        let stderr = collect(child.stderr.take().map(|s| Box::new(s) as _));
        let status = wait_for_exit(&mut child);
        let bytes = |reader: thread::JoinHandle<std::io::Result<Vec<u8>>>| {
            reader.join().expect("no panic").expect("a readable pipe")
        };
        let output = Output { status: status.unwrap_or_default(), stdout: bytes(stdout), stderr: bytes(stderr) };
        assert!(status.is_some(), "{:?} did not end: {}", self.args, String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The kernel kills the program when the thread that started it ends: no orphans, whatever becomes of the test.
    pub fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .args(&self.launcher)
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.env)
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// A server that may not listen yet; killed on drop.
pub struct Starting {
    spec: Builder,
    process: Process,
}

impl Starting {
    /// The first log line so far or soon that `wanted` accepts.
    pub fn wait_for_log(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process.wait_for_log(wanted)
    }

    /// The server, once it listens.
    ///
    /// # Panics
    /// When it ends instead; with its log.
    pub fn into_server(self) -> Server {
        let addr = self.process.wait_until_listening();
        Server { spec: self.spec, process: self.process, addr }
    }
}

/// A running server; killed on drop.
pub struct Server {
    spec: Builder,
    process: Process,
    addr: SocketAddr,
}

impl Server {
    /// A server on a free loopback port with JSON logs, in a folder of its own.
    pub fn builder() -> Builder {
        let dir = Arc::new(TempDir::with_prefix("event-handler-").expect("a temporary folder"));
        let program = PROGRAM.into();
        Builder { env: BTreeMap::new(), args: Vec::new(), program, launcher: Vec::new(), dir, is_operated: false }
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("APP_ENV", "production")
    }

    /// A server with default settings that keeps its events in `backend`.
    pub fn start(backend: Backend) -> Self {
        Self::builder().backend(backend).start()
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The folder it runs in.
    pub fn dir(&self) -> PathBuf {
        self.spec.dir().to_owned()
    }

    /// How it was started; for commands that work on the same folder and database.
    pub fn spec(&self) -> Builder {
        self.spec.clone()
    }

    /// Kills the process without any warning.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Sends SIGTERM.
    pub fn signal_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a valid pid");
        kill_process(pid, signal).expect("a living child");
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal_terminate();
        self.wait_for_exit()
    }

    /// Waits for the end.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let status = wait_for_exit(&mut self.process.child);
        status.unwrap_or_else(|| panic!("did not exit: {}", self.process.log.text()))
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.child.try_wait().expect("a child of ours").is_some()
    }

    /// Starts the same program again on the same folder and database; kills the running one, if any.
    /// It listens on another port, and its log begins anew.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = Process::spawn(&self.spec);
        self.addr = self.process.wait_until_listening();
    }

    /// The next restart is with the program under test, whichever runs now.
    pub fn upgrade(&mut self) {
        self.spec.program = PROGRAM.into();
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a living child");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a line VmRSS");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// The first log line so far or soon that `wanted` accepts.
    pub fn wait_for_log(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process.wait_for_log(wanted)
    }

    /// All that was logged, as text.
    pub fn log_text(&self) -> String {
        self.process.log.text()
    }

    /// A request; to `/admin` and `/sagas` with the token that the server has made, if it has.
    pub fn request(&self, method: &str, path: &str) -> Request {
        let request = Request::new(self.addr, method, path);
        let is_operated = ["/admin", "/sagas"].iter().any(|of| path.starts_with(of));
        if is_operated { request.bearer(self.admin_token()) } else { request }
    }

    /// The token that the server was given by [`Builder::operated`], or has made and keeps beside its data.
    pub fn admin_token(&self) -> Option<String> {
        if self.spec.is_operated {
            return self.spec.env.get("ADMIN_TOKEN").cloned();
        }
        let files = ["admin.token", "data/admin.token"].map(|name| self.spec.dir().join(name));
        let token = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
        Some(token.trim().to_owned())
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path).send()
    }

    pub fn post(&self, path: &str, body: impl ToString) -> Response {
        self.request("POST", path).json(body).send()
    }

    /// Publishes an event; returns its id.
    pub fn publish(&self, event_name: &str, payload: Value) -> i64 {
        self.post("/publish", json!({"event_name": event_name, "payload": payload})).event_id()
    }

    /// The items of `GET /events{query}`.
    pub fn events(&self, query: &str) -> Vec<Value> {
        match self.get(&format!("/events{query}")).data() {
            Value::Array(items) => items,
            other => panic!("expected a list, not {other}"),
        }
    }

    /// Opens a WebSocket.
    pub fn ws(&self) -> Socket {
        Socket::connect(self.addr, "/ws", &[]).expect("an open data plane")
    }
}

/// The child, and the thread that collects its log.
struct Process {
    child: Child,
    log: Arc<Log>,
}

impl Process {
    fn spawn(spec: &Builder) -> Self {
        let mut child = spec.command().spawn().expect("the program can be started");
        let stderr = child.stderr.take().expect("piped");
        Self { child, log: Log::follow(BufReader::new(stderr)) }
    }

    fn wait_until_listening(&self) -> SocketAddr {
        let addr = self.log.find_soon(listening_addr);
        addr.unwrap_or_else(|| panic!("the server did not start:\n{}", self.log.text()))
    }

    fn wait_for_log(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let line = self.log.find_soon(|line| serde_json::from_str(line).ok().filter(&wanted));
        line.unwrap_or_else(|| panic!("no such log line in\n{}", self.log.text()))
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of the server ---\n{}", self.log.text());
        }
    }
}

/// The address in the line that tells where the server listens, in either log format.
fn listening_addr(line: &str) -> Option<SocketAddr> {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        return line["addr"].as_str().filter(|_| line["msg"] == "listening")?.parse().ok();
    }
    let (_, addr) = line.split_once("listening")?.1.split_once("addr=")?;
    addr.split_whitespace().next()?.parse().ok()
}

/// The end of `child`, unless it outlives all patience; then it is killed.
pub fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + 2 * PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        thread::sleep(std::time::Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// The lines of a stream as they come.
#[derive(Default)]
pub struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Collects the lines of `stream` on a thread of its own.
    pub fn follow(stream: impl BufRead + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        thread::spawn({
            let log = Arc::clone(&log);
            move || log.collect(stream)
        });
        log
    }

    fn collect(&self, stream: impl BufRead) {
        for line in stream.lines() {
            let Ok(line) = line else { break };
            self.lock().lines.push(line);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// What `find` makes of the first line it accepts; none once the log has ended or patience is at its end.
    pub fn find_soon<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        let mut lines = self.lock();
        loop {
            if let Some(found) = lines.lines[seen..].iter().find_map(|line| find(line)) {
                return Some(found);
            }
            seen = lines.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                return None;
            }
            lines = self.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the stream has ended: no line will follow.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    pub fn text(&self) -> String {
        self.lock().lines.join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until `path` answers with `status`.
pub fn wait_for_status(server: &Server, path: &str, status: u16) -> Response {
    eventually(&format!("{path} answers {status}"), || {
        server.request("GET", path).try_send().ok().filter(|r| r.status == status)
    })
}

/// The value of a metric; 0 if it is not there.
pub fn metric(server: &Server, name: &str) -> f64 {
    let text = server.get("/metrics").text().to_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_default()
}
