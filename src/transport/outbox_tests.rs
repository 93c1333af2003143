use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use futures_util::StreamExt;
use proptest::prelude::*;

use super::*;

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

fn outbox() -> (Rc<ShardQueues>, Rc<Outbox>, OutboxBody) {
    let shard = ShardQueues::new(1000);
    let (outbox, body) = Outbox::new(Rc::clone(&shard), Weak::new());
    (shard, outbox, body)
}

fn poll(body: &mut OutboxBody) -> Poll<Option<Bytes>> {
    Pin::new(body).poll_next(&mut Context::from_waker(Waker::noop())).map(|piece| piece.map(|Ok(piece)| piece))
}

/// What the body yields until it waits, and whether it then ended.
fn take_all(body: &mut OutboxBody) -> (Vec<u8>, bool) {
    let mut taken = Vec::new();
    loop {
        match poll(body) {
            Poll::Ready(Some(piece)) => taken.extend(piece),
            Poll::Ready(None) => return (taken, true),
            Poll::Pending => return (taken, false),
        }
    }
}

fn notices(shard: &Rc<ShardQueues>) -> Vec<OutboxKey> {
    let mut cx = Context::from_waker(Waker::noop());
    match shard.drain_notices().poll_next_unpin(&mut cx) {
        Poll::Ready(Some(keys)) => keys,
        _ => Vec::new(),
    }
}

const BYE: CloseFrame = CloseFrame::new(1000, "");
const BYE_BYTES: &[u8] = b"\x88\x02\x03\xe8";

#[test]
fn a_waiting_body_is_woken_once_a_batch() {
    let (_shard, outbox, mut body) = outbox();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    assert!(Pin::new(&mut body).poll_next(&mut Context::from_waker(&waker)).is_pending());
    outbox.push(Bytes::new());
    assert_eq!(wakes.count(), 0);
    outbox.push(Bytes::from_static(b"a"));
    outbox.push(Bytes::from_static(b"b"));
    assert_eq!(wakes.count(), 1);
    assert_eq!(take_all(&mut body), (b"ab".to_vec(), false));
}

#[test]
fn large_batches_go_out_in_slices_without_copying() {
    let (_shard, outbox, mut body) = outbox();
    let batch = Bytes::from(vec![7; 2 * MAX_SLICE + 1]);
    outbox.push(batch.clone());
    let mut sizes = Vec::new();
    while let Poll::Ready(Some(piece)) = poll(&mut body) {
        assert!(batch.as_ptr_range().contains(&piece.as_ptr()));
        sizes.push(piece.len());
    }
    assert_eq!(sizes, [MAX_SLICE, MAX_SLICE, 1]);
}

#[test]
fn close_comes_after_what_is_queued_and_ends_the_body() {
    let (_shard, outbox, mut body) = outbox();
    outbox.push(Bytes::from_static(b"last"));
    outbox.close(&BYE);
    outbox.push(Bytes::from_static(b"too late"));
    outbox.close_now(&CloseFrame::new(4101, ""));
    assert!(outbox.is_closed() && !outbox.is_gone());
    assert_eq!(outbox.close_code(), Some(1000));
    assert_eq!(take_all(&mut body), ([b"last", BYE_BYTES].concat(), true));
    drop(body);
    assert!(outbox.is_gone());
}

#[test]
fn close_now_replaces_what_is_queued_but_finishes_what_is_begun() {
    let (shard, outbox, mut body) = outbox();
    let begun = vec![1; MAX_SLICE + 10];
    outbox.push(begun.clone().into());
    outbox.push(Bytes::from_static(b"never"));
    assert!(poll(&mut body).is_ready());
    outbox.close_now(&BYE);
    assert_eq!(take_all(&mut body), ([&begun[MAX_SLICE..], BYE_BYTES].concat(), true));

    let (fresh, mut body) = Outbox::new(Rc::clone(&shard), Weak::new());
    fresh.push(Bytes::from_static(b"never"));
    fresh.close_now(&BYE);
    assert_eq!(shard.budget.used(), BYE_BYTES.len());
    assert_eq!(take_all(&mut body), (BYE_BYTES.to_vec(), true));
    assert_eq!(shard.budget.used(), 0);
}

#[test]
fn end_wakes_the_body_and_says_nothing() {
    let (_shard, outbox, mut body) = outbox();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    assert!(Pin::new(&mut body).poll_next(&mut Context::from_waker(&waker)).is_pending());
    outbox.end();
    assert_eq!((wakes.count(), outbox.close_code()), (1, None));
    assert_eq!(take_all(&mut body), (vec![], true));
}

#[test]
fn a_drain_notice_comes_once_at_the_low_water_mark() {
    let (shard, outbox, mut body) = outbox();
    for _ in 0..3 {
        outbox.push(Bytes::from_static(b"0123456789"));
    }
    outbox.arm_drain_notice(42, 10);
    assert!(poll(&mut body).is_ready());
    assert!(notices(&shard).is_empty());
    assert!(poll(&mut body).is_ready());
    assert_eq!(notices(&shard), [42]);
    take_all(&mut body);
    assert!(notices(&shard).is_empty());
    outbox.arm_drain_notice(43, 0);
    assert_eq!(notices(&shard), [43]);
}

