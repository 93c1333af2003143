use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Weak;

use futures_util::StreamExt;
use futures_util::task::noop_waker_ref;

use super::*;
use crate::transport::ShardQueues;
use crate::transport::outbox::OutboxBody;
use crate::transport::test_client::client_frame;

/// A payload whose chunks are asked for one by one.
#[derive(Clone, Default)]
struct Chunks(Rc<RefCell<VecDeque<Result<Bytes, PayloadError>>>>);

impl Chunks {
    fn add(&self, chunk: Vec<u8>) {
        self.0.borrow_mut().push_back(Ok(chunk.into()));
    }

    fn left(&self) -> usize {
        self.0.borrow().len()
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().pop_front().map_or(Poll::Pending, |chunk| Poll::Ready(Some(chunk)))
    }
}

fn inbound() -> (Chunks, InboundFrames<Chunks>, Rc<Outbox>, OutboxBody) {
    let (outbox, body) = Outbox::new(ShardQueues::new(0), Weak::new());
    let chunks = Chunks::default();
    let frames = InboundFrames::new(chunks.clone(), InboundLimits::default(), Rc::clone(&outbox));
    (chunks, frames, outbox, body)
}

fn next(frames: &mut InboundFrames<Chunks>) -> Poll<Option<Result<Inbound, InboundError>>> {
    frames.poll_next_unpin(&mut Context::from_waker(noop_waker_ref()))
}

fn is_text(item: &Poll<Option<Result<Inbound, InboundError>>>, expected: &str) -> bool {
    matches!(item, Poll::Ready(Some(Ok(Inbound::Text(text)))) if text == expected)
}

fn text(text: &str) -> Vec<u8> {
    client_frame(0x81, text.as_bytes(), *b"mask")
}

#[test]
fn a_flood_of_tiny_frames_is_read_one_chunk_ahead_at_most() {
    let (chunks, mut frames, _outbox, _body) = inbound();
    let (per_chunk, chunk_count) = (1000, 100);
    for _ in 0..chunk_count {
        chunks.add(text("").repeat(per_chunk));
    }
    for k in 0..per_chunk * chunk_count {
        assert!(is_text(&next(&mut frames), ""), "frame {k}");
        assert_eq!(chunk_count - chunks.left(), k / per_chunk + 1, "chunks read for frame {k}");
    }
    assert!(next(&mut frames).is_pending());
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let (chunks, mut frames, _outbox, _body) = inbound();
    let chunk = Bytes::from([text("a"), text("b")[..3].to_vec()].concat());
    chunks.0.borrow_mut().push_back(Ok(chunk.clone()));
    assert!(is_text(&next(&mut frames), "a"));
    assert!(!chunk.is_unique());
    assert!(next(&mut frames).is_pending());
    assert!(chunk.is_unique(), "the chunk is let go although a frame is incomplete");
    chunks.add(text("b")[3..].to_vec());
    assert!(is_text(&next(&mut frames), "b"));
}

#[test]
fn a_paused_connection_is_not_read() {
    let (chunks, mut frames, outbox, _body) = inbound();
    chunks.add([text("a"), text("b")].concat());
    chunks.add(text("c"));
    assert!(is_text(&next(&mut frames), "a"));
    outbox.reading().pause();
    assert!(next(&mut frames).is_pending());
    assert_eq!(chunks.left(), 1);
    outbox.reading().resume();
    assert!(is_text(&next(&mut frames), "b"));
    assert!(is_text(&next(&mut frames), "c"));
}

#[actix_web::test]
async fn reading_resumes_when_the_outbox_has_drained() {
    use actix_web::body::MessageBody;

    let (chunks, mut frames, outbox, mut body) = inbound();
    chunks.add(text("a"));
    outbox.push(vec![0; 100].into());
    outbox.push(vec![0; 50].into());
    outbox.reading().pause_until(60);
    let mut reader = actix_rt::spawn(async move { frames.next().await.is_some() });
    tokio::task::yield_now().await;
    assert!(!reader.is_finished());
    assert!(Pin::new(&mut body).poll_next(&mut Context::from_waker(noop_waker_ref())).is_ready());
    assert!(matches!((&mut reader).await, Ok(true)));
}

#[actix_web::test]
async fn a_paused_reader_learns_that_the_connection_is_gone() {
    let (chunks, mut frames, outbox, body) = inbound();
    outbox.reading().pause();
    chunks.0.borrow_mut().push_back(Err(PayloadError::Incomplete(None)));
    let reader = actix_rt::spawn(async move { frames.next().await });
    tokio::task::yield_now().await;
    drop(body);
    assert!(matches!(reader.await, Ok(Some(Err(InboundError::Disconnected(_))))));
}

#[test]
fn nothing_follows_a_good_bye_or_an_error() {
    let (chunks, mut frames, _outbox, _body) = inbound();
    chunks.add([client_frame(0x88, b"", [0; 4]), text("more")].concat());
    assert!(matches!(next(&mut frames), Poll::Ready(Some(Ok(Inbound::Close(None))))));
    assert!(matches!(next(&mut frames), Poll::Ready(None)));

    let (chunks, mut frames, _outbox, _body) = inbound();
    chunks.add([client_frame(0xc1, b"", [0; 4]), text("more")].concat());
    assert!(matches!(next(&mut frames), Poll::Ready(Some(Err(InboundError::Violation(_))))));
    assert!(matches!(next(&mut frames), Poll::Ready(None)));
}

#[test]
fn whoever_stops_reading_ends_the_connection() {
    let (_chunks, frames, outbox, _body) = inbound();
    assert!(!outbox.is_closed());
    drop(frames);
    assert!(outbox.is_closed());
}
