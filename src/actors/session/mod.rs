//! A session: one actor for each WebSocket subscriber, on the worker thread of its connection.
//!
//! It reads the requests one by one and passes them on: subscriptions to the shard, publishes to the intake. Other
//! actors queue what they send in the connection's send queue themselves, so a blocked socket does not block this
//! actor. A session is never restarted: the subscriber reconnects and resumes.

mod access;
pub mod attachment;
mod durable;
pub mod long_poll;
mod publish_span;
pub mod snapshot;
pub mod stream;

use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, ContextFutureSpawner, Running, SpawnHandle,
    StreamHandler, WrapFuture,
};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

pub use self::access::SessionAccess;
use self::attachment::Attachment;
use self::durable::Membership;
use self::publish_span::PublishSpan;
use self::snapshot::Snapshot;
use super::clock::scheduling;
use super::connection::Connection;
use super::consumers::Consumers;
use super::log_position::LogPosition;
use super::persistence::messages::AppendFailure;
use super::shard::messages::{CloseSubscription, ListSubscriptions, OpenSubscription};
use super::worker::Worker;
use crate::domain::entity::EntityType;
use crate::domain::event::{Append, AppendOutcome};
use crate::domain::pattern::Pattern;
use crate::protocol::close::CloseReason;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::outcome::{Told, told};
use crate::protocol::publish::{PublishRules, scope_keys};
use crate::protocol::request::{BadRequest, Request};
use crate::protocol::subscription::RequestId;
use crate::protocol::{frame, permit};
use crate::runtime::address::Address;
use crate::storage::Reader;
use crate::telemetry::metrics::Metrics;
use crate::transport::{CloseFrame, Inbound, InboundError, InboundFrames, pong_frame, text_frame};

/// Publishes of one connection that may wait for their commit. With more, its input is paused.
const MAX_PUBLISHES_IN_FLIGHT: usize = 256;
/// Acknowledgements of one connection that may wait for their commit. With more, its input is paused.
const MAX_UNANSWERED: usize = 1024;
/// Bytes of unread answers. With more, the input is paused: who does not read answers may not ask for more.
const MAX_UNREAD_ANSWERS: usize = 64 * 1024;
/// Snapshots of one connection under way at once.
const MAX_WATCHES: usize = 16;
/// What the shard's answer to a subscription counts for, besides the length of the request.
const SUBSCRIPTION_ANSWER: usize = 128;

/// What a session is made of.
pub struct SessionParts {
    pub worker: Rc<Worker>,
    pub position: Arc<LogPosition>,
    pub metrics: Arc<Metrics>,
    pub reader: Reader,
    pub consumers: Address<Consumers>,
    pub rules: PublishRules,
    pub access: SessionAccess,
    /// Most durable subscriptions that it may be a member of.
    pub max_memberships: usize,
}

/// See the module.
pub struct Session {
    attachment: Attachment,
    parts: SessionParts,
    publishing: usize,
    memberships: Vec<Membership>,
    /// Snapshots under way.
    watches: Vec<(Pattern, SpawnHandle)>,
    /// Acknowledgements that are not answered yet.
    unanswered: usize,
    /// Made with the first publish.
    publishes: Option<mpsc::UnboundedSender<Publish>>,
    /// Bytes of answers since the send queue was last at its low-water mark.
    answered: usize,
}

impl Session {
    /// Starts the session of a connection that has its place.
    pub fn start(attachment: Attachment, parts: SessionParts, inbound: InboundFrames) {
        let mut ctx = Context::new();
        let session = Self {
            attachment,
            parts,
            publishing: 0,
            memberships: Vec::new(),
            watches: Vec::new(),
            unanswered: 0,
            publishes: None,
            answered: 0,
        };
        ctx.add_stream(inbound);
        ctx.run(session);
    }

    fn connection(&self) -> &Connection {
        &self.attachment.connection
    }

    fn say(&mut self, text: &str) {
        self.answer(text_frame(text.as_bytes()));
    }

    fn answer(&mut self, frame: Bytes) {
        self.answered += frame.len();
        self.connection().send_queue.push(frame);
    }

