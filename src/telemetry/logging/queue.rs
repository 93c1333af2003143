//! A bounded queue of bytes between all threads that log and the one that writes.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Pause before a write is repeated when a non-blocking descriptor is full.
const RETRY: Duration = Duration::from_millis(10);

/// Memory that the writing thread keeps between batches, in bytes.
const KEPT_BYTES: usize = 64 << 10;

/// The queue of log lines. When it is full, further lines are dropped and counted.
pub(super) struct Queue {
    /// Bound of the bytes that wait or are being written.
    capacity: usize,
    state: Mutex<State>,
    /// Signalled when there is something to write.
    filled: Condvar,
    /// Signalled when something was written.
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Whole lines that wait.
    waiting: Vec<u8>,
    /// Bytes that are being written.
    in_flight: usize,
    /// Dropped lines that were not reported yet.
    unannounced: u64,
    /// Whether the last write failed. Then the report waits for the next line, so that the thread does not spin.
    broken: bool,
    /// Bytes ever taken in, and bytes ever written or dropped after that.
    taken: u64,
    done: u64,
}

impl Queue {
    /// Starts the thread that writes to `to`. `notice` formats the report of dropped lines.
    pub fn start(
        to: impl Write + Send + 'static,
        capacity: usize,
        notice: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            capacity,
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let ours = Arc::clone(&queue);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || ours.run(to, notice))?;
        Ok(queue)
    }

    /// Takes in one line, or drops it. Never waits for the writing thread.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        let is_idle = state.waiting.is_empty();
        if state.waiting.len() + state.in_flight + line.len() > self.capacity {
            state.unannounced += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            state.waiting.extend_from_slice(line);
            state.taken += line.len() as u64;
        }
        let must_wake = is_idle && state.in_flight == 0;
        drop(state);
        if must_wake {
            self.filled.notify_one();
        }
    }

    /// Lines dropped since the start for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines taken in before are written or lost. Returns false after `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let state = self.lock();
        let goal = state.taken;
        let waited = self.written.wait_timeout_while(state, timeout, |state| state.done < goal);
        waited.unwrap_or_else(PoisonError::into_inner).0.done >= goal
    }

    fn run(&self, mut to: impl Write, notice: impl Fn(u64) -> Vec<u8>) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() && (state.unannounced == 0 || state.broken) {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut batch, &mut state.waiting);
            let bytes = batch.len();
            state.in_flight = bytes;
            let unannounced = std::mem::take(&mut state.unannounced);
            drop(state);

            if unannounced > 0 {
                batch.extend(notice(unannounced));
            }
            let outcome = write_lines(&mut to, &batch);
            batch.clear();
            batch.shrink_to(KEPT_BYTES);

            let mut state = self.lock();
            state.in_flight = 0;
            state.done += bytes as u64;
            state.broken = outcome.is_err();
            if let Err(lost) = outcome {
                // The report itself counts as no line, but the lines that it reports are unreported again.
                let lost = lost - u64::from(unannounced > 0);
                self.dropped.fetch_add(lost, Ordering::Relaxed);
                state.unannounced += lost + unannounced;
            }
            drop(state);
            self.written.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all of `lines`. The error is the number of lines that were not written completely.
fn write_lines(to: &mut impl Write, lines: &[u8]) -> Result<(), u64> {
    let mut rest = lines;
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(count_lines(rest)),
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(_) => return Err(count_lines(rest)),
        }
    }
    Ok(())
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A writer that announces each write and waits for its outcome.
    struct Gate {
        writes: mpsc::Sender<String>,
        outcomes: mpsc::Receiver<io::Result<usize>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.writes.send(text).map_err(io::Error::other)?;
            let outcome = self.outcomes.recv().map_err(io::Error::other)?;
            outcome.map(|n| n.min(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Gated = (Arc<Queue>, mpsc::Receiver<String>, mpsc::Sender<io::Result<usize>>);

    fn gated(capacity: usize) -> Gated {
        let (writes, seen) = mpsc::channel();
        let (finish, outcomes) = mpsc::channel();
        let notice = |count| format!("{count} dropped\n").into_bytes();
        (Queue::start(Gate { writes, outcomes }, capacity, notice).unwrap(), seen, finish)
    }

    fn broken_pipe() -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }

    #[test]
    fn lines_that_gathered_are_one_write() {
        let (queue, seen, finish) = gated(100);
        queue.push(b"one\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "one\n");
        queue.push(b"two\n");
        queue.push(b"three\n");
        finish.send(Ok(usize::MAX)).unwrap();
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "two\nthree\n");
        finish.send(Ok(usize::MAX)).unwrap();
        assert!(queue.flush(SOON));
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn a_blocked_writer_costs_lines_but_no_time() {
        let (queue, seen, finish) = gated(12);
        queue.push(b"first\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "first\n");
        // The line that is being written counts as well: six bytes are left.
        queue.push(b"queue\n");
        for _ in 0..1000 {
            queue.push(b"lost\n");
        }
        assert_eq!(queue.dropped(), 1000);
        assert!(!queue.flush(Duration::ZERO));

        finish.send(Ok(usize::MAX)).unwrap();
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "queue\n1000 dropped\n");
        finish.send(Ok(usize::MAX)).unwrap();
        assert!(queue.flush(SOON));

        queue.push(b"again\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "again\n");
    }

    #[test]
    fn partial_and_interrupted_writes_are_continued() {
        let (queue, seen, finish) = gated(100);
        queue.push(b"abcdef\n");
        let outcomes = [Ok(3), Err(ErrorKind::Interrupted.into()), Err(ErrorKind::WouldBlock.into()), Ok(usize::MAX)];
        for (outcome, rest) in outcomes.into_iter().zip(["abcdef\n", "def\n", "def\n", "def\n"]) {
            assert_eq!(seen.recv_timeout(SOON).unwrap(), rest);
            finish.send(outcome).unwrap();
        }
        assert!(queue.flush(SOON));
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn a_failed_write_is_counted_and_told_with_the_next_line() {
        let (queue, seen, finish) = gated(100);
        queue.push(b"one\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "one\n");
        finish.send(broken_pipe()).unwrap();
        assert!(queue.flush(SOON));
        assert_eq!(queue.dropped(), 1);

        queue.push(b"two\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "two\n1 dropped\n");
        finish.send(broken_pipe()).unwrap();
        assert!(queue.flush(SOON));
        assert_eq!(queue.dropped(), 2);
        // Nothing was written in between, so the thread does not spin on a closed descriptor.
        assert!(seen.try_recv().is_err());

        queue.push(b"three\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "three\n2 dropped\n");
        finish.send(Ok(usize::MAX)).unwrap();
        assert!(queue.flush(SOON));
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn a_line_beyond_the_bound_is_dropped_and_told() {
        let (queue, seen, finish) = gated(4);
        queue.push(b"too long\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "1 dropped\n");
        finish.send(Ok(usize::MAX)).unwrap();
        queue.push(b"ok\n");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "ok\n");
        finish.send(Ok(usize::MAX)).unwrap();
        assert!(queue.flush(SOON));
        assert_eq!(queue.dropped(), 1);
    }
}
