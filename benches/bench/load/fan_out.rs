//! Publishers on one side, subscribers on the other, in one epoll loop.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::http::Connection;
use super::requests::Stamped;
use super::ws::{Subscriber, Subscription};
use super::{Clock, Cost, Latencies, Meter};
use crate::system::System;

/// How many subscribers look into payloads and time them.
const SAMPLES: usize = 40;

/// Without a frame or an answer for so long, what is still missing is lost.
const SILENCE: Duration = Duration::from_secs(8);

/// When the next event is published.
#[derive(Clone, Copy)]
pub enum Pacing {
    /// So that at most this many events are on their way: published, but not yet with every subscriber.
    Outstanding(u64),
    /// At fixed times, whatever the server does; latency counts from the time that was due.
    PerSecond(u32),
}

pub struct Plan {
    pub publishers: usize,
    pub pacing: Pacing,
    pub duration: Duration,
    pub events: u64,
}

pub struct Outcome {
    /// Frames received by all subscribers together.
    pub delivered: u64,
    pub latencies: Latencies,
    pub cost: Cost,
    pub faults: Vec<String>,
}

/// Connected and subscribed clients, ready to be published to.
pub struct Audience {
    poll: Poll,
    subscribers: Vec<Subscriber>,
    buffer: Vec<u8>,
}

impl Audience {
    pub fn gather(subscription: &Subscription, count: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let stride = count.div_ceil(SAMPLES).max(1);
        let subscribers = (0..count)
            .map(|index| {
                let mut subscriber = Subscriber::new(subscription.open(None)?, subscription.wire, index % stride == 0)?;
                poll.registry().register(&mut subscriber.stream, Token(index), Interest::READABLE)?;
                Ok(subscriber)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { poll, subscribers, buffer: vec![0; 128 * 1024] })
    }

    /// Lets subscribers answer pings for a while.
    pub fn idle(&mut self, clock: Clock, duration: Duration) -> io::Result<()> {
        let until = Instant::now() + duration;
        let mut events = Events::with_capacity(1024);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.poll.poll(&mut events, Some(left))?;
            for event in &events {
                self.subscribers[event.token().0].receive(&mut self.buffer, clock)?;
            }
        }
        Ok(())
    }

    pub fn closed(&self) -> usize {
        self.subscribers.iter().filter(|subscriber| subscriber.closed.is_some()).count()
    }

    /// Publishes by the plan until time or count is over and every frame has come, or none comes any more.
    pub fn publish(&mut self, system: &System, clock: Clock, plan: &Plan, request: &Stamped) -> io::Result<Outcome> {
        let Self { poll, subscribers, buffer } = self;
        subscribers.iter_mut().for_each(Subscriber::reset);
        let audience = subscribers.len();
        let mut publishers = (0..plan.publishers)
            .map(|index| Connection::open(system.addr, poll, Token(audience + index)))
            .collect::<io::Result<Vec<_>>>()?;
        let mut idle: Vec<usize> = (0..plan.publishers).collect();
        let mut request = request.clone();
        let mut tally = Tally { audience: audience as u64, ..Tally::default() };
        let mut events = Events::with_capacity(1024);
        let meter = Meter::start(system)?;
        let (began, mut last_sign) = (Instant::now(), Instant::now());
        let mut pacer = Pacer::new(plan.pacing, clock);
        loop {
            let open = tally.sent < plan.events && began.elapsed() < plan.duration;
            while tally.sent < plan.events && open && !idle.is_empty() {
                let Some(stamp) = pacer.due(&tally, clock) else { break };
                let Some(index) = idle.pop() else { break };
                publishers[index].send(request.fill(stamp, tally.sent))?;
                tally.sent += 1;
            }
            if !open && tally.is_complete() || last_sign.elapsed() > SILENCE {
                break;
            }
            poll.poll(&mut events, Some(pacer.wait(clock)))?;
            for event in &events {
                let index = event.token().0;
                if index < audience {
                    tally.delivered += subscribers[index].receive(buffer, clock)?;
                } else {
                    let publisher = &mut publishers[index - audience];
                    publisher.flush()?;
                    let Some(answer) = publisher.receive()? else { continue };
                    match answer.is_success() {
                        true => tally.accepted += 1,
                        false => tally.refuse(answer.excerpt()),
                    }
                    idle.push(index - audience);
                }
                last_sign = Instant::now();
            }
        }
        let cost = meter.stop()?;
        let mut latencies = Latencies::default();
        for sample in subscribers.iter().filter_map(|subscriber| subscriber.sample.as_ref()) {
            latencies.extend(&sample.latencies);
        }
        Ok(Outcome { delivered: tally.delivered, latencies, cost, faults: tally.faults(subscribers) })
    }

