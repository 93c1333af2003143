//! Batches of one node reach the others by Redis, and nothing that Redis does makes a node show what is not in the log.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::postgres::Postgres;
use crate::support::server::{Builder, metric};
use crate::support::tcp_proxy::{Cut, TcpProxy};
use crate::support::ws::Socket;
use crate::support::{PATIENCE, Redis, Server, eventually};

fn node(name: &str, url: &str, redis: &str) -> Builder {
    let builder = Server::builder().env("DATABASE_URL", url).env("REDIS_URL", redis).operated("sesame");
    builder.env("EVENT_HANDLER__NODE__NAME", name).env("EVENT_HANDLER__REDIS__INGEST__ENABLED", false)
}

fn details(server: &Server, kind: &str) -> Value {
    let tree = server.get("/admin/actors").data();
    let mut children = tree["children"].as_array().expect("children").iter();
    children.find(|child| child["kind"] == kind).expect("the actor")["details"].clone()
}

fn wait_for_relay(servers: &[&Server]) {
    for server in servers {
        eventually("it relays", || {
            let is_member = details(server, "membership")["members"] == servers.len();
            (is_member && details(server, "bus")["relay"]["is_connected"] == true).then_some(())
        });
    }
}

/// How many messages have come that this became of.
fn came(server: &Server, verdict: &str) -> f64 {
    metric(server, &format!("event_handler_relay_received_total{{verdict=\"{verdict}\"}} "))
}

fn subscribe(server: &Server) -> Socket {
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "a.>", "envelope": "full", "id": 1}));
    ws
}

fn publish(server: &Server, payload: impl Into<Value>) -> i64 {
    server.publish("a.b", payload.into())
}

fn received(ws: &mut Socket) -> (i64, Value) {
    let mut frame = ws.recv_json();
    (frame["id"].as_i64().expect("an id"), frame["payload"].take())
}

/// Ends the sessions that wait for notifications, until it is dropped.
struct Deaf(Option<thread::JoinHandle<()>>, std::sync::mpsc::Sender<()>);

impl Deaf {
    fn make(url: &str) -> Self {
        const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
        let mut database = PgConnection::establish(url).expect("a connection");
        database.batch_execute(END).expect("they end");
        let (end, ends) = channel();
        let thread = thread::spawn(move || {
            while ends.recv_timeout(Duration::from_millis(5)).is_err() {
                if database.batch_execute(END).is_err() {
                    return;
                }
            }
        });
        Self(Some(thread), end)
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        let _ = self.1.send(());
        let _ = self.0.take().map(thread::JoinHandle::join);
    }
}

/// Two nodes, each with a Redis of its own. What `a` sends is in the hands of the test, which gives it to `b` or not.
struct Split {
    url: String,
    a: Server,
    b: Server,
    _redis: [Redis; 2],
    sent: Receiver<(String, Vec<u8>)>,
    to: redis::Connection,
}

impl Split {
    fn start(postgres: &Postgres) -> Self {
        let url = postgres.url();
        let redis = [Redis::start(), Redis::start()];
        let nodes = ["a", "b"].into_iter().zip(&redis).map(|(name, redis)| node(name, &url, &redis.url()).start());
        let [a, b] = nodes.collect::<Vec<_>>().try_into().unwrap_or_else(|_| unreachable!("two"));
        let connect =
            |redis: &Redis| redis::Client::open(redis.url()).expect("a URL").get_connection().expect("a connection");
        let (tell, sent) = channel();
        let mut from = connect(&redis[0]);
        let (ready, is_ready) = channel();
        thread::spawn(move || {
            let mut from = from.as_pubsub();
            from.psubscribe("event-handler:*:relay").expect("subscribed");
            ready.send(()).expect("waited for");
            while let Ok(message) = from.get_message() {
                if tell.send((message.get_channel_name().to_owned(), message.get_payload_bytes().to_vec())).is_err() {
                    return;
                }
            }
        });
        is_ready.recv_timeout(PATIENCE).expect("subscribed");
        wait_for_relay(&[&a, &b]);
        Self { url, a, b, to: connect(&redis[1]), _redis: redis, sent }
    }

