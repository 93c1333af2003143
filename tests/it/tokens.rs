//! Who may do what, with tokens.

use std::time::{Duration, SystemTime};

use event_handler::domain::event::Timestamp;
use serde_json::{Value, json};

use crate::support::http::{Request, Response};
use crate::support::server::metric;
use crate::support::tokens::{bearer, token};
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, for_each_backend};

const ALL: &str = r#"scopes = { publish = [">"], subscribe = [">", "$sys.>"], read = [">"] }"#;
const ORDERS: &str = r#"scopes = { publish = ["order.>"], subscribe = ["order.*"], read = ["order.>"] }"#;
const NOTHING: &str = "";
const ADMIN: &str = "scopes = { admin = true }";

fn server() -> Server {
    let tokens = [("all", ALL), ("orders", ORDERS), ("nothing", NOTHING), ("admin", ADMIN)];
    Server::builder().backend(Backend::Sqlite).tokens(&tokens, "").start()
}

fn request(server: &Server, method: &str, path: &str, who: &str) -> Request {
    server.request(method, path).header("Authorization", &bearer(who))
}

fn publish(server: &Server, who: &str, name: &str) -> Response {
    request(server, "POST", "/publish", who).json(json!({ "event_name": name })).send()
}

fn socket(server: &Server, who: &str) -> Socket {
    Socket::connect(server.addr(), "/ws", &[("Authorization", &bearer(who))]).expect("a good token")
}

fn close_code(socket: &mut Socket) -> u16 {
    socket.recv_close().0.expect("a close frame").code.into()
}

#[test]
fn nobody_gets_in_without_a_token() {
    let server = server();
    let paths = [
        ("POST", "/publish"),
        ("POST", "/publish/batch"),
        ("GET", "/events"),
        ("GET", "/events/1"),
        ("GET", "/events/1/trace"),
        ("GET", "/schedules"),
        ("DELETE", "/schedules/0190b0a0-0000-7000-8000-000000000000"),
        ("GET", "/admin/actors"),
        ("GET", "/admin/tokens"),
    ];
    for (method, path) in paths {
        for header in [None, Some("Bearer eh_made-up"), Some("Bearer"), Some("Basic YTpi")] {
            let request = server.request(method, path);
            let request = if let Some(header) = header { request.header("Authorization", header) } else { request };
            let answer = request.send();
            assert_eq!(answer.error(401)["code"], "unauthorized", "{method} {path} {header:?}");
            assert!(answer.header("www-authenticate").is_some_and(|v| v.starts_with("Bearer")), "{path}");
        }
    }
    assert_eq!(Socket::connect(server.addr(), "/ws", &[]).err().map(|refused| refused.status), Some(401));
    for open in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
}

#[test]
fn publishing_is_for_the_names_that_were_granted() {
    let server = server();
    assert_eq!(publish(&server, "orders", "order.made").status, 200);
    let refused = publish(&server, "orders", "user.created");
    let error = refused.error(403);
    assert_eq!(
        (&error["code"], &error["scope"], &error["event_name"]),
        (&json!("forbidden"), &json!("publish"), &json!("user.created"))
    );
    publish(&server, "nothing", "order.made").error(403);
    publish(&server, "admin", "order.made").error(403);

    let batch = json!([{ "event_name": "order.a" }, { "event_name": "user.b" }]);
    let error = request(&server, "POST", "/publish/batch", "orders").json(&batch).send().error(403);
    assert_eq!((&error["index"], &error["event_name"]), (&json!(1), &json!("user.b")));
    let event = json!({ "specversion": "1.0", "id": "1", "source": "s", "type": "user.c" });
    let cloud = request(&server, "POST", "/publish", "orders").header("Content-Type", "application/cloudevents+json");
    cloud.body(event.to_string()).send().error(403);
    let binary = request(&server, "POST", "/publish", "orders").header("ce-specversion", "1.0").header("ce-id", "1");
    binary.header("ce-source", "s").header("ce-type", "user.c").send().error(403);
    let later = json!({ "event_name": "user.d", "deliver_at": "2999-01-01T00:00:00Z" });
    request(&server, "POST", "/publish", "orders").json(&later).send().error(403);

    let stored = request(&server, "GET", "/events", "all").send().data();
    let names: Vec<_> = stored.as_array().expect("a list").iter().map(|event| event["event_name"].clone()).collect();
    assert_eq!(names, ["order.made"], "nothing of what was refused was stored");
}

