//! Reads: round trips, every parameter of a query, and scans, against a model that filters a list.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};

use super::{NOON, Store, at, event, on_both, run, single};
use crate::domain::delivery::EventStatus;
use crate::domain::event::{Append, Event, NewEvent, Priority, Timestamp};
use crate::domain::pattern::Pattern;
use crate::storage::{EventPage, EventQuery, Order, Reader, RetentionPolicy, Scan, ScanPage};

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse((*text).to_owned()).expect("a valid pattern")).collect()
}

/// Stores events with these names, one second apart.
fn fill(store: &Store, names: &[&str]) -> Vec<Event> {
    let mut writer = store.writer();
    let append = |(name, second)| writer.append(vec![single(name)], at(second)).expect("stored").events;
    names.iter().copied().zip(0..).flat_map(append).collect()
}

fn query(reader: &Reader, query: EventQuery) -> EventPage {
    run(reader.query(query)).expect("a page")
}

fn scan(reader: &Reader, scan: &Scan) -> ScanPage {
    run(reader.scan(scan.clone())).expect("a page")
}

fn ids(events: &[Event]) -> Vec<i64> {
    events.iter().map(|e| e.id).collect()
}

#[test]
fn texts_come_back_to_the_byte() {
    on_both(|store| {
        let payloads = [
            r#"{ "b" : 1,	"a":2,"b":3 }"#,
            r#"[123456789012345678901234567890, 1e400, -0.0, 1.10, 0.1000000000000000055]"#,
            r#""\u0000\ud83d\ude00 \uD800 \/ é 🦀""#,
            "\n null \r\n",
            "true",
            &format!("\"{}\"", "ü".repeat(500_000)),
        ];
        let mut events: Vec<_> = payloads.iter().map(|payload| event("größe.neu", payload)).collect();
        events.push(NewEvent {
            source: "süd\t\"'\\".into(),
            priority: Priority::High,
            key: Some("".into()),
            metadata: Some(r#"{"a":"\u0000"}"#.into()),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            ..event("a b/c:d", "{}")
        });
        let batch = events.into_iter().map(Append::single).collect();
        let stored = store.writer().append(batch, NOON).expect("stored").events;
        let reader = store.reader();
        for event in &stored {
            assert_eq!(run(reader.event(event.id)).as_ref(), Ok(&Some((event.clone(), EventStatus::Processed))));
        }
        assert_eq!(run(reader.event(99)), Ok(None));
        assert_eq!(query(&reader, EventQuery::default()).events, stored);
        let all = Scan { after: 0, through: None, patterns: Vec::new(), max_events: 100, max_bytes: 1 << 30 };
        assert_eq!(scan(&reader, &all).events, stored);
    });
}

#[test]
fn without_a_cursor_the_newest() {
    on_both(|store| {
        let reader = store.reader();
        store.writer();
        let empty =
            EventPage { events: Vec::new(), statuses: BTreeMap::new(), has_more_before: false, has_more_after: false };
        assert_eq!(query(&reader, EventQuery::default()), empty);

        fill(&store, &["a", "b", "$sys.x", "a", "b"]);
        let newest = |limit, order| query(&reader, EventQuery { limit, order, ..EventQuery::default() });
        let page = newest(3, Order::Asc);
        assert_eq!((ids(&page.events), page.has_more_before, page.has_more_after), (vec![2, 4, 5], true, false));
        let page = newest(4, Order::Desc);
        assert_eq!((ids(&page.events), page.has_more_before, page.has_more_after), (vec![5, 4, 2, 1], false, false));
    });
}

#[test]
fn cursors_and_their_neighbours() {
    on_both(|store| {
        fill(&store, &["a"; 9]);
        let reader = store.reader();
        let page = |after, before, order| {
            let page = query(&reader, EventQuery { after, before, order, limit: 3, ..EventQuery::default() });
            (ids(&page.events), page.has_more_before, page.has_more_after)
        };
        use Order::{Asc, Desc};
        assert_eq!(page(Some(0), None, Asc), (vec![1, 2, 3], false, true));
        assert_eq!(page(Some(4), None, Asc), (vec![5, 6, 7], true, true));
        assert_eq!(page(Some(6), None, Asc), (vec![7, 8, 9], true, false));
        assert_eq!(page(Some(9), None, Asc), (vec![], true, false));
        assert_eq!(page(Some(4), None, Desc), (vec![9, 8, 7], true, false));
        assert_eq!(page(None, Some(5), Asc), (vec![2, 3, 4], true, true));
        assert_eq!(page(None, Some(4), Desc), (vec![3, 2, 1], false, true));
        assert_eq!(page(None, Some(99), Asc), (vec![7, 8, 9], true, false));
        assert_eq!(page(Some(2), Some(5), Asc), (vec![3, 4], false, false));
        assert_eq!(page(Some(2), Some(8), Asc), (vec![3, 4, 5], false, true));
        assert_eq!(page(Some(2), Some(8), Desc), (vec![7, 6, 5], true, false));
        assert_eq!(page(Some(7), Some(3), Asc), (vec![], false, false));
    });
}

#[test]
fn time_source_key_and_names() {
    on_both(|store| {
        let mut writer = store.writer();
        let rows = [
            ("a.x", "web", "1"),
            ("a.y", "app", "1"),
            ("b.x", "web", "2"),
            ("$sys.x", "web", "1"),
            ("a.x", "app", "2"),
        ];
        for ((name, source, key), second) in rows.into_iter().zip(0..) {
            let new = NewEvent { source: source.into(), key: Some(key.into()), ..event(name, "{}") };
            writer.append(vec![Append::single(new)], at(10 * second)).expect("stored");
        }
        let reader = store.reader();
        const NONE: [i64; 0] = [];
        let find = |wanted: EventQuery| ids(&query(&reader, wanted).events);
        let base = EventQuery::default;
        assert_eq!(find(EventQuery { since: Some(at(10)), ..base() }), [2, 3, 5]);
        assert_eq!(find(EventQuery { since: Some(at(11)), until: Some(at(40)), ..base() }), [3, 5]);
        assert_eq!(find(EventQuery { until: Some(at(-1)), ..base() }), NONE);
        assert_eq!(find(EventQuery { since: Some(at(41)), ..base() }), NONE);
        assert_eq!(find(EventQuery { source: Some("web".into()), ..base() }), [1, 3]);
        assert_eq!(find(EventQuery { key: Some("1".into()), ..base() }), [1, 2]);
        assert_eq!(find(EventQuery { key: Some("2".into()), source: Some("app".into()), ..base() }), [5]);
        assert_eq!(find(EventQuery { patterns: patterns(&["a.>"]), source: Some("app".into()), ..base() }), [2, 5]);
        assert_eq!(find(EventQuery { patterns: patterns(&["*.x"]), ..base() }), [1, 3, 5]);
        assert_eq!(find(EventQuery { patterns: patterns(&["$sys.*", "b.x"]), ..base() }), [3, 4]);
        assert_eq!(find(EventQuery { patterns: patterns(&[">", "$sys.>"]), ..base() }), [1, 2, 3, 4, 5]);
        assert_eq!(find(EventQuery { patterns: patterns(&["nothing", "no.*"]), ..base() }), NONE);
    });
}

/// There are more names than are read one by one, and prefixes that a collation by language would mix up.
#[test]
fn many_names_are_matched_as_bytes() {
    on_both(|store| {
        let names: Vec<String> = (0..100).map(|n| format!("auction.{n}.bid")).collect();
        let others =
            ["auction", "Auction.1.bid", "auction/1", "auction.1", "auction.ä.bid", "auction-1.bid", "%.x.bid"];
        let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
        all.extend(others);
        let events = fill(&store, &all);
        let reader = store.reader();
        for texts in [&["auction.*.bid"][..], &["auction.*"], &["*.1.bid"], &["auction.>", "%.*.bid"]] {
            let wanted = patterns(texts);
            let matching = events.iter().filter(|e| wanted.iter().any(|p| p.matches(&e.name)));
            let expected: Vec<_> = matching.map(|e| e.id).collect();
            let found = query(&reader, EventQuery { patterns: wanted, limit: 1000, ..EventQuery::default() });
            assert_eq!(ids(&found.events), expected, "{texts:?}");
        }
    });
}

#[test]
fn pages_are_bounded_in_bytes() {
    on_both(|store| {
        let large = format!("\"{}\"", "x".repeat(6 * 1024 * 1024));
        let mut writer = store.writer();
        for _ in 0..5 {
            writer.append(vec![Append::single(event("large", &large))], NOON).expect("stored");
        }
        let reader = store.reader();
        let page = query(&reader, EventQuery::default());
        assert_eq!((ids(&page.events), page.has_more_before), (vec![3, 4, 5], true));
        let piece = |after| {
            let max_bytes = 7 * 1024 * 1024;
            let page = Scan { after, through: None, patterns: Vec::new(), max_events: 100, max_bytes };
            let page = scan(&reader, &page);
            (ids(&page.events), page.scanned_through)
        };
        assert_eq!(piece(0), (vec![1, 2], 2));
        assert_eq!(piece(4), (vec![5], 5));
    });
}

#[test]
fn a_scan_ends_where_the_log_ends() {
    on_both(|store| {
        let reader = store.reader();
        store.writer();
        let end = |after, through| {
            let patterns = Vec::new();
            let page = scan(&reader, &Scan { after, through, patterns, max_events: 10, max_bytes: 1 << 20 });
            (ids(&page.events), page.scanned_through, page.earliest)
        };
        assert_eq!(end(0, None), (vec![], 0, 1));
        assert_eq!(end(7, Some(9)), (vec![], 7, 1));
        fill(&store, &["a", "$sys.a", "b", "c"]);
        assert_eq!(end(0, None), (vec![1, 2, 3, 4], 4, 1));
        assert_eq!(end(1, Some(3)), (vec![2, 3], 3, 1));
        assert_eq!(end(3, Some(99)), (vec![4], 4, 1));
        assert_eq!(end(4, None), (vec![], 4, 1));
        let policy = RetentionPolicy { max_events: Some(1), ..RetentionPolicy::default() };
        store.writer().trim(&policy, NOON, 100).expect("trimmed");
        assert_eq!(end(0, None), (vec![4], 4, 4));
        assert_eq!(end(0, Some(2)), (vec![], 2, 4));
    });
}

const SEGMENTS: [&str; 5] = ["a", "b", "c", "ab", "$sys"];

fn a_name() -> impl Strategy<Value = String> {
    vec(select(&SEGMENTS[..]), 1..4).prop_map(|segments| segments.join("."))
}

fn a_pattern() -> impl Strategy<Value = Pattern> {
    let segment = prop_oneof![3 => select(&SEGMENTS[..]), 2 => Just("*")];
    (vec(segment, 1..4), any::<bool>()).prop_map(|(mut segments, tail)| {
        if tail {
            segments.push(">");
        }
        Pattern::parse(segments.join(".")).expect("a valid pattern")
    })
}

/// What happens before the queries: events (name, source, key), and how many are kept.
type History = (Vec<(String, bool, Option<u8>)>, u64);

fn a_history() -> impl Strategy<Value = History> {
    (vec((a_name(), any::<bool>(), option::of(0..3_u8)), 0..60), 1..80_u64)
}

fn a_query() -> impl Strategy<Value = EventQuery> {
    let cursors = (option::of(0..70_i64), option::of(0..70_i64), option::of(-5..70_i64), option::of(-5..70_i64));
    let values = (vec(a_pattern(), 0..3), option::weighted(0.2, any::<bool>()), option::weighted(0.2, 0..3_u8));
    (cursors, values, 1..20_usize, any::<bool>()).prop_map(|(cursors, (patterns, source, key), limit, descending)| {
        let (after, before, since, until) = cursors;
        EventQuery {
            patterns,
            after,
            before,
            since: since.map(at),
            until: until.map(at),
            source: source.map(|web| source_of(web).to_owned()),
            key: key.map(|key| key.to_string()),
            status: None,
            limit,
            max_bytes: usize::MAX,
            order: if descending { Order::Desc } else { Order::Asc },
        }
    })
}

fn source_of(web: bool) -> &'static str {
    if web { "web" } else { "app" }
}