    /// An event of `a`, and the message with it.
    fn publish(&self, payload: impl Into<Value>) -> (i64, (String, Vec<u8>)) {
        (publish(&self.a, payload), self.sent.recv_timeout(PATIENCE).expect("it is sent"))
    }

    fn give(&mut self, (channel, message): &(String, Vec<u8>)) {
        let heard: i64 = redis::cmd("PUBLISH").arg(channel).arg(message).query(&mut self.to).expect("published");
        assert_eq!(heard, 1, "b listens on {channel}");
    }
}

#[test]
fn batches_come_by_redis_without_a_look_at_the_store() {
    let (postgres, redis) = (Postgres::shared(), Redis::start());
    let url = postgres.url();
    let [a, b] = ["a", "b"].map(|name| node(name, &url, &redis.url()).start());
    wait_for_relay(&[&a, &b]);
    let mut ws = subscribe(&b);
    for n in 1..=20 {
        let id = publish(&a, n);
        assert_eq!(received(&mut ws), (id, json!(n)));
        // The look that is made every second may have been quicker now and then.
        assert!(came(&b, "taken") >= f64::from(n) / 2.0, "{} of {n}", came(&b, "taken"));
    }
    let gaps = metric(&b, "event_handler_shard_gaps_total ");
    assert!(gaps <= 20.0 - came(&b, "taken"), "{gaps}: only what did not come was read");
    assert_eq!((came(&a, "taken"), came(&a, "unproven"), came(&b, "unproven")), (0.0, 0.0, 0.0));
    eventually("own ones come back and are known", || (came(&a, "known") >= 20.0).then_some(()));
    // The same without notifications.
    let (before, _deaf) = (came(&b, "taken"), Deaf::make(&url));
    for n in 1..=20 {
        let id = publish(&a, n);
        assert_eq!(received(&mut ws), (id, json!(n)));
    }
    assert!(came(&b, "taken") >= before + 10.0);
    // One that is too large is a hint.
    let before = came(&b, "hint");
    eventually("one is told as a hint", || {
        let large = "x".repeat(300 * 1024);
        let id = publish(&a, &*large);
        assert_eq!(received(&mut ws), (id, json!(large)));
        (came(&b, "hint") > before).then_some(())
    });
}

#[test]
fn what_comes_out_of_order_twice_or_not_at_all_is_shown_in_order_and_once() {
    let mut split = Split::start(Postgres::shared());
    let _deaf = Deaf::make(&split.url);
    let mut ws = subscribe(&split.b);
    let mut n = 0;
    let mut next = |split: &Split| {
        n += 1;
        let (id, message) = split.publish(n);
        ((id, json!(n)), message)
    };
    eventually("a pair in the wrong order is taken", || {
        let (taken, gaps) = (came(&split.b, "taken"), came(&split.b, "gap"));
        let ((first, one), (second, two)) = (next(&split), next(&split));
        split.give(&two);
        split.give(&one);
        split.give(&one);
        assert_eq!([received(&mut ws), received(&mut ws)], [first, second]);
        (came(&split.b, "taken") == taken + 2.0 && came(&split.b, "gap") == gaps).then_some(())
    });
    assert!(came(&split.b, "known") >= 1.0, "what comes twice");
    let gaps = came(&split.b, "gap");
    eventually("one that is missing is noticed by the next", || {
        let ((first, _), (second, two)) = (next(&split), next(&split));
        split.give(&two);
        assert_eq!([received(&mut ws), received(&mut ws)], [first, second]);
        (came(&split.b, "gap") > gaps).then_some(())
    });
    eventually("and the next one is taken again", || {
        let taken = came(&split.b, "taken");
        let (event, message) = next(&split);
        split.give(&message);
        assert_eq!(received(&mut ws), event);
        (came(&split.b, "taken") > taken).then_some(())
    });
    assert_eq!(came(&split.b, "unproven"), 0.0);
}

