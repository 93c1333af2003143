//! Who may do what, with JWTs.

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::issuer::{SigningKey, jwks, seconds};
use crate::support::server::metric;
use crate::support::tokens::bearer;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

const ADMIN: (&str, &str) = ("admin", "scopes = { admin = true }");

/// A server that verifies by `keys`.
fn server(keys: &[&SigningKey], more: &str) -> Server {
    let more =
        format!("[access]\nexpiry_notice = \"1h\"\n[access.jwt]\njwks_file = \"jwks.json\"\nleeway = \"0s\"\n{more}");
    Server::builder().backend(Backend::Sqlite).file("jwks.json", &jwks(keys)).tokens(&[ADMIN], &more).start()
}

fn claims(sub: &str, lifetime: i64) -> Value {
    let scopes = json!({ "publish": ["order.>"], "subscribe": ["order.>"], "read": ["order.>"] });
    json!({ "sub": sub, "exp": seconds(lifetime), "scopes": scopes })
}

fn publish(server: &Server, token: &str, name: &str) -> Response {
    let request = server.request("POST", "/publish").header("Authorization", &format!("Bearer {token}"));
    request.json(json!({ "event_name": name })).send()
}

fn socket(server: &Server, token: &str) -> Socket {
    let authorization = format!("Bearer {token}");
    Socket::connect(server.addr(), "/ws", &[("Authorization", &authorization)]).expect("a good token")
}

fn operator(server: &Server, method: &str, path: &str, body: &Value) -> Response {
    server.request(method, path).header("Authorization", &bearer("admin")).json(body).send()
}

fn close_code(socket: &mut Socket) -> u16 {
    socket.recv_close().0.expect("a close frame").code.into()
}

#[test]
fn every_algorithm_opens_what_its_claims_grant() {
    let keys = ["HS256", "RS256", "ES256", "EdDSA"].map(|algorithm| SigningKey::new(algorithm, algorithm));
    let server = server(&keys.each_ref(), "issuer = \"https://issuer\"\naudience = [\"events\"]");
    for key in &keys {
        let mut claims = claims("alice", 600);
        (claims["iss"], claims["aud"]) = (json!("https://issuer"), json!("events"));
        let token = key.token(&claims);
        assert_eq!(publish(&server, &token, "order.made").status, 200, "{}", key.id);
        publish(&server, &token, "user.created").error(403);
        let mut socket = socket(&server, &token);
        assert_eq!(
            socket.request(json!({"action": "subscribe", "event_name": "order.*", "id": 1}))["type"],
            "subscribed"
        );
        let refused = socket.request(json!({"action": "subscribe", "event_name": ">", "id": 2}));
        assert_eq!(refused["error"]["code"], "forbidden");

        publish(&server, &format!("{token}x"), "order.made").error(401);
        claims["aud"] = json!("others");
        publish(&server, &key.token(&claims), "order.made").error(401);
        let mixed_up = key.public_as_secret().token_as(&json!({"alg": "HS256", "kid": key.id}), &claims);
        publish(&server, &mixed_up, "order.made").error(401);
    }
}

#[test]
fn keys_are_rotated_under_way_and_a_broken_file_changes_nothing() {
    let (old, new) = (SigningKey::new("old", "ES256"), SigningKey::new("new", "ES256"));
    let server = server(&[&old], "");
    let (by_old, by_new) = (old.token(&claims("a", 600)), new.token(&claims("a", 600)));
    publish(&server, &by_new, "order.a").error(401);
    let write = |text: &str| std::fs::write(server.dir().join("jwks.json"), text).expect("written");
    let opens = |token: &str| publish(&server, token, "order.a").status == 200;
    write(&jwks(&[&old, &new]));
    eventually("the new key is known", || opens(&by_new).then_some(()));
    assert!(opens(&by_old));
    write("not json");
    let access = || server.get("/health/ready").json()["checks"]["access"].clone();
    eventually("the broken file is seen", || (access()["status"] == "keys_outdated").then_some(()));
    assert_eq!(metric(&server, "event_handler_jwt_keys_file_usable"), 0.0);
    assert_eq!(server.get("/health/ready").status, 200);
    assert!(opens(&by_old) && opens(&by_new), "the old keys stay");
    server.wait_for_log(|line| line["msg"].as_str().is_some_and(|text| text.contains("keys of jwts unusable")));
    write(&jwks(&[&new]));
    eventually("the old key is gone", || (!opens(&by_old)).then_some(()));
    assert!(opens(&by_new));
    assert_eq!(access(), json!({ "status": "ok", "keys": 1 }));
}

