//! The tick of a shard. Once a second it looks at all subscribers, which therefore need no timers.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::{AsyncContext, Context, Handler, Message};

use super::Shard;
use crate::actors::connection::{Connection, Tick};
use crate::protocol::close::CloseReason;
use crate::protocol::sse;
use crate::protocol::wire::Wire;
use crate::transport::ping_frame;

const TICK: Duration = Duration::from_secs(1);
/// How long a socket may take to send the close frame before it is shut down.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The next tick is due. It comes through the mailbox, since an actor whose mailbox never empties does not reach its
/// timers.
#[derive(Message)]
#[rtype(result = "()")]
struct TickDue;

impl Shard {
    pub(super) fn start_ticking(&self, ctx: &mut Context<Self>) {
        let shard = ctx.address().downgrade();
        actix_rt::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(shard) = shard.upgrade() else { return };
                // A full mailbox skips a tick.
                let _ = shard.try_send(TickDue);
            }
        });
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.thread.clock.set(self.thread.clock.get().wrapping_add(1));
        let now = Instant::now();
        let tick = self.thread.clock.get();
        let config = &self.parts.config;
        let ping_interval =
            |wire| if wire == Wire::Sse { config.heartbeat_interval } else { config.ping_interval }.get();
        let since = |then: Tick| TICK * tick.wrapping_sub(then);
        let (ping, comment, position) = (ping_frame(b""), sse::heartbeat(None), sse::heartbeat(self.head.known()));
        for (key, subscriber) in self.subscribers.iter_mut() {
            let link = &subscriber.connection;
            let (age, stalled) = (now.duration_since(subscriber.opened), link.send_queue.stalled_for(now));
            if stalled == Some(Duration::ZERO) {
                // A slow subscriber answers pings late, as they wait behind what is queued. That it takes bytes shows
                // that it lives.
                link.hear();
            }
            if stalled.is_some_and(|stalled| stalled >= config.stall_timeout.get()) {
                log::info!(session = subscriber.session, peer = link.peer_name().as_str(), queued = link.send_queue.queued_bytes(); "session takes nothing, closing");
                cut_off(link, CloseReason::SlowConsumer);
            } else if link.wire != Wire::Sse && since(link.heard.get()) >= config.idle_timeout.get() {
                log::info!(session = subscriber.session, peer = link.peer_name().as_str(); "session gives no sign of life, closing");
                cut_off(link, CloseReason::NoPong);
            } else if config.max_age.is_some_and(|max| age >= subscriber.lifetime(max.get())) {
                link.close(CloseReason::Rotated);
            } else if since(subscriber.pinged) >= ping_interval(link.wire) && link.send_queue.queued_bytes() == 0 {
                // Different subscribers are pinged in different ticks, so that no tick pings thousands of them.
                let spread = key as Tick % 4;
                subscriber.pinged = tick.wrapping_sub(spread);
                link.send_queue.push(match link.wire {
                    Wire::WebSocket | Wire::Lines => ping.clone(),
                    // Everything up to the head was queued and the queue is empty, so it was sent.
                    // Before its subscriptions are made, it takes a snapshot, from which it cannot resume.
                    Wire::Sse if subscriber.is_live() && !subscriber.subscriptions.is_empty() => position.clone(),
                    Wire::Sse => comment.clone(),
                });
            }
        }
        self.check_access();
        self.check_log();
        self.parts.metrics.queued(self.thread.number, self.thread.queues.budget.used(), self.head.recent().bytes());
        self.parts.metrics.lag(self.thread.number, self.greatest_lag());
        self.publish_presence();
        self.serve_without_room(ctx);
        self.heal(ctx);
        self.head.end_tick();
    }

    /// Closes the subscribers if the log has become another one, so that they come back and are told.
    pub(super) fn check_log(&mut self) {
        if self.head.is_other_log(self.parts.position.log_id()) {
            self.subscribers.iter().for_each(|subscriber| subscriber.connection.close(CloseReason::ActorRestarted));
        }
    }

    /// Reads the store if the head has stood still before the end of the log: the shard missed a hint, or a read
    /// failed.
    fn heal(&mut self, ctx: &mut Context<Self>) {
        let last = self.parts.position.last();
        if !self.head.is_stuck(last) {
            return;
        }
        if self.subscribers.is_empty() {
            self.skip_to(last);
        } else {
            self.fill_gap(ctx);
        }
    }

    fn greatest_lag(&self) -> i64 {
        let head = self.head.position();
        self.subscribers.iter().map(|subscriber| head - subscriber.position(head)).max().unwrap_or_default().max(0)
    }
}

impl Handler<TickDue> for Shard {
    type Result = ();

    fn handle(&mut self, TickDue: TickDue, ctx: &mut Self::Context) {
        self.tick(ctx);
    }
}

/// Closes a connection whose peer may read nothing any more. The close frame is tried before the socket is shut down.
fn cut_off(link: &Connection, reason: CloseReason) {
    if link.send_queue.is_closed() {
        return;
    }
    link.close_now(reason);
    let send_queue = Rc::clone(&link.send_queue);
    actix_rt::spawn(async move {
        tokio::time::sleep(LAST_WORDS).await;
        send_queue.kill();
    });
}
