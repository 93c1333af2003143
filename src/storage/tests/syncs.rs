//! What the store knows of the copies that services keep.

use std::collections::BTreeMap;

use super::outbox::{Outbox, end};
use super::{NOON, Store, appends, at, commit, on_both, run};
use crate::domain::entity::{Change, EntityId, EntityKey, EntityType, Op, Precondition, Version};
use crate::domain::event::{Append, EventId, NewEvent};
use crate::domain::sync::{Compared, Counts, Current, Facts, Kind, Standing, SyncState};
use crate::storage::{Outcome, RetentionPolicy, Settled, SyncBacklog, SyncRecord, SyncWith, Write};

fn kind() -> EntityType {
    EntityType::parse("lot").expect("a type")
}

fn key(text: &str) -> EntityKey {
    EntityKey::parse(text.to_owned()).expect("a key")
}

/// Commits a change; the third event is the change of the third call.
fn change(outbox: &mut Outbox, of: &str, op: Op, source: &'static str, seconds: i64) {
    let entity = EntityId { kind: kind(), key: key(of) };
    let change = Change { entity, op, precondition: Precondition::default(), follows: false };
    let value = (op == Op::Put).then(|| "{}".into());
    let event = NewEvent::change(change, value, source.into());
    outbox.commit(appends([Append::single(event)]), at(seconds));
}

fn delivered(outbox: &mut Outbox, ids: &[EventId]) {
    let all = outbox.all;
    outbox.settle(ids.iter().map(|id| end(all, *id, 1, Settled::Delivered)).collect());
}

fn facts(current: Current) -> Facts {
    Facts { current, own_change_at: None, is_on_its_way: false, answered_at: None }
}

#[test]
fn what_is_known_of_a_key_is_of_one_moment() {
    on_both(|store: Store| {
        let mut outbox = Outbox::new(&store);
        let with = SyncWith { service: outbox.all, own_sources: vec!["all".into()], kind: kind() };
        change(&mut outbox, "delivered", Op::Put, "api", 1);
        change(&mut outbox, "waits", Op::Put, "api", 2);
        change(&mut outbox, "own", Op::Put, "all", 3);
        change(&mut outbox, "deleted", Op::Put, "api", 4);
        change(&mut outbox, "deleted", Op::Delete, "api", 5);
        change(&mut outbox, "equal", Op::Put, "api", 6);
        delivered(&mut outbox, &[1, 4, 5, 6]);
        let theirs: &[(&str, Version)] = &[("equal", 6), ("delivered", 9), ("deleted", 4), ("never", 2)];
        let theirs = theirs.iter().map(|(of, version)| (key(of), *version)).collect();
        let compared = run(outbox.reader.sync_bucket(with.clone(), (0, 1), theirs)).expect("compared");
        let known: BTreeMap<String, (Option<Version>, Facts)> =
            compared.into_iter().map(|Compared { key, theirs, facts }| (key.to_string(), (theirs, facts))).collect();
        let answered_at = Some(at(1));
        let expected = [
            ("delivered", (Some(9), Facts { answered_at, ..facts(Current::Present(1)) })),
            ("waits", (None, Facts { is_on_its_way: true, ..facts(Current::Present(2)) })),
            ("own", (None, Facts { own_change_at: Some(at(3)), ..facts(Current::Present(3)) })),
            ("deleted", (Some(4), Facts { answered_at, ..facts(Current::Deleted(5)) })),
            ("never", (Some(2), facts(Current::Absent))),
        ];
        assert_eq!(known, expected.map(|(key, what)| (key.to_owned(), what)).into());

        let (page, has_more) = run(outbox.reader.sync_page(with.clone(), Some(key("delivered")), 2)).expect("a page");
        let keys: Vec<&str> = page.iter().map(|compared| compared.key.as_str()).collect();
        assert_eq!((keys, has_more), (vec!["equal", "own"], true), "those that are there, in order");

        let backlog = run(outbox.reader.sync_backlog(with.clone())).expect("read");
        assert_eq!(backlog, SyncBacklog { last: 6, oldest: Some(2), count: 4 });
        let entity = run(outbox.reader.sync_entity(with.clone(), key("deleted"))).expect("read").expect("known");
        assert_eq!((entity.facts.current, entity.event.map(|event| event.id)), (Current::Deleted(5), Some(5)));
        // What another service has to get is another's business.
        let other = SyncWith { service: outbox.orders, ..with };
        let entity = run(outbox.reader.sync_entity(other, key("waits"))).expect("read").expect("known");
        assert_eq!(entity.facts, facts(Current::Present(2)));
    });
}

#[test]
fn a_change_that_the_log_has_no_more_may_be_of_the_service_itself() {
    on_both(|store: Store| {
        let mut outbox = Outbox::new(&store);
        let with = SyncWith { service: outbox.all, own_sources: vec!["all".into()], kind: kind() };
        change(&mut outbox, "own", Op::Put, "all", 1);
        change(&mut outbox, "newest", Op::Put, "api", 2);
        delivered(&mut outbox, &[2]);
        let policy = RetentionPolicy {
            max_age: None,
            max_events: Some(1),
            max_bytes: None,
            mirror_hold: None,
            orchestrator_hold: None,
        };
        outbox.writer.trim(&policy, at(3), 100).expect("trimmed");
        let entity = run(outbox.reader.sync_entity(with.clone(), key("own"))).expect("read").expect("known");
        assert_eq!(entity.event, None);
        let own = Facts { own_change_at: Some(at(1)), ..facts(Current::Present(1)) };
        assert_eq!(entity.facts, own);
        // It would have been delivered all the same.
        let with_echo = SyncWith { own_sources: Vec::new(), ..with };
        let entity = run(outbox.reader.sync_entity(with_echo, key("own"))).expect("read").expect("known");
        assert_eq!(entity.facts, facts(Current::Present(1)));
    });
}

#[test]
fn how_a_service_stands_is_stored() {
    on_both(|store: Store| {
        let mut outbox = Outbox::new(&store);
        let mut differences = Counts::default();
        Kind::ALL.into_iter().zip(3..).for_each(|(kind, count)| differences.add(kind, count));
        let diverged = Standing {
            state: SyncState::Diverged,
            as_of: Some(7),
            lag: Some(3),
            checked_at: Some(NOON),
            next_check_at: Some(at(60)),
            error: Some("it says <html>".to_owned()),
            differences,
        };
        let record = |service, standing| SyncRecord { service, kind: kind(), standing };
        let first = record(outbox.all, diverged.clone());
        let second = record(outbox.orders, Standing { as_of: None, error: None, ..diverged.clone() });
        let synced = Standing { state: SyncState::Synced, differences: Counts::default(), ..diverged };
        let later = record(outbox.all, synced);
        for record in [first, second.clone(), later.clone()] {
            assert_eq!(commit(&mut outbox.writer, Write::SaveSync(record)), Outcome::Saved);
        }
        assert_eq!(run(outbox.reader.syncs()).expect("read"), [later, second]);
    });
}