#[test]
fn a_session_goes_on_with_a_new_token_or_ends() {
    let key = SigningKey::new("k", "EdDSA");
    let server = server(&[&key], "");
    let mut renewed = socket(&server, &key.token(&claims("alice", 5)));
    let mut ending = socket(&server, &key.token(&claims("alice", 5)));
    renewed.request(json!({"action": "subscribe", "event_name": "order.>", "id": 1}));
    let notice = renewed.recv_json();
    assert_eq!(notice["type"], "expiring", "{notice}");
    let mut auth = |token: String| renewed.request(json!({"action": "auth", "token": token, "id": 2}));
    assert_eq!(auth("eh_made-up".into())["error"]["code"], "unauthorized");
    assert_eq!(auth(key.token(&claims("bob", 600)))["error"]["code"], "forbidden", "somebody else");
    let mut narrow = claims("alice", 600);
    narrow["scopes"]["subscribe"] = json!(["order.made"]);
    assert_eq!(auth(key.token(&narrow))["error"]["code"], "forbidden", "less than what it has subscribed to");
    let mut wide = claims("alice", 7200);
    wide["scopes"]["publish"] = json!([">"]);
    let reply = auth(key.token(&wide));
    assert!(reply["type"] == "authenticated" && reply["expires_at"].is_string(), "{reply}");
    assert_eq!(close_code(&mut ending), 4001);
    let beyond = renewed.request(json!({"action": "publish", "event_name": "user.created", "id": 3}));
    assert_eq!(beyond["type"], "published", "what the new one grants: {beyond}");
    publish(&server, &key.token(&claims("alice", 600)), "order.made").data();
    assert_eq!(renewed.recv_json()["event_name"], "order.made", "nothing was missed");
}

#[test]
fn a_subject_or_a_single_token_is_revoked() {
    let key = SigningKey::new("k", "HS256");
    let server = server(&[&key], "");
    let with_id = |sub: &str, jti: &str| {
        let mut claims = claims(sub, 600);
        claims["jti"] = json!(jti);
        key.token(&claims)
    };
    let (one, two, other) = (with_id("alice", "1"), with_id("alice", "2"), with_id("bob/x", "3"));
    let (mut by_one, mut by_two, mut by_other) =
        (socket(&server, &one), socket(&server, &two), socket(&server, &other));
    let revoke = |kind: &str, value: &str| {
        operator(&server, "POST", "/admin/revocations", &json!({"kind": kind, "value": value}))
    };
    revoke("jti", "1").data();
    assert_eq!(close_code(&mut by_one), 4001);
    publish(&server, &one, "order.a").error(401);
    assert_eq!(publish(&server, &two, "order.a").status, 200);
    revoke("sub", "alice").data();
    assert_eq!(close_code(&mut by_two), 4001);
    revoke("sub", "bob/x").data();
    assert_eq!(close_code(&mut by_other), 4001);
    let listed = operator(&server, "GET", "/admin/tokens", &Value::Null).data();
    let revoked =
        json!([{"kind": "sub", "value": "alice"}, {"kind": "sub", "value": "bob/x"}, {"kind": "jti", "value": "1"}]);
    assert_eq!(listed["revoked"], revoked);
    operator(&server, "DELETE", "/admin/revocations/sub/bob%2Fx", &Value::Null).data();
    assert_eq!(publish(&server, &other, "order.a").status, 200);
    assert_eq!(revoke("name", "x").error(422)["field"], "kind");
    assert_eq!(revoke("sub", "").error(422)["field"], "value");
    revoke("sub", &"x".repeat(256)).error(422);
}
