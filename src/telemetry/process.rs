//! The customary metrics of a process.

use prometheus::Counter;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// What the library tells of this process, but for its CPU seconds: those it rounds down to whole ones.
pub struct ProcessMetrics(ProcessCollector);

impl ProcessMetrics {
    pub fn of_self() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        families.retain(|family| family.name() != CPU_SECONDS);
        let counter = Counter::new(CPU_SECONDS, "Total user and system CPU time spent in seconds.");
        if let (Ok(counter), Some(seconds)) = (counter, cpu_seconds()) {
            counter.inc_by(seconds);
            families.extend(counter.collect());
        }
        families
    }
}

/// CPU time of all threads of this process so far.
fn cpu_seconds() -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the length of the call.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    (outcome == 0).then_some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}
