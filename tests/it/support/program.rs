//! Programs beside the one under test, as child processes: examples, scripts, a browser.

use std::ffi::OsStr;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use super::eventually;
use super::server::Log;

/// A running program; killed on drop.
pub struct Program {
    child: Child,
    printed: Arc<Log>,
    said: Arc<Log>,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let printed = Log::follow(BufReader::new(child.stdout.take().expect("piped")));
        let said = Log::follow(BufReader::new(child.stderr.take().expect("piped")));
        Self { child, printed, said }
    }

    /// What was printed, once that is at least `count` lines.
    pub fn wait_for_lines(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} lines"), || {
            let lines: Vec<String> = self.printed.text().lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// What `find` makes of the first line on standard error that it accepts.
    ///
    /// # Panics
    /// When there is none in time.
    pub fn wait_for_word<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        self.said.find_soon(find).unwrap_or_else(|| panic!("it said:\n{}", self.said.text()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- printed ---\n{}\n--- said ---\n{}", self.printed.text(), self.said.text());
        }
    }
}

/// `program`, which the kernel kills when the thread that started it ends.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A Rust example, which is built with the tests.
pub fn example(name: &str) -> Command {
    command(PathBuf::from(env!("CARGO_BIN_EXE_event-handler")).with_file_name("examples").join(name))
}

/// The Python that has the clients of the tests.
pub fn python() -> Command {
    let python = root().join("target/venv/bin/python");
    assert!(python.exists(), "{} is missing; ./tests/run creates it", python.display());
    let mut command = command(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Node with the clients of Redis that the tests use.
pub fn node_with_clients() -> Command {
    let modules = root().join("target/node/node_modules");
    assert!(modules.exists(), "{} is missing; ./tests/run creates it", modules.display());
    let mut command = command("node");
    command.env("NODE_PATH", modules);
    command
}

/// A script that looks for barriers in a page.
pub fn axe() -> String {
    let path = root().join("target/node/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is missing; ./tests/run creates it", path.display()))
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