#[test]
fn a_drain_notice_wakes_its_reader_and_survives_the_connection() {
    let (shard, outbox, body) = outbox();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut reader = shard.drain_notices();
    assert!(reader.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
    outbox.push(Bytes::from_static(b"never taken"));
    outbox.arm_drain_notice(7, 5);
    assert_eq!(wakes.count(), 0);
    drop(body);
    assert_eq!(wakes.count(), 1);
    assert_eq!(notices(&shard), [7]);
    assert_eq!(shard.budget.used(), 0);
}

#[test]
fn a_stall_is_counted_while_bytes_wait_and_nothing_moves() {
    let (_shard, outbox, mut body) = outbox();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(outbox.stalled_for(at(0)), None);
    outbox.push(vec![0; 2 * MAX_SLICE].into());
    assert_eq!(outbox.stalled_for(at(10)), seconds(0));
    assert_eq!(outbox.stalled_for(at(25)), seconds(15));
    outbox.push(Bytes::from_static(b"pushing is no progress"));
    assert_eq!(outbox.stalled_for(at(30)), seconds(20));
    assert!(poll(&mut body).is_ready());
    assert_eq!(outbox.stalled_for(at(31)), seconds(0));
    assert_eq!(outbox.stalled_for(at(32)), seconds(1));
    take_all(&mut body);
    outbox.push(Bytes::from_static(b"new"));
    assert_eq!(outbox.stalled_for(at(90)), seconds(0));
    take_all(&mut body);
    assert_eq!(outbox.stalled_for(at(100)), None);
}

#[test]
fn an_emptied_queue_gives_its_room_back() {
    let (_shard, outbox, mut body) = outbox();
    for _ in 0..1000 {
        outbox.push(Bytes::from_static(b"x"));
    }
    take_all(&mut body);
    assert!(outbox.state.borrow().queue.capacity() <= KEPT_SLOTS);
}

#[test]
fn the_budget_knows_its_limit() {
    let (shard, outbox, _body) = outbox();
    outbox.push(vec![0; 900].into());
    assert!(shard.budget.has_room(100) && !shard.budget.has_room(101));
    assert_eq!((shard.budget.used(), shard.budget.limit()), (900, 1000));
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize, usize),
    Take(usize),
    Drop(usize),
    CloseNow(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, prop_oneof![0..100usize, 0..50_000usize]).prop_map(|(k, len)| Step::Push(k, len)),
        8 => (0..3usize).prop_map(Step::Take),
        1 => (0..3usize).prop_map(Step::Drop),
        1 => (0..3usize).prop_map(Step::CloseNow),
    ]
}

proptest! {
    /// Every byte is accounted for at all times, and comes out in the order in which it went in.
    #[test]
    fn the_account_is_exact(steps in prop::collection::vec(step(), 0..100)) {
        let shard = ShardQueues::new(0);
        let mut parts: Vec<_> = (0..3).map(|_| {
            let (outbox, body) = Outbox::new(Rc::clone(&shard), Weak::new());
            (outbox, Some(body), Vec::<u8>::new(), 0u64)
        }).collect();
        let mut counter = 0u8;
        for step in steps {
            match step {
                Step::Push(k, len) => {
                    counter = counter.wrapping_add(1);
                    let (outbox, _, expected, _) = &mut parts[k];
                    if !outbox.is_closed() {
                        expected.extend(std::iter::repeat_n(counter, len));
                    }
                    outbox.push(vec![counter; len].into());
                }
                Step::Take(k) => {
                    let (_, body, expected, taken) = &mut parts[k];
                    if let Some(Poll::Ready(Some(piece))) = body.as_mut().map(poll) {
                        prop_assert!(piece.len() <= MAX_SLICE && !piece.is_empty());
                        prop_assert_eq!(&expected[..piece.len()], &piece[..]);
                        expected.drain(..piece.len());
                        *taken += piece.len() as u64;
                    }
                }
                Step::Drop(k) => {
                    parts[k].1 = None;
                    parts[k].2.clear();
                }
                Step::CloseNow(k) => {
                    let (outbox, _, expected, _) = &mut parts[k];
                    if !outbox.is_closed() {
                        outbox.close_now(&BYE);
                        let kept = outbox.queued_bytes() - BYE_BYTES.len();
                        expected.truncate(kept);
                        expected.extend_from_slice(BYE_BYTES);
                    }
                }
            }
            for (outbox, _, expected, taken) in &parts {
                prop_assert_eq!(outbox.queued_bytes(), expected.len());
                prop_assert_eq!(outbox.state.borrow().taken, *taken);
            }
            let queued: usize = parts.iter().map(|(outbox, ..)| outbox.queued_bytes()).sum();
            prop_assert_eq!(shard.budget.used(), queued);
        }
        drop(parts);
        prop_assert_eq!(shard.budget.used(), 0);
    }
}