#[test]
fn reading_shows_what_was_granted() {
    let server = server();
    let ids = ["order.a", "user.b", "order.c"].map(|name| publish(&server, "all", name).event_id());
    let get = |path: &str, who: &str| request(&server, "GET", path, who).send();
    let names = |path: &str, who: &str| -> Vec<String> {
        let data = get(path, who).data();
        data.as_array().expect("a list").iter().map(|e| e["event_name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("/events", "all"), ["order.a", "user.b", "order.c"]);
    assert_eq!(names("/events", "orders"), ["order.a", "order.c"]);
    assert_eq!(names("/events?limit=1&after=1", "orders"), ["order.c"]);
    assert_eq!(names("/events?event_name=order.*", "orders"), ["order.a", "order.c"]);
    for beyond in ["user.b", "%3E", "*.a", "order.%3E&event_name=user.b", "$sys.%3E"] {
        assert_eq!(get(&format!("/events?event_name={beyond}"), "orders").error(403)["scope"], "read", "{beyond}");
    }
    get("/events", "nothing").error(403);
    assert_eq!(get(&format!("/events/{}", ids[0]), "orders").data()["event_name"], "order.a");
    for path in [format!("/events/{}", ids[1]), format!("/events/{}/trace", ids[1]), "/events/99".into()] {
        assert_eq!(get(&path, "orders").error(404)["code"], "event_not_found", "{path}: as if it were not there");
    }
    get(&format!("/events/{}/trace", ids[0]), "orders").data();
}

#[test]
fn schedules_are_for_those_who_may_publish_and_read_them() {
    let server = server();
    let schedule = |name: &str| {
        let later = json!({ "event_name": name, "deliver_at": "2999-01-01T00:00:00Z" });
        let data = request(&server, "POST", "/publish", "all").json(&later).send().data();
        data["schedule_id"].as_str().expect("an id").to_owned()
    };
    let (order, user) = (schedule("order.a"), schedule("user.b"));
    let listed = request(&server, "GET", "/schedules", "orders").send().data();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert!(listed.to_string().contains(&order));
    request(&server, "GET", "/schedules", "nothing").send().error(403);
    let cancel = |id: &str, who: &str| request(&server, "DELETE", &format!("/schedules/{id}"), who).send();
    // What it may neither publish nor read does not exist for it.
    for (id, who) in [(&user, "orders"), (&order, "nothing")] {
        let refused = cancel(id, who);
        assert!(!refused.text().contains("user.b") && !refused.text().contains("order.a"), "{}", refused.text());
        refused.error(404);
    }
    assert_eq!(cancel(&order, "orders").status, 200);
    cancel(&order, "orders").error(404);
    assert_eq!(cancel(&user, "all").status, 200);
}

#[test]
fn a_session_may_do_what_its_token_grants() {
    let server = server();
    let mut orders = socket(&server, "orders");
    assert_eq!(orders.request(json!({"action": "subscribe", "event_name": "order.*", "id": 1}))["type"], "subscribed");
    for beyond in ["order.>", "user.created", ">", "*.made", "$sys.>"] {
        let reply = orders.request(json!({"action": "subscribe", "event_name": beyond, "id": 2}));
        assert_eq!(reply["error"]["code"], "forbidden", "{beyond}: {reply}");
        assert_eq!((&reply["error"]["scope"], &reply["error"]["event_name"]), (&json!("subscribe"), &json!(beyond)));
    }
    let refused = orders.request(json!({"action": "publish", "event_name": "user.created", "id": 3}));
    assert_eq!(refused["error"]["code"], "forbidden");
    publish(&server, "all", "user.created");
    publish(&server, "all", "order.made");
    assert_eq!(orders.recv_json(), json!({"event_name": "order.made", "payload": {}}), "still open, and nothing else");
    orders.send(json!({"action": "publish", "event_name": "order.made", "payload": 2}));
    assert_eq!(orders.recv_json()["payload"], 2);
    for useless in ["nothing", "admin"] {
        let refused = Socket::connect(server.addr(), "/ws", &[("Authorization", &bearer(useless))]).err();
        assert_eq!(refused.map(|refused| refused.status), Some(403), "{useless}");
    }
}

#[test]
fn a_browser_sends_its_token_as_a_subprotocol_or_a_parameter() {
    let server = server();
    let origin = format!("http://{}", server.addr());
    let parameter = format!("/ws?access_token={}", token("orders"));
    let offered = format!("bearer.{}", token("orders"));
    let both = format!("event-handler.v1, {offered}");
    for (path, headers) in [
        (parameter.as_str(), vec![]),
        ("/ws", vec![("Sec-WebSocket-Protocol", offered.as_str())]),
        ("/ws", vec![("Sec-WebSocket-Protocol", both.as_str()), ("Origin", origin.as_str())]),
    ] {
        let mut socket = Socket::connect(server.addr(), path, &headers).unwrap_or_else(|r| panic!("{path}: {r:?}"));
        let reply = socket.request(json!({"action": "subscribe", "event_name": "order.*", "id": 1}));
        assert_eq!(reply["type"], "subscribed", "{path} {headers:?}");
    }
    // What is agreed on: the protocol rather than the token, where there is a choice.
    let upgrade = |protocols: &str| {
        let request = server.request("GET", "/ws").header("Connection", "Upgrade").header("Upgrade", "websocket");
        let request =
            request.header("Sec-WebSocket-Version", "13").header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut connection = crate::support::http::Connection::open(server.addr()).expect("a connection");
        connection.send_raw(&request.header("Sec-WebSocket-Protocol", protocols).encode()).expect("sent");
        let (status, headers) = connection.receive_head().expect("an answer");
        assert_eq!(status, 101);
        headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol")).map(|(_, v)| v)
    };
    assert_eq!(upgrade(&both).as_deref(), Some("event-handler.v1"));
    assert_eq!(upgrade(&offered).as_deref(), Some(offered.as_str()), "a browser gives up if none is agreed on");

    // A page is told why by the close code; anybody else by the status.
    let connect = |path: &str, headers: &[(&str, &str)]| Socket::connect(server.addr(), path, headers);
    let page = [("Origin", origin.as_str())];
    assert_eq!(close_code(&mut connect("/ws?access_token=eh_made-up", &page).expect("opened")), 4001);
    assert_eq!(close_code(&mut connect("/ws", &page).expect("opened")), 4001);
    let useless = format!("/ws?access_token={}", token("nothing"));
    assert_eq!(close_code(&mut connect(&useless, &page).expect("opened")), 4003);
    assert_eq!(connect("/ws?access_token=eh_made-up", &[]).err().map(|refused| refused.status), Some(401));
    // Elsewhere a parameter is no way in.
    let elsewhere = server.get(&format!("/events?access_token={}", token("all")));
    assert!(matches!(elsewhere.status, 401 | 422), "{}", elsewhere.status);
}

#[test]
fn admin_is_for_the_scope_admin_and_the_admin_token() {
    let server = server();
    assert_eq!(request(&server, "GET", "/admin/actors", "all").send().error(403)["scope"], "admin");
    let listed = request(&server, "GET", "/admin/tokens", "admin").send();
    assert!(!listed.text().contains("eh_") && !listed.text().contains("sha256"), "{}", listed.text());
    let listed = listed.data();
    assert_eq!(listed["tokens"][1]["scopes"]["publish"], json!(["order.>"]));
    assert_eq!(listed["tokens"][1]["last_used_at"], Value::Null);
    assert!(listed["tokens"][3]["last_used_at"].is_string(), "{listed}");

    let admin = Server::builder().backend(Backend::Sqlite).env("ADMIN_TOKEN", "of-the-operators");
    let admin = admin.tokens(&[("orders", ORDERS)], "").start();
    let operator =
        |method: &str, path: &str| admin.request(method, path).header("Authorization", "Bearer of-the-operators");
    operator("GET", "/admin/actors").send().data();
    operator("POST", "/publish").json(json!({"event_name": "a"})).send().data();
    request(&admin, "GET", "/admin/actors", "orders").send().error(403);

    // Where no configured token opens it, one is made that does.
    let kept = Server::builder().backend(Backend::Sqlite).tokens(&[("orders", ORDERS)], "").start();
    kept.get("/admin/actors").data();
    request(&kept, "GET", "/admin/actors", "orders").send().error(403);
    assert_eq!(server.admin_token(), None, "none is made where one is configured");
}

#[test]
fn metrics_may_be_protected() {
    let more = "[access]\nprotect_metrics = true";
    let server = Server::builder().backend(Backend::Sqlite).tokens(&[("all", ALL), ("admin", ADMIN)], more).start();
    server.get("/metrics").error(401);
    request(&server, "GET", "/metrics", "all").send().error(403);
    assert_eq!(request(&server, "GET", "/metrics", "admin").send().status, 200);
}

#[test]
fn a_revoked_token_is_refused_at_once_and_after_a_restart() {
    for_each_backend(|backend| {
        let tokens = [("all", ALL), ("orders", ORDERS), ("admin", ADMIN)];
        let mut server = Server::builder().backend(backend).tokens(&tokens, "").start();
        let mut other_node = (backend == Backend::Postgres).then(|| server.spec().start());
        let (mut held, mut spared) = (socket(&server, "orders"), socket(&server, "all"));
        let elsewhere = other_node.as_ref().map(|node| socket(node, "orders"));
        let command = |server: &Server, path: &str| request(server, "POST", path, "admin").send();
        command(&server, "/admin/tokens/nobody/revoke").error(404);
        command(&server, "/admin/tokens/orders/revoke").data();
        publish(&server, "orders", "order.a").error(401);
        assert_eq!(close_code(&mut held), 4001);
        for (node, mut elsewhere) in other_node.iter().zip(elsewhere) {
            assert_eq!(close_code(&mut elsewhere), 4001, "on the other node");
            publish(node, "orders", "order.a").error(401);
        }
        spared.barrier();
        server.restart();
        other_node.iter_mut().for_each(Server::kill9);
        publish(&server, "orders", "order.a").error(401);
        assert_eq!(request(&server, "GET", "/admin/tokens", "admin").send().data()["tokens"][1]["revoked"], true);
        command(&server, "/admin/tokens/orders/restore").data();
        assert_eq!(publish(&server, "orders", "order.a").status, 200);
    });
}

#[test]
fn a_token_ends_when_it_expires() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let end = Timestamp::default().plus(now + Duration::from_secs(4));
    let short = format!("expires_at = \"{end}\"\n{ALL}");
    let past = "expires_at = \"2020-01-01T00:00:00Z\"";
    let tokens = [("short", short.as_str()), ("past", past)];
    let server = Server::builder().backend(Backend::Sqlite).tokens(&tokens, "").start();
    publish(&server, "past", "a").error(401);
    let (mut plain, mut asking) = (socket(&server, "short"), socket(&server, "short"));
    plain.send(json!({"action": "subscribe", "event_name": "a"}));
    asking.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    let (close, frames) = plain.recv_close();
    assert_eq!(
        (u16::from(close.expect("a close frame").code), frames.len()),
        (4001, 0),
        "told nothing it did not ask for"
    );
    let (close, frames) = asking.recv_close();
    assert_eq!(u16::from(close.expect("a close frame").code), 4001);
    let notice: Value = serde_json::from_str(&frames[0]).expect("JSON");
    assert_eq!((frames.len(), &notice["type"]), (1, &json!("expiring")));
    assert!(notice["expires_in_ms"].as_u64().is_some_and(|left| left <= 4_000), "{notice}");
    publish(&server, "short", "a").error(401);
    drop((plain, asking));
    let closes = || metric(&server, "event_handler_closes_total{code=\"4001\"}");
    eventually("both are counted", || (closes() == 2.0).then_some(()));
}

#[test]
fn no_token_is_ever_logged() {
    let server =
        Server::builder().backend(Backend::Sqlite).env("RUST_LOG", "trace").env("EVENT_HANDLER__LOG__ACTIVITY", "true");
    let server =
        server.env("ADMIN_TOKEN", "eh_secret-of-operators").tokens(&[("all", ALL), ("orders", ORDERS)], "").start();
    publish(&server, "all", "a");
    publish(&server, "orders", "a").error(403);
    request(&server, "GET", "/admin/tokens", "operators").send().data();
    for made_up in ["eh_secret-of-nobody", "eh_secret-of-nobody%20x"] {
        let path = format!("/ws?access_token={made_up}");
        assert!(Socket::connect(server.addr(), &path, &[]).is_err());
        let answer = server.get(&format!("/events?access_token={made_up}"));
        assert!(!answer.text().contains("eh_secret"), "{}", answer.text());
    }
    let protocol = format!("bearer.{}", token("orders"));
    let mut socket = Socket::connect(server.addr(), "/ws", &[("Sec-WebSocket-Protocol", &protocol)]).expect("opened");
    let reply = socket.request(json!({"action": "auth", "token": "eh_secret-of-nobody", "id": 1}));
    assert!(reply["error"]["code"] == "unauthorized" && !reply.to_string().contains("eh_secret"), "{reply}");
    let reply = socket.request(json!({"action": "auth", "token": "eh_secret-of-nobody", "x": 1, "id": 2}));
    assert!(!reply.to_string().contains("eh_secret"), "{reply}");
    assert_eq!(socket.request(json!({"action": "auth", "token": token("orders"), "id": 3}))["type"], "authenticated");
    drop(socket);
    let last = "the last of all";
    server.request("GET", "/events").header("X-Request-Id", last).header("Authorization", &bearer("all")).send().data();
    server.wait_for_log(|line| line["request_id"] == last);
    let metrics = server.get("/metrics").text().to_owned();
    assert!(!server.log_text().contains("secret-of") && !metrics.contains("secret-of"), "{}", server.log_text());
}

#[test]
fn token_new_prints_what_opens_a_server() {
    let output = Server::builder().arg("token").arg("new").arg("--name").arg("billing").run();
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let token = text.lines().find(|line| line.starts_with("eh_")).expect("a token").to_owned();
    let toml = text.split_once("[[").map(|(_, rest)| format!("[[{rest}")).expect("a section");
    let server = Server::builder().backend(Backend::Sqlite).file("t.toml", &toml).env("EVENT_HANDLER_CONFIG", "t.toml");
    let checked = server.clone().arg("check-config").run();
    let checked = String::from_utf8(checked.stdout).expect("UTF-8");
    assert!(checked.contains("billing") && !checked.contains(&token), "{checked}");
    let server = server.start();
    let authorization = format!("Bearer {token}");
    server
        .request("POST", "/publish")
        .header("Authorization", &authorization)
        .json(json!({"event_name": "a"}))
        .send()
        .data();
    let again = Server::builder().arg("token").arg("new").run();
    assert!(!String::from_utf8(again.stdout).expect("UTF-8").contains(&token), "each is new");
}

#[test]
fn bad_tokens_in_the_configuration_stop_the_start() {
    let hash = |digit: char| format!("sha256:{}", digit.to_string().repeat(64));
    let entry = |name: &str, rest: &str| format!("[[access.tokens]]\nname = \"{name}\"\n{rest}\n");
    let good = |name: &str, digit| entry(name, &format!("hash = \"{}\"", hash(digit)));
    for (toml, part) in [
        (entry("a", "hash = \"eh_secret-of-a\""), "64 hexadecimal digits"),
        (good("a", '0') + &good("a", '1'), "the name of two tokens"),
        (good("a", '0') + &good("b", '0'), "have the same hash"),
        (good("A b", '0'), "must be 1 to 63"),
        (entry("a", &format!("hash = \"{}\"\nscopes = {{ publish = [\"a..b\"] }}", hash('0'))), "empty segment"),
        (entry("a", &format!("hash = \"{}\"\nscopes = {{ publsh = [\"a\"] }}", hash('0'))), "publsh"),
        (entry("a", &format!("hash = \"{}\"\nexpires_at = \"soon\"", hash('0'))), "must be an instant"),
        ("[access.jwt]\njwks_file = \"missing.json\"".to_owned(), "cannot be read"),
    ] {
        let output = Server::builder().file("t.toml", &toml).env("EVENT_HANDLER_CONFIG", "t.toml").run();
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(78), "{toml}: {said}");
        assert!(said.contains(part) && !said.contains("eh_secret"), "{toml}: {said}");
    }
}

#[test]
fn a_public_address_with_tokens_is_not_warned_of() {
    let server = Server::builder().backend(Backend::Sqlite).env("HOST", "0.0.0.0").tokens(&[("all", ALL)], "").start();
    assert!(!server.log_text().to_lowercase().contains("\"warn\""), "{}", server.log_text());
}

#[test]
fn pages_of_configured_origins_may_use_the_api() {
    let (app, other) = ("https://app.example.com", "https://evil.example");
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__CORS_ORIGINS", app).start();
    let preflight = |origin: &str, path: &str| {
        let request = server.request("OPTIONS", path).header("Origin", origin);
        request.header("Access-Control-Request-Method", "POST").send()
    };
    let allowed = preflight(app, "/publish");
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (204, Some(app)));
    for name in ["Authorization", "If-Modified-Since"] {
        assert!(allowed.header("access-control-allow-headers").is_some_and(|names| names.contains(name)), "{name}");
    }
    for refused in [preflight(other, "/publish"), preflight(app, "/admin/drain"), preflight(app, "/%61dmin/drain")] {
        assert_eq!(refused.header("access-control-allow-origin"), None);
    }
    let get = |origin: &str| server.request("GET", "/events").header("Origin", origin).send();
    assert_eq!(get(app).header("access-control-allow-origin"), Some(app));
    assert!(get(app).header("access-control-expose-headers").is_some_and(|names| names.contains("Link")));
    assert_eq!((get(other).status, get(other).header("access-control-allow-origin")), (403, None));
    assert!(get(app).headers_named("vary").any(|value| value == "Origin"));
    let failed = server.request("GET", "/events?limit=x").header("Origin", app).send();
    assert_eq!((failed.status, failed.header("access-control-allow-origin")), (422, Some(app)), "errors are shown too");
}