fn write_history(store: &Store, (rows, keep): &History) -> Vec<Event> {
    let mut writer = store.writer();
    let mut events = Vec::new();
    for ((name, web, key), second) in rows.iter().zip(0..) {
        let key = key.map(|key| key.to_string().into());
        let new = NewEvent { source: source_of(*web).into(), key, ..event(name, "{}") };
        events.extend(writer.append(vec![Append::single(new)], at(second / 2)).expect("stored").events);
    }
    let policy = RetentionPolicy { max_events: Some(*keep), ..RetentionPolicy::default() };
    writer.trim(&policy, NOON, 1000).expect("trimmed");
    events.drain(..events.len().saturating_sub(*keep as usize));
    events
}

/// The definition of a query on a list.
fn expected_page(log: &[Event], query: &EventQuery) -> EventPage {
    let named = |e: &Event| match &query.patterns[..] {
        [] => !e.name.is_system(),
        patterns => patterns.iter().any(|p| p.matches(&e.name)),
    };
    let in_time = |e: &Event| {
        query.since.is_none_or(|since| e.created_at >= since) && query.until.is_none_or(|until| e.created_at <= until)
    };
    let valued = |e: &Event| {
        query.source.as_ref().is_none_or(|s| **s == *e.source)
            && query.key.as_ref().is_none_or(|k| e.key.as_ref().is_some_and(|key| **k == **key))
    };
    let matching: Vec<&Event> = log.iter().filter(|e| named(e) && in_time(e) && valued(e)).collect();
    let above = |e: &&&Event| query.after.is_none_or(|after| e.id > after);
    let below = |e: &&&Event| query.before.is_none_or(|before| e.id < before);
    let within: Vec<&Event> = matching.iter().filter(above).filter(below).copied().collect();
    let forward = query.after.is_some() && query.order == Order::Asc;
    let rest = within.len().saturating_sub(query.limit);
    let page = if forward { &within[..within.len() - rest] } else { &within[rest..] };
    let mut events: Vec<Event> = page.iter().map(|e| (*e).clone()).collect();
    if query.order == Order::Desc {
        events.reverse();
    }
    let one_cursor = query.after.is_some() != query.before.is_some();
    EventPage {
        events,
        statuses: BTreeMap::new(),
        has_more_before: if forward { one_cursor && matching.iter().any(|e| !above(&e)) } else { rest > 0 },
        has_more_after: if forward { rest > 0 } else { one_cursor && matching.iter().any(|e| !below(&e)) },
    }
}

