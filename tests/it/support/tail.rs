//! `event-handler tail` as a child process.

use std::io::BufReader;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;
use super::server::{Builder, Log, wait_for_exit};

/// A running `tail`; killed on drop.
pub struct Tail {
    child: Child,
    printed: Arc<Log>,
    said: Arc<Log>,
}

impl Tail {
    /// Starts it and waits until it has subscribed.
    pub fn start(spec: &Builder) -> Self {
        let tail = Self::begin(spec);
        tail.wait_until_it_says("subscribed to");
        tail
    }

    /// Starts it.
    pub fn begin(spec: &Builder) -> Self {
        let mut child = spec.command().stdout(Stdio::piped()).spawn().expect("the program can be started");
        let printed = Log::follow(BufReader::new(child.stdout.take().expect("piped")));
        let said = Log::follow(BufReader::new(child.stderr.take().expect("piped")));
        Self { child, printed, said }
    }

    /// Waits for a line on standard error that contains `text`.
    pub fn wait_until_it_says(&self, text: &str) {
        let found = self.said.find_soon(|line| line.contains(text).then_some(()));
        found.unwrap_or_else(|| panic!("{text:?} is not in\n{}", self.said.text()));
    }

    /// What was printed, once that is at least `count` lines.
    pub fn wait_for_lines(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} lines"), || {
            let text = self.printed.text();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// Does to it what Ctrl-C does, and waits for its end.
    pub fn interrupt(mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a valid pid");
        kill_process(pid, Signal::INT).expect("a living child");
        self.wait_for_exit()
    }

    /// Waits for its end.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child).unwrap_or_else(|| panic!("did not exit:\n{}", self.said.text()))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- what tail said ---\n{}", self.said.text());
        }
    }
}