    /// Pauses the input while too many publishes wait for their commit or too many answers are unread, and resumes it.
    ///
    /// Queued events do not count: the requests of a slow subscriber are still read.
    fn pace(&mut self) {
        let (send_queue, low) = (&self.attachment.connection.send_queue, self.parts.worker.parts.low_water());
        let reading = send_queue.reading();
        if send_queue.queued_bytes() <= low {
            self.answered = 0;
        }
        if self.publishing >= MAX_PUBLISHES_IN_FLIGHT || self.unanswered >= MAX_UNANSWERED {
            reading.pause();
        } else if self.answered > MAX_UNREAD_ANSWERS {
            reading.pause_until(low);
        } else if reading.is_paused() {
            reading.resume();
        }
    }

    fn refuse(&mut self, id: Option<&RequestId>, error: &ApiError) {
        if let Some(cause) = error.cause() {
            log::warn!(session = self.attachment.place.session, peer = self.connection().peer_name().as_str(), code = error.code().as_str(), error = cause; "request of a session failed");
        }
        self.parts.metrics.frames_refused.with_label_values(&[error.code().as_str()]).inc();
        self.say(&frame::error(id, error));
    }

    fn close(&self, reason: CloseReason) {
        self.connection().close(reason);
    }

    /// Nothing more is queued. If the actor panics, the subscriber is told so first.
    fn end(&self) {
        if std::thread::panicking() {
            self.close(CloseReason::SessionFailed);
        }
        self.connection().send_queue.end();
    }

    fn read(&mut self, text: &str, ctx: &mut Context<Self>) {
        self.parts.metrics.frames_in.inc();
        // This is read first, so that no event published after this request was read is missed (LP-1).
        let log_end = self.parts.position.last();
        let request = Request::parse(text, &self.parts.rules, scheduling);
        if request.as_ref().is_ok_and(Request::asks_more) {
            self.connection().auth.asks_more.set(true);
        }
        match request {
            Err(BadRequest { id, error }) => self.refuse(id.as_ref(), &error),
            Ok(Request::Ping { id, timestamp }) => self.say(&frame::pong(id.as_ref(), timestamp.as_deref())),
            Ok(Request::Pong) => {}
            Ok(Request::Publish { id, append }) => self.publish(id, *append, ctx),
            Ok(Request::Subscribe { id, pattern, envelope, filter, start, log }) => {
                let start = start.in_log(self.parts.position.log_id(), log);
                self.stop_watching(&pattern, ctx);
                if let Err(error) = permit::subscribe(&self.connection().auth.caller(), &pattern) {
                    return self.refuse(id.as_ref(), &error);
                }
                self.answered += id.as_ref().map_or(0, |_| text.len() + SUBSCRIPTION_ANSWER);
                let place = self.attachment.place;
                let echo = id.clone();
                let (shard, position) = (self.attachment.shard.clone(), Arc::clone(&self.parts.position));
                let reader = self.parts.reader.clone();
                let open = async move {
                    let log_end = match position.end_for(start, log_end, &reader).await {
                        Ok(log_end) => log_end,
                        Err(error) => return Ok(Err(error)),
                    };
                    let request = OpenSubscription { place, id, pattern, envelope, filter, start, log_end };
                    shard.send(request).await
                };
                open.into_actor(self)
                    .map(move |reply, this, _| {
                        if let Ok(Err(error)) = reply {
                            this.refuse(echo.as_ref(), &error);
                        }
                    })
                    .wait(ctx);
            }
            Ok(Request::Authenticate { id, token }) => self.renew(id.as_ref(), token.expose()),
            Ok(Request::Watch { id, kind }) => self.watch(id, kind, ctx),
            Ok(Request::Unsubscribe { id, pattern }) => {
                self.stop_watching(&pattern, ctx);
                self.answered += id.as_ref().map_or(0, |_| text.len() + SUBSCRIPTION_ANSWER);
                let request = CloseSubscription { place: self.attachment.place, id, pattern };
                let done = self.attachment.shard.send(request);
                done.into_actor(self).map(|_, _, _| ()).wait(ctx);
            }
            Ok(Request::Join { id, join }) => self.join(id, *join, ctx),
            Ok(Request::Leave { id, durable }) => self.leave(id.as_ref(), &durable),
            Ok(Request::Ack(request)) => self.settle(request, ctx),
            Ok(Request::List { id }) => {
                let before = self.connection().send_queue.queued_bytes();
                let listed = self.attachment.shard.send(ListSubscriptions {
                    place: self.attachment.place,
                    id,
                    durables: self.durables(),
                });
                let account = listed.into_actor(self).map(move |_, this, _| {
                    this.answered += this.connection().send_queue.queued_bytes().saturating_sub(before);
                    this.pace();
                });
                account.wait(ctx);
            }
        }
    }

