use futures_util::StreamExt;
use futures_util::task::noop_waker_ref;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::transport::ShardQueues;
use crate::transport::limit::ConnectionLimit;
use crate::transport::test_client::{client_frame, pair, until};

/// The frames of a connection whose client has sent `early` before it was taken over; and the client.
async fn inbound(early: &[u8]) -> (TcpStream, InboundFrames, Rc<SendQueue>) {
    let (server, client) = pair().await;
    let stream = Rc::new(server);
    let send_queue = SendQueue::new(ShardQueues::new(0, ConnectionLimit::new(0)), None);
    let (taken_over, source) = oneshot::channel();
    let frames = InboundFrames::new(source, InboundLimits::default(), Rc::clone(&send_queue));
    let early = Bytes::copy_from_slice(early);
    taken_over.send(TakenOver { stream: Rc::clone(&stream), early }).expect("awaited");
    send_queue.connect(stream);
    (client, frames, send_queue)
}

async fn send(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).await.expect("written");
}

fn poll(frames: &mut InboundFrames) -> Poll<Option<Result<Inbound, InboundError>>> {
    frames.poll_next_unpin(&mut Context::from_waker(noop_waker_ref()))
}

async fn next_text(frames: &mut InboundFrames) -> String {
    match frames.next().await {
        Some(Ok(Inbound::Text(text))) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Vec<u8> {
    client_frame(0x81, text.as_bytes(), *b"mask")
}

fn ends_disconnected(item: &Option<Result<Inbound, InboundError>>) -> bool {
    matches!(item, Some(Err(InboundError::Disconnected(_))))
}

#[actix_web::test]
async fn a_flood_of_tiny_frames_is_read_one_buffer_ahead_at_most() {
    let (mut client, mut frames, _send_queue) = inbound(b"").await;
    let count = 200_000;
    let flood = actix_rt::spawn(async move {
        send(&mut client, &text("").repeat(count)).await;
        client
    });
    for _ in 0..count {
        assert_eq!(next_text(&mut frames).await, "");
        assert!(frames.chunk.len() < READ_BUFFER);
    }
    let _client = flood.await.expect("no panic");
    assert!(poll(&mut frames).is_pending());
}

#[actix_web::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut client, mut frames, _send_queue) = inbound(b"").await;
    send(&mut client, &[text("a"), text("b"), text("c")[..3].to_vec()].concat()).await;
    assert_eq!(next_text(&mut frames).await, "a");
    assert_eq!(frames.chunk.len(), text("b").len() + 3, "no more than what is left is kept");
    assert_eq!(next_text(&mut frames).await, "b");
    assert!(poll(&mut frames).is_pending());
    assert!(frames.chunk.is_empty(), "the chunk is let go although a frame is incomplete");
    send(&mut client, &text("c")[3..]).await;
    assert_eq!(next_text(&mut frames).await, "c");
    let chunk = crate::transport::reading::BUFFER.with_borrow_mut(|buffer| buffer.try_reclaim(READ_BUFFER));
    assert!(chunk, "nobody holds the thread's buffer");
}

#[actix_web::test]
async fn connections_share_the_buffer_of_their_thread() {
    let (mut one, mut frames_of_one, _send_queue) = inbound(b"").await;
    let (mut two, mut frames_of_two, _send_queue) = inbound(b"").await;
    for k in 0..100 {
        let words = [format!("one {k}"), format!("more {k}"), format!("two {k}")];
        send(&mut one, &[text(&words[0]), text(&words[1])].concat()).await;
        send(&mut two, &text(&words[2])).await;
        assert_eq!(next_text(&mut frames_of_one).await, words[0]);
        assert_eq!(next_text(&mut frames_of_two).await, words[2]);
        assert_eq!(next_text(&mut frames_of_one).await, words[1]);
    }
}

#[actix_web::test]
async fn what_was_sent_early_comes_first() {
    let early = [text("a"), text("b"), text("c")[..4].to_vec()].concat();
    let (mut client, mut frames, _send_queue) = inbound(&early).await;
    send(&mut client, &[&text("c")[4..], &text("d")].concat()).await;
    for expected in ["a", "b", "c", "d"] {
        assert_eq!(next_text(&mut frames).await, expected);
    }
}

#[actix_web::test]
async fn a_connection_that_is_never_taken_over_ends() {
    let send_queue = SendQueue::new(ShardQueues::new(0, ConnectionLimit::new(0)), None);
    let (taken_over, source) = oneshot::channel();
    let mut frames = InboundFrames::new(source, InboundLimits::default(), send_queue);
    assert!(poll(&mut frames).is_pending());
    drop(taken_over);
    assert!(ends_disconnected(&frames.next().await));
}

#[actix_web::test]
async fn a_client_that_closes_its_side_is_read_to_the_end() {
    let (mut client, mut frames, send_queue) = inbound(b"").await;
    send(&mut client, &[text("a"), text("b")].concat()).await;
    client.shutdown().await.expect("open");
    assert_eq!(next_text(&mut frames).await, "a");
    assert_eq!(next_text(&mut frames).await, "b");
    assert!(ends_disconnected(&frames.next().await));
    assert!(!send_queue.is_gone(), "the client still listens");
}

#[actix_web::test]
async fn a_paused_connection_is_not_read() {
    let (mut client, mut frames, send_queue) = inbound(b"").await;
    send(&mut client, &[text("a"), text("b")].concat()).await;
    assert_eq!(next_text(&mut frames).await, "a");
    send_queue.reading().pause();
    send(&mut client, &text("c")).await;
    assert!(poll(&mut frames).is_pending());
    assert_eq!(frames.chunk.len(), text("b").len());
    send_queue.reading().resume();
    assert_eq!(next_text(&mut frames).await, "b");
    assert_eq!(next_text(&mut frames).await, "c");
}

#[actix_web::test]
async fn reading_resumes_when_the_send_queue_has_drained() {
    let (mut client, mut frames, send_queue) = inbound(b"").await;
    send(&mut client, &text("a")).await;
    send_queue.push(vec![0; 100].into());
    send_queue.reading().pause_until(60);
    assert!(poll(&mut frames).is_pending());
    assert_eq!(next_text(&mut frames).await, "a");
}

#[actix_web::test]
async fn a_paused_reader_learns_that_the_connection_is_gone() {
    let (_client, mut frames, send_queue) = inbound(b"").await;
    send_queue.reading().pause();
    let reader = actix_rt::spawn(async move { frames.next().await });
    tokio::task::yield_now().await;
    send_queue.kill();
    assert!(ends_disconnected(&reader.await.expect("no panic")));
}

#[actix_web::test]
async fn a_connection_that_is_being_closed_is_no_longer_heard() {
    let (mut client, mut frames, send_queue) = inbound(b"").await;
    send_queue.end();
    until(|| send_queue.reading().is_paused()).await;
    send_queue.reading().resume();
    send(&mut client, &text("too late")).await;
    assert!(poll(&mut frames).is_pending());
    drop(client);
    assert!(ends_disconnected(&frames.next().await));
    assert!(send_queue.is_gone());
}

#[actix_web::test]
async fn nothing_follows_a_good_bye_or_an_error() {
    let (mut client, mut frames, _send_queue) = inbound(b"").await;
    send(&mut client, &[client_frame(0x88, b"", [0; 4]), text("more")].concat()).await;
    assert!(matches!(frames.next().await, Some(Ok(Inbound::Close(None)))));
    assert!(frames.next().await.is_none());

    let (mut client, mut frames, _send_queue) = inbound(b"").await;
    send(&mut client, &[client_frame(0xc1, b"", [0; 4]), text("more")].concat()).await;
    assert!(matches!(frames.next().await, Some(Err(InboundError::Violation(_)))));
    assert!(frames.next().await.is_none());
}

#[actix_web::test]
async fn whoever_stops_reading_ends_the_connection() {
    let (_client, frames, send_queue) = inbound(b"").await;
    assert!(!send_queue.is_closed());
    drop(frames);
    assert!(send_queue.is_closed());
}