#[test]
fn queries_find_what_a_list_would() {
    on_both_often(&(a_history(), vec(a_query(), 12)), |store, (history, queries)| {
        let log = write_history(store, &history);
        let reader = store.reader();
        for wanted in queries {
            let found = run(reader.query(wanted.clone())).expect("a page");
            prop_assert_eq!(found, expected_page(&log, &wanted), "{:?}", wanted);
        }
        Ok(())
    });
}

#[test]
fn scans_find_everything_once_whatever_the_size_of_pages() {
    let scans = vec((vec(a_pattern(), 0..4), 0..60_i64, 1..15_usize, 1..4000_usize), 6);
    on_both_often(&(a_history(), scans), |store, (history, scans)| {
        let log = write_history(store, &history);
        // A store that was emptied goes on above the ids that it has given out.
        let last = log.last().map_or(0, |event| event.id);
        let reader = store.reader();
        for (patterns, start, max_events, max_bytes) in scans {
            let (mut after, mut found) = (start.min(last), Vec::new());
            while after < last {
                let wanted = Scan { after, through: None, patterns: patterns.clone(), max_events, max_bytes };
                let page = run(reader.scan(wanted)).expect("a page");
                prop_assert!(page.scanned_through > after, "progress");
                prop_assert!(page.events.len() <= max_events);
                prop_assert!(page.events.iter().all(|e| e.id > after && e.id <= page.scanned_through));
                prop_assert_eq!(page.earliest, log.first().map_or(1, |e| e.id));
                after = page.scanned_through;
                found.extend(page.events);
            }
            let matches = |e: &Event| patterns.is_empty() || patterns.iter().any(|p| p.matches(&e.name));
            let expected: Vec<Event> = log.iter().filter(|e| e.id > start && matches(e)).cloned().collect();
            prop_assert_eq!(found, expected);
        }
        Ok(())
    });
}