    /// Sends a snapshot beside everything else, and subscribes at its end.
    fn watch(&mut self, id: Option<RequestId>, kind: EntityType, ctx: &mut Context<Self>) {
        let pattern = Pattern::from(kind.change_name());
        if let Err(error) = permit::subscribe(&self.connection().auth.caller(), &pattern) {
            return self.refuse(id.as_ref(), &error);
        }
        let was_watching = self.stop_watching(&pattern, ctx);
        if self.watches.len() >= MAX_WATCHES {
            let advice =
                format!("a connection may take at most {MAX_WATCHES} snapshots at once; wait for the end of one");
            return self.refuse(id.as_ref(), &ApiError::new(ErrorCode::TooManySubscriptions, advice));
        }
        let close = CloseSubscription { place: self.attachment.place, id: None, pattern: pattern.clone() };
        let shard = self.attachment.shard.clone();
        let mut snapshot = Snapshot {
            kind,
            id: id.clone(),
            place: self.attachment.place,
            connection: Rc::clone(&self.attachment.connection),
            shard: shard.clone(),
            position: Arc::clone(&self.parts.position),
            reader: self.parts.reader.clone(),
            metrics: Arc::clone(&self.parts.metrics),
            low_water: self.parts.worker.parts.low_water(),
            replaces: was_watching,
        };
        // What an earlier subscription would push could be newer than what the snapshot has of it. And what it has pushed
        // may be of entities that are deleted before the snapshot is read.
        let taken = async move {
            snapshot.replaces |= shard.send(close).await.unwrap_or(false);
            snapshot.run().await
        };
        let watched = pattern.clone();
        let handle = ctx.spawn(taken.into_actor(self).map(move |taken, this, _| {
            this.watches.retain(|(pattern, _)| *pattern != watched);
            if let Err(error) = taken {
                this.refuse(id.as_ref(), &error);
            }
        }));
        self.watches.push((pattern, handle));
    }

    /// Stops the snapshot of this subscription; whether one was under way.
    fn stop_watching(&mut self, pattern: &Pattern, ctx: &mut Context<Self>) -> bool {
        let watches = self.watches.extract_if(.., |(watched, _)| watched == pattern);
        watches.map(|(_, handle)| ctx.cancel_future(handle)).count() > 0
    }

    fn publish(&mut self, id: Option<RequestId>, mut append: Append, ctx: &mut Context<Self>) {
        if let Err(error) = self.permit_publish(&append) {
            return self.refuse(id.as_ref(), &error);
        }
        scope_keys(&mut append, &self.connection().auth.caller());
        let span = PublishSpan::begin(&mut append);
        let outcome = match self.parts.worker.thread.intake.enqueue(append) {
            Ok(outcome) => outcome,
            Err(failure) => return self.answer_publish(id.as_ref(), Err(failure.into()), span),
        };
        self.publishing += 1;
        let publishes = self.publishes.get_or_insert_with(|| {
            let (publishes, waiting) = mpsc::unbounded_channel();
            ctx.add_stream(outcomes(waiting));
            publishes
        });
        // The receiver lives as long as this actor. `MAX_PUBLISHES_IN_FLIGHT` bounds the channel.
        let _ = publishes.send(Publish { id, outcome, span });
    }

