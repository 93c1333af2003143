//! A private Redis server, in a directory of its own, on a free port of the loopback interface.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use redis::{Client, Connection, ConnectionLike as _, FromRedisValue, RedisResult, Value};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{PATIENCE, eventually};

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A server; killed on drop. All that it acknowledges is on disk.
pub struct Redis {
    child: Option<Child>,
    port: u16,
    tls_port: u16,
    args: Vec<String>,
    /// What its clients say before anything else.
    login: Option<String>,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        let mut redis = Self::vacant(&[]);
        redis.start_again();
        redis
    }

    /// A server that does not run yet.
    pub fn vacant(args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("redis-").expect("a temporary folder");
        let args = args.iter().map(ToString::to_string).collect();
        Self { child: None, port: free_port(), tls_port: 0, args, login: None, dir }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it takes TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Starts it, with these arguments and another port for TLS.
    pub fn with_tls(&mut self, args: &[&str]) {
        self.tls_port = free_port();
        let port = self.tls_port.to_string();
        self.set_args(&[&["--tls-port", &port, "--tls-auth-clients", "no"], args].concat());
        self.start_again();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Has the tests' own client log in as the default user.
    pub fn log_in(&mut self, password: &str) {
        self.login = Some(format!(":{password}@"));
    }

    /// Begins anew with `args`, after it was killed.
    pub fn set_args(&mut self, args: &[&str]) {
        self.args = args.iter().map(ToString::to_string).collect();
    }

    /// Kills the process without any warning. Its data stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a living child");
            child.wait().expect("its end");
        }
    }

    /// Forgets all data of a server that does not run.
    pub fn lose_data(&self) {
        let dir = self.dir.path().join("appendonlydir");
        fs::remove_dir_all(dir).expect("data");
    }

    /// Starts it on the same port and with its data, and waits until it answers.
    pub fn start_again(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        self.launch();
        while self.try_run::<String>(&["PING"]).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child of ours"));
            if ended.is_some() {
                // Somebody else has taken the port meanwhile.
                self.launch();
            }
            assert!(Instant::now() < deadline, "redis-server does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it, and does not wait for anything.
    pub fn launch(&mut self) {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server"])
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--logfile", "log"])
            // A primary waits 5 s for further replicas otherwise, before it sends one its data.
            .args(["--repl-diskless-sync-delay", "0"])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(self.dir.path())
            .args(&self.args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("setpriv can be started"));
        eventually("redis-server is installed (Debian: redis-server)", || {
            let alive = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|end| end.is_none()));
            (alive && self.dir.path().join("log").exists()).then_some(())
        });
    }

    /// Stops it in its tracks, connections open, or lets it go on.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("a running server").id();
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a valid pid");
        kill_process(pid, signal).expect("a living child");
    }

    pub fn try_run<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let (name, args) = command.split_first().expect("a command");
        let mut command = redis::cmd(name);
        command.arg(args).query(&mut self.connection()?)
    }

    /// The answer to a command.
    ///
    /// # Panics
    /// When it is an error.
    pub fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_run(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Does all of these, in one request.
    pub fn run_all(&self, commands: &redis::Pipeline) {
        let mut connection = self.connection().expect("connected");
        commands.query::<Value>(&mut connection).expect("done");
    }

    /// Adds an entry to a stream; returns its id.
    pub fn add(&self, stream: &str, fields: &[(&str, &str)]) -> String {
        let command = ["XADD", stream, "*"].into_iter().chain(fields.iter().flat_map(|(name, value)| [*name, *value]));
        self.run(&command.collect::<Vec<_>>())
    }

    /// Adds entries of this name with the payloads of a range, all at once.
    pub fn add_many(&self, stream: &str, name: &str, payloads: std::ops::Range<usize>) {
        let mut commands = redis::pipe();
        commands.atomic();
        for n in payloads {
            commands.cmd("XADD").arg(stream).arg("*").arg("event_name").arg(name).arg("payload").arg(n).ignore();
        }
        self.run_all(&commands);
    }

    /// The entries of a stream: ids, and names and values in order.
    pub fn entries(&self, stream: &str) -> Vec<(String, Vec<(String, String)>)> {
        let entries: Vec<(String, Vec<String>)> = self.run(&["XRANGE", stream, "-", "+"]);
        let pairs = |texts: Vec<String>| texts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        entries.into_iter().map(|(id, texts)| (id, pairs(texts))).collect()
    }

    pub fn length(&self, stream: &str) -> usize {
        self.run(&["XLEN", stream])
    }

    /// How many entries the group was given and has not acknowledged.
    pub fn pending(&self, stream: &str) -> usize {
        let answer: Value = self.try_run(&["XPENDING", stream, "event-handler"]).unwrap_or_default();
        match answer {
            Value::Array(parts) => redis::from_redis_value(parts[0].clone()).expect("a number"),
            _ => 0,
        }
    }

    /// Waits until all of the stream was taken, for as long as it gets shorter: nothing is there, and nothing is in
    /// anybody's hands.
    pub fn wait_until_taken(&self, stream: &str) {
        let mut left = usize::MAX;
        while left > 0 {
            left = eventually("the stream gets shorter", || Some(self.length(stream)).filter(|now| *now < left));
        }
        eventually("all is acknowledged", || (self.length(stream) + self.pending(stream) == 0).then_some(()));
    }

    /// All of a list, from its head on.
    pub fn list(&self, key: &str) -> Vec<String> {
        self.run(&["LRANGE", key, "0", "-1"])
    }

    /// Whatever is published on `channel` from now on.
    pub fn subscribe(&self, channel: &str) -> Subscriber {
        let mut connection = self.connection().expect("connected");
        connection.set_read_timeout(None).expect("a socket");
        let (channel, received) = (channel.to_owned(), Arc::<Mutex<Vec<String>>>::default());
        let (subscribed, is_subscribed) = mpsc::channel();
        let messages = Arc::clone(&received);
        std::thread::spawn(move || {
            let mut pubsub = connection.as_pubsub();
            pubsub.subscribe(&channel).expect("subscribed");
            subscribed.send(()).expect("somebody waits");
            // It ends with the server.
            while let Ok(message) = pubsub.get_message() {
                let text = message.get_payload().expect("a text");
                messages.lock().expect("no panic").push(text);
            }
        });
        is_subscribed.recv_timeout(PATIENCE).expect("subscribed");
        Subscriber(received)
    }

    /// Publishes these, in one request.
    pub fn publish_all(&self, channel: &str, messages: impl IntoIterator<Item = String>) {
        let mut commands = redis::pipe();
        for message in messages {
            commands.cmd("PUBLISH").arg(channel).arg(message).ignore();
        }
        self.run_all(&commands);
    }

    fn connection(&self) -> RedisResult<Connection> {
        let login = self.login.as_deref().unwrap_or_default();
        let client = Client::open(format!("redis://{login}127.0.0.1:{}", self.port))?;
        let connection = client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        assert!(connection.is_open());
        Ok(connection)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// What a subscriber of a channel has received.
pub struct Subscriber(Arc<Mutex<Vec<String>>>);

impl Subscriber {
    pub fn received(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    /// Waits until so many messages have come, and returns them all.
    pub fn wait_for(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} messages"), || Some(self.received()).filter(|received| received.len() >= count))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
