//! Calls on both backends: what is made, begun, settled, cancelled, and told.

use std::time::Duration;

use super::{NOON, on_both, run, single};
use crate::domain::call::{CallEnd, CallHistory, CallId, CallKind, CallPolicy, Method};
use crate::domain::event::Timestamp;
use crate::domain::priority::Lane;
use crate::domain::routes::Routes;
use crate::storage::{CallOutcome, CallRequest, CallSettled, ClaimedCall, EndedCall, NewCall, Reader, Write, Writer};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn call(service: i16, owner: &str, tag: &str) -> NewCall {
    let policy = CallPolicy {
        kind: CallKind::Compensation { done: vec![404] },
        max_attempts: 20,
        retry_base: SECOND,
        retry_cap: Duration::from_millis(2_500),
    };
    NewCall {
        service,
        owner: owner.to_owned(),
        tag: tag.to_owned(),
        lane: Lane::High,
        key: Some("auction/a1".to_owned()),
        request: CallRequest {
            method: Method::Post,
            path: "/transfers?dry=\u{e4}".to_owned(),
            headers: vec![("Saga-Id".to_owned(), "s \"1\"".to_owned())],
            body: Some(r#"{"n": 1e400}"#.to_owned()),
            idempotency_key: format!("saga/{owner}/{tag}"),
        },
        policy,
        due_at: NOON,
        expires_at: Some(NOON.plus(SECOND * 60)),
        is_begun: false,
    }
}

fn write(writer: &mut Writer, writes: Vec<Write>) {
    writer.commit(&mut writes.into(), &Routes::default(), NOON).expect("stored");
}

fn due(reader: &Reader, now: Timestamp) -> Vec<ClaimedCall> {
    run(reader.due_calls(1, now, Default::default(), 100)).expect("calls")
}

fn tags(claimed: &[ClaimedCall]) -> Vec<&str> {
    claimed.iter().map(|claimed| claimed.call.tag.as_str()).collect()
}

fn ended(reader: &Reader, after: i64) -> Vec<EndedCall> {
    run(reader.ended_calls(after, 100)).expect("ended calls")
}

fn outcome(id: CallId, settled: CallSettled) -> CallOutcome {
    CallOutcome {
        id,
        history: CallHistory { attempts: 1, may_be_done: false },
        finished_at: NOON.plus(SECOND),
        http_status: Some(201),
        error: Some("why".to_owned()),
        settled,
    }
}

fn done(id: CallId) -> CallOutcome {
    outcome(id, CallSettled::Ended { end: CallEnd::Done, answer: Some("{\"a\": 1.0}".to_owned()) })
}

#[test]
fn a_call_is_there_as_it_was_made_until_it_has_ended() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let later = NewCall { due_at: NOON.plus(SECOND), ..call(1, "s1", "later") };
        let made = vec![call(1, "s1", "a"), call(2, "s1", "elsewhere"), later.clone(), call(1, "s2", "b")];
        write(&mut writer, vec![Write::MakeCalls(made), Write::Append(single("beside"))]);
        let claimed = due(&reader, NOON);
        assert_eq!(tags(&claimed), ["a", "b"]);
        assert_eq!((&claimed[0].call, claimed[0].history), (&call(1, "s1", "a"), CallHistory::default()));
        assert_eq!(run(reader.next_due_call(1, NOON)), Ok(Some(later.due_at)));
        assert_eq!(run(reader.open_calls(1)), Ok(3));
        let all = due(&reader, later.due_at);
        assert_eq!((tags(&all), &all[2].call), (vec!["a", "b", "later"], &later));
        let after = run(reader.due_calls(1, later.due_at, (NOON, all[0].id), 1)).expect("calls");
        assert_eq!(tags(&after), ["b"], "a page goes on after a call of the same time");

        let again = outcome(all[0].id, CallSettled::Again(NOON.plus(SECOND * 5)));
        write(&mut writer, vec![Write::SettleCalls(vec![done(all[2].id), again, done(all[1].id)])]);
        assert_eq!(due(&reader, NOON.plus(SECOND * 4)), []);
        assert_eq!(due(&reader, NOON.plus(SECOND * 5))[0].history, CallHistory { attempts: 1, may_be_done: false });
        let told = ended(&reader, 0);
        assert_eq!(
            told.iter().map(|told| (told.place, told.tag.as_str())).collect::<Vec<_>>(),
            [(1, "later"), (2, "b")]
        );
        let expected = EndedCall {
            place: 1,
            id: all[2].id,
            owner: "s1".to_owned(),
            tag: "later".to_owned(),
            end: CallEnd::Done,
            attempts: 1,
            http_status: Some(201),
            answer: Some("{\"a\": 1.0}".to_owned()),
            error: Some("why".to_owned()),
            ended_at: NOON.plus(SECOND),
        };
        assert_eq!(told[0], expected);
        assert_eq!(ended(&reader, 1).len(), 1);
    });
}

