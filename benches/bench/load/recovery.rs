//! Subscribers that come back at once and ask for what they missed, while publishing goes on.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::http::Connection;
use super::requests::Stamped;
use super::ws::{Subscriber, Subscription, request_frame};
use super::{Clock, Cost, Latencies, Meter};
use crate::system::System;

/// Without a frame or an answer for so long, what is still missing is lost.
const SILENCE: Duration = Duration::from_secs(15);
const PUBLISHERS: usize = 16;
const READS_PER_TURN: usize = 32;

/// Connected clients that have not subscribed yet.
pub struct Returners {
    poll: Poll,
    subscribers: Vec<Subscriber>,
}

pub struct Plan<'a> {
    /// The request of each, answered by one frame.
    pub request: &'a str,
    /// Events that each of them has missed.
    pub missed: u64,
    /// Published meanwhile, at fixed times; none of rate 0.
    pub per_second: u32,
    pub publish: Stamped,
}

pub struct Outcome {
    /// Event frames received by all together.
    pub delivered: u64,
    /// Publishes answered with success.
    pub accepted: u64,
    /// From the time a publish was due to its answer.
    pub publishes: Latencies,
    /// Until everybody had everything.
    pub cost: Cost,
    pub faults: Vec<String>,
}

impl Returners {
    pub fn connect(subscription: &Subscription, count: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let subscribers = (0..count)
            .map(|index| {
                let mut subscriber = Subscriber::new(subscription.open(None)?, subscription.wire, false)?;
                poll.registry().register(&mut subscriber.stream, Token(index), Interest::READABLE)?;
                Ok(subscriber)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { poll, subscribers })
    }

    /// All ask at once; ends when everybody has what was missed and what was published meanwhile.
    pub fn recover(mut self, system: &System, clock: Clock, mut plan: Plan<'_>) -> io::Result<Outcome> {
        let Self { poll, subscribers } = &mut self;
        let crowd = subscribers.len();
        let publishing = if plan.per_second > 0 { PUBLISHERS } else { 0 };
        let mut publishers = (0..publishing)
            .map(|index| Connection::open(system.addr, poll, Token(crowd + index)))
            .collect::<io::Result<Vec<_>>>()?;
        // They take turns, so that none is idle for so long that the server ends it.
        let mut idle: VecDeque<usize> = (0..publishing).collect();
        let mut due = [0; PUBLISHERS];
        let (mut sent, mut accepted, mut refused) = (0_u64, 0_u64, Vec::new());
        let mut buffer = vec![0; 256 * 1024];
        let mut publishes = Latencies::default();
        let mut events = Events::with_capacity(1024);
        let meter = Meter::start(system)?;
        let frame = request_frame(plan.request);
        for subscriber in subscribers.iter_mut() {
            io::Write::write_all(&mut subscriber.stream, &frame)?;
        }
        let gap = 1_000_000_000_u64.checked_div(plan.per_second.into());
        let (mut next_at, mut last_sign) = (clock.nanos(), Instant::now());
        // The reply counts as a frame.
        let history = (plan.missed + 1) * crowd as u64;
        let mut received = 0;
        // Those whose sockets are not empty: they take turns, and publishes are looked after in between.
        let mut ready: VecDeque<usize> = VecDeque::new();
        let mut is_ready = vec![false; crowd];
        loop {
            // Publishing goes on until as many frames have come as the history has; then only the rest is awaited.
            let is_open = received < history;
            while let (true, Some(gap)) = (is_open && clock.nanos() >= next_at, gap) {
                let Some(index) = idle.pop_front() else { break };
                publishers[index].send(plan.publish.fill(next_at, sent))?;
                due[index] = next_at;
                next_at += gap;
                sent += 1;
            }
            let is_answered = accepted + refused.len() as u64 == sent;
            let is_complete = received >= history + accepted * crowd as u64;
            if !is_open && is_answered && is_complete || last_sign.elapsed() > SILENCE {
                break;
            }
            let wait = if ready.is_empty() { Duration::from_millis(1) } else { Duration::ZERO };
            poll.poll(&mut events, Some(wait))?;
            for event in &events {
                let index = event.token().0;
                if index < crowd {
                    if !std::mem::replace(&mut is_ready[index], true) {
                        ready.push_back(index);
                    }
                } else {
                    let index = index - crowd;
                    publishers[index].flush()?;
                    let Some(answer) = publishers[index].receive()? else { continue };
                    publishes.record(clock.nanos().saturating_sub(due[index]));
                    match answer.is_success() {
                        true => accepted += 1,
                        false => refused.push(answer.excerpt()),
                    }
                    idle.push_back(index);
                }
                last_sign = Instant::now();
            }
            for _ in 0..READS_PER_TURN {
                let Some(index) = ready.pop_front() else { break };
                let before = subscribers[index].count;
                match subscribers[index].receive_once(&mut buffer, clock)? {
                    true => ready.push_back(index),
                    false => is_ready[index] = false,
                }
                received += subscribers[index].count - before;
                last_sign = Instant::now();
            }
        }
        let cost = meter.stop()?;
        let expected = 1 + plan.missed + accepted;
        let mut faults = Vec::new();
        if let Some(first) = refused.first() {
            faults.push(format!("REFUSED {} of {sent} publishes, the first: {first}", refused.len()));
        }
        let missing: u64 = subscribers.iter().map(|one| expected.saturating_sub(one.count)).sum();
        if missing > 0 {
            faults.push(format!("LOSS {missing} of {} frames", expected * crowd as u64));
        }
        let surplus: u64 = subscribers.iter().map(|one| one.count.saturating_sub(expected)).sum();
        if surplus > 0 {
            faults.push(format!("SURPLUS {surplus} frames"));
        }
        let closed = subscribers.iter().filter(|one| one.closed.is_some()).count();
        if closed > 0 {
            faults.push(format!("CLOSED {closed} subscribers"));
        }
        Ok(Outcome { delivered: received.saturating_sub(crowd as u64), accepted, publishes, cost, faults })
    }
}