/// Runs a property on emptied stores of both backends.
fn on_both_often<S: Strategy>(strategy: &S, test: impl Fn(&Store, S::Value) -> Result<(), TestCaseError>) {
    for (store, cases) in [(Store::sqlite(), 80), (Store::postgres(), 30)] {
        store.writer();
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
        let outcome = TestRunner::new(config).run(strategy, |value| {
            store.execute("DELETE FROM events");
            test(&store, value)
        });
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Follows cursors, as `Link` headers do, while the log grows and is trimmed.
#[test]
fn walking_pages_sees_every_event_once() {
    on_both(|store| {
        fill(&store, &["a.x"; 40]);
        let reader = store.reader();
        let mut writer = store.writer();
        let mut walked = Vec::new();
        let mut after = Some(0);
        while let Some(cursor) = after {
            let wanted =
                EventQuery { after: Some(cursor), patterns: patterns(&["a.*"]), limit: 7, ..EventQuery::default() };
            let page = query(&reader, wanted);
            let grows = walked.len() < 60;
            if grows {
                writer.append(vec![single("a.y"), single("b"), single("a.x")], at(100)).expect("stored");
            }
            walked.extend(page.events.iter().map(|e| e.id));
            after = page.events.last().filter(|_| grows || page.has_more_after).map(|e| e.id);
        }
        assert!(walked.is_sorted_by(|a, b| a < b));
        let all = query(&reader, EventQuery { patterns: patterns(&["a.*"]), limit: 1000, ..EventQuery::default() });
        assert_eq!(walked, ids(&all.events)[..walked.len()]);
        assert_eq!(walked.last(), all.events.last().map(|e| &e.id));

        let backwards = |before| {
            let page = query(&reader, EventQuery { before, limit: 9, ..EventQuery::default() });
            (page.events, page.has_more_before)
        };
        let (mut events, mut more) = backwards(None);
        while more {
            let (older, even_older) = backwards(events.first().map(|e| e.id));
            events.splice(0..0, older);
            more = even_older;
        }
        assert_eq!(events, query(&reader, EventQuery { limit: 1000, ..EventQuery::default() }).events);
        assert!(events.iter().all(|e| e.created_at >= Timestamp(NOON.0)));
    });
}
