//! Standard output and standard error, either of which may be closed or stand still.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::Failure;

/// Most lines that wait to be printed; with more, the command waits.
const QUEUE: usize = 64;
/// Time for the last lines to be taken when the command ends.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// Prints one line.
pub fn print(line: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{line}").map_err(|error| write_failure(&error))
}

/// Prints a message on standard error, and ignores whether that is read.
///
/// It is written at once, as the log of a service that ends is written to the same place.
pub fn say(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Waits until nobody reads standard output any more; forever where that cannot be known (a file, a terminal).
pub async fn closed() {
    // SAFETY: standard output stays open, and the same, until the process ends.
    match unsafe { AsyncFd::register_with_interest(io::stdout(), Interest::ERROR) } {
        Ok(stdout) if stdout.ready(Interest::ERROR).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// A line to be printed, or a request to be told when everything before it is written.
enum Queued {
    Line(String),
    Written(oneshot::Sender<()>),
}

/// Prints lines from a thread of its own, so that a reader who stands still does not hold the command:
/// it can still be interrupted.
pub struct Printer {
    lines: mpsc::Sender<Queued>,
    outcome: Receiver<io::Result<()>>,
}

impl Printer {
    pub fn start() -> Self {
        let (lines, queue) = mpsc::channel(QUEUE);
        let (done, outcome) = sync_channel(1);
        std::thread::spawn(move || done.send(write_all(queue)));
        Self { lines, outcome }
    }

    /// Hands over one line. `false`: no more can be printed; [`Self::finish`] tells why.
    pub async fn print(&self, line: String) -> bool {
        self.lines.send(Queued::Line(line)).await.is_ok()
    }

    /// Waits until what was handed over is written. `false`: it cannot be.
    pub async fn written(&self) -> bool {
        let (done, is_written) = oneshot::channel();
        self.lines.send(Queued::Written(done)).await.is_ok() && is_written.await.is_ok()
    }

    /// Waits, not long, for what was handed over to be written.
    pub fn finish(self) -> Result<(), Failure> {
        drop(self.lines);
        match self.outcome.recv_timeout(FINISH_PATIENCE) {
            Ok(Err(error)) => Err(write_failure(&error)),
            Ok(Ok(())) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

/// Writes through a buffer that is emptied whenever nothing waits.
fn write_all(mut queue: mpsc::Receiver<Queued>) -> io::Result<()> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    let mut next = queue.blocking_recv();
    while let Some(queued) = next {
        match queued {
            Queued::Line(line) => writeln!(stdout, "{line}")?,
            Queued::Written(done) => {
                stdout.flush()?;
                let _ = done.send(());
            }
        }
        next = match queue.try_recv() {
            Ok(queued) => Some(queued),
            Err(_) => {
                stdout.flush()?;
                queue.blocking_recv()
            }
        };
    }
    Ok(())
}

fn write_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Failed(format!("cannot write to standard output: {error}")),
    }
}
