use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::StreamExt;
use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::transport::limit::ConnectionLimit;
use crate::transport::test_client::{pair, until};

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn shard() -> Rc<ShardQueues> {
    ShardQueues::new(1000, ConnectionLimit::new(10))
}

/// An send queue without a socket yet.
fn send_queue() -> (Rc<ShardQueues>, Rc<SendQueue>) {
    let shard = shard();
    (Rc::clone(&shard), SendQueue::new(shard, None))
}

/// An send queue with a socket, and the peer of that.
async fn connected(shard: &Rc<ShardQueues>) -> (Rc<SendQueue>, TcpStream) {
    let (server, client) = pair().await;
    let send_queue = SendQueue::new(Rc::clone(shard), None);
    send_queue.connect(Rc::new(server));
    (send_queue, client)
}

/// The same with a small buffer below, so that a peer which does not read soon blocks it.
async fn narrow(shard: &Rc<ShardQueues>) -> (Rc<SendQueue>, TcpStream) {
    let (server, client) = pair().await;
    SockRef::from(&server).set_send_buffer_size(4096).expect("set");
    let send_queue = SendQueue::new(Rc::clone(shard), None);
    send_queue.connect(Rc::new(server));
    (send_queue, client)
}

fn is_blocked(send_queue: &SendQueue) -> bool {
    send_queue.state.borrow().turn == Turn::Blocked
}

async fn read(peer: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut read = vec![0; length];
    peer.read_exact(&mut read).await.expect("delivered");
    read
}

async fn read_to_end(peer: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    peer.read_to_end(&mut read).await.expect("delivered");
    read
}

fn notices(shard: &Rc<ShardQueues>) -> Vec<SendQueueKey> {
    let mut notices = shard.drain_notices();
    let mut next = || notices.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
    std::iter::from_fn(|| match next() {
        Poll::Ready(key) => key,
        Poll::Pending => None,
    })
    .collect()
}

const BYE: CloseFrame = CloseFrame::new(1000, "");
const BYE_BYTES: &[u8] = b"\x88\x02\x03\xe8";

#[actix_web::test]
async fn what_is_pushed_in_one_turn_is_one_write() {
    let shard = shard();
    let (send_queue, mut peer) = connected(&shard).await;
    for turn in 1..=3 {
        for piece in [&b"a"[..], b"", b"bc", b"def"] {
            send_queue.push(Bytes::copy_from_slice(piece));
        }
        assert_eq!(send_queue.queued_bytes(), 6);
        assert_eq!(read(&mut peer, 6).await, b"abcdef");
        assert_eq!((shard.due.writes.get(), send_queue.queued_bytes()), (turn, 0));
    }
}

#[actix_web::test]
async fn what_is_pushed_before_there_is_a_socket_waits_for_it() {
    let (shard, send_queue) = send_queue();
    send_queue.push(Bytes::from_static(b"early"));
    send_queue.close(&BYE);
    let (server, mut peer) = pair().await;
    send_queue.connect(Rc::new(server));
    assert_eq!(read_to_end(&mut peer).await, [b"early", BYE_BYTES].concat());
    assert_eq!(shard.budget.used(), 0);
}

#[actix_web::test]
async fn a_slow_reader_gets_every_byte_in_order() {
    let shard = shard();
    let (send_queue, mut peer) = narrow(&shard).await;
    let mut expected = Vec::new();
    for k in 0..500usize {
        let piece = vec![k as u8; k * 37 % 3000 + 1];
        expected.extend_from_slice(&piece);
        send_queue.push(piece.into());
    }
    send_queue.push(Bytes::from(vec![7; 1 << 20]));
    expected.resize(expected.len() + (1 << 20), 7);
    until(|| is_blocked(&send_queue)).await;
    send_queue.end();
    let mut received = Vec::new();
    let mut buffer = [0; 3001];
    loop {
        let length = peer.read(&mut buffer).await.expect("delivered");
        if length == 0 {
            break;
        }
        received.extend_from_slice(&buffer[..length]);
        assert_eq!(shard.budget.used(), send_queue.queued_bytes());
        tokio::task::yield_now().await;
    }
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
}

