//! Redrives and replays.

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use serde_json::{Value, json};

use crate::databases::database_url;
use crate::services::{HASTY, deliveries, operate, start, told};
use crate::support::{Answer, Backend, Service, eventually, for_each_backend};

#[test]
fn what_is_rejected_is_dead_until_it_is_redriven() {
    for_each_backend(|backend| {
        let service = Service::answering(|_| Answer::Full(422, Vec::new(), "no such order".into()));
        let server = start(backend, &service, HASTY);
        let ids = [server.publish("order.paid", json!({})), server.publish("user.created", json!({}))];
        let dead = eventually("both are dead", || Some(deliveries(&server, "?state=dead")).filter(|d| d.len() == 2));
        assert_eq!((&dead[0]["event_id"], &dead[0]["dead_reason"]), (&json!(ids[1]), &json!("rejected")), "{dead:?}");
        assert_eq!((&dead[0]["last_error"], &dead[0]["attempts"]), (&json!("answered 422"), &json!(1)), "{dead:?}");
        let one = deliveries(&server, &format!("?event_id={}", ids[0])).remove(0);
        assert_eq!(
            (&one["state"], &one["attempt_log"][0]["answer"]),
            (&json!("dead"), &json!("no such order")),
            "{one}"
        );
        assert_eq!(server.events("?status=failed").len(), 2);

        let redrive = |body: Value| server.post("/admin/deliveries/redrive", body).data();
        let counted = redrive(json!({"service": "billing", "dry_run": true}));
        assert_eq!(
            (&counted["count"], &counted["exact"], &counted["dry_run"]),
            (&json!(2), &json!(true), &json!(true))
        );
        assert_eq!(counted["services"], json!([{"service": "billing", "count": 2, "exact": true, "job_id": null}]));
        assert_eq!(redrive(json!({"event_name": "order.*", "dry_run": true}))["count"], 1);
        assert_eq!(redrive(json!({"from": ids[1] + 1, "dry_run": true}))["count"], 0);
        assert_eq!(redrive(json!({"since": "2020-01-01T00:00:00Z", "dry_run": true}))["count"], 2);
        assert_eq!(redrive(json!({"until": "2020-01-01T00:00:00Z", "dry_run": true}))["count"], 0);
        assert_eq!(service.ids().len(), 2, "counting delivers nothing");

        service.answer(200);
        let redriven = redrive(json!({"event_id": ids[0]}));
        assert_eq!((&redriven["count"], &redriven["services"][0]["job_id"]), (&json!(1), &json!(1)), "{redriven}");
        service.wait_for_accepted(&ids[..1]);
        assert_eq!(service.ids().len(), 3, "the other one stays dead");
        assert_eq!(redrive(json!({"service": "billing"}))["count"], 1);
        service.wait_for_accepted(&ids);
        eventually("nothing is dead any more", || (told(&server)["dead"] == 0).then_some(()));
        assert_eq!(redrive(json!({"service": "billing"}))["services"], json!([]));
        let jobs = eventually("the jobs are done", || {
            let jobs = server.get("/admin/jobs").data();
            jobs.as_array().is_some_and(|jobs| jobs.iter().all(|job| job["state"] == "done")).then_some(jobs)
        });
        assert_eq!(
            (&jobs[1]["kind"], &jobs[1]["made"], &jobs[1]["service"]),
            (&json!("redrive"), &json!(1), &json!("billing"))
        );
        server.request("DELETE", "/admin/jobs/1").send().error(409);
    });
}

#[test]
fn stored_events_are_replayed() {
    for_each_backend(|backend| {
        let service = Service::start();
        let server = start(backend, &service, &[("routes", "order.>")]);
        let ids: Vec<i64> = (0..5).map(|n| server.publish("order.paid", json!(n))).collect();
        let other = server.publish("user.created", json!({}));
        let own = json!({"event_name": "order.sent", "source": "billing"});
        server.post("/publish", own).event_id();
        service.wait_for_accepted(&ids);
        let replay = |body: Value| server.post("/admin/replay", body).data();
        assert_eq!(replay(json!({"service": "billing", "from": 1, "dry_run": true}))["count"], 5);
        assert_eq!(replay(json!({"service": "billing", "from": ids[1], "to": ids[2]}))["count"], 2);
        let replayed = service.wait_for(7);
        for id in &ids[1..3] {
            let of_id: Vec<_> = replayed.iter().filter(|d| d.event_id == *id).map(|d| d.header("webhook-id")).collect();
            assert!(of_id.len() == 2 && of_id[0] == of_id[1], "it is the same delivery: {of_id:?}");
        }
        // By pattern, also what no route matches.
        assert_eq!(replay(json!({"service": "billing", "from": 1, "event_name": ["user.*"]}))["count"], 1);
        service.wait_for_accepted(&[other]);
        assert_eq!(service.ids().len(), 8, "its own event does not come back");
    });
}

