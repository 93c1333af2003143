//! Queries for events by their processing status, with many events of each.

use super::outbox::{Outbox, end, pattern};
use super::{NOON, appends, event, on_both, run};
use crate::domain::delivery::EventStatus::{self, Failed, Pending, Processed};
use crate::domain::event::{Append, EventId};
use crate::storage::{EventQuery, Order, Settled};

/// More events than one statement looks at.
const EVENTS: EventId = 7_500;

fn status(id: EventId) -> EventStatus {
    match id % 5 {
        0 | 1 => Pending,
        2 if id < 200 => Failed,
        _ => Processed,
    }
}

fn name(id: EventId) -> &'static str {
    match id % 4 {
        0 => "order.made",
        1 => "order.paid",
        2 => "order.x",
        _ => "other",
    }
}

/// Two services get every event. A failed event has an open delivery, too.
fn fill(outbox: &mut Outbox) {
    let (all, orders) = (outbox.all, outbox.orders);
    outbox.commit(appends((1..=EVENTS).map(|id| Append::single(event(name(id), "{}")))), NOON);
    let done = |id: &EventId| status(*id) == Processed;
    let delivered = |service| move |id| end(service, id, 1, Settled::Delivered);
    outbox.settle((1..=EVENTS).filter(done).map(delivered(all)).collect());
    outbox.settle((1..=EVENTS).filter(|id| done(id) && name(*id) != "other").map(delivered(orders)).collect());
    outbox.kill((1..=EVENTS).filter(|id| status(*id) == Failed));
}

fn walk(outbox: &Outbox, query: &EventQuery) -> Vec<EventId> {
    let mut found = Vec::new();
    let (mut after, mut before) = (Some(0), Some(EVENTS + 1));
    loop {
        let page = run(outbox.reader.query(EventQuery { after, before, ..query.clone() })).expect("a page");
        assert!(page.events.iter().all(|event| page.statuses.get(&event.id).copied() == query.status));
        found.extend(page.events.iter().map(|event| event.id));
        match (query.order, page.has_more_after, page.has_more_before) {
            (Order::Asc, true, _) => after = found.last().copied(),
            (Order::Desc, _, true) => before = found.last().copied(),
            _ => return found,
        }
    }
}

#[test]
fn pages_by_status_find_what_a_list_would() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        fill(&mut outbox);
        for wanted in [Failed, Pending] {
            for patterns in [vec![], vec!["order.*"], vec!["order.made", "other"], vec![">"]] {
                for order in [Order::Asc, Order::Desc] {
                    let matches = |id: &EventId| {
                        let is_other = name(*id) == "other";
                        let fits = match patterns[..] {
                            ["order.*"] => !is_other,
                            ["order.made", _] => is_other || name(*id) == "order.made",
                            _ => true,
                        };
                        fits && status(*id) == wanted
                    };
                    let mut expected: Vec<EventId> = (1..=EVENTS).filter(matches).collect();
                    if order == Order::Desc {
                        expected.reverse();
                    }
                    let patterns = patterns.iter().map(|text| pattern(text)).collect();
                    let query =
                        EventQuery { patterns, status: Some(wanted), order, limit: 900, ..EventQuery::default() };
                    assert_eq!(walk(&outbox, &query), expected, "{query:?}");
                    let none = EventQuery { source: Some("nobody".to_owned()), ..query };
                    assert_eq!(walk(&outbox, &none), [] as [EventId; 0], "{none:?}");
                }
            }
        }
    });
}
