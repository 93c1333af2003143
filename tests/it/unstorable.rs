//! What the store cannot hold is the affair of whoever says it: nobody else is refused, and the store is well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::databases::{database_url, execute};
use crate::support::server::metric;
use crate::support::{Backend, Server, Service, eventually, for_each_backend};

/// Classes of SQLSTATE in which the data of one statement may be at fault, with the ones of PostgreSQL itself and of
/// procedures, whose causes are anybody's guess.
const OF_DATA: [&str; 22] = [
    "0A000", "21000", "22000", "22001", "22003", "22008", "22012", "22021", "22025", "22P02", "22P05", "23000",
    "23502", "23503", "23505", "23514", "23P01", "42804", "44000", "54000", "P0001", "XX000",
];

/// Has the store refuse events called `bad.CODE`.
fn refuse_bad_events(backend: Backend, url: &str) {
    let sql = match backend {
        Backend::Sqlite => {
            "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.name LIKE 'bad.%' \
             BEGIN SELECT RAISE(ABORT, 'told to the log only'); END"
        }
        Backend::Postgres => {
            "CREATE FUNCTION event_handler.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.name LIKE 'bad.%' THEN RAISE EXCEPTION 'told to the log only' USING ERRCODE = substr(NEW.name, 5); END IF; \
             RETURN NEW; END $$; \
             CREATE TRIGGER refuse BEFORE INSERT ON event_handler.events \
             FOR EACH ROW EXECUTE FUNCTION event_handler.refuse()"
        }
    };
    execute(url, sql);
}

#[test]
fn one_clients_data_is_not_everybodys_outage() {
    for_each_backend(|backend| {
        let server = Server::builder().backend(backend).start();
        refuse_bad_events(backend, &database_url(&server.spec()));
        let done = AtomicBool::new(false);
        let good = thread::scope(|scope| {
            let publishers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        while !done.load(Ordering::Relaxed) {
                            server.publish("good", json!(count));
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            for code in OF_DATA {
                let event = json!({"event_name": format!("bad.{code}")});
                let refused = server.post("/publish", &event);
                assert_eq!(refused.error(422)["code"], "unstorable", "{code}: {}", refused.text());
                assert!(!refused.text().contains("told to"), "{}", refused.text());
                let batch = server.post("/publish/batch", json!([{"event_name": "good.batch"}, event]));
                assert_eq!(batch.error(422)["code"], "unstorable", "{code}");
                assert_eq!(server.get("/health/ready").status, 200, "{code}");
            }
            done.store(true, Ordering::Relaxed);
            publishers.into_iter().map(|publisher| publisher.join().expect("no panic")).sum::<usize>()
        });
        let mut ws = server.ws();
        let reply = ws.request(json!({"action": "publish", "event_name": "bad.22021", "id": 1}));
        assert_eq!(reply["error"]["code"], "unstorable", "{reply}");
        assert_eq!(metric(&server, "event_handler_store_up"), 1.0);
        assert_eq!(server.get("/events?limit=1").data()[0]["id"], good as i64, "all of them, and no other one");
        server.wait_for_log(|line| line["error"].as_str().is_some_and(|error| error.contains("told to the log only")));
        assert!(!server.log_text().contains("store unavailable"));
    });
}

#[test]
fn what_cannot_be_stored_of_one_service_holds_up_no_other_one() {
    let [stuck, well] = [(); 2].map(|()| Service::start());
    let server = Server::builder()
        .backend(Backend::Postgres)
        .env("AUCTION_MANAGER_URL", stuck.url())
        .env("ELIZA_URL", well.url())
        .start();
    let url = database_url(&server.spec());
    execute(
        &url,
        "CREATE FUNCTION event_handler.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'not this one' USING ERRCODE = '22021'; END $$; \
         CREATE TRIGGER refuse BEFORE UPDATE ON event_handler.deliveries FOR EACH ROW \
         WHEN (OLD.service = 1) EXECUTE FUNCTION event_handler.refuse()",
    );
    for id in 1..=5 {
        assert_eq!(server.publish("a", json!(id)), id);
    }
    stuck.wait_for(1);
    well.wait_for(5);
    eventually("the other one's deliveries are written down", || {
        let services = server.get("/health/ready").json()["checks"]["services"].take();
        let of = |name: &str| services.as_array()?.iter().find(|s| s["service"] == name)?["pending"].as_i64();
        (of("eliza") == Some(0) && of("auction-manager") == Some(5)).then_some(())
    });
    assert_eq!(server.get("/health/ready").status, 200);
    assert_eq!(server.publish("a", json!(6)), 6);
}

#[test]
fn a_zero_byte_in_a_parameter_is_the_clients_mistake() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for query in ["source=a%00b", "key=a%00b"] {
            let answer = server.get(&format!("/events?{query}"));
            assert!(answer.status < 500, "{query}: {}", answer.text());
        }
        assert_eq!(server.get("/health/ready").status, 200);
    });
}