    /// Subscribers that saw each event once, but two of them in different orders, break the order.
    fn orders_differ(subscribers: &[Subscriber]) -> bool {
        let mut orders = subscribers.iter().filter_map(|subscriber| Some(subscriber.sample.as_ref()?.order));
        orders.next().is_some_and(|first| orders.any(|order| order != first))
    }
}

/// A stalled client: subscribed, with a small receive buffer, and never reading.
pub struct Stalled(#[expect(dead_code, reason = "held open")] TcpStream);

impl Stalled {
    pub fn join(subscription: &Subscription) -> io::Result<Self> {
        Ok(Self(subscription.open(Some(4 * 1024))?))
    }
}

#[derive(Default)]
struct Tally {
    audience: u64,
    sent: u64,
    accepted: u64,
    refused: u64,
    delivered: u64,
    first_refusal: Option<String>,
}

impl Tally {
    fn refuse(&mut self, excerpt: String) {
        self.refused += 1;
        self.first_refusal.get_or_insert(excerpt);
    }

    fn is_complete(&self) -> bool {
        self.accepted + self.refused == self.sent && self.delivered >= self.accepted * self.audience
    }

    /// What did not go as promised.
    fn faults(&self, subscribers: &[Subscriber]) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(first) = &self.first_refusal {
            faults.push(format!("REFUSED {} of {} publishes, the first: {first}", self.refused, self.sent));
        }
        let unanswered = self.sent - self.accepted - self.refused;
        if unanswered > 0 {
            faults.push(format!("UNANSWERED {unanswered} of {} publishes", self.sent));
        }
        let missing: u64 = subscribers.iter().map(|one| self.accepted.saturating_sub(one.count)).sum();
        if missing > 0 {
            let short = subscribers.iter().filter(|one| one.count < self.accepted).count();
            faults.push(format!("LOSS {missing} of {} frames, at {short} subscribers", self.accepted * self.audience));
        }
        let surplus: u64 = subscribers.iter().map(|one| one.count.saturating_sub(self.accepted)).sum();
        if surplus > 0 {
            faults.push(format!("SURPLUS {surplus} frames"));
        }
        let closed: Vec<u16> = subscribers.iter().filter_map(|one| one.closed).collect();
        if let Some(code) = closed.first() {
            faults.push(format!("CLOSED {} subscribers, the first with {code}", closed.len()));
        }
        let samples = || subscribers.iter().filter_map(|one| one.sample.as_ref());
        let duplicates: u64 = samples().map(|sample| sample.duplicates).sum();
        if duplicates > 0 {
            faults.push(format!("DUPLICATES {duplicates} in the sample"));
        }
        let foreign: u64 = samples().map(|sample| sample.foreign).sum();
        if foreign > 0 {
            faults.push(format!("FOREIGN {foreign} frames in the sample that are not the published events"));
        }
        if faults.is_empty() && Audience::orders_differ(subscribers) {
            faults.push("ORDER differs between subscribers".into());
        }
        faults
    }
}

/// Decides when to publish.
struct Pacer {
    pacing: Pacing,
    next_at: u64,
}

impl Pacer {
    fn new(pacing: Pacing, clock: Clock) -> Self {
        Self { pacing, next_at: clock.nanos() }
    }

    /// The time to stamp on an event that is to be published now; none if there is none.
    fn due(&mut self, tally: &Tally, clock: Clock) -> Option<u64> {
        let now = clock.nanos();
        match self.pacing {
            Pacing::Outstanding(most) => {
                let published = (tally.sent - tally.refused) * tally.audience;
                let under_way = published.saturating_sub(tally.delivered);
                (under_way + tally.audience <= most * tally.audience).then_some(now)
            }
            Pacing::PerSecond(rate) => (now >= self.next_at).then(|| {
                let due = self.next_at;
                self.next_at += 1_000_000_000 / u64::from(rate);
                due
            }),
        }
    }

    /// How long the loop may sleep. The last two milliseconds before a due time are spun: epoll is too coarse.
    fn wait(&self, clock: Clock) -> Duration {
        const SPIN: u64 = 2_000_000;
        match self.pacing {
            Pacing::Outstanding(_) => Duration::from_millis(100),
            Pacing::PerSecond(_) => {
                let left = self.next_at.saturating_sub(clock.nanos()).saturating_sub(SPIN);
                Duration::from_millis((left / 1_000_000).min(100))
            }
        }
    }
}
