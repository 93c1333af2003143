use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memchr::memmem;

use super::deliver::Publisher;
use crate::Bench;
use crate::load::Meter;
use crate::load::ws::{Frames, request_frame};
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const BATCH: u64 = 1_000;
/// Without an event for so long, what is still missing is lost.
const SILENCE: Duration = Duration::from_secs(8);

/// How members acknowledge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acks {
    Each,
    /// One for so many.
    Every(u64),
}

/// Each event is stored, given to one member, acknowledged, and that stored too.
pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    let events = (bench.duration.as_secs_f64() * 20.0).max(5.0) as u64 * BATCH;
    let mut rows = Vec::new();
    for (members, acks) in [(1, Acks::Each), (1, Acks::Every(100)), (4, Acks::Each)] {
        rows.push(measure(&system, members, acks, events)?);
    }
    Ok(rows)
}

fn measure(system: &System, members: usize, acks: Acks, events: u64) -> io::Result<Row> {
    let name = format!("bench-{members}-{}", if acks == Acks::Each { "each" } else { "some" });
    let join = format!(r#"{{"action":"subscribe","id":1,"event_name":"bench.durable","durable":"{name}"}}"#);
    let mut subscription = system.subscription(&[]);
    subscription.requests = vec![join];
    let streams: Vec<TcpStream> = (0..members).map(|_| subscription.open(None)).collect::<io::Result<_>>()?;
    let had = AtomicU64::new(0);
    let meter = Meter::start(system)?;
    std::thread::scope(|scope| -> io::Result<()> {
        let had = &had;
        let workers: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || work(stream, acks, events, had))).collect();
        let mut publisher = Publisher::to(system.addr, |_| "bench.durable".to_owned())?;
        let mut published = 0;
        while published < events {
            // Ahead of the members, but not by much: what is measured is both at a time.
            if published < had.load(Ordering::Relaxed) + 4 * BATCH {
                publisher.publish()?;
                published += BATCH;
            } else if workers.iter().any(|worker| worker.is_finished()) {
                break;
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        for worker in workers {
            worker.join().map_err(|_| io::Error::other("a member failed"))??;
        }
        Ok(())
    })?;
    let cost = meter.stop()?;
    let how = if acks == Acks::Each { "each acknowledged" } else { "one acknowledgement for 100" };
    Ok(Row::new(format!("{members} members, {how}"), Vec::new())
        .figure("events/s", cost.per_second(events))
        .figure("CPU µs/event", cost.server_micros_per(events))
        .figures(cost.busy()))
}

/// One member, until all together have had `events`.
fn work(mut stream: TcpStream, acks: Acks, events: u64, had: &AtomicU64) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut frames = Frames::keeping();
    let mut buffer = vec![0; 64 * 1024];
    let (mut since_ack, mut last, mut silent) = (0, 0, Duration::ZERO);
    while had.load(Ordering::Relaxed) < events || since_ack > 0 {
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                silent += Duration::from_millis(100);
                if silent > SILENCE {
                    return Err(io::Error::other("LOSS: no events any more"));
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        silent = Duration::ZERO;
        let (mut words, mut count) = (Vec::new(), 0);
        frames.feed(&buffer[..read], |_, payload| {
            let Some(id) = event_id(payload) else { return };
            (last, count, since_ack) = (id, count + 1, since_ack + 1);
            if acks == Acks::Each {
                words.extend(request_frame(&format!(r#"{{"action":"ack","id":{id}}}"#)));
                since_ack = 0;
            }
        });
        had.fetch_add(count, Ordering::Relaxed);
        let is_over = had.load(Ordering::Relaxed) >= events;
        if let Acks::Every(some) = acks
            && (since_ack >= some || is_over && since_ack > 0)
        {
            words = request_frame(&format!(r#"{{"action":"ack","id":{last},"cumulative":true}}"#));
            since_ack = 0;
        }
        stream.write_all(&words)?;
    }
    Ok(())
}

fn event_id(frame: &[u8]) -> Option<u64> {
    let rest = frame.strip_prefix(br#"{"type":"event","id":"#)?;
    let end = memmem::find(rest, b",")?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}
