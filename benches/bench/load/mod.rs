//! The load generator: one thread, one epoll loop, prebuilt requests, frames counted by their headers.

pub mod fan_out;
pub mod http;
pub mod recovery;
pub mod requests;
pub mod sink;
pub mod sse;
pub mod ws;

use std::io;
use std::time::{Duration, Instant};

use crate::proc::{Usage, machine_busy};
use crate::system::System;

/// Nanoseconds since the program's start: what a publisher writes into a payload and a subscriber subtracts.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn nanos(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Latencies in nanoseconds, every one kept; at most [`Latencies::MOST`].
#[derive(Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    const MOST: usize = 8_000_000;

    pub fn record(&mut self, nanos: u64) {
        if self.0.len() < Self::MOST {
            self.0.push(nanos);
        }
    }

    pub fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// In milliseconds; `share` is between 0 and 1. NaN when nothing was recorded.
    pub fn quantiles<const N: usize>(mut self, shares: [f64; N]) -> [f64; N] {
        self.0.sort_unstable();
        shares.map(|share| match self.0.len() {
            0 => f64::NAN,
            count => self.0[((count - 1) as f64 * share).round() as usize] as f64 / 1e6,
        })
    }
}

/// Takes stock of both sides at its start, and of the difference at its end.
pub struct Meter<'a> {
    system: &'a System,
    began: Instant,
    server: Usage,
    client: Usage,
    machine: Duration,
}

/// What a stretch of load cost.
pub struct Cost {
    pub wall: Duration,
    pub server_cpu: Duration,
    pub client_cpu: Duration,
    /// Of everything else on the machine: what disturbed the measurement.
    pub other_cpu: Duration,
}

impl<'a> Meter<'a> {
    pub fn start(system: &'a System) -> io::Result<Self> {
        let (server, client, machine) = (system.usage()?, Usage::of_self()?, machine_busy()?);
        Ok(Self { system, server, client, machine, began: Instant::now() })
    }

    pub fn stop(self) -> io::Result<Cost> {
        let wall = self.began.elapsed();
        let client_cpu = Usage::of_self()?.cpu.saturating_sub(self.client.cpu);
        let server_cpu = self.system.usage()?.cpu.saturating_sub(self.server.cpu);
        let machine = machine_busy()?.saturating_sub(self.machine);
        Ok(Cost { wall, client_cpu, server_cpu, other_cpu: machine.saturating_sub(client_cpu + server_cpu) })
    }
}

impl Cost {
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.wall.as_secs_f64()
    }

    pub fn server_micros_per(&self, count: u64) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / count as f64
    }

    /// In percent of one core: the server, the load generator, everything else on the machine.
    pub fn busy(&self) -> [(&'static str, f64); 3] {
        let percent = |cpu: Duration| 100.0 * cpu.as_secs_f64() / self.wall.as_secs_f64();
        [
            ("server busy %", percent(self.server_cpu)),
            ("client busy %", percent(self.client_cpu)),
            ("others busy %", percent(self.other_cpu)),
        ]
    }
}
