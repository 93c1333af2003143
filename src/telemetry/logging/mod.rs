//! Writes log lines to standard error without ever blocking the thread that logs.
//!
//! A line is formatted by the thread that logs and put into a bounded queue, which one thread writes. While standard
//! error takes nothing (a blocked pipe, a full disk), lines are dropped and counted. The number is logged once bytes
//! can be written again.

mod format;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use env_logger::{Builder, Target, WriteStyle};
use log::{Level, Log, Metadata, Record};

use self::format::Style;
use self::queue::Queue;
use crate::config::{LogConfig, LogFormat};

/// Bound of the lines that wait or are being written, in bytes. When it is reached, further lines are dropped.
const QUEUE_BYTES: usize = 4 << 20;

/// Levels of libraries, unless the configured filter names them. The HTTP parser logs an error for each malformed
/// request and each WebSocket connection; the server logs its workers.
const QUIET: &str = "actix_http::h1=off,actix_server=warn";

/// How long a panicking thread waits until its message is written.
const PANIC_FLUSH: Duration = Duration::from_millis(200);

static HANDLE: OnceLock<LogHandle> = OnceLock::new();

/// A handle of the running log.
#[derive(Clone)]
pub struct LogHandle {
    queue: Arc<Queue>,
    style: Style,
    logger: Logger,
}

/// A logger whose level can be changed while it runs.
#[derive(Clone)]
struct Logger(Arc<RwLock<env_logger::Logger>>);

impl Logger {
    fn current(&self) -> RwLockReadGuard<'_, env_logger::Logger> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.current().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.current().log(record);
    }

    fn flush(&self) {
        self.current().flush();
    }
}

impl LogHandle {
    /// Lines dropped since the start, because the queue was full or a write failed.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Replaces the filter; `level` has the syntax of `RUST_LOG`.
    pub fn set_level(&self, level: &str) {
        let logger = build(level, self.style, &self.queue);
        log::set_max_level(logger.filter());
        *self.logger.0.write().unwrap_or_else(PoisonError::into_inner) = logger;
    }

    /// Waits until all lines logged before are written. Returns false if that takes longer than `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.queue.flush(timeout)
    }
}

/// The log of this process; `None` before [`init`].
pub fn handle() -> Option<&'static LogHandle> {
    HANDLE.get()
}

/// Starts logging to standard error, including panics. `production` chooses the format if it is configured as `auto`.
///
/// Only the first call has an effect. It fails only if the system grants no descriptor or thread.
pub fn init(config: &LogConfig, production: bool) -> io::Result<LogHandle> {
    if let Some(running) = handle() {
        return Ok(running.clone());
    }
    let style = style(config.format, production);
    // A descriptor of its own, so that a blocked write does not hold the lock of standard error.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let running = start(config, style, stderr, QUEUE_BYTES)?;
    let handle = HANDLE.get_or_init(|| running.handle).clone();
    if log::set_boxed_logger(Box::new(running.logger)).is_ok() {
        log::set_max_level(running.max_level);
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(handle)
}

struct Running {
    logger: Logger,
    max_level: log::LevelFilter,
    handle: LogHandle,
}

fn start(config: &LogConfig, style: Style, to: impl Write + Send + 'static, bytes: usize) -> io::Result<Running> {
    let queue = Queue::start(to, bytes, move |count| format::dropped_notice(style, count))?;
    let logger = build(&config.level, style, &queue);
    let max_level = logger.filter();
    let logger = Logger(Arc::new(RwLock::new(logger)));
    Ok(Running { logger: logger.clone(), max_level, handle: LogHandle { queue, style, logger } })
}

fn build(level: &str, style: Style, queue: &Arc<Queue>) -> env_logger::Logger {
    Builder::new()
        .parse_filters(QUIET)
        .parse_filters(level)
        .format(move |line, record| format::write_line(style, line, record))
        .target(Target::Pipe(Box::new(Lines(Arc::clone(queue)))))
        // `format` decides about colours, so env_logger must not strip them.
        .write_style(WriteStyle::Always)
        .build()
}

/// The end of the queue to which the logger writes. Each write is one whole line.
struct Lines(Arc<Queue>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether lines are formatted for people.
pub fn is_readable(config: &LogConfig, production: bool) -> bool {
    matches!(style(config.format, production), Style::Text { .. })
}

fn style(format: LogFormat, production: bool) -> Style {
    let is_json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => production,
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match is_json {
        true => Style::Json,
        false => Style::Text { color: io::stderr().is_terminal() && !no_color },
    }
}

/// Logs a panic as one line, with a backtrace if `RUST_BACKTRACE` asks for it.
fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("a value that is not text");
    let location = info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let mut fields = vec![("location", log::kv::Value::from(location.as_str())), ("thread", thread.into())];
    if let Some(backtrace) = &backtrace {
        fields.push(("backtrace", backtrace.as_str().into()));
    }
    log::logger().log(
        &Record::builder()
            .level(Level::Error)
            .target(module_path!())
            .args(format_args!("panicked: {message}"))
            .key_values(&fields.as_slice())
            .build(),
    );
    if let Some(log) = handle() {
        log.flush(PANIC_FLUSH);
    }
}

#[cfg(test)]
mod tests;
