//! The standard process metrics of Prometheus, read from the kernel at each scrape.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// CPU time, memory, threads, open files, and start time of this process.
///
/// A value that the kernel does not tell keeps its last reading.
pub struct ProcessMetrics {
    cpu_seconds: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    threads: Gauge,
    open_files: Gauge,
    max_files: Gauge,
    start: Gauge,
}

impl ProcessMetrics {
    /// # Errors
    /// None in practice: the names are valid.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            cpu_seconds: Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_memory: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            threads: Gauge::new("process_threads", "Number of OS threads in the process.")?,
            open_files: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_files: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            start: Gauge::new("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")?,
        };
        if let Some((boot, stat)) = boot_time().zip(Stat::read()) {
            metrics.start.set(boot + stat.start_ticks / clock_ticks_per_second() as f64);
        }
        Ok(metrics)
    }

    fn read(&self) {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        self.cpu_seconds.inc_by((cpu_seconds - self.cpu_seconds.get()).max(0.0));
        if let Some(stat) = Stat::read() {
            self.threads.set(stat.threads);
            self.virtual_memory.set(stat.virtual_bytes);
            self.resident.set(stat.resident_pages * page_size() as f64);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The descriptor by which the others are counted is closed by now.
            self.open_files.set(open.count().saturating_sub(1) as f64);
        }
        if let Some(max) = getrlimit(Resource::Nofile).current {
            self.max_files.set(max as f64);
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        let Self { cpu_seconds, resident, virtual_memory, threads, open_files, max_files, start } = self;
        [cpu_seconds, resident, virtual_memory, threads, open_files, max_files, start]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// The fields of `/proc/self/stat` that are shown; see proc_pid_stat(5).
struct Stat {
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field, the name of the program, may contain spaces and parentheses. Fields are counted from the
        // third one, after the last parenthesis.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine was started, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_any_name_is_read() {
        let text =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 5 3 0 0 20 0 9 0 4400 1000000 250 18446744073709551615 1 1";
        let stat = Stat::parse(text).expect("readable");
        assert_eq!(
            (stat.threads, stat.start_ticks, stat.virtual_bytes, stat.resident_pages),
            (9.0, 4400.0, 1_000_000.0, 250.0)
        );
        assert!(Stat::parse("7 (cut").is_none());
    }

    #[test]
    fn this_process_is_told_with_figures_that_can_be() {
        let metrics = ProcessMetrics::new().expect("valid names");
        let collected = metrics.collect();
        assert_eq!(collected.len(), 7);
        assert!(metrics.resident.get() > 1e6 && metrics.open_files.get() >= 3.0 && metrics.threads.get() >= 2.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - 86_400.0..=now + 1.0).contains(&metrics.start.get()), "{}", metrics.start.get());
        let before = metrics.cpu_seconds.get();
        metrics.collect();
        assert!(metrics.cpu_seconds.get() > before);
    }
}
