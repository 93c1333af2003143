//! Replay jobs: deliveries opened again, step by step.

use super::*;

#[test]
fn redrives_make_dead_ones_anew_and_nothing_else() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(6);
        outbox.kill([1, 2, 4, 6]);
        outbox.job(ReplayJobKind::Redrive, &["order.*"], 2, 5);
        assert_eq!(outbox.step(at(60)), [renewed(2, 2)]);
        assert_eq!(outbox.step(at(61)), [], "it is done");
        let job = outbox.last_job();
        assert_eq!((job.state, job.touched, job.next_id), (ReplayJobState::Done, 2, 6));
        assert_eq!(
            (outbox.due(at(59)), outbox.due(at(60)), outbox.waiting(Lane::Normal)),
            (vec![], vec![2, 4], vec![3, 5])
        );
        let rows = outbox.claim_of(outbox.all, Claim::Due { now: at(60), after: Default::default() }, ROWS);
        assert!(rows.iter().all(|row| (row.lane, row.attempts, row.spent) == (Lane::Replay, 1, 1)), "{rows:?}");
        assert_eq!(outbox.pending(), Pending { waiting: [0, 2, 0, 0], retrying: [0, 0, 0, 2], dead: 2 });
        // Events of another name have no deliveries, and open ones are left alone.
        outbox.job(ReplayJobKind::Redrive, &["other"], 1, 6);
        assert_eq!(outbox.step(at(62)), [renewed(0, 0)]);
        outbox.job(ReplayJobKind::Redrive, &[], 1, 6);
        assert_eq!(outbox.step(at(63)), [renewed(2, 2)]);
    });
}

#[test]
fn replays_send_what_was_delivered_or_never_meant_for_the_service() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(3);
        let (all, orders) = (outbox.all, outbox.orders);
        outbox.settle(vec![end(all, 1, 1, Settled::Delivered), end(all, 2, 1, Settled::Retry(at(500)))]);
        let own = Append::single(NewEvent { source: "all".into(), ..event("other", "{}") });
        let other = Append::single(NewEvent { key: Some("k".into()), ..event("other", "{}") });
        outbox.writer.commit(&mut appends([own, other]).into(), &Routes::default(), NOON).expect("stored");
        outbox.job(ReplayJobKind::Replay, &[], 1, 99);
        // 1 was delivered, 2 and 3 are open, 4 comes from the service itself, 5 had no delivery.
        assert_eq!(outbox.step(at(60)), [renewed(2, 0)]);
        assert_eq!(outbox.due(at(60)), [1, 5]);
        while outbox.last_job().state == ReplayJobState::Running {
            assert_eq!(outbox.step(at(61)), [renewed(0, 0)]);
        }
        let (records, _) = run(outbox.reader.trace(5)).expect("a trace");
        assert_eq!((records.len(), records[0].key.as_deref(), records[0].lane), (1, Some("k"), Lane::Replay));
        assert_eq!(outbox.claim_of(orders, Claim::Due { now: at(60), after: Default::default() }, ROWS), []);
    });
}

#[test]
fn jobs_are_throttled_resumed_and_cancelled() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        outbox.publish_plain(600);
        outbox.kill(1..=600);
        let all = outbox.all;
        let id = outbox.job(ReplayJobKind::Redrive, &[], 1, 600);
        assert_eq!(outbox.step(at(1)), [renewed(256, 256)]);
        assert_eq!(outbox.step(at(1)), [], "it waits for those it made");
        outbox.settle((1..=100).map(|id| end(all, id, 2, Settled::Delivered)).collect());
        // Another writer continues where this one stopped.
        outbox.writer = store.writer();
        assert_eq!(outbox.step(at(2)), [renewed(100, 100)]);
        assert_eq!(outbox.due(at(2)), (101..=356).collect::<Vec<_>>());
        assert_eq!(outbox.last_job().next_id, 357);
        let mut cancel = |id| commit(&mut outbox.writer, Write::CancelReplayJob(id));
        assert_eq!([id, id, id + 1].map(&mut cancel), [true, false, false].map(Outcome::Changed));
        outbox.settle((101..=356).map(|id| end(all, id, 2, Settled::Delivered)).collect());
        assert_eq!(outbox.step(at(3)), []);
        let job = outbox.last_job();
        assert_eq!((job.state, job.touched), (ReplayJobState::Cancelled, 356));
        assert_eq!(outbox.pending(), Pending { dead: 244, ..Pending::default() });
    });
}