#[test]
fn a_job_can_be_cancelled() {
    for_each_backend(|backend| {
        let service = Service::start();
        let server = start(backend, &service, &[("routes", "none")]);
        operate(&server, "pause");
        let events: Vec<Value> = (0..1_000).map(|n| json!({"event_name": "a", "payload": n})).collect();
        server.post("/publish/batch", json!(events)).data();
        let started = server.post("/admin/replay", json!({"service": "billing", "from": 1, "event_name": "a"})).data();
        assert_eq!(started["count"], 1_000);
        let id = started["services"][0]["job_id"].as_i64().expect("a job");
        // It goes on only as far as live traffic would not notice.
        let made =
            eventually("it waits for the service", || told(&server)["pending"].as_i64().filter(|made| *made > 0));
        assert!(made < 1_000, "{made}");
        server.request("DELETE", &format!("/admin/jobs/{id}")).send().data();
        let job = server.get("/admin/jobs?limit=1").data()[0].take();
        assert_eq!((&job["state"], &job["kind"]), (&json!("cancelled"), &json!("replay")), "{job}");
        assert_eq!(server.request("DELETE", &format!("/admin/jobs/{id}")).send().error(409)["state"], "cancelled");
        assert_eq!(server.request("DELETE", "/admin/jobs/99").send().error(404)["code"], "job_not_found");
        operate(&server, "resume");
        eventually("what was made anew is delivered", || (told(&server)["pending"] == 0).then_some(()));
        let made = server.get("/admin/jobs").data()[0]["made"].as_u64().expect("a number");
        assert_eq!(service.ids().len() as u64, made);
    });
}

#[test]
fn a_replay_that_may_have_been_started_is_said_to_be_so() {
    let service = Service::start();
    let server = start(Backend::Postgres, &service, HASTY);
    server.publish("a", json!({}));
    let mut other = PgConnection::establish(&database_url(&server.spec())).expect("connect");
    let locked = other.transaction(|other| {
        other.batch_execute("LOCK TABLE event_handler.delivery_jobs IN ACCESS EXCLUSIVE MODE")?;
        let body = json!({"service": "billing", "from": 1, "event_name": "a"});
        diesel::QueryResult::Ok(server.post("/admin/replay", body))
    });
    let refused = locked.expect("a lock");
    assert_eq!(refused.error(503)["code"], "store_unavailable");
    assert!(refused.text().contains("look at /admin/jobs"), "{}", refused.text());
}

#[test]
fn a_replay_goes_on_after_a_crash() {
    for_each_backend(|backend| {
        let service = Service::start();
        let mut server = start(backend, &service, &[("routes", "none")]);
        operate(&server, "pause");
        let events: Vec<Value> = (0..600).map(|n| json!({"event_name": "a", "payload": n})).collect();
        let first = server.post("/publish/batch", json!(events)).data()["first_id"].as_i64().expect("an id");
        server.post("/admin/replay", json!({"service": "billing", "from": 1, "event_name": "a"})).data();
        eventually("it has begun", || told(&server)["pending"].as_i64().filter(|made| *made > 0));
        server.kill9();
        server.restart();
        eventually("it is paused still", || (told(&server)["state"] == "paused").then_some(()));
        assert_eq!(service.ids(), Vec::<i64>::new());
        operate(&server, "resume");
        service.wait_for_accepted(&(first..first + 600).collect::<Vec<_>>());
        assert_eq!(service.ids().len(), 600, "each once");
        eventually("the job is done", || (server.get("/admin/jobs").data()[0]["state"] == "done").then_some(()));
    });
}