#[actix_web::test]
async fn a_blocked_connection_waits_alone() {
    let shard = shard();
    let (blocked, _silent) = narrow(&shard).await;
    let (free, mut peer) = connected(&shard).await;
    blocked.push(Bytes::from(vec![0; 1 << 20]));
    until(|| is_blocked(&blocked)).await;
    for _ in 0..100 {
        free.push(Bytes::from_static(b"free"));
        assert_eq!(read(&mut peer, 4).await, b"free");
    }
    assert!(is_blocked(&blocked) && blocked.queued_bytes() > 0);
}

#[actix_web::test]
async fn a_long_queue_leaves_others_their_turn() {
    let shard = shard();
    let (long, mut reader) = connected(&shard).await;
    let (short, mut peer) = connected(&shard).await;
    let total = 64 << 20;
    long.push(Bytes::from(vec![0; total]));
    short.push(Bytes::from_static(b"short"));
    let reader = actix_rt::spawn(async move { read(&mut reader, total).await.len() });
    assert_eq!(read(&mut peer, 5).await, b"short");
    assert!(long.queued_bytes() > 0);
    assert_eq!(reader.await.expect("no panic"), total);
}

#[actix_web::test]
async fn close_comes_after_what_is_queued_and_waits_for_the_peer() {
    let shard = shard();
    let (send_queue, mut peer) = connected(&shard).await;
    send_queue.push(Bytes::from_static(b"last"));
    send_queue.close(&BYE);
    send_queue.push(Bytes::from_static(b"too late"));
    send_queue.close_now(4101, CloseFrame::new(4101, "").encode());
    assert!(send_queue.is_closed() && !send_queue.is_gone());
    assert_eq!(send_queue.close_code(), Some(1000));
    assert_eq!(read_to_end(&mut peer).await, [b"last", BYE_BYTES].concat());
    peer.write_all(b"whatever").await.expect("written");
    assert!(!send_queue.is_gone());
    peer.shutdown().await.expect("open");
    until(|| send_queue.is_gone()).await;
}

