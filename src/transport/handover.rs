//! How a connection passes from the HTTP dispatcher to its session.
//!
//! The answer to the handshake, or to a request for a stream, has a body, the [`Handover`], that waits until the
//! dispatcher has written the head of the answer, and then fails. A dispatcher whose body fails drops its stream
//! without shutting the socket down; the session goes on with a duplicate, which it has to itself from then on.
//!
//! - HO-1 the head is out: nothing is left in the dispatcher's write buffer.
//! - HO-2 no byte is lost: nothing is left in its read buffer. What the subscriber has sent early comes first.
//!   (A subscriber that has asked for an endless answer has nothing more to send; what it sends is dropped.)

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_web::HttpRequest;
use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::HandshakeError;
use super::reading::TakenOver;
use super::send_queue::SendQueue;
use super::socket::{self, ConnectionSocket};

/// Most bytes that a subscriber may send before its connection is taken over; far more than arrive in the few turns
/// that this takes if the subscriber reads the answer.
const MAX_EARLY: usize = 1024 * 1024;
/// How long the head of the answer may take to be written.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at a socket that is full.
const BLOCKED_LOOK: Duration = Duration::from_millis(5);

/// Why the body of the answer to a handshake fails when all is well. Its name is what the dispatcher logs.
#[derive(Debug, thiserror::Error)]
#[error("the connection was handed over")]
pub struct HandedOver;

/// The body that waits for the connection to be taken over: see the module.
pub(super) struct Handover {
    send_queue: Rc<SendQueue>,
    /// What comes after the request; none if it is dropped.
    payload: Option<Payload>,
    early: BytesMut,
    taken_over: Option<oneshot::Sender<TakenOver>>,
    stream: Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>,
}

impl Handover {
    /// Prepares the connection of the upgrade request `req` to be taken over by `send_queue` and the receiver of what is
    /// returned.
    pub(super) fn of_upgrade(
        req: &HttpRequest,
        payload: Payload,
        send_queue: Rc<SendQueue>,
    ) -> Result<(Self, oneshot::Receiver<TakenOver>), HandshakeError> {
        let mut payload = payload;
        let mut early = BytesMut::new();
        if drain(&mut payload, &mut early, &mut Context::from_waker(Waker::noop())).is_ready() {
            return Err(HandshakeError::Malformed("the connection has ended"));
        }
        let socket = req.conn_data::<Rc<ConnectionSocket>>().ok_or(HandshakeError::NoSocket)?;
        // SAFETY: a payload that waits for more has a sender. That lives in the dispatcher, beside its stream.
        let stream = unsafe { socket.duplicate() }.map_err(cannot_be_taken)?;
        Ok(Self::new(stream, Some(payload), early, send_queue))
    }

    /// The same for a request that is answered without an end, and is being [served](ConnectionSocket::serve).
    pub(super) fn of_answer(
        req: &HttpRequest,
        send_queue: Rc<SendQueue>,
    ) -> Result<(Self, oneshot::Receiver<TakenOver>), HandshakeError> {
        let socket = req.conn_data::<Rc<ConnectionSocket>>().ok_or(HandshakeError::NoSocket)?;
        let stream = socket.duplicate_served().map_err(cannot_be_taken)?;
        Ok(Self::new(stream, None, BytesMut::new(), send_queue))
    }

    fn new(
        stream: TcpStream,
        payload: Option<Payload>,
        early: BytesMut,
        send_queue: Rc<SendQueue>,
    ) -> (Self, oneshot::Receiver<TakenOver>) {
        let (taken_over, source) = oneshot::channel();
        let stream = Box::pin(async move {
            tokio::time::timeout(PATIENCE, until_written(&stream)).await?;
            Ok(stream)
        });
        (Self { send_queue, payload, early, taken_over: Some(taken_over), stream }, source)
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // HO-2: the dispatcher fills its read buffer and empties it into the payload just before it comes here, unless
        // the payload holds too much. It did not when it was drained the last time, and time has passed since.
        // If the subscriber has closed its side already, its session finds that.
        if let Some(payload) = &mut self.payload {
            let _ = drain(payload, &mut self.early, cx);
        }
        if self.early.len() > MAX_EARLY {
            return Poll::Ready(Err(io::Error::other("too much input before the handshake was answered")));
        }
        if self.send_queue.is_gone() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let stream = Rc::new(ready!(self.stream.as_mut().poll(cx))?);
        let early = std::mem::take(&mut self.early).freeze();
        if let Some(taken_over) = self.taken_over.take() {
            // The session may have ended already.
            let _ = taken_over.send(TakenOver { stream: Rc::clone(&stream), early });
        }
        self.send_queue.connect(stream);
        Poll::Ready(Ok(()))
    }
}

impl MessageBody for Handover {
    type Error = HandedOver;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, HandedOver>>> {
        let outcome = ready!(self.get_mut().poll_take(cx));
        if let Err(error) = outcome {
            log::info!(error:%; "connection ended before it was taken over");
        }
        Poll::Ready(Some(Err(HandedOver)))
    }
}

impl Drop for Handover {
    /// A connection that was not taken over is gone.
    fn drop(&mut self) {
        if self.taken_over.is_some() {
            self.send_queue.kill();
        }
    }
}

fn cannot_be_taken(error: io::Error) -> HandshakeError {
    log::warn!(error:%; "connection cannot be taken over");
    HandshakeError::NoSocket
}

/// Takes what `payload` holds; ready when nothing more can come.
fn drain(payload: &mut Payload, to: &mut BytesMut, cx: &mut Context<'_>) -> Poll<()> {
    while to.len() <= MAX_EARLY {
        match ready!(Pin::new(&mut *payload).poll_next(cx)) {
            Some(Ok(chunk)) => to.extend_from_slice(&chunk),
            Some(Err(_)) | None => return Poll::Ready(()),
        }
    }
    Poll::Pending
}

/// HO-1. Ready once the dispatcher, which polls this, has nothing left to write.
///
/// Its buffer cannot be seen, but it writes what it has each time after this was polled, until the socket is full, and
/// then again when the runtime has told it that there is room. So it has nothing left if, beginning with room in the
/// socket, it has written nothing in two turns: the runtime tells it in the first one at the latest.
async fn until_written(stream: &TcpStream) {
    let written = || socket::progress(stream).map(|progress| progress.written);
    turn().await;
    loop {
        if !socket::has_room(stream) {
            tokio::time::sleep(BLOCKED_LOOK).await;
            continue;
        }
        let before = written();
        turn().await;
        turn().await;
        if written() == before {
            return;
        }
    }
}

/// Waits until the runtime has looked for news of sockets, whatever else wakes the task meanwhile.
async fn turn() {
    let mut turn: FuturesUnordered<_> = std::iter::once(tokio::task::yield_now()).collect();
    turn.next().await;
}
