//! What operators say to instances of sagas.

use serde_json::{Value, json};

use crate::sagas_api::{becomes, begun, ids, say, shown, start};
use crate::support::{Server, eventually, for_each_backend};

/// A new instance in each of these states.
fn in_state(server: &Server, state: &str, n: i64) -> String {
    let live = |id: i64, state: &str| {
        let id = begun(server, "pay", id);
        becomes(server, &id, state);
        id
    };
    match state {
        "waiting" => live(n, "waiting"),
        "running" => {
            let id = live(100 + n, "running");
            eventually("its second call is under way", || {
                Some(()).filter(|()| shown(server, &id)["waiting_for"][0]["step"] == "settle")
            });
            id
        }
        "needs_operator" => live(200 + n, "needs_operator"),
        "paused" => {
            let id = live(n, "waiting");
            assert_eq!(say(server, &id, "pause").data()["paused"], true);
            id
        }
        "completed" => {
            let id = live(n, "waiting");
            server.publish("settled.now", json!({ "id": n }));
            becomes(server, &id, "completed");
            id
        }
        "compensated" => {
            let id = live(n, "waiting");
            say(server, &id, "compensate").data();
            becomes(server, &id, "compensated");
            id
        }
        "queued" => {
            let value = format!("{n}");
            begun(server, "line", &*value);
            server.publish("line.made", json!({ "id": value }));
            eventually("it is queued", || {
                let found = server.get(&format!("/sagas?state=queued&correlation=%22{n}%22")).data();
                Some(ids(&found).first()?.to_string())
            })
        }
        other => panic!("{other} is not made here"),
    }
}

#[test]
fn each_verb_is_for_some_states_and_a_conflict_in_all_others() {
    const VERBS: [&str; 6] = ["retry", "skip", "compensate", "abort", "pause", "resume"];
    for_each_backend(|backend| {
        let (_bank, server) = start(backend);
        let mut n = 0;
        for (state, fit) in [
            ("waiting", &["compensate", "abort", "pause"][..]),
            ("running", &["retry", "compensate", "abort", "pause"]),
            ("needs_operator", &["retry", "skip", "compensate", "abort", "pause"]),
            ("paused", &["compensate", "abort", "resume"]),
            ("queued", &["abort", "pause"]),
            ("completed", &[]),
            ("compensated", &[]),
        ] {
            let mut instance = None;
            for verb in VERBS {
                // What has taken an order is another one then.
                let id = instance.take().unwrap_or_else(|| {
                    n += 1;
                    in_state(&server, state, n)
                });
                let answer = say(&server, &id, verb);
                if fit.contains(&verb) {
                    assert_eq!((answer.status, &answer.data()["id"]), (200, &json!(id)), "{verb} of {state}");
                    continue;
                }
                let error = answer.error(409);
                let shown = if state == "paused" { "waiting" } else { state };
                assert_eq!((&error["code"], &error["state"]), (&json!("saga_state"), &json!(shown)), "{verb}");
                instance = Some(id);
            }
        }
    });
}