#[test]
fn what_no_node_has_said_is_not_shown() {
    let mut split = Split::start(Postgres::shared());
    let _deaf = Deaf::make(&split.url);
    let mut ws = subscribe(&split.b);
    for n in 1..=5 {
        let (id, (channel, message)) = split.publish("genuine");
        let text = String::from_utf8(message.clone()).expect("text");
        let (head, _) = text.split_once('\n').expect("a head");
        let forged = text.replace("genuine", "forgery");
        assert_ne!(forged, text);
        let beyond = head.replacen(&format!("{} {id}", id - 1), &format!("{id} {}", id + 1), 1);
        let unsealed = format!("1 {} {id} \n[[0,\"a.b\",\"1\",\"s\",1,null,null,null]]", id - 1);
        for said in [&*forged, &*text.replacen(head, &beyond, 1), &*unsealed, head, "", "1", "\n"] {
            split.give(&(channel.clone(), said.as_bytes().to_vec()));
        }
        assert_eq!(received(&mut ws), (id, json!("genuine")));
        assert!(came(&split.b, "unproven") >= f64::from(n));
        assert_eq!(split.b.get("/events").header("event-log"), split.a.get("/events").header("event-log"));
    }
    assert_eq!(came(&split.b, "taken"), 0.0);
    let reply = split.b.ws().request(json!({"action": "subscribe", "event_name": "a.>", "id": 1}));
    assert_eq!(reply["last_id"], split.b.events("?order=desc&limit=1")[0]["id"]);
}

/// A batch that was committed, and is gone with the server that had it, is still on its way.
#[test]
fn what_a_database_that_was_set_back_has_lost_is_not_shown_any_more() {
    let postgres = Postgres::start();
    let mut split = Split::start(&postgres);
    let mut ws = subscribe(&split.b);
    assert_eq!((publish(&split.a, "kept"), json!("kept")), received(&mut ws));
    postgres.back_up();
    split.sent.recv_timeout(PATIENCE).expect("it is sent");
    split.b.signal(Signal::STOP);
    let (lost, message) = split.publish("lost");
    split.a.kill9();
    postgres.set_back();
    split.b.signal(Signal::CONT);
    let is_well = |line: &Value| line["msg"] == "store ready";
    eventually("b has found the database that is there now", || {
        let ready =
            split.b.log_text().lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_well).count();
        (ready >= 2).then_some(())
    });
    split.give(&message);
    eventually("it is not taken", || (came(&split.b, "unproven") + came(&split.b, "taken") >= 1.0).then_some(()));
    assert_eq!(came(&split.b, "taken"), 0.0);
    let id = publish(&split.b, "new");
    assert_eq!((id, received(&mut ws)), (lost, (id, json!("new"))), "nobody has seen what was lost");
}

#[test]
fn redis_may_go_and_hang_and_come_back() {
    let (postgres, mut redis) = (Postgres::shared(), Redis::start());
    let url = postgres.url();
    let upstream = format!("127.0.0.1:{}", redis.port()).parse().expect("an address");
    let links = [TcpProxy::to(upstream), TcpProxy::to(upstream)];
    let [a, b] = [("a", &links[0]), ("b", &links[1])]
        .map(|(name, link)| node(name, &url, &format!("redis://{}", link.addr())).start());
    wait_for_relay(&[&a, &b]);
    let mut ws = subscribe(&b);
    let mut check = |what: &str, is_relayed: bool| {
        let before = came(&b, "taken");
        for n in 0..10 {
            let begin = Instant::now();
            let id = publish(&a, n);
            assert_eq!(received(&mut ws), (id, json!(n)), "{what}");
            assert!(begin.elapsed() < Duration::from_secs(2), "{what}: {:?}", begin.elapsed());
        }
        let is_relayed_now = came(&b, "taken") > before;
        assert!(is_relayed_now || !is_relayed, "{what}: it is relayed");
        is_relayed_now
    };
    check("at first", true);
    redis.kill();
    check("redis is gone", false);
    redis.start_again();
    wait_for_relay(&[&a, &b]);
    check("redis is back", true);
    redis.signal(Signal::STOP);
    check("redis hangs", false);
    redis.signal(Signal::CONT);
    eventually("redis goes on", || check("it goes on", false).then_some(()));
    redis.run::<()>(&["FLUSHALL"]);
    check("redis was flushed", true);
    for link in &links {
        link.cut(Cut::Rst);
        check("a node is cut off", false);
        link.heal();
        wait_for_relay(&[&a, &b]);
        check("it is back", true);
        link.swallow();
        check("it is cut off without a word", false);
        link.heal();
        eventually("it is back again", || check("it goes on", false).then_some(()));
    }
}
