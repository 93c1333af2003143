//! Pages of the log for its followers, and the marks of what came by publish/subscribe.

use std::collections::HashSet;
use std::ops::Range;

use super::{NOON, Store, event, on_both, run, single};
use crate::domain::event::{Append, EventId, Idempotency, NewEvent};
use crate::domain::log::EventUuid;
use crate::domain::routes::Routes;
use crate::storage::{FollowPage, Reader, RetentionPolicy, Write};

/// An event that came with an envelope of this id.
fn heard(id: u8) -> Append {
    let idempotency = Idempotency { key: Idempotency::heard_key([id; 16]), fingerprint: [id; 16] };
    Append::single(NewEvent { idempotency: Some(idempotency), ..event("heard", "{}") })
}

fn page(reader: &Reader, after: EventId, max_events: usize) -> FollowPage {
    run(reader.follow(after, (max_events, 1 << 20))).expect("a page")
}

fn ids(page: &FollowPage) -> Vec<EventId> {
    page.events.iter().map(|event| event.id).collect()
}

fn fill(store: &Store) {
    let mut writer = store.writer();
    let batch = vec![single("a"), heard(1), single("b"), heard(2), heard(1), heard(3)];
    let committed = writer.append(batch, NOON).expect("stored");
    assert_eq!(committed.events.len(), 5, "what has the same id is there once");
    writer.append(vec![heard(3), single("$sys.c"), heard(4)], NOON).expect("stored");
}

#[test]
fn a_page_tells_what_came_by_publish_subscribe() {
    on_both(|store| {
        fill(&store);
        let reader = store.reader();
        let all = page(&reader, 0, 100);
        assert_eq!((ids(&all), all.through, all.missed), ((1..=7).collect(), 7, 0));
        assert_eq!(all.heard, HashSet::from([2, 4, 5, 7]));
        let part = page(&reader, 2, 3);
        assert_eq!((ids(&part), part.through, &part.heard), (vec![3, 4, 5], 5, &HashSet::from([4, 5])));
        let end = page(&reader, 7, 3);
        assert_eq!((end.events.len(), end.through, end.missed), (0, 7, 0));
        // A position beyond the end stays there.
        assert_eq!(page(&reader, 9, 3).through, 9);
    });
}

#[test]
fn what_was_removed_is_counted_and_its_marks_go_too() {
    on_both(|store| {
        fill(&store);
        let mut writer = store.writer();
        let policy = RetentionPolicy { max_events: Some(3), ..RetentionPolicy::default() };
        writer.trim(&policy, NOON, 100).expect("trimmed");
        let page = page(&store.reader(), 1, 2);
        assert_eq!((ids(&page), page.through, page.missed), (vec![5, 6], 6, 3));
        store.execute("INSERT INTO heard_events VALUES (2), (4)");
    });
}

#[test]
fn what_was_sent_is_known_until_its_event_is_removed() {
    on_both(|store| {
        fill(&store);
        let mut writer = store.writer();
        let uuid = |n: u8| EventUuid::of_sha1([n; 20]);
        let sent = |ids: Range<u8>| Write::MarkSent(ids.map(|id| (uuid(id), EventId::from(id))).collect());
        let known = || run(store.reader().sent((0..9).map(uuid).collect())).expect("read");
        let expected = |ids: Range<u8>| ids.map(uuid).collect::<HashSet<_>>();
        for writes in [vec![sent(1..3), sent(4..6)], vec![sent(2..8)]] {
            writer.commit(&mut writes.into(), &Routes::default(), NOON).expect("stored");
        }
        assert_eq!(known(), expected(1..8));
        writer
            .trim(&RetentionPolicy { max_events: Some(3), ..RetentionPolicy::default() }, NOON, 100)
            .expect("trimmed");
        assert_eq!(known(), expected(5..8));
        // Their marks are removed too, or they would stay as they are.
        let again = Write::MarkSent((1..5).map(|id| (uuid(id), 7)).collect());
        writer.commit(&mut vec![again].into(), &Routes::default(), NOON).expect("stored");
        assert_eq!(known(), expected(1..8));
    });
}