#[test]
fn sessions_are_counted_down_when_their_token_is_revoked() {
    let server = server();
    let _held: Vec<_> = (0..5).map(|_| socket(&server, "orders")).collect();
    eventually("five sessions", || (metric(&server, "event_handler_sessions") == 5.0).then_some(()));
    request(&server, "POST", "/admin/tokens/orders/revoke", "admin").send().data();
    eventually("no session", || (metric(&server, "event_handler_sessions") == 0.0).then_some(()));
}

#[test]
fn streams_are_for_what_was_granted() {
    let server = server();
    assert_eq!(publish(&server, "all", "user.created").status, 200);
    assert_eq!(publish(&server, "all", "order.made").status, 200);
    for path in ["/events/stream", "/events?after=0&wait=1s"] {
        assert_eq!(server.get(path).error(401)["code"], "unauthorized", "{path}");
        request(&server, "GET", path, "nothing").send().error(403);
    }
    request(&server, "GET", "/events/stream?event_name=user.created", "orders").send().error(403);
    // Without a name: what the token may have.
    let header = format!("Authorization: {}", bearer("orders"));
    let mut stream = server.stream("?after=earliest", &[&header]);
    let (id, name, _) = stream.event();
    assert_eq!((id, name.as_str()), (2, "order.made"));
    let mut by_parameter = server.stream(&format!("?after=earliest&access_token={}", token("orders")), &[]);
    assert_eq!(by_parameter.event().0, 2);
    let lines = request(&server, "GET", "/events", "orders").header("Accept", "application/x-ndjson").send();
    assert_eq!(lines.text().lines().count(), 1, "{}", lines.text());
    let poll = request(&server, "GET", "/events?after=0&wait=1s", "orders").send();
    assert_eq!(poll.data().as_array().map(Vec::len), Some(1));
    request(&server, "POST", "/admin/tokens/orders/revoke", "admin").send().data();
    assert_eq!((stream.try_event(), by_parameter.try_event()), (None, None), "ended with the token");
    assert!(!server.log_text().contains(&token("orders")));
}

