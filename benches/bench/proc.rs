//! What the kernel says about processes: CPU time, resident memory, threads; and on which core they run.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What a process and all its descendants have used so far.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// User and system time of all threads, ended children included; steps of 10 ms.
    pub cpu: Duration,
    /// Bytes; memory shared between processes counts once for each.
    pub resident: u64,
    pub threads: u64,
}

impl Usage {
    /// Sums the process trees below `roots`.
    pub fn of(roots: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let stats = all_stats()?;
        let mut sum = Self::default();
        let mut open: Vec<u32> = roots.into_iter().collect();
        while let Some(pid) = open.pop() {
            open.extend(stats.values().filter(|stat| stat.parent == pid).map(|stat| stat.pid));
            if let Some(stat) = stats.get(&pid) {
                sum.cpu += stat.cpu;
                sum.resident += stat.resident;
                sum.threads += stat.threads;
            }
        }
        Ok(sum)
    }

    pub fn of_self() -> io::Result<Self> {
        let stat = Stat::read(std::process::id())
            .ok_or_else(|| io::Error::other("cannot read /proc/self/stat; is /proc mounted?"))?;
        Ok(Self { cpu: stat.cpu, resident: stat.resident, threads: stat.threads })
    }
}

/// Time that all cores together were busy since boot, interrupts included; steps of 10 ms.
pub fn machine_busy() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u64> = (text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1))
        .map_while(|field| field.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait), irq, softirq, steal
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&index| ticks.get(index)).sum();
    Ok(from_ticks(busy))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
}

struct Stat {
    pid: u32,
    parent: u32,
    cpu: Duration,
    resident: u64,
    threads: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command in parentheses and may itself hold blanks and parentheses.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
        Some(Self {
            pid,
            parent: u32::try_from(number(1)?).ok()?,
            cpu: from_ticks(ticks),
            resident: number(21)? * page_size() as u64,
            threads: number(17)?,
        })
    }
}

fn all_stats() -> io::Result<HashMap<u32, Stat>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, Stat::read(pid)?)))
        .collect())
}

/// The core for servers and the core for the load generator: the first two this process may use.
#[derive(Clone, Copy)]
pub struct Cores {
    pub server: usize,
    pub client: usize,
}

impl Cores {
    pub fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let server = cores.next().ok_or_else(|| io::Error::other("no core to run on"))?;
        Ok(Self { server, client: cores.next().unwrap_or(server) })
    }

    pub fn are_distinct(self) -> bool {
        self.server != self.client
    }

    /// Binds the calling thread, and what it spawns from now on, to the load generator's core.
    pub fn pin_client(self) -> io::Result<()> {
        pin(self.client)
    }

    /// Starts `command` bound to the server's core, with every thread and child it will have.
    pub fn spawn_server(self, command: &mut Command) -> io::Result<Process> {
        pin(self.server)?; // a child inherits the core of the thread that spawns it
        let child = command.spawn();
        pin(self.client)?;
        Ok(Process(child?))
    }
}

fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// A child process that ends with its owner.
pub struct Process(Child);

impl Process {
    const START_LIMIT: Duration = Duration::from_secs(120);
    const STOP_LIMIT: Duration = Duration::from_secs(30);

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until `is_ready`; fails when the process ends first or takes more than two minutes.
    pub fn await_ready(&mut self, pause: Duration, is_ready: impl Fn() -> bool) -> io::Result<()> {
        let began = Instant::now();
        while !is_ready() {
            if let Some(status) = self.ended() {
                return Err(io::Error::other(format!("ended at its start, {status}")));
            }
            if began.elapsed() > Self::START_LIMIT {
                return Err(io::Error::other("does not answer"));
            }
            sleep(pause);
        }
        Ok(())
    }

    /// Waits until something accepts connections at `addr`.
    pub fn await_port(&mut self, addr: SocketAddr) -> io::Result<()> {
        self.await_ready(Duration::from_millis(5), || TcpStream::connect(addr).is_ok())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Ends it without any warning.
    pub fn kill(mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }

    /// Asks it to end, and makes it after [`Self::STOP_LIMIT`].
    fn stop(&mut self) -> io::Result<ExitStatus> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let until = Instant::now() + Self::STOP_LIMIT;
        while asked && Instant::now() < until {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(2));
        }
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot stop process {}: {error}", self.id());
        }
    }
}