    fn answer_publish(&mut self, id: Option<&RequestId>, told: Result<Told, ApiError>, span: Option<PublishSpan>) {
        if let Some(span) = span {
            span.end(&told);
        }
        match (told, id) {
            (Err(error), id) => self.refuse(id, &error),
            (Ok(told), Some(id)) => self.say(&frame::published(id, &told)),
            (Ok(_), None) => {}
        }
    }
}

/// A publish that waits for its commit.
struct Publish {
    id: Option<RequestId>,
    outcome: oneshot::Receiver<AppendResult>,
    span: Option<PublishSpan>,
}

type AppendResult = Result<AppendOutcome, AppendFailure>;

/// The outcome of a publish.
struct Published {
    id: Option<RequestId>,
    outcome: AppendResult,
    span: Option<PublishSpan>,
}

/// The outcomes in the order of the requests, which is the order of their commits.
fn outcomes(waiting: mpsc::UnboundedReceiver<Publish>) -> impl Stream<Item = Published> {
    futures_util::stream::unfold(waiting, |mut waiting| async {
        let Publish { id, outcome, span } = waiting.recv().await?;
        let outcome = outcome.await.unwrap_or(Err(AppendFailure::RESTARTED));
        Some((Published { id, outcome, span }, waiting))
    })
}

impl StreamHandler<Published> for Session {
    fn handle(&mut self, Published { id, outcome, span }: Published, _: &mut Self::Context) {
        self.publishing -= 1;
        let told = outcome.map_err(ApiError::from).and_then(|outcome| told(outcome, false));
        self.answer_publish(id.as_ref(), told, span);
        self.pace();
    }

    /// Only the end of the input ends the session.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Actor for Session {
    type Context = Context<Self>;

    /// The session ends with its input. The connection ends when its send queue is empty.
    fn stopping(&mut self, _: &mut Self::Context) -> Running {
        self.end();
        Running::Stop
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.parts.metrics.restarts.with_label_values(&["session", "panic"]).inc();
            log::error!(session = self.attachment.place.session, peer = self.connection().peer_name().as_str(); "session failed, its client is told to reconnect");
        }
        self.leave_all_consumers();
        self.end();
    }
}

impl StreamHandler<Result<Inbound, InboundError>> for Session {
    fn handle(&mut self, item: Result<Inbound, InboundError>, ctx: &mut Self::Context) {
        self.connection().hear();
        let is_counted =
            matches!(item, Ok(Inbound::Text(_) | Inbound::Binary(_) | Inbound::Ping(_) | Inbound::Pong(_)));
        if is_counted && !self.admits_frame(ctx) {
            return self.pace();
        }
        match item {
            Ok(Inbound::Text(text)) => self.read_text(&text, ctx),
            Ok(Inbound::Binary(_)) => {
                self.refuse(None, &ApiError::new(ErrorCode::UnsupportedFrame, "send JSON in text frames"));
            }
            Ok(Inbound::Ping(data)) => self.answer(pong_frame(&data)),
            Ok(Inbound::Pong(_)) => {}
            Ok(Inbound::Close(said)) => {
                match said {
                    // The code is echoed (RFC 6455, section 5.5.1).
                    Some(CloseFrame { code, .. }) => self.connection().send_queue.close(&CloseFrame::new(code, "")),
                    None => self.close(CloseReason::Normal),
                }
                ctx.stop();
            }
            Err(error) => {
                if let Some(close) = error.close_frame() {
                    log::info!(session = self.attachment.place.session, code = close.code, error:% = error; "session broke the protocol");
                    self.connection().send_queue.close(&close);
                }
                ctx.stop();
            }
        }
        self.pace();
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Session {
    #[cfg(not(feature = "fault-injection"))]
    fn read_text(&mut self, text: &ByteString, ctx: &mut Context<Self>) {
        self.read(text, ctx);
    }

    #[cfg(feature = "fault-injection")]
    fn read_text(&mut self, text: &ByteString, ctx: &mut Context<Self>) {
        assert!(&**text != r#"{"action":"panic"}"#, "injected fault in session");
        self.read(text, ctx);
    }
}