#[test]
fn what_operators_say_is_done_with_its_reason() {
    for_each_backend(|backend| {
        let (bank, server) = start(backend);
        let id = in_state(&server, "needs_operator", 1);
        let stuck = shown(&server, &id);
        let wait = json!([{ "step": "settle", "for": "operator", "event": null, "until": null }]);
        assert_eq!((&stuck["waiting_for"], &stuck["steps"][1]["state"]), (&wait, &json!("failed")), "{stuck}");
        let skipped = server.post(&format!("/sagas/{id}/skip"), r#"{"reason":"paid by hand","result":{"n":17}}"#);
        assert_eq!(skipped.status, 200, "{}", skipped.text());
        let ended = becomes(&server, &id, "completed");
        let said = ended["journal"].as_array().expect("a list").iter().find(|line| line["kind"] == "decided");
        let said = said.expect("it is in the journal");
        assert_eq!(
            [&said["verb"], &said["reason"], &said["steps"][0], &said["result"]["n"]],
            [&json!("skip"), &json!("paid by hand"), &json!("settle"), &json!(17)]
        );
        let paid = server.events("?event_name=order.paid");
        assert_eq!(paid[0]["payload"], json!({ "id": 201, "receipt": { "n": 17 } }));

        let id = in_state(&server, "needs_operator", 2);
        bank.answer(200);
        say(&server, &id, "retry").data();
        becomes(&server, &id, "waiting");
        let calls = bank.deliveries();
        let keys: Vec<_> = calls
            .iter()
            .filter(|call| call.path == "/settle" && call.json()["order"] == 202)
            .map(|call| call.header("idempotency-key").map(str::to_owned))
            .collect();
        assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");

        say(&server, &id, "compensate").data();
        becomes(&server, &id, "compensated");
        let told: Vec<Value> =
            server.events("?event_name=$sys.saga.compensating").iter().map(|event| event["payload"].clone()).collect();
        assert!(told.iter().any(|told| told["saga_id"] == *id && told["reason"].as_str().is_some_and(|why| why.contains("a test"))), "{told:?}");
        let logged = server.wait_for_log(|line| line["verb"] == "compensate" && line["id"] == *id);
        assert_eq!(logged["reason"], "a test");
        for (body, status, code) in [
            ("{}", 422, "missing_field"),
            (r#"{"reason":""}"#, 422, "invalid_field"),
            (r#"{"reason":"x","result":1}"#, 422, "unknown_field"),
            ("[", 400, "malformed_json"),
        ] {
            assert_eq!(server.post(&format!("/sagas/{id}/retry"), body).error(status)["code"], code, "{body}");
        }
        assert_eq!(say(&server, "none", "retry").error(404)["code"], "saga_not_found");
        assert_eq!(say(&server, "0190a000-0000-7000-8000-000000000000", "abort").error(404)["code"], "saga_not_found");
        assert_eq!(say(&server, &id, "undo").error(404)["known"][0], "retry");
        let long = json!({ "reason": "x", "result": "x".repeat(70_000) });
        assert_eq!(server.post(&format!("/sagas/{id}/skip"), long).error(413)["code"], "body_too_large");
    });
}

#[test]
fn many_are_told_the_same_and_first_counted() {
    for_each_backend(|backend| {
        let (_bank, server) = start(backend);
        let stuck: Vec<String> = (1..=3).map(|n| in_state(&server, "needs_operator", n)).collect();
        let waiting: Vec<String> = (1..=4).map(|n| in_state(&server, "waiting", n)).collect();
        let done = in_state(&server, "completed", 9);
        let tell = |verb: &str, body: Value| server.post(&format!("/admin/sagas/{verb}"), body);
        let counted = |count: i64, unfit: i64| json!({ "dry_run": true, "count": count, "unfit": unfit, "next": null });
        let dry = |verb: &str, filter: Value| {
            let mut body = json!({ "reason": "drill", "dry_run": true });
            body.as_object_mut().expect("an object").extend(filter.as_object().expect("an object").clone());
            tell(verb, body).data()
        };
        assert_eq!(dry("skip", json!({ "name": "pay" })), counted(3, 4));
        assert_eq!(dry("abort", json!({ "name": "pay" })), counted(7, 0));
        assert_eq!(dry("abort", json!({ "correlation": 2 })), counted(1, 0));
        assert_eq!(dry("pause", json!({ "name": "pay", "state": "waiting" })), counted(4, 0));
        assert_eq!(dry("abort", json!({ "state": "completed" })), counted(0, 1));
        assert_eq!(dry("abort", json!({ "started_before": "2001-01-01T00:00:00Z" })), counted(0, 0));
        assert!(stuck.iter().all(|id| shown(&server, id)["state"] == "needs_operator"));

        let first = tell("pause", json!({ "name": "pay", "state": "waiting", "limit": 3, "reason": "audit" })).data();
        assert_eq!((&first["count"], &first["next"]), (&json!(3), &json!(waiting[1])), "{first}");
        let rest = json!({ "name": "pay", "state": "waiting", "limit": 3, "reason": "audit", "after": first["next"] });
        let rest = tell("pause", rest).data();
        assert_eq!((&rest["count"], &rest["unfit"], &rest["next"]), (&json!(1), &json!(0), &Value::Null), "{rest}");
        assert!(waiting.iter().all(|id| shown(&server, id)["paused"] == true));

        let ended = tell("abort", json!({ "name": "pay", "reason": "over" })).data();
        assert_eq!((&ended["count"], &ended["unfit"]), (&json!(7), &json!(0)), "{ended}");
        let all = [&stuck[..], &waiting[..]].concat();
        assert!(all.iter().all(|id| shown(&server, id)["state"] == "aborted"));
        assert_eq!(shown(&server, &done)["state"], "completed");
        for (verb, body, status, code) in [
            ("abort", json!({ "reason": "x" }), 422, "missing_field"),
            ("abort", json!({ "name": "pay" }), 422, "missing_field"),
            ("abort", json!({ "name": "pay", "reason": "x", "state": "none" }), 422, "invalid_field"),
            ("abort", json!({ "name": "pay", "reason": "x", "limit": 10_001 }), 422, "invalid_field"),
            ("begin", json!({ "name": "pay", "reason": "x" }), 404, "not_found"),
        ] {
            assert_eq!(tell(verb, body.clone()).error(status)["code"], code, "{verb} {body}");
        }
    });
}