#[test]
fn what_was_begun_may_be_done_whatever_happens_then() {
    on_both(|store| {
        let reader = store.reader();
        write(&mut store.writer(), vec![Write::MakeCalls(vec![call(1, "s", "sent"), call(1, "s", "not")])]);
        let id = due(&reader, NOON)[0].id;
        write(&mut store.writer(), vec![Write::BeginCalls(vec![id])]);
        // Another process finds them.
        let found: Vec<bool> = due(&reader, NOON).iter().map(|claimed| claimed.history.may_be_done).collect();
        assert_eq!(found, [true, false]);
        let not_sent = CallOutcome { history: CallHistory::default(), ..outcome(id, CallSettled::Again(NOON)) };
        write(&mut store.writer(), vec![Write::SettleCalls(vec![not_sent])]);
        assert!(!due(&reader, NOON)[0].history.may_be_done, "its end is known, and it was not sent");
    });
}

#[test]
fn a_call_that_has_ended_or_was_cancelled_stays_so() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        write(&mut writer, vec![Write::MakeCalls(vec![call(1, "s", "a"), call(1, "s", "b"), call(1, "t", "c")])]);
        let ids: Vec<CallId> = due(&reader, NOON).iter().map(|claimed| claimed.id).collect();
        write(&mut writer, vec![Write::SettleCalls(vec![done(ids[0])])]);
        let refused = outcome(ids[0], CallSettled::Ended { end: CallEnd::Refused, answer: None });
        let again = outcome(ids[0], CallSettled::Again(NOON));
        let writes = vec![
            Write::CancelCalls { owner: "s".to_owned(), tag: None },
            Write::BeginCalls(vec![ids[0], ids[1]]),
            Write::SettleCalls(vec![refused, again, done(ids[1])]),
        ];
        write(&mut writer, writes);
        let told = ended(&reader, 0);
        assert_eq!((told.len(), told[0].end), (1, CallEnd::Done));
        assert_eq!(tags(&due(&reader, NOON)), ["c"]);
    });
}

#[test]
fn places_are_not_given_out_again_and_a_call_can_be_hurried() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let late = |owner| NewCall { due_at: NOON.plus(SECOND * 9), ..call(1, owner, "late") };
        write(&mut writer, vec![Write::MakeCalls(vec![late("s"), late("t")])]);
        assert!(due(&reader, NOON).is_empty());
        write(&mut writer, vec![Write::HurryCalls { owner: "s".to_owned() }]);
        let hurried = due(&reader, NOON);
        assert_eq!(hurried.len(), 1);
        write(&mut writer, vec![Write::SettleCalls(vec![done(hurried[0].id)]), Write::ForgetCalls { through: 1 }]);
        assert_eq!(ended(&reader, 0), []);
        let id = due(&reader, NOON.plus(SECOND * 9))[0].id;
        write(&mut store.writer(), vec![Write::SettleCalls(vec![done(id)])]);
        assert_eq!(ended(&reader, 1).iter().map(|told| told.place).collect::<Vec<_>>(), [2]);
    });
}

#[test]
fn of_the_outcomes_of_a_call_the_first_end_counts() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        write(&mut writer, vec![Write::MakeCalls(vec![call(1, "s", "a"), call(1, "s", "b")])]);
        let ids: Vec<CallId> = due(&reader, NOON).iter().map(|claimed| claimed.id).collect();
        let again = |id| outcome(id, CallSettled::Again(NOON.plus(SECOND)));
        let refused = outcome(ids[1], CallSettled::Ended { end: CallEnd::Refused, answer: None });
        write(
            &mut writer,
            vec![Write::SettleCalls(vec![again(ids[1]), done(ids[1]), refused, again(ids[0]), again(99)])],
        );
        let told = ended(&reader, 0);
        assert_eq!((told.len(), told[0].place, told[0].end, told[0].tag.as_str()), (1, 1, CallEnd::Done, "b"));
        assert!(due(&reader, NOON).is_empty());
        let waiting = due(&reader, NOON.plus(SECOND));
        assert_eq!((tags(&waiting), &waiting[0].call.request), (vec!["a"], &call(1, "s", "a").request));
    });
}