#[actix_web::test]
async fn a_peer_that_does_not_close_is_not_waited_for() {
    let shard = shard();
    let (send_queue, mut peer) = connected(&shard).await;
    send_queue.close(&BYE);
    assert_eq!(read_to_end(&mut peer).await, BYE_BYTES);
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    while !send_queue.is_gone() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[actix_web::test]
async fn close_now_replaces_what_is_queued_but_finishes_what_is_begun() {
    let shard = shard();
    let (send_queue, mut peer) = narrow(&shard).await;
    let begun = vec![1; 1 << 20];
    send_queue.push(begun.clone().into());
    send_queue.push(Bytes::from_static(b"never"));
    until(|| is_blocked(&send_queue)).await;
    send_queue.close_now(BYE.code, BYE.encode());
    assert!(read_to_end(&mut peer).await == [&begun[..], BYE_BYTES].concat());

    let (shard, fresh) = self::send_queue();
    fresh.push(Bytes::from_static(b"never"));
    fresh.close_now(BYE.code, BYE.encode());
    assert_eq!(shard.budget.used(), BYE_BYTES.len());
}

#[actix_web::test]
async fn end_says_nothing() {
    let shard = shard();
    let (send_queue, mut peer) = connected(&shard).await;
    send_queue.end();
    assert_eq!(read_to_end(&mut peer).await, b"");
    assert_eq!(send_queue.close_code(), None);
}

#[actix_web::test]
async fn a_blocked_connection_can_be_killed() {
    let shard = shard();
    let (send_queue, mut peer) = narrow(&shard).await;
    send_queue.push(Bytes::from(vec![0; 1 << 20]));
    until(|| is_blocked(&send_queue)).await;
    let held = Rc::downgrade(&send_queue);
    send_queue.kill();
    assert!(send_queue.is_gone());
    assert_eq!((shard.budget.used(), send_queue.queued_bytes()), (0, 0));
    assert!(read_to_end(&mut peer).await.len() < 1 << 20);
    drop(send_queue);
    until(|| held.upgrade().is_none()).await;
}

#[actix_web::test]
async fn a_peer_that_has_gone_is_noticed_by_writing() {
    let shard = shard();
    let (send_queue, mut peer) = connected(&shard).await;
    // Unread input makes the peer's system answer with a reset.
    send_queue.push(Bytes::from_static(b"unread"));
    peer.readable().await.expect("open");
    peer.shutdown().await.expect("open");
    drop(peer);
    while !send_queue.is_gone() {
        send_queue.push(Bytes::from_static(b"more"));
        tokio::task::yield_now().await;
    }
    send_queue.push(Bytes::from_static(b"too late"));
    assert_eq!(shard.budget.used(), 0);
}

#[actix_web::test]
async fn a_drain_notice_comes_once_at_the_low_water_mark() {
    let (shard, send_queue) = send_queue();
    for _ in 0..3 {
        send_queue.push(Bytes::from_static(b"0123456789"));
    }
    send_queue.arm_drain_notice(42, 10);
    assert!(notices(&shard).is_empty());
    let (server, _peer) = pair().await;
    send_queue.connect(Rc::new(server));
    assert_eq!(shard.drain_notices().next().await, Some(42));
    send_queue.arm_drain_notice(43, 0);
    assert_eq!(notices(&shard), [43]);
    assert!(notices(&shard).is_empty());
}

#[test]
fn a_drain_notice_wakes_its_reader_and_survives_the_connection() {
    let (shard, send_queue) = send_queue();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut reader = shard.drain_notices();
    assert!(reader.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
    send_queue.push(Bytes::from_static(b"never taken"));
    send_queue.arm_drain_notice(7, 5);
    assert_eq!(wakes.count(), 0);
    send_queue.kill();
    assert_eq!(wakes.count(), 1);
    assert_eq!(notices(&shard), [7]);
    assert_eq!(shard.budget.used(), 0);
}

#[test]
fn a_stall_is_counted_while_bytes_wait_and_nothing_moves() {
    let (_shard, send_queue) = send_queue();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(send_queue.stalled_for(at(0)), None);
    send_queue.push(vec![0; 20].into());
    assert_eq!(send_queue.stalled_for(at(10)), seconds(0));
    assert_eq!(send_queue.stalled_for(at(25)), seconds(15));
    send_queue.push(Bytes::from_static(b"pushing is no progress"));
    assert_eq!(send_queue.stalled_for(at(30)), seconds(20));
    take(&send_queue, 5);
    assert_eq!(send_queue.stalled_for(at(31)), seconds(0));
    assert_eq!(send_queue.stalled_for(at(32)), seconds(1));
    take(&send_queue, 37);
    send_queue.push(Bytes::from_static(b"new"));
    assert_eq!(send_queue.stalled_for(at(90)), seconds(0));
    take(&send_queue, 3);
    assert_eq!(send_queue.stalled_for(at(100)), None);
}

#[actix_web::test]
async fn bytes_that_the_socket_delivers_are_progress() {
    let shard = shard();
    let (send_queue, mut peer) = narrow(&shard).await;
    send_queue.push(Bytes::from(vec![0; 1 << 20]));
    until(|| is_blocked(&send_queue)).await;
    let stream = send_queue.state.borrow().stream.clone().expect("connected");
    let start = Instant::now();
    let at = |seconds| send_queue.stalled_for(start + Duration::from_secs(seconds));
    assert_eq!((at(0), at(10)), (Some(Duration::ZERO), Some(Duration::from_secs(10))));
    let before = progress(&stream);
    read(&mut peer, 100_000).await;
    until(|| progress(&stream) != before).await;
    assert_eq!(at(20), Some(Duration::ZERO));
}

#[actix_web::test]
async fn an_emptied_queue_gives_its_room_back() {
    let shard = shard();
    let (send_queue, mut peer) = connected(&shard).await;
    for _ in 0..1000 {
        send_queue.push(Bytes::from_static(b"x"));
    }
    read(&mut peer, 1000).await;
    assert!(send_queue.state.borrow().queue.capacity() <= KEPT_SLOTS);
}

#[test]
fn the_budget_knows_its_limit() {
    let (shard, send_queue) = send_queue();
    send_queue.push(vec![0; 900].into());
    assert!(shard.budget.has_room(100) && !shard.budget.has_room(101));
    assert_eq!((shard.budget.used(), shard.budget.limit()), (900, 1000));
}

#[test]
fn a_connection_gives_its_place_back() {
    let limit = ConnectionLimit::new(2);
    let shard = ShardQueues::new(0, Arc::clone(&limit));
    let open = || SendQueue::new(Rc::clone(&shard), limit.admit());
    let (first, second) = (open(), open());
    assert!(limit.admit().is_none());
    first.kill();
    first.kill();
    assert_eq!(limit.open(), 1);
    drop(second);
    assert_eq!(limit.open(), 0);
}

/// What a socket does that takes `bytes`.
fn take(send_queue: &SendQueue, bytes: usize) {
    let mut state = send_queue.state.borrow_mut();
    state.advance(bytes);
    send_queue.account_for_removal(&mut state, bytes);
    drop(state);
    send_queue.announce();
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize, usize),
    Take(usize, usize),
    Kill(usize),
    CloseNow(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let length = || prop_oneof![0..100usize, 0..5_000usize];
    prop_oneof![
        8 => (0..3usize, length()).prop_map(|(k, len)| Step::Push(k, len)),
        8 => (0..3usize, length()).prop_map(|(k, len)| Step::Take(k, len)),
        1 => (0..3usize).prop_map(Step::Kill),
        1 => (0..3usize).prop_map(Step::CloseNow),
    ]
}

proptest! {
    /// Every byte is accounted for at all times, and comes out in the order in which it went in.
    #[test]
    fn the_account_is_exact(steps in prop::collection::vec(step(), 0..100)) {
        let shard = ShardQueues::new(0, ConnectionLimit::new(0));
        let mut parts: Vec<_> =
            (0..3).map(|_| (SendQueue::new(Rc::clone(&shard), None), Vec::<u8>::new(), 0u64)).collect();
        let mut counter = 0u8;
        for step in steps {
            match step {
                Step::Push(k, len) => {
                    counter = counter.wrapping_add(1);
                    let (send_queue, expected, _) = &mut parts[k];
                    if !send_queue.is_closed() {
                        expected.extend(std::iter::repeat_n(counter, len));
                    }
                    send_queue.push(vec![counter; len].into());
                }
                Step::Take(k, len) => {
                    let (send_queue, expected, written) = &mut parts[k];
                    let len = len.min(send_queue.queued_bytes());
                    take(send_queue, len);
                    expected.drain(..len);
                    *written += len as u64;
                }
                Step::Kill(k) => {
                    parts[k].0.kill();
                    parts[k].1.clear();
                }
                Step::CloseNow(k) => {
                    let (send_queue, expected, _) = &mut parts[k];
                    if !send_queue.is_closed() {
                        send_queue.close_now(BYE.code, BYE.encode());
                        let kept = send_queue.queued_bytes() - BYE_BYTES.len();
                        expected.truncate(kept);
                        expected.extend_from_slice(BYE_BYTES);
                    }
                }
            }
            for (send_queue, expected, written) in &parts {
                let state = send_queue.state.borrow();
                let queued: Vec<u8> = state.queue.iter().flatten().copied().collect();
                prop_assert_eq!(&queued, expected);
                prop_assert_eq!((state.queued, state.written), (expected.len(), *written));
            }
            let queued: usize = parts.iter().map(|(send_queue, ..)| send_queue.queued_bytes()).sum();
            prop_assert_eq!(shard.budget.used(), queued);
        }
    }
}