#[test]
fn members_of_durable_subscriptions_may_have_their_events() {
    let server = server();
    let mut ws = socket(&server, "orders");
    let mut join =
        |pattern: &str| ws.request(json!({"action": "subscribe", "event_name": pattern, "durable": "d", "id": 1}));
    assert_eq!(join("user.*")["error"]["code"], "forbidden");
    assert_eq!(join("order.*")["type"], "subscribed");
    // What another one asks for is not for everybody to know.
    let mut everything = socket(&server, "all");
    let join = |ws: &mut Socket, pattern: &str, name: &str| {
        ws.request(json!({"action": "subscribe", "event_name": pattern, "durable": name, "id": 1}))
    };
    assert_eq!(join(&mut everything, "user.*", "users")["type"], "subscribed");
    let refused = join(&mut ws, "order.*", "users");
    assert_eq!(refused["error"]["code"], "durable_mismatch");
    assert!(!refused.to_string().contains("user.*"), "{refused}");
    assert_eq!(join(&mut socket(&server, "all"), "order.*", "users")["error"]["event_name"], "user.*");
}

#[test]
fn a_long_poll_tells_nothing_to_a_token_that_was_revoked() {
    let server = server();
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| request(&server, "GET", "/events?after=0&wait=20s", "orders").send());
        eventually("it waits", || {
            let tree = request(&server, "GET", "/admin/actors", "admin").send().data();
            let mut shards = tree["children"].as_array()?.iter();
            shards.any(|shard| shard["details"]["long_polls"] == 1).then_some(())
        });
        request(&server, "POST", "/admin/tokens/orders/revoke", "admin").send().data();
        assert_eq!(publish(&server, "all", "order.made").status, 200);
        poll.join().expect("no panic").error(401);
    });
}
